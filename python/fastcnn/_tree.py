"""Arguments and results of compiled functions as trees of containers, with the tensors and constants taken out."""

from __future__ import annotations

import collections
import dataclasses
import gc
import types

import numpy as np

from . import _core

_LEAF = object()
_LIKE = object()  # before the parts of a container that is not of a built-in type
_FIELDS = object()  # before those of a dataclass
_MOST_LOOKED_AT = 4096
_PLAIN = frozenset(
    (bool, int, str, bytes, type(None), type(...), range, _core.dtype, _core.device)
)  # immutable, and equal only where nothing tells them apart


def _constant(value, tensors, memo):
    memo.append(value)  # kept alive, so that its id stays its own
    return ("=", _identity(value))


def flatten(value, tensors, memo, other=_constant):
    """The structure of value; what is left when tensors are taken out decides which plan is used.

    other: for what is no tensor, container or plain value.
    """
    kind = type(value)
    if kind is tuple or kind is list:
        return (kind, *[flatten(v, tensors, memo, other) for v in value])
    if kind in _PLAIN:
        memo.append(value)
        return ("=", kind, value)
    if isinstance(value, _core.Tensor):
        tensors.append(value)
        return _LEAF
    if isinstance(value, np.ndarray):
        tensors.append(_core.from_numpy(value))
        return _LEAF
    if kind is dict:
        return (dict, *_pairs_of(value, tensors, memo, other))
    if isinstance(value, dict):
        return (_LIKE, kind, _members(value, tensors, memo, other), *_pairs_of(value, tensors, memo, other))
    if isinstance(value, (tuple, list)):
        members = _members(value, tensors, memo, other)
        return (_LIKE, kind, members, *[flatten(v, tensors, memo, other) for v in value])
    return other(value, tensors, memo)


def _pairs_of(value, tensors, memo, other):
    return [
        (k if type(k) is str else other(k, tensors, memo), flatten(v, tensors, memo, other)) for k, v in value.items()
    ]


def flatten_result(value, tensors, memo):
    """As flatten, where dataclasses count as containers too, and other objects must hold no traced tensor."""
    return flatten(value, tensors, memo, _other_result)


def _other_result(value, tensors, memo):
    if not _holds_traced(value):
        return _constant(value, tensors, memo)
    kind = type(value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise TypeError(
            f"compile: the function returned a {kind.__name__} with traced tensors in it, expected them in tuples, "
            "lists, dicts, namedtuples and dataclasses: no other type is made anew for each call"
        )
    names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
    names += [k for k in getattr(value, "__dict__", ()) if k not in names]
    return (_FIELDS, kind, *((k, flatten_result(getattr(value, k), tensors, memo)) for k in names))


def _holds_traced(value):
    """Does anything near this object refer to a tensor that has no values?"""
    from .nn.module import Module

    seen, near = {id(value): value}, [value]
    while near and len(seen) < _MOST_LOOKED_AT:
        v = near.pop(0)
        if isinstance(v, _core.Tensor):
            if v.is_symbolic:
                return True
        elif isinstance(v, types.FunctionType):  # not its globals: a lambda that was returned
            near += [v.__closure__, v.__defaults__, v.__kwdefaults__]
        elif not isinstance(v, (*_PLAIN, type, types.ModuleType, types.CodeType, Module)):
            new = [r for r in gc.get_referents(v) if id(r) not in seen]
            seen.update((id(r), r) for r in new)
            near += new
    return False


def unflatten(tree, tensors, constants):
    """The value with these tensors and constants (iterators) in the places of those that were taken out."""
    if tree is _LEAF:
        return next(tensors)
    kind = tree[0]
    if kind is tuple or kind is list:
        return kind([unflatten(v, tensors, constants) for v in tree[1:]])
    if kind is dict:
        return dict(_pairs(tree[1:], tensors, constants))
    if kind is _LIKE:
        return _like(*tree[1:3], tree[3:], tensors, constants)
    if kind is _FIELDS:
        new = tree[1].__new__(tree[1])
        for k, v in tree[2:]:
            object.__setattr__(new, k, unflatten(v, tensors, constants))
        return new
    return next(constants)


def _pairs(items, tensors, constants):
    return [
        (k if type(k) is str else unflatten(k, tensors, constants), unflatten(v, tensors, constants)) for k, v in items
    ]


def _members(value, tensors, memo, other):
    """What a container has besides its items: pairs of names and trees; None for dicts whose items are these too."""
    members = getattr(value, "__dict__", {})
    if members is value:
        return None
    if isinstance(value, collections.defaultdict):
        members = {"default_factory": value.default_factory, **members}
    return tuple((k, flatten(v, tensors, memo, other)) for k, v in members.items())


def _like(kind, members, items, tensors, constants):
    """A container of that type, made as copies are: without its __init__."""
    members = members and [(k, unflatten(v, tensors, constants)) for k, v in members]
    if issubclass(kind, dict):
        new = kind.__new__(kind)
    elif issubclass(kind, list):
        new = list.__new__(kind)
        list.extend(new, (unflatten(v, tensors, constants) for v in items))
    else:
        items = [unflatten(v, tensors, constants) for v in items]
        new = kind(items) if hasattr(kind, "n_fields") else tuple.__new__(kind, items)  # time.struct_time and the like
    if members is None:
        new.__dict__ = new
    for k, v in members or ():
        object.__setattr__(new, k, v)
    if issubclass(kind, dict):
        for k, v in _pairs(items, tensors, constants):
            new[k] = v
    return new


def _identity(value):
    """What tells a constant from others: plain values by what they are, others by which object it is."""
    kind = type(value)
    if kind in _PLAIN:
        return (kind, value)
    if kind is float:
        return (kind, value.hex())  # -0.0 is not 0.0, and nan is nan
    if kind is complex:
        return (kind, value.real.hex(), value.imag.hex())
    if kind is tuple:
        return (kind, *map(_identity, value))
    if kind is frozenset or kind is set:
        return (kind, frozenset(map(_identity, value)))
    if kind is slice:
        return (kind, *map(_identity, (value.start, value.stop, value.step)))
    if isinstance(value, np.generic):
        return (kind, value.dtype.str, value.tobytes())
    if kind is types.MethodType or kind is types.BuiltinMethodType:  # made anew at each look; equal by their object
        return (kind, value)
    if _is_frozen(value):
        return (kind, *(_identity(v) for v in vars(value).values()))
    return (kind, id(value))


def _is_frozen(value):
    """A frozen dataclass of nothing but its fields, as options are given that are made anew for each call."""
    options = getattr(type(value), "__dataclass_params__", None)
    if options is None or not (options.frozen and options.eq) or not hasattr(value, "__dict__"):
        return False
    return list(vars(value)) == [f.name for f in dataclasses.fields(value)]
