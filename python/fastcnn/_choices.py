"""What Trainer's arguments stand for: devices, optimizers, schedules and metrics by name, as functions or as objects.

Not a registry: optimizers and metrics keep their own.
"""

from __future__ import annotations

import inspect
import math

from . import _core

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_DEFAULT_LR = {"sgd": 0.1, "rmsprop": 1e-3}  # others: the optimizer's own


def check_options(
    precision, accumulate, clip, clip_algorithm, ema_decay, interval, fast_dev_run, overfit_batches, sanity_steps,
    training_step, validation_step,
):  # fmt: skip
    """Raises ValueError or TypeError for options of Trainer that are out of range."""
    if precision not in _PRECISIONS:
        raise ValueError(f"Trainer: expected precision {', '.join(_PRECISIONS)}, got {precision!r}")
    if int(accumulate) != accumulate or accumulate < 1:
        raise ValueError(f"Trainer: expected accumulate_grad_batches as an int of at least 1, got {accumulate}")
    if clip is not None and not clip > 0:
        raise ValueError(f"Trainer: expected gradient_clip_val > 0, got {clip}")
    if clip_algorithm not in ("norm", "value"):
        raise ValueError(f"Trainer: expected gradient_clip_algorithm 'norm' or 'value', got {clip_algorithm!r}")
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(f"Trainer: expected ema_decay between 0 and 1, got {ema_decay}")
    if interval not in (None, "step", "epoch"):
        raise ValueError(f"Trainer: expected scheduler_interval 'step' or 'epoch', got {interval!r}")
    counts = {
        "fast_dev_run": fast_dev_run, "overfit_batches": overfit_batches, "num_sanity_val_steps": sanity_steps
    }  # fmt: skip
    for name, value in counts.items():
        if int(value) < 0:
            raise ValueError(f"Trainer: expected {name} of at least 0, got {value}")
    for name, step in (("training_step", training_step), ("validation_step", validation_step)):
        if step is not None and not callable(step):
            raise TypeError(f"Trainer: expected {name} as f(model, batch) -> loss, got {type(step).__name__}")


def pick_device(device):
    """The device of a name; "auto" takes CUDA where there is one."""
    device = str(device)
    if device == "auto":
        return "cuda" if _core.cuda_device_count() > 0 else "cpu"
    return device


def make_optimizer(optimizer, model, lr, weight_decay, momentum, rules=None, layer_decay=None):
    """The Optimizer that Trainer(optimizer=...) names, makes or is. Raises: ValueError, TypeError."""
    from .optim import Optimizer, get_optimizer, param_groups

    grouped = {"param_rules": rules or None, "layer_decay": layer_decay}
    if callable(optimizer) and [k for k, v in grouped.items() if v is not None] and not isinstance(optimizer, str):
        raise ValueError("Trainer: param_rules and layer_decay go with an optimizer by name; see optim.param_groups")
    if isinstance(optimizer, Optimizer):
        given = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, **grouped}
        extra = [k for k, v in given.items() if v is not None]
        if extra:
            raise ValueError(f"Trainer: got {', '.join(extra)} together with a ready {type(optimizer).__name__}")
        return optimizer
    if callable(optimizer) and not isinstance(optimizer, str):
        made = optimizer(model.parameters())
        if not isinstance(made, Optimizer):
            raise TypeError(f"Trainer: expected optimizer(parameters) to give an Optimizer, got {type(made).__name__}")
        return made
    make, name = get_optimizer(optimizer), optimizer.lower()
    lr = _DEFAULT_LR.get(name) if lr is None else lr
    options = {} if lr is None else {"lr": lr}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if name in ("sgd", "rmsprop"):
        options["momentum"] = (0.9 if name == "sgd" else 0.0) if momentum is None else momentum
        if name == "sgd":
            options["nesterov"] = options["momentum"] > 0
    elif momentum is not None and "momentum" in inspect.signature(make).parameters:
        options["momentum"] = momentum
    elif momentum is not None:
        raise ValueError(f"Trainer: {name} takes no momentum")
    if rules or layer_decay is not None:
        defaults = {k: v.default for k, v in inspect.signature(make).parameters.items()}
        rate, decay = options.pop("lr", defaults["lr"]), options.pop("weight_decay", defaults.get("weight_decay", 0.0))
        groups = param_groups(model, rate, decay, rules=rules, decay_norms=True, layer_decay=layer_decay)
        return make(groups, lr=rate, **options)
    return make(model.parameters(), **options)


def make_schedule(spec, optimizer, total_steps, epochs):
    """The schedule that Trainer(scheduler=...) names, makes or is. Raises: ValueError."""
    from .optim import lr_scheduler as schedules

    if hasattr(spec, "step") and hasattr(spec, "optimizer"):
        if spec.optimizer is not optimizer:
            raise ValueError("Trainer: the scheduler drives another optimizer than the Trainer's")
        return spec
    if callable(spec):
        return spec(optimizer, total_steps)
    peaks = [g["lr"] for g in optimizer.param_groups]
    if spec in ("onecycle", "cosine") and total_steps is None:
        raise ValueError(f"Trainer: scheduler={spec!r} needs a loader with len()")
    if spec == "onecycle":
        return schedules.OneCycleLR(optimizer, peaks, max(total_steps, 2), cycle_momentum=False)
    if spec == "cosine":
        schedule = schedules.CosineAnnealingLR(optimizer, total_steps)
        schedule.interval = "step"
        return schedule
    if spec == "step":
        return schedules.MultiStepLR(optimizer, [math.ceil(epochs * 0.5), math.ceil(epochs * 0.75)])
    raise ValueError(f"Trainer: expected scheduler None, 'onecycle', 'cosine', 'step' or a schedule, got {spec!r}")


class FunctionMetric:
    """Mean over images of f(output, target) -> number, both NumPy arrays."""

    def __init__(self, function):
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__.lower()).strip("<>")
        self.reset()

    def reset(self):
        """Starts again."""
        self.total, self.images = 0.0, 0

    def update(self, pred, target):
        """Takes a batch."""
        value = self.function(pred, target)
        if getattr(value, "size", 1) != 1:
            raise ValueError(f"Trainer: expected metric {self.name} to return a number, got shape {value.shape}")
        self.total += float(value) * len(pred)
        self.images += len(pred)

    def compute(self):
        """The mean; nan of nothing."""
        return self.total / self.images if self.images else math.nan

    def scalars(self):
        """{name: mean}."""
        return {self.name: self.compute()}


def make_metrics(metrics):
    """A list of Metrics of names, Metric objects and functions."""
    from .metrics import Metric, get_metric

    made = []
    for m in metrics:
        plain = callable(m) and not isinstance(m, (str, type, Metric))
        made.append(FunctionMetric(m) if plain else get_metric(m))
    return made
