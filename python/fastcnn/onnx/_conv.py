"""Operators with windows over two or three spatial axes, and norms: Conv, ConvTranspose, pools, BatchNormalization, ...

Windows over one axis, of sequences (N, C, L), are those of images of one row.
"""

from __future__ import annotations

import math

import numpy as np

from ._file import Node
from ._registry import Call, axis_of, is_float, op, ops, rank_error, to_tensor


def _spatial(call, name, count, default):
    """Numbers of an attribute, one per spatial axis."""
    value = call.attr(name)
    return (default,) * count if value is None else _numbers(value, count, name)


def _numbers(value, count, name):
    if len(value) != count:
        raise ValueError(f"expected {count} numbers of {name}, got {value}")
    return tuple(value)


def _padding(call, size, kernel, stride, dilation):
    """(before, after) for each axis of a window over an image or volume of that size (Conv and pools)."""
    auto = call.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return tuple(pads)
    n = len(size)
    pads = (0,) * (2 * n) if auto == "VALID" else _spatial(call, "pads", 2 * n, 0)
    return tuple(zip(pads[:n], pads[n:], strict=True))


def _image(call):
    """x of an operator, and how many spatial axes it has."""
    x = call.tensor(0)
    if x.ndim not in (4, 5):
        raise ValueError(f"expected x (N, C, D, H, W), (N, C, H, W) or (N, C, L), got one of shape {x.shape}")
    return x, x.ndim - 2


def _of(name, axes):
    """The op of that name for images or volumes."""
    return getattr(ops, f"{name}{axes}d")


_OF_ONE_ROW = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}


def _also_1d(run):
    """run of images, and of sequences (N, C, L) as images (N, C, 1, L)."""

    def either(call):
        x, w = call.tensor(0), call.tensor(1)
        if x.ndim != 3:
            return run(call)
        attrs = {name: [_OF_ONE_ROW[name], *v] if name in _OF_ONE_ROW else v for name, v in call.node.attrs.items()}
        if "pads" in attrs:
            attrs["pads"] = [n for end in _numbers(attrs["pads"], 2, "pads") for n in (0, end)]
        if "output_shape" in attrs:
            attrs["output_shape"] = [1, attrs["output_shape"][-1]]
        values = [ops.unsqueeze(x, 2), None if w is None else ops.unsqueeze(w, 2), *call.values[2:]]
        return ops.squeeze(run(Call(call.module, Node(call.node.proto, attrs), values, call.opset)), 2)

    return either


def _idle_axis(call):
    """Of windows over three axes one along which they are single pixels, else None."""
    kernel, pads = call.attr("kernel_shape") or (), call.attr("pads") or [0] * 6
    if len(kernel) != 3 or len(pads) != 6:
        return None
    others = [call.attr(name) or [1] * 3 for name in ("strides", "dilations")]
    numbers = [kernel, *others, [a + 1 for a in pads[:3]], [b + 1 for b in pads[3:]]]
    return next((i for i in (0, 2, 1) if all(len(n) == 3 and n[i] == 1 for n in numbers)), None)


def _also_flat(run):
    """A pool of images, and of volumes (N, C, D, H, W) whose windows are flat: the idle axis goes among the channels,
    which are pooled each by itself (torch.onnx writes local_response_norm so)."""

    def either(call):
        x, idle = call.tensor(0), _idle_axis(call)
        if x.ndim != 5 or idle is None:
            return run(call)
        order = [0, 1, 2 + idle, *(2 + i for i in range(3) if i != idle)]
        n, c, size, h, w = (x.shape[i] for i in order)
        attrs = dict(call.node.attrs)
        for name in ("kernel_shape", "strides", "dilations", "pads"):
            if name in attrs:
                attrs[name] = [v for i, v in enumerate(attrs[name]) if i % 3 != idle]
        values = [ops.permute(x, order).reshape(n, c * size, h, w)]
        y = run(Call(call.module, Node(call.node.proto, attrs), values, call.opset))
        y = y.reshape(n, c, size, *y.shape[2:])
        return ops.permute(y, [order.index(i) for i in range(5)])

    return either


def _check_pool(call):
    return None if _idle_axis(call) is not None else _check_windows(call)


def _check_windows(call, most=3):
    size = call.attr("kernel_shape") or call.attr("strides") or call.attr("dilations")
    if size is not None and not 1 <= len(size) <= most:
        return f"{len(size)}-D windows"
    auto = call.attr("auto_pad", "NOTSET")
    return None if auto in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER") else f"auto_pad {auto!r}"


def _check_lp_pool(call):
    return None if _idle_axis(call) is not None else _check_windows(call, 2)


def _check_conv(call):
    refused = rank_error(call, 1, (3, 4, 5), "a convolution")
    return refused or _check_windows(call)


@op("Conv", params=(1, 2), check=_check_conv)
@_also_1d
def conv(call):
    (x, n), w = _image(call), call.tensor(1)
    stride, dilation = _spatial(call, "strides", n, 1), _spatial(call, "dilations", n, 1)
    padding = _padding(call, x.shape[2:], w.shape[2:], stride, dilation)
    return _of("conv", n)(x, w, call.tensor(2), stride, padding, dilation, call.attr("group", 1))


@op("ConvTranspose", params=(1, 2), check=_check_conv)
@_also_1d
def conv_transpose(call):
    (x, n), w, b = _image(call), call.tensor(1), call.tensor(2)
    stride, dilation = _spatial(call, "strides", n, 1), _spatial(call, "dilations", n, 1)
    extra, groups = _spatial(call, "output_padding", n, 0), call.attr("group", 1)
    full = [(m - 1) * s + d * (k - 1) + 1 for m, k, s, d in zip(x.shape[2:], w.shape[2:], stride, dilation)]
    auto, wanted = call.attr("auto_pad", "NOTSET"), call.attr("output_shape")
    if wanted is not None or auto.startswith("SAME"):
        wanted = wanted or [m * s for m, s in zip(x.shape[2:], stride)]
        pads = []
        for f, e, out in zip(full, extra, wanted[-n:]):
            total = f + e - out
            half = max(total, 0) // 2 if auto == "SAME_UPPER" else (max(total, 0) + 1) // 2
            pads.append((half, total - half))
    else:
        pads = _padding(call, x.shape[2:], w.shape[2:], stride, dilation)
    transposed = _of("conv_transpose", n)
    simple = all(b == e for b, e in pads) and all(e < max(s, d) for e, s, d in zip(extra, stride, dilation))
    if simple:
        return transposed(x, w, b, stride, tuple(p[0] for p in pads), extra, groups, dilation)
    # What ops.conv_transpose2d does not know is cut off or put on afterwards, before the bias.
    y = transposed(x, w, None, stride, 0, 0, groups, dilation)
    y = _pad(y, [(-before, e - after) for (before, after), e in zip(pads, extra, strict=True)])
    return y if b is None else y + b.reshape(1, -1, *[1] * n)


def _pool_sizes(call):
    x, n = _image(call)
    kernel = _spatial(call, "kernel_shape", n, 0)
    stride, dilation = _spatial(call, "strides", n, 1), _spatial(call, "dilations", n, 1)
    pads = _padding(call, x.shape[2:], kernel, stride, dilation)
    # auto_pad gives as many windows as the strides allow, ceil_mode or not.
    return x, kernel, stride, dilation, pads, bool(call.attr("ceil_mode", 0))


def _fits(pads, kernel):
    return all(a == b and a <= k // 2 for (a, b), k in zip(pads, kernel, strict=True))


def _pad(x, pads, value=0.0):
    sides = [n for both in reversed(pads) for n in both]
    return ops.pad(x, sides, "constant", value) if any(sides) else x


def _check_max_pool(call):
    if any(call.node.outputs[1:]):
        return "its second output, the indices"
    if call.attr("storage_order", 0):
        return "storage_order 1"
    return _check_pool(call)


@op("MaxPool", check=_check_max_pool)
@_also_flat
@_also_1d
def max_pool(call):
    x, kernel, stride, dilation, pads, ceil_mode = _pool_sizes(call)
    if not is_float(x):  # of 8 bits, which float32 holds exactly
        return ops.cast(_max_pool(ops.cast(x, "float32"), kernel, stride, dilation, pads, ceil_mode), x.dtype)
    return _max_pool(x, kernel, stride, dilation, pads, ceil_mode)


def _max_pool(x, kernel, stride, dilation, pads, ceil_mode):
    if _fits(pads, kernel):
        return _of("max_pool", x.ndim - 2)(x, kernel, stride, tuple(p[0] for p in pads), dilation, ceil_mode)
    # A window that would begin in the padding behind the image is none, so the last windows may be dropped again.
    y = _of("max_pool", x.ndim - 2)(_pad(x, pads, -math.inf), kernel, stride, 0, dilation, ceil_mode)
    return _without_late_windows(y, x, stride, pads) if ceil_mode else y


def _without_late_windows(y, x, stride, pads):
    for dim, s, (begin, _) in zip(range(2, x.ndim), stride, pads, strict=True):
        most = (x.shape[dim] + begin - 1) // s + 1
        if y.shape[dim] > most:
            y = ops.narrow(y, dim, 0, most)
    return y


def _with_last_windows(x, kernel, stride, dilation, pads):
    """pads with what the last windows of ceil_mode lack."""
    spans = [n + a + b - d * (k - 1) - 1 for n, k, d, (a, b) in zip(x.shape[2:], kernel, dilation, pads)]
    return [(a, b + -span % s) for span, s, (a, b) in zip(spans, stride, pads)]


def _sums(x, kernel, stride, dilation):
    """The sum of each window: a convolution with ones."""
    ones = ops.cast(to_tensor(np.ones((x.shape[1], 1, *kernel), np.float32), x.device), x.dtype)
    return _of("conv", x.ndim - 2)(x, ones, None, stride, 0, dilation, x.shape[1])


@op("AveragePool", check=_check_pool)
@_also_flat
@_also_1d
def average_pool(call):
    x, kernel, stride, dilation, pads, ceil_mode = _pool_sizes(call)
    count_pads, mean = bool(call.attr("count_include_pad", 0)), _of("avg_pool", x.ndim - 2)
    inside = to_tensor(np.ones((1, 1, *x.shape[2:]), np.float32), x.device)
    if any(d != 1 for d in dilation):
        wide = _with_last_windows(x, kernel, stride, dilation, pads) if ceil_mode else pads
        rest = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(pads, wide)]
        inside = _pad(_pad(inside, pads, float(count_pads)), rest)
        y = _sums(_pad(x, wide), kernel, stride, dilation)
        y = y / ops.cast(_sums(inside, kernel, stride, dilation), y.dtype)
        return _without_late_windows(y, x, stride, pads) if ceil_mode else y
    if _fits(pads, kernel):
        return mean(x, kernel, stride, tuple(p[0] for p in pads), ceil_mode, count_pads)
    y = mean(_pad(x, pads), kernel, stride, 0, ceil_mode)
    if not count_pads:
        y = y / ops.cast(mean(_pad(inside, pads), kernel, stride, 0, ceil_mode), y.dtype)
    return _without_late_windows(y, x, stride, pads) if ceil_mode else y


@op("LpPool", check=_check_lp_pool)
@_also_flat
@_also_1d
def lp_pool(call):
    x, kernel, stride, dilation, pads, ceil_mode = _pool_sizes(call)
    p = call.attr("p", 2)
    # What the last windows lack is zeros; ops.lp_pool2d would weigh them by what they have.
    wide = _with_last_windows(x, kernel, stride, dilation, pads) if ceil_mode else pads
    if any(d != 1 for d in dilation):
        y = _sums(_pad(abs(x), wide) ** p, kernel, stride, dilation) ** (1 / p)
    else:
        y = ops.lp_pool2d(_pad(abs(x), wide), p, kernel, stride, False)
    return _without_late_windows(y, x, stride, pads) if ceil_mode else y


@op("GlobalAveragePool")
def global_average_pool(call):
    x = call.tensor(0)
    if x.ndim == 4:
        return ops.adaptive_avg_pool2d(x, 1)
    return ops.mean(x, tuple(range(2, x.ndim)), True)


@op("GlobalMaxPool")
def global_max_pool(call):
    x = call.tensor(0)
    return ops.amax(x, tuple(range(2, x.ndim)), True)


@op("GlobalLpPool")
def global_lp_pool(call):
    x, p = call.tensor(0), call.attr("p", 2)
    return ops.sum(abs(x) ** p, tuple(range(2, x.ndim)), True) ** (1 / p)


# ---- norms -----------------------------------------------------------------------------------------------


def _check_batch_norm(call):
    return "outputs of statistics (an export in training mode)" if any(call.node.outputs[1:]) else None


@op("BatchNormalization", params=(1, 2), check=_check_batch_norm)
def batch_norm(call):
    """Running statistics in evaluation; in training those of the batch, and the running ones move. A file that says
    training_mode means the batch's in evaluation as well."""
    x, gamma, beta, mean, var = (call.tensor(i) for i in range(5))
    training = call.module.trains_batch_norms()
    if call.attr("training_mode", 0) and not training:
        training, mean, var = True, None, None
    momentum, epsilon = 1 - call.attr("momentum", 0.9), call.attr("epsilon", 1e-5)
    return ops.batch_norm(x, mean, var, gamma, beta, training, momentum, epsilon)


@op("InstanceNormalization", params=(1, 2))
def instance_norm(call):
    x, gamma, beta = (call.tensor(i) for i in range(3))
    image, epsilon = x if x.ndim == 4 else x.reshape(x.shape[0], x.shape[1], -1, 1), call.attr("epsilon", 1e-5)
    if math.prod(image.shape[2:]) == 1:  # refused by instance_norm, as a mistake in training
        return ops.group_norm(image, x.shape[1], gamma, beta, epsilon).reshape(x.shape)
    return ops.instance_norm(image, gamma, beta, epsilon).reshape(x.shape)


@op("LayerNormalization", params=(1, 2))
def layer_norm(call):
    x, gamma, beta = (call.tensor(i) for i in range(3))
    shape = x.shape[call.attr("axis", -1) :]
    gamma, beta = (None if t is None else ops.expand(t, shape) if t.shape != shape else t for t in (gamma, beta))
    eps = call.attr("epsilon", 1e-5)
    y = ops.layer_norm(x, shape, gamma, beta, eps)
    if len(call.node.outputs) == 1:
        return y
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return y, ops.mean(x, axes, True), ops.rsqrt(ops.var(x, axes, correction=0, keepdim=True) + eps)


@op("RMSNormalization", params=(1,))
def rms_norm(call):
    x, gamma = call.tensor(0), call.tensor(1)
    axes = tuple(range(axis_of(call.attr("axis", -1), x.ndim), x.ndim))
    return x * ops.rsqrt(ops.mean(ops.square(x), axes, True) + call.attr("epsilon", 1e-5)) * gamma


@op("GroupNormalization", params=(1, 2))
def group_norm(call):
    x, gamma, beta = (call.tensor(i) for i in range(3))
    groups = call.attr("num_groups")
    if call.opset < 21:  # one number per group, later one per channel
        each = x.shape[1] // groups
        gamma, beta = (t.reshape(-1, 1).expand(groups, each).reshape(-1) for t in (gamma, beta))
    return ops.group_norm(x, groups, gamma, beta, call.attr("epsilon", 1e-5))


@op("LRN")
def local_response_norm(call):
    x, size = call.tensor(0), call.attr("size")
    numbers = call.attr("alpha", 1e-4), call.attr("beta", 0.75), call.attr("bias", 1.0)
    if size % 2:
        return ops.local_response_norm(x, size, *numbers)
    # Windows of even length lean to the channels before in PyTorch's op, to those behind in ONNX.
    return ops.flip(ops.local_response_norm(ops.flip(x, (1,)), size, *numbers), (1,))


@op("LpNormalization")
def lp_normalization(call):
    x = call.tensor(0)
    length = ops.norm(x, float(call.attr("p", 2)), call.attr("axis", -1), True)
    return x / ops.where(ops.eq(length, 0), 1.0, length)


@op("MeanVarianceNormalization")
def mean_variance_normalization(call):
    x, axes = call.tensor(0), tuple(call.attr("axes", [0, 2, 3]))
    centred = x - ops.mean(x, axes, True)
    variance = ops.clamp(ops.mean(ops.square(centred), axes, True), 1e-30)  # a root of 0 has no gradient
    return centred / (ops.sqrt(variance) + 1e-9)
