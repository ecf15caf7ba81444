"""Shape arithmetic: nodes whose operands are all known are computed in NumPy, when a file is read or a call is traced.

The arithmetic is that of onnx.reference, for a list of cheap operators; sizes are checked before anything is made, so
that a small file cannot ask for much memory.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

MOST_ELEMENTS = 1 << 24  # of one result, when a file is read

FOLDABLE = frozenset(
    """Abs Add And ArgMax ArgMin Cast CastLike Ceil Clip Concat ConstantOfShape CumSum DequantizeLinear Div Equal Erf
    Exp Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity IsInf IsNaN Less
    LessOrEqual Log Max Mean Min Mod Mul Neg NonZero Not OneHot Or Pow QuantizeLinear Range Reciprocal ReduceL1
    ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements
    ScatterND Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where
    Xor""".split()
)


def fold(node, values, opset, most=MOST_ELEMENTS):
    """The outputs of a node, one array each. values: its operands as arrays, None where one is left out; most: of how
    many elements."""
    given = [(name, v) for name, v in zip(node.inputs, values, strict=True) if v is not None]
    try:
        elements = _size_of_result(node, values)
        if elements > most:
            raise MemoryError(f"a constant of {elements} elements; at most {most} are computed")
        if node.op == "GatherElements":
            return [_gather_elements(node, *values)]
        run = _evaluator(node, opset)
        results = run.run(*(v for _, v in given)) if len(given) == len(values) else _with_gaps(run, values)
    except Exception as e:  # of NumPy and onnx.reference, of many types: what is wrong is the node
        raise ValueError(f"{node}: {type(e).__name__}: {e} (operands {_described(values)})") from None
    return [np.asarray(r) for r in results]


def _gather_elements(node, data, index):
    """In onnx.reference indices far outside of an axis take for ever."""
    axis = node.attrs.get("axis", 0)
    size = data.shape[axis]
    if index.size and not (-size <= index.min() and index.max() < size):
        raise IndexError(f"indices {index.min()} to {index.max()} in an axis of {size}")
    return np.take_along_axis(data, np.where(index < 0, index + size, index), axis)


def _with_gaps(run, values):
    while values and values[-1] is None:
        values = values[:-1]
    return run.run(*values)


def _described(values):
    return ", ".join("none" if v is None else f"{v.dtype} {list(v.shape)}" for v in values)


def _evaluator(node, opset):
    if node.evaluator is None:
        if node.op == "DequantizeLinear":
            opset = max(opset, 19)  # onnx.reference knows no older ones, which mean the same
        inputs = [helper.make_tensor_value_info(n, 1, None) for n in dict.fromkeys(node.inputs) if n]
        outputs = [helper.make_tensor_value_info(n, 1, None) for n in node.outputs if n]
        graph = helper.make_graph([node.proto], "g", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        node.evaluator = ReferenceEvaluator(model).rt_nodes_[0]
    return node.evaluator


def _product(array):
    return math.prod(max(int(n), 1) for n in array.reshape(-1))


def _size_of_result(node, values):
    """At most how many elements come out (for operators whose results can be larger than their operands)."""
    sizes = [0 if v is None else v.size for v in values]
    if node.op in ("ConstantOfShape", "Expand"):
        return _product(values[node.op == "Expand"]) * max(sizes[0] if node.op == "Expand" else 1, 1)
    if node.op == "Tile":
        return sizes[0] * _product(values[1])
    if node.op == "Range":
        start, end, step = (float(v.reshape(-1)[0]) for v in values)
        return math.inf if not step or not math.isfinite((end - start) / step) else max(0, (end - start) / step)
    if node.op == "OneHot":
        return sizes[0] * max(int(values[1].reshape(-1)[0]), 1)
    if node.op in ("Concat", "ScatterND", "ScatterElements", "Split"):
        return sum(sizes)
    if node.op in ("Gather", "GatherND", "GatherElements"):
        return math.prod(max(s, 1) for s in sizes)
    shapes = [v.shape for v in values if v is not None]
    try:
        return math.prod(np.broadcast_shapes(*shapes))
    except ValueError:
        return max(sizes, default=0)
