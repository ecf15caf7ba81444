"""Module: the base of all layers and models. It keeps parameters, buffers and children; it holds no maths.

Members are ordinary instance attributes (so reading one costs nothing extra); `_kinds` remembers which
names are parameters, buffers and modules.
"""

from __future__ import annotations

import itertools
from collections import namedtuple

import numpy as np

from .. import _core, safetensors
from .._trace import bump
from .parameter import Parameter, no_grad

PARAMETER, BUFFER, TEMPORARY, MODULE = "parameter", "buffer", "temporary buffer", "module"

_call_observer = None


def set_call_observer(observer):
    """Hook point of compile: observer(module) runs at each Module call, None stops it; returns the last one.

    While a function is traced the observer notes the modules that the plan depends on.
    """
    global _call_observer
    before, _call_observer = _call_observer, observer
    return before


LoadResult = namedtuple("LoadResult", ["missing_keys", "unexpected_keys", "mismatched_keys"])
LoadResult.__doc__ = """What load_state_dict found: keys that the state lacks, keys that the module lacks, and
(key, shape in the module, shape in the state) where shapes differ."""


class RemovableHandle:
    """Returned by register_*_hook; remove() or leaving a `with` block takes the hook away."""

    _ids = itertools.count()

    def __init__(self, hooks):
        self.id = next(self._ids)
        self._hooks = hooks

    def remove(self):
        """Takes the hook away; a second call does nothing."""
        self._hooks.pop(self.id, None)
        bump()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.remove()


def _is_floating(t):
    return t.dtype.is_floating_point


def _parse_to(args, kwargs):
    """(device, dtype) of to(...), each None where absent."""
    unknown = kwargs.keys() - {"device", "dtype"}
    if unknown:
        raise TypeError(f"Module.to: expected device and dtype, got {', '.join(sorted(unknown))!s}")
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for a in args:
        if isinstance(a, _core.Tensor):
            device, dtype = a.device, a.dtype
        elif isinstance(a, _core.device) or (isinstance(a, str) and a.split(":")[0] in ("cpu", "cuda")):
            device = a
        elif a is not None:
            dtype = _core.dtype(a)
    dtype = None if dtype is None else _core.dtype(dtype)
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"Module.to: expected a floating dtype, got {dtype}")
    return device, dtype


class Module:
    """Base of layers and models. Subclasses set members in __init__ and define forward(...).

    Assigning a Parameter or a Module to an attribute registers it; register_buffer registers a tensor that
    belongs to the state without being trained. Calling the module runs forward and the hooks.
    """

    training = True
    _forward_hooks = None
    _forward_pre_hooks = None
    _optional_state = frozenset()  # names that load_state_dict may miss without a word
    _frozen = False
    _fixed = frozenset()  # names of parameters that did not train when freeze() came

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self.__dict__["_kinds"] = {}
        return self

    def forward(self, *args, **kwargs):
        """Computes the output; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}: define forward(self, ...)")

    def __call__(self, *args, **kwargs):
        if _call_observer is not None:
            _call_observer(self)
        if self._forward_pre_hooks or self._forward_hooks:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    def _call_with_hooks(self, args, kwargs):
        for hook in list((self._forward_pre_hooks or {}).values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in list((self._forward_hooks or {}).values()):
            changed = hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    def register_forward_pre_hook(self, hook):
        """hook(module, args) runs before forward; what it returns, if not None, replaces the arguments."""
        return self._add_hook("_forward_pre_hooks", hook)

    def register_forward_hook(self, hook):
        """hook(module, args, output) runs after forward; a result that is not None replaces the output."""
        return self._add_hook("_forward_hooks", hook)

    def _add_hook(self, name, hook):
        if not callable(hook):
            raise TypeError(f"{type(self).__name__}: expected a callable hook, got {type(hook).__name__}")
        hooks = self.__dict__.setdefault(name, {})
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        bump()
        return handle

    # ---- registration ----------------------------------------------------------------------------------
    def __setattr__(self, name, value):
        kinds = self._kinds
        kind = kinds.get(name)
        if isinstance(value, Parameter):
            kinds[name] = PARAMETER
        elif isinstance(value, Module):
            kinds[name] = MODULE
        elif kind in (BUFFER, TEMPORARY):
            if value is not None and not isinstance(value, _core.Tensor):
                raise self._wrong_type(name, "Tensor", value)
        elif kind is not None and value is not None:
            raise self._wrong_type(name, kind.capitalize(), value)
        object.__setattr__(self, name, value)
        bump()

    def _wrong_type(self, name, expected, value):
        got = type(value).__name__
        return TypeError(f"{type(self).__name__}.{name}: expected a {expected} or None, got {got}")

    def __delattr__(self, name):
        object.__delattr__(self, name)
        self._kinds.pop(name, None)
        bump()

    def _register(self, name, value, kind, expected):
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"{type(self).__name__}: expected a name without dots, got {name!r}")
        if name not in self._kinds and hasattr(self, name):
            raise ValueError(f"{type(self).__name__}: attribute {name!r} exists already")
        if value is not None and not isinstance(value, expected):
            raise self._wrong_type(name, expected.__name__, value)
        self._kinds[name] = kind
        object.__setattr__(self, name, value)
        bump()

    def register_parameter(self, name, param):
        """As self.name = param, where param may be None (a parameter that this instance goes without)."""
        self._register(name, param, PARAMETER, Parameter)

    def register_buffer(self, name, tensor, persistent=True):
        """A tensor that moves with the module; persistent: it is part of state_dict."""
        self._register(name, tensor, BUFFER if persistent else TEMPORARY, _core.Tensor)

    def add_module(self, name, module):
        """As self.name = module, for names that are not Python identifiers."""
        self._register(name, module, MODULE, Module)

    register_module = add_module

    # ---- walking ---------------------------------------------------------------------------------------
    def _members(self, *kinds):
        d = self.__dict__
        for name, kind in self._kinds.items():
            if kind in kinds and d.get(name) is not None:
                yield name, d[name]

    def named_children(self):
        """(name, module) of the direct children."""
        yield from self._members(MODULE)

    def children(self):
        """The direct children."""
        for _, m in self.named_children():
            yield m

    def named_modules(self, prefix="", remove_duplicate=True, _seen=None):
        """(dotted name, module) of this module ("") and all below it, each once."""
        _seen = set() if _seen is None else _seen
        if remove_duplicate and id(self) in _seen:
            return
        _seen.add(id(self))
        yield prefix, self
        for name, m in self._members(MODULE):
            yield from m.named_modules(f"{prefix}.{name}" if prefix else name, remove_duplicate, _seen)

    def modules(self):
        """This module and all below it, each once."""
        for _, m in self.named_modules():
            yield m

    def _named_tensors(self, kinds, prefix, recurse, remove_duplicate):
        seen = set()
        walk = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in walk:
            for name, t in module._members(*kinds):
                if remove_duplicate and id(t) in seen:
                    continue
                seen.add(id(t))
                yield (f"{path}.{name}" if path else name), t

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        """(dotted name, Parameter), each parameter once."""
        return self._named_tensors((PARAMETER,), prefix, recurse, remove_duplicate)

    def parameters(self, recurse=True):
        """The parameters, each once."""
        for _, p in self.named_parameters(recurse=recurse):
            yield p

    def named_buffers(self, prefix="", recurse=True, remove_duplicate=True):
        """(dotted name, Tensor) of the buffers, each once."""
        return self._named_tensors((BUFFER, TEMPORARY), prefix, recurse, remove_duplicate)

    def buffers(self, recurse=True):
        """The buffers, each once."""
        for _, b in self.named_buffers(recurse=recurse):
            yield b

    def get_submodule(self, target):
        """The module at a dotted name, as in named_modules; AttributeError if there is none."""
        module = self
        for name in target.split(".") if target else ():
            if module._kinds.get(name) != MODULE:
                raise AttributeError(f"{type(self).__name__}: no submodule {target!r} (stopped at {name!r})")
            module = module.__dict__[name]
        return module

    def apply(self, fn):
        """Calls fn on every module, children first; returns the module."""
        for m in self.children():
            m.apply(fn)
        fn(self)
        return self

    # ---- state -----------------------------------------------------------------------------------------
    def _state(self):
        """{key: Parameter or buffer} in PyTorch's order; shared tensors occur under each of their keys."""
        state = {}
        for path, module in self.named_modules(remove_duplicate=False):
            prefix = f"{path}." if path else ""
            for kind in (PARAMETER, BUFFER):
                for name, t in module._members(kind):
                    state[prefix + name] = t
        return state

    def state_dict(self):
        """{dotted name: Tensor} of parameters and persistent buffers, sharing their memory."""
        return {key: t.detach() for key, t in self._state().items()}

    def load_state_dict(self, state_dict, strict=True):
        """Copies values into parameters and buffers, casting to their dtypes.

        state_dict: {key: Tensor or array}. Returns LoadResult. With strict=True any missing, unexpected or
        mismatched key raises a ValueError that lists them all, and nothing is changed; with strict=False
        what fits is loaded.
        """
        pairs, result = self._fit_state(state_dict, strict)
        with no_grad():
            for tensor, value in pairs:
                tensor.copy_(value.to(tensor.device))
        return result

    def _fit_state(self, state_dict, strict=True):
        """([(own tensor, its value)], LoadResult) of a state_dict; raises as load_state_dict and changes nothing."""
        own = self._state()
        optional = {
            f"{path}.{name}" if path else name
            for path, m in self.named_modules(remove_duplicate=False)
            for name in m._optional_state
        }
        missing = [k for k in own if k not in state_dict and k not in optional]
        unexpected = [k for k in state_dict if k not in own]
        values = {k: self._as_tensor(k, state_dict[k]) for k in own if k in state_dict}
        mismatched = [
            (k, tuple(own[k].shape), tuple(v.shape))
            for k, v in values.items()
            if tuple(own[k].shape) != tuple(v.shape)
        ]
        if strict and (missing or unexpected or mismatched):
            lines = [f"missing key {k!r}" for k in missing]
            lines += [f"unexpected key {k!r}" for k in unexpected]
            lines += [f"mismatched key {k!r}: expected shape {a}, got {b}" for k, a, b in mismatched]
            raise ValueError(f"{type(self).__name__}.load_state_dict:\n  " + "\n  ".join(lines))
        skip = {k for k, _, _ in mismatched}
        pairs = [(own[k], v) for k, v in values.items() if k not in skip]
        return pairs, LoadResult(missing, unexpected, mismatched)

    @staticmethod
    def _as_tensor(key, value):
        if isinstance(value, _core.Tensor):
            return value
        try:
            if hasattr(value, "detach"):  # a torch tensor, which NumPy refuses while it requires a gradient
                return _core.from_dlpack(value.detach())
            return _core.tensor(np.asarray(value))
        except (TypeError, ValueError, BufferError) as e:
            raise TypeError(f"load_state_dict: {key!r}: expected a Tensor or an array: {e}") from None

    def save(self, path, metadata=None):
        """Writes state_dict to a safetensors file, weights in plain O,I,kH,kW order. metadata: {str: str}."""
        safetensors.save_file(self.state_dict(), path, metadata)

    def load(self, path, strict=True):
        """load_state_dict from a safetensors file."""
        return self.load_state_dict(safetensors.load_file(path), strict)

    # ---- modes -----------------------------------------------------------------------------------------
    def train(self, mode=True):
        """Training mode for this module and all below it; frozen batch norms stay in evaluation mode."""
        self.training = bool(mode)
        for m in self.children():
            m.train(mode)
        return self

    def eval(self):
        """Evaluation mode: train(False)."""
        return self.train(False)

    def requires_grad_(self, requires_grad=True):
        """Sets requires_grad of all parameters."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def freeze(self, train_bn=False):
        """Stops training: no gradients for the parameters, and batch norms keep their running statistics.

        Frozen batch norms act as in evaluation even after train(). train_bn=True leaves batch norms
        (weights and statistics) in training.
        """
        modules, trained = list(self.modules()), set()
        for m in modules:  # a parameter of several modules that one of them has stopped was no fixed one
            trained.update(id(p) for name, p in m._members(PARAMETER) if m._frozen and name not in m._fixed)
        for m in modules:
            m._note_fixed(trained)
        for m in modules:
            m._freeze_self(train_bn)
        return self

    def unfreeze(self):
        """Undoes freeze: all parameters train, but those that did not before it; batch norms follow train() and eval()
        again."""
        for m in self.modules():
            m._unfreeze_self()
        return self

    def _note_fixed(self, trained):
        if not self._frozen:
            members = self._members(PARAMETER)
            self._fixed = frozenset(n for n, p in members if not p.requires_grad and id(p) not in trained)

    def _freeze_self(self, train_bn):
        self._frozen = True
        for _, p in self._members(PARAMETER):
            p.requires_grad = False

    def _unfreeze_self(self):
        self._frozen = False
        for name, p in self._members(PARAMETER):
            p.requires_grad = name not in self._fixed

    def zero_grad(self, set_to_none=True):
        """Forgets the gradients, or with set_to_none=False fills them with zeros."""
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    # ---- moving ----------------------------------------------------------------------------------------
    def to(self, *args, **kwargs):
        """to("cuda"), to(fc.bfloat16), to(device=, dtype=): moves parameters and buffers in place.

        The dtype applies to floating tensors. Parameters stay the same objects, so optimizers keep working.
        """
        device, dtype = _parse_to(args, kwargs)

        def convert(t):
            if dtype is not None and _is_floating(t):
                t = t.to(dtype)
            return t if device is None else t.to(device)

        seen = {}
        with no_grad():
            for module in self.modules():
                for _, p in module._members(PARAMETER):
                    if id(p) not in seen:
                        seen[id(p)] = p
                        _move_parameter(p, convert)
                for name, b in module._members(BUFFER, TEMPORARY):
                    if id(b) not in seen:
                        seen[id(b)] = convert(b)
                    object.__setattr__(module, name, seen[id(b)])
        bump()
        return self

    def cpu(self):
        """to("cpu")."""
        return self.to("cpu")

    def cuda(self, device="cuda"):
        """to("cuda")."""
        return self.to(device)

    def float(self):
        """to(fc.float32)."""
        return self.to("float32")

    def half(self):
        """to(fc.float16)."""
        return self.to("float16")

    def bfloat16(self):
        """to(fc.bfloat16)."""
        return self.to("bfloat16")

    def double(self):
        """to(fc.float64)."""
        return self.to("float64")

    # ---- text ------------------------------------------------------------------------------------------
    def extra_repr(self):
        """What stands in the parentheses of repr before the children."""
        return ""

    def __repr__(self):
        extra = self.extra_repr()
        lines = [extra] if extra else []
        children = [(n, self.__dict__.get(n)) for n, kind in self._kinds.items() if kind == MODULE]
        if not children:
            return f"{type(self).__name__}({extra})"
        lines += [f"({name}): " + repr(child).replace("\n", "\n  ") for name, child in children]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _move_parameter(p, convert):
    before = p.detach()
    after = convert(before)
    if after.dtype == before.dtype and after.device == before.device:
        return
    grad, wanted = p.grad, p.requires_grad
    p._reseat(after)
    p.requires_grad = wanted
    if grad is not None:
        p.grad = convert(grad)
