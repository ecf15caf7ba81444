"""fid against the published formula, roc_auc against loops and scikit-learn."""

import math

import numpy as np
import pytest
from fastcnn import nn, tensor
from fastcnn.metrics import FID, RocAuc, frechet_distance, get_metric


def features(seed, n=300, d=16):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def reference(a, b):
    """As published (Heusel et al. 2017), by the matrix root of scipy."""
    linalg = pytest.importorskip("scipy.linalg")
    mean_a, mean_b, cov_a, cov_b = a.mean(0), b.mean(0), np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.asarray(linalg.sqrtm(cov_a @ cov_b)).real
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)


def flat(images):
    return np.asarray(images).reshape(len(images), -1)


def fid_of(a, b, batch=64):
    metric = FID(flat)
    for real, rows in ((True, a), (False, b)):
        for k in range(0, len(rows), batch):
            metric.update(rows[k : k + batch], real=real)
    return metric.compute()


@pytest.mark.smoke
def test_fid_of_gaussians_with_known_distance():
    # Diagonal covariances: the distance is sum (mu - nu)^2 + (sigma - tau)^2.
    mu, nu, sigma, tau = np.array([1.0, 2, 3]), np.array([0.0, 2, 5]), np.array([1.0, 2, 0]), np.array([2.0, 1, 0.5])
    got = frechet_distance(mu, np.diag(sigma**2), nu, np.diag(tau**2))
    assert got == pytest.approx(((mu - nu) ** 2 + (sigma - tau) ** 2).sum(), abs=1e-12)


def test_fid_equals_the_published_formula():
    a, b = features(0), features(1)
    expected = reference(a, b)
    assert fid_of(a, b) == pytest.approx(expected, rel=1e-9)
    assert fid_of(a, b, batch=7) == pytest.approx(expected, rel=1e-9)
    assert fid_of(b, a) == pytest.approx(expected, rel=1e-9)


def test_fid_of_equal_sets_is_zero_also_without_full_rank():
    a = features(0, n=10, d=40)
    assert abs(fid_of(a, a[::-1])) < 1e-9 * np.trace(np.cov(a, rowvar=False))
    assert fid_of(a, a + 2.0) == pytest.approx(40 * 4.0, rel=1e-9)


def test_fid_far_from_zero_keeps_its_digits():
    """Sums of squares would lose all of the covariance here."""
    a, b = features(0), features(1)
    assert fid_of(a + 1e7, b + 1e7) == pytest.approx(fid_of(a, b), rel=1e-6)


def test_fid_with_a_network_merging_and_resetting():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    net[1].eval()
    images = np.random.default_rng(0).random((24, 3, 8, 8), np.float32)
    a, b = FID(net, reset_real_features=False), FID(net, reset_real_features=False)
    a.update(images[:12])
    a.update(tensor(images[12:18]), real=False)
    b.update(images[18:], real=False)
    assert math.isnan(b.compute()) and net.training and not net[1].training
    a.merge(b)
    rows = net.eval()(tensor(images)).numpy().mean((2, 3), dtype=np.float64)
    assert a.compute() == pytest.approx(reference(rows[:12], rows[12:]), rel=1e-6)
    a.reset()
    assert a.real.count == 12 and a.generated.count == 0 and math.isnan(a.compute())


def test_fid_bad_input():
    with pytest.raises(TypeError, match="feature_net"):
        get_metric("fid")
    with pytest.raises(ValueError, match=r"\(4, D\).*got \(3, 5\)"):
        FID(lambda x: np.zeros((3, 5))).update(np.zeros((4, 1)))
    metric = FID(flat)
    metric.update(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="expected 3 features as before"):
        metric.update(np.zeros((2, 4)), real=False)
    with pytest.raises(ValueError, match="1 among 2 images are not finite"):
        metric.update(np.array([[0.0, 1, 2], [np.nan, 1, 2]]))
    with pytest.raises(TypeError, match="True or False"):
        metric.update(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="means"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(2), np.eye(2))
    assert metric.real.count == 2 and metric.generated.count == 0


# ---------------------------------------------------------------- roc_auc


def by_pairs(scores, right):
    a, b = scores[right][:, None], scores[~right][None]
    return float(((a > b) + 0.5 * (a == b)).mean())


@pytest.mark.smoke
def test_binary_auc_counts_pairs_and_ties_as_half():
    rng = np.random.default_rng(0)
    scores, target = rng.integers(0, 8, 200) / 8, rng.integers(0, 2, 200)
    expected = by_pairs(scores, target == 1)
    for pred in (scores, np.stack([1 - scores, scores], 1)):
        metric = RocAuc()
        for k in range(0, 200, 37):
            metric.update(pred[k : k + 37], target[k : k + 37])
        assert metric.compute() == pytest.approx(expected, abs=1e-12)
    binned = RocAuc(bins=8)
    binned.update(scores, target)
    assert binned.compute() == pytest.approx(expected, abs=1e-12)
    coarse, fine = RocAuc(bins=2), RocAuc(bins=4096)
    smooth = np.clip(scores + rng.random(200) / 8, 0, 1)
    for metric in (coarse, fine):
        metric.update(smooth, target)
    assert fine.compute() == pytest.approx(by_pairs(smooth, target == 1), abs=2e-3)
    assert by_pairs(np.array([0.1, 0.9]), np.array([False, True])) == 1


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_one_against_rest_equals_scikit_learn(average):
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    logits, target = rng.normal(size=(300, 4)), rng.integers(0, 4, 300) % 3 + (rng.random(300) < 0.1)
    logits[np.arange(300), target] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = sk.roc_auc_score(target, probabilities, multi_class="ovr", average=average)
    for pred in (logits, probabilities):
        metric = get_metric("roc_auc", average=average)
        metric.update(pred[:100], target[:100])
        metric.update(pred[100:], target[100:])
        assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_auc_of_masks_missing_classes_merge_and_reset():
    rng = np.random.default_rng(2)
    pred, target = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 2, (2, 4, 5))
    target[0, 0] = 255
    metric = RocAuc(average=None, ignore_index=255)
    metric.update(pred, target)
    per_class = metric.compute()
    assert per_class.shape == (3,) and np.isnan(per_class[2]) and not np.isnan(per_class[:2]).any()
    a, b, whole = (RocAuc(bins=16) for _ in range(3))
    scores, ids = rng.random(50), rng.integers(0, 2, 50)
    a.update(scores[:20], ids[:20])
    b.update(scores[20:], ids[20:])
    whole.update(scores, ids)
    a.merge(b)
    assert a.compute() == whole.compute() and a.scalars() == {"roc_auc": a.compute()}
    a.reset()
    assert math.isnan(a.compute())
    a.update([0.5, 0.6], [1, 1])
    assert math.isnan(a.compute())


def test_auc_bad_input():
    metric = RocAuc()
    for pred, target, message in (
        ([0.1, np.nan], [0, 1], "1 NaN"),
        ([0.1, 0.2], [0, 2], "class ids 0 to 1, got 0 to 2"),
        (np.zeros((2, 1)), [0, 0], "two classes or more"),
        (np.zeros((2, 3)), [0, 1, 2], r"target \(2,\)"),
        (np.array([[np.inf, 0.0], [0, 1]]), [0, 1], "finite scores"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(pred, target)
    metric.update(np.zeros((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="3 scores per sample as before"):
        metric.update([0.5], [1])
    with pytest.raises(ValueError, match="probabilities in"):
        RocAuc(bins=4).update([1.5], [1])
    for options in ({"average": "micro"}, {"bins": 1}):
        with pytest.raises(ValueError, match="expected"):
            RocAuc(**options)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_auc_of_one_score_takes_what_binary_losses_take(dtype):
    rng = np.random.default_rng(0)
    scores, ids = np.round(rng.normal(size=50), 1), rng.integers(0, 2, 50)
    want = RocAuc()
    want.update(scores, ids)
    for pred, target in ((scores[:, None], ids[:, None]), (scores, ids)):
        metric = RocAuc()
        metric.update(pred, target.astype(dtype))
        assert metric.compute() == want.compute()
    with pytest.raises(ValueError, match="expected"):
        RocAuc().update(scores[:, None], rng.random((50, 1)))
