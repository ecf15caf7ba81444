"""Colour, blur and normalisation. Linear colour steps fuse (plan.py); blur changes pixels by itself.

Meanings are torchvision's: grey is 0.2989 R + 0.587 G + 0.114 B, contrast blends with the mean grey of the image, hue
turns in HSV. Images of other than 3 channels are grey: hue and saturation leave
them as they are.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from .base import Transform, check_probability, check_range

GRAY = np.array([0.2989, 0.587, 0.114])


def _gray(channels):
    """(C, C): every channel becomes grey."""
    return np.tile(GRAY, (3, 1)) if channels == 3 else np.eye(channels)


def blend(kind, factor, channels):
    """(a, b) of Plan.color: brightness, contrast or saturation by factors (N,)."""
    f = np.asarray(factor, float)[:, None, None]
    eye, gray = np.eye(channels)[None], _gray(channels)[None]
    if kind == "brightness":
        return f * eye, np.zeros((len(f), channels, channels))
    if kind == "contrast":
        return f * eye, (1 - f) * gray
    return f * eye + (1 - f) * gray, np.zeros((len(f), channels, channels))


def _jitter_range(name, value, center=1.0, low=0.0, high=None):
    if np.ndim(value) == 0:
        if value < 0:
            raise ValueError(f"ColorJitter: expected {name} >= 0, got {value}")
        value = (center - value, center + value)
        if low is not None and center:
            value = (max(low, value[0]), value[1])
    return check_range("ColorJitter", name, value, low, high)


class ColorJitter(Transform):
    """Random brightness, contrast, saturation and hue, in random order.

    Args: brightness, contrast, saturation: number (factor from max(0, 1 - v) to 1 + v) or (low, high) of the factor.
    hue: number in [0, 0.5] (turns from -v to v of a circle) or (low, high) in [-0.5, 0.5].
    """

    _names = ("brightness", "contrast", "saturation")

    def __init__(self, brightness=0, contrast=0, saturation=0, hue=0):
        self.brightness = _jitter_range("brightness", brightness)
        self.contrast = _jitter_range("contrast", contrast)
        self.saturation = _jitter_range("saturation", saturation)
        self.hue = _jitter_range("hue", hue, 0.0, -0.5, 0.5)

    def draw(self, rng, size):
        u = rng.uniforms(8)
        order = np.argsort(u[:, :4], axis=1, kind="stable")  # step k is order[:, k]
        ranges = (getattr(self, name) for name in (*self._names, "hue"))
        factors = [low + (high - low) * u[:, 4 + k] for k, (low, high) in enumerate(ranges)]
        return {"order": order, **dict(zip((*self._names, "hue"), factors, strict=True))}

    def record(self, plan, params):
        n, C = plan.n, plan.channels
        order, hue = params["order"], np.asarray(params["hue"], float)
        # Stage 0 ends with the hue, stage 1 is what comes after it.
        a = np.tile(np.eye(C), (2, n, 1, 1))
        b = np.zeros_like(a)
        turn = np.argmax(order == 3, axis=1)
        steps = {k: blend(name, params[name], C) for k, name in enumerate(self._names)
                 if (np.asarray(params[name]) != 1).any()}  # fmt: skip
        for at in range(4):
            for k, (A, B) in steps.items():
                rows = np.flatnonzero(order[:, at] == k)
                if len(rows):
                    stage = (at > turn[rows]).astype(int)
                    before = a[stage, rows], b[stage, rows]
                    a[stage, rows] = A[rows] @ before[0]
                    b[stage, rows] = A[rows] @ before[1] + B[rows] @ (before[0] + before[1])
        if C != 3 or not hue.any():
            plan.color(a[1] @ a[0], a[1] @ b[0] + b[1] @ (a[0] + b[0]))
            return
        plan.color(a[0], b[0], hue=hue)
        if steps:
            plan.color(a[1], b[1])

    def __repr__(self):
        return "ColorJitter(" + ", ".join(f"{k}={getattr(self, k)}" for k in (*self._names, "hue")) + ")"


class Grayscale(Transform):
    """Grey with num_output_channels 1 or 3 (all the same)."""

    def __init__(self, num_output_channels=1):
        if num_output_channels not in (1, 3):
            raise ValueError(f"Grayscale: expected num_output_channels 1 or 3, got {num_output_channels}")
        self.num_output_channels = num_output_channels

    def record(self, plan, params):
        if plan.channels == 3:
            plan.color(np.tile(_gray(3), (plan.n, 1, 1)))
            if self.num_output_channels == 1:
                plan.replace(np.ascontiguousarray(plan.pixels()[:, :1]))
        elif plan.channels != 1:
            raise ValueError(f"Grayscale: expected images of 1 or 3 channels, got {plan.channels}")
        elif self.num_output_channels == 3:
            rows = np.repeat(plan.pixels().transpose(0, 2, 3, 1), 3, axis=3)
            plan.replace(rows.transpose(0, 3, 1, 2))


class RandomGrayscale(Transform):
    """Grey, with the same channels, with probability p."""

    def __init__(self, p=0.1):
        self.p = check_probability("RandomGrayscale", p)

    def draw(self, rng, size):
        return {"on": rng.uniform() < self.p}

    def record(self, plan, params):
        plan.color(np.where(params["on"][:, None, None], _gray(plan.channels), np.eye(plan.channels)))


class Normalize(Transform):
    """(x / 255 - mean) / std of integer images, (x - mean) / std of floats: float32, made as pixels are stored.

    Datasets normalise what the DataLoader gives already; a DataLoader whose transform holds this leaves that to it.
    """

    normalizes = True

    def __init__(self, mean, std):
        self.mean = [float(v) for v in np.ravel(mean)]
        self.std = [float(v) for v in np.ravel(std)]
        if not self.std or min(self.std) <= 0 or not self.mean or not np.isfinite([*self.mean, *self.std]).all():
            raise ValueError(f"Normalize: expected finite mean and std > 0 per channel, got {mean} and {std}")

    def record(self, plan, params):
        C = plan.channels
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, C):
                raise ValueError(f"Normalize: expected {what} of {C} channels, got {len(values)} values")
        mean, std = (v * C if len(v) == 1 else v for v in (self.mean, self.std))
        if plan.images.dtype.kind in "ui" and plan.images.dtype != np.uint8:
            raise ValueError(f"Normalize: expected uint8 or floating images, got {plan.images.dtype}")
        plan.pixels(mean, std)


def gaussian(size, sigma):
    """(size,) weights of a Gaussian, their sum 1."""
    x = np.arange(size) - (size - 1) / 2
    w = np.exp(-0.5 * (x / sigma) ** 2)
    return w / w.sum()


def smooth(images, rows, cols=None):
    """images (N, C, H, W) float32 convolved with weights along both axes, mirrored at the edges (reflect)."""
    cols = rows if cols is None else cols
    n, c, h, w = images.shape
    x = _core.tensor(np.ascontiguousarray(images, np.float32).reshape(n * c, 1, h, w))
    for weights, shape in ((rows, (1, 1, -1, 1)), (cols, (1, 1, 1, -1))):
        k = _core.tensor(np.asarray(weights, np.float32).reshape(shape))
        pad = len(weights) // 2
        padding = (pad, 0) if shape[2] == -1 else (0, pad)
        x = _core.ops.conv2d(x, k, None, 1, padding, padding_mode="reflect")
    return x.numpy().reshape(n, c, h, w)


class GaussianBlur(Transform):
    """Blur with a Gaussian of kernel_size (odd int or (h, w)) and sigma drawn from (low, high), or a number."""

    def __init__(self, kernel_size, sigma=(0.1, 2.0)):
        size = (kernel_size, kernel_size) if np.ndim(kernel_size) == 0 else tuple(kernel_size)
        if len(size) != 2 or any(int(k) != k or k < 1 or k % 2 == 0 for k in size):
            raise ValueError(f"GaussianBlur: expected kernel_size as odd int or (h, w), got {kernel_size}")
        self.kernel_size = int(size[0]), int(size[1])
        self.sigma = check_range("GaussianBlur", "sigma", (sigma, sigma) if np.ndim(sigma) == 0 else sigma, 1e-6)

    def draw(self, rng, size):
        return {"sigma": rng.uniform(*self.sigma)}

    def apply(self, images, params):
        if any(k // 2 >= s for k, s in zip(self.kernel_size, images.shape[2:], strict=True)):
            raise ValueError(
                f"GaussianBlur: expected images larger than half of {self.kernel_size}, got shape {images.shape}"
            )
        out = np.empty(images.shape, np.float32)
        for i, sigma in enumerate(params["sigma"]):
            kernels = [gaussian(k, sigma) for k in self.kernel_size]
            out[i] = smooth(images[i : i + 1].astype(np.float32), *kernels)[0]
        return like(out, images)


def like(values, images):
    """float values as pixels of the dtype and memory order of images."""
    if images.dtype.kind in "ui":
        values = np.rint(np.clip(values, 0, np.iinfo(images.dtype).max))
    out = np.empty_like(images)
    out[...] = values
    return out
