"""The table of operators: what runs each, which operands must be known on the host, which are weights.

The functions themselves stand in _conv.py, _math.py, _shape.py and _resize.py under @op(...). A function takes a Call
and returns a Tensor or a tuple of them. Values are Tensors (data, weights) or NumPy arrays (shapes, constants).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _core
from .._core import ops
from ..safetensors import from_bits


class Handler(NamedTuple):
    """run(call); host: slots whose values must be known when a call is traced; params: slots of weights, or "through"
    where weights pass on as they are; check(call) -> what is not supported, or None, known when the file is read."""

    run: object
    host: tuple
    params: object
    check: object


HANDLERS = {}


def op(*names, host=(), params=(), check=None):
    """Registers a function for the operators of these names."""

    def add(run):
        for name in names:
            HANDLERS[name] = Handler(run, host, params, check)
        return run

    return add


def host_slots(node):
    """Operands of a node whose values must be known: all of an operator that only shapes and constants run through."""
    if node.op in ("Shape", "Size"):
        return ()
    return HANDLERS[node.op].host if node.op in HANDLERS else range(len(node.inputs))


def to_tensor(array, device=None):
    """The Tensor of a NumPy array; integers that fastcnn has no dtype for become int64, checked."""
    name = array.dtype.name
    if name == "bfloat16":
        return from_bits(array.view(np.uint16), "bfloat16").to(device or "cpu")
    if name in ("int16", "uint16", "uint32", "uint64", "int4", "uint4"):
        wide = array.astype(np.int64)
        if name == "uint64" and (wide < 0).any():
            raise ValueError("constants of uint64 above 2**63 are not supported")
        array = wide
    return _core.tensor(np.ascontiguousarray(array).reshape(array.shape), device=device)


class Call:
    """One node with its operands, in a module's forward or, without tensors, when a file is checked."""

    __slots__ = ("module", "node", "opset", "values")

    def __init__(self, module, node, values, opset):
        self.module, self.node, self.values, self.opset = module, node, values, opset

    def attr(self, name, default=None):
        """An attribute of the node, default where it is left out."""
        return self.node.attrs.get(name, default)

    def value(self, i):
        """Operand i: Tensor, NumPy array, or None where it is left out."""
        return self.values[i] if i < len(self.values) else None

    def has(self, i):
        return self.value(i) is not None

    def tensor(self, i):
        """Operand i as a Tensor, None where it is left out. Constants follow the floating type of the data, which may
        not be the file's: net.to("bfloat16")."""
        value = self.value(i)
        if not isinstance(value, np.ndarray):
            return value
        t = to_tensor(value, self.device())
        if not is_float(t):
            return t
        kinds = (v.dtype for v in self.values if isinstance(v, _core.Tensor) and is_float(v))
        return ops.cast(t, next(kinds, t.dtype))

    def device(self):
        """Where the operands lie."""
        return next((v.device for v in self.values if isinstance(v, _core.Tensor)), None)

    def host(self, i, default=None):
        """Operand i as a NumPy array; ValueError where it depends on data."""
        value = self.value(i)
        if value is None:
            return default
        if isinstance(value, np.ndarray):
            return value
        raise ValueError(f"operand {i} must be a constant or follow from shapes, it depends on the data")

    def ints(self, i, attribute=None):
        """Operand i, or the attribute that older opsets have in its place, as a list of ints; None without both."""
        value = self.host(i)
        if value is not None:
            if value.dtype.kind not in "iu":
                raise ValueError(f"expected operand {i} as integers, got {value.dtype}")
            return [int(v) for v in value.reshape(-1)]
        return self.attr(attribute) if attribute else None

    def scalar(self, i, default=None):
        """Operand i, of one element, as a Python number."""
        value = self.host(i)
        return default if value is None else value.reshape(-1)[0].item()

    def pair(self):
        """Operands 0 and 1 for an elementwise op, constants of one element as numbers."""
        return tuple(self.operand(i) for i in range(2))

    def operand(self, i):
        """Operand i for an elementwise op, a constant of one element as a number."""
        value = self.value(i)
        if isinstance(value, np.ndarray) and value.size == 1 and self._widest() >= value.ndim:
            return value.reshape(()).item()
        return self.tensor(i)

    def _widest(self):
        return max(v.ndim for v in self.values if isinstance(v, _core.Tensor))


def axis_of(axis, ndim):
    """An axis from 0 on; ValueError outside of -ndim to ndim - 1."""
    if not -ndim <= axis < max(ndim, 1):
        raise ValueError(f"expected an axis of {ndim} dimensions, got {axis}")
    return axis % ndim if ndim else 0


def is_float(x):
    return x.dtype.is_floating_point


def rank_error(call, i, ranks, what):
    """For checks: a refusal where constant i has another rank than these."""
    value = call.value(i)
    if value is None or value.ndim in ranks:
        return None
    return f"{what} of weights of shape {list(value.shape)}"


def same(value, other):
    """Are two numbers the same in float32, as attributes are stored?"""
    return np.float32(value) == np.float32(other)


__all__ = [
    "HANDLERS", "Call", "Handler", "axis_of", "host_slots", "is_float", "op", "ops", "rank_error", "same", "to_tensor",
]  # fmt: skip
