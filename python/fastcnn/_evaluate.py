"""Evaluation and prediction of a Trainer: the loop over batches without gradients, and the numbers that come of it."""

from __future__ import annotations

import copy
import math

import numpy as np

from . import _core
from ._loop import Interrupted, images_in
from ._steps import (
    batch_to_device,
    count_labels,
    first_tensor,
    map_nested,
    mixed,
    split_batch,
    to_arrays,
    to_tensor,
)


def predict(trainer, data):
    """See Trainer.predict."""
    if isinstance(data, (np.ndarray, _core.Tensor)):
        if data.ndim not in (4, 5):
            raise ValueError(
                f"Trainer.predict: expected images (N, C, H, W) or volumes (N, C, D, H, W), got shape "
                f"{tuple(data.shape)}; a list of batches is taken too"
            )
        if len(data) == 0:
            raise ValueError(f"Trainer.predict: expected at least one image, got shape {tuple(data.shape)}")
        size = trainer.batch_size
        batches = (data[i : i + size] for i in range(0, len(data), size))
    else:
        batches = _apart(trainer, trainer._eval_loader(data))
    step, restore = trainer._begin_eval()
    try:
        outputs = []
        for batch in batches:
            fields = list(batch.values()) if isinstance(batch, dict) else batch
            x = fields[0] if isinstance(fields, (tuple, list)) else fields
            found = step(to_tensor(x, trainer.device))[0]
            outputs.append(map_nested(lambda v: v if v is None else np.array(v), to_arrays(found)))
    finally:
        restore()
    if not outputs:
        raise ValueError("Trainer.predict: expected at least one image, got none")
    return map_nested(_joined, *outputs)


def _joined(*parts):
    return None if parts[0] is None else np.concatenate([np.atleast_1d(p) for p in parts])


def evaluate(trainer, loader, signals=None):
    """{name: value} of loss and metrics over a loader. Raises Interrupted after a signal."""
    step, restore = trainer._begin_eval()
    try:
        batches = _until_signal(_apart(trainer, loader), signals)
        kind = _own if step.custom is not None else _boxes if hasattr(step.model, "predict") else _usual
        result = kind(trainer, step, batches)
    finally:
        restore()
    return result


def _apart(trainer, loader):
    """A loader to run through. Of the one that training is in the midst of a copy: its place goes into checkpoints."""
    from .data import DataLoader

    return copy.copy(loader) if loader is trainer.train_loader and isinstance(loader, DataLoader) else loader


def _until_signal(loader, signals):
    for batch in loader:
        if signals is not None and signals.received:
            raise Interrupted
        yield batch


def _own(trainer, step, batches):
    """Means over images of what validation_step returns."""
    images, sums = 0, {}
    for batch in batches:
        fields = batch_to_device(batch, trainer.device)
        loss, logs = step.evaluate(fields)
        count = images_in(first_tensor(fields))
        images += count
        for name, value in {"loss": loss, **logs}.items():
            sums[name] = sums.get(name, 0.0) + value.item() * count
    _check_some(images)
    return {name: total / images for name, total in sums.items()}


def _boxes(trainer, step, batches):
    """Metrics of what a detector's predict() finds, against the targets as they are. A loss would want them encoded."""
    if not trainer._metrics:
        raise ValueError(
            f"Trainer.evaluate: expected metrics=[MeanAveragePrecision()] or a validation_step for a "
            f"{type(step.model).__name__}, whose predictions are boxes, got neither"
        )
    for metric in trainer._metrics:
        metric.reset()
    images = 0
    for batch in batches:
        fields = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (None, None)
        if not isinstance(fields[1], (tuple, list)) or not all(isinstance(t, dict) for t in fields[1]):
            raise ValueError(
                f"Trainer.evaluate: expected batches (images, list of target dicts) for a {type(step.model).__name__}, "
                f"got {type(batch).__name__} of {', '.join(type(f).__name__ for f in batch)}"
            )
        with mixed(step.precision):
            found = step.model.predict(fields[0])
        images += len(found)
        for metric in trainer._metrics:
            metric.update(found, fields[1])
    _check_some(images)
    return _numbers(trainer)


def _usual(trainer, step, batches):
    for metric in trainer._metrics:
        metric.reset()
    images = labels = 0
    total = right = 0.0
    for batch in batches:
        x, y = split_batch(batch, trainer.device, "evaluation")
        output, loss, correct = step(x, y)
        images += images_in(x)
        total += loss.item() * images_in(x)
        if correct is not None:
            right += correct.item()
            labels += count_labels(y, trainer.ignore_index)
        for metric in trainer._metrics:
            metric.update(to_arrays(output), y.to("cpu").numpy())
    _check_some(images)
    result = {"loss": total / images}
    if trainer._accuracy:
        result["accuracy"] = right / labels if labels else math.nan
    numbers = _numbers(trainer)
    if twice := result.keys() & numbers.keys():
        raise ValueError(f"Trainer: two of the metrics give {', '.join(sorted(twice))}")
    return result | numbers


def _numbers(trainer):
    """{column: value} of all metrics."""
    found = {}
    for metric in trainer._metrics:
        scalars = metric.scalars()
        if twice := scalars.keys() & found.keys():
            raise ValueError(f"Trainer: two of the metrics give {', '.join(sorted(twice))}")
        found |= scalars
    return found


def _check_some(images):
    if images == 0:
        raise ValueError("Trainer.evaluate: expected at least one image, got none")
