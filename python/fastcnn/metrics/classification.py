"""accuracy, topk, confusion_matrix and what follows from it: precision, recall, f1, dice, mean_iou.

For classification (N, C) and segmentation (N, C, H, W) alike; not for detection or image quality.
"""

from __future__ import annotations

import numpy as np

from .base import Metric, class_ids, is_scores, split_scores

_MOST_BY_ID = 1 << 15  # a table of 8 GiB: a larger id is a mistake rather than a class
_AVERAGES = ("macro", "micro", "weighted", "binary", None)


class Accuracy(Metric):
    """Share of samples (of pixels, for segmentation) whose class of highest score is the target.

    Args: ignore_index: target id that does not count.
    """

    name = "accuracy"

    def __init__(self, ignore_index=None):
        self.ignore_index = ignore_index
        self.reset()

    def reset(self):
        self.correct = self.total = 0

    def update(self, pred, target):
        pred, target, _ = class_ids(self.name, pred, target, ignore_index=self.ignore_index)
        self.correct += int((pred == target).sum())
        self.total += len(target)

    def merge(self, other):
        self._check_merge(other)
        self.correct += other.correct
        self.total += other.total

    def compute(self):
        return self.correct / self.total if self.total else float("nan")

    def _options(self):
        return {"ignore_index": self.ignore_index}


class TopK(Accuracy):
    """Share of samples whose target is among the k highest scores; of equals the lower class is first."""

    def __init__(self, k=5, ignore_index=None):
        if int(k) != k or k < 1:
            raise ValueError(f"topk: expected an int k >= 1, got {k}")
        self.k = int(k)
        self.name = f"top{self.k}"
        super().__init__(ignore_index)

    def update(self, pred, target):
        if not is_scores(pred, target):
            raise ValueError(
                f"{self.name}: expected scores (N, C, ...), got pred {np.shape(pred)} for "
                f"target {np.shape(target)}"
            )
        scores, target = split_scores(self.name, pred, target, self.ignore_index)
        if scores.shape[1] < self.k:
            raise ValueError(f"{self.name}: expected at least {self.k} classes, got scores {scores.shape}")
        scores = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
        target = target.ravel()
        if self.ignore_index is not None:
            keep = target != self.ignore_index
            scores, target = scores[keep], target[keep]
        own = np.take_along_axis(scores, target[:, None], 1)
        earlier = np.arange(scores.shape[1]) < target[:, None]
        rank = ((scores > own) | ((scores == own) & earlier)).sum(1)
        self.correct += int((rank < self.k).sum())
        self.total += len(target)

    def _options(self):
        return {"k": self.k, "ignore_index": self.ignore_index}


class ConfusionMatrix(Metric):
    """Counts (C, C), int64: row = target, column = prediction.

    Args: num_classes: default that of the scores; for class ids alone the matrix grows with the largest.
    normalize: None for counts, "true" for shares of each row (nan for classes without samples), "pred" of each column,
    "all" of the whole.
    ignore_index: target id that does not count.
    """

    name = "confusion_matrix"
    is_scalar = False

    def __init__(self, num_classes=None, normalize=None, ignore_index=None):
        if num_classes is not None and (int(num_classes) != num_classes or num_classes < 1):
            raise ValueError(f"{self.name}: expected an int num_classes >= 1, got {num_classes}")
        if normalize not in (None, "true", "pred", "all"):
            raise ValueError(f"{self.name}: expected normalize None, 'true', 'pred' or 'all', got {normalize!r}")
        self.num_classes, self.normalize, self.ignore_index = num_classes, normalize, ignore_index
        self.reset()

    def reset(self):
        n = self.num_classes or 0
        self.counts = np.zeros((n, n), np.int64)

    def update(self, pred, target):
        pred, target, n = class_ids(self.name, pred, target, self.num_classes, self.ignore_index)
        if n is None:
            n = int(max(pred.max(initial=-1), target.max(initial=-1))) + 1
            if n > _MOST_BY_ID:
                raise ValueError(
                    f"{self.name}: expected class ids below {_MOST_BY_ID} where num_classes is not given, got {n - 1}; "
                    "ignore_index leaves out an id that does not count"
                )
        elif self.num_classes is None and n < len(self.counts):
            raise ValueError(f"{self.name}: expected scores of {len(self.counts)} classes as before, got {n}")
        self._grow(n)
        n = len(self.counts)
        self.counts += np.bincount(target * n + pred, minlength=n * n).reshape(n, n)

    def _grow(self, n):
        if n > len(self.counts):
            self.counts = np.pad(self.counts, (0, n - len(self.counts)))

    def merge(self, other):
        self._check_merge(other)
        self._grow(len(other.counts))
        n = len(other.counts)
        self.counts[:n, :n] += other.counts

    def compute(self):
        if self.normalize is None:
            return self.counts.copy()
        axis = {"true": 1, "pred": 0, "all": None}[self.normalize]
        return _ratio(self.counts, self.counts.sum(axis, keepdims=True), np.nan)

    def _options(self):
        options = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        return options if type(self) is not ConfusionMatrix else {**options, "normalize": self.normalize}


def _ratio(a, b, empty):
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.full(a.shape, empty), where=b != 0)


class _FromConfusion(ConfusionMatrix):
    """A figure per class from true positives, predicted and actual counts, then averaged."""

    is_scalar = True

    def __init__(self, num_classes=None, average="macro", ignore_index=None):
        if average not in _AVERAGES:
            raise ValueError(
                f"{self.name}: expected average 'macro', 'micro', 'weighted', 'binary' or None, got {average!r}"
            )
        self.average = average
        self.is_scalar = average is not None
        super().__init__(num_classes, None, ignore_index)

    def _per_class(self, hit, predicted, actual):
        raise NotImplementedError

    def compute(self):
        """float; with average=None an array (C,), nan for classes that never occur."""
        hit, predicted, actual = np.diag(self.counts), self.counts.sum(0), self.counts.sum(1)
        if self.average == "micro":
            total = self.counts.sum()
            return float(self._per_class(hit.sum(), total, total)) if total else float("nan")
        values = self._per_class(hit, predicted, actual)
        seen = (predicted + actual) > 0
        if self.average == "binary":
            if len(values) > 2:
                raise ValueError(f"{self.name}: expected 2 classes for average='binary', got {len(values)}")
            return float(values[1]) if len(values) == 2 and seen[1] else float("nan")
        if self.average is None:
            return np.where(seen, values, np.nan)
        if not seen.any():
            return float("nan")
        if self.average == "weighted":
            return float((values * actual).sum() / actual.sum())
        return float(values[seen].mean())

    def _options(self):
        return {**super()._options(), "average": self.average}


class Precision(_FromConfusion):
    """Of what was predicted as a class, the share that is it (0 if nothing was).

    Args: average: "macro" (mean over classes that occur in target or prediction), "weighted" (by target
    count), "micro", "binary" (of class 1 of two), or None for an array (C,). Others as ConfusionMatrix.
    """

    name = "precision"

    def _per_class(self, hit, predicted, actual):
        return _ratio(hit, predicted, 0.0)


class Recall(_FromConfusion):
    """Of what is a class, the share that was predicted so (0 if there is none). Arguments as Precision."""

    name = "recall"

    def _per_class(self, hit, predicted, actual):
        return _ratio(hit, actual, 0.0)


class F1(_FromConfusion):
    """2 tp / (predicted + actual), the harmonic mean of precision and recall. Arguments as Precision."""

    name = "f1"

    def _per_class(self, hit, predicted, actual):
        return _ratio(2 * hit, predicted + actual, 0.0)


class Dice(F1):
    """Dice coefficient (1945) of masks, 2 |A and B| / (|A| + |B|) over all pixels seen: F1 under the name that
    segmentation knows. Arguments as Precision.
    """

    name = "dice"


class MeanIoU(_FromConfusion):
    """Intersection over union (Everingham et al. 2010), averaged like Precision, and with its arguments."""

    name = "mean_iou"

    def _per_class(self, hit, predicted, actual):
        return _ratio(hit, predicted + actual - hit, 0.0)
