"""Masks from COCO's annotations: polygons, run lengths as lists and as text. Palette images are read by voc.py."""

from __future__ import annotations

import numpy as np


def polygon_mask(points, size):
    """(H, W) bool, whether the centre of a pixel lies inside a polygon, by the even-odd rule.

    points: (n, 2) x and y, pixel (0, 0) being the square from (0, 0) to (1, 1). Parts outside the image are cut off.
    """
    height, width = size
    points = np.clip(points, -1e7, 1e7)
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    rows = np.arange(height)[:, None] + 0.5
    crosses = (y0 <= rows) != (y1 <= rows)  # (H, edges)
    row, edge = np.nonzero(crosses)
    at = x0[edge] + (rows[row, 0] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    # Left of an odd number of crossings: toggles at the first centre right of each, summed along the row.
    column = np.clip(np.ceil(at - 0.5), 0, width).astype(np.int64)
    toggles = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return (np.cumsum(toggles, axis=1)[:, :width] & 1).astype(bool)


def rle_counts(text):
    """Run lengths of COCO's compressed text: 5 bits a character, low ones first, 32 says that more follow; from the
    third on the difference to the last but one."""
    counts, value, shift = [], 0, 0
    for c in text.encode() if isinstance(text, str) else text:
        c -= 48
        if not 0 <= c < 64:
            raise ValueError(f"character {c + 48} is none of run lengths")
        value |= (c & 31) << shift
        shift += 5
        if c & 32:
            continue
        if c & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the text ends within a number")
    return counts


def rle_mask(counts, size):
    """(H, W) bool of run lengths, the first of zeros, down the columns. Raises: ValueError unless they fill it."""
    height, width = size
    counts = np.asarray(counts)
    if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu") or (counts < 0).any():
        raise ValueError("expected run lengths as ints of at least 0")
    total = sum(counts.tolist())  # of Python's ints: a sum that wraps around would have repeat() write out of bounds
    if total != height * width:
        raise ValueError(f"expected run lengths that sum to {height} x {width}, got {total}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def segmentation_mask(segmentation, size):
    """(H, W) bool of an annotation's segmentation: a list of polygons [x, y, x, y, ...], or a dict of run lengths.

    Raises: ValueError that says what is wrong.
    """
    if isinstance(segmentation, dict):
        counts, found = segmentation.get("counts"), segmentation.get("size")
        if counts is None or not isinstance(found, (list, tuple)) or tuple(found) != tuple(size):
            raise ValueError(f"expected run lengths with counts and size {list(size)}, got size {found}")
        return rle_mask(rle_counts(counts) if isinstance(counts, (str, bytes)) else counts, size)
    if not isinstance(segmentation, list):
        raise ValueError(f"expected polygons or run lengths, got {type(segmentation).__name__}")
    mask = np.zeros(size, bool)
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):
            points = np.zeros(0)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError(f"expected a polygon of at least 3 points [x, y, ...], got {polygon!r:.60}")
        mask |= polygon_mask(points.reshape(-1, 2), size)
    return mask
