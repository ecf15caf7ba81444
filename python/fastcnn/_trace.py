"""What a compiled function depends on besides its arguments: modules, and tensors and constants around the function.

A plan bakes in which tensors it reads, so a plan is only used while every name the function reads still stands for the
same tensor. What is not here: arguments (_compile.py) and values, which may change in place at any time.
"""

from __future__ import annotations

import threading
import types

from . import _core

_active = threading.local()
_lock = threading.Lock()
_tracing = [0]  # traces under way in all threads

# Moves on whenever a member of a module, a hook or a parameter's requires_grad changes: while it stands still, modules
# need no second look.
epoch = [0]

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))
_GONE = object()
_DEEPEST = 6


def bump() -> None:
    """Something that plans of modules depend on has changed."""
    epoch[0] += 1


class _Item:
    """One member of a module as it was: its value, and for tensors which tensor that was."""

    __slots__ = ("name", "value", "handle", "grad")

    def __init__(self, name, value):
        self.name, self.value, self.handle, self.grad = name, value, None, False
        if isinstance(value, _core.Tensor):
            self.handle, self.grad = _core.Tensor(value), value.requires_grad

    def holds(self, members):
        now = members.get(self.name, _GONE)
        if self.handle is not None:
            return now is self.value and self.handle.is_same(now) and now.requires_grad == self.grad
        return _same(now, self.value)


def _same(a, b):
    return a is b or (type(a) is type(b) and isinstance(a, _CONSTANTS) and a == b)


def _hooks_of(module):
    return tuple(module._forward_pre_hooks or ()), tuple(module._forward_hooks or ())


class _ModuleState:
    """Mode, members, options and hooks of one module."""

    def __init__(self, module):
        self.module = module
        self.members = module.__dict__
        self.hooks = _hooks_of(module)
        self.kinds = dict(module._kinds)
        self.items = [
            _Item(name, v)
            for name, v in self.members.items()
            if v is None or isinstance(v, (_core.Tensor, *_CONSTANTS, tuple)) or name in self.kinds
        ]
        self.items.append(_Item("training", self.members.get("training", _GONE)))

    def holds(self):
        members = self.members
        return (
            self.module._kinds == self.kinds
            and all(i.holds(members) for i in self.items)
            and _hooks_of(self.module) == self.hooks
        )

    def settle(self):
        """Leaves out what the traced code itself assigned."""
        self.items = [i for i in self.items if i.holds(self.members)]
        self.kinds = dict(self.module._kinds)
        self.hooks = _hooks_of(self.module)


class Guards:
    """Collects, before and while a function is traced, what its plan depends on; then tells whether that still holds.

    roots: the function and the constants among its arguments.
    """

    def __init__(self, *roots):
        self._modules = {}
        self._cells, self._entries, self._lists = [], [], []
        self._tensors, self._parameters = [], []  # parameters tell by the epoch when they change
        self._seen = {}  # keeps what was visited alive, so that ids stay theirs
        self._checked = (-1, False)
        self.launches = []  # optimizer launches in the order in which they were traced
        for root in roots:
            self._visit(root, (), 0)

    def __enter__(self):
        from .nn.module import set_call_observer  # calls are watched only while a trace is on

        self._outer = getattr(_active, "guards", None)
        _active.guards = self
        with _lock:
            _tracing[0] += 1
            set_call_observer(note_module)
        return self

    def __exit__(self, *exc):
        from .nn.module import set_call_observer

        _active.guards = self._outer
        with _lock:
            _tracing[0] -= 1
            if _tracing[0] == 0:
                set_call_observer(None)

    def settle(self):
        """After the trace: what the function itself assigned is a result, not a condition."""
        for state in self._modules.values():
            state.settle()
        self._cells = [c for c in self._cells if _cell_holds(*c)]
        self._entries = [e for e in self._entries if _same(e[0].get(e[1], _GONE), e[2])]
        self._lists = [x for x in self._lists if list(map(id, x[0])) == x[1]]
        self._checked = (epoch[0], True)
        return self

    def hold(self) -> bool:
        """Is everything as it was when the plan was traced?"""
        at = epoch[0]
        if self._checked[0] != at:
            holds = all(s.holds() for s in self._modules.values()) and _unchanged(self._parameters)
            self._checked = (at, holds)
        if not self._checked[1]:
            return False
        for cell, value in self._cells:
            if not _cell_holds(cell, value):
                return False
        for entries, name, value in self._entries:
            now = entries.get(name, _GONE)
            if now is not value and not _same(now, value):
                return False
        for items, ids, _ in self._lists:
            if list(map(id, items)) != ids:
                return False
        return _unchanged(self._tensors)

    # ---- finding -------------------------------------------------------------------------------------------
    def note_module(self, module):
        """The module and all below it."""
        for m in module.modules():
            if id(m) not in self._modules:
                self._modules[id(m)] = _ModuleState(m)

    def _visit(self, value, names, depth):
        """Notes what lies behind a value; True if the plan depends on which value it is. names: what code reads."""
        from .nn.module import Module
        from .nn.parameter import Parameter
        from .optim.optimizer import Optimizer

        if isinstance(value, _CONSTANTS):
            return True
        known = self._seen.get(id(value))
        if known is not None:
            return known[1]
        if depth > _DEEPEST or isinstance(value, type):
            return False
        self._seen[id(value)] = (value, True)
        found = True
        if isinstance(value, _core.Tensor):
            kept = self._parameters if isinstance(value, Parameter) else self._tensors
            kept.append((value, _core.Tensor(value), value.requires_grad))
        elif isinstance(value, Module):
            self.note_module(value)
            self._visit_code(type(value).forward, depth)
        elif isinstance(value, Optimizer):
            self._visit_optimizer(value)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__, _names_of(value.__func__), depth + 1)
            self._visit_code(value.__func__, depth)
        elif isinstance(value, types.FunctionType):
            self._visit_code(value, depth)
        elif isinstance(value, (list, tuple, dict)):
            found = self._visit_container(value, names, depth)
        elif isinstance(value, types.ModuleType):
            if not value.__name__.startswith("fastcnn"):
                self._visit_members(vars(value), names, depth)
        elif hasattr(value, "__wrapped__") and hasattr(value, "_fn"):  # a compiled function inside this one
            self._visit(value._fn, names, depth)
        elif hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
            for v in (value.func, *value.args, *value.keywords.values()):
                self._visit(v, names, depth + 1)
        else:
            members = getattr(value, "__dict__", None)
            call = vars(type(value)).get("__call__")
            if isinstance(call, types.FunctionType):
                names = (*names, *_names_of(call))
                self._visit_code(call, depth)
            if isinstance(members, dict) and type(value).__module__ != "builtins":
                self._visit_members(members, names, depth)
        self._seen[id(value)] = (value, found)
        return found

    def _visit_members(self, members, names, depth):
        for name in dict.fromkeys(names):
            if name in members and self._visit(members[name], names, depth + 1):
                self._entries.append((members, name, members[name]))

    def _visit_code(self, fn, depth):
        if not isinstance(fn, types.FunctionType) or fn.__module__ is None or fn.__module__.startswith("fastcnn."):
            return
        names = _names_of(fn)
        for cell in fn.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if self._visit(value, names, depth + 1):
                self._cells.append((cell, value))
        for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            self._visit(value, names, depth + 1)
        self._visit_members(fn.__globals__, names, depth)

    def _visit_container(self, value, names, depth):
        from .nn.module import Module

        items = list(value.values()) if isinstance(value, dict) else list(value)
        if len(items) > 4096 or not any(isinstance(v, (_core.Tensor, Module, list, tuple, dict)) for v in items):
            return isinstance(value, tuple)
        for v in items:
            self._visit(v, names, depth + 1)
        if isinstance(value, dict):
            self._entries += [(value, k, v) for k, v in value.items() if self._visit(v, names, depth + 1)]
        elif isinstance(value, list):
            self._lists.append((value, list(map(id, items)), items))
        return True

    def _visit_optimizer(self, optimizer):
        groups = optimizer.param_groups
        self._entries.append((optimizer.__dict__, "param_groups", groups))
        self._lists.append((groups, list(map(id, groups)), list(groups)))
        for group in groups:
            self._lists.append((group["params"], list(map(id, group["params"])), list(group["params"])))
            self._entries += [(group, name, group[name]) for name in optimizer._switches if name in group]


def _unchanged(tensors):
    for tensor, handle, grad in tensors:
        if tensor.requires_grad != grad or not handle.is_same(tensor):
            return False
    return True


def _names_of(fn):
    """Names that the code reads: globals and attributes, also of functions inside it."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return ()
    names, todo = [], [code]
    while todo:
        code = todo.pop()
        names += code.co_names
        todo += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(names)


def _cell_holds(cell, value):
    try:
        now = cell.cell_contents
    except ValueError:
        return False
    return now is value or _same(now, value)


def note_launch(launch) -> None:
    """Called by Optimizer.step for each set of parameters that steps."""
    guards = getattr(_active, "guards", None)
    if guards is not None:
        guards.launches.append(launch)


def note_module(module) -> None:
    """Called by Module.__call__ while a trace is on."""
    guards = getattr(_active, "guards", None)
    if guards is not None:
        guards.note_module(module)
