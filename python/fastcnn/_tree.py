"""Arguments and results of compiled functions as trees of containers, with the tensors and constants taken out."""

from __future__ import annotations

import dataclasses
import types

import numpy as np

from . import _core

_LEAF = object()
_PLAIN = frozenset(
    (bool, int, str, bytes, type(None), type(...), range, _core.dtype, _core.device)
)  # immutable, and equal only where nothing tells them apart


def flatten(value, tensors, memo):
    """The structure of value; what is left when tensors are taken out decides which plan is used."""
    kind = type(value)
    if kind in _PLAIN:
        memo.append(value)
        return ("=", kind, value)
    if isinstance(value, _core.Tensor):
        tensors.append(value)
        return _LEAF
    if isinstance(value, np.ndarray):
        tensors.append(_core.from_numpy(value))
        return _LEAF
    if isinstance(value, (tuple, list)):
        return (kind, *(flatten(v, tensors, memo) for v in value))
    if isinstance(value, dict):
        return (
            dict,
            *((k if type(k) is str else _constant(k, memo), flatten(v, tensors, memo)) for k, v in value.items()),
        )
    return _constant(value, memo)


def unflatten(tree, tensors, constants):
    """The value with these tensors and constants (iterators) in the places of those that were taken out."""
    if tree is _LEAF:
        return next(tensors)
    kind = tree[0]
    if type(kind) is str:
        return next(constants)
    if kind is dict:
        return {k if type(k) is str else next(constants): unflatten(v, tensors, constants) for k, v in tree[1:]}
    items = [unflatten(v, tensors, constants) for v in tree[1:]]
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _constant(value, memo):
    memo.append(value)  # kept alive, so that its id stays its own
    return ("=", _identity(value))


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
