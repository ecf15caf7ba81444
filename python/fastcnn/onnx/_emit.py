"""The table EMIT of functions that write an op of a traced graph as ONNX nodes, and what they share.

The functions themselves stand in _emit_nets.py and _emit_elements.py under @emits(...).

Ops of training (losses, optimizers, gradients) have no place here and are refused by name in _export.py.
"""

from __future__ import annotations

import math

from ._writer import ELEMENT

EMIT = {}


def emits(*names):
    def add(function):
        for name in names:
            EMIT[name] = function
        return function

    return add


_SMALL = ("int8", "uint8", "bool")


def in_int32(function):
    """An emitter whose nodes compute in int32 what is of 8 bits or bools, for which ONNX has hardly any arithmetic: the
    last bits of the results are the same."""

    def emit(s):
        if not any(dtype in _SMALL for dtype in s.dtypes) or s.p("op") in _OF_ANY_TYPE:
            return function(s)
        return _computed_in("int32", _SMALL if s.p("op") not in _OF_TRUTH else (), function, s)

    return emit


def in_float32(function):
    """An emitter of a norm, which is computed in float32 where its weights are float32 and the data of 16 bits."""

    def emit(s):
        mixed = len({*s.dtypes}) > 1 or "bfloat16" in s.dtypes
        return _computed_in("float32", ("float16", "bfloat16"), function, s) if mixed else function(s)

    return emit


def _computed_in(wide, back, function, s):
    """Emits s with small operands in a wide type, and the result again in its own, where that is one of back."""
    small = _SMALL if wide == "int32" else ("float16", "bfloat16")
    inputs = [s.w.node("Cast", [x], to=ELEMENT[wide]) if d in small else x for x, d in zip(s.inputs, s.dtypes)]
    dtypes, first = [wide if d in small else d for d in s.dtypes], s.outputs[0]
    if s.dtype in back:
        first = {**first, "dtype": wide, "name": s.w.name(f"{s.out}_{wide}")}
    function(Step(s.w, s.op, inputs, s.shapes, dtypes, [first, *s.outputs[1:]], s.params))
    if s.dtype in back:
        s.put("Cast", [first["name"]], to=ELEMENT[s.dtype])


# Operations, unary and binary, that every type has, and those whose results are bools.
_OF_ANY_TYPE = ("copy", "logical_not", "logical_and", "logical_or", "logical_xor", "any", "all")
_OF_TRUTH = ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite")


class Step:
    """One node of the traced graph. x(i): name of input i in the ONNX graph; shape_of(i), dtype_of(i); out: name of
    its output, sizes and dtype of it; p: params, 0 where they are left out; w: the Writer."""

    def __init__(self, writer, op, inputs, shapes, dtypes, outputs, params):
        self.w, self.op, self.inputs, self.shapes, self.dtypes = writer, op, inputs, shapes, dtypes
        self.outputs, self.params = outputs, params
        self.out, self.sizes, self.dtype = outputs[0]["name"], outputs[0]["shape"], outputs[0]["dtype"]

    def x(self, i):
        return self.inputs[i]

    def p(self, name, default=0):
        return self.params.get(name, default)

    def pads(self):
        return [self.p("pT"), self.p("pL"), self.p("pB"), self.p("pR")]

    def number(self, value):
        """A constant of the output's dtype."""
        return self.w.scalar(value, self.dtype)

    def put(self, op, inputs, **attributes):
        """The node whose output is this step's."""
        return self.w.node(op, inputs, self.out, **attributes)


_INFINITY = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def real(value):
    """A number of the traced graph, where infinities are text."""
    if isinstance(value, dict):
        raise ValueError(f"a number that depends on the batch size: {value}")
    return _INFINITY[value] if isinstance(value, str) else float(value)
