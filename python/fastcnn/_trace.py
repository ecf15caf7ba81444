"""What a compiled function depends on besides its arguments: modules, and tensors and constants around the function.

A plan bakes in which tensors it reads, so a plan is only used while every name the function reads still stands for the
same tensor. What is not here: arguments (_compile.py) and values, which may change in place at any time.
"""

from __future__ import annotations

import collections
import dis
import functools
import operator
import sys
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
_CONTAINERS = (list, tuple, dict, set, collections.deque)
_GONE = object()
_DEEPEST = 6
_LOAD_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_MOST_ITEMS = 4096  # of a list or dict that is watched


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


def _is_plain(value):
    return isinstance(value, (_core.Tensor, *_CONSTANTS, tuple))


def _same(a, b):
    """One object, or equal constants or containers of them: a tuple or list may be made anew before each call."""
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, float):
        return a.hex() == b.hex()  # -0.0 is not 0.0, and nan is nan
    if isinstance(a, _CONSTANTS):
        return a == b
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, dict) and a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())


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
            if _is_plain(v) or name in self.kinds
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
        self._cells, self._entries, self._contents = [], [], []
        self._tensors, self._parameters = [], []  # parameters tell by the epoch when they change
        self._seen_code = {}
        self._seen = {}  # keeps what was visited alive, so that ids stay theirs
        self._checked = (-1, False)
        self.launches = []  # optimizer launches in the order in which they were traced
        self._optimizers = []
        self.around, self.bound = {}, {}  # of arguments that require gradients: see _grad_arguments.py
        root = roots[0]
        if not _is_function(root):
            root = _function_of(type(root), "forward") or _function_of(type(root), "__call__")
        names = _attributes_of(root)
        for root in roots:
            self._visit(root, names, 0)

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
        self._contents = [c for c in self._contents if _contents_hold(*c)]
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
        for container, items in self._contents:
            if not _contents_hold(container, items):
                return False
        return _unchanged(self._tensors) and all(launch.level() for launch in self.launches)

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
        if isinstance(value, type):
            for name in names[0]:
                self._visit_class_member(value, name)
            return False
        if depth > _DEEPEST:
            return False
        self._seen[id(value)] = (value, True)
        found = True
        if isinstance(value, _core.Tensor):
            kept = self._parameters if isinstance(value, Parameter) else self._tensors
            kept.append((value, _core.Tensor(value), value.requires_grad))
        elif isinstance(value, Module):
            self.note_module(value)
            for m in value.modules():  # what note_module does not see: lists, dicts and other objects
                others = {k for k, v in vars(m).items() if k[:1] != "_" and not _is_plain(v) and k not in m._kinds}
                self._visit_object(m, (("forward",), ()), depth, others)
        elif isinstance(value, Optimizer):
            self._visit_optimizer(value)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__, _joined(names, _attributes_of(value.__func__)), depth + 1)
            self._visit_code(value.__func__, depth)
        elif isinstance(value, types.FunctionType):
            self._visit_code(value, depth)
        elif isinstance(value, _CONTAINERS):
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
            if type(value).__module__ != "builtins":
                self._visit_object(value, (("__call__", *names[0]), names[1]), depth)
        self._seen[id(value)] = (value, found)
        return found

    def _visit_object(self, value, names, depth, only=None):
        """Members that code with these names reads, and what methods among them read. only: no members but these."""
        near, far = (dict.fromkeys(n) for n in names)
        todo = [] if _is_foreign(type(value)) else list(near)
        while todo:
            fn = _function_of(type(value), todo.pop())
            if fn is not None:
                for own, more in zip((near, far), _attributes_of(fn), strict=True):
                    if own is near:
                        todo += [n for n in more if n not in near]
                    own.update(dict.fromkeys(more))
                self._visit_code(fn, depth)
        members = getattr(value, "__dict__", None)
        if isinstance(members, dict):
            self._visit_members(members, (near if only is None else [n for n in near if n in only], far), depth)
        for name in near:
            if self._visit_class_member(type(value), name) and isinstance(members, dict) and name not in members:
                self._entries.append((members, name, _GONE))  # one of its own would hide that of the class

    def _visit_class_member(self, cls, name):
        for c in cls.__mro__:
            if name in vars(c):
                found = isinstance(vars(c)[name], (_core.Tensor, *_CONSTANTS)) and not _is_ours(c)
                if found:
                    self._entries.append((vars(c), name, vars(c)[name]))
                return found
        return False

    def _visit_members(self, members, names, depth):
        near, far = names
        for name in near:
            if name in members and self._visit(members[name], (far, far), depth + 1):
                self._entries.append((members, name, members[name]))

    def _visit_code(self, fn, depth):
        if not isinstance(fn, types.FunctionType) or fn.__module__ is None or _is_ours(fn) or id(fn) in self._seen_code:
            return
        self._seen_code[id(fn)] = fn
        names = _attributes_of(fn)
        for cell in fn.__closure__ or ():
            value = _contents_of(cell)
            if self._visit(value, names, depth + 1):
                self._cells.append((cell, value))
        for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            self._visit(value, names, depth + 1)
        for name in _reads(fn.__code__)[0]:
            value = fn.__globals__.get(name, _GONE)
            if value is not _GONE and self._visit(value, names, depth + 1):
                self._entries.append((fn.__globals__, name, value))

    def _visit_container(self, value, names, depth):
        items = list(value.values()) if isinstance(value, dict) else list(value)
        if len(items) > _MOST_ITEMS:
            return isinstance(value, tuple)
        for v in items:
            self._visit(v, names, depth + 1)
        if not isinstance(value, tuple):
            kept = dict(value) if isinstance(value, dict) else set(items) if isinstance(value, set) else items
            self._contents.append((value, kept))
        return True

    def leaves(self):
        """{identity: tensor} of the leaves found so far that require gradients."""
        found = [handle for _, handle, _ in (*self._tensors, *self._parameters)]
        found += [i.handle for s in self._modules.values() for i in s.items if i.handle is not None]
        found += [p for o in self._optimizers for group in o.param_groups for p in group["params"]]
        return {hash(t): _core.Tensor(t) for t in found if t.requires_grad and t.is_leaf}

    def note_optimizer(self, optimizer):
        self._optimizers.append(optimizer)

    def _visit_optimizer(self, optimizer):
        self.note_optimizer(optimizer)
        groups = optimizer.param_groups
        self._entries.append((optimizer.__dict__, "param_groups", groups))
        self._contents.append((groups, list(groups)))
        for group in groups:
            self._contents.append((group["params"], list(group["params"])))
            self._entries += [(group, name, group[name]) for name in optimizer._switches if name in group]


def _unchanged(tensors):
    for tensor, handle, grad in tensors:
        if tensor.requires_grad != grad or not handle.is_same(tensor):
            return False
    return True


@functools.lru_cache(4096)
def _reads(code):
    """What the code reads by name, also functions inside it: globals, attributes, and attributes of attributes.

    Not one set: the loop counter of a script, or of an object, may be called step, as the method of an optimizer is.
    """
    names = ({}, {}, {})
    before = ""
    for i in dis.get_instructions(code):
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names[0][i.argval] = None
        elif i.opname in _LOAD_ATTRIBUTE:
            names[2 if before in _LOAD_ATTRIBUTE else 1][i.argval] = None
        if i.opname not in ("CACHE", "EXTENDED_ARG"):
            before = i.opname
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for own, more in zip(names, _reads(inner), strict=True):
                own.update(dict.fromkeys(more))
    return tuple(map(tuple, names))


def _attributes_of(fn):
    """(attributes, those and attributes of attributes) that the code reads, and what functions that it calls by a plain
    name read of what they are given."""
    near, far, seen, todo = {}, {}, {}, [fn]
    while todo:
        fn = todo.pop()
        fn = getattr(fn, "__func__", fn)
        if not isinstance(fn, types.FunctionType) or id(fn) in seen or _is_foreign(fn):
            continue
        seen[id(fn)] = fn
        read, attributes, inner = _reads(fn.__code__)
        near.update(dict.fromkeys(attributes))
        far.update(dict.fromkeys(inner))
        todo += [fn.__globals__[n] for n in read if _is_function(fn.__globals__.get(n))]
        todo += [c.cell_contents for c in fn.__closure__ or () if _is_function(_contents_of(c))]
    return tuple(near), tuple({**near, **far})


def _joined(names, more):
    return tuple((*a, *b) for a, b in zip(names, more, strict=True))


def _is_ours(fn_or_class):
    return (fn_or_class.__module__ or "").startswith("fastcnn.")


def _is_foreign(fn_or_class):
    """Is this no code of the user's? What a library's methods read would be all of the library."""
    return _is_library(fn_or_class.__module__ or "")


@functools.cache
def _is_library(module):
    root = module.partition(".")[0]
    where = getattr(sys.modules.get(module), "__file__", None) or ""
    installed = "site-packages" in where or "dist-packages" in where
    return root == "fastcnn" or installed or (root != "__main__" and root in sys.stdlib_module_names)


def _is_function(value):
    return isinstance(value, (types.FunctionType, types.MethodType))


def _contents_of(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _function_of(cls, name):
    """The function behind a method, property, static or class method."""
    for c in cls.__mro__:
        found = vars(c).get(name)
        if found is not None:
            found = getattr(found, "fget", getattr(found, "__func__", found))
            return found if isinstance(found, types.FunctionType) else None
    return None


def _contents_hold(container, items):
    """Has the container the items that it had?"""
    if len(container) != len(items):
        return False
    if isinstance(container, set):
        return container == items
    if isinstance(container, dict):
        return all(now is was or _same(now, was) for now, was in zip(container.values(), items.values())) and all(
            map(operator.eq, container, items)
        )
    return all(map(operator.is_, container, items)) or all(map(_same, container, items))


def _cell_holds(cell, value):
    try:
        now = cell.cell_contents
    except ValueError:
        return False
    return now is value or _same(now, value)


def note_launch(launch) -> int:
    """Called by Optimizer.step for each set of parameters that steps: how often it has stepped in this trace before."""
    guards = getattr(_active, "guards", None)
    if guards is None or not _core.is_tracing():
        return 0
    before = sum(seen is launch for seen in guards.launches)
    guards.launches.append(launch)
    return before


def note_optimizer(optimizer) -> None:
    """Called by Optimizer.step before it looks for gradients."""
    guards = getattr(_active, "guards", None)
    if guards is not None:
        guards.note_optimizer(optimizer)


def note_module(module) -> None:
    """Called by Module.__call__ while a trace is on."""
    guards = getattr(_active, "guards", None)
    if guards is not None:
        guards.note_module(module)
