"""Boxes, masks and keypoints of a batch, moved by the matrices that move its images; their checks and rules."""

from __future__ import annotations

import numpy as np

_FORMATS = ("xyxy", "xywh", "cxcywh")
_ROUNDING = 1e-3  # of a pixel: boxes may be inverted by as much


def to_xyxy(boxes, box_format):
    """(n, 4) boxes of a format as corners."""
    a, b = boxes[:, :2], boxes[:, 2:]
    if box_format == "xyxy":
        return boxes.copy()
    start = a if box_format == "xywh" else a - b / 2
    return np.concatenate([start, start + b], axis=1)


def from_xyxy(boxes, box_format):
    """(n, 4) corners as boxes of a format."""
    a, b = boxes[:, :2], boxes[:, 2:]
    if box_format == "xyxy":
        return boxes
    return np.concatenate([a if box_format == "xywh" else (a + b) / 2, b - a], axis=1)


class Targets:
    """What goes with the images of one call; false where there is nothing. See Transform for the rules."""

    def __init__(
        self, name, images, boxes, labels, masks, keypoints, box_format, min_visibility, mask_fill, keypoint_pairs=()
    ):  # fmt: skip
        n, (height, width) = len(images), images.shape[2:]
        if box_format not in _FORMATS:
            raise ValueError(f"{name}: expected box_format {', '.join(_FORMATS)}, got {box_format!r}")
        if not 0 <= min_visibility <= 1:
            raise ValueError(f"{name}: expected min_visibility in [0, 1], got {min_visibility}")
        self.format, self.min_visibility, self.mask_fill = box_format, float(min_visibility), mask_fill
        self.boxes = self.labels = self.masks = self.keypoints = None
        self._size = height, width  # of the frame that boxes and keypoints lie in
        self._given = [k for k, v in (("boxes", boxes), ("labels", labels), ("masks", masks), ("keypoints", keypoints))
                       if v is not None]  # fmt: skip
        for what, values in (("boxes", boxes), ("labels", labels), ("masks", masks), ("keypoints", keypoints)):
            if values is not None and len(values) != n:
                raise ValueError(f"{name}: expected {what} of {n} images, got {len(values)}")
        if boxes is not None:
            self.boxes = [self._box_rows(name, i, b) for i, b in enumerate(boxes)]
            self._dtypes = [np.result_type(np.asarray(b).dtype, np.float16) for b in boxes]
            self._visible = [np.ones(len(b)) for b in self.boxes]  # share of the area that no frame has cut off
        if labels is not None:
            if boxes is None:
                raise ValueError(f"{name}: labels go with boxes, got no boxes")
            self.labels = [np.asarray(v) for v in labels]
            for i, (a, b) in enumerate(zip(self.labels, self.boxes, strict=True)):
                if len(a) != len(b):
                    raise ValueError(f"{name}: expected {len(b)} labels for the boxes of image {i}, got {len(a)}")
        if keypoints is not None:
            self.keypoints = [np.array(k, dtype=np.float64).reshape(-1, np.shape(k)[-1] if np.size(k) else 2)
                              for k in keypoints]  # fmt: skip
            for i, k in enumerate(self.keypoints):
                if k.ndim != 2 or k.shape[1] < 2:
                    raise ValueError(f"{name}: expected keypoints (n, 2 or more) of image {i}, got shape {k.shape}")
            self._inside = [np.ones(len(k), bool) for k in self.keypoints]
        self._pairs = self._pair_rows(name, keypoint_pairs)
        if masks is not None:
            self.masks, self._counts = self._mask_array(name, masks, (height, width))
            if not np.array_equal(np.asarray(mask_fill).astype(self.masks.dtype), mask_fill, equal_nan=True):
                raise ValueError(f"{name}: expected a mask_fill that {self.masks.dtype} can hold, got {mask_fill}")

    def __bool__(self):
        return bool(self._given)

    @staticmethod
    def _mask_array(name, masks, size):
        """(masks (N, H, W) or (N, K, H, W); how many of the K each image has, None where all have K)."""
        masks = [np.asarray(m) for m in masks]
        shapes = {m.shape for m in masks}
        good = all(m.ndim in (2, 3) and m.shape[-2:] == size for m in masks)
        if not good or (len(shapes) > 1 and {m.ndim for m in masks} != {3}):
            raise ValueError(
                f"{name}: expected masks (N, H, W) or (N, K, H, W) of the images' {size}, got shape "
                + (f"{(len(masks), *masks[0].shape)}" if len(shapes) == 1 else f"{sorted(shapes)} of single images")
            )
        if len(shapes) == 1:
            return np.stack(masks), None
        counts = [len(m) for m in masks]
        whole = np.zeros((len(masks), max(counts), *size), np.result_type(*masks))
        for row, m in zip(whole, masks, strict=True):
            row[: len(m)] = m
        return whole, counts

    def _pair_rows(self, name, pairs):
        rows = np.asarray(pairs, dtype=object if len(pairs) == 0 else None)
        if rows.size == 0:
            return np.zeros((0, 2), np.int64)
        if rows.dtype.kind not in "iu" or rows.ndim != 2 or rows.shape[1] != 2 or len(np.unique(rows)) != rows.size:
            raise ValueError(f"{name}: expected keypoint_pairs (p, 2) of rows, each at most once, got {pairs!r:.80}")
        if self.keypoints is None:
            raise ValueError(f"{name}: keypoint_pairs go with keypoints, got no keypoints")
        for k in self.keypoints:
            if len(k) and (rows.min() < 0 or rows.max() >= len(k)):
                raise ValueError(f"{name}: expected keypoint_pairs of rows below {len(k)}, got {pairs!r:.80}")
        return rows

    def _box_rows(self, name, i, boxes):
        rows = np.asarray(boxes, dtype=np.float64)
        rows = rows.reshape(0, 4) if rows.size == 0 else rows
        if rows.ndim != 2 or rows.shape[1] != 4:
            raise ValueError(f"{name}: expected boxes (n, 4) of image {i}, got shape {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError(f"{name}: expected finite boxes, got {rows[~np.isfinite(rows).all(1)][0]} in image {i}")
        rows = to_xyxy(rows, self.format)
        bad = (rows[:, 2:] < rows[:, :2] - _ROUNDING).any(1)
        if bad.any():
            raise ValueError(f"{name}: expected boxes of positive size, got corners {rows[bad][0]} in image {i}")
        return rows

    def move(self, matrix, displacement, size, fill_mode):
        """matrix (N, 3, 3) and displacement (N, 2, h, w) or None: as of Plan.move."""
        if self.masks is not None:
            self._move_masks(matrix, displacement, size, fill_mode)
        if self.boxes is None and self.keypoints is None:
            return
        self._cut()
        self._size = size
        # Continuous coordinates: the centre of pixel i lies at i + 0.5.
        half = np.eye(3)
        half[:2, 2] = 0.5
        forward = half @ np.linalg.inv(matrix) @ np.linalg.inv(half)
        for i, m in enumerate(forward):
            field = None if displacement is None else displacement[i]
            if self.boxes is not None and len(self.boxes[i]):
                x0, y0, x1, y1 = self.boxes[i].T
                xs, ys = [x0, x1, x1, x0], [y0, y0, y1, y1]
                if field is not None:  # edges bend
                    xm, ym = (x0 + x1) / 2, (y0 + y1) / 2
                    xs, ys = xs + [xm, x1, xm, x0], ys + [y0, ym, y1, ym]
                points = _moved(np.stack([np.stack(xs, 1), np.stack(ys, 1)], -1).reshape(-1, 2), m, field)
                points = points.reshape(len(x0), -1, 2)
                self.boxes[i] = np.concatenate([points.min(1), points.max(1)], axis=1)
            if self.keypoints is not None and len(self.keypoints[i]):
                points = self.keypoints[i]
                points[:, :2] = _moved(points[:, :2], m, field)
                if len(self._pairs) and np.linalg.det(m[:2, :2]) < 0:  # mirrored
                    points[self._pairs] = points[self._pairs[:, ::-1]]

    def _move_masks(self, matrix, displacement, size, fill_mode):
        from .plan import _core, sample_words

        masks = self.masks if self.masks.ndim == 4 else self.masks[:, None]
        if masks.shape[1] == 0:
            self.masks = np.zeros((*masks.shape[:2], *size), masks.dtype)
            return
        options = {}
        if displacement is not None:
            options["displacement"] = _core.tensor(displacement.astype(np.float32))
        moved = sample_words(masks, matrix, size, self.mask_fill, fill_mode, **options)
        self.masks = moved if self.masks.ndim == 4 else moved[:, 0]

    def _cut(self):
        """Cuts boxes and keypoints to the frame that pixels are made of: no later step brings back what is outside."""
        height, width = self._size
        for i in range(0 if self.boxes is None else len(self.boxes)):
            clipped = np.clip(self.boxes[i], 0, [width, height, width, height])
            area, inside = _areas(self.boxes[i]), _areas(clipped)
            self._visible[i] *= np.divide(inside, area, out=np.zeros_like(area), where=area > 0)
            self.boxes[i] = clipped
        for i in range(0 if self.keypoints is None else len(self.keypoints)):
            x, y = self.keypoints[i][:, 0], self.keypoints[i][:, 1]
            self._inside[i] &= (x >= 0) & (x <= width) & (y >= 0) & (y <= height)

    def results(self):
        """The dict of what was given, after rules."""
        self._cut()
        out = {}
        if self.boxes is not None:
            boxes, index = [], []
            for rows, visible, dtype in zip(self.boxes, self._visible, self._dtypes, strict=True):
                keep = np.flatnonzero((visible > 0) & (visible >= self.min_visibility * (1 - 1e-6)))
                boxes.append(from_xyxy(rows[keep], self.format).astype(dtype))
                index.append(keep)
            out["boxes"], out["box_index"] = boxes, index
            if self.labels is not None:
                out["labels"] = [v[k] for v, k in zip(self.labels, index, strict=True)]
        if self.masks is not None:
            out["masks"] = self.masks
            if self._counts is not None:
                out["masks"] = [m[:k] for m, k in zip(self.masks, self._counts, strict=True)]
        if self.keypoints is not None:
            out["keypoints"] = self.keypoints
            out["keypoints_inside"] = self._inside
        return out


def _areas(rows):
    """(n,) of corners (n, 4); 0 of those inverted by rounding."""
    return np.prod(np.maximum(rows[:, 2:] - rows[:, :2], 0), axis=1)


def _moved(points, forward, field):
    """points (n, 2) by a 3x3 matrix, then against a displacement field (2, h, w) of the result."""
    p = points @ forward[:2, :2].T + forward[:2, 2]
    w = points @ forward[2, :2] + forward[2, 2]
    # Behind the horizon of a perspective there is no point: as far as its limit.
    p = p / np.where(np.abs(w) < 1e-6, 1e-6, w)[:, None]
    if field is None:
        return p
    # p + field(p) = target. Half steps later on: a strong field makes whole ones run away; the nearest p counts.
    target, found, least = p, p, np.full(len(p), np.inf)
    for step in (1.0,) * 5 + (0.5,) * 20:
        gap = target - p - _field_at(field, p)
        off = np.hypot(gap[:, 0], gap[:, 1])
        found = np.where((off < least)[:, None], p, found)
        least = np.minimum(least, off)
        if not (least > 1e-3).any():
            break
        p = p + step * gap
    return found


def _field_at(field, points):
    """(n, 2) of a displacement field (2, h, w) at points, bilinear."""
    h, w = field.shape[1:]
    x, y = np.clip(points[:, 0] - 0.5, 0, w - 1), np.clip(points[:, 1] - 0.5, 0, h - 1)
    x0, y0 = np.minimum(x.astype(int), max(w - 2, 0)), np.minimum(y.astype(int), max(h - 2, 0))
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = x - x0, y - y0
    upper = field[:, y0, x0] * (1 - fx) + field[:, y0, x1] * fx
    lower = field[:, y1, x0] * (1 - fx) + field[:, y1, x1] * fx
    return (upper * (1 - fy) + lower * fy).T
