"""Augmentation of image batches, seeded per sample by (seed, epoch, sample number)."""

from .._philox import SampleRng
from .basic import Compose, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip, Transform, augment_batch

__all__ = [
    "Compose",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "SampleRng",
    "Transform",
    "augment_batch",
]
