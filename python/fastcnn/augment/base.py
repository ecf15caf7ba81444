"""The base class of every transform, Compose, and the call with images, boxes, masks and keypoints.

A transform has two halves: draw(rng, size) makes one row of parameters per sample, record(plan, params) says to a Plan
what they mean, so that a whole Compose becomes one pass over the pixels. Images are (N, C, H, W), or one (C, H, W);
memory may be channels-last and stays so.
"""

from __future__ import annotations

import os

import numpy as np

from .._philox import SampleRng
from .plan import Part, Plan
from .targets import Targets


class Transform:
    """Callable: transform(images, rng=None) -> images; with targets transform(images, rng, boxes=..., ...) -> dict.

    images: (N, C, H, W) or (C, H, W) array, N >= 1, any numeric dtype; not (H, W, C) as Pillow has it. rng: a SampleRng
    of N samples (DataLoader gives one by seed, epoch and sample number), an int seed, or None for fresh randomness. The
    input is never changed. A sample gets the same result in whatever batch it comes.

    Targets (for one image without the outer list or axis):
        boxes: N arrays (n, 4) of pixels, the image being [0, W] x [0, H]; box_format: xyxy, xywh or cxcywh.
        labels: N arrays (n,) that go with the boxes. masks: (N, H, W) or (N, K, H, W) of any dtype, or N arrays
        (k, H, W) of different k, sampled by nearest pixel, 0 outside (mask_fill). keypoints: N arrays (n, 2 or more),
        x and y first; keypoint_pairs: rows (i, j) that change places where the image is mirrored, as left and right
        eyes do.
    The result is then a dict of "images" and what was given. Boxes are those around their moved corners, clipped to
    the image; those with less than `min_visibility` (a fraction, default 0) of their area inside, or none of it,
    are left out, and "box_index" holds the rows that stay. Keypoints stay, and "keypoints_inside" tells which ones
    the image holds. Raises ValueError for shapes and counts that do not fit and for boxes that are not finite or
    inverted by more than rounding; boxes that reach over the image are clipped.
    """

    normalizes = False  # whether it does what a dataset's normalize() does

    def draw(self, rng, size):
        """Parameters for len(rng) samples of size (H, W): a dict of arrays whose first axis is N."""
        return {}

    def apply(self, images, params):
        """images (N, C, H, W) -> (N, C, H', W')."""
        plan = Plan(images)
        self.record(plan, params)
        return plan.pixels()

    def record(self, plan, params):
        """Adds this transform to a plan. Transforms that only know apply() change pixels here and now."""
        plan.replace(self.apply(plan.pixels(), params))

    def __call__(
        self, images, rng=None, *, boxes=None, labels=None, masks=None, keypoints=None, box_format="xyxy",
        min_visibility=0.0, mask_fill=0, keypoint_pairs=(),
    ):  # fmt: skip
        name = type(self).__name__
        images = np.asarray(images)
        single = images.ndim == 3
        if single:
            images = images[None]
            boxes, labels, masks, keypoints = (None if v is None else [v] for v in (boxes, labels, masks, keypoints))
        if images.ndim != 4:
            raise ValueError(f"{name}: expected images (N, C, H, W) or (C, H, W), got shape {images.shape}")
        if images.size == 0:
            raise ValueError(f"{name}: expected at least one image and pixel, got shape {images.shape}")
        if images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
            raise ValueError(
                f"{name}: expected images (N, C, H, W) or (C, H, W), got shape {images.shape[single:]}, whose channels "
                "seem to be last: image.transpose(2, 0, 1) puts them first"
            )
        if images.dtype.kind not in "uif":
            raise ValueError(f"{name}: expected images of a numeric dtype, got {images.dtype}")
        if not isinstance(rng, SampleRng):
            seed = int.from_bytes(os.urandom(8), "little") if rng is None else rng
            rng = SampleRng(seed, 0, np.arange(len(images)))
        if len(rng) != len(images):
            raise ValueError(f"{name}: expected random numbers for {len(images)} images, got {len(rng)}")
        targets = Targets(
            name, images, boxes, labels, masks, keypoints, box_format, min_visibility, mask_fill, keypoint_pairs
        )
        plan = Plan(images, targets)
        self._run(plan, rng)
        out = plan.pixels()
        if out is images:
            out = np.copy(out, order="K")
        if not targets:
            return out[0] if single else out
        result = {"images": out, **targets.results()}
        return {k: v[0] for k, v in result.items()} if single else result

    def _run(self, plan, rng):
        self.record(plan, self.draw(rng, plan.size))


class Compose(Transform):
    """Transforms one after another, fused: geometric ones into one sampling, colours into what follows it.

    Fusion sees the source beyond the frame of an earlier crop: what a later rotation brings in is picture where there
    is some. Colours are limited to the range of pixels once, at the end of a run of linear ones. Functions
    f(images, rng) may stand among the transforms; they see pixels, targets do not move with them, and where there are
    targets they have to keep the images' size.
    """

    def __init__(self, transforms):
        self.transforms = list(transforms)
        for t in self.transforms:
            if not callable(t):
                raise TypeError(f"Compose: expected callables, got {type(t).__name__}")

    @property
    def normalizes(self):
        """Whether Normalize is one of them."""
        return any(getattr(t, "normalizes", False) for t in self.transforms)

    def _run(self, plan, rng):
        for t in self.transforms:
            if isinstance(t, Transform):
                t._run(plan, rng)
                continue
            before = plan.pixels()
            # A function may write into what it gets: never into what the caller gave.
            images = np.asarray(t(np.copy(before, order="K") if before is plan.given else before, rng))
            if plan.targets and images.shape[2:] != before.shape[2:]:
                raise ValueError(
                    f"Compose: a function that is no Transform leaves targets where they are: expected images of "
                    f"{before.shape[2:]}, got {images.shape[2:]}"
                )
            plan.replace(images)

    def __repr__(self):
        return f"Compose({self.transforms!r})"


class RandomApply(Compose):
    """With probability p all of the transforms, for each image by itself; else the image stays as it is.

    Args: transforms: a list, or one. They have to keep the images' size, channels and dtype (no Normalize).
    """

    def __init__(self, transforms, p=0.5):
        super().__init__([transforms] if callable(transforms) else transforms)
        self.p = check_probability("RandomApply", p)

    def _run(self, plan, rng):
        super()._run(Part(plan, rng.uniform() < self.p), rng)

    def __repr__(self):
        return f"RandomApply({self.transforms!r}, p={self.p})"


def check_probability(name, p):
    """p as a float; ValueError unless in [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}: expected p in [0, 1], got {p}")
    return float(p)


def check_range(name, what, value, low=None, high=None):
    """(a, b) with a <= b, both in [low, high]; ValueError otherwise."""
    try:
        a, b = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected {what} as (low, high), got {value!r}") from None
    if not -np.inf < a <= b < np.inf or (low is not None and a < low) or (high is not None and b > high):
        limits = f" in [{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        raise ValueError(f"{name}: expected {what} as finite (low, high){limits}, got {value!r}")
    return a, b


def pair(name, what, size):
    """(h, w) of at least 1 from an int or a pair."""
    size = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(size) != 2 or any(int(s) != s for s in size) or min(size) < 1:
        raise ValueError(f"{name}: expected {what} as int or (h, w) of at least 1, got {size}")
    return int(size[0]), int(size[1])
