"""DataLoader: order, determinism, resume, threads, errors; and the augmentation it drives."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
from fastcnn._philox import SampleRng, permutation, philox4x32
from fastcnn.augment import (
    Compose,
    Normalize,
    RandomApply,
    RandomCrop,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    augment_batch,
)
from fastcnn.data import ArrayDataset, DataLoader, ImageDataset, SampleError


def numbered(n=50, h=6, w=6, c=1):
    rng = np.random.default_rng(0)
    return ArrayDataset(
        rng.integers(0, 256, (n, h, w, c), np.uint8), np.arange(n), layout="NHWC", mean=0.3, std=0.2
    )


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fastcnn-data")]


def wait_for_no_threads():
    deadline = time.monotonic() + 5
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not loader_threads()


# ---------------------------------------------------------------- random numbers


@pytest.mark.smoke
def test_philox_known_answers():
    """Test vectors published with Random123 (Salmon et al. 2011)."""
    for counter, key, expected in (
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ):
        assert " ".join(f"{int(w):08x}" for w in philox4x32(counter, key)) == expected


def test_sample_rng_depends_on_the_sample_only():
    whole, part = SampleRng(7, 3, np.arange(100)), SampleRng(7, 3, [42, 5])
    for draw in ("uniform", "normal", "bits"):
        a, b = getattr(whole, draw)(), getattr(part, draw)()
        np.testing.assert_array_equal(np.asarray(a)[..., [42, 5]], b)
    assert (SampleRng(7, 4, [1]).uniform() != SampleRng(7, 3, [1]).uniform()).all()
    assert (SampleRng(8, 3, [1]).uniform() != SampleRng(7, 3, [1]).uniform()).all()
    assert SampleRng(-1, 0, [0]).uniform().shape == (1,)


def test_sample_rng_distributions():
    rng = SampleRng(0, 0, np.arange(200_000))
    u, z, k = rng.uniform(2, 4), rng.normal(), rng.integers(5)
    assert u.min() >= 2 and u.max() < 4 and abs(u.mean() - 3) < 0.01
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    np.testing.assert_allclose(np.bincount(k) / len(k), 0.2, atol=0.005)


def test_permutation():
    p = permutation(1000, seed=3)
    assert sorted(p) == list(range(1000)) and (p != np.arange(1000)).sum() > 900
    assert permutation(6, 0).tolist() == permutation(6, 0).tolist()
    # Fixed for ever: a checkpoint of today has to resume tomorrow.
    assert permutation(8, seed=0, epoch=0).tolist() == [6, 1, 2, 4, 5, 0, 3, 7]
    with pytest.raises(TypeError, match="int as seed"):
        permutation(5, 0.5)


# ---------------------------------------------------------------- batches


@pytest.mark.smoke
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_equal_single_samples(workers):
    ds = numbered(c=3)
    loader = DataLoader(ds, 8, shuffle=True, seed=5, num_workers=workers)
    assert len(loader) == 7
    seen = []
    for images, labels in loader:
        assert images.dtype == np.float32 and labels.dtype == np.int64
        assert images.shape[1:] == (3, 6, 6) and images.transpose(0, 2, 3, 1).flags.c_contiguous
        assert images.ctypes.data % 64 == 0
        for k, i in enumerate(labels):
            np.testing.assert_array_equal(images[k], ds[int(i)][0])
        seen += labels.tolist()
    assert sorted(seen) == list(range(50)) and seen == loader.order(0).tolist()
    wait_for_no_threads()


def test_order_depends_on_seed_and_epoch_only():
    ds = numbered()

    def epoch(loader):
        return np.concatenate([y for _, y in loader]).tolist()

    a = DataLoader(ds, 8, shuffle=True, seed=1)
    b = DataLoader(ds, 7, shuffle=True, seed=1, num_workers=3, prefetch=5)
    first, second = epoch(a), epoch(a)
    assert [epoch(b), epoch(b)] == [first, second] and first != second
    a.set_epoch(0)
    assert epoch(a) == first
    assert epoch(DataLoader(ds, 8, shuffle=True, seed=2)) != first
    assert epoch(DataLoader(ds, 8)) == list(range(50))


@pytest.mark.parametrize("workers", [0, 2])
def test_drop_last_and_empty(workers):
    ds = numbered()
    loader = DataLoader(ds, 8, drop_last=True, num_workers=workers)
    assert len(loader) == 6 and [len(y) for _, y in loader] == [8] * 6
    assert list(DataLoader(numbered(3), 8, drop_last=True, num_workers=workers)) == []
    assert list(DataLoader(numbered(0), 8, num_workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resume_mid_epoch_is_exact(workers, drop_last):
    ds = numbered()

    def make():
        return DataLoader(
            ds,
            8,
            shuffle=True,
            seed=4,
            num_workers=workers,
            drop_last=drop_last,
            transform=Compose([RandomCrop(padding=2)]),
        )

    whole = make()
    stream = [b for _ in range(3) for b in whole]
    for stop in (0, 1, 6, 7, 9, 14):
        loader = make()
        it = itertools.chain.from_iterable(loader for _ in range(3))
        for _ in range(stop):
            next(it)
        state = loader.state_dict()
        it = None
        other = make()
        other.seed = 99  # the state knows better
        other.load_state_dict(state)
        assert other.state_dict() == state
        rest = []
        while len(rest) < len(stream) - stop:
            rest += list(other)
        for (x, y), (p, q) in zip(stream[stop:], rest, strict=True):
            np.testing.assert_array_equal(x, p)
            np.testing.assert_array_equal(y, q)


def test_resume_with_another_batch_size():
    ds = numbered()
    loader = DataLoader(ds, 8, shuffle=True, seed=1)
    it = iter(loader)
    head = [next(it)[1] for _ in range(2)]
    other = DataLoader(ds, 5, shuffle=True, num_workers=1)
    other.load_state_dict(loader.state_dict())
    assert np.concatenate(head + [y for _, y in other]).tolist() == loader.order(0).tolist()


def test_state_errors():
    state = DataLoader(numbered(), 8).state_dict()
    with pytest.raises(ValueError, match="50 samples, the dataset has 49"):
        DataLoader(numbered(49), 8).load_state_dict(state)
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(numbered(), 8, shuffle=True).load_state_dict(state)
    with pytest.raises(ValueError, match="expected seed in the state"):
        DataLoader(numbered(), 8).load_state_dict({k: v for k, v in state.items() if k != "seed"})
    with pytest.raises(ValueError, match="position up to 50, got 51"):
        DataLoader(numbered(), 8).load_state_dict({**state, "position": 51})


def test_an_old_iterator_does_not_move_the_state():
    loader = DataLoader(numbered(), 8)
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(old)
    next(old)
    next(new)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 8)


@pytest.mark.parametrize(
    "kwargs, error",
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 2.5}, TypeError),
        ({"num_workers": -1}, ValueError),
        ({"prefetch": 0}, ValueError),
        ({"seed": "x"}, TypeError),
        ({"transform": 3}, TypeError),
    ],
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error, match="DataLoader"):
        DataLoader(numbered(), **{"batch_size": 4, **kwargs})
    with pytest.raises(TypeError, match="generator"):
        DataLoader(x for x in range(3))


# ---------------------------------------------------------------- plain datasets


class Plain:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def test_plain_dataset():
    items = [(np.full((3, 2, 4), i, np.float64), i, np.float64(i) / 2) for i in range(5)]
    images, ids, values = next(iter(DataLoader(Plain(items), 5)))
    assert images.shape == (5, 3, 2, 4) and images.dtype == np.float32
    assert images.transpose(0, 2, 3, 1).flags.c_contiguous
    assert ids.dtype == np.int64 and values.dtype == np.float32 and ids.tolist() == list(range(5))
    only = next(iter(DataLoader(Plain([np.zeros((1, 2, 2), np.float32)] * 4), 4)))
    assert only.shape == (4, 1, 2, 2)
    assert next(iter(DataLoader(Plain(["a", "b"]), 2, collate_fn=tuple))) == ("a", "b")


def test_named_tuples_stay_named():
    sample = namedtuple("Sample", "image label")
    items = [sample(np.full((1, 2, 2), i, np.float32), i) for i in range(4)]
    for transform in (None, lambda x, rng: x + 1):
        batch = next(iter(DataLoader(Plain(items), 4, transform=transform)))
        assert type(batch) is sample and batch.label.tolist() == [0, 1, 2, 3]
        assert batch.image[:, 0, 0, 0].tolist() == [i + (transform is not None) for i in range(4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_dataset_errors(workers):
    good = (np.zeros((1, 2, 2), np.float32), 0)
    for bad, message in (
        (
            (np.zeros((1, 2, 3), np.float32), 0),
            r"sample 6 failed: .*\(1, 2, 2\) as in sample 4, got \(1, 2, 3\)",
        ),
        ((good[0],), "sample 6 failed: .*2 fields"),
        ((good[0], None), "sample 6 failed: .*field 1: expected numbers, got NoneType"),
        (("x", 0), "sample 6 failed: .*field 0: expected numbers, got str"),
    ):
        with pytest.raises(SampleError, match=message):
            list(DataLoader(Plain([good] * 6 + [bad] + [good]), 4, num_workers=workers))
    with pytest.raises(SampleError, match="sample 0 failed: .*numbers, got str"):
        list(DataLoader(Plain(["x"]), 1, num_workers=workers))


# ---------------------------------------------------------------- threads


class Slow(Plain):
    def __init__(self, n=64, fail_at=None, pause=0.001):
        super().__init__([(np.zeros((1, 2, 2), np.float32), i) for i in range(n)])
        self.fail_at, self.pause, self.made = fail_at, pause, 0

    def __getitem__(self, i):
        time.sleep(self.pause)
        self.made += 1
        if i == self.fail_at:
            raise KeyError("lost")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_error_comes_in_order_with_the_index(workers):
    loader = DataLoader(Slow(fail_at=17), 4, num_workers=workers)
    it, got = iter(loader), []
    with pytest.raises(SampleError, match="sample 17 failed: KeyError") as info:
        for _, y in it:
            got += y.tolist()
    assert got == list(range(16)) and isinstance(info.value.__cause__, KeyError)
    assert list(it) == []
    assert loader.state_dict()["position"] == 16
    wait_for_no_threads()


def test_threads_work_ahead_but_not_too_far():
    ds = Slow(400, pause=0)
    it = iter(DataLoader(ds, 1, num_workers=2, prefetch=3))
    next(it)
    limit, deadline = 1 + 2 - 1 + 3, time.monotonic() + 5
    while ds.made < limit and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert ds.made == limit
    it.close()
    assert list(it) == [] and not loader_threads()


def test_threads_overlap():
    """Four threads that sleep take about a quarter of the time."""
    times = []
    for workers in (0, 4):
        start = time.perf_counter()
        list(DataLoader(Slow(24, pause=0.004), 2, num_workers=workers))
        times.append(time.perf_counter() - start)
    assert times[1] < 0.6 * times[0]


@pytest.mark.parametrize("how", ["break", "drop", "cycle"])
def test_leaving_early_stops_the_threads(how):
    loader = DataLoader(Slow(1000), 2, num_workers=3)
    if how == "break":
        for _ in loader:
            break
    else:
        it = iter(loader)
        next(it)
        if how == "cycle":
            ring = [it]
            ring.append(ring)
            del ring
        del it
        gc.collect()
    wait_for_no_threads()


def test_ctrl_c_stops_the_loop_and_the_process():
    code = """
import os, signal, sys, threading, time
import numpy as np
from fastcnn.data import DataLoader
class Stuck:
    def __len__(self): return 100
    def __getitem__(self, i):
        if i == 3:
            print("waiting", flush=True)
            time.sleep(1.0)
        return np.zeros((1, 2, 2), np.float32)
try:
    for _ in DataLoader(Stuck(), 1, num_workers=2): pass
except KeyboardInterrupt:
    left = [t for t in threading.enumerate() if t.name.startswith("fastcnn")]
    print("interrupted", len(left), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "waiting\n"
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=20)
    assert out == "interrupted 0\n" and child.returncode == 0


def test_ctrl_c_leaves_a_thread_behind_that_is_stuck_in_a_read():
    code = """
import signal, threading, time
import numpy as np
from fastcnn.data import DataLoader
class Stuck:
    def __len__(self): return 100
    def __getitem__(self, i):
        if i == 3:
            print("waiting", flush=True)
            time.sleep(60)
        return np.zeros((1, 2, 2), np.float32)
for _ in DataLoader(Stuck(), 1, num_workers=2): pass
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "waiting\n"
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors and child.returncode != 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_told_that_the_iterator_is_not_its_own():
    """It has none of the threads: it waited for ever."""
    code = (
        "import os, signal, numpy as np\n"
        "from fastcnn.data import ArrayDataset, DataLoader\n"
        "ds = ArrayDataset(np.zeros((40, 4, 4), np.uint8), np.arange(40))\n"
        "batches = iter(DataLoader(ds, 2, num_workers=2))\n"
        "next(batches)\n"
        "child = os.fork()\n"
        "signal.alarm(30)\n"
        "if child == 0:\n"
        "    try:\n"
        "        next(batches)\n"
        "    except RuntimeError as error:\n"
        "        print('child', error, flush=True)\n"
        "    assert len(list(DataLoader(ds, 2, num_workers=2))) == 20\n"
        "else:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    print('left', len(list(batches)))\n"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    assert "child DataLoader: an iterator with num_workers > 0 ends where its process forks" in out.stdout
    assert "left 19" in out.stdout


def test_exit_with_a_running_iterator():
    code = """
import numpy as np
from fastcnn.data import ArrayDataset, DataLoader
it = iter(DataLoader(ArrayDataset(np.zeros((500, 8, 8), np.uint8), np.zeros(500, int)), 2, num_workers=3))
next(it)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0 and done.stderr == ""


def test_an_epoch_of_mnist_size_is_fast():
    ds = ArrayDataset(np.zeros((60000, 28, 28), np.uint8), np.zeros(60000, int), mean=0.3, std=0.3)
    loader = DataLoader(ds, 128, shuffle=True)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in loader:
            pass
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0  # 0.03 s on two cores; the limit leaves room for a busy machine


# ---------------------------------------------------------------- augmentation


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "symmetric"])
@pytest.mark.parametrize("size, padding", [(None, 2), ((4, 7), (1, 2)), (3, 0), (5, (0, 1, 2, 3))])
def test_random_crop_equals_a_loop(dtype, mode, size, padding):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3)).astype(dtype).transpose(0, 3, 1, 2)
    crop = RandomCrop(size, padding, fill=7, padding_mode=mode)
    before = images.copy()
    out = crop(images, SampleRng(1, 2, np.arange(20)))
    np.testing.assert_array_equal(images, before)
    params = crop.draw(SampleRng(1, 2, np.arange(20)), (6, 8))
    left, top, right, bottom = crop.padding
    kwargs = {"constant_values": 7} if mode == "constant" else {}
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), mode=mode, **kwargs)
    h, w = crop.size or (6, 8)
    for k in range(20):
        y, x = params["top"][k], params["left"][k]
        np.testing.assert_array_equal(out[k], padded[k, :, y : y + h, x : x + w])
    assert out.dtype == dtype and out.transpose(0, 2, 3, 1).flags.c_contiguous
    # Every offset is reached, the last ones too.
    many = crop.draw(SampleRng(0, 0, np.arange(5000)), (6, 8))
    assert set(many["top"]) == set(range(6 + top + bottom - h + 1))
    assert set(many["left"]) == set(range(8 + left + right - w + 1))


@pytest.mark.parametrize("flip, axis", [(RandomHorizontalFlip, 3), (RandomVerticalFlip, 2)])
def test_flip(flip, axis):
    images = np.random.default_rng(0).random((200, 4, 5, 2), np.float32).transpose(0, 3, 1, 2)
    before = images.copy()
    out = flip()(images, 3)
    np.testing.assert_array_equal(images, before)
    flipped = np.array([not np.array_equal(a, b) for a, b in zip(out, images, strict=True)])
    np.testing.assert_array_equal(out[flipped], np.flip(images, axis)[flipped])
    assert 60 < flipped.sum() < 140
    np.testing.assert_array_equal(flip(1.0)(images), np.flip(images, axis))
    np.testing.assert_array_equal(flip(0.0)(images), images)
    assert out.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(flip(1.0)(images[0]), np.flip(images[0], axis - 1))


@pytest.mark.smoke
def test_augmentation_depends_on_the_sample_not_on_batch_or_workers():
    ds = numbered(c=3)
    steps = Compose([RandomCrop(padding=2), RandomHorizontalFlip()])

    def by_sample(**kwargs):
        loader = DataLoader(ds, seed=6, transform=steps, **kwargs)
        return [{int(i): x for xs, ys in loader for x, i in zip(xs, ys, strict=True)} for _ in range(2)]

    a = by_sample(batch_size=8, shuffle=True)
    b = by_sample(batch_size=13, num_workers=3)
    for epoch in range(2):
        for i in range(50):
            np.testing.assert_array_equal(a[epoch][i], b[epoch][i])
    assert any((a[0][i] != a[1][i]).any() for i in range(50))


def test_augment_batch_default():
    images = np.random.default_rng(0).random((10, 3, 8, 8), np.float32)
    rng = SampleRng(1, 0, np.arange(10))
    out = augment_batch(images, rng, pad=2, flip=True)
    expected = Compose([RandomCrop(padding=2), RandomHorizontalFlip()])(
        images, SampleRng(1, 0, np.arange(10))
    )
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(augment_batch(images, 0, pad=0, flip=False), images)
    assert (augment_batch(images, None) != augment_batch(images, None)).any()


def test_augment_bad_input():
    images = np.zeros((2, 3, 8, 8), np.uint8)
    for bad, message in (
        (lambda: RandomCrop(9)(images), r"at most \(8, 8\).*got \(9, 9\)"),
        (lambda: RandomCrop(0), "size"),
        (lambda: RandomCrop(4, padding=-1), "padding"),
        (lambda: RandomCrop(4, padding_mode="mirror"), "mirror"),
        (lambda: RandomHorizontalFlip(1.5), "p in"),
        (lambda: RandomHorizontalFlip()(images[0, 0]), r"\(8, 8\)"),
        (lambda: RandomHorizontalFlip()(images.astype(str)), "numeric"),
        (lambda: RandomHorizontalFlip()(images, SampleRng(0, 0, [1])), "2 images, got 1"),
        (
            lambda: RandomHorizontalFlip()(images[:0]),
            r"at least one image and pixel, got shape \(0, 3, 8, 8\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    with pytest.raises(TypeError, match="callables"):
        Compose([3])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_transform_names_its_sample_or_all_of_them(workers):
    def fussy(images, rng):
        if (rng.index == 17).any():
            raise KeyError("no seventeen")
        return images

    plain = Plain([(np.zeros((1, 2, 2), np.float32), i) for i in range(50)])
    for ds in (numbered(), plain):
        with pytest.raises(SampleError, match="^sample 17 failed: KeyError") as info:
            list(DataLoader(ds, 4, transform=fussy, num_workers=workers))
        assert info.value.index == 17 and info.value.path is None
    with pytest.raises(SampleError, match=r"^samples 0, 1 failed: .*images \(2, C, H, W\).*got \(1, ") as info:
        list(DataLoader(numbered(), 2, transform=lambda x, rng: x[:1], num_workers=workers))
    assert info.value.index == [0, 1]
    with pytest.raises(SampleError, match="samples 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 6 more failed"):
        list(DataLoader(numbered(), 16, transform=lambda x, rng: x[:1], num_workers=workers))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: Compose([f]), lambda f: Compose([RandomApply([f], 1.0)])])
def test_a_function_that_writes_into_its_images_leaves_the_dataset_alone(wrap, per_sample):
    class Kept(ImageDataset):
        in_channels = 3

        def __len__(self):
            return 2

        def raw(self, index):
            return pixels[index], 0

    def black(images, rng):
        images[:] = 0
        return images

    pixels = np.full((2, 4, 4, 3), 9, np.uint8)
    ds = Kept()
    ds.per_sample = per_sample
    assert not next(iter(DataLoader(ds, 2, transform=wrap(black))))[0].any()
    assert (pixels == 9).all()
    given = pixels.transpose(0, 3, 1, 2)
    if isinstance(wrap(black), Compose):
        assert not wrap(black)(given, 0).any() and (pixels == 9).all()


def test_a_normalize_of_the_transform_takes_the_place_of_the_datasets():
    ds = numbered(8, c=3)
    own = next(iter(DataLoader(ds, 8)))[0]
    plain = next(iter(DataLoader(ArrayDataset(ds.images, ds.labels), 8)))[0]
    np.testing.assert_allclose(own, (plain - 0.3) / 0.2, atol=1e-5)
    same, other = Normalize(0.3, 0.2), Normalize([0.1, 0.2, 0.3], 0.5)
    for transform in (same, Compose([RandomCrop(6), Compose([same])])):
        np.testing.assert_allclose(next(iter(DataLoader(ds, 8, transform=transform)))[0], own, atol=1e-5)
    got = next(iter(DataLoader(ds, 8, transform=Compose([other]), collate_fn=lambda s: np.stack([x for x, _ in s]))))
    mean = np.array([0.1, 0.2, 0.3])[:, None, None]
    np.testing.assert_allclose(got, (plain - mean) / 0.5, atol=1e-5)
