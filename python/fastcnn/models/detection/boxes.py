"""Box codes and matching: what a detector's numbers mean, and which object an anchor stands for.

BoxCoder works on tensors, so that losses and decoding compile; matchers are NumPy, for the loader.
"""

from __future__ import annotations

import math

import numpy as np

from ..._core import ops

BACKGROUND, IGNORED = -1, -2
LARGEST_GROWTH = math.log(1000.0 / 16)


class BoxCoder:
    """Boxes as offsets from anchors (Girshick 2014): centres in anchor sizes, sides as logarithms, times weights.

    Args: weights: of x, y, width and height. clip: largest logarithm that decode takes.
    """

    def __init__(self, weights=(1.0, 1.0, 1.0, 1.0), clip=LARGEST_GROWTH):
        self.weights, self.clip = tuple(weights), clip

    def _scaled(self, t, inverse):
        wx, wy, ww, wh = (1 / w if inverse else w for w in self.weights)
        if wx == wy and ww == wh:
            return t[..., :2] * wx, t[..., 2:] * ww
        parts = [t[..., i : i + 1] * w for i, w in enumerate((wx, wy, ww, wh))]
        return ops.cat(parts[:2], -1), ops.cat(parts[2:], -1)

    def encode(self, boxes, anchors):
        """Offsets (..., 4) of boxes from anchors, tensors that broadcast; boxes and anchors have sides > 0."""
        size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
        center, anchor_center = boxes[..., :2] + size * 0.5, anchors[..., :2] + anchor_size * 0.5
        codes = [(center - anchor_center) / anchor_size, ops.log(size / anchor_size)]
        return ops.cat(self._scaled(ops.cat(codes, -1), False), -1)

    def decode(self, codes, anchors):
        """Boxes (..., 4) of offsets from anchors, tensors that broadcast."""
        shift, growth = self._scaled(codes, True)
        size = anchors[..., 2:] - anchors[..., :2]
        center = shift * size + (anchors[..., :2] + size * 0.5)
        half = ops.exp(ops.clamp(growth, max=self.clip)) * size * 0.5
        return ops.cat([center - half, center + half], -1)


class Matcher:
    """The object of each anchor: the one of the highest IoU from `high` on, BACKGROUND below `low`, IGNORED between.

    keep_best: each object also gets the anchors that no other anchor beats at it, however low (Ren et al. 2015).
    """

    def __init__(self, high, low, keep_best=False):
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Matcher: expected 0 <= low <= high <= 1, got low={low}, high={high}")
        self.high, self.low, self.keep_best = float(high), float(low), keep_best

    def __call__(self, iou):
        """IoU (objects, anchors) of at least one object -> int64 (anchors,): number of the object, or what is above."""
        best, matched = iou.max(0), iou.argmax(0)
        found = np.where(best < self.low, BACKGROUND, np.where(best < self.high, IGNORED, matched))
        if self.keep_best:
            # An object that no anchor touches ties with all of them, and would make each of them stand for something.
            tops = ((iou == iou.max(1, keepdims=True)) & (iou > 0)).any(0)
            found[tops] = matched[tops]
        return found


class SSDMatcher(Matcher):
    """From `threshold` on, and for each object its best anchor, later objects first (Liu et al. 2016)."""

    def __init__(self, threshold=0.5):
        super().__init__(threshold, threshold)

    def __call__(self, iou):
        """See Matcher."""
        found = super().__call__(iou)
        found[iou.argmax(1)] = np.arange(len(iou))
        return found
