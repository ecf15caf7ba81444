"""Operators element by element, activations, reductions, products of matrices, and quantisation evaluated in floats."""

from __future__ import annotations

import math

import numpy as np

from .. import _core
from ._registry import axis_of, is_float, op, ops, same, to_tensor

# ---- element by element ----------------------------------------------------------------------------------


def _binary(names, function, **options):
    @op(names, **options)
    def run(call):
        return function(*call.pair())

    return run


_ARITHMETIC = {"Add": ops.add, "Sub": ops.sub, "Mul": ops.mul}
_COMPARISONS = {"Equal": ops.eq, "Greater": ops.gt, "GreaterOrEqual": ops.ge, "Less": ops.lt, "LessOrEqual": ops.le}
_LOGIC = {"And": ops.logical_and, "Or": ops.logical_or, "Xor": ops.logical_xor}
for _name, _function in _ARITHMETIC.items():
    _binary(_name, _function, params=(0, 1))
for _name, _function in {**_COMPARISONS, **_LOGIC}.items():
    _binary(_name, _function)


@op("Pow", params=(0, 1))
def power(call):
    """The exponent may be of another type; the result is of the base's."""
    y, base = ops.pow(*call.pair()), call.value(0)
    if isinstance(base, np.ndarray):  # constants that are no integers follow the data
        base = to_tensor(base) if base.dtype.kind in "iu" else y
    return y if y.dtype == base.dtype else ops.cast(y, base.dtype)


def _integer(v):
    return isinstance(v, int) if not isinstance(v, _core.Tensor) else not is_float(v)


@op("Div", params=(0, 1))
def div(call):
    a, b = call.pair()
    return _truncated(a, b) if _integer(a) and _integer(b) else ops.div(a, b)


def _truncated(a, b):
    """a / b of integers, towards zero; floor_divide goes down."""
    down, rest = ops.floor_divide(a, b), ops.remainder(a, b)
    return down + ops.cast(ops.logical_and(ops.ne(rest, 0), ops.lt(down, 0)), down.dtype)


@op("Mod")
def mod(call):
    a, b = call.tensor(0), call.operand(1)
    rest = ops.remainder(a, b)
    if not call.attr("fmod", 0):
        return rest
    # fmod has the sign of a, remainder that of b.
    wrong = ops.logical_and(ops.ne(rest, 0), ops.ne(ops.lt(rest, 0), ops.lt(a, 0)))
    return ops.where(wrong, rest - b, rest)


_UNARY = {
    "Abs": ops.abs, "Atan": ops.atan, "Ceil": ops.ceil, "Cos": ops.cos, "Erf": ops.erf, "Exp": ops.exp,
    "Floor": ops.floor,
    "Identity": lambda x: x, "IsNaN": ops.isnan, "Log": ops.log, "Neg": ops.neg, "Not": ops.logical_not,
    "Reciprocal": ops.reciprocal, "Relu": ops.relu, "Round": ops.round, "Sigmoid": ops.sigmoid, "Sign": ops.sign,
    "Sin": ops.sin, "Softsign": ops.softsign, "Sqrt": ops.sqrt, "Tanh": ops.tanh, "Mish": ops.mish,
    "HardSwish": ops.hardswish, "Softplus": lambda x: ops.softplus(x, 1.0, math.inf),
}  # fmt: skip


def _unary(name, function):
    @op(name, params="through" if name == "Identity" else ())
    def run(call):
        return function(call.tensor(0))


for _name, _function in _UNARY.items():
    _unary(_name, _function)


def _fold(function):
    def run(call):
        # Tensors first: numbers alone are no operands.
        operands = [call.operand(i) for i in range(len(call.values))]
        operands.sort(key=lambda v: not isinstance(v, _core.Tensor))
        result = operands[0]
        for v in operands[1:]:
            result = function(result, v)
        return result

    return run


op("Max")(_fold(ops.maximum))
op("Min")(_fold(ops.minimum))
op("Sum", params=(0, 1))(_fold(ops.add))
op("Mean")(lambda call: _fold(ops.add)(call) / len(call.values))


@op("Where")
def where(call):
    condition, a, b = call.tensor(0), call.tensor(1), call.tensor(2)
    return ops.where(condition, a, b)


@op("IsInf")
def is_inf(call):
    x, up, down = call.tensor(0), call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    found = ops.isinf(x)
    if not up:
        found = ops.logical_and(found, ops.lt(x, 0))
    return found if down else ops.logical_and(found, ops.gt(x, 0))


_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
           16: "bfloat16"}  # fmt: skip


def _check_cast(call):
    to = call.attr("to")
    return None if call.node.op == "CastLike" or to in _DTYPES else f"element type {to}"


@op("Cast", "CastLike", params="through", check=_check_cast)
def cast(call):
    x = call.tensor(0)
    like = call.value(1)
    like = to_tensor(like) if isinstance(like, np.ndarray) else like
    dtype = like.dtype if call.node.op == "CastLike" else _core.dtype(_DTYPES[call.attr("to")])
    return x if x.dtype == dtype else ops.cast(x, dtype)


# ---- activations -----------------------------------------------------------------------------------------


@op("LeakyRelu")
def leaky_relu(call):
    return ops.leaky_relu(call.tensor(0), call.attr("alpha", 0.01))


@op("Elu")
def elu(call):
    return ops.elu(call.tensor(0), call.attr("alpha", 1.0))


@op("Celu")
def celu(call):
    return ops.celu(call.tensor(0), call.attr("alpha", 1.0))


@op("Selu")
def selu(call):
    x, alpha, gamma = call.tensor(0), call.attr("alpha", 1.6732632), call.attr("gamma", 1.0507010)
    if same(alpha, 1.6732632423543772) and same(gamma, 1.0507009873554805):
        return ops.selu(x)
    return gamma * ops.elu(x, alpha)


@op("Gelu", check=lambda c: None if c.attr("approximate", "none") in ("none", "tanh") else "its approximation")
def gelu(call):
    return ops.gelu(call.tensor(0), call.attr("approximate", "none"))


@op("Swish")
def swish(call):
    x, alpha = call.tensor(0), call.attr("alpha", 1.0)
    return ops.silu(x) if alpha == 1 else x * ops.sigmoid(x * alpha)


@op("HardSigmoid")
def hard_sigmoid(call):
    x, alpha, beta = call.tensor(0), call.attr("alpha", 0.2), call.attr("beta", 0.5)
    if same(alpha, 1 / 6) and same(beta, 0.5):
        return ops.hardsigmoid(x)
    return ops.clamp(x * alpha + beta, 0.0, 1.0)


@op("ThresholdedRelu")
def thresholded_relu(call):
    x = call.tensor(0)
    return ops.where(ops.gt(x, call.attr("alpha", 1.0)), x, 0.0)


@op("Shrink")
def shrink(call):
    x, bias, limit = call.tensor(0), call.attr("bias", 0.0), call.attr("lambd", 0.5)
    return ops.where(ops.lt(x, -limit), x + bias, ops.where(ops.gt(x, limit), x - bias, 0.0))


@op("PRelu", params=(1,))
def prelu(call):
    x, slope = call.tensor(0), call.tensor(1)
    # One slope per channel is (C, 1, 1) or (1, C, 1, 1); (C,) goes along the last axis, as everywhere in ONNX.
    per_channel = (1,) * (x.ndim - slope.ndim) + tuple(slope.shape) == (1, *x.shape[1:2], *(1,) * (x.ndim - 2))
    if slope.numel() == 1 or per_channel:
        return ops.prelu(x, slope.reshape(-1))
    return ops.where(ops.lt(x, 0), x * slope, x)


@op("Clip")
def clip(call):
    x, bounds = call.tensor(0), (call.attr("min"), call.attr("max"))
    low, high = (call.operand(i) if call.has(i) else bound for i, bound in enumerate(bounds, 1))
    if low is None and high is None:
        return x
    numbers = not isinstance(low, _core.Tensor) and not isinstance(high, _core.Tensor)
    if numbers and low == 0 and high == 6 and is_float(x):
        return ops.relu6(x)
    return ops.clamp(x, low, high)


@op("Softmax", "LogSoftmax", "Hardmax")
def softmax(call):
    x, shape = call.tensor(0), call.tensor(0).shape
    axis = axis_of(call.attr("axis", -1 if call.opset >= 13 else 1), x.ndim)
    if call.opset < 13:  # over all axes from this one on
        x, axis = x.reshape(math.prod(shape[:axis]), -1), 1
    if call.node.op == "Hardmax":
        y = ops.cast(ops.eq(_positions(x, axis), ops.argmax(x, axis, True)), x.dtype)
    else:
        y = (ops.softmax if call.node.op == "Softmax" else ops.log_softmax)(x, axis)
    return y.reshape(shape)


def _positions(x, axis):
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return to_tensor(np.arange(x.shape[axis]).reshape(shape), x.device)


@op("Dropout", host=(1,), check=lambda c: "its second output, the mask" if any(c.node.outputs[1:]) else None)
def dropout(call):
    """Drops while the module trains, even where the file says that it is for inference."""
    x, p = call.tensor(0), call.scalar(1, call.attr("ratio", 0.5))
    return ops.dropout(x, p, True) if call.module.training and p > 0 else x


# ---- reductions ------------------------------------------------------------------------------------------


def _reduce(name, function, first_opset_with_operand):
    @op(name, host=(1,))
    def run(call):
        x = call.tensor(0)
        axes = call.ints(1) if call.opset >= first_opset_with_operand else call.attr("axes")
        if not axes and (x.ndim == 0 or call.attr("noop_with_empty_axes", 0)):
            y = function(ops.unsqueeze(x, -1), (x.ndim,), False)  # each element by itself: a square stays a square
        else:
            axes = tuple(sorted({axis_of(a, x.ndim) for a in axes or range(x.ndim)}))
            y = function(x, axes, bool(call.attr("keepdims", 1)))
        return y if y.dtype == x.dtype else ops.cast(y, x.dtype)


def _sum_exp(x, axes, keepdim):
    top = ops.amax(x, axes, True)
    top = ops.where(ops.isfinite(top), top, 0) if is_float(x) else top  # infinities less themselves are no numbers
    total = ops.log(ops.sum(ops.exp(x - top), axes, True)) + top
    return total if keepdim else ops.squeeze(total, axes)


def _mean(x, axes, keepdim):
    if is_float(x):
        return ops.mean(x, axes, keepdim)
    return _truncated(ops.sum(x, axes, keepdim), math.prod(x.shape[a] for a in axes))


_REDUCTIONS = {
    "ReduceMean": _mean, "ReduceMax": ops.amax, "ReduceMin": ops.amin, "ReduceProd": ops.prod,
    "ReduceSumSquare": lambda x, a, k: ops.sum(ops.square(x), a, k), "ReduceL1": lambda x, a, k: ops.sum(abs(x), a, k),
    "ReduceL2": lambda x, a, k: ops.sqrt(ops.sum(ops.square(x), a, k)), "ReduceLogSumExp": _sum_exp,
    "ReduceLogSum": lambda x, a, k: ops.log(ops.sum(x, a, k)),
}  # fmt: skip
_reduce("ReduceSum", ops.sum, 13)
for _name, _function in _REDUCTIONS.items():
    _reduce(_name, _function, 18)


@op("CumSum", host=(1,))
def cumulative_sum(call):
    x, axis = call.tensor(0), axis_of(int(call.scalar(1)), call.tensor(0).ndim)
    y = ops.flip(x, (axis,)) if call.attr("reverse", 0) else x
    if call.attr("exclusive", 0) and y.shape[axis]:  # a 0 in front: what was added cannot be taken away exactly
        y = ops.narrow(y, axis, 0, y.shape[axis] - 1)
        y = ops.pad(y, [*[0] * (2 * (x.ndim - 1 - axis)), 1, 0])
    y = ops.cumsum(y, axis)
    return ops.cast(ops.flip(y, (axis,)) if call.attr("reverse", 0) else y, x.dtype)


@op("ArgMax", "ArgMin")
def arg_extreme(call):
    x = call.tensor(0)
    axis, keepdim = axis_of(call.attr("axis", 0), x.ndim), bool(call.attr("keepdims", 1))
    find = ops.argmax if call.node.op == "ArgMax" else ops.argmin
    if not call.attr("select_last_index", 0):
        return find(x, axis, keepdim)
    return x.shape[axis] - 1 - find(ops.flip(x, (axis,)), axis, keepdim)


# ---- products --------------------------------------------------------------------------------------------


@op("MatMul", params=(0, 1))
def matmul(call):
    return ops.matmul(call.tensor(0), call.tensor(1))


@op("Gemm", params=(0, 1, 2))
def gemm(call):
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    a, b, c = call.tensor(0), call.tensor(1), call.tensor(2) if beta else None
    a = ops.transpose(a, 0, 1) if call.attr("transA", 0) else a
    weights = b if call.attr("transB", 0) else ops.transpose(b, 0, 1)
    if alpha == 1 and (c is None or (beta == 1 and c.ndim == 1 and c.shape[0] == weights.shape[0])):
        return ops.linear(a, weights, c)
    y = ops.linear(a, weights)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


@op("Einsum", params=(0, 1))
def einsum(call):
    return ops.einsum(call.attr("equation"), *(call.tensor(i) for i in range(len(call.node.inputs))))


# ---- quantisation: integers are held as floats, exactly ----------------------------------------------------

_RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767), "uint4": (0, 15),
           "int4": (-8, 7)}  # fmt: skip


def _check_quantize(call):
    if call.attr("block_size", 0):
        return "scales per block"
    if call.node.op != "QuantizeLinear":
        return None
    kind = _integers_of(call)
    return None if kind in _RANGES else f"integers of type {kind}"


def _integers_of(call):
    """The name of the integers that a QuantizeLinear makes."""
    zero = call.value(2)
    if isinstance(zero, np.ndarray):
        return zero.dtype.name
    names = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 21: "uint4", 22: "int4"}
    return names.get(call.attr("output_dtype", 0) or 2, "this")


def _per_axis(call, x):
    """(scale, zero point) for x: numbers, or tensors along the axis."""
    scale, zero = call.host(1), call.host(2)
    if scale.size == 1:
        return float(scale.reshape(-1)[0]), 0 if zero is None else int(zero.reshape(-1)[0])
    shape = [1] * x.ndim
    shape[axis_of(call.attr("axis", 1), x.ndim)] = -1
    zero = np.zeros_like(scale) if zero is None else zero
    return tuple(to_tensor(v.astype(np.float32).reshape(shape), x.device) for v in (scale, zero))


@op("QuantizeLinear", host=(1, 2), check=_check_quantize)
def quantize_linear(call):
    """Rounded and limited to the integers' range; the gradient passes straight through (Bengio et al. 2013)."""
    x = call.tensor(0)
    scale, zero = _per_axis(call, x)
    low, high = _RANGES[_integers_of(call)]
    inside = ops.clamp(x / scale + zero, low, high)
    rounded = ops.clamp(ops.round(x / scale) + zero, low, high)
    return inside + (rounded - inside).detach() if call.module.training else rounded


@op("DequantizeLinear", host=(1, 2), params="through", check=_check_quantize)
def dequantize_linear(call):
    x = call.tensor(0)
    x = x if is_float(x) else ops.cast(x, "float32")
    scale, zero = _per_axis(call, x)
    y = (x - zero) * scale
    kind = call.host(1).dtype.name  # floats of this type come out
    return ops.cast(y, kind) if kind in ("float16", "bfloat16") else y


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(call):
    """Integers of 0 to 255 for the values that there are, their scale and zero point; all three as floats."""
    x = call.tensor(0)
    low, high = ops.clamp(ops.min(x), None, 0.0), ops.clamp(ops.max(x), 0.0, None)
    scale = (high - low) / 255.0
    scale = ops.where(scale == 0, 1.0, scale)  # of zeros alone
    zero = ops.clamp(ops.round(-low / scale), 0, 255)
    return ops.clamp(ops.round(x / scale) + zero, 0, 255), scale, zero


@op("(less)")
def less_zero_point(call):
    """Integers less a zero point that depends on the data."""
    x, zero = (v if is_float(v) else ops.cast(v, "float32") for v in (call.tensor(0), call.tensor(1)))
    if zero.numel() != 1:
        raise ValueError(f"expected one zero point that depends on the data, got {zero.shape}")
    return x - ops.reshape(zero, ())
