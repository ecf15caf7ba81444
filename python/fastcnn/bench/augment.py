"""Augmentation against torchvision v2 and albumentations: a training pipeline on 224x224 uint8 photographs, one thread.

Random resized crop, horizontal flip, rotation by up to 15 degrees (bilinear) and colour jitter. Theirs work image by
image as their users' loaders do, fastcnn on a batch of 64; all draw their own parameters. A time is per image. What it
is not: decoding or normalising.
"""

from __future__ import annotations

import importlib
import os
import warnings

import numpy as np

from .. import _core
from ..augment import ColorJitter, Compose, RandomHorizontalFlip, RandomResizedCrop, RandomRotation
from . import machine, pairing

SIZE, BATCH, NAME = 224, 64, "augment crop+flip+rotation+jitter 224"


def photographs(n=BATCH, size=SIZE):
    """(n, size, size, 3) uint8: scikit-image's photographs where it is there, else smooth noise."""
    try:
        from PIL import Image
        from skimage import data

        pictures = [data.astronaut(), data.coffee(), data.chelsea()]
        pictures = [np.asarray(Image.fromarray(p).resize((size, size))) for p in pictures]
    except ImportError:
        noise = np.random.default_rng(0).integers(0, 256, (3, size // 8, size // 8, 3)).astype(np.uint8)
        pictures = list(noise.repeat(8, 1).repeat(8, 2))
    return np.stack([pictures[i % 3] for i in range(n)])


def ours(images):
    """A call that augments the batch."""
    steps = Compose([
        RandomResizedCrop(SIZE), RandomHorizontalFlip(), RandomRotation(15), ColorJitter(0.4, 0.4, 0.4, 0.1)
    ])  # fmt: skip
    batch = images.transpose(0, 3, 1, 2)
    seed = iter(range(1 << 60))
    return lambda: steps(batch, next(seed))


def import_torchvision(name="torchvision"):
    """A module of torchvision, or one that imports it. Raises: ImportError where that is not installed.

    torchvision built for one version of torch fails to import beside another because it describes its own operators to
    the compiler of torch. No model or transform needs those, so the description is left out meanwhile.
    """
    from torch import library as operators

    describe = operators.register_fake
    operators.register_fake = lambda *args, **kwargs: lambda f: f
    try:
        importlib.import_module("torchvision")
    finally:
        operators.register_fake = describe
    return importlib.import_module(name)


def _torchvision(images):
    import torch

    v2 = import_torchvision("torchvision.transforms.v2")
    torch.set_num_threads(1)
    steps = v2.Compose([
        v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(),
        v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR), v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    ])  # fmt: skip
    tensors = [torch.from_numpy(i).permute(2, 0, 1) for i in images]
    return lambda: [steps(t) for t in tensors]


def _albumentations(images):
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import albumentations as A
        import cv2

        steps = A.Compose([
            A.RandomResizedCrop((SIZE, SIZE)), A.HorizontalFlip(),
            A.Rotate((-15, 15), interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_CONSTANT, p=1),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1),
        ])  # fmt: skip
    cv2.setNumThreads(1)
    return lambda: [steps(image=i) for i in images]


PEERS = {"torchvision": _torchvision, "albumentations": _albumentations}


def run(effort, peers=True, progress=lambda name: None):
    """Yields one row per peer that can be imported (or one without), all with one thread."""
    images = photographs()
    threads = _core.get_num_threads()
    _core.set_num_threads(1)
    try:
        call, rows = ours(images), 0
        for name, make in PEERS.items() if peers else ():
            progress(f"{NAME} {name}")
            try:
                theirs = make(images)
            except ImportError:
                continue
            rows += 1
            yield row(pairing.time_pairs(call, theirs, effort), name)
        if not rows:
            yield row([(pairing.time_block(call, effort), None) for _ in range(effort.pairs)])
    finally:
        _core.set_num_threads(threads)


def row(times, peer=None):
    """One result, per image and on one thread, with the ratio of neighbours in time."""
    ours, theirs = zip(*times, strict=True)
    result = {
        "kind": "augment", "name": NAME, "threads": 1, "date": machine.now(), "pairs": len(times),
        "us_per_image": float(np.median(ours)) / BATCH * 1e6,
    }  # fmt: skip
    if peer:
        ratio = pairing.ratio_interval(times)
        result |= {
            "peer": peer, "peer_us_per_image": float(np.median(theirs)) / BATCH * 1e6, "ratio": ratio.median,
            "ratio_low": ratio.low, "ratio_high": ratio.high,
        }  # fmt: skip
    return result
