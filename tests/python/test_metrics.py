"""Metrics against loops written out here, and against scikit-learn where that is installed."""

import math

import numpy as np
import pytest
from fastcnn.metrics import (
    F1,
    Accuracy,
    ConfusionMatrix,
    MeanIoU,
    Precision,
    Recall,
    TopK,
    get_metric,
    list_metrics,
)

ALL = ["accuracy", "topk", "confusion_matrix", "precision", "recall", "f1", "dice", "mean_iou"]


def scores(n=200, c=7, seed=0, shape=()):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, c, *shape)).astype(np.float32), rng.integers(0, c, (n, *shape))


@pytest.mark.smoke
def test_accuracy_and_topk_by_loop():
    pred, target = scores()
    order = np.argsort(-pred, axis=1, kind="stable")
    for metric, k in ((Accuracy(), 1), (TopK(1), 1), (TopK(3), 3), (TopK(7), 7)):
        for a in range(0, 200, 33):
            metric.update(pred[a : a + 33], target[a : a + 33])
        expected = np.mean([target[i] in order[i, :k] for i in range(200)])
        assert metric.compute() == pytest.approx(expected) and isinstance(metric.compute(), float)


def test_topk_ties_go_to_the_lower_class():
    pred = np.zeros((4, 4))
    metric = TopK(2)
    metric.update(pred, [0, 1, 2, 3])
    assert metric.compute() == 0.5
    accuracy = Accuracy()
    accuracy.update(pred, [0, 1, 2, 3])
    assert accuracy.compute() == 0.25


@pytest.mark.smoke
def test_confusion_matrix():
    pred, target = scores()
    metric = ConfusionMatrix()
    metric.update(pred[:50], target[:50])
    metric.update(pred[50:], target[50:])
    expected = np.zeros((7, 7), np.int64)
    for p, t in zip(pred.argmax(1), target, strict=True):
        expected[t, p] += 1
    np.testing.assert_array_equal(metric.compute(), expected)
    shares = ConfusionMatrix(normalize="true", num_classes=8)
    shares.update(pred.argmax(1), target)
    np.testing.assert_allclose(shares.compute()[:7, :7], expected / expected.sum(1, keepdims=True))
    assert np.isnan(shares.compute()[7]).all()


@pytest.mark.parametrize("stray", [10**7, 10**12])
def test_a_stray_id_does_not_ask_for_all_memory(stray):
    metric = ConfusionMatrix()
    metric.update(np.array([0, 1]), np.array([1, 1]))
    with pytest.raises(ValueError, match=f"num_classes is not given, got {stray}; ignore_index"):
        metric.update(np.array([0, 1]), np.array([1, stray]))
    assert metric.compute().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@pytest.mark.parametrize("missing", [False, True])
def test_against_scikit_learn(average, missing):
    sk = pytest.importorskip("sklearn.metrics")
    pred, target = scores(c=5)
    ids = pred.argmax(1)
    if missing:  # class 1 only predicted, class 2 only in target, class 3 nowhere
        target = np.where((target == 1) | (target == 3), 0, target)
        ids = np.where((ids == 2) | (ids == 3), 4, ids)
    for name in ("precision", "recall", "f1", "jaccard"):
        metric = get_metric("mean_iou" if name == "jaccard" else name, average=average, num_classes=5)
        metric.update(ids[:60], target[:60])
        metric.update(ids[60:], target[60:])
        labels = range(5) if average is None else None
        expected = getattr(sk, f"{name}_score")(target, ids, labels=labels, average=average, zero_division=0)
        got = metric.compute()
        assert metric.is_scalar == (average is not None)
        if average is None and missing:
            assert np.isnan(got[3])
            got = np.nan_to_num(got)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_segmentation_and_ignore_index():
    pred, target = scores(4, 3, shape=(5, 6))
    target[0, :2] = 255
    keep = target != 255
    ids = pred.argmax(1)
    iou = MeanIoU(ignore_index=255)
    iou.update(np.ascontiguousarray(pred.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), target)
    expected = [
        ((ids == c) & (target == c)).sum() / (((ids == c) | (target == c)) & keep).sum() for c in range(3)
    ]
    assert iou.compute() == pytest.approx(np.mean(expected))
    accuracy = Accuracy(ignore_index=255)
    accuracy.update(pred, target)
    assert accuracy.compute() == pytest.approx((ids == target)[keep].mean())
    top = TopK(3, ignore_index=255)
    top.update(pred, target)
    assert top.compute() == 1.0 and top.total == keep.sum()
    with pytest.raises(ValueError, match="class ids 0 to 2, got 0 to 255"):
        Accuracy().update(pred, target)


def test_mixed_labels_count_by_the_largest():
    pred, target = scores(50, 4)
    soft = 0.3 * np.eye(4)[(target + 1) % 4] + 0.7 * np.eye(4)[target]
    hard, mixed = Accuracy(), Accuracy()
    hard.update(pred, target)
    mixed.update(pred, soft)
    assert hard.compute() == mixed.compute()


@pytest.mark.parametrize("name", ALL)
def test_merge_reset_and_empty(name):
    pred, target = scores()
    whole, a, b = get_metric(name), get_metric(name), get_metric(name)
    empty = whole.compute()
    assert np.size(empty) == 0 or math.isnan(empty)
    whole.update(pred[:0], target[:0])
    whole.update(pred, target)
    a.update(pred[:80], target[:80])
    b.update(pred[80:], target[80:])
    a.merge(b)
    np.testing.assert_array_equal(a.compute(), whole.compute())
    whole.reset()
    b.reset()
    b.update(pred, target)
    np.testing.assert_array_equal(a.compute(), b.compute())
    whole.update(pred[:0], target[:0])
    assert np.sum(np.nan_to_num(whole.compute())) == 0
    with pytest.raises(ValueError, match="cannot merge"):
        a.merge(Recall(num_classes=3) if name != "recall" else F1())


@pytest.mark.parametrize("name", ALL)
def test_bad_input(name):
    pred, target = scores(6, 5)
    nan = pred.copy()
    nan[2, 1] = np.nan
    label_nan = target.astype(float)
    label_nan[0] = np.nan
    metric = get_metric(name)
    for p, t, message in (
        (nan, target, r"1 NaN among 30 scores"),
        (pred, target[:5], r"target \(6,\) for scores \(6, 5\), got \(5,\)"),
        (pred, np.where(target == target[0], 5, target), "class ids 0 to 4"),
        (pred, np.where(target == target[0], -1, target), "got -1"),
        (pred, label_nan, "target has NaN"),
        (pred, target + 0.0, "integer class ids, got float64"),
        (pred, target.astype(str), "integer class ids"),
        (pred.astype(str), target, "numbers"),
        (pred[0, 0], 0, r"pred of shape \(\)|pred \(\)|integer"),
    ):
        with pytest.raises(ValueError, match=message) as info:
            metric.update(p, t)
        assert str(info.value).startswith(metric.name)
    assert np.size(metric.compute()) == 0 or math.isnan(metric.compute())  # nothing counted by failed updates


def test_ids_need_the_same_shape():
    with pytest.raises(ValueError, match=r"shaped like target \(3,\), got pred \(4,\)"):
        Accuracy().update(np.zeros(4, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="expected scores"):
        TopK(2).update(np.zeros(3, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="at least 5 classes"):
        TopK(5).update(np.zeros((3, 4)), np.zeros(3, int))
    with pytest.raises(ValueError, match="pred class ids 0 to 1, got 0 to 2"):
        Precision(num_classes=2).update([0, 2], [0, 1])
    with pytest.raises(ValueError, match=r"scores of 3 classes"):
        Precision(num_classes=3).update(np.zeros((2, 4)), [0, 1])


def test_bfloat16_scores():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pred, target = scores()
    low = pred.astype(ml_dtypes.bfloat16)
    a, b = Accuracy(), Accuracy()
    a.update(low, target)
    b.update(low.astype(np.float32), target)
    assert a.compute() == b.compute()


def test_registry():
    assert list_metrics() == sorted([*ALL, "roc_auc", "mean_average_precision", "fid"])
    for spelling in ("top5", "topk(5)", "topk", "top_5"):
        assert get_metric(spelling).k == 5 and get_metric(spelling).name == "top5"
    assert get_metric("topk", k=3).name == "top3"
    metric = Accuracy()
    assert get_metric(metric) is metric and isinstance(get_metric(F1, average="micro"), F1)
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        get_metric("acuracy")
    with pytest.raises(ValueError, match="known: accuracy"):
        get_metric("zzzzz")
    with pytest.raises(TypeError, match="name or a Metric"):
        get_metric(5)
    for bad in (lambda: TopK(0), lambda: F1(average="mean"), lambda: ConfusionMatrix(0)):
        with pytest.raises(ValueError, match="expected"):
            bad()


def test_binary_average_is_class_one_of_two():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, 2, (2, 200))
    for name in ("precision", "recall", "f1"):
        metric = get_metric(name, average="binary")
        metric.update(pred[:90], target[:90])
        metric.update(pred[90:], target[90:])
        assert metric.compute() == pytest.approx(getattr(sk, f"{name}_score")(target, pred)) and metric.is_scalar
    metric.update([2], [0])
    with pytest.raises(ValueError, match="f1: expected 2 classes for average='binary', got 3"):
        metric.compute()
    assert math.isnan(F1(average="binary").compute())


def test_confusion_matrix_as_shares_of_columns_or_the_whole():
    sk = pytest.importorskip("sklearn.metrics")
    pred, target = scores()
    for normalize in ("true", "pred", "all"):
        metric = ConfusionMatrix(normalize=normalize)
        metric.update(pred, target)
        expected = sk.confusion_matrix(target, pred.argmax(1), normalize=normalize)
        np.testing.assert_allclose(metric.compute(), expected)
