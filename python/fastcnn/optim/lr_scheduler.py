"""Learning-rate schedules with PyTorch's names, arguments and values.

A schedule is a closed formula of its step count, so that it can be set to any step, saved as a few numbers,
and put into a sequence. It writes group["lr"] of the optimizer; compiled steps read the new value. Where another
schedule or the user has written it in between, it goes on from there: its own rate (base_lrs) becomes the one that
would have led to what it finds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


class LRScheduler:
    """Base class. Constructing one is step 0 and sets the rate; call step() after optimizer.step().

    Whether to step per batch or per epoch is the caller's choice; `interval` says what is usual.
    """

    interval = "epoch"
    _chains = False  # lr_at is linear in base_lr, and PyTorch's goes on from rates that others have set
    _given = None  # the rates as this schedule has set them last; None while it is not the one that acts

    def __init__(self, optimizer):
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"{self._name}: expected an optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["lr" if self._chains else "initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._set(0)

    @property
    def _name(self):
        return type(self).__name__

    def lr_at(self, base_lr, t, group=0):
        """The rate after t steps of parameter group number `group`, whose own rate is base_lr."""
        raise NotImplementedError

    def _set(self, t):
        groups = self.optimizer.param_groups
        self._grow()
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"{self._name}: made for {len(self.base_lrs)} parameter groups, the optimizer has {len(groups)} now"
            )
        self.last_epoch = t
        for i, (group, base) in enumerate(zip(groups, self.base_lrs, strict=True)):
            group["lr"] = self.lr_at(base, t, i)
        self._given = self.get_last_lr()

    def _grow(self):
        """Takes in parameter groups that have come since."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :] if self._chains else ():
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))

    def _reset(self):
        """Back to the rates before any schedule, for a place in a sequence."""
        self.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]

    def _rest(self):
        """Another schedule acts from here on, until the next _set."""
        self._given = None

    def _adopt(self):
        """Takes the rates as others have changed them for its own, and those of groups that have come since."""
        if not self._chains or self._given is None:
            return
        t = self.last_epoch
        for i, group in enumerate(self.optimizer.param_groups):
            known = i < len(self._given)
            if known and group["lr"] == self._given[i]:
                continue
            group.setdefault("initial_lr", group["lr"])
            at_zero = self.lr_at(0.0, t, i)
            share = self.lr_at(1.0, t, i) - at_zero
            base = (group["lr"] - at_zero) / share if abs(share) > 1e-12 else None  # None: it shows nothing now
            if known:
                self.base_lrs[i] = self.base_lrs[i] if base is None else base
            else:
                self.base_lrs.append(group["lr"] if base is None else base)
        self._given = self.get_last_lr()

    def step(self):
        """Goes on by one step."""
        self._adopt()
        self._set(self.last_epoch + 1)

    def get_last_lr(self):
        """The rate of each parameter group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self):
        """Plain numbers only; functions (LambdaLR) are not in it."""
        self._adopt()
        self._grow()
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state):
        """Takes over a state_dict() of the same kind of schedule and sets the rate."""
        self._grow()
        if len(state["base_lrs"]) != len(self.base_lrs):
            raise ValueError(
                f"{self._name}: expected a state of {len(self.base_lrs)} parameter groups, "
                f"got {len(state['base_lrs'])}"
            )
        self.base_lrs = [float(x) for x in state["base_lrs"]]
        self._set(int(state["last_epoch"]))


class LambdaLR(LRScheduler):
    """lr = base_lr * lr_lambda(t). lr_lambda: a function, or one per parameter group."""

    def __init__(self, optimizer, lr_lambda):
        count = len(optimizer.param_groups)
        lambdas = list(lr_lambda) if isinstance(lr_lambda, Sequence) else [lr_lambda] * count
        if len(lambdas) != count or not all(callable(f) for f in lambdas):
            raise ValueError(f"LambdaLR: expected a function or {count} functions, got {lr_lambda!r}")
        self.lr_lambdas = lambdas
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return base_lr * self.lr_lambdas[group](t)


class StepLR(LRScheduler):
    """lr = base_lr * gamma ** (t // step_size)."""

    _chains = True

    def __init__(self, optimizer, step_size, gamma=0.1):
        self.step_size, self.gamma = _positive("StepLR", "step_size", step_size), gamma
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return base_lr * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiplied by gamma at each of the milestones (step counts)."""

    _chains = True

    def __init__(self, optimizer, milestones, gamma=0.1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return base_lr * self.gamma ** bisect.bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """lr = base_lr * gamma ** t."""

    _chains = True

    def __init__(self, optimizer, gamma):
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return base_lr * self.gamma**t


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from base_lr to eta_min in T_max steps, and back up after it (Loshchilov & Hutter 2017)."""

    _chains = True

    def __init__(self, optimizer, T_max, eta_min=0.0):
        self.T_max, self.eta_min = _positive("CosineAnnealingLR", "T_max", T_max), eta_min
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class LinearWarmup(LRScheduler):
    """From start_factor * base_lr up to base_lr in total_iters even steps (torch's LinearLR)."""

    interval = "step"
    _chains = True

    def __init__(self, optimizer, total_iters=5, start_factor=1.0 / 3, end_factor=1.0):
        if not 0 <= start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"LinearWarmup: expected factors in [0, 1], got start {start_factor} and end {end_factor}"
            )
        self.total_iters = _positive("LinearWarmup", "total_iters", total_iters)
        self.start_factor, self.end_factor = start_factor, end_factor
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        done = min(t, self.total_iters) / self.total_iters
        return base_lr * (self.start_factor + (self.end_factor - self.start_factor) * done)


class LinearLR(LinearWarmup):
    """LinearWarmup with the arguments of PyTorch's LinearLR, counted in epochs."""

    interval = "epoch"

    def __init__(self, optimizer, start_factor=1.0 / 3, end_factor=1.0, total_iters=5):
        super().__init__(optimizer, total_iters, start_factor, end_factor)


class ConstantLR(LRScheduler):
    """lr = base_lr * factor for total_iters steps, then base_lr."""

    _chains = True

    def __init__(self, optimizer, factor=1.0 / 3, total_iters=5):
        if not 0 <= factor <= 1:
            raise ValueError(f"ConstantLR: expected factor in [0, 1], got {factor}")
        self.factor, self.total_iters = factor, _positive("ConstantLR", "total_iters", total_iters)
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return base_lr * (self.factor if t < self.total_iters else 1.0)


class PolynomialLR(LRScheduler):
    """lr = base_lr * (1 - t / total_iters) ** power, 0 from there on (the schedule of DeepLab, Chen et al. 2017)."""

    _chains = True

    def __init__(self, optimizer, total_iters=5, power=1.0):
        self.total_iters, self.power = _positive("PolynomialLR", "total_iters", total_iters), power
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        return base_lr * (1.0 - min(t, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine from base_lr to eta_min in T_0 steps, then again, T_mult times as long each time.

    Loshchilov & Hutter 2017, SGDR.
    """

    def __init__(self, optimizer, T_0, T_mult=1, eta_min=0.0):
        name = "CosineAnnealingWarmRestarts"
        self.T_0, self.T_mult = _positive(name, "T_0", T_0), _positive(name, "T_mult", T_mult)
        self.eta_min = eta_min
        super().__init__(optimizer)

    def lr_at(self, base_lr, t, group=0):
        length = self.T_0
        while self.T_mult > 1 and t >= length:
            t, length = t - length, length * self.T_mult
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * (t % length) / length)) / 2


class OneCycleLR(LRScheduler):
    """Up to max_lr and down to almost nothing within total_steps, stepped per batch (Smith & Topin 2018).

    Args: max_lr: number or one per group. total_steps, or epochs and steps_per_epoch. pct_start: part that
    rises. anneal_strategy: "cos" or "linear". cycle_momentum: momentum (or beta1) moves the other way between
    max_momentum and base_momentum. div_factor: max_lr / first rate; final_div_factor: first / last rate.
    three_phase: down as fast as up, then to the last rate.
    Raises: ValueError for options out of range, and by step() after total_steps.
    """

    interval = "step"

    def __init__(
        self, optimizer, max_lr, total_steps=None, epochs=None, steps_per_epoch=None, pct_start=0.3,
        anneal_strategy="cos", cycle_momentum=True, base_momentum=0.85, max_momentum=0.95, div_factor=25.0,
        final_div_factor=1e4, three_phase=False,
    ):  # fmt: skip
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: expected total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        self.total_steps = _positive("OneCycleLR", "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: expected pct_start in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"OneCycleLR: expected anneal_strategy 'cos' or 'linear', got {anneal_strategy!r}"
            )
        groups = optimizer.param_groups
        max_lrs = list(max_lr) if isinstance(max_lr, Sequence) else [max_lr] * len(groups)
        if len(max_lrs) != len(groups):
            raise ValueError(f"OneCycleLR: expected {len(groups)} values of max_lr, got {len(max_lrs)}")
        self.max_lrs, self.div_factor, self.final_div_factor = max_lrs, div_factor, final_div_factor
        self.cycle_momentum = cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self._cosine = anneal_strategy == "cos"
        peak = pct_start * total_steps - 1
        if three_phase:
            self._ends = [peak, 2 * peak, total_steps - 1]
        else:
            self._ends = [peak, total_steps - 1]
        if cycle_momentum and not all("momentum" in g or "betas" in g for g in groups):
            raise ValueError("OneCycleLR: cycle_momentum=True needs an optimizer with momentum or betas")
        for group, peak_lr in zip(groups, max_lrs, strict=True):
            group["initial_lr"] = peak_lr / div_factor
        super().__init__(optimizer)

    def _interpolate(self, t, points):
        """points: the values at the start and at the end of each phase."""
        start = 0.0
        for i, end in enumerate(self._ends):
            if t <= end or i == len(self._ends) - 1:
                part = (t - start) / (end - start) if end != start else 1.0
                low, high = points[i], points[i + 1]
                if self._cosine:
                    return high + (low - high) / 2.0 * (1 + math.cos(math.pi * part))
                return low + (high - low) * part
            start = end
        raise AssertionError("unreachable")

    def lr_at(self, base_lr, t, group=0):
        peak, last = self.max_lrs[group], base_lr / self.final_div_factor
        points = [base_lr, peak, base_lr, last] if len(self._ends) == 3 else [base_lr, peak, last]
        return self._interpolate(t, points)

    def _set(self, t):
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} of a schedule of {self.total_steps} steps")
        super()._set(t)
        if self.cycle_momentum:
            low, high = self.base_momentum, self.max_momentum
            points = [high, low, high, high] if len(self._ends) == 3 else [high, low, high]
            momentum = self._interpolate(t, points)
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """Schedules one after another: number i+1 starts from its own step 0 at milestones[i].

    All count the same steps: in a Trainer those that the first one usually counts (LinearWarmup: optimizer steps). All
    must drive the same optimizer; a ReduceLROnPlateau cannot be one of them.
    """

    def __init__(self, optimizer, schedulers, milestones):
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        if not self.schedulers or len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"SequentialLR: expected one milestone less than schedulers, got {len(self.schedulers)} "
                f"schedulers and {len(self.milestones)} milestones"
            )
        if self.milestones != sorted(self.milestones):
            raise ValueError(f"SequentialLR: expected rising milestones, got {self.milestones}")
        for i, s in enumerate(self.schedulers):
            if not isinstance(s, LRScheduler):
                raise TypeError(f"SequentialLR: cannot run a {type(s).__name__} (scheduler {i})")
            if s.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: scheduler {i} drives another optimizer")
        self.interval = self.schedulers[0].interval
        for s in self.schedulers:
            s._reset()
        super().__init__(optimizer)

    def _reset(self):
        super()._reset()
        for s in self.schedulers:
            s._reset()

    def _part(self, t):
        return bisect.bisect_right(self.milestones, t)

    def _set(self, t):
        self.last_epoch = t
        i = self._part(t)
        for s in self.schedulers:
            s._rest()
        self.schedulers[i]._set(t - (self.milestones[i - 1] if i else 0))

    def _rest(self):
        for s in self.schedulers:
            s._rest()

    def _grow(self):
        for s in self.schedulers:
            s._grow()
        if all(s._chains for s in self.schedulers):
            groups = self.optimizer.param_groups[len(self.base_lrs) :]
            self.base_lrs += [group.setdefault("initial_lr", group["lr"]) for group in groups]

    def _adopt(self):
        self.schedulers[self._part(self.last_epoch)]._adopt()

    def step(self):
        t = self.last_epoch + 1
        if self._part(t) != self._part(self.last_epoch):
            self._set(t)
            return
        self.last_epoch = t
        self.schedulers[self._part(t)].step()

    def state_dict(self):
        inner = [s.state_dict() for s in self.schedulers]
        return {**super().state_dict(), "schedulers": inner}

    def load_state_dict(self, state):
        if len(state["schedulers"]) != len(self.schedulers):
            raise ValueError(
                f"SequentialLR: expected a state of {len(self.schedulers)} schedulers, "
                f"got {len(state['schedulers'])}"
            )
        for s, inner in zip(self.schedulers, state["schedulers"], strict=True):
            s.load_state_dict(inner)
        super().load_state_dict(state)


class ReduceLROnPlateau:
    """Multiplies the rate by factor when a metric has not improved for more than `patience` steps.

    Args: mode: "min" or "max". threshold, threshold_mode: how much counts as better, "rel" or "abs".
    cooldown: steps to wait after a reduction. min_lr: number or one per group. eps: smaller changes are
    not made. step(metric) is called once per epoch.
    """

    interval = "epoch"

    def __init__(
        self, optimizer, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="rel",
        cooldown=0, min_lr=0.0, eps=1e-8,
    ):  # fmt: skip
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: expected mode 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: expected threshold_mode 'rel' or 'abs', got {threshold_mode!r}"
            )
        if not factor < 1:
            raise ValueError(f"ReduceLROnPlateau: expected factor < 1, got {factor}")
        groups = optimizer.param_groups
        self._least = None if isinstance(min_lr, Sequence) else min_lr
        self.min_lrs = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * len(groups)
        if len(self.min_lrs) != len(groups):
            raise ValueError(
                f"ReduceLROnPlateau: expected {len(groups)} values of min_lr, got {len(self.min_lrs)}"
            )
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def _is_better(self, value):
        if self.threshold_mode == "rel":
            margin = self.threshold if self.mode == "max" else -self.threshold
            bound = self.best * (1.0 + margin)
        else:
            bound = self.best + (self.threshold if self.mode == "max" else -self.threshold)
        return value > bound if self.mode == "max" else value < bound

    def step(self, metric):
        """Looks at the metric of the epoch that has ended."""
        metric = float(metric)
        self.last_epoch += 1
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            groups = self.optimizer.param_groups
            if self._least is not None:  # groups may have come since
                self.min_lrs = [self._least] * len(groups)
            elif len(groups) != len(self.min_lrs):
                raise ValueError(
                    f"ReduceLROnPlateau: {len(self.min_lrs)} values of min_lr, but the optimizer has {len(groups)} "
                    "parameter groups now"
                )
            for group, low in zip(groups, self.min_lrs, strict=True):
                new = max(group["lr"] * self.factor, low)
                if group["lr"] - new > self.eps:
                    group["lr"] = new
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def get_last_lr(self):
        """The rate of each parameter group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self):
        """What load_state_dict takes up again: the best value, counts and rates."""
        return {
            "best": self.best, "num_bad_epochs": self.num_bad_epochs, "last_epoch": self.last_epoch,
            "cooldown_counter": self.cooldown_counter, "lrs": self.get_last_lr(),
        }  # fmt: skip

    def load_state_dict(self, state):
        """Goes on from a state; sets the rates of the optimizer's groups, of which there are as many."""
        self.best, self.num_bad_epochs = float(state["best"]), int(state["num_bad_epochs"])
        self.cooldown_counter, self.last_epoch = int(state["cooldown_counter"]), int(state["last_epoch"])
        for group, lr in zip(self.optimizer.param_groups, state["lrs"], strict=True):
            group["lr"] = float(lr)


def _positive(name, what, value):
    if int(value) != value or value < 1:
        raise ValueError(f"{name}: expected {what} as an int of at least 1, got {value!r}")
    return int(value)


__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "LinearWarmup",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
