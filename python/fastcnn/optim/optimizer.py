"""Optimizer, the base class: parameter groups, state, and what makes a step fit into a compiled plan.

An update rule is one fused call of the core on all parameters that step together; it reads lr, weight decay
and the like from a small tensor that the host rewrites before each step, also before each replay of a
compiled step. What is not here: schedules (lr_scheduler.py) and the update rules themselves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

import numpy

from .. import _core
from .._trace import note_launch, note_optimizer

_HYPER = 8  # float32 values; layout in cpp/include/fastcnn/params.h


class _Launch:
    """Parameters that step together, their state and the hyper tensor they share."""

    def __init__(self, optimizer, group, params, states):
        self.optimizer, self.group, self.params, self.states = optimizer, group, params, states
        self.buffers = optimizer._buffers(group)  # others once momentum goes from or to zero
        self._hypers = []  # one for each step of a plan: host work runs before the first of them
        self.hyper = self.hyper_of(0)

    def hyper_of(self, use):
        """The hyper tensor of the use-th step in a row of one compiled function."""
        while len(self._hypers) <= use:
            where = str(self.params[0].device)
            hyper = _core.empty(_HYPER, device=where)
            values = hyper.numpy() if where == "cpu" else numpy.empty(_HYPER, "float32")
            values[:] = 0
            self._hypers.append((hyper, values, where == "cpu"))
        return self._hypers[use][0]

    def prepare(self, use=0):
        """Counts the step and rewrites a hyper tensor; runs before every step, compiled or not."""
        step = self.states[0]["step"] + 1
        for state in self.states:
            state["step"] += 1
            if state["step"] != step:
                raise RuntimeError(
                    f"{type(self.optimizer).__name__}: parameters of one compiled step have stepped "
                    f"{step} and {state['step']} times; reset() the compiled function"
                )
        hyper, values, on_cpu = self._hypers[use]
        values[:] = self.optimizer._hyper(self.group, step)
        if not on_cpu:
            _core.write_(hyper, values)

    def level(self):
        """Have all its parameters stepped equally often, and are their states those that a step would take now?

        Another plan may have moved some of them alone; state.clear() takes all away.
        """
        if any(self.optimizer.state.get(p) is not s for p, s in zip(self.params, self.states, strict=True)):
            return False
        if self.optimizer._buffers(self.group) != self.buffers:
            return False
        step = self.states[0]["step"]
        return all(state["step"] == step for state in self.states)

    def undo(self):
        """Uncounts a step that failed before it updated anything."""
        for state in self.states:
            state["step"] -= 1


class Optimizer:
    """Base of all optimizers.

    Args: params: tensors, or dicts {"params": tensors, option: value, ...} (parameter groups).
    defaults: options of groups that do not set them.

    step() updates the parameters that have a gradient, in place; the others keep value and state. Options in
    param_groups may change between steps, in compiled ones too.
    """

    _switches = ("nesterov", "maximize", "amsgrad", "centered")  # other values make a new plan
    _fused = False  # whether _apply hands self._scale to a fused step of the core
    _scale = None

    def __init__(self, params, defaults):
        self.defaults = dict(defaults)
        self.param_groups = []
        self.state = {}
        self._launches = {}
        if isinstance(params, _core.Tensor) or not isinstance(params, Iterable):
            raise TypeError(
                f"{self._name}: expected an iterable of tensors or of dicts, got {type(params).__name__}"
            )
        groups = list(params)
        if not groups:
            raise ValueError(f"{self._name}: expected at least one parameter, got none")
        if not isinstance(groups[0], Mapping):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self):
        return type(self).__name__

    def add_param_group(self, group):
        """Adds a dict with "params" and options. Raises: ValueError for a parameter that is in already."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{self._name}: expected a group as a dict with 'params', got {group!r:.80}")
        group = dict(group)
        params = group["params"]
        params = [params] if isinstance(params, _core.Tensor) else list(params)
        known = {hash(p) for g in self.param_groups for p in g["params"]}
        for i, p in enumerate(params):
            if not isinstance(p, _core.Tensor):
                raise TypeError(f"{self._name}: expected tensors, got {type(p).__name__} as parameter {i}")
            if not p.is_leaf:
                raise ValueError(
                    f"{self._name}: parameter {i} of shape {p.shape} is the result of an operation, not a leaf"
                )
            if hash(p) in known:
                raise ValueError(
                    f"{self._name}: parameter {i} of shape {p.shape} appears in more than one place"
                )
            known.add(hash(p))
        group["params"] = params
        for key, value in self.defaults.items():
            group.setdefault(key, value)
        self._check_group(group)
        self.param_groups.append(group)

    # ------------------------------------------------------------ what a rule has to say

    def _check_group(self, group):
        """Raises ValueError for options out of range."""

    def _buffers(self, group):
        """Names of the state tensors a parameter of this group needs, all shaped like it."""
        raise NotImplementedError

    def _first_value(self, group, name):
        """What a state tensor holds before the first step."""
        return 0.0

    def _hyper(self, group, step):
        """The eight floats of step number `step` (from 1)."""
        raise NotImplementedError

    def _terms(self, group):
        """_hyper as files tell it: numbers, or what depends on the step (docs/embed.md)."""
        first = self._hyper(group, 1)
        if any(tuple(self._hyper(group, step)) != tuple(first) for step in (2, 1000)):
            raise ValueError(f"{self._name}: its steps change in a way that cannot be written to a file")
        return list(first)

    def _apply(self, group, params, grads, buffers, hyper):
        """One fused in-place step; buffers: a list of tensors per name of _buffers."""
        raise NotImplementedError

    # ------------------------------------------------------------ stepping

    def zero_grad(self, set_to_none=True):
        """Drops the gradients, or fills them with zero."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.zero_()

    def step(self, closure=None, *, scale=None):
        """One update. closure: computes the loss and its gradients anew; its result is returned.

        scale: of GradScaler, float32 (3): not 0 where nothing is to change, the factor of the gradients, how many
        steps were left out before.
        """
        loss = None if closure is None else closure()
        note_optimizer(self)
        was = _core.set_grad_enabled(False)
        try:
            for number, group in enumerate(self.param_groups):
                for launch in self._launches_of(number, group):
                    use = note_launch(launch)
                    hyper = launch.hyper_of(use)
                    _core.on_each_run(functools.partial(launch.prepare, use) if use else launch.prepare, launch.undo)
                    grads = [p.grad for p in launch.params]
                    buffers = [[s[name] for s in launch.states] for name in self._buffers(group)]
                    # Steps are on dense memory: slices, transposes and arrays of NumPy go there and back.
                    dense = [p if p.is_contiguous() else p.detach().contiguous() for p in launch.params]
                    self._apply_scaled(scale, group, dense, grads, buffers, hyper)
                    for p, moved in zip(launch.params, dense, strict=True):
                        if moved is not p:
                            p.detach().copy_(moved)
        finally:
            _core.set_grad_enabled(was)
        return loss

    def _apply_scaled(self, scale, group, params, grads, buffers, hyper):
        if scale is None or self._fused:
            self._scale = scale
            try:
                self._apply(group, params, grads, buffers, hyper)
            finally:
                self._scale = None
            return
        # A rule of several ops: it runs, and where the step is left out everything goes back.
        bad, where = scale[0] != 0, _core.ops.where
        tensors = [t.detach() for t in (*params, *(b for name in buffers for b in name))]
        before = [t.clone() for t in tensors]
        grads = [where(bad, 0.0, g * scale[1].to(g.dtype)) for g in grads]
        self._apply(group, params, grads, buffers, hyper)
        for t, old in zip(tensors, before, strict=True):
            t.copy_(where(bad, old, t))

    def _launches_of(self, number, group):
        """One launch for each set of parameters with a gradient and the same number of steps behind them."""
        by_step = {}
        for p in group["params"]:
            if p.grad is not None:
                by_step.setdefault(self._state_of(p, group)["step"], []).append(p)
        for params in by_step.values():
            key = (number, *map(id, params))
            launch = self._launches.get(key)
            # Groups and states are plain dicts that users replace or clear.
            known = launch is not None and launch.group is group and launch.buffers == self._buffers(group)
            if not known or any(s is not self.state[p] for s, p in zip(launch.states, params, strict=True)):
                if len(self._launches) >= 256:  # ever new subsets: plans keep what they need themselves
                    self._launches.clear()
                launch = _Launch(self, group, params, [self.state[p] for p in params])
                self._launches[key] = launch
            yield launch

    def _state_of(self, p, group):
        state = self.state.setdefault(p, {"step": 0})
        for name in self._buffers(group):
            if name not in state:
                state[name] = _filled_like(p, self._first_value(group, name))
        return state

    # ------------------------------------------------------------ saving

    def state_dict(self):
        """{"state": {parameter number: {name: tensor or int}}, "param_groups": [...]}; tensors are not copied."""
        numbers, groups = {}, []
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
            packed = {k: v for k, v in group.items() if k != "params"}
            packed["params"] = [numbers[id(p)] for p in group["params"]]
            groups.append(packed)
        state = {numbers[id(p)]: dict(s) for p, s in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict):
        """Takes over a state_dict(). State tensors are filled in place, so compiled steps stay valid.

        Raises: ValueError if groups, parameter counts or shapes differ or options are out of range; nothing is changed.
        """
        options, states = self._fit_state(state_dict)
        for group, own in zip(self.param_groups, options, strict=True):
            group.update(own)
        for p, group, saved in states:
            self._load_one(p, group, saved)

    def _fit_state(self, state_dict):
        """(options of each group, [(parameter, group, its state)]) of a state_dict. Raises as load_state_dict."""
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            raise ValueError(f"{self._name}: expected a dict with 'state' and 'param_groups'")
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) != len(self.param_groups):
            raise ValueError(
                f"{self._name}: expected {len(self.param_groups)} parameter groups, got {len(saved_groups)}"
            )
        options, states = [], []
        for i, (saved, group) in enumerate(zip(saved_groups, self.param_groups, strict=True)):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError(
                    f"{self._name}: expected {len(group['params'])} parameters in group {i}, "
                    f"got {len(saved['params'])}"
                )
            for number, p in zip(saved["params"], group["params"], strict=True):
                state = dict(state_dict["state"].get(number, state_dict["state"].get(str(number), {})))
                # PyTorch's SGD keeps no count, but a buffer tells that it has stepped: dampening is for later steps.
                stepped = any(isinstance(value, _core.Tensor) for value in state.values())
                state["step"] = int(_number(state.get("step", int(stepped))))
                for name, value in state.items():
                    if isinstance(value, _core.Tensor) and value.ndim and tuple(value.shape) != tuple(p.shape):
                        raise ValueError(
                            f"{self._name}: expected {name} of shape {p.shape} for parameter {number}, "
                            f"got {value.shape}"
                        )
                states.append((p, group, state))
            own = {k: as_option(v) for k, v in saved.items() if k != "params"}
            self._check_group({**group, **own})
            options.append(own)
        return options, states

    def _load_one(self, p, group, saved):
        if saved.keys() == {"step"} and not saved["step"] and p not in self.state:
            return
        state = self._state_of(p, group)
        state["step"] = saved["step"]
        for name in [n for n in state if n != "step"]:
            if name in saved:
                state[name].copy_(saved[name])
            else:
                state[name].copy_(_filled_like(p, self._first_value(group, name)))

    def __repr__(self):
        lines = [f"{self._name}("]
        for i, group in enumerate(self.param_groups):
            options = ", ".join(f"{k}={v}" for k, v in group.items() if k != "params")
            lines.append(f"  group {i}: {len(group['params'])} tensors, {options}")
        return "\n".join([*lines, ")"])


def _filled_like(p, value):
    # Not an op: while a step is traced an op would give a tensor without memory.
    buffer = _core.empty(p.shape, dtype=p.dtype, device=str(p.device))
    if value == 0:
        _core.zero_memory_(buffer)
    else:
        kind = _core.empty((), dtype=p.dtype).numpy().dtype
        _core.write_(buffer, numpy.full(tuple(p.shape), value, kind))
    return buffer


def _number(value):
    return value.item() if isinstance(value, _core.Tensor) else value


def as_option(value):
    """An option as groups hold it, of what JSON made of it."""
    return tuple(value) if isinstance(value, list) else value


def check_range(name, what, value, low=0.0, high=math.inf):
    """value as a float in [low, high), else ValueError."""
    value = float(value)
    if not low <= value < high:  # also NaN
        limit = f" and < {high}" if high != math.inf else ""
        raise ValueError(f"{name}: expected {what} >= {low:g}{limit}, got {value}")
    return value
