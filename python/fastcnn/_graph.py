"""A model or training step as a graph in plain dicts: what files (.fcnn) hold and exporters read.

The form is told in docs/embed.md. Tracing is the core's (session.h); here are the names: of parameters from their
modules, of optimizer state from the parameters. Nothing here runs a graph.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from dataclasses import dataclass, field

import numpy as np

from . import _core
from ._compile import CompiledFunction
from ._modes import evaluating, no_grad
from ._trace import Guards
from ._tree import flatten_result


@dataclass
class Traced:
    """A traced function: its graph as JSON text, [(name, tensor)] from outside, host work and how files tell it."""

    text: str
    tensors: list
    host_work: int
    updates: list = field(default_factory=list)

    @property
    def graph(self) -> dict:
        return json.loads(self.text)


def trace_graph(model, example, *, dynamic_batch=True) -> dict:
    """The graph of a model (in eval mode, without gradients), function or compiled step on inputs like ``example``.

    Args: example: an array or tensor, or a tuple of them, one for each argument; only shapes and dtypes matter.
    dynamic_batch: dim 0 of all inputs is a batch size N, free in the graph; sizes that depend on it are texts such as
    "N" or "64*N". False: as in the example.
    Returns: {"inputs", "outputs", "nodes", "batch", "tensors": {name: Tensor}, "updates"}; see docs/embed.md.
    Raises: ValueError where the graph depends on N in a way that is no straight line, or on state that no file holds.
    """
    traced = trace(model, example, dynamic_batch=dynamic_batch)
    return {**traced.graph, "tensors": dict(traced.tensors), "updates": traced.updates}


def trace(model, example, *, dynamic_batch=True) -> Traced:
    """As trace_graph, for those who write files."""
    from .nn.module import Module

    if isinstance(model, CompiledFunction):
        model = model._fn
    if not callable(model):
        raise TypeError(f"export: expected a Module, a function or a compiled step, got {type(model).__name__}")
    names, examples = _arguments(model, example)
    inputs = [
        (name, str(t.dtype), list(t.shape), bool(dynamic_batch and t.ndim > 0))
        for name, t in zip(names, examples, strict=True)
    ]
    seen = {}

    def run(symbols):
        guards = Guards(model)
        with guards:
            result = model(*symbols)
        tensors = []
        flatten_result(result, tensors, [])
        seen["guards"], seen["outputs"] = guards, _output_names(result, tensors)
        return tensors

    is_module = isinstance(model, Module)
    mode = no_grad() if is_module else _as_it_is()
    with _schedules_stay(model), evaluating(model) if is_module else contextlib.nullcontext(), mode:
        # Once to see what there is to name: optimizers make their state when they are first traced.
        _core.trace_graph(run, [(*i[:3], False) for i in inputs], [])
        known, updates = _names(model, seen["guards"])
        text, tensors, host_work = _core.trace_graph(run, inputs, known, seen["outputs"])
    return Traced(text, tensors, host_work, updates)


@contextlib.contextmanager
def _as_it_is():
    was = _core.set_grad_enabled(True)
    try:
        yield
    finally:
        _core.set_grad_enabled(was)


@contextlib.contextmanager
def _schedules_stay(model):
    """Puts back what the traced code changes in schedules and in options of optimizers, and refuses it."""
    from .optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
    from .optim.optimizer import Optimizer

    around = [value for value, _ in Guards(model)._seen.values()]
    schedules = [s for s in around if isinstance(s, (LRScheduler, ReduceLROnPlateau))]
    owners = [o for o in around if isinstance(o, Optimizer)] + [s.optimizer for s in schedules]
    groups = [(type(o).__name__, g) for o in owners for g in o.param_groups]
    states, options = [s.state_dict() for s in schedules], [dict(g) for _, g in groups]
    changed = []
    try:
        yield
    finally:
        for schedule, before in zip(schedules, states, strict=True):
            if schedule.state_dict() != before:
                changed.append(f"steps {type(schedule).__name__}")
                schedule.load_state_dict(before)
        for (owner, group), before in zip(groups, options, strict=True):
            now = [k for k, v in group.items() if k != "params" and v != before.get(k)]
            changed += [f"changes {k} of {owner}" for k in now if not changed]
            group.update(before)
    if changed:
        raise ValueError(
            f"export: the function {changed[0]}, which no file holds: do that outside of it; sessions have session.lr"
        )


def _arguments(model, example):
    examples = list(example) if isinstance(example, (tuple, list)) else [example]
    if not examples:
        raise ValueError("export: expected at least one example input, got none")
    tensors = []
    for e in examples:
        if not isinstance(e, (np.ndarray, _core.Tensor)):
            raise TypeError(f"export: expected arrays or tensors as example, got {type(e).__name__}")
        tensors.append(e if isinstance(e, _core.Tensor) else _core.from_numpy(e))
    try:
        parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        names = []
    if len(names) < len(examples):
        names = ["input"] if len(examples) == 1 else [f"input_{i}" for i in range(len(examples))]
    return names[: len(examples)], tensors


def _output_names(result, tensors):
    if isinstance(result, dict) and len(result) == len(tensors) and all(isinstance(k, str) for k in result):
        return list(result)
    return []


def _names(model, guards):
    """[(name, tensor)] of all state that the function may touch, and the updates of its optimizers."""
    modules = [s.module for s in guards._modules.values()]
    below = {id(c) for m in modules for c in m.modules() if c is not m}
    roots = [m for m in modules if id(m) not in below]
    known, taken, of_tensor = [], set(), {}

    def add(name, tensor):
        unique, n = name, 1
        while unique in taken:
            n += 1
            unique = f"{name}.{n}"
        taken.add(unique)
        known.append((unique, tensor))
        of_tensor.setdefault(hash(tensor), unique)

    for i, root in enumerate(roots):
        prefix = "" if len(roots) == 1 else f"{i}."
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            if hash(tensor) not in of_tensor:
                add(prefix + name, tensor)
    updates, launches = [], set()
    for i, launch in enumerate(guards.launches):
        if id(launch) in launches:
            raise ValueError("export: the function steps an optimizer twice; files hold one step")
        launches.add(id(launch))
        hyper = f"optimizer.{i}.hyper"
        add(hyper, launch.hyper)
        for k, (p, state) in enumerate(zip(launch.params, launch.states, strict=True)):
            for name, value in state.items():
                if isinstance(value, _core.Tensor):
                    add(f"optimizer.{i}.{name}.{of_tensor.get(hash(p), k)}", value)
        terms = [t if isinstance(t, dict) else float(t) for t in launch.optimizer._terms(launch.group)]
        updates.append({"tensor": hyper, "step": int(launch.states[0]["step"]), "terms": terms})
    return known, updates
