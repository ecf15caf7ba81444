"""Learning-rate range test (Smith 2015): a short run whose rate grows from step to step, and what it tells.

The trainer's weights, buffers, averages, optimizer state and random numbers are as before when it ends.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from . import _core
from ._modes import to_evaluation
from ._steps import batch_to_device, split_batch


class LRFinder:
    """Result of Trainer.lr_find. Attributes: lrs, losses: per step. smoothed: losses averaged over some steps."""

    def __init__(self, lrs, losses, beta=0.9):
        self.lrs, self.losses = list(lrs), list(losses)
        self.smoothed, mean = [], 0.0
        for i, loss in enumerate(self.losses, 1):
            mean = beta * mean + (1 - beta) * loss
            self.smoothed.append(mean / (1 - beta**i))

    def suggestion(self, skip_begin=5, skip_end=1):
        """The rate at which the loss falls fastest per factor of rate; None where it never falls."""
        end = len(self.lrs) - skip_end
        if end - skip_begin < 3:
            return None
        slope = np.gradient(self.smoothed[skip_begin:end], np.log(self.lrs[skip_begin:end]))
        best = int(slope.argmin())
        return float(self.lrs[skip_begin + best]) if slope[best] < 0 else None

    def plot(self, path=None):
        """Loss over rate as a matplotlib figure, written to path where that is given."""
        from .viz import lr_curve

        return lr_curve(self, path=path)


def _copies(tensors):
    return [(t, np.array(t.detach().to("cpu").numpy())) for t in tensors]


def _tensors_of(trainer):
    yield from trainer.model.state_dict().values()
    if trainer.ema is not None:
        yield from trainer.ema.module.state_dict().values()
        yield trainer.ema.updates
    yield _core.ops.random_state()


def _endless(loader):
    """Its batches again and again; ends where it gives none, as one does that can be read only once."""
    found = True
    while found:
        found = False
        for batch in loader:
            found = True
            yield batch


def lr_find(trainer, loader, min_lr, max_lr, num_steps, stop_factor):
    """See Trainer.lr_find."""
    if not 0 < min_lr < max_lr:
        raise ValueError(f"Trainer.lr_find: expected 0 < min_lr < max_lr, got {min_lr} and {max_lr}")
    if num_steps < 10:
        raise ValueError(f"Trainer.lr_find: expected num_steps >= 10, got {num_steps}")
    optimizer, step = trainer.optimizer, trainer._step
    rates = [g["lr"] for g in optimizer.param_groups]
    top = max(rates) or 1.0
    kept, state = _copies(_tensors_of(trainer)), optimizer.state
    optimizer.state, launches = {}, optimizer._launches
    optimizer._launches = {}
    restore = to_evaluation(trainer.model)
    own, accumulate = trainer.training_step is not None, trainer.accumulate_grad_batches
    scaler = None if trainer.scaler is None else trainer.scaler.state_dict()
    lrs, losses, best = [], [], math.inf
    batches = _endless(loader)
    try:
        trainer.model.train()
        step.prepare()
        step.forget_plans()
        for i in range(num_steps):
            parts = list(itertools.islice(batches, accumulate))
            if len(parts) < accumulate:
                raise ValueError(
                    f"Trainer.lr_find: expected data for {num_steps} steps of {accumulate} batches, it ended in step "
                    f"{i + 1}; a loader that can be read only once has to be that long"
                    if i
                    else "Trainer.lr_find: the training data gave no batch"
                )
            lr = min_lr * (max_lr / min_lr) ** (i / (num_steps - 1))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * rate / top if rate else lr
            value = 0.0
            for k, batch in enumerate(parts, 1):
                fields = batch_to_device(batch, trainer.device) if own else split_batch(batch, trainer.device)
                value += step(fields, k == accumulate)[0].item() / accumulate
            lrs.append(lr)
            losses.append(value)
            smooth = LRFinder(lrs, losses).smoothed[-1]
            if not math.isfinite(value) or (i > 10 and smooth > stop_factor * best):
                break
            best = min(best, smooth)
    finally:
        restore()
        optimizer.state, optimizer._launches = state, launches
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for tensor, value in kept:
            tensor.detach().copy_(_core.tensor(value))
        if scaler is not None:
            trainer.scaler.load_state_dict(scaler)
        step.prepare()
        step.forget_plans()  # they hold the states of this run
    finite = [i for i, v in enumerate(losses) if math.isfinite(v)]
    return LRFinder([lrs[i] for i in finite], [losses[i] for i in finite])
