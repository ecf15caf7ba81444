"""Random crop and flips on whole batches, and the base class of every transform.

A transform has two halves: draw(rng, size) makes one row of parameters per sample, apply(images, params)
moves pixels. Apart, because the same parameters have to move boxes, masks and keypoints. Images are (N, C, H,
W), or one (C, H, W); memory may be channels-last and stays so. Normalising is the dataset's business.
"""

from __future__ import annotations

import os

import numpy as np

from .._philox import SampleRng

_PAD_MODES = {
    "constant": "constant",
    "zeros": "constant",
    "edge": "edge",
    "replicate": "edge",
    "reflect": "reflect",
    "symmetric": "symmetric",
}


class Transform:
    """Callable: transform(images, rng=None) -> images.

    images: (N, C, H, W) or (C, H, W) array, any numeric dtype. rng: a SampleRng of N samples (DataLoader
    gives one by seed, epoch and sample number), an int seed, or None for fresh randomness. The input is never
    changed.
    """

    def draw(self, rng, size):
        """Parameters for len(rng) samples of size (H, W): a dict of arrays whose first axis is N."""
        raise NotImplementedError

    def apply(self, images, params):
        """images (N, C, H, W) -> (N, C, H', W')."""
        raise NotImplementedError

    def __call__(self, images, rng=None):
        images = np.asarray(images)
        name = type(self).__name__
        if images.ndim == 3:
            return self(images[None], rng)[0]
        if images.ndim != 4:
            raise ValueError(f"{name}: expected images (N, C, H, W) or (C, H, W), got shape {images.shape}")
        if images.dtype.kind not in "uif":
            raise ValueError(f"{name}: expected images of a numeric dtype, got {images.dtype}")
        if not isinstance(rng, SampleRng):
            seed = int.from_bytes(os.urandom(8), "little") if rng is None else rng
            rng = SampleRng(seed, 0, np.arange(len(images)))
        if len(rng) != len(images):
            raise ValueError(f"{name}: expected random numbers for {len(images)} images, got {len(rng)}")
        return self._run(images, rng)

    def _run(self, images, rng):
        return self.apply(images, self.draw(rng, images.shape[2:]))


class Compose(Transform):
    """Transforms one after another."""

    def __init__(self, transforms):
        self.transforms = list(transforms)
        for t in self.transforms:
            if not callable(t):
                raise TypeError(f"Compose: expected callables, got {type(t).__name__}")

    def _run(self, images, rng):
        for t in self.transforms:
            images = t(images, rng)
        return images

    def __repr__(self):
        return f"Compose({self.transforms!r})"


class RandomCrop(Transform):
    """Pads, then cuts a window at a random place (the usual CIFAR augmentation; He et al. 2015).

    Args: size: int or (h, w) of the window, default the input's size. padding: int, or (left and right, top
    and bottom), or (left, top, right, bottom), as torchvision. fill: value of the border, in the images' own
    units.
    padding_mode: constant, edge, reflect or symmetric.
    Raises: ValueError if the window is larger than the padded image.
    """

    def __init__(self, size=None, padding=0, fill=0, padding_mode="constant"):
        if size is not None:
            size = (size, size) if np.ndim(size) == 0 else tuple(size)
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"RandomCrop: expected size as int or (h, w) of at least 1, got {size}")
        pads = [padding] if np.ndim(padding) == 0 else list(padding)
        if len(pads) not in (1, 2, 4) or min(pads) < 0 or any(int(p) != p for p in pads):
            raise ValueError(f"RandomCrop: expected padding of 1, 2 or 4 ints >= 0, got {padding}")
        if padding_mode not in _PAD_MODES:
            raise ValueError(
                f"RandomCrop: expected padding_mode in {sorted(_PAD_MODES)}, got {padding_mode!r}"
            )
        left, top, right, bottom = (pads * 4)[:4] if len(pads) < 4 else pads
        self.size, self.fill, self.padding_mode = size, fill, padding_mode
        self.padding = (int(left), int(top), int(right), int(bottom))

    def _range(self, size):
        left, top, right, bottom = self.padding
        h, w = self.size or size
        span = (size[0] + top + bottom - h, size[1] + left + right - w)
        if min(span) < 0:
            raise ValueError(
                f"RandomCrop: expected a window of at most {(h + span[0], w + span[1])} (image "
                f"{tuple(size)} with padding {self.padding}), got {(h, w)}"
            )
        return span

    def draw(self, rng, size):
        rows, cols = self._range(size)
        y, x, _, _ = rng.bits()
        shift = np.uint64(32)  # multiply-shift: two coordinates from one draw
        top = ((y * np.uint64(rows + 1)) >> shift).astype(np.int64)
        left = ((x * np.uint64(cols + 1)) >> shift).astype(np.int64)
        return {"top": top, "left": left}

    def apply(self, images, params):
        pixels = images.transpose(0, 2, 3, 1)
        n, height, width, channels = pixels.shape
        rows, cols = self._range((height, width))
        h, w = self.size or (height, width)
        left, top, right, bottom = self.padding
        if any(self.padding):
            if _PAD_MODES[self.padding_mode] == "constant":
                padded = np.empty((n, height + top + bottom, width + left + right, channels), pixels.dtype)
                padded[:, :top], padded[:, top + height :] = self.fill, self.fill
                middle = padded[:, top : top + height]
                middle[:, :, :left], middle[:, :, left + width :] = self.fill, self.fill
                middle[:, :, left : left + width] = pixels
            else:
                border = ((0, 0), (top, bottom), (left, right), (0, 0))
                padded = np.pad(pixels, border, mode=_PAD_MODES[self.padding_mode])
        else:
            padded = pixels
        # A view of all windows: one indexing call then copies the chosen window of each image, row by row.
        sn, sy, sx, sc = padded.strides
        windows = np.lib.stride_tricks.as_strided(
            padded, (n, rows + 1, cols + 1, h, w, channels), (sn, sy, sx, sy, sx, sc), writeable=False
        )
        return windows[np.arange(n), params["top"], params["left"]].transpose(0, 3, 1, 2)

    def __repr__(self):
        return f"RandomCrop(size={self.size}, padding={self.padding}, padding_mode={self.padding_mode!r})"


class _RandomFlip(Transform):
    _axis = None

    def __init__(self, p=0.5):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{type(self).__name__}: expected p in [0, 1], got {p}")
        self.p = float(p)

    def draw(self, rng, size):
        return {"flip": rng.uniform() < self.p}

    def apply(self, images, params):
        rows = np.flatnonzero(params["flip"])
        out = np.copy(images, order="K")
        out[rows] = np.flip(images, self._axis)[rows]
        return out

    def __repr__(self):
        return f"{type(self).__name__}(p={self.p})"


class RandomHorizontalFlip(_RandomFlip):
    """Mirrors left and right with probability p."""

    _axis = 3


class RandomVerticalFlip(_RandomFlip):
    """Mirrors top and bottom with probability p."""

    _axis = 2


def augment_batch(images, rng, pad=4, flip=True, padding_mode="constant"):
    """Random crop after padding by `pad` pixels, then a horizontal flip: the default for small images.

    Args: images: (N, C, H, W); rng: SampleRng, int seed or None, see Transform; pad: 0 for no crop; flip:
    bool, or the probability. Returns new images of the same shape.
    """
    steps = [RandomCrop(padding=pad, padding_mode=padding_mode)] if pad else []
    if flip:
        steps.append(RandomHorizontalFlip(0.5 if flip is True else flip))
    return Compose(steps)(images, rng)
