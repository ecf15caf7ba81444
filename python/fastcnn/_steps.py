"""What the trainer runs per batch: the training step and the evaluation step, each one function for compile.

Functions of tensors only. Epochs, numbers on the host and files are the trainer's.
"""

from __future__ import annotations

import contextlib
import functools

import numpy as np

from . import _core, distributed
from ._core import ops
from ._modes import autocast

# What Trainer(loss=...) takes by name.
LOSSES = {
    "cross_entropy": "cross_entropy",
    "nll": "nll_loss",
    "focal": "focal_loss",
    "dice": "dice_loss",
    "margin": "margin_loss",
    "kl_div": "kl_div",
    "bce": "binary_cross_entropy_with_logits",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
    "mse": "mse_loss",
    "l1": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
}


# Losses that can leave targets out.
IGNORING = ("cross_entropy", "nll", "dice")


def get_loss(loss, label_smoothing=0.0, ignore_index=None):
    """(loss of training, loss of evaluation): functions (output, target) -> scalar tensor."""
    if isinstance(loss, type):
        raise TypeError(f"Trainer: expected loss as a name or f(output, target), got the class {loss.__name__}")
    if callable(loss):
        if label_smoothing:
            raise ValueError("Trainer: label_smoothing goes with loss='cross_entropy', not with a function")
        return loss, loss
    if loss not in LOSSES:
        import difflib

        near = difflib.get_close_matches(str(loss), LOSSES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(LOSSES)}"
        raise ValueError(f"Trainer: unknown loss {loss!r}; {hint}")
    function = _focal if loss == "focal" else getattr(ops, LOSSES[loss])
    if ignore_index is not None:
        if loss not in IGNORING:
            raise ValueError(
                f"Trainer: ignore_index={ignore_index} goes with the losses {', '.join(IGNORING)} or a function that "
                f"leaves these targets out, got {loss!r}"
            )
        function = functools.partial(function, ignore_index=ignore_index)
    plain = functools.partial(_of_one_tensor, loss, function)
    if not label_smoothing:
        return plain, plain
    if loss != "cross_entropy":
        raise ValueError(f"Trainer: label_smoothing goes with loss='cross_entropy', got {loss!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"Trainer: expected label_smoothing in [0, 1), got {label_smoothing}")
    smooth = functools.partial(function, label_smoothing=label_smoothing)
    return functools.partial(_of_one_tensor, loss, smooth), plain


def _of_one_tensor(name, function, output, target):
    """function(output, target); ValueError where the model gave something else than a tensor."""
    if not isinstance(output, _core.Tensor):
        parts = list(output) if isinstance(output, dict) else [type(v).__name__ for v in output or ()]
        raise ValueError(
            f"Trainer: loss={name!r} expects one tensor from the model, got a {type(output).__name__} "
            f"({', '.join(map(str, parts))}); pass loss=f(output, target), which picks from it, and metrics of your own"
        )
    return function(output, target)


def _focal(output, target):
    """focal_loss, also of class ids: then the sum over the classes, each yes or no, and the mean over all else."""
    if target.dtype.is_floating_point or target.ndim != output.ndim - 1:
        return ops.focal_loss(output, target)
    classes = output.shape[1]
    order = (0, output.ndim - 1, *range(1, output.ndim - 1))
    return ops.focal_loss(output, ops.one_hot(target, classes).permute(order)) * classes


def mixed(precision):
    """Context of forward and loss for a precision of Trainer: parameters, gradients and updates stay float32."""
    dtype = {"bf16-mixed": _core.bfloat16, "16-mixed": _core.float16}.get(precision)
    return contextlib.nullcontext() if dtype is None else autocast(dtype=dtype)


def count_correct(output, target, ignore_index=None):
    """Number of right predictions, a float32 scalar tensor. output: scores (N, C, ...); ignore_index: no prediction."""
    if not isinstance(output, _core.Tensor) or output.ndim < 2:
        got = output.shape if isinstance(output, _core.Tensor) else type(output).__name__
        raise ValueError(f"accuracy: expected scores (N, C, ...) as the model's output, got {got}")
    if target.dtype.is_floating_point and target.ndim == output.ndim:
        if output.shape[1] == 1:
            raise ValueError(
                f"accuracy: expected scores of two classes or more, got {output.shape}; of one logit pass a function, "
                "metrics=[lambda output, target: ((output > 0) == (target > 0.5)).mean()]"
            )
        target = target.argmax(dim=1)
    predicted = output.detach().argmax(dim=1)
    if predicted.shape != target.shape or target.dtype.is_floating_point:
        raise ValueError(
            f"accuracy: expected class ids of shape {predicted.shape} for scores {output.shape}, got "
            f"{target.dtype} of shape {target.shape}; pass metrics=() to train without"
        )
    right = ops.eq(predicted, target.to(predicted.dtype)).to("float32")
    if ignore_index is not None and not 0 <= ignore_index < output.shape[1]:
        return right.sum()  # never predicted
    if ignore_index is not None:
        right = right * ops.ne(target, ignore_index).to("float32")
    return right.sum()


def count_labels(target, ignore_index=None):
    """How many predictions count_correct judges. target: a tensor of ids, or of probabilities (N, C, ...)."""
    if target.dtype.is_floating_point:
        return target.numel() // target.shape[1] if target.ndim > 1 else target.numel()
    if ignore_index is None:
        return target.numel()
    return int(np.count_nonzero(target.to("cpu").numpy() != ignore_index))


def to_tensor(value, device):
    """A batch field as a tensor on the device, without a copy where memory allows it."""
    if isinstance(value, _core.Tensor):
        return value if str(value.device) == device else value.to(device)
    array = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    tensor = _core.from_numpy(array)
    return tensor if device == "cpu" else tensor.to(device)


def map_nested(function, *values):
    """function(*leaves) of each leaf of nested tuples, lists and dicts, in the form of the first of the values."""
    first = values[0]
    if isinstance(first, dict):
        return {k: map_nested(function, *(v[k] for v in values)) for k in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(map_nested(function, *leaves) for leaves in zip(*values, strict=True)))
    if isinstance(first, (tuple, list)):
        return type(first)(map_nested(function, *leaves) for leaves in zip(*values, strict=True))
    return function(*values)


def batch_to_device(batch, device):
    """The batch of a loader with its arrays as tensors on the device; tuples, lists and dicts keep their form."""
    return map_nested(lambda v: to_tensor(v, device) if isinstance(v, (np.ndarray, _core.Tensor)) else v, batch)


def to_arrays(output):
    """What a model gave with arrays in place of its tensors; tuples, lists and dicts keep their form."""
    return map_nested(lambda v: v.to("cpu").numpy() if isinstance(v, _core.Tensor) else v, output)


def _as_float32(value):
    floating = isinstance(value, _core.Tensor) and value.dtype.is_floating_point
    return value.to("float32") if floating else value


def first_tensor(batch):
    """The first tensor of a batch, whose first dimension counts its images."""
    if isinstance(batch, _core.Tensor):
        return batch
    fields = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else ()
    return next((t for t in map(first_tensor, fields) if t is not None), None)


def split_result(result, what):
    """(loss, {name: scalar tensor}) of what a custom step returned: a loss, or a dict with "loss" and what to log."""
    logs = {}
    if isinstance(result, dict):
        if "loss" not in result:
            raise ValueError(f"Trainer: expected {what} to return a dict with 'loss', got keys {list(result)}")
        for name, value in result.items():
            if not isinstance(value, _core.Tensor) or value.numel() != 1:
                raise ValueError(f"Trainer: expected scalar tensors in the dict of {what}, got {name}={value!r:.60}")
        logs = {k: v.detach() for k, v in result.items() if k != "loss"}
        result = result["loss"]
    return scalar_loss(result, what), logs


def scalar_loss(result, what):
    """What a function of the user returned, if it is a scalar tensor."""
    if not isinstance(result, _core.Tensor) or result.numel() != 1:
        got = f"shape {tuple(result.shape)}" if isinstance(result, _core.Tensor) else type(result).__name__
        raise ValueError(f"Trainer: expected {what} to return a scalar loss, got {got}")
    return result


def split_batch(batch, device, what="training"):
    """(images, targets) of what a loader yields."""
    if isinstance(batch, dict):
        batch = tuple(batch.values())
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{len(batch)} fields" if isinstance(batch, (tuple, list)) else type(batch).__name__
        own = "training_step" if what == "training" else "validation_step"
        raise ValueError(f"Trainer: expected batches (images, targets) for {what}, got {got}; {own}= takes others")
    return to_tensor(batch[0], device), to_tensor(batch[1], device)


class TrainStep:
    """Forward, loss, backward, clipping, optimizer, averages: one optimizer step, or one of its micro-batches.

    Gradients live inside a step: they are gone after it (or zero again, where several batches add up).
    clip: (algorithm, value) or None. custom: f(model, batch) -> loss or dict, instead of model, loss and accuracy.
    scaler: GradScaler or None.
    """

    def __init__(
        self, model, loss, optimizer, accuracy, accumulate=1, clip=None, ema=None, compiler=None, precision="32-true",
        custom=None, scaler=None, ignore_index=None,
    ):  # fmt: skip
        self.ignore_index = ignore_index
        self.model, self.loss, self.optimizer, self.precision = model, loss, optimizer, precision
        self.accuracy, self.accumulate, self.clip, self.ema = accuracy, accumulate, clip, ema
        self.custom, self.scaler = custom, scaler
        self._whole, self._part = self._update, self._backward
        if compiler is not None:
            self._whole, self._part = compiler(self._update), compiler(self._backward)

    def __call__(self, batch, update=True):
        """(loss, right predictions or None, {name: value}) as tensors; update=False only adds up gradients."""
        return (self._whole if update else self._part)(batch)

    def forget_plans(self):
        """Traces anew at the next call, as where the optimizer's states have been exchanged."""
        for step in (self._whole, self._part):
            if hasattr(step, "reset"):
                step.reset()

    def prepare(self):
        """Gradient memory outlives a step only where several batches add up; plans need it in one place."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if self.accumulate == 1 or not p.requires_grad:
                    p.grad = None  # a gradient of zeros would still be decayed by the optimizer
                elif p.grad is None:
                    p.grad = ops.zeros(p.shape, dtype=p.dtype, device=str(p.device))
                else:
                    p.grad.zero_()

    def _forward(self, batch):
        """(loss, right predictions or None, what else to log)."""
        if self.custom is not None:
            with mixed(self.precision):
                loss, logs = split_result(self.custom(self.model, batch), "training_step")
            return loss, None, logs
        x, y = batch
        with mixed(self.precision):
            output = self.model(x)
            loss = scalar_loss(self.loss(output, y), "loss")
        return loss, count_correct(output, y, self.ignore_index) if self.accuracy else None, {}

    def forward_only(self, batch):
        """The loss of a batch, eagerly and without gradients."""
        was = _core.set_grad_enabled(False)
        try:
            return self._forward(batch)[0]
        finally:
            _core.set_grad_enabled(was)

    def _backward(self, batch):
        loss, correct, logs = self._forward(batch)
        if not loss.requires_grad:
            frozen = not any(p.requires_grad for p in self.model.parameters())
            why = "all its parameters are frozen" if frozen else "the loss depends on no parameter that trains"
            raise ValueError(f"Trainer: nothing in {type(self.model).__name__} trains: {why}; see unfreeze()")
        part = loss if self.accumulate == 1 else loss * (1.0 / self.accumulate)
        (part if self.scaler is None else self.scaler.scale(part)).backward()
        if distributed.world_size() > 1:
            means = [None if t is None else distributed.all_reduce(t.detach(), "mean") for t in (loss, correct)]
            return *means, {name: distributed.all_reduce(t, "mean") for name, t in logs.items()}
        return loss.detach(), correct, logs

    def _update(self, batch):
        result = self._backward(batch)
        distributed.average_gradients([p for g in self.optimizer.param_groups for p in g["params"]])
        if self.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            from .nn.utils import clip_grad_norm_, clip_grad_value_

            algorithm, value = self.clip
            clip = clip_grad_norm_ if algorithm == "norm" else clip_grad_value_
            clip([p for g in self.optimizer.param_groups for p in g["params"]], value)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=self.accumulate == 1)
        if self.ema is not None:
            self.ema.update()
        return result


class EvalStep:
    """Forward and loss without gradients: (output, loss or None, number of right predictions or None).

    The output is a tensor, or what the model puts tensors into: tuples, lists, dicts.

    custom: f(model, batch) -> loss or dict, for evaluate(batch) -> (loss, {name: value}).
    """

    def __init__(self, model, loss, accuracy, compiler=None, precision="32-true", custom=None, ignore_index=None):
        self.ignore_index = ignore_index
        self.model, self.loss, self.accuracy, self.precision = model, loss, accuracy, precision
        self.custom = custom
        self._scored, self._plain, self._own = self._score, self._forward, self._custom
        if compiler is not None:
            self._scored, self._plain, self._own = map(compiler, (self._score, self._forward, self._custom))

    def __call__(self, x, y=None):
        was = _core.set_grad_enabled(False)
        try:
            return (self._plain(x), None, None) if y is None else self._scored(x, y)
        finally:
            _core.set_grad_enabled(was)

    def evaluate(self, batch):
        """(loss, {name: value}) of the custom step."""
        was = _core.set_grad_enabled(False)
        try:
            return self._own(batch)
        finally:
            _core.set_grad_enabled(was)

    def _custom(self, batch):
        with mixed(self.precision):
            return split_result(self.custom(self.model, batch), "validation_step")

    def _forward(self, x):
        with mixed(self.precision):
            output = self.model(x)
        return output if self.precision == "32-true" else map_nested(_as_float32, output)

    def _score(self, x, y):
        output = self._forward(x)
        loss = scalar_loss(self.loss(output, y), "loss")
        return output, loss, count_correct(output, y, self.ignore_index) if self.accuracy else None
