"""Modules that only hold others: Sequential, ModuleList, ModuleDict, ParameterList, Identity."""

from __future__ import annotations

import operator
from collections import OrderedDict

from .module import MODULE, PARAMETER, Module
from .parameter import Parameter


def _position(self, index, extra=0):
    """A checked index from 0; extra=1 allows the place behind the last."""
    n = len(self) + extra
    i = operator.index(index)
    if not -n <= i < n:
        raise IndexError(f"{type(self).__name__}: index {i} is out of range for {len(self)} members")
    return i % n if n else 0


class _Listed(Module):
    """Members named "0", "1", ... and list-like access to them."""

    _kind = MODULE

    def _values(self):
        return [v for _, v in self._members(self._kind)]

    def _set_values(self, values):
        for name in [n for n, kind in self._kinds.items() if kind == self._kind]:
            delattr(self, name)
        for i, v in enumerate(values):
            self._add(str(i), v)

    def _add(self, name, value):
        self.add_module(name, value)

    def __len__(self):
        return len(self._values())

    def __iter__(self):
        return iter(self._values())

    def __contains__(self, value):
        return any(v is value for v in self._values())

    def __getitem__(self, index):
        values = self._values()
        if isinstance(index, slice):
            return self._like(index)
        return values[_position(self, index)]

    def _like(self, index):
        return type(self)(self._values()[index])

    def __setitem__(self, index, value):
        names = [n for n, _ in self._members(self._kind)]
        setattr(self, names[_position(self, index)], value)

    def __delitem__(self, index):
        values = self._values()
        if not isinstance(index, slice):
            index = _position(self, index)
        del values[index]
        self._set_values(values)

    def append(self, value):
        """Adds one at the end; returns the container."""
        self._add(str(len(self)), value)
        return self

    def extend(self, values):
        """Adds several at the end; returns the container."""
        for v in values:
            self.append(v)
        return self

    def insert(self, index, value):
        """Adds one before `index`; returns the container."""
        values = self._values()
        values.insert(index, value)
        self._set_values(values)
        return self


class Sequential(_Listed):
    """Calls its modules one after the other. Sequential(a, b) names them "0", "1"; a dict gives names.

    A slice is a Sequential of the same modules under the same names.
    """

    def __init__(self, *modules):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], (dict, OrderedDict)):
            named = modules[0].items()
        else:
            named = ((str(i), m) for i, m in enumerate(modules))
        for name, m in named:
            if m is None:
                raise TypeError(f"Sequential: expected a Module for {name!r}, got None")
            self.add_module(name, m)

    def forward(self, x):
        """The output of the last module."""
        d = self.__dict__
        for name, kind in self._kinds.items():
            if kind == MODULE:
                x = d[name](x)
        return x

    def _like(self, index):
        return Sequential(dict(list(self.named_children())[index]))


class ModuleList(_Listed):
    """A list of modules, without a forward of its own."""

    def __init__(self, modules=()):
        super().__init__()
        self.extend(modules)


class ParameterList(_Listed):
    """A list of parameters; tensors and arrays become Parameters."""

    _kind = PARAMETER

    def __init__(self, values=()):
        super().__init__()
        self.extend(values)

    def _add(self, name, value):
        self.register_parameter(name, value if isinstance(value, Parameter) else Parameter(value))

    def extra_repr(self):
        return ", ".join(f"{n}: {tuple(p.shape)}" for n, p in self._members(PARAMETER))


class ModuleDict(Module):
    """A dict of modules, without a forward of its own."""

    def __init__(self, modules=None):
        super().__init__()
        self.update(modules or {})

    def update(self, modules):
        """Adds or replaces modules from a dict or (name, module) pairs."""
        for name, m in dict(modules).items():
            self[name] = m

    def keys(self):
        """The names."""
        return [n for n, _ in self._members(MODULE)]

    def values(self):
        """The modules."""
        return [m for _, m in self._members(MODULE)]

    def items(self):
        """(name, module)."""
        return list(self._members(MODULE))

    def pop(self, name):
        """Takes a module out and returns it."""
        m = self[name]
        del self[name]
        return m

    def __getitem__(self, name):
        if self._kinds.get(name) != MODULE:
            raise KeyError(name)
        return self.__dict__[name]

    def __setitem__(self, name, module):
        self.add_module(name, module)

    def __delitem__(self, name):
        self[name]
        delattr(self, name)

    def __len__(self):
        return len(self.keys())

    def __iter__(self):
        return iter(self.keys())

    def __contains__(self, name):
        return self._kinds.get(name) == MODULE


class Identity(Module):
    """Gives back its input; arguments are accepted and ignored, so it can stand in for any layer."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, x):
        """x itself."""
        return x
