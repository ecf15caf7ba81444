"""What Trainer's arguments stand for: devices, optimizers, schedules and metrics by name, as functions or as objects.

Not a registry: optimizers and metrics keep their own.
"""

from __future__ import annotations

import inspect
import math
import warnings

from . import _core

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_DEFAULT_LR = {"sgd": 0.1, "rmsprop": 1e-3}  # others: the optimizer's own


def check_options(
    precision, accumulate, clip, clip_algorithm, ema_decay, interval, fast_dev_run, overfit_batches, sanity_steps,
    training_step, validation_step, callbacks, warmup_steps,
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
        "fast_dev_run": fast_dev_run, "overfit_batches": overfit_batches, "num_sanity_val_steps": sanity_steps,
        "warmup_steps": warmup_steps,
    }  # fmt: skip
    for name, value in counts.items():
        if int(value) != value or value < 0:
            raise ValueError(f"Trainer: expected {name} as an int of at least 0, got {value}")
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"Trainer: expected callbacks as a list, got {type(callbacks).__name__}")
    for name, step in (("training_step", training_step), ("validation_step", validation_step)):
        if step is not None and not callable(step):
            raise TypeError(f"Trainer: expected {name} as f(model, batch) -> loss, got {type(step).__name__}")


def pick_device(device):
    """The device of a name; "auto" takes CUDA where there is one."""
    device = str(device)
    if device == "auto":
        return "cuda" if _core.cuda_device_count() > 0 else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"Trainer: expected device auto, cpu, cuda or cuda:N, got {device!r}")
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
    if name == "muon":  # at a rate and decay that suit AdamW, which takes the rest
        from .optim.muon import muon_rules

        options["adjust_lr_fn"], rules = "match_rms_adamw", {**muon_rules(model), **(rules or {})}
    if rules or layer_decay is not None:
        defaults = {k: v.default for k, v in inspect.signature(make).parameters.items()}
        for pattern, rule in (rules or {}).items():
            if unknown := [k for k in rule if k != "lr_scale" and k not in defaults]:
                known = ", ".join(k for k in defaults if k != "params")
                raise ValueError(
                    f"Trainer: param_rules[{pattern!r}] sets {', '.join(unknown)}; {name} has lr_scale, {known}"
                )
        rate, decay = options.pop("lr", defaults["lr"]), options.pop("weight_decay", defaults.get("weight_decay", 0.0))
        groups = param_groups(model, rate, decay, rules=rules, decay_norms=True, layer_decay=layer_decay)
        return make(groups, lr=rate, **options)
    return make(model.parameters(), **options)


_NAMED_SCHEDULES = ("onecycle", "cosine", "step", "plateau")


def make_schedule(spec, optimizer, total_steps, epochs, warmup_steps=0, interval=None):
    """The schedule that Trainer(scheduler=...) names, makes or is. Raises: ValueError."""
    from .optim import lr_scheduler as schedules

    by_name = spec is None or isinstance(spec, str)
    if warmup_steps and (not by_name or spec in ("onecycle", "plateau")):
        got = spec if by_name else type(spec).__name__
        raise ValueError(
            f"Trainer: warmup_steps goes with scheduler None, 'cosine' or 'step', got {got!r}: put a LinearWarmup into "
            "a SequentialLR, or take 'onecycle', which rises first"
        )
    if hasattr(spec, "step") and hasattr(spec, "optimizer"):
        if spec.optimizer is not optimizer:
            raise ValueError("Trainer: the scheduler drives another optimizer than the Trainer's")
        return _warn_of_interval(spec, total_steps, epochs, interval)
    if callable(spec):
        return _warn_of_interval(spec(optimizer, total_steps), total_steps, epochs, interval)
    if not by_name or (spec is not None and spec not in _NAMED_SCHEDULES):
        names = ", ".join(map(repr, _NAMED_SCHEDULES))
        raise ValueError(f"Trainer: expected scheduler None, {names} or a schedule, got {spec!r}")
    if total_steps is None and (spec in ("onecycle", "cosine") or (warmup_steps and spec)):
        raise ValueError(f"Trainer: scheduler={spec!r} needs a loader with len()")
    if spec == "onecycle":
        peaks = [g["lr"] for g in optimizer.param_groups]
        return schedules.OneCycleLR(optimizer, peaks, max(total_steps, 2), cycle_momentum=False)
    if spec == "plateau":
        return schedules.ReduceLROnPlateau(optimizer, patience=5)
    if spec == "step" and not warmup_steps:
        return schedules.MultiStepLR(optimizer, [math.ceil(epochs * 0.5), math.ceil(epochs * 0.75)])
    if spec is not None and warmup_steps >= total_steps:
        raise ValueError(f"Trainer: expected warmup_steps below the {total_steps} steps of fit(), got {warmup_steps}")
    parts, rest = [], (total_steps or 0) - warmup_steps
    if warmup_steps:
        parts.append(schedules.LinearWarmup(optimizer, warmup_steps, start_factor=1 / (warmup_steps + 1)))
    if spec == "cosine":
        parts.append(schedules.CosineAnnealingLR(optimizer, rest))
    elif spec == "step":
        ends = [math.ceil(total_steps * part) - warmup_steps for part in (0.5, 0.75)]
        parts.append(schedules.MultiStepLR(optimizer, [max(end, 0) for end in ends]))
    whole = parts[0] if len(parts) == 1 else schedules.SequentialLR(optimizer, parts, [warmup_steps])
    whole.interval = "step"
    return whole


def _warn_of_interval(schedule, total_steps, epochs, interval):
    """The schedule; warns where it counts the steps of training and would be stepped once per epoch."""
    length = getattr(schedule, "T_max", getattr(schedule, "total_iters", None))
    by_epoch = interval is None and getattr(schedule, "interval", "epoch") == "epoch"
    if by_epoch and length is not None and total_steps and length >= total_steps > epochs:
        warnings.warn(
            f"Trainer: {type(schedule).__name__} is stepped once per epoch ({epochs} epochs) and has a length of "
            f"{length}; pass scheduler_interval='step', or give it a length in epochs",
            stacklevel=4,
        )
    return schedule


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
        self.total += float(value) * len(target)
        self.images += len(target)

    def compute(self):
        """The mean; nan of nothing."""
        return self.total / self.images if self.images else math.nan

    def scalars(self):
        """{name: mean}."""
        return {self.name: self.compute()}


def make_metrics(metrics, ignore_index=None):
    """A list of Metrics of names, Metric objects and functions; named ones leave targets of ignore_index out."""
    from .metrics import Metric, get_metric

    made = []
    for m in metrics:
        plain = callable(m) and not isinstance(m, (str, type, Metric))
        metric = FunctionMetric(m) if plain else get_metric(m)
        if ignore_index is not None and isinstance(m, str) and hasattr(metric, "ignore_index"):
            metric = get_metric(m, ignore_index=ignore_index)
        made.append(metric)
    return made
