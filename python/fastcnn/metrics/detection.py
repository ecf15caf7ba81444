"""mean_average_precision: how well boxes or instance masks are found, by the rules of COCO, without pycocotools.

Not for segmentation by class (mean_iou) and not a loss. Matching happens in update(), image by image; what stays is one
row of flags per detection.
"""

from __future__ import annotations

import numpy as np

from ..augment.targets import from_xyxy, to_xyxy
from .base import Metric, check_ids

_AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_RECALLS = np.linspace(0.0, 1.0, 101)
_FORMATS = ("xyxy", "xywh", "cxcywh")


def _overlap(inter, area_d, area_g, crowd):
    """(D, G) intersection over union; over the detection's own area where the target is a crowd."""
    union = np.where(crowd, area_d[:, None], area_d[:, None] + area_g - inter)
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def _box_overlap(a, b, crowd):
    """Of boxes a (D, 4) and b (G, 4), xyxy."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    inter = np.clip(high - low, 0, None).prod(-1)
    return _overlap(inter, (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1), crowd)


def _mask_overlap(a, b, crowd):
    """Of masks a (D, H * W) and b (G, H * W), float32: counts below 2**24 are exact."""
    return _overlap((a @ b.T).astype(np.float64), a.sum(1, dtype=np.float64), b.sum(1, dtype=np.float64), crowd)


def _match(overlap, crowd, ignored, thresholds):
    """Greedy matching of D detections, best first, to G targets, for A ranges of area and T thresholds at once.

    overlap (D, G); crowd (G,); ignored (A, G). Returns (A, T, D): matched, and matched to an ignored target. Of targets
    over the threshold that are still free the one of largest overlap is taken, an ignored one only where there is no
    other; crowds stay free.
    """
    shape = (len(ignored), len(thresholds), len(overlap))
    matched, to_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    if not overlap.size:
        return matched, to_ignored
    free = np.ones((len(ignored), len(thresholds), overlap.shape[1]), bool)
    counted = ~ignored[:, None]
    last = overlap.shape[1] - 1
    a, t = np.ogrid[: shape[0], : shape[1]]
    for d in np.flatnonzero(overlap.max(1) >= thresholds.min()):
        open_ = (free | crowd) & (overlap[d] >= thresholds[:, None])
        first = open_ & counted
        value = np.where(np.where(first.any(-1, keepdims=True), first, open_), overlap[d], -1.0)
        best = last - value[..., ::-1].argmax(-1)  # of equals the last
        hit = open_[a, t, best]
        matched[..., d] = hit
        to_ignored[..., d] = hit & ignored[a, best]
        free[a, t, best] &= ~hit
    return matched, to_ignored


class _Class:
    """What is known of one class: per batch of detections scores (D,), place in their image (D,), and flags
    (A, T, D) of hits and of misses; targets that count, per range of area."""

    def __init__(self, areas):
        self.scores, self.places, self.hits, self.misses = [], [], [], []
        self.positives = np.zeros(areas, np.int64)

    def add(self, other):
        for name in ("scores", "places", "hits", "misses"):
            getattr(self, name).extend(getattr(other, name))
        self.positives += other.positives

    def curve(self, area, limit):
        """(precision (T, 101), recall (T,)) with at most `limit` detections per image; None without targets."""
        if not self.positives[area]:
            return None
        if not self.scores:
            return 0.0, 0.0
        if len(self.scores) > 1:
            self.scores, self.places = [np.concatenate(self.scores)], [np.concatenate(self.places)]
            self.hits, self.misses = [np.concatenate(self.hits, -1)], [np.concatenate(self.misses, -1)]
        order = np.argsort(-self.scores[0], kind="stable")
        order = order[self.places[0][order] < limit]
        hits = self.hits[0][area][:, order].cumsum(-1, dtype=np.float64)
        misses = self.misses[0][area][:, order].cumsum(-1, dtype=np.float64)
        recall = hits / self.positives[area]
        precision = hits / (hits + misses + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], -1)[:, ::-1]
        precision = np.concatenate([precision, np.zeros((len(precision), 1))], -1)
        at = np.stack([np.searchsorted(r, _RECALLS, side="left") for r in recall])
        return np.take_along_axis(precision, at, -1), recall[:, -1]


class MeanAveragePrecision(Metric):
    """COCO's mean average precision and recall (Lin et al. 2014), equal to pycocotools on the same detections.

    Args:
        iou_thresholds: default 0.5, 0.55, ..., 0.95.
        max_detections: per image and class, best scores first; recall is given for each number, precision for the
            last. Default (1, 10, 100).
        box_format: "xyxy", "xywh" or "cxcywh", of predictions and targets, in pixels.
        iou_type: "bbox", or "segm" for masks.
    compute() gives a dict as torchmetrics does: map, map_50, map_75 (nan without that threshold), map_small (area below
    32 x 32 pixels), map_medium, map_large (from 96 x 96), mar_1, mar_10, mar_100, mar_small, mar_medium, mar_large;
    classes (K,) and of each map_per_class and mar_100_per_class (K,). nan where there is no target.
    """

    name = "mean_average_precision"
    is_scalar = False

    def __init__(self, iou_thresholds=None, max_detections=(1, 10, 100), box_format="xyxy", iou_type="bbox"):
        thresholds = np.linspace(0.5, 0.95, 10) if iou_thresholds is None else np.atleast_1d(iou_thresholds)
        if thresholds.ndim != 1 or not thresholds.size or not ((thresholds > 0) & (thresholds <= 1)).all():
            raise ValueError(f"{self.name}: expected iou_thresholds in (0, 1], got {iou_thresholds}")
        limits = tuple(int(m) for m in np.atleast_1d(max_detections))
        if not limits or min(limits) < 1 or list(limits) != sorted(set(limits)):
            raise ValueError(f"{self.name}: expected max_detections >= 1 that rise, got {max_detections}")
        if box_format not in _FORMATS:
            raise ValueError(f"{self.name}: expected box_format {', '.join(_FORMATS)}, got {box_format!r}")
        if iou_type not in ("bbox", "segm"):
            raise ValueError(f"{self.name}: expected iou_type 'bbox' or 'segm', got {iou_type!r}")
        self.iou_thresholds, self.max_detections = thresholds.astype(np.float64), limits
        self.box_format, self.iou_type = box_format, iou_type
        self._ranges = np.array(list(_AREAS.values()))
        self.reset()

    def reset(self):
        self._classes = {}
        self.images = 0

    def update(self, predictions, targets):
        """Adds a batch.

        predictions: per image a dict of boxes (n, 4), scores (n,), labels (n,) ints; with iou_type "segm" masks
        (n, H, W) instead of boxes. targets: per image a dict of boxes or masks, labels and, where known, iscrowd (n,)
        and area (n,) in pixels, which decides small, medium and large (default: the box's, or the mask's).
        """
        if isinstance(predictions, dict) or isinstance(targets, dict) or len(predictions) != len(targets):
            raise ValueError(
                f"{self.name}: expected a list of dicts per image for predictions and targets, got "
                f"{_sizes(predictions)} and {_sizes(targets)}"
            )
        # All are read before any is counted: a failed update counts nothing.
        read = [
            (self._read(p, "predictions", i), self._read(t, "targets", i))
            for i, (p, t) in enumerate(zip(predictions, targets, strict=True))
        ]
        if self.iou_type == "segm":
            for i, (p, t) in enumerate(read):
                if p["labels"].size and t["labels"].size and p["shapes"].shape[1] != t["shapes"].shape[1]:
                    raise ValueError(f"{self.name}: expected predicted masks of the targets' size in image {i}")
        for p, t in read:
            self._add_image(p, t)
            self.images += 1

    def _read(self, item, what, i):
        """Checked arrays of one dict: labels, shapes (boxes xyxy, or flat masks), area, scores or crowd."""
        where = f"{what}[{i}]"
        shape_key = "boxes" if self.iou_type == "bbox" else "masks"
        needed = (shape_key, "labels", "scores") if what == "predictions" else (shape_key, "labels")
        if not isinstance(item, dict) or any(k not in item for k in needed):
            got = sorted(item) if isinstance(item, dict) else type(item).__name__
            raise ValueError(f"{self.name}: expected {where} as a dict of {', '.join(needed)}, got {got}")
        labels = np.asarray(item["labels"])
        labels = labels.astype(np.int64) if labels.size == 0 else labels  # an empty list has no dtype
        labels = check_ids(self.name, f"{where}['labels']", labels)
        if labels.ndim != 1:
            raise ValueError(f"{self.name}: expected {where}['labels'] of shape (n,), got {labels.shape}")
        out = {"labels": labels}
        if shape_key == "boxes":
            out["shapes"] = self._boxes(item["boxes"], where, len(labels))
            area = (out["shapes"][:, 2:] - out["shapes"][:, :2]).prod(1)
        else:
            out["shapes"] = self._masks(item["masks"], where, len(labels))
            area = out["shapes"].sum(1, dtype=np.float64)
        if what == "predictions":
            out["scores"] = self._numbers(item["scores"], f"{where}['scores']", len(labels))
        else:
            out["crowd"] = self._numbers(item.get("iscrowd", np.zeros(len(labels))), f"{where}['iscrowd']", len(labels))
            out["crowd"] = out["crowd"] != 0
            area = self._numbers(item.get("area", area), f"{where}['area']", len(labels))
        out["area"] = area
        return out

    def _numbers(self, values, what, n):
        values = np.asarray(values, np.float64)
        values = values.reshape(0) if values.size == 0 else values
        if values.shape != (n,) or not np.isfinite(values).all():
            raise ValueError(f"{self.name}: expected {what} of {n} finite numbers, got shape {values.shape}: {values}")
        return values

    def _boxes(self, boxes, where, n):
        boxes = np.asarray(boxes, np.float64)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        if boxes.shape != (n, 4):
            raise ValueError(f"{self.name}: expected {where}['boxes'] of shape ({n}, 4), got {boxes.shape}")
        sizes = from_xyxy(boxes, "xywh")[:, 2:] if self.box_format == "xyxy" else boxes[:, 2:]
        bad = ~np.isfinite(boxes).all(1) | (sizes < 0).any(1)
        if bad.any():
            raise ValueError(
                f"{self.name}: expected finite boxes {self.box_format} without negative sizes, got {boxes[bad][0]} "
                f"in {where}"
            )
        return to_xyxy(boxes, self.box_format)

    def _masks(self, masks, where, n):
        masks = np.asarray(masks)
        if n == 0 and masks.size == 0:  # as of boxes: an empty list has no shape
            return np.zeros((0, 0), np.float32)
        if masks.ndim != 3 or len(masks) != n:
            raise ValueError(f"{self.name}: expected {where}['masks'] of shape ({n}, H, W), got {masks.shape}")
        return (masks != 0).reshape(n, -1).astype(np.float32)

    def _add_image(self, p, t):
        low, high = self._ranges[:, :1], self._ranges[:, 1:]
        for label in np.union1d(p["labels"], t["labels"]):
            mine, theirs = np.flatnonzero(p["labels"] == label), np.flatnonzero(t["labels"] == label)
            mine = mine[np.argsort(-p["scores"][mine], kind="stable")][: self.max_detections[-1]]
            crowd = t["crowd"][theirs]
            known = self._classes.setdefault(int(label), _Class(len(self._ranges)))
            ignored = crowd | (t["area"][theirs] < low) | (t["area"][theirs] > high)
            known.positives += (~ignored).sum(1)
            if not len(mine):
                continue
            measure = _box_overlap if self.iou_type == "bbox" else _mask_overlap
            overlap = np.zeros((len(mine), 0))
            if len(theirs):
                overlap = measure(p["shapes"][mine], t["shapes"][theirs], crowd)
            # Thresholds of 1 are met by what is equal up to rounding.
            matched, to_ignored = _match(overlap, crowd, ignored, np.minimum(self.iou_thresholds, 1 - 1e-10))
            outside = (p["area"][mine] < low) | (p["area"][mine] > high)
            known.scores.append(p["scores"][mine])
            known.places.append(np.arange(len(mine)))
            known.hits.append(matched & ~to_ignored)
            known.misses.append(~matched & ~outside[:, None])

    def merge(self, other):
        self._check_merge(other)
        for label, theirs in other._classes.items():
            self._classes.setdefault(label, _Class(len(self._ranges))).add(theirs)
        self.images += other.images

    def compute(self):
        """dict: map, map_50, map_75, mar_N and by size as floats (nan without targets), classes and their arrays."""
        classes = sorted(self._classes)
        areas, last = list(_AREAS), self.max_detections[-1]
        shape = (len(classes), len(self.iou_thresholds))
        precision = {area: np.full((*shape, len(_RECALLS)), np.nan) for area in areas}
        recall = {key: np.full(shape, np.nan) for key in (*areas, *self.max_detections)}
        for k, label in enumerate(classes):
            for a, area in enumerate(areas):
                if (found := self._classes[label].curve(a, last)) is not None:
                    precision[area][k], recall[area][k] = found
            for limit in self.max_detections:
                if (found := self._classes[label].curve(0, limit)) is not None:
                    recall[limit][k] = found[1]
        out = {"map": _mean(precision["all"])}
        for percent in (50, 75):
            at = np.isclose(self.iou_thresholds, percent / 100)
            out[f"map_{percent}"] = _mean(precision["all"][:, at])
        out |= {f"map_{area}": _mean(precision[area]) for area in areas[1:]}
        out |= {f"mar_{limit}": _mean(recall[limit]) for limit in self.max_detections}
        out |= {f"mar_{area}": _mean(recall[area]) for area in areas[1:]}
        out["classes"] = np.array(classes, np.int64)
        out["map_per_class"] = np.array([_mean(p) for p in precision["all"]])
        out[f"mar_{last}_per_class"] = np.array([_mean(r) for r in recall[last]])
        return out

    def scalars(self):
        return {key: value for key, value in self.compute().items() if isinstance(value, float)}

    def _options(self):
        return {
            "iou_thresholds": self.iou_thresholds.tolist(), "max_detections": self.max_detections,
            "box_format": self.box_format, "iou_type": self.iou_type,
        }  # fmt: skip


def _mean(values):
    """Of all that is not nan; rows of nan are classes without targets."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _sizes(value):
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__
