"""Does the loader keep up: images/s of DataLoader alone, of the training step alone, and of both together.

ResNet-20 on 32x32 in memory (crop after padding, flip) and ResNet-18 on 224x224 from a folder of JPEGs (decode, random
resized crop, flip), made here from photographs. What it is not: a comparison with others.

Where loader and step share the cores they cannot hide one another entirely. `hidden` is the share of the loader's own
time (without threads of its own) that the step is not kept waiting for; `of_limit` is the rate against the most that
the cores allow, were the loader's CPU time spread over all of them beside a step that uses all of them.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .. import _core
from ..augment import Compose, RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from ..data import ArrayDataset, DataLoader, ImageFolder
from . import augment, machine, nets

WORKERS = (0, 1, 2)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES, FILE_SIZE = 64, (375, 500)


def small_images(n=2048, size=32):
    """A dataset of n windows of photographs, in memory."""
    rng = np.random.default_rng(0)
    photos = augment.photographs(3, 224)
    at = zip(rng.integers(0, 3, n), *rng.integers(0, 224 - size, (2, n)), strict=True)
    images = np.stack([photos[k, y : y + size, x : x + size] for k, y, x in at])
    return ArrayDataset(images, rng.integers(0, 10, n), num_classes=10, mean=_MEAN, std=_STD, layout="NHWC")


def write_jpegs(folder, files=FILES, size=FILE_SIZE):
    """Writes two classes of photographs, turned and brightened each in its own way, quality 90."""
    from PIL import Image

    photos = augment.photographs(3, max(size))
    for i in range(files):
        path = Path(folder) / ("a", "b")[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.roll(photos[i % 3], 37 * i, axis=1)[: size[0], : size[1]]
        Image.fromarray(picture // (1 + i % 2)).save(path, quality=90)


@contextmanager
def _cases(quick):
    """Yields [(name, dataset, transform, Task)]."""
    tasks = {t.net.name: t for t in nets.tasks() if t.what == "train"}
    small = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
    cases = [("resnet20 32x32 in memory", small_images(), small, tasks["resnet20"])]
    if quick:
        yield cases
        return
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(folder)
        large = Compose([RandomResizedCrop(224), RandomHorizontalFlip()])
        yield [*cases, ("resnet18 224x224 JPEG folder", ImageFolder(folder), large, tasks["resnet18"])]


def _batches(dataset, transform, batch, workers):
    """Batches without end, epoch after epoch."""
    loader = DataLoader(dataset, batch, True, workers, drop_last=True, transform=transform)
    while True:
        yield from loader


def _rate(batches, step, seconds, batch):
    """(images/s, CPU seconds per image) over at least `seconds` and three batches, after two that warm up."""
    for x, y in itertools.islice(batches, 2):
        step(x, y)
    begin, cpu, n = time.perf_counter(), time.process_time(), 0
    while n < 3 or time.perf_counter() - begin < seconds:
        step(*next(batches))
        n += 1
    return n * batch / (time.perf_counter() - begin), (time.process_time() - cpu) / (n * batch)


def measure(name, dataset, transform, task, seconds, rounds=3, workers=WORKERS):
    """Yields one row per number of workers; what is compared is measured in turns, as the machine drifts."""
    arrays = nets.arrays_of(task)
    plan = nets.training_step(task, arrays).plan

    def step(x, y):
        plan(_core.from_numpy(x), _core.from_numpy(y)).item()

    def nothing(x, y):
        pass

    for count in workers:
        others, turns = machine.Others(), []
        serial, ahead = (_batches(dataset, transform, task.batch, w) for w in (0, count))
        for _ in range(rounds):
            alone, _ = _rate(itertools.repeat(arrays), step, seconds, task.batch)
            slow, cpu = _rate(serial, nothing, seconds, task.batch)
            loading = slow if count == 0 else _rate(ahead, nothing, seconds, task.batch)[0]
            both, _ = _rate(ahead, step, seconds, task.batch)
            turns.append((loading, slow, cpu, alone, both))
        yield row(name, task, count, turns, others.share())


def row(name, task, workers, turns, others=None):
    """One result: medians over turns (loading, serial, cpu, step, both). Images/s of the loader with its threads and of
    one without, the loader's CPU seconds per image, images/s of the step and of both together."""
    loading, serial, cpu, step, both = np.array(turns).T
    limit = 1 / (1 / step + cpu / _core.get_num_threads())
    found = {
        "loader_images_per_s": loading, "step_images_per_s": step, "images_per_s": both,
        "hidden": np.clip(1 - (1 / both - 1 / step) * serial, 0, 1), "of_limit": both / limit,
    }  # fmt: skip
    return {
        "kind": "loader", "name": f"{name} b{task.batch} workers={workers}", "workers": workers, "batch": task.batch,
        "date": machine.now(), **{key: float(np.median(v)) for key, v in found.items()}, "others": others,
    }  # fmt: skip


def run(effort, quick=False, progress=lambda name: None):
    """Yields one row per case and number of workers."""
    seconds = effort.block * effort.pairs * 2  # about one second
    with _cases(quick) as cases:
        for name, dataset, transform, task in cases:
            progress(f"loader {name}")
            yield from measure(name, dataset, transform, task, seconds)
