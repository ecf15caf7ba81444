"""Samplers: shares, reproducibility, resuming within an epoch, and augmentation of samples that come again."""

import itertools

import numpy as np
import pytest
from fastcnn.augment import Compose, RandomCrop, RandomHorizontalFlip
from fastcnn.data import ArrayDataset, BalancedSampler, DataLoader, Subset, WeightedRandomSampler


def numbered(n=40, classes=4):
    """Few of the high classes; the label is the sample's number."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, 1), np.uint8)
    return ArrayDataset(images, np.arange(n)), np.minimum((np.arange(n) ** 2 * classes) // n**2, classes - 1)[::-1]


def drawn(loader):
    return np.concatenate([y for _, y in loader]).tolist()


@pytest.mark.smoke
def test_weights_are_shares():
    weights = np.array([0, 1, 2, 3, 0, 4.0])
    sampler = WeightedRandomSampler(weights, 100_000)
    order = sampler.order(seed=1, epoch=0)
    np.testing.assert_allclose(np.bincount(order, minlength=6) / 1e5, weights / 10, atol=0.005)
    assert (order != sampler.order(1, 1)).any() and (order != sampler.order(2, 0)).any()
    np.testing.assert_array_equal(order, sampler.order(1, 0))
    # An order must stay for ever: a checkpoint of today has to resume tomorrow.
    assert WeightedRandomSampler(weights, 8).order(0, 0).tolist() == [5, 5, 5, 3, 1, 3, 5, 5]
    assert BalancedSampler([0, 0, 0, 1], 8).order(0, 0).tolist() == [1, 0, 2, 3, 1, 3, 3, 3]


def test_weights_without_replacement():
    weights = np.array([0, 1, 2, 3, 0, 4.0])
    first = np.zeros(6)
    for epoch in range(2000):
        order = WeightedRandomSampler(weights, 4, replacement=False).order(0, epoch)
        assert sorted(order) == [1, 2, 3, 5]
        first[order[0]] += 1
    np.testing.assert_allclose(first / 2000, weights / 10, atol=0.04)


def test_extreme_weights_are_refused_or_kept_apart_from_none():
    with pytest.raises(ValueError, match="a finite sum, got a sum of inf"):
        WeightedRandomSampler([1e308, 1e308, 1e308])
    tiny = WeightedRandomSampler([0.0, 5e-324, 1.0, 0.0], 2, replacement=False)
    assert all(sorted(tiny.order(0, epoch)) == [1, 2] for epoch in range(20))


def test_balanced_epochs_show_each_class_alike_and_each_sample_evenly():
    ds, labels = numbered()
    counts = np.bincount(labels)
    assert counts.min() < 6 < 14 < counts.max()
    sampler = BalancedSampler(labels)
    seen = np.zeros(40, int)
    for epoch in range(30):
        order = sampler.order(3, epoch)
        assert np.bincount(labels[order]).tolist() == [10] * 4
        per_sample = np.bincount(order, minlength=40)
        for c in range(4):
            assert np.ptp(per_sample[labels == c]) <= 1
        seen += per_sample
    assert seen.min() > 0 and (labels[order][:-1] != labels[order][1:]).sum() > 15
    odd = BalancedSampler(labels, 42)
    extra = sum(np.bincount(labels[odd.order(0, e)]) - 10 for e in range(200))
    assert len(odd) == 42 and extra.sum() == 400 and extra.min() > 60
    assert np.bincount(BalancedSampler([7, 7, 7, 2], 10).order(0, 0)).tolist()[3] == 5
    held = ArrayDataset(ds.images, labels)
    part, whole = BalancedSampler(Subset(held, range(40))), BalancedSampler(held)
    np.testing.assert_array_equal(part.order(0, 1), whole.order(0, 1))


SAMPLERS = {
    "weighted": lambda n: WeightedRandomSampler(np.arange(n) + 1.0, 50),
    "distinct": lambda n: WeightedRandomSampler(np.arange(n) + 1.0, 30, replacement=False),
    "balanced": lambda n: BalancedSampler(np.arange(n) % 3 == 0, 45),
    "list": lambda n: [5, 3, 3, 0, *range(20, n)],
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_epochs_are_equal_for_any_number_of_workers_and_resume_within(name):
    ds, _ = numbered()
    steps = Compose([RandomCrop(padding=2), RandomHorizontalFlip()])

    def loader(workers=0, batch_size=7, **options):
        return DataLoader(
            ds, batch_size, sampler=SAMPLERS[name](40), seed=4, num_workers=workers, transform=steps, **options
        )

    alone = loader()
    expected = [list(alone), list(alone)]
    assert len(loader()) == len(expected[0])
    for workers in (1, 2, 4):
        other = loader(workers)
        for epoch in range(2):
            for (x, y), (p, q) in zip(expected[epoch], other, strict=True):
                np.testing.assert_array_equal(x, p)
                np.testing.assert_array_equal(y, q)
    flat = np.concatenate([x for x, _ in expected[0]])
    first = loader(2)
    running = iter(first)
    assert len(list(itertools.islice(running, 3))) == 3
    state = first.state_dict()
    assert state["position"] == 21
    again = loader(1, batch_size=5)
    again.load_state_dict(state)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in again]), flat[21:])
    for wrong in (DataLoader(ds, 7), DataLoader(ds, 7, sampler=[1, 2]), DataLoader(ds, 7, shuffle=True)):
        with pytest.raises(ValueError, match="the state (has|is)"):
            wrong.load_state_dict(state)


def test_a_sample_that_comes_again_is_augmented_anew_but_reproducibly():
    ds, _ = numbered()
    loader = DataLoader(ds, 4, sampler=[3, 5, 3, 3], transform=RandomCrop(padding=4), seed=1)
    (a, _), (b, _) = next(iter(loader)), next(iter(DataLoader(ds, 1, transform=RandomCrop(padding=4), seed=1)))
    assert (a[0] != a[2]).any() and (a[2] != a[3]).any()
    # The first time it gets the numbers that it has without a sampler.
    plain = np.concatenate([x for x, _ in DataLoader(ds, 9, transform=RandomCrop(padding=4), seed=1)])
    np.testing.assert_array_equal(a[0], plain[3])
    np.testing.assert_array_equal(b[0], plain[0])


def test_drop_last_and_state_at_the_end_of_an_epoch():
    ds, _ = numbered()
    loader = DataLoader(ds, 8, sampler=WeightedRandomSampler(np.ones(40), 20), drop_last=True)
    assert len(loader) == 2 and len(drawn(loader)) == 16
    assert loader.state_dict()["epoch"] == 1 and loader.state_dict()["position"] == 0
    old = {k: v for k, v in DataLoader(ds, 8).state_dict().items() if k != "sampler"}
    DataLoader(ds, 8).load_state_dict(old)  # states of before there were samplers


def test_bad_input():
    ds, _ = numbered()
    for weights, options in (
        ([[1.0]], {}), ([-1, 2], {}), ([np.nan, 1], {}), ([0, 0], {}), ([], {}), ([1, 1], {"num_samples": 0}),
        ([1, 0, 1], {"num_samples": 3, "replacement": False}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="WeightedRandomSampler: expected"):
            WeightedRandomSampler(weights, **options)
    for labels in ([], [0.5], [[1]], ArrayDataset(np.zeros((2, 8, 8), np.uint8), [0.5, 1])):
        with pytest.raises(ValueError, match="BalancedSampler: expected"):
            BalancedSampler(labels)
    with pytest.raises(ValueError, match="shuffle or a sampler"):
        DataLoader(ds, shuffle=True, sampler=[1])
    with pytest.raises(TypeError, match="sampler with len"):
        DataLoader(ds, sampler=iter([1]))
    with pytest.raises(ValueError, match="list of ints"):
        DataLoader(ds, sampler=[0.5])
    with pytest.raises(IndexError, match=r"\[0, 40\), got 0 to 40"):
        drawn(DataLoader(ds, sampler=[0, 40]))
    broken = WeightedRandomSampler(np.ones(40), 5)
    broken.order = lambda seed, epoch: np.zeros(4)
    with pytest.raises(ValueError, match="5 ints, got shape"):
        drawn(DataLoader(ds, sampler=broken))
    with pytest.raises(TypeError, match="collate_fn"):
        DataLoader([1, 2], collate_fn=list, transform=lambda x, rng: x)
