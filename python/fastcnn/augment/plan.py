"""Plan: what a run of transforms will do to a batch, gathered until pixels are needed and then done in one pass.

Geometric steps multiply into one matrix per image from output to input pixels (centres have whole coordinates), colour
steps into stages of one linear map and a turn of the hue; ops.affine_sample does both. What it is not: random.
"""

from __future__ import annotations

import numpy as np

from .. import _core

_sample = _core.ops.affine_sample


def identity(n):
    """(n, 3, 3) float64 unit matrices."""
    return np.tile(np.eye(3), (n, 1, 1))


def top_of(dtype):
    """The largest value of a pixel: 1 of floats, that of the dtype of integers."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def as_integers(values, dtype):
    """Floats rounded to integers of a dtype; what it cannot hold becomes its bound, where NumPy would wrap around."""
    low, high = float(np.iinfo(dtype).min), top_of(dtype)
    high = np.nextafter(high, 0) if int(high) > np.iinfo(dtype).max else high
    return np.clip(np.rint(values, dtype=np.float64), low, high).astype(dtype)


def sample(images, matrix, size, fill, **options):
    """ops.affine_sample of NumPy images (N, C, H, W) of any dtype; integers other than uint8 travel as float32."""
    dtype = images.dtype
    direct = dtype == np.uint8 or dtype == np.float32
    scale = top_of(dtype) if "color" in options and not direct else 1.0  # colours of floats end at 1
    if not direct:
        images = images.astype(np.float32)
    if scale != 1:
        images, fill = images / np.float32(scale), [v / scale for v in fill]
    moves = _core.from_numpy(matrix.astype(np.float32))
    out = _sample(_core.from_numpy(images), moves, size, fill=fill, **options).numpy()
    if direct or options.get("mean") is not None:
        return out
    return as_integers(out * np.float64(scale), dtype) if dtype.kind in "ui" else out.astype(dtype)


def sample_words(values, matrix, size, fill, fill_mode="constant", **options):
    """Nearest pixels of values (N, K, H, W) of any dtype, exact: bytes travel as channels."""
    rows = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    size_of = rows.dtype.itemsize
    fill = np.broadcast_to(np.asarray(fill).astype(rows.dtype), rows.shape[3:])
    channels = list(np.ascontiguousarray(fill).view(np.uint8).astype(float))
    as_bytes = rows.view(np.uint8).reshape(*rows.shape[:3], -1).transpose(0, 3, 1, 2)
    out = _sample(
        _core.from_numpy(as_bytes), _core.from_numpy(matrix.astype(np.float32)), size, mode="nearest",
        fill_mode=fill_mode, fill=channels, **options,
    ).numpy()  # fmt: skip
    out = np.ascontiguousarray(out.transpose(0, 2, 3, 1))
    return out.reshape(*out.shape[:3], -1, size_of).view(rows.dtype)[..., 0].transpose(0, 3, 1, 2)


def check_floats(name, images):
    """ValueError for floats far from [0, 1]: limiting them to that range would destroy normalised images."""
    # Bicubic sampling before may have gone a little beyond the range.
    if images.dtype.kind == "f" and not (images.min() > -1 and images.max() < 2):
        got = f"{images.min():.4g} to {images.max():.4g}"
        raise ValueError(f"{name}: expected floats in [0, 1], not normalised, got {got}")


class Plan:
    """Attributes: size (H, W) of the result so far; n, channels; top: the largest pixel value."""

    def __init__(self, images, targets=None):
        self.given = self.images = images
        self.targets = targets
        self.n, self.channels = images.shape[:2]
        self._reset(images.shape[2:])

    def _reset(self, size):
        self.size = (int(size[0]), int(size[1]))
        self._matrix, self._displacement = identity(self.n), None
        self._moved = self._cut = False
        self._mode = self._fill = None
        self._antialias = False
        self._stages = []  # [A (N,C,C), B (N,C,C), c (N,C), hue (N,)]

    @property
    def top(self):
        """The largest value of a pixel: 1 of floats, 255 of bytes."""
        return top_of(self.images.dtype)

    def replace(self, images):
        """Other pixels in place of the batch; nothing may be pending."""
        self.images = images
        self.channels = images.shape[1] if images.ndim == 4 else 0
        if images.ndim == 4:
            self.size = images.shape[2:]

    def move(self, matrix, size=None, mode=None, fill=None, fill_mode="constant", antialias=False, displacement=None,
             cuts=True, border=False):  # fmt: skip
        """A geometric step: pixel p of its result is matrix (N, 3, 3) * p of its input, or p + displacement.

        mode: how it samples; None where it moves whole pixels. fill: what it shows outside its input; None where
        it shows nothing of it. displacement: (N, 2, h, w), with unit
        matrices, or None. cuts: the result may lack parts of its input. border: what lies outside the input is
        fill, even where an earlier step has cut picture away there.
        """
        filled = None if fill is None else (fill_mode, tuple(np.ravel(fill).tolist()))
        if (
            self._stages
            or self._displacement is not None
            or (mode and self._mode and mode != self._mode)
            or (filled and self._fill and filled != self._fill)
            or (displacement is not None and self._moved)
            or (border and self._cut)
        ):
            self.pixels()
        self._matrix = self._matrix @ matrix
        self._displacement = displacement
        self._mode, self._fill = self._mode or mode, self._fill or filled
        self._antialias |= bool(antialias)
        self._moved = True
        self._cut |= cuts
        self.size = self.size if size is None else (int(size[0]), int(size[1]))

    def color(self, a, b=None, c=None, hue=None):
        """A colour step: pixel v (C) becomes a v + b m + c, m the image's mean; then the hue turns (of a circle)."""
        C = self.channels
        b = np.zeros((self.n, C, C)) if b is None else b
        c = np.zeros((self.n, C)) if c is None else c
        hue = np.zeros(self.n) if hue is None else hue
        if self._stages and not self._stages[-1][3].any():
            A, B, shift, _ = self._stages[-1]
            self._stages[-1] = [
                a @ A, a @ B + b @ (A + B), np.einsum("nij,nj->ni", a + b, shift) + c, hue
            ]  # fmt: skip
        else:
            self._stages.append([a, b, c, hue])

    def pixels(self, mean=None, std=None):
        """The images with all that is pending done; with mean and std float32 and normalised."""
        if not (self._moved or self._stages or mean is not None):
            return self.images
        fill_mode, fill = self._fill or ("constant", (0.0,))
        fill = list(fill) * self.channels if len(fill) == 1 else list(fill)
        matrix, whole = self._matrix, self._mode is None and not self._stages and mean is None
        if self._moved and self.targets:
            self.targets.move(matrix, self._displacement, self.size, fill_mode)
        if whole and self.images.dtype not in (np.uint8, np.float32):
            fill = as_integers(fill, self.images.dtype) if self.images.dtype.kind in "ui" else fill
            self.images = sample_words(self.images, matrix, self.size, fill, fill_mode)
        else:
            mode = self._mode or "bilinear"
            options = {"mode": mode, "fill_mode": fill_mode}
            options["antialias"] = self._antialias and mode != "nearest"
            if self._displacement is not None:
                options["displacement"] = _core.tensor(self._displacement.astype(np.float32))
            if self._stages:
                check_floats("Colours", self.images)
                options["color"] = _core.from_numpy(self._packed())
            if mean is not None:
                options["mean"], options["std"] = mean, std
            self.images = sample(self.images, matrix, self.size, fill, **options)
        self._reset(self.images.shape[2:])
        return self.images

    def _packed(self):
        rows = [
            np.concatenate([a.reshape(self.n, -1), b.reshape(self.n, -1), c, hue[:, None]], axis=1)
            for a, b, c, hue in self._stages
        ]
        return np.stack(rows, axis=1).astype(np.float32)


class Part:
    """A Plan of which only the images where `on` (N,) bool is true change: what RandomApply shows its transforms."""

    def __init__(self, plan, on):
        self._plan, self._on = plan, on

    def __getattr__(self, name):
        return getattr(self._plan, name)

    def replace(self, images):
        """As Plan.replace, of the images that change."""
        before = self._plan.pixels()
        self._keep("images", (images.shape, images.dtype), (before.shape, before.dtype))
        out = np.copy(before, order="K")
        out[self._on] = images[self._on]
        self._plan.replace(out)

    def move(self, matrix, size=None, mode=None, fill=None, fill_mode="constant", antialias=False, displacement=None,
             cuts=True, border=False):  # fmt: skip
        """As Plan.move, of the images that change."""
        if size is not None:
            self._keep("size", tuple(size), tuple(self._plan.size))
        matrix = np.where(self._on[:, None, None], matrix, identity(len(self._on)))
        if displacement is not None:
            displacement = displacement * self._on[:, None, None, None]
        self._plan.move(matrix, None, mode, fill, fill_mode, antialias, displacement, cuts, border)

    def color(self, a, b=None, c=None, hue=None):
        """As Plan.color, of the images that change."""
        a = np.where(self._on[:, None, None], a, np.eye(self._plan.channels))
        b, c, hue = (None if v is None else (v.T * self._on).T for v in (b, c, hue))
        self._plan.color(a, b, c, hue)

    def pixels(self, mean=None, std=None):
        """As Plan.pixels, without normalisation."""
        if mean is not None:
            raise ValueError("RandomApply: expected transforms other than Normalize, which all images need")
        return self._plan.pixels()

    @staticmethod
    def _keep(what, got, expected):
        if got != expected:
            raise ValueError(f"RandomApply: expected transforms that keep the {what} {expected}, got {got}")
