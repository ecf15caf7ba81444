"""Augmentation of image batches with boxes, masks and keypoints, seeded per sample by (seed, epoch, sample number).

A Compose is fused: one batched op of the core (ops.affine_sample) samples, colours and normalises each pixel once.
"""

from .._philox import SampleRng
from .base import Compose, RandomApply, Transform
from .color import ColorJitter, GaussianBlur, Grayscale, Normalize, RandomGrayscale
from .erase import CutMix, Cutout, MixUp, RandomErasing
from .geometric import (
    CenterCrop,
    ElasticTransform,
    Pad,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomTranslate,
    RandomVerticalFlip,
    RandomZoom,
    Resize,
)
from .policies import AutoAugment, RandAugment, TrivialAugmentWide

__all__ = [
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "ElasticTransform",
    "GaussianBlur",
    "Grayscale",
    "MixUp",
    "Normalize",
    "Pad",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomTranslate",
    "RandomVerticalFlip",
    "RandomZoom",
    "Resize",
    "SampleRng",
    "Transform",
    "TrivialAugmentWide",
    "augment_batch",
]


def augment_batch(images, rng, pad=4, flip=True, padding_mode="constant"):
    """Random crop after padding by `pad` pixels, then a horizontal flip: the default for small images.

    Args: images: (N, C, H, W); rng: SampleRng, int seed or None, see Transform; pad: 0 for no crop; flip:
    bool, or the probability. Returns new images of the same shape.
    """
    steps = [RandomCrop(padding=pad, padding_mode=padding_mode)] if pad else []
    if flip:
        steps.append(RandomHorizontalFlip(0.5 if flip is True else flip))
    return Compose(steps)(images, rng)
