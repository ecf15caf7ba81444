"""fc.GradScaler: dynamic loss scaling for float16 (Micikevicius et al. 2018), without a look at a value by the host.

float16 holds nothing below 6e-8, so gradients are computed of a loss times a large factor. Where one overflows, the
step is left out and the factor shrinks; after many good steps it grows. Factor, counter and flag are tensors on the
device, and the optimizer's kernels read the flag themselves: a whole step can be compiled and replayed.
"""

from __future__ import annotations

import math

import numpy

from . import _core
from ._core import ops


class GradScaler:
    """Dynamic loss scaling, as torch.amp.GradScaler.

    Args: device of the loss. init_scale: the first factor. growth_factor, backoff_factor: what it is multiplied by
    after growth_interval good steps, and after one whose gradients are not finite. enabled: False scales by nothing.
    Raises: ValueError for options out of range.

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)      # where gradients are clipped or looked at; else step() does it
        scaler.step(optimizer)          # nothing happens where a gradient is NaN or infinite
        scaler.update()

    One scaler may drive several optimizers; each leaves out its own steps. Works eagerly and under ``fc.compile``.
    """

    def __init__(
        self, device="cpu", init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000,
        enabled=True,
    ):  # fmt: skip
        if not (init_scale > 0 and math.isfinite(init_scale)):
            raise ValueError(f"GradScaler: expected init_scale > 0, got {init_scale}")
        if not growth_factor > 1:
            raise ValueError(f"GradScaler: expected growth_factor > 1, got {growth_factor}")
        if not 0 < backoff_factor < 1:
            raise ValueError(f"GradScaler: expected backoff_factor in (0, 1), got {backoff_factor}")
        if growth_interval < 1:
            raise ValueError(f"GradScaler: expected growth_interval >= 1, got {growth_interval}")
        self._enabled = bool(enabled)
        self.growth_factor, self.backoff_factor = float(growth_factor), float(backoff_factor)
        self.growth_interval = int(growth_interval)
        self._device = str(device)
        self._scale, self._good = self._number(init_scale), self._number(0.0)  # good: steps since it last changed
        self._skipped = {}  # of each optimizer, in the order of their first steps: steps left out
        self._resumed = []  # the same of a checkpoint, for optimizers that have not stepped yet
        self._found = {}  # between unscale_ and update: of each optimizer, are its gradients bad, and are they unscaled

    def _number(self, value):
        # Not an op: while a step is traced an op would give a tensor without memory.
        t = _core.empty((), device=self._device)
        _core.write_(t, numpy.array(value, "float32"))
        return t

    def is_enabled(self):
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self):
        """The factor now; waits for the device."""
        return self._scale.item() if self._enabled else 1.0

    def scale(self, loss):
        """The loss times the factor, float32."""
        return loss.to("float32") * self._scale if self._enabled else loss

    def unscale_(self, optimizer):
        """Divides the optimizer's gradients by the factor, in place. RuntimeError a second time before update()."""
        if not self._enabled:
            return
        if id(optimizer) in self._found:
            raise RuntimeError("GradScaler.unscale_: the gradients of this optimizer have been unscaled since update()")
        grads = self._look(optimizer, unscaled=True)
        was = _core.set_grad_enabled(False)
        try:
            factor = 1.0 / self._scale
            for g in grads:
                g.mul_(factor.to(g.dtype))
        finally:
            _core.set_grad_enabled(was)

    def _look(self, optimizer, unscaled):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            raise ValueError(f"GradScaler: expected {type(optimizer).__name__} to have gradients, got none")
        self._found[id(optimizer)] = (_core.optim.non_finite(grads), unscaled)
        return grads

    def step(self, optimizer):
        """A step of the optimizer on its gradients divided by the factor, unless one of them is NaN or infinite."""
        if not self._enabled:
            optimizer.step()
            return
        if id(optimizer) not in self._found:
            self._look(optimizer, unscaled=False)
        found, unscaled = self._found[id(optimizer)]
        skipped = self._skipped_of(optimizer)
        was = _core.set_grad_enabled(False)
        try:
            factor = ops.ones_like(self._scale) if unscaled else 1.0 / self._scale
            optimizer.step(scale=ops.stack([found, factor, skipped]))
            skipped.copy_(skipped + found)
        finally:
            _core.set_grad_enabled(was)

    def _skipped_of(self, optimizer):
        if id(optimizer) not in self._skipped:
            first = self._resumed.pop(0) if self._resumed else 0.0
            self._skipped[id(optimizer)] = (self._number(first), optimizer)  # kept, so that its id is not another's
        return self._skipped[id(optimizer)][0]

    def update(self):
        """A new factor from what the steps since the last update found."""
        if not self._enabled:
            return
        if not self._found:
            raise RuntimeError("GradScaler.update: expected step() before it")
        was = _core.set_grad_enabled(False)
        try:
            bad = None
            for found, _ in self._found.values():
                bad = found if bad is None else ops.maximum(bad, found)
            bad, good = bad > 0, self._good + 1.0
            grow = good >= float(self.growth_interval)
            larger = self._scale * self.growth_factor
            larger = ops.where(ops.isfinite(larger), larger, self._scale)
            kept = ops.where(grow, larger, self._scale)
            self._scale.copy_(ops.where(bad, self._scale * self.backoff_factor, kept))
            self._good.copy_(ops.where(bad.logical_or(grow), 0.0, good))
        finally:
            _core.set_grad_enabled(was)
            self._found = {}

    def state_dict(self):
        """Numbers: scale, options, good steps since it changed, steps left out by each optimizer; {} if disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(), "growth_factor": self.growth_factor, "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval, "_growth_tracker": int(self._good.item()),
            "skipped": [t.item() for t, _ in self._skipped.values()] + list(self._resumed),
        }  # fmt: skip

    def load_state_dict(self, state):
        """Takes over a state_dict(), also torch's. Tensors are filled in place, so compiled steps see them."""
        if not self._enabled:
            return
        missing = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"} - set(state)
        if missing:
            raise ValueError(f"GradScaler: expected a state with {', '.join(sorted(missing))}, got {list(state)}")
        self.growth_factor, self.backoff_factor = state["growth_factor"], state["backoff_factor"]
        self.growth_interval = state["growth_interval"]
        skipped = [float(n) for n in state.get("skipped", [])]
        mine = [t for t, _ in self._skipped.values()]
        self._resumed = skipped[len(mine) :]
        values = [(self._scale, state["scale"]), (self._good, state["_growth_tracker"])]
        values += [(t, skipped[i] if i < len(skipped) else 0.0) for i, t in enumerate(mine)]
        for tensor, value in values:
            _core.write_(tensor, numpy.array(value, "float32"))
