"""roc_auc: how well scores put the right class before the others, whatever the threshold.

Not average precision of detections, see detection.py.
"""

from __future__ import annotations

import numpy as np

from .base import Metric, check_ids, check_scores, split_scores


def _area(above, below):
    """Area under the curve from counts of targets of the class and of others per distinct score, rising; ties count
    half (Mann and Whitney 1947). nan without one of the two."""
    pairs = float(above.sum()) * float(below.sum())
    if not pairs:
        return float("nan")
    lower = np.cumsum(below) - below
    return float((above * (lower + 0.5 * below)).sum() / pairs)


class RocAuc(Metric):
    """Area under the receiver operating characteristic (Fawcett 2006); 0.5 is chance, 1 perfect.

    pred: of two classes the score of class 1, (N,) or (N, 1) as the target, or scores (N, 2); else scores (N, C, ...),
    each class against the rest. Rows of scores that are no probabilities are put through softmax. target: class ids;
    for one score also 0.0 and 1.0.
    Args:
        average: of more than two classes "macro" (mean over classes that have both targets and others), "weighted" (by
            target count), or None for an array (C,), nan where undefined.
        bins: None is exact and keeps every score (8 bytes per score); a number counts probabilities in as many
            bins, with constant memory and an error below the share of pairs that fall into one bin.
        ignore_index: target id that does not count.
    compute() is nan while only one class has been seen.
    """

    name = "roc_auc"

    def __init__(self, average="macro", bins=None, ignore_index=None):
        if average not in ("macro", "weighted", None):
            raise ValueError(f"{self.name}: expected average 'macro', 'weighted' or None, got {average!r}")
        if bins is not None and (int(bins) != bins or bins < 2):
            raise ValueError(f"{self.name}: expected bins None or an int >= 2, got {bins}")
        self.average, self.bins, self.ignore_index = average, bins, ignore_index
        self.is_scalar = average is not None
        self.reset()

    def reset(self):
        self._columns = None  # scores per row: 1 for two classes
        self._scores, self._targets, self._counts = [], [], None

    def update(self, pred, target):
        scores, target = self._rows(pred, target)
        if self.bins is not None and scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise ValueError(
                f"{self.name}: expected probabilities in [0, 1] for bins, got {scores.min()} to {scores.max()}"
            )
        if self._columns not in (None, scores.shape[1]):
            raise ValueError(f"{self.name}: expected {self._columns} scores per sample as before, got {scores.shape}")
        self._columns = scores.shape[1]
        if self.bins is None:
            self._scores.append(scores)
            self._targets.append(target)
            return
        if self._counts is None:
            self._counts = np.zeros((self._columns, 2, self.bins), np.int64)
        place = np.minimum((scores * self.bins).astype(np.int64), self.bins - 1)
        for k in range(self._columns):
            for right in (0, 1):
                rows = (target == self._class(k)) == bool(right)
                self._counts[k, right] += np.bincount(place[rows, k], minlength=self.bins)

    def _class(self, column):
        return 1 if self._columns == 1 else column

    def _rows(self, pred, target):
        """(scores (M, C) or (M, 1), ids (M,)) without the ignored."""
        pred, target = np.asarray(pred), np.asarray(target)
        one = pred.shape == target.shape and (pred.ndim == 1 or pred.shape[1:2] == (1,))
        if one and target.dtype.kind == "f" and np.isin(target, (0, 1)).all():  # as binary losses take them
            target = target.astype(np.int64)
        if pred.shape == target.shape and target.dtype.kind in "iub":  # the score of class 1 alone
            scores = check_scores(self.name, pred[:, None] if pred.ndim else pred)
            target = check_ids(self.name, "target", target, 2, self.ignore_index)
            scores = scores.reshape(-1, 1)
        else:
            scores, target = split_scores(self.name, pred, target, self.ignore_index)
            if scores.shape[1] < 2:
                raise ValueError(f"{self.name}: expected scores of two classes or more, got {scores.shape}")
            scores = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1]).astype(np.float64)
            sums = scores.sum(1)
            if scores.size and (scores.min() < 0 or np.abs(sums - 1).max() > 1e-3):
                if not np.isfinite(scores.max(1)).all():
                    raise ValueError(f"{self.name}: expected finite scores, got inf among shape {scores.shape}")
                scores = np.exp(scores - scores.max(1, keepdims=True))
                scores /= scores.sum(1, keepdims=True)
            scores = scores[:, 1:] if scores.shape[1] == 2 else scores
        target, scores = target.ravel(), scores.astype(np.float64, copy=False)
        if self.ignore_index is not None:
            keep = target != self.ignore_index
            scores, target = scores[keep], target[keep]
        return scores, target

    def merge(self, other):
        self._check_merge(other)
        if other._columns is None:
            return
        if self._columns not in (None, other._columns):
            raise ValueError(f"{self.name}: cannot merge {other._columns} scores per sample into {self._columns}")
        self._columns = other._columns
        self._scores += other._scores
        self._targets += other._targets
        if other._counts is not None:
            self._counts = other._counts.copy() if self._counts is None else self._counts + other._counts

    def compute(self):
        """float; with average=None an array (C,), of two classes (1,)."""
        if self._columns is None:
            return float("nan") if self.is_scalar else np.zeros(0)
        found = [self._column(k) for k in range(self._columns)]
        areas, weights = (np.array(v, np.float64) for v in zip(*found, strict=True))
        if self.average is None:
            return areas
        defined = ~np.isnan(areas)
        if not defined.any():
            return float("nan")
        weights = weights[defined] if self.average == "weighted" else None
        return float(np.average(areas[defined], weights=weights))

    def _column(self, k):
        """(area, targets of the class) of a column."""
        if self.bins is not None:
            below, above = self._counts[k]
            return _area(above, below), above.sum()
        right = np.concatenate(self._targets) == self._class(k)
        _, place = np.unique(np.concatenate([s[:, k] for s in self._scores]), return_inverse=True)
        above, below = (np.bincount(place[side], minlength=place.max(initial=-1) + 1) for side in (right, ~right))
        return _area(above, below), right.sum()

    def _options(self):
        return {"average": self.average, "bins": self.bins, "ignore_index": self.ignore_index}
