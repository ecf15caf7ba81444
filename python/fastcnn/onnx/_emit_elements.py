"""How ops element by element, reductions, and those that move and pick become ONNX nodes."""

from __future__ import annotations

import math

import numpy as np
from onnx import numpy_helper

from ._emit import emits, in_int32, real
from ._writer import ELEMENT, NUMPY, is_free, line_of

# ---- element by element ----------------------------------------------------------------------------------

_UNARY = {
    "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "sign": "Sign",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sin": "Sin", "cos": "Cos", "atan": "Atan",
    "erf": "Erf",
    "logical_not": "Not", "isnan": "IsNaN", "isinf": "IsInf",
}  # fmt: skip


@emits("unary")
@in_int32
def unary(s):
    op, w, x = s.p("op", "copy"), s.w, s.x(0)
    a, b = real(s.p("alpha")), real(s.p("beta"))
    number = s.number
    if op == "logical_not" and s.dtypes[0] != "bool":
        x = w.node("Cast", [x], to=ELEMENT["bool"])
    if op in _UNARY:
        s.put(_UNARY[op], [x])
    elif op == "copy":
        same = s.dtypes[0] == s.dtype
        s.put("Identity" if same else "Cast", [x], to=None if same else ELEMENT[s.dtype])
    elif op == "affine":
        y = x if a == 1 else w.node("Neg", [x]) if a == -1 else w.node("Mul", [x, number(a)])
        s.put("Identity" if b == 0 else "Add", [y] if b == 0 else [y, number(b)])
    elif op == "rdiv":
        s.put("Div", [number(a), x])
    elif op == "pow":
        s.put("Pow", [x, number(a)])
    elif op == "rpow":
        s.put("Pow", [number(a), x])
    elif op == "clamp":
        low, high = (number(v) if math.isfinite(v) else "" for v in (a, b))
        s.put("Clip", [x, low, high] if high else [x, low])
    elif op == "expm1":
        s.put("Sub", [w.node("Exp", [x]), number(1)])
    elif op == "log1p":
        s.put("Log", [w.node("Add", [x, number(1)])])
    elif op == "log2":
        s.put("Mul", [w.node("Log", [x]), number(1 / math.log(2))])
    elif op == "rsqrt":
        s.put("Reciprocal", [w.node("Sqrt", [x])])
    elif op == "square":
        s.put("Mul", [x, x])
    elif op == "isfinite":
        s.put("Not", [w.node("Or", [w.node("IsNaN", [x]), w.node("IsInf", [x])])])
    else:
        raise ValueError(f"unary {op}")


_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "logical_and": "And",
    "logical_or": "Or", "logical_xor": "Xor",
}  # fmt: skip


@emits("binary")
@in_int32
def binary(s):
    op, w, (a, b) = s.p("op", "add"), s.w, s.inputs
    floats = "float" in s.dtypes[0]
    if op.startswith("logical"):
        a, b = (x if d == "bool" else w.node("Cast", [x], to=ELEMENT["bool"]) for x, d in zip(s.inputs, s.dtypes))
    if op in _BINARY:
        s.put(_BINARY[op], [a, b])
    elif op == "ne":
        s.put("Not", [w.node("Equal", [a, b])])
    elif op == "floor_div" and floats:
        s.put("Floor", [w.node("Div", [a, b])])
    elif op == "mod" and floats:
        down = w.node("Floor", [w.node("Div", [a, b])])
        s.put("Sub", [a, w.node("Mul", [down, b])])
    elif op == "mod":
        s.put("Mod", [a, b])
    elif op == "floor_div":
        s.put("Div", [w.node("Sub", [a, w.node("Mod", [a, b])]), b])
    else:
        raise ValueError(f"binary {op}")


@emits("where")
def where(s):
    if s.dtype != "bool":
        return s.put("Where", s.inputs)
    # ONNX Runtime chooses from no bools.
    choices = [s.w.node("Cast", [x], to=ELEMENT["uint8"]) for x in s.inputs[1:]]
    return s.put("Cast", [s.w.node("Where", [s.x(0), *choices])], to=ELEMENT["bool"])


@emits("fill")
def fill(s):
    value, dtype = real(s.p("value")), NUMPY[s.dtype]
    if s.p("arange"):
        if any(map(is_free, s.sizes)):
            raise ValueError("arange over the batch")
        array = (value + real(s.p("step")) * np.arange(math.prod(s.sizes))).reshape(s.sizes).astype(dtype)
        s.put("Identity", [s.w.constant(array)])
    elif s.sizes and s.dtype != "bfloat16":
        one = numpy_helper.from_array(np.asarray([value], dtype))
        s.put("ConstantOfShape", [s.w.shape(s.sizes)], value=one)
    else:
        s.put("Expand", [s.number(value), s.w.shape(s.sizes)])


_REDUCE = {"sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin",
           "sum_squares": "ReduceSumSquare"}  # fmt: skip


@emits("reduce")
@in_int32
def reduce(s):
    op, bits = s.p("op", "sum"), s.p("dims")
    axes = [i for i in range(len(s.shapes[0])) if bits >> i & 1]
    if op in ("argmax", "argmin"):
        s.put("ArgMax" if op == "argmax" else "ArgMin", [s.x(0)], axis=axes[0], keepdims=1)
    elif op in ("any", "all"):
        truth = s.x(0) if s.dtypes[0] == "bool" else s.w.node("Cast", [s.x(0)], to=ELEMENT["bool"])
        whole = s.w.node("Cast", [truth], to=ELEMENT["int32"])  # of truths alone: -1 is true and less than 0
        found = s.w.reduce("ReduceMax" if op == "any" else "ReduceMin", whole, axes)
        s.put("Cast", [found], to=ELEMENT["bool"])
    elif not axes:
        s.put("Identity", [_as_result(s)])
    else:
        s.w.reduce(_REDUCE[op], _as_result(s), axes, s.out)


def _as_result(s):
    """Operand 0 in the dtype of the result: sums of integers and bools are int64."""
    return s.x(0) if s.dtypes[0] == s.dtype else s.w.node("Cast", [s.x(0)], to=ELEMENT[s.dtype])


@emits("argsort")
@in_int32
def argsort(s):
    s.w.top_k(s.x(0), s.w.shape([s.p("kept")]), s.out, axis=1, largest=s.p("descending"), sorted=1)


@emits("cumsum")
def cumsum(s):
    s.put("CumSum", [s.x(0), s.w.constant(np.int64(1))], reverse=s.p("reverse"))


# ---- moving and picking ----------------------------------------------------------------------------------


@emits("reshape")
def reshape(s):
    s.w.reshape(s.x(0), s.sizes, s.out)


@emits("permute")
def permute(s):
    s.put("Transpose", [s.x(0)], perm=s.p("dims"))


@emits("expand")
def expand(s):
    # A size that the operand has already is written as 1, so that the batch need not be computed.
    lead = len(s.sizes) - len(s.shapes[0])
    sizes = [1 if i >= lead and s.shapes[0][i - lead] == n else n for i, n in enumerate(s.sizes)]
    s.put("Expand", [s.x(0), s.w.shape(sizes)])


_BEFORE_ALL = -(1 << 31)  # an end in front of the first element, for steps backwards


@emits("slice")
def slice_(s):
    dim, start, step = s.p("dim"), s.p("start"), s.p("step", 1)
    if is_free(start) or is_free(step):
        raise ValueError("a slice that begins at a place that depends on the batch")
    a, b = line_of(s.sizes[dim])
    end = f"{a * step}*N{start + b * step:+d}" if a else start + b * step
    if step < 0 and not a and end < 0:
        end = _BEFORE_ALL  # -1 would be the last element
    s.put("Slice", [s.x(0), s.w.ints([start]), s.w.shape([end]), s.w.ints([dim]), s.w.ints([step])])


@emits("cat")
def cat(s):
    s.put("Concat", s.inputs, axis=s.p("dim"))


@emits("index_select")
def index_select(s):
    s.put("Gather", s.inputs, axis=s.p("dim"))


@emits("gather")
def gather(s):
    s.put("GatherElements", s.inputs, axis=s.p("dim"))


def _add_into_zeros(s, index):
    if s.w.opset < 16:
        raise ValueError(f"{s.op}, which needs opset 16, in opset {s.w.opset}")
    zero = numpy_helper.from_array(np.zeros(1, NUMPY[s.dtype]))
    zeros = s.w.node("ConstantOfShape", [s.w.shape(s.sizes)], value=zero)
    s.put("ScatterElements", [zeros, index, s.x(0)], axis=s.p("dim"), reduction="add")


@emits("scatter_add")
def scatter_add(s):
    """Of one_hot: ones added into zeros. One place of each row is a comparison, which more readers take (ours too)."""
    dim = s.p("dim")
    if s.shapes[0] == s.shapes[1] and s.shapes[1] == [*s.sizes[:dim], 1, *s.sizes[dim + 1 :]]:
        classes = np.arange(s.sizes[dim]).reshape([-1, *[1] * (len(s.sizes) - 1 - dim)])
        hit = s.w.node("Equal", [s.x(1), s.w.constant(classes.astype(NUMPY[s.dtypes[1]]))])
        s.put("Where", [hit, s.x(0), s.number(0)])
        return
    _add_into_zeros(s, s.x(1))


@emits("index_add")
def index_add(s):
    """Of fold."""
    sizes = s.shapes[0]
    index = s.w.node("Reshape", [s.x(1), s.w.ints([-1 if d == s.p("dim") else 1 for d in range(len(sizes))])])
    _add_into_zeros(s, s.w.node("Expand", [index, s.w.shape(sizes)]))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@emits("pad")
def pad(s):
    ndim, mode = len(s.sizes), s.p("mode", "constant")
    before, after = ([*s.p(k, []), *[0] * ndim][:ndim] for k in ("before", "after"))
    if mode == "circular" and s.w.opset < 19:
        raise ValueError(f"circular padding, which needs opset 19, in opset {s.w.opset}")
    value = [s.number(real(s.p("value")))] if mode == "constant" else []
    s.put("Pad", [s.x(0), s.w.ints(before + after), *value], mode=_PAD_MODES[mode])


def _scale_to(scale, n, m):
    """The float32 by a scale that gives m pixels of n, in float32 (ONNX Runtime) as in double (ONNX's shape inference),
    else None."""
    near = np.float32(scale)
    for v in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(0))):
        if v > 0 and math.floor(n * float(v)) == m == np.floor(np.float32(n) * v):
            return v
    return None


@emits("interpolate")
def interpolate(s):
    mode, w = s.p("mode", "nearest"), s.w
    if s.p("antialias") and w.opset < 18:
        raise ValueError(f"interpolate with antialias, which needs opset 18, in opset {w.opset}")
    attributes = {
        "nearest": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        "nearest_exact": {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    }.get(mode)
    if attributes is None:
        attributes = {"coordinate_transformation_mode": "align_corners" if s.p("align_corners") else "half_pixel"}
        if mode == "bicubic":
            attributes["cubic_coeff_a"] = -0.5 if s.p("antialias") else -0.75
    if s.p("antialias"):
        attributes.update(antialias=1, exclude_outside=1)
    attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, "nearest")
    size, out = s.shapes[0][2:], s.sizes[2:]
    scales = [real(s.p("scale_h")), real(s.p("scale_w"))]
    scales = [_scale_to(v, n, m) for v, n, m in zip(scales, size, out, strict=True)]
    if all(scales) and not s.p("align_corners"):
        s.put("Resize", [s.x(0), "", w.constant(np.asarray([1, 1, *scales], np.float32))], **attributes)
    else:
        s.put("Resize", [s.x(0), "", "", w.shape(s.sizes)], **attributes)


@emits("grid_sample")
def grid_sample(s):
    if s.w.opset < 16:
        raise ValueError(f"grid_sample, which needs opset 16, in opset {s.w.opset}")
    mode = s.p("mode", "bilinear")
    if s.w.opset >= 20:
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    n, _, h, w = s.sizes
    s.put(
        "GridSample", [s.x(0), s.w.reshape(s.x(1), [n, h, w, 2])], mode=mode, padding_mode=s.p("padding", "zeros"),
        align_corners=int(s.p("align_corners")),
    )  # fmt: skip
