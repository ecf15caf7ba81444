"""Boxes that a detector starts from, for each place of each feature map: NumPy, once per image size.

Order everywhere: feature maps, then rows, then columns, then the boxes of a place.
"""

from __future__ import annotations

import numpy as np


class AnchorGenerator:
    """Anchors of all sizes and aspect ratios around each place (Ren et al. 2015), their corners in whole pixels.

    Args: sizes: for each feature map the square roots of the areas, in pixels. aspect_ratios: for each feature map
    height / width. Two maps of the same image have strides image size // map size.
    """

    def __init__(self, sizes, aspect_ratios=((0.5, 1.0, 2.0),)):
        self.sizes = [tuple(s) for s in sizes]
        ratios = [tuple(r) for r in aspect_ratios]
        self.aspect_ratios = ratios * len(self.sizes) if len(ratios) == 1 else ratios
        if len(self.aspect_ratios) != len(self.sizes) or not self.sizes:
            raise ValueError(
                f"AnchorGenerator: expected aspect_ratios for {len(self.sizes)} feature maps, got {len(ratios)}"
            )

    @property
    def maps(self):
        """How many feature maps it wants."""
        return len(self.sizes)

    def num_anchors_per_location(self):
        """Boxes of a place, for each feature map."""
        return [len(s) * len(r) for s, r in zip(self.sizes, self.aspect_ratios, strict=True)]

    def _cell(self, level):
        scales = np.array(self.sizes[level], np.float32)
        h = np.sqrt(np.array(self.aspect_ratios[level], np.float32))
        w = 1 / h
        ws, hs = (w[:, None] * scales).reshape(-1), (h[:, None] * scales).reshape(-1)
        return np.round(np.stack([-ws, -hs, ws, hs], 1) / 2)

    def __call__(self, image_size, grids):
        """(H, W) of the images and [(h, w)] of the feature maps -> float32 (anchors, 4)."""
        found = []
        for level, (h, w) in enumerate(grids):
            y, x = (a.reshape(-1) for a in np.mgrid[0:h, 0:w])
            y, x = y * (image_size[0] // h), x * (image_size[1] // w)
            shifts = np.stack([x, y, x, y], 1).astype(np.float32)
            found.append((shifts[:, None] + self._cell(level)).reshape(-1, 4))
        return np.concatenate(found)


class DefaultBoxGenerator:
    """Default boxes of SSD (Liu et al. 2016): two squares and, for each aspect ratio, a wide and a tall box.

    Args: aspect_ratios: for each feature map. scales: of the boxes in shares of the image, one more than maps; without
    them evenly spaced from min_ratio to max_ratio, and 1. steps: pixels between places, without them those of the map.
    clip: no side longer than the image.
    """

    def __init__(self, aspect_ratios, min_ratio=0.15, max_ratio=0.9, scales=None, steps=None, clip=True):
        self.aspect_ratios = [tuple(r) for r in aspect_ratios]
        n = len(self.aspect_ratios)
        if scales is None:
            step = (max_ratio - min_ratio) / (n - 1) if n > 1 else 0
            scales = [min_ratio + step * k for k in range(n)] + [1.0 if n > 1 else max_ratio]
        if len(scales) != n + 1 or (steps is not None and len(steps) != n):
            raise ValueError(
                f"DefaultBoxGenerator: expected {n + 1} scales and {n} steps for {n} feature maps, got {len(scales)} "
                f"and {'none' if steps is None else len(steps)}"
            )
        self.scales, self.steps, self.clip = list(scales), None if steps is None else list(steps), clip

    @property
    def maps(self):
        """How many feature maps it wants."""
        return len(self.aspect_ratios)

    def num_anchors_per_location(self):
        """Boxes of a place, for each feature map."""
        return [2 + 2 * len(r) for r in self.aspect_ratios]

    def _sides(self, level):
        s, larger = self.scales[level], (self.scales[level] * self.scales[level + 1]) ** 0.5
        pairs = [(s, s), (larger, larger)]
        for ratio in self.aspect_ratios[level]:
            root = ratio**0.5
            pairs += [(s * root, s / root), (s / root, s * root)]
        sides = np.array(pairs, np.float32)
        return np.clip(sides, 0, 1) if self.clip else sides

    def __call__(self, image_size, grids):
        """(H, W) of the images and [(h, w)] of the feature maps -> float32 (anchors, 4)."""
        size = np.array([image_size[1], image_size[0]], np.float32)
        found = []
        for level, (h, w) in enumerate(grids):
            rows, cols = (h, w) if self.steps is None else (n / self.steps[level] for n in image_size)
            y, x = np.meshgrid((np.arange(h) + 0.5) / rows, (np.arange(w) + 0.5) / cols, indexing="ij")
            centers = np.stack([x.reshape(-1), y.reshape(-1)], 1).astype(np.float32)[:, None]
            half = np.float32(0.5) * self._sides(level)
            boxes = np.concatenate(np.broadcast_arrays((centers - half) * size, (centers + half) * size), -1)
            found.append(boxes.reshape(-1, 4))
        return np.concatenate(found)
