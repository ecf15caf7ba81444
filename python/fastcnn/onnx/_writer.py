"""Writer: builds an ONNX graph name by name. It knows nodes, constants and sizes that depend on the batch, no model.

A size is an int, or text that names the batch size N: "N", "64*N", "3*N-1".
"""

from __future__ import annotations

import re

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ELEMENT = {
    "float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE, "bfloat16": TensorProto.BFLOAT16,
}  # fmt: skip
NUMPY = {name: "float32" if name == "bfloat16" else name for name in ELEMENT}
_LINE = re.compile(r"(?:(-?\d+)\*)?N([+-]\d+)?")


def line_of(size):
    """(a, b) of a size a * N + b."""
    if isinstance(size, int):
        return 0, size
    match = _LINE.fullmatch(size)
    if match is None:
        raise ValueError(f"onnx.export: a size {size!r} that is no straight line in the batch size")
    return int(match[1] or 1), int(match[2] or 0)


def is_free(size):
    """Does a size depend on the batch?"""
    return not isinstance(size, int)


class Writer:
    """Nodes and initialisers as they come. opset: which version the nodes are written for; batch_from: (name of a
    graph input, its dim) whose size is N."""

    def __init__(self, opset, batch_from=None):
        self.opset, self.nodes, self.initializers = opset, [], []
        self._batch_from, self._batch, self._constants = batch_from, None, {}
        self._taken, self._numbers = set(), {}

    def claim(self, name):
        """Keeps a name for its owner."""
        self._taken.add(name)
        return name

    def name(self, stem):
        """A name that is still free, and now taken."""
        while True:
            number = self._numbers[stem] = self._numbers.get(stem, -1) + 1
            candidate = stem if number == 0 else f"{stem}_{number}"
            if candidate not in self._taken:
                return self.claim(candidate)

    def node(self, op, inputs, output=None, **attributes):
        """Adds a node of one output and returns the output's name. Attributes of None are left out."""
        output = output or self.name(op.lower())
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(op, inputs, [output], name=self.name(f"{op}.{output}"), **attributes))
        return output

    def top_k(self, x, k, output, **attributes):
        """TopK, of which the places are wanted."""
        values = self.name("topk")
        name = self.name(f"TopK.{output}")
        self.nodes.append(helper.make_node("TopK", [x, k], [values, output], name=name, **attributes))

    def initializer(self, name, array):
        """Adds a constant under its own name."""
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, array):
        """The name of a constant; equal ones are one."""
        array = np.asarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.initializer(self.name("constant"), array)
        return self._constants[key]

    def scalar(self, value, dtype):
        """A constant of no dimensions in a dtype of fastcnn."""
        if dtype == "bfloat16":
            return self.node("Cast", [self.constant(np.asarray(value, "float32"))], to=ELEMENT[dtype])
        return self.constant(np.asarray(value, NUMPY[dtype]))

    def ints(self, values):
        return self.constant(np.asarray(values, np.int64))

    # ---- shapes ------------------------------------------------------------------------------------------

    def shape(self, sizes):
        """The name of a 1-D int64 tensor of sizes, computed from the batch where they depend on it."""
        if not any(map(is_free, sizes)):
            return self.ints(sizes)
        return self.node("Concat", [self.ints([s]) if not is_free(s) else self._size(s) for s in sizes], axis=0)

    def _size(self, size):
        a, b = line_of(size)
        n = self._batch_size()
        n = n if a == 1 else self.node("Mul", [n, self.ints([a])])
        return n if b == 0 else self.node("Add", [n, self.ints([b])])

    def _batch_size(self):
        if self._batch is None:
            name, dim = self._batch_from
            self._batch = self.node("Gather", [self.node("Shape", [name]), self.ints([dim])], axis=0)
        return self._batch

    def reshape(self, x, sizes, output=None):
        """Reshape; one size that depends on the batch is left to ONNX (-1)."""
        free = [i for i, s in enumerate(sizes) if is_free(s)]
        if len(free) == 1 and 0 not in sizes:
            target = self.ints([-1 if i in free else s for i, s in enumerate(sizes)])
        else:
            target = self.shape(sizes)
        return self.node("Reshape", [x, target], output)

    def reduce(self, op, x, axes, output=None, keepdims=1):
        """A Reduce... node; axes became an operand in opset 13 (ReduceSum) and 18 (the others)."""
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.node(op, [x, self.ints(axes)], output, keepdims=keepdims)
        return self.node(op, [x], output, axes=list(axes), keepdims=keepdims)
