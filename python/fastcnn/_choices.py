"""What Trainer's arguments stand for: devices, optimizers, schedules and metrics by name, as functions or as objects.

Not a registry: optimizers and metrics keep their own.
"""

from __future__ import annotations

import inspect
import math

from . import _core

_DEFAULT_LR = {"sgd": 0.1, "rmsprop": 1e-3}  # others: the optimizer's own


def pick_device(device):
    """The device of a name; "auto" takes CUDA where there is one."""
    device = str(device)
    if device == "auto":
        return "cuda" if _core.cuda_device_count() > 0 else "cpu"
    return device


def make_optimizer(optimizer, model, lr, weight_decay, momentum):
    """The Optimizer that Trainer(optimizer=...) names, makes or is. Raises: ValueError, TypeError."""
    from .optim import Optimizer, get_optimizer

    if isinstance(optimizer, Optimizer):
        given = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
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


def make_metrics(metrics):
    """{name: Metric} of names and Metric objects."""
    from .metrics import get_metric

    made = [get_metric(m) for m in metrics]
    return {getattr(m, "name", type(m).__name__.lower()): m for m in made}
