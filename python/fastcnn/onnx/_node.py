"""Node: one operator of a graph as plain Python."""

from __future__ import annotations

# ONNX Runtime's quantiser writes these for integers that ONNX knew later; they mean the same.
_ALSO_MICROSOFTS = ("QuantizeLinear", "DequantizeLinear")


class Node:
    """One node: op (with its domain where that is not ONNX's own), name, names of inputs ("" where one is left out)
    and outputs, and attrs, whose values are numbers, text, lists and NumPy arrays. guards: (name, bool) of conditions
    under which it runs: nodes of both branches of an If stand in the graph before "(if)", which picks from (condition,
    results of the one, results of the other)."""

    __slots__ = ("attrs", "evaluator", "guards", "inputs", "name", "op", "outputs", "proto")

    def __init__(self, proto, attrs, guards=()):
        if proto.domain == "com.microsoft" and proto.op_type in _ALSO_MICROSOFTS:
            standard = type(proto)()
            standard.CopyFrom(proto)
            standard.domain, proto = "", standard
        self.op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.name = proto.name or next((o for o in self.outputs if o), "")
        self.attrs, self.proto, self.guards = attrs, proto, guards
        self.evaluator = None  # see _host.py

    def __getstate__(self):  # of copies: a node may have changed since it was read, and evaluators cannot be copied
        return {name: getattr(self, name) for name in self.__slots__ if name != "evaluator"}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)
        self.evaluator = None

    def __str__(self):
        return f"{self.op} {self.name!r}"
