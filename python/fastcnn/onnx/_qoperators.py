"""Operators on integers (QLinearConv and its kin) and those ONNX Runtime fuses, written as the nodes they stand for.

Integers become DequantizeLinear, the operator in floats, QuantizeLinear: weights and biases are then parameters under
their own names, and a file of either form gives one network. What has a layout or type of its own stays as it is, and
is refused by its name. What these operators mean: the pages of onnx.ai, and ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from ._node import Node

_MICROSOFT = "com.microsoft."
_EXPANDERS = {}


def _expands(*names, operands):
    """Registers a function (writer, node) for operators with such numbers of operands. It returns False where the node
    has to stay."""

    def add(write):
        for name in names:
            _EXPANDERS[name] = write, operands
        return write

    return add


class _Writer:
    """Collects the nodes that replace one, and adds to the constants. opset: of ONNX's own operators."""

    def __init__(self, node, constants, opset):
        self.node, self.constants, self.opset, self.nodes, self._names = node, constants, opset, [], 0

    def _fresh(self):
        self._names += 1
        return f"{self.node.outputs[0]}({self._names})"  # no exporter writes such names

    def attr(self, name, default):
        """An attribute of the replaced node; ValueError where it has another type than default."""
        value = self.node.attrs.get(name, default)
        if type(value) is not type(default):
            raise ValueError(f"{self.node}: attribute {name!r} is no {type(default).__name__}")
        return value

    def add(self, kind, inputs, output=None, without=(), **attrs):
        """A node more; returns the name of its output. attrs: its attributes; of=True: those of the replaced node but
        for some."""
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        kept = attrs.pop("of", False)
        proto = helper.make_node(kind, inputs, [output or self._fresh()], name=self.node.name, **attrs)
        if kept:  # as they are in the file, so that they are checked like the operator's own
            proto.attribute.extend(a for a in self.node.proto.attribute if a.name not in without)
            attrs = {**{k: v for k, v in self.node.attrs.items() if k not in without}, **attrs}
        self.nodes.append(Node(proto, attrs, self.node.guards))
        return proto.output[0]

    def constant(self, array):
        name = self._fresh()
        self.constants[name] = array
        return name

    def value(self, name, scale, zero="", axis=1):
        """Integers as floats."""
        return self.add("DequantizeLinear", [name, scale, zero], axis=axis)

    def integers(self, name, zero, axis):
        """Integers less a zero point as floats."""
        if zero and zero not in self.constants:
            return self.add("(less)", [name, zero])
        scale = np.ones(self.constants[zero].shape if zero else (), np.float32)
        return self.value(name, self.constant(scale), zero, axis)

    def bias(self, name, a_scale, b_scale):
        """A bias of int32, whose scale is the product of both."""
        return name and self.value(name, self.add("Mul", [a_scale, b_scale]), axis=0)

    def give(self, value, scale, zero=""):
        """Floats as the integers that the replaced node gives."""
        self.add("QuantizeLinear", [value, scale, zero], self.node.outputs[0])


def _operands(node, count):
    """The names of that many operands, "" where one is left out."""
    return [*node.inputs, *[""] * (count - len(node.inputs))]


@_expands("QLinearConv", operands=(8, 9))
def _conv(w, node):
    x, xs, xz, k, ks, kz, ys, yz, bias = _operands(node, 9)
    w.give(w.add("Conv", [w.value(x, xs, xz), w.value(k, ks, kz, 0), w.bias(bias, xs, ks)], of=True), ys, yz)


@_expands("QLinearMatMul", operands=(8,))
def _matmul(w, node):
    a, a_s, az, b, bs, bz, ys, yz = node.inputs
    w.give(w.add("MatMul", [w.value(a, a_s, az, -2), w.value(b, bs, bz, -1)]), ys, yz)


@_expands("ConvInteger", "MatMulInteger", operands=(2, 3, 4))
def _integers(w, node):
    a, b, az, bz = _operands(node, 4)
    conv = node.op == "ConvInteger"
    a, b = w.integers(a, az, 1 if conv else -2), w.integers(b, bz, 0 if conv else -1)
    w.add(node.op.removesuffix("Integer"), [a, b], node.outputs[0], of=True)


@_expands(_MICROSOFT + "QGemm", operands=(6, 7, 8, 9))
def _gemm(w, node):
    a, a_s, az, b, bs, bz, bias, ys, yz = _operands(node, 9)
    if bias and w.attr("alpha", 1.0) != 1:
        return False  # whose scale has alpha as a factor
    columns = 0 if w.attr("transB", 0) else 1
    y = None if ys else node.outputs[0]
    y = w.add("Gemm", [w.value(a, a_s, az), w.value(b, bs, bz, columns), w.bias(bias, a_s, bs)], y, of=True)
    if ys:
        w.give(y, ys, yz)
    return True


@_expands(_MICROSOFT + "QLinearAdd", _MICROSOFT + "QLinearMul", operands=(7, 8))
def _elementwise(w, node):
    a, a_s, az, b, bs, bz, ys, yz = _operands(node, 8)
    w.give(w.add(node.op.removeprefix(_MICROSOFT + "QLinear"), [w.value(a, a_s, az), w.value(b, bs, bz)]), ys, yz)


_OF_ONE = ("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Softmax")


@_expands(*(_MICROSOFT + "QLinear" + kind for kind in _OF_ONE), operands=(4, 5))
def _of_one(w, node):
    x, xs, xz, ys, yz = _operands(node, 5)
    kind = node.op.removeprefix(_MICROSOFT + "QLinear")
    if w.attr("channels_last", 0):
        return False
    if kind == "Softmax" and (w.attr("opset", 13) < 13) != (w.opset < 13):
        return False  # older ones take all axes from one on together
    w.give(w.add(kind, [w.value(x, xs, xz)], without=("channels_last", "opset"), of=True), ys, yz)
    return True


@_expands(_MICROSOFT + "QLinearConcat", operands=range(5, 1 << 16, 3))
def _concat(w, node):
    ys, yz, *parts = node.inputs
    w.give(w.add("Concat", [w.value(*parts[i : i + 3]) for i in range(0, len(parts), 3)], of=True), ys, yz)


@_expands(_MICROSOFT + "QLinearWhere", operands=(9,))
def _where(w, node):
    condition, x, xs, xz, y, ys, yz, zs, zz = node.inputs
    w.give(w.add("Where", [condition, w.value(x, xs, xz), w.value(y, ys, yz)]), zs, zz)


# Names of the numbers in activation_params.
_ACTIVATIONS = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}  # fmt: skip


@_expands(_MICROSOFT + "FusedConv", operands=(2, 3, 4))
def _fused_conv(w, node):
    x, k, bias, residual = _operands(node, 4)
    kind, params = w.attr("activation", ""), w.attr("activation_params", [])
    if kind not in ("", *_ACTIVATIONS) or len(params) > len(_ACTIVATIONS.get(kind, ())):
        return False
    end = node.outputs[0]
    fused = ("activation", "activation_params")
    y = w.add("Conv", [x, k, bias], None if kind or residual else end, without=fused, of=True)
    if residual:
        y = w.add("Add", [y, residual], None if kind else end)
    if kind == "Clip" and w.opset >= 11:  # before, its limits were attributes
        w.add(kind, [y, *(w.constant(np.float32(v)) for v in params)], end)
    elif kind:
        w.add(kind, [y], end, **dict(zip(_ACTIVATIONS[kind], params, strict=False)))
    return True


@_expands(*(_MICROSOFT + kind for kind in ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")), operands=(1, 2))
def _gelu(w, node):
    x = node.inputs[0] if len(node.inputs) == 1 else w.add("Add", node.inputs)
    if node.op.endswith("QuickGelu"):
        w.add("Swish", [x], node.outputs[0], alpha=w.attr("alpha", 1.702))
    else:
        tanh = {"approximate": "tanh"} if node.op.endswith("FastGelu") else {}
        w.add("Gelu", [x], node.outputs[0], **tanh)


def expand(nodes, constants, opset):
    """The nodes with those operators written out; constants gains what they need.

    Raises: ValueError where an attribute has a wrong type.
    """
    result = []
    for node in nodes:
        write, counts = _EXPANDERS.get(node.op, (None, ()))
        writer = _Writer(node, constants, opset)
        fits = len(node.inputs) in counts and len(node.outputs) == 1
        result += writer.nodes if fits and write(writer, node) is not False else [node]
    return result
