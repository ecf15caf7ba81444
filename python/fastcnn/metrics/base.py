"""Metric, the base class: what a metric has to do, and the checks all of them share.

NumPy only; anything np.asarray understands may be passed. Losses are not metrics, see fastcnn.ops.
"""

from __future__ import annotations

import numpy as np


class Metric:
    """Streaming: update(pred, target) per batch, compute() at any time, reset() to start again.

    pred: scores (N, C, ...) with the classes on axis 1, or class ids shaped like target. target: class ids
    (N, ...), or class probabilities shaped like the scores (of mixed labels the largest counts). Batches may
    be empty. compute() of nothing is nan. State is a few counts, so merge(other) joins two shards exactly.
    """

    name = "metric"
    is_scalar = True  # compute() gives one float
    higher_is_better = True

    def update(self, pred, target):
        """Adds a batch; shapes as above. Raises ValueError where they do not fit, and counts nothing then."""
        raise NotImplementedError

    def compute(self):
        """The value over all batches since the last reset, nan of none."""
        raise NotImplementedError

    def scalars(self):
        """{name: float} of what compute() gives, for logs: `<name>_0`, `<name>_1` ... of an array; {} of a table."""
        value = self.compute()
        if np.ndim(value) == 1:
            return {f"{self.name}_{k}": float(v) for k, v in enumerate(value)}
        return {self.name: float(value)} if np.ndim(value) == 0 else {}

    def reset(self):
        """Forgets all batches."""
        raise NotImplementedError

    def merge(self, other):
        """Adds the counts of another metric of the same kind."""
        raise NotImplementedError

    def _check_merge(self, other):
        if type(other) is not type(self) or other._options() != self._options():
            raise ValueError(f"{self.name}: cannot merge {other!r} into {self!r}")

    def _options(self):
        return {}

    def __repr__(self):
        options = ", ".join(f"{k}={v!r}" for k, v in self._options().items())
        return f"{type(self).__name__}({options})"


def check_scores(op, scores):
    """scores as an array of numbers that NumPy computes with; a ValueError that names `op` of others."""
    scores = np.asarray(scores)
    if scores.dtype.kind == "V" and scores.dtype.name == "bfloat16":
        scores = scores.astype(np.float32)
    if scores.dtype.kind not in "fiub":
        raise ValueError(f"{op}: expected pred of numbers, got {scores.dtype}")
    if scores.ndim < 2:
        raise ValueError(f"{op}: expected scores (N, C, ...), got pred of shape {scores.shape}")
    if scores.dtype.kind == "f":
        bad = int(np.isnan(scores).sum())
        if bad:
            raise ValueError(f"{op}: pred has {bad} NaN among {scores.size} scores, shape {scores.shape}")
    return scores


def check_ids(op, what, ids, num_classes=None, ignore_index=None):
    """Class ids as int64, in [0, num_classes) where that is given, besides ignore_index."""
    ids = np.asarray(ids)
    if ids.dtype.kind == "f":
        if np.isnan(ids).any():
            raise ValueError(f"{op}: {what} has NaN where class ids are expected, shape {ids.shape}")
        raise ValueError(f"{op}: expected {what} of integer class ids, got {ids.dtype} of shape {ids.shape}")
    if ids.dtype.kind not in "iub":
        raise ValueError(f"{op}: expected {what} of integer class ids, got {ids.dtype}")
    ids = ids.astype(np.int64, copy=False)
    checked = ids if ignore_index is None else ids[ids != ignore_index]
    if checked.size:
        low, high = int(checked.min()), int(checked.max())
        if low < 0 or (num_classes is not None and high >= num_classes):
            limit = "..." if num_classes is None else num_classes - 1
            raise ValueError(f"{op}: expected {what} class ids 0 to {limit}, got {low} to {high}")
    return ids


def is_scores(pred, target):
    """Whether pred holds scores (a class axis more than ids have) rather than class ids."""
    pred, target = np.asarray(pred), np.asarray(target)
    return pred.ndim == target.ndim + 1 or (pred.shape == target.shape and target.dtype.kind == "f")


def split_scores(op, pred, target, ignore_index=None):
    """(scores, target ids) after all checks, for pred with a class axis."""
    scores = check_scores(op, pred)
    target = np.asarray(target)
    if target.shape == scores.shape and target.dtype.kind == "f":
        if scores.shape[1] == 1:  # the class of the highest of one is always right
            raise ValueError(f"{op}: expected scores of two classes or more, got pred {scores.shape}")
        target = check_scores(op, target).argmax(1)
    if scores.shape[:1] + scores.shape[2:] != target.shape:
        raise ValueError(
            f"{op}: expected target {scores.shape[:1] + scores.shape[2:]} for scores {scores.shape}, "
            f"got {target.shape}"
        )
    return scores, check_ids(op, "target", target, scores.shape[1], ignore_index)


def class_ids(op, pred, target, num_classes=None, ignore_index=None):
    """(pred ids, target ids, number of classes or None), both flat, without the ignored."""
    if is_scores(pred, target):
        scores, target = split_scores(op, pred, target, ignore_index)
        if num_classes is not None and scores.shape[1] != num_classes:
            raise ValueError(f"{op}: expected scores of {num_classes} classes, got shape {scores.shape}")
        num_classes = scores.shape[1]
        pred = scores.argmax(1) if scores.size else np.zeros(target.shape, np.int64)
    else:
        pred, target = np.asarray(pred), np.asarray(target)
        if pred.shape != target.shape:
            raise ValueError(
                f"{op}: expected scores (N, C, ...) or class ids shaped like target {target.shape}, "
                f"got pred {pred.shape}"
            )
        pred = check_ids(op, "pred", pred, num_classes)
        target = check_ids(op, "target", target, num_classes, ignore_index)
    pred, target = pred.ravel(), target.ravel()
    if ignore_index is not None:
        keep = target != ignore_index
        pred, target = pred[keep], target[keep]
    return pred, target, num_classes
