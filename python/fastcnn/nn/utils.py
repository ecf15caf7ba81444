"""Around training: clipping gradients, parameters as one vector, moving averages of weights, computed weights."""

from __future__ import annotations

import contextlib
import copy
import math

from .. import _core
from .._core import ops
from .parameter import no_grad
from .reparam import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm  # noqa: F401


def _with_grads(parameters):
    parameters = [parameters] if isinstance(parameters, _core.Tensor) else list(parameters)
    return [p.grad for p in parameters if p.grad is not None]


def get_total_norm(tensors, norm_type=2.0):
    """The norm of all tensors as if they were one vector, 0-D, float32 or wider; norm_type may be inf."""
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ValueError(f"get_total_norm: expected norm_type > 0, got {norm_type}")
    total = None
    for t in tensors:
        t = t if t.dtype == _core.float64 else t.to("float32")
        part = t.abs().max() if math.isinf(norm_type) else _power(t.abs(), norm_type).sum()
        total = (
            part if total is None else (ops.maximum(total, part) if math.isinf(norm_type) else total + part)
        )
    if total is None:
        return _core.tensor(0.0)
    return total if math.isinf(norm_type) else _power(total, 1 / norm_type)


def _power(t, p):
    return t * t if p == 2 else t.sqrt() if p == 0.5 else t if p == 1 else t**p


def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False):
    """Scales gradients in place so that their total norm is at most max_norm (Pascanu et al. 2012).

    Returns the norm before, a 0-D tensor. error_if_nonfinite: RuntimeError if it is not finite (reads the
    value, so it cannot be used inside compile).
    """
    with no_grad():
        grads = _with_grads(parameters)
        total = get_total_norm(grads, norm_type)
        if error_if_nonfinite and not math.isfinite(total.item()):
            raise RuntimeError(f"clip_grad_norm_: the total norm of order {norm_type} is {total.item()}")
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.mul_(scale)
    return total


def clip_grad_value_(parameters, clip_value):
    """Clips each gradient value to [-clip_value, clip_value] in place."""
    with no_grad():
        for g in _with_grads(parameters):
            g.copy_(g.clamp(-clip_value, clip_value))


def parameters_to_vector(parameters):
    """All parameters as one vector, differentiable."""
    return ops.cat([p.reshape((-1,)) for p in parameters], 0)


def vector_to_parameters(vec, parameters):
    """Writes slices of a vector into the parameters; ValueError unless the lengths agree."""
    parameters = list(parameters)
    total = sum(p.numel() for p in parameters)
    if tuple(vec.shape) != (total,):
        raise ValueError(f"vector_to_parameters: expected a vector of shape ({total},), got {vec.shape}")
    start = 0
    with no_grad():
        for p in parameters:
            p.copy_(vec[start : start + p.numel()].reshape(p.shape))
            start += p.numel()


class EMA:
    """Exponential moving average of a model's parameters and floating buffers (Polyak and Juditsky 1992).

    Args: model. decay: weight of the old average. warmup: early steps use (1 + n) / (10 + n) where that is
    smaller. `module` is the averaged copy, in evaluation mode and without gradients. update() works inside
    compile.
    """

    def __init__(self, model, decay=0.999, warmup=False):
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA: expected decay between 0 and 1, got {decay}")
        self.decay, self.warmup = decay, warmup
        self.model = model
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        held = next(iter(self.module._state().values()), None)
        self.updates = _core.tensor(0.0, device=None if held is None else held.device)

    def update(self, model=None):
        """Moves the average towards the model; integer buffers are copied."""
        now = (model or self.model)._state()
        with no_grad():
            step = 1.0 - self.decay
            if self.warmup:
                self.updates.copy_(self.updates + 1.0)
                step = (1.0 - (self.updates + 1.0) / (self.updates + 10.0)).clamp(min=step)
            tensors = {id(average): (key, average) for key, average in self.module._state().items()}
            for key, average in tensors.values():  # shared ones once
                value = now[key].detach()
                if average.dtype.is_floating_point:
                    average.copy_(average + (value - average) * step)
                else:
                    average.copy_(value)

    @contextlib.contextmanager
    def average_parameters(self):
        """Scope in which the model itself holds the averaged values."""
        state = self.model.state_dict()
        saved = {k: v.clone() for k, v in state.items()}
        self.model.load_state_dict(self.module.state_dict())
        try:
            yield self.model
        finally:
            self.model.load_state_dict(saved)

    def state_dict(self):
        """The averaged state and the number of updates, under "updates"."""
        return {f"module.{k}": v for k, v in self.module.state_dict().items()} | {"updates": self.updates}

    def load_state_dict(self, state_dict, strict=True):
        """Restores what state_dict gave."""
        own = {k.removeprefix("module."): v for k, v in state_dict.items() if k.startswith("module.")}
        result = self.module.load_state_dict(own, strict)
        if "updates" in state_dict:
            self.updates.copy_(state_dict["updates"])
        elif strict:
            raise ValueError("EMA.load_state_dict: missing key 'updates'")
        return result
