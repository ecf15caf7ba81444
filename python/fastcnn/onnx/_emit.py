"""How each op of a traced graph becomes ONNX nodes: one function per op kind, in the table EMIT.

Ops of training (losses, optimizers, gradients) have no place here and are refused by name in _export.py.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import numpy_helper

from ._writer import ELEMENT, NUMPY, is_free, line_of

EMIT = {}


def emits(*names):
    def add(function):
        for name in names:
            EMIT[name] = function
        return function

    return add


_SMALL = ("int8", "uint8", "bool")


def _in_int32(function):
    """An emitter whose nodes compute in int32 what is of 8 bits or bools, for which ONNX has hardly any arithmetic: the
    last bits of the results are the same."""

    def emit(s):
        if not any(dtype in _SMALL for dtype in s.dtypes) or s.p("op") in _OF_ANY_TYPE:
            return function(s)
        return _computed_in("int32", _SMALL if s.p("op") not in _OF_TRUTH else (), function, s)

    return emit


def _in_float32(function):
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


# ---- windows and norms -----------------------------------------------------------------------------------


@emits("conv2d")
def conv2d(s):
    s.put(
        "Conv", s.inputs, kernel_shape=s.shapes[1][2:], strides=[s.p("sH", 1), s.p("sW", 1)], pads=s.pads(),
        dilations=[s.p("dH", 1), s.p("dW", 1)], group=s.p("groups", 1),
    )  # fmt: skip


@emits("conv2d_bwd_data")
def conv_transpose2d(s):
    kernel, stride, dilation = s.shapes[1][2:], [s.p("sH", 1), s.p("sW", 1)], [s.p("dH", 1), s.p("dW", 1)]
    pads, extra = s.pads(), []
    for i in range(2):
        covered = (s.shapes[0][2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        extra.append(s.sizes[2 + i] - covered + pads[i] + pads[i + 2])
    s.put(
        "ConvTranspose", s.inputs, kernel_shape=kernel, strides=stride, pads=pads, dilations=dilation,
        group=s.p("groups", 1), output_padding=extra,
    )  # fmt: skip


def _window(s):
    """Attributes of a pool that gives the traced size, its dilations, and what its last windows lack at each end."""
    kernel, stride = [s.p("kH", 1), s.p("kW", 1)], [s.p("sH", 1), s.p("sW", 1)]
    dilation, pads = [s.p("dH", 1), s.p("dW", 1)], s.pads()
    lacking = []
    for i in range(2):
        covered = (s.sizes[2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        lacking.append(max(covered - s.shapes[0][2 + i] - pads[i] - pads[i + 2], 0))
    # Pads in place of ceil_mode, of which ONNX's shape inference counts windows that begin behind the image. They must
    # be smaller than the kernel.
    ends = [end + more for end, more in zip(pads[2:], lacking, strict=True)]
    padded = all(end < size for end, size in zip(ends, kernel, strict=True))
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": pads[:2] + ends if padded else pads}
    return {**attributes, "ceil_mode": None if padded else 1}, dilation, lacking


def _even_windows(s):
    """Attributes of a pool that is an adaptive one, where the windows are all alike, else None."""
    size, out = s.shapes[0][2:], s.sizes[2:]
    if any(n % m for n, m in zip(size, out, strict=True)):
        return None
    each = [n // m for n, m in zip(size, out, strict=True)]
    return {"kernel_shape": each, "strides": each}


@emits("max_pool2d")
def max_pool2d(s):
    if s.p("adaptive"):
        attributes = _even_windows(s)
        if attributes is None:
            raise ValueError(f"adaptive_max_pool2d of {s.shapes[0]} to {s.sizes}, whose windows differ in size")
        return s.put("MaxPool", [s.x(0)], **attributes)
    attributes, dilation, _ = _window(s)
    return s.put("MaxPool", [s.x(0)], **attributes, dilations=dilation)


@emits("avg_pool2d")
def avg_pool2d(s):
    if not s.p("adaptive"):
        attributes, _, lacking = _window(s)
        x, counts, pads = s.x(0), s.p("count_include_pad", 1), s.pads()
        if any(lacking) and counts:  # what the last windows lack counts never
            counts = 0
            if any(pads):
                x = s.w.node("Pad", [x, s.w.ints([0, 0, *pads[:2], 0, 0, *pads[2:]])])
                attributes["pads"] = [0, 0, *lacking]
        return s.put("AveragePool", [x], **attributes, count_include_pad=counts)
    if s.sizes[2:] == [1, 1]:
        return s.put("GlobalAveragePool", [s.x(0)])
    attributes = _even_windows(s)
    if attributes is not None:
        return s.put("AveragePool", [s.x(0)], **attributes)
    # Windows of different sizes: the mean over rows, then over columns, as products with constant matrices.
    rows, columns = (_mean_matrix(s.shapes[0][i], s.sizes[i]) for i in (2, 3))
    dtype = NUMPY[s.dtype]
    y = s.w.node("MatMul", [s.w.constant(rows.astype(dtype)), s.x(0)])
    return s.put("MatMul", [y, s.w.constant(np.ascontiguousarray(columns.T).astype(dtype))])


def _mean_matrix(n, m):
    matrix = np.zeros((m, n))
    for i in range(m):
        begin, end = i * n // m, -(-(i + 1) * n // m)
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix


@emits("batch_norm_infer")
def batch_norm_infer(s):
    if s.w.opset < 15:  # which has one type for data and weights
        return _in_float32(_batch_norm_infer)(s)
    return _batch_norm_infer(s)


def _batch_norm_infer(s):
    s.put("BatchNormalization", s.inputs[:5], epsilon=real(s.p("eps", 1e-5)))


@emits("batch_norm")
@_in_float32
def batch_norm(s):
    """By the statistics of the batch: for norms that keep no running ones."""
    w, axes = s.w, [i for i in range(len(s.sizes)) if i != 1]
    mean = w.reduce("ReduceMean", s.x(0), axes)
    centred = w.node("Sub", [s.x(0), mean])
    variance = w.reduce("ReduceMean", w.node("Mul", [centred, centred]), axes)
    deviation = w.node("Sqrt", [w.node("Add", [variance, s.number(real(s.p("eps", 1e-5)))])])
    _affine(s, w.node("Div", [centred, deviation]), s.inputs[1], s.inputs[2], len(s.sizes))


def _affine(s, y, gamma, beta, ndim):
    """y * gamma + beta with one of each per channel, as the step's output."""
    shape = [1, -1, *[1] * (ndim - 2)]
    gamma, beta = (s.w.node("Reshape", [t, s.w.ints(shape)]) for t in (gamma, beta))
    s.put("Add", [s.w.node("Mul", [y, gamma]), beta])


@emits("layer_norm")
@_in_float32
def layer_norm(s):
    inner, axis = s.p("inner"), len(s.sizes)
    size = 1
    while axis > 0 and size < inner:
        axis -= 1
        size *= s.sizes[axis]
    shape = s.sizes[axis:]
    ones, zeros = (np.full(shape, v, NUMPY[s.dtype]) for v in (1, 0))
    scale = s.x(1) if s.p("affine") else s.w.constant(ones)
    shift = s.x(2) if s.p("affine") else s.w.constant(zeros)
    eps = real(s.p("eps", 1e-5))
    if s.w.opset >= 17:
        s.put("LayerNormalization", [s.x(0), scale, shift], axis=axis, epsilon=eps)
        return
    w, axes = s.w, list(range(axis, len(s.sizes)))
    centred = w.node("Sub", [s.x(0), w.reduce("ReduceMean", s.x(0), axes)])
    variance = w.reduce("ReduceMean", w.node("Mul", [centred, centred]), axes)
    y = w.node("Div", [centred, w.node("Sqrt", [w.node("Add", [variance, s.number(eps)])])])
    s.put("Add", [w.node("Mul", [y, scale]), shift])


@emits("group_norm")
@_in_float32
def group_norm(s):
    groups, w, eps = s.p("groups", 1), s.w, real(s.p("eps", 1e-5))
    one, zero = (w.constant(np.full(groups, v, NUMPY[s.dtype])) for v in (1, 0))
    if groups == s.sizes[1] and len(s.sizes) > 2:
        scale, shift = (s.x(1), s.x(2)) if s.p("affine") else (one, zero)
        s.put("InstanceNormalization", [s.x(0), scale, shift], epsilon=eps)
        return
    y = w.node("Reshape", [s.x(0), w.ints([0, groups, -1])])
    y = w.node("InstanceNormalization", [y, one, zero], epsilon=eps)
    if not s.p("affine"):
        w.reshape(y, s.sizes, s.out)
    else:
        _affine(s, w.reshape(y, s.sizes), s.x(1), s.x(2), len(s.sizes))


# ---- activations -----------------------------------------------------------------------------------------

_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign", "selu": "Selu"}


@emits("activation")
def activation(s):
    act, w, x = s.p("act", "none"), s.w, s.x(0)
    alpha, beta = real(s.p("alpha")), real(s.p("beta"))
    if act in _PLAIN:
        s.put(_PLAIN[act], [x])
    elif act == "none":
        s.put("Identity", [x])
    elif act in ("relu6", "hardtanh"):
        low, high = (0, 6) if act == "relu6" else (alpha, beta)
        s.put("Clip", [x, s.number(low), s.number(high)])
    elif act in ("leaky_relu", "elu", "celu"):
        s.put({"leaky_relu": "LeakyRelu", "elu": "Elu", "celu": "Celu"}[act], [x], alpha=alpha)
    elif act == "silu":
        s.put("Mul", [x, w.node("Sigmoid", [x])])
    elif act == "hardsigmoid":
        s.put("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
    elif act == "hardswish":
        s.put("Mul", [x, w.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
    elif act == "softplus":
        _softplus(s, x, alpha, beta, s.out)
    elif act == "mish":
        s.put("Mul", [x, w.node("Tanh", [_softplus(s, x, 1.0, math.inf, None)])])
    elif act == "gelu":
        bell = w.node("Erf", [w.node("Div", [x, s.number(math.sqrt(2))])])
        s.put("Mul", [w.node("Mul", [x, s.number(0.5)]), w.node("Add", [bell, s.number(1)])])
    elif act == "gelu_tanh":
        cube = w.node("Mul", [w.node("Mul", [w.node("Mul", [x, x]), x]), s.number(0.044715)])
        inner = w.node("Mul", [w.node("Add", [x, cube]), s.number(math.sqrt(2 / math.pi))])
        bend = w.node("Add", [w.node("Tanh", [inner]), s.number(1)])
        s.put("Mul", [w.node("Mul", [x, s.number(0.5)]), bend])
    else:
        raise ValueError(f"activation {act}")


def _softplus(s, x, beta, threshold, output):
    """log(1 + exp(beta x)) / beta, and x where beta x is above the threshold: PyTorch's 20 changes no float32 digit."""
    w, cut = s.w, threshold < 20
    scaled = x if beta == 1 else w.node("Mul", [x, s.number(beta)])
    y = w.node("Softplus", [scaled], None if cut or beta != 1 else output)
    if beta != 1:
        y = w.node("Div", [y, s.number(beta)], None if cut else output)
    return w.node("Where", [w.node("Greater", [scaled, s.number(threshold)]), x, y], output) if cut else y


@emits("softmax", "log_softmax")
def softmax(s):
    sizes = s.sizes
    memory = [0, 2, 3, 1] if len(sizes) == 4 else list(range(len(sizes)))
    inner = s.p("inner")
    after = 1
    for axis in reversed(memory):
        if sizes[axis] == s.p("dim") and after == inner:
            return s.put("Softmax" if s.op == "softmax" else "LogSoftmax", [s.x(0)], axis=axis)
        after = None if after is None or is_free(sizes[axis]) else after * sizes[axis]
    raise ValueError(f"a softmax over the batch, of shape {sizes}")


# ---- element by element ----------------------------------------------------------------------------------

_UNARY = {
    "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "sign": "Sign",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sin": "Sin", "cos": "Cos", "atan": "Atan",
    "erf": "Erf",
    "logical_not": "Not", "isnan": "IsNaN", "isinf": "IsInf",
}  # fmt: skip


@emits("unary")
@_in_int32
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
@_in_int32
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
@_in_int32
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
@_in_int32
def argsort(s):
    s.w.top_k(s.x(0), s.w.shape([s.p("kept")]), s.out, axis=1, largest=s.p("descending"), sorted=1)


@emits("cumsum")
def cumsum(s):
    s.put("CumSum", [s.x(0), s.w.constant(np.int64(1))], reverse=s.p("reverse"))


# ---- products --------------------------------------------------------------------------------------------


@emits("matmul")
def matmul(s):
    a, b = s.x(0), s.x(1)
    bias = [s.x(2)] if s.p("has_bias") else []
    if len(s.shapes[0]) == 2 and len(s.shapes[1]) == 2:
        s.put("Gemm", [a, b, *bias], transA=s.p("trans_a") or None, transB=s.p("trans_b") or None)
        return
    a, b = (
        s.w.node("Transpose", [t], perm=[0, 2, 1] if len(shape) == 3 else [1, 0]) if s.p(f"trans_{letter}") else t
        for t, shape, letter in ((a, s.shapes[0], "a"), (b, s.shapes[1], "b"))
    )
    if bias:
        s.put("Add", [s.w.node("MatMul", [a, b]), *bias])
    else:
        s.put("MatMul", [a, b])


@emits("capsule_routing")
def capsule_routing(s):
    """Its rounds written out."""
    w, (n, _, _) = s.w, s.shapes[0]
    inputs, outputs, size, of = s.shapes[1]

    def squash(x):
        squared = w.reduce("ReduceSum", w.node("Mul", [x, x]), [2])
        root = w.node("Sqrt", [w.node("Add", [squared, s.number(1e-8)])])
        below = w.node("Mul", [w.node("Add", [squared, s.number(1)]), root])
        return w.node("Mul", [x, w.node("Div", [squared, below])])

    def times(factor):  # sizes that may depend on the batch
        a, b = line_of(n)
        return f"{a * factor}*N{b * factor:+d}" if a and b else f"{a * factor}*N" if a else b * factor

    weight = w.node("Transpose", [w.reshape(s.x(1), [inputs, outputs * size, of])], perm=[0, 2, 1])
    votes = w.node("MatMul", [w.node("Transpose", [s.x(0)], perm=[1, 0, 2]), weight])
    votes = w.node("Transpose", [w.reshape(votes, [inputs, times(outputs), size])], perm=[1, 0, 2])
    v = squash(w.node("Mul", [w.reduce("ReduceSum", votes, [1]), s.number(1 / outputs)]))
    logits = None
    for _ in range(1, s.p("iterations", 3)):
        agreement = w.node("MatMul", [votes, w.node("Transpose", [v], perm=[0, 2, 1])])
        agreement = w.reshape(agreement, [n, outputs, inputs])
        logits = agreement if logits is None else w.node("Add", [logits, agreement])
        shares = w.reshape(w.node("Softmax", [logits], axis=1), [times(outputs), 1, inputs])
        v = squash(w.node("MatMul", [shares, votes]))
    w.reshape(v, s.sizes, s.out)


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
