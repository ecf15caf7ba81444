"""Streaming metrics and the registry by name."""

import re

from .base import Metric
from .classification import F1, Accuracy, ConfusionMatrix, Dice, MeanIoU, Precision, Recall, TopK
from .detection import MeanAveragePrecision
from .image_quality import FID, frechet_distance
from .ranking import RocAuc

_METRICS = {
    "accuracy": Accuracy,
    "topk": TopK,
    "confusion_matrix": ConfusionMatrix,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "dice": Dice,
    "mean_iou": MeanIoU,
    "roc_auc": RocAuc,
    "mean_average_precision": MeanAveragePrecision,
    "fid": FID,
}


def list_metrics():
    """Names that get_metric() knows."""
    return sorted(_METRICS)


def get_metric(metric, **kwargs):
    """A new metric by name ("topk", "top5" and "topk(5)" are TopK(5)); a Metric is returned as it is.

    Args: kwargs: of the metric's class. Raises: ValueError, with near matches, for an unknown name.
    """
    if isinstance(metric, Metric):
        if kwargs:
            raise TypeError(f"get_metric: got {', '.join(kwargs)} together with a ready {metric!r}")
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric(**kwargs)
    if not isinstance(metric, str):
        raise TypeError(f"get_metric: expected a name or a Metric, got {type(metric).__name__}")
    if top := re.fullmatch(r"top(?:k)?[-_ ]?\(?(\d+)\)?", metric):
        return TopK(**{"k": int(top[1]), **kwargs})
    if metric not in _METRICS:
        import difflib

        near = difflib.get_close_matches(metric.lower(), _METRICS, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(list_metrics())}"
        )
        raise ValueError(f"get_metric: unknown metric {metric!r}; {hint}")
    return _METRICS[metric](**kwargs)


__all__ = [
    "F1",
    "FID",
    "Accuracy",
    "ConfusionMatrix",
    "Dice",
    "MeanAveragePrecision",
    "MeanIoU",
    "Metric",
    "Precision",
    "Recall",
    "RocAuc",
    "TopK",
    "frechet_distance",
    "get_metric",
    "list_metrics",
]
