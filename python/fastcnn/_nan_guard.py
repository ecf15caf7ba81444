"""Where a NaN came from: the step that gave it is run again, eagerly and layer by layer, with the weights before it.

Those weights are a copy that is renewed in each step for nets of a few thousand weights, for others as often as half
a per cent of the CPU time of training allows, and in each step again once the loss has jumped. Nothing here prevents a
NaN.
"""

from __future__ import annotations

import math
import time

import numpy as np

from . import _core

_SHARE = 0.005  # of the training time that copies may take
_SMALL = 1 << 16  # weights that are copied in some microseconds
_JUMP = 2.0  # times the smoothed loss: something is going on, copy in each step


class NanGuard:
    """Copies of a model's weights and buffers from before a step, and the search for the first layer that fails."""

    def __init__(self, model):
        self.model = model
        self._copies, self._step = None, None
        self._spent, self._began, self._mean, self._small = 0.0, time.thread_time(), None, False

    def before_step(self, step):
        """Copies the weights if it is time."""
        began = time.thread_time()
        late = self._spent > _SHARE * (began - self._began)
        if self._copies is not None and late and not self._small and not self._alarmed:
            return
        if self._copies is None:
            self._tensors = list(self.model.state_dict().values())
            self._small = sum(t.numel() for t in self._tensors) <= _SMALL
            self._copies = [_core.empty(t.shape, dtype=t.dtype, device=str(t.device)) for t in self._tensors]
        for copy, tensor in zip(self._copies, self._tensors, strict=True):
            copy.copy_(tensor)
        self._step = step
        self._spent += time.thread_time() - began

    def restart(self):
        """Training begins: other tensors may be the model's now."""
        self._copies, self._step, self._mean = None, None, None
        self._spent, self._began = 0.0, time.thread_time()

    @property
    def _alarmed(self):
        return self._mean is not None and self._last > _JUMP * self._mean

    def saw(self, loss):
        """Takes the finite loss of a step."""
        self._last = loss
        self._mean = loss if self._mean is None else 0.9 * self._mean + 0.1 * loss

    def explain(self, step_function, batch, step):
        """One sentence on where the first NaN or infinity of `step` arose; the model then holds the copied weights."""
        bad = _bad_fields(batch)
        if bad:
            return f"the batch itself has {bad}"
        broken = _not_finite(self.model)
        if self._copies is None:
            return "no weights from before are kept"
        now = [np.array(t.to("cpu").numpy()) for t in self._tensors]
        for copy, tensor in zip(self._copies, self._tensors, strict=True):
            tensor.copy_(copy)
        lost = _not_finite(self.model)
        if lost:  # the loss before was finite, so backward made these
            last = [name for name, _ in self.model.named_parameters() if name in lost][-1:] or lost[:1]
            return (
                f"the step before made weights non-finite, in {len(lost)} tensors from {lost[0]} to {last[0]}: its "
                f"gradients were, from {_layer_of(last[0])} down"
            )
        found = first_layer(self.model, lambda: step_function.forward_only(batch))
        if found is not None:
            return found
        if self._step == step:
            return "all layers give finite values, the loss itself is not finite"
        for value, tensor in zip(now, self._tensors, strict=True):
            tensor.copy_(_core.tensor(value))
        return f"weights went non-finite between steps {self._step} and {step}: {', '.join(broken[:3]) or 'none now'}"


def first_layer(model, run):
    """Runs `run` with hooks; the sentence on the first layer whose output is not finite, or None if all are."""
    found, handles = [], []

    def hook_for(name, module):
        def hook(m, args, output):
            if found or any(True for _ in m.children()):
                return
            count, size = _count_bad(output)
            if count:
                before = max((_largest(a) for a in args), default=0.0)
                label = f"{name} ({type(m).__name__})" if name else type(m).__name__
                shape = tuple(output.shape) if isinstance(output, _core.Tensor) else "several"
                found.append(
                    f"the first layer with NaN or infinity is {label}: {count:,} of {size:,} values, output {shape}, "
                    f"largest input {before:.3g}"
                )

        return hook

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(hook_for(name, module)))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _layer_of(name):
    return name.rpartition(".")[0] or name


def _array(t):
    return t.detach().to("float32").to("cpu").numpy()


def _count_bad(output):
    if isinstance(output, _core.Tensor):
        if not output.dtype.is_floating_point:
            return 0, output.numel()
        return int((~np.isfinite(_array(output))).sum()), output.numel()
    if isinstance(output, dict):
        output = list(output.values())
    counts = [_count_bad(o) for o in output] if isinstance(output, (tuple, list)) else []
    return sum(c for c, _ in counts), sum(n for _, n in counts)


def _largest(value):
    if not isinstance(value, _core.Tensor) or not value.dtype.is_floating_point or value.numel() == 0:
        return 0.0
    return float(np.abs(_array(value)).max())


def _bad_fields(batch):
    fields = batch.items() if isinstance(batch, dict) else enumerate(batch) if isinstance(batch, (tuple, list)) else ()
    for key, value in fields:
        if isinstance(value, _core.Tensor) and value.dtype.is_floating_point:
            count, size = _count_bad(value)
            if count:
                flat = _array(value).reshape(value.shape[0] if value.ndim else 1, -1)
                which = f", in its images {', '.join(map(str, np.flatnonzero(~np.isfinite(flat).all(1))[:5]))}"
                return f"{count:,} NaN or infinite values among {size:,} of field {key}{which}"
    return None


def _not_finite(model):
    """Names of the parameters and buffers with a NaN or infinity, in the model's order."""
    return [
        name for name, t in model.state_dict().items()
        if t.dtype.is_floating_point and not math.isfinite(float(np.abs(_array(t)).max(initial=0)))
    ]  # fmt: skip
