"""Erasing parts of images, and mixing images of a batch with their targets."""

from __future__ import annotations

import operator

import numpy as np

from .._philox import SampleRng, philox4x32
from .base import Transform, check_probability, check_range, pair
from .plan import as_integers, top_of


class RandomErasing(Transform):
    """With probability p a rectangle of random size and place becomes `value` (Zhong et al. 2020).

    Args: scale: (low, high) of its area as fractions of the image. ratio: (low, high) of height over width. value: a
    number, one per channel, or "random" for noise of the range of pixels. Of ten drawn rectangles the first that
    fits counts; else nothing is erased.
    """

    def __init__(self, p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0):
        self.p = check_probability("RandomErasing", p)
        self.scale = check_range("RandomErasing", "scale", scale, 0, 1)
        self.ratio = check_range("RandomErasing", "ratio", ratio, 1e-6)
        if isinstance(value, str) and value != "random":
            raise ValueError(f"RandomErasing: expected value as numbers or 'random', got {value!r}")
        self.value = value

    def draw(self, rng, size):
        H, W = size
        n = len(rng)
        low, high = np.log(self.ratio)
        u, seed = rng.uniforms(23), rng.bits()[0]
        area = H * W * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :10])
        ratio = np.exp(low + (high - low) * u[:, 10:20])
        h, w = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (h < H) & (w < W)
        rows, first = np.arange(n), fits.argmax(1)
        on = fits[rows, first] & (u[:, 20] < self.p)
        height, width = np.where(on, h[rows, first], 0), np.where(on, w[rows, first], 0)
        top, left = (u[:, 21] * (H - height + 1)).astype(np.int64), (u[:, 22] * (W - width + 1)).astype(np.int64)
        return {"top": top, "left": left, "height": height, "width": width, "seed": seed}

    def apply(self, images, params):
        out = np.copy(images, order="K")
        value = self.value if isinstance(self.value, str) else _per_channel("RandomErasing", "value", self.value, out)
        places = zip(*(params[k] for k in ("top", "left", "height", "width", "seed")), strict=True)
        for image, (top, left, height, width, seed) in zip(out, places, strict=True):
            part = image[:, top : top + height, left : left + width]
            if isinstance(value, str):
                noise = np.random.Generator(np.random.Philox(key=int(seed))).random(part.shape)
                part[...] = noise * min(256, top_of(out.dtype) + 1) if out.dtype.kind in "ui" else noise
            else:
                part[...] = value
        return out


def _per_channel(name, what, value, images):
    """(1 or C, 1, 1) of a number or one per channel; ValueError for other counts."""
    value = np.reshape(value, (-1, 1, 1))
    if len(value) not in (1, images.shape[1]):
        raise ValueError(f"{name}: expected {what} of 1 or {images.shape[1]} channels, got {len(value)} values")
    return as_integers(value, images.dtype) if images.dtype.kind in "ui" else value


class Cutout(Transform):
    """`n_holes` squares of `size` pixels (int or (h, w)) around random pixels become `fill` (DeVries & Taylor 2017).

    Squares may reach over the edge.
    """

    def __init__(self, size, n_holes=1, fill=0):
        self.size = pair("Cutout", "size", size)
        self.n_holes, self.fill = operator.index(n_holes), fill

    def draw(self, rng, size):
        draws = [rng.bits()[:2] for _ in range(self.n_holes)]
        y = np.stack([(d[0] / 4294967296.0 * size[0]).astype(np.int64) for d in draws], 1) if draws else None
        x = np.stack([(d[1] / 4294967296.0 * size[1]).astype(np.int64) for d in draws], 1) if draws else None
        return {"y": y, "x": x}

    def apply(self, images, params):
        out = np.copy(images, order="K")
        h, w = self.size
        fill = _per_channel("Cutout", "fill", self.fill, out)
        for k in range(self.n_holes):
            for image, y, x in zip(out, params["y"][:, k] - h // 2, params["x"][:, k] - w // 2, strict=True):
                image[:, max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = fill
        return out


class _Mix:
    """Callable: mix(images, targets, rng=None) -> (images float32, targets (N, num_classes) float32).

    images (N, C, H, W); targets: class ids (N,) of ints, or probabilities (N, num_classes) of floats; not masks. rng:
    SampleRng of the N samples or a seed. A batch draws one weight from Beta(alpha, alpha): what comes out depends on
    the batch as a whole. As it mixes targets too it is no step of a Compose or a loader's transform; for training there
    are the callbacks Mixup and CutMix.
    """

    def __init__(self, alpha=1.0, num_classes=None):
        if alpha <= 0:
            raise ValueError(f"{type(self).__name__}: expected alpha > 0, got {alpha}")
        self.alpha, self.num_classes = float(alpha), num_classes

    def probabilities(self, targets):
        """Targets (N, num_classes) float32 of class ids (N,); probabilities stay. ValueError for anything else."""
        name, targets = type(self).__name__, np.asarray(targets)
        if (targets.ndim, targets.dtype.kind) not in ((1, "i"), (1, "u"), (1, "b"), (2, "f")):
            raise ValueError(
                f"{name}: expected class ids (N,) of ints or probabilities (N, num_classes) of floats, got shape "
                f"{targets.shape} of {targets.dtype}"
            )
        if targets.ndim == 1:
            if self.num_classes is None:
                raise ValueError(f"{name}: expected num_classes for class ids as targets")
            if targets.size and not 0 <= targets.min() <= targets.max() < self.num_classes:
                raise ValueError(f"{name}: expected class ids in [0, {self.num_classes}), got {targets.max()}")
            targets = np.eye(self.num_classes, dtype=np.float32)[targets.astype(np.int64)]
        return targets.astype(np.float32, copy=False)

    def __call__(self, images, targets, rng=None):
        name = type(self).__name__
        if isinstance(targets, SampleRng):
            raise TypeError(
                f"{name}: mixes images with their targets, so it cannot be a step of a Compose or a transform; use the "
                f"callback fastcnn.callbacks.{'Mixup' if name == 'MixUp' else name}"
            )
        images, targets = np.asarray(images), np.asarray(targets)
        if images.ndim == 4 and len(images) == 0:
            raise ValueError(f"{name}: expected at least one image, got shape {images.shape}")
        if images.ndim != 4 or len(images) != len(targets):
            raise ValueError(
                f"{name}: expected images (N, C, H, W) and N targets, got shapes {images.shape} and {targets.shape}"
            )
        targets = self.probabilities(targets)
        if isinstance(rng, SampleRng):
            words = philox4x32((int(rng.index[0]) if len(rng) else 0, rng.epoch, 7, 0), (rng.seed, rng.seed >> 32))
            rng = [int(w) for w in words]
        generator = np.random.default_rng(rng)
        weight = float(generator.beta(self.alpha, self.alpha))
        images, weight = self._mix(images, np.roll(images, 1, axis=0), weight, generator)
        mixed = weight * targets.astype(np.float32) + (1 - weight) * np.roll(targets, 1, axis=0).astype(np.float32)
        return images, mixed.astype(np.float32)


class MixUp(_Mix):
    """Each image blended with the one before it in the batch, and the targets alike (Zhang et al. 2018)."""

    def _mix(self, images, others, weight, generator):
        a = np.float32(weight)
        out = np.empty_like(images, dtype=np.float32)
        np.multiply(images, a, out=out, casting="unsafe")
        out += others.astype(np.float32) * (1 - a)
        return out, weight


class CutMix(_Mix):
    """A rectangle of each image comes from the one before it, targets by area (Yun et al. 2019). Keeps the dtype."""

    def _mix(self, images, others, weight, generator):
        H, W = images.shape[2:]
        half = 0.5 * np.sqrt(1 - weight)
        x, y = int(generator.integers(W)), int(generator.integers(H))
        x0, x1 = max(int(x - half * W), 0), min(int(x + half * W), W)
        y0, y1 = max(int(y - half * H), 0), min(int(y + half * H), H)
        out = np.copy(images, order="K")
        out[:, :, y0:y1, x0:x1] = others[:, :, y0:y1, x0:x1]
        return out, 1 - (x1 - x0) * (y1 - y0) / (W * H)
