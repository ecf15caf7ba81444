"""What the trainer runs per batch: the training step and the evaluation step, each one function for compile.

Functions of tensors only. Epochs, numbers on the host and files are the trainer's.
"""

from __future__ import annotations

import contextlib

import numpy as np

from . import _core
from ._core import ops
from ._modes import autocast

# What Trainer(loss=...) takes by name.
LOSSES = {
    "cross_entropy": "cross_entropy",
    "nll": "nll_loss",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
    "mse": "mse_loss",
    "l1": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
}


def get_loss(loss, label_smoothing=0.0):
    """(loss of training, loss of evaluation): functions (output, target) -> scalar tensor."""
    if callable(loss):
        if label_smoothing:
            raise ValueError("Trainer: label_smoothing goes with loss='cross_entropy', not with a function")
        return loss, loss
    if loss not in LOSSES:
        import difflib

        near = difflib.get_close_matches(str(loss), LOSSES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(LOSSES)}"
        raise ValueError(f"Trainer: unknown loss {loss!r}; {hint}")
    function = getattr(ops, LOSSES[loss])
    if not label_smoothing:
        return function, function
    if loss != "cross_entropy":
        raise ValueError(f"Trainer: label_smoothing goes with loss='cross_entropy', got {loss!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"Trainer: expected label_smoothing in [0, 1), got {label_smoothing}")
    return (lambda x, y: function(x, y, label_smoothing=label_smoothing)), function


def mixed(precision):
    """Context of forward and loss for a precision of Trainer: parameters, gradients and updates stay float32."""
    return autocast(dtype=_core.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()


def count_correct(output, target):
    """Number of right predictions, a float32 scalar tensor. output: scores (N, C, ...)."""
    if not isinstance(output, _core.Tensor) or output.ndim < 2:
        got = output.shape if isinstance(output, _core.Tensor) else type(output).__name__
        raise ValueError(f"accuracy: expected scores (N, C, ...) as the model's output, got {got}")
    if target.dtype.is_floating_point and target.ndim == output.ndim:
        target = target.argmax(dim=1)
    predicted = output.detach().argmax(dim=1)
    if predicted.shape != target.shape or target.dtype.is_floating_point:
        raise ValueError(
            f"accuracy: expected class ids of shape {predicted.shape} for scores {output.shape}, got "
            f"{target.dtype} of shape {target.shape}; pass metrics=() to train without"
        )
    return ops.eq(predicted, target.to(predicted.dtype)).to("float32").sum()


def to_tensor(value, device):
    """A batch field as a tensor on the device, without a copy where memory allows it."""
    if isinstance(value, _core.Tensor):
        return value if str(value.device) == device else value.to(device)
    array = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    tensor = _core.from_numpy(array)
    return tensor if device == "cpu" else tensor.to(device)


def split_batch(batch, device, what="training"):
    """(images, targets) of what a loader yields."""
    if isinstance(batch, dict):
        batch = tuple(batch.values())
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{len(batch)} fields" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"Trainer: expected batches (images, targets) for {what}, got {got}")
    return to_tensor(batch[0], device), to_tensor(batch[1], device)


class TrainStep:
    """Forward, loss, backward, clipping, optimizer, averages: one optimizer step, or one of its micro-batches.

    Gradients live inside a step: they are gone after it (or zero again, where several batches add up).
    """

    def __init__(
        self, model, loss, optimizer, accuracy, accumulate=1, clip=None, ema=None, compiler=None, precision="32-true"
    ):
        self.model, self.loss, self.optimizer, self.precision = model, loss, optimizer, precision
        self.accuracy, self.accumulate, self.clip, self.ema = accuracy, accumulate, clip, ema
        self._whole, self._part = self._update, self._collect
        if compiler is not None:
            self._whole, self._part = compiler(self._update), compiler(self._collect)

    def __call__(self, x, y, update=True):
        """(loss, number of right predictions or None) as tensors; update=False only adds up gradients."""
        return (self._whole if update else self._part)(x, y)

    def forget_plans(self):
        """Traces anew at the next call, as where the optimizer's states have been exchanged."""
        for step in (self._whole, self._part):
            if hasattr(step, "reset"):
                step.reset()

    def prepare(self):
        """Gradient memory outlives a step only where several batches add up; plans need it in one place."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if self.accumulate == 1:
                    p.grad = None
                elif p.requires_grad and p.grad is None:
                    p.grad = ops.zeros(p.shape, dtype=p.dtype, device=str(p.device))
                elif p.grad is not None:
                    p.grad.zero_()

    def _backward(self, x, y):
        with mixed(self.precision):
            output = self.model(x)
            loss = self.loss(output, y)
        (loss if self.accumulate == 1 else loss * (1.0 / self.accumulate)).backward()
        correct = count_correct(output, y) if self.accuracy else None
        return loss.detach(), correct

    def _collect(self, x, y):
        return self._backward(x, y)

    def _update(self, x, y):
        result = self._backward(x, y)
        if self.clip is not None:
            from .nn.utils import clip_grad_norm_

            clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self.accumulate == 1)
        if self.ema is not None:
            self.ema.update()
        return result


class EvalStep:
    """Forward and loss without gradients: (output, loss or None, number of right predictions or None)."""

    def __init__(self, model, loss, accuracy, compiler=None, precision="32-true"):
        self.model, self.loss, self.accuracy, self.precision = model, loss, accuracy, precision
        self._scored, self._plain = self._score, self._forward
        if compiler is not None:
            self._scored, self._plain = compiler(self._score), compiler(self._forward)

    def __call__(self, x, y=None):
        was = _core.set_grad_enabled(False)
        try:
            return (self._plain(x), None, None) if y is None else self._scored(x, y)
        finally:
            _core.set_grad_enabled(was)

    def _forward(self, x):
        with mixed(self.precision):
            output = self.model(x)
        return output.to("float32") if self.precision == "bf16-mixed" else output

    def _score(self, x, y):
        output = self._forward(x)
        return output, self.loss(output, y), count_correct(output, y) if self.accuracy else None
