"""Real images for GANs: a dataset's pixels in [-1, 1] and of the generator's size. Not augmentation."""

from __future__ import annotations

import numpy as np

from ..data.base import ImageDataset, copy_metadata


class CentredImages(ImageDataset):
    """A dataset with pixels scaled to [-1, 1] instead of by its mean and std, with a black border up to image_size.

    Args: dataset: an ImageDataset. image_size: S or (H, W); None: as it is. Raises: ValueError where the images are
    larger, or more than an eighth smaller (28 to 32 pixels is fine): resize those.
    """

    def __init__(self, dataset, image_size=None):
        if not isinstance(dataset, ImageDataset):
            raise TypeError(f"CentredImages: expected an ImageDataset, got {type(dataset).__name__}")
        copy_metadata(self, dataset)
        self.dataset, self.mean, self.std = dataset, (0.5,), (0.5,)
        have = tuple(dataset.image_size)
        want = have if image_size is None else (image_size, image_size) if np.ndim(image_size) == 0 else image_size
        want = tuple(int(s) for s in want)
        if any(h > w or w - h > w / 8 for h, w in zip(have, want, strict=True)):
            raise ValueError(f"CentredImages: expected images of {want[0]}x{want[1]} or a little less, got {have}")
        self.image_size = want
        self._border = tuple(((w - h) // 2, w - h - (w - h) // 2) for h, w in zip(have, want, strict=True))

    @property
    def labels(self):
        """Those of the images, or None."""
        return self.dataset.labels

    def __len__(self):
        return len(self.dataset)

    def _padded(self, pixels):
        return np.pad(pixels, ((0, 0), *self._border, (0, 0))) if any(map(any, self._border)) else pixels

    def raw(self, index):
        pixels, label = self.dataset.raw(index)
        return self._padded(np.asarray(pixels)[None])[0], label

    def raw_batch(self, indices):
        pixels, labels = self.dataset.raw_batch(indices)
        return self._padded(pixels), labels

    def unit_pixels(self, indices):
        """float32 (N, C, H, W) in [0, 1]."""
        return to_unit(self.normalize(self.raw_batch(indices)[0])).transpose(0, 3, 1, 2)


def to_unit(images):
    """[-1, 1] to [0, 1], clipped."""
    return np.clip(images * np.float32(0.5) + np.float32(0.5), 0, 1)
