"""How windows, norms, activations and products of a traced graph become ONNX nodes."""

from __future__ import annotations

import math

import numpy as np

from ._emit import emits, in_float32, real
from ._writer import NUMPY, is_free, line_of

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
        return in_float32(_batch_norm_infer)(s)
    return _batch_norm_infer(s)


def _batch_norm_infer(s):
    s.put("BatchNormalization", s.inputs[:5], epsilon=real(s.p("eps", 1e-5)))


@emits("batch_norm")
@in_float32
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
@in_float32
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
@in_float32
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
