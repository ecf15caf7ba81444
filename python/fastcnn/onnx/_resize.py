"""Resize, Upsample, GridSample: every coordinate rule for images, by fastcnn's interpolate where it has the same rule.

Other rules become a few taps per axis, picked with index_select and weighted, or with antialias one matrix per axis:
positions and weights depend on sizes alone and are made on the host. They follow ONNX Runtime, in float32 as there, so
that ties fall alike.
"""

from __future__ import annotations

import math

import numpy as np

from ._host import MOST_ELEMENTS
from ._registry import Call, is_float, op, ops, same, to_tensor

_RULES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_MODES = ("nearest", "linear", "cubic")


def _check(call):
    mode, rule = call.attr("mode", "nearest"), call.attr("coordinate_transformation_mode", "half_pixel")
    if mode not in _MODES:
        return f"mode {mode!r}"
    if rule not in (*_RULES, "tf_half_pixel_for_nn"):
        return f"coordinate_transformation_mode {rule!r}"
    if call.attr("antialias", 0) and mode == "nearest":
        return "antialias with mode 'nearest'"
    return None


@op("Upsample", "Resize", host=(1, 2, 3), check=_check)
def resize(call):
    x, old = call.tensor(0), call.node.op == "Upsample" or call.opset < 11
    if call.attr("mode", "nearest") == "linear" and not is_float(x):  # of integers the fraction is cut off
        exact = Call(call.module, call.node, [ops.cast(x, "float32"), *call.values[1:]], call.opset)
        return ops.cast(resize(exact), x.dtype)
    axes = call.attr("axes") or list(range(x.ndim))
    given = call.host(1 if old else 2, call.attr("scales"))
    scales = None if given is None or np.size(given) == 0 else [float(s) for s in np.reshape(given, -1)]
    sizes = None if scales is not None or old else call.ints(3)
    if (scales or sizes) is None or len(scales or sizes) != len(axes):
        raise ValueError(f"expected scales or sizes of {len(axes)} axes, got {scales or sizes}")
    if sizes is not None:
        if x.ndim > 2 and x.shape[0] > 1 and (0, 1) in zip(axes, sizes):  # would mix images or drop them
            raise ValueError(f"its sizes {sizes} are of one image, as the file was exported; got a batch {x.shape}")
        sizes, scales = _with_policy(call, x, axes, sizes)
    else:
        # In float32 as in ONNX Runtime: 10 * 0.7 is 7, though float32's 0.7 is less.
        sizes = [int(np.floor(np.float32(x.shape[a]) * np.float32(s))) for a, s in zip(axes, scales)]
    if max(sizes, default=0) > max(MOST_ELEMENTS, 16 * x.numel()):  # positions along an axis are made on the host
        raise MemoryError(f"an axis resized to {max(sizes)}")
    if any(n < 1 <= x.shape[a] for a, n in zip(axes, sizes)):
        raise ValueError(f"expected sizes and scales above 0, got sizes {sizes}, scales {scales}")
    rule = "asymmetric" if old else call.attr("coordinate_transformation_mode", "half_pixel")
    todo = [(a % x.ndim, n, s) for a, n, s in zip(axes, sizes, scales) if n != x.shape[a] or s != 1]
    if all(n == x.shape[a] for a, n, _ in todo):
        return x  # whatever the scales, as in ONNX Runtime and PyTorch
    fast = _by_interpolate(call, x, todo, rule)
    if fast is not None:
        return fast
    for axis, size, scale in todo:
        x = _along(call, x, axis, size, scale, rule)
    return x


def _with_policy(call, x, axes, sizes):
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    ratios = [n / x.shape[a] for a, n in zip(axes, sizes)]
    if policy == "stretch":
        return sizes, ratios
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [math.floor(ratio * x.shape[a] + 0.5) for a in axes], [ratio] * len(axes)


def _by_interpolate(call, x, todo, rule):
    """ops.interpolate where it computes the same, else None."""
    if x.ndim != 4 or not {a for a, _, _ in todo} <= {2, 3}:
        return None
    size, scale = list(x.shape[2:]), [1.0, 1.0]
    for axis, n, s in todo:
        size[axis - 2], scale[axis - 2] = n, s
    mode, antialias = call.attr("mode", "nearest"), bool(call.attr("antialias", 0))
    if mode == "nearest":
        for ours, position in (("nearest", 0.0), ("nearest-exact", 0.5)):
            alike = all(
                np.array_equal(
                    _nearest(call, x.shape[a], n, s, rule),
                    np.minimum(np.floor((np.arange(n) + position) * np.float64(x.shape[a] / n)), x.shape[a] - 1),
                )
                for a, n, s in todo
            )
            if alike:
                return ops.interpolate(x, size, mode=ours)
        return None
    if mode == "cubic" and not same(call.attr("cubic_coeff_a", -0.75), -0.5 if antialias else -0.75):
        return None
    if bool(call.attr("exclude_outside", 0)) != antialias:
        return None
    exact = all(same(s, n / x.shape[a]) for a, n, s in todo)
    if rule == "align_corners" and exact and not antialias:
        return ops.interpolate(x, size, mode=f"bi{mode}", align_corners=True)
    if rule != "half_pixel" and not (rule == "pytorch_half_pixel" and min(size) > 1):
        return None
    if exact:
        return ops.interpolate(x, size, mode=f"bi{mode}", align_corners=False, antialias=antialias)
    # An axis that keeps its size is left alone by interpolate, whatever its scale.
    if any(math.floor(n * s) != m or (n == m and s != 1) for n, s, m in zip(x.shape[2:], scale, size)):
        return None
    return ops.interpolate(x, scale_factor=tuple(scale), mode=f"bi{mode}", align_corners=False, antialias=antialias)


def _positions(n_in, n_out, scale, rule):
    """Where each output lies among the inputs (float32)."""
    i, scale, half = np.arange(n_out, dtype=np.float32), np.float32(scale), np.float32(0.5)
    if rule == "asymmetric":
        return i / scale
    if rule == "align_corners":
        return i * np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else 0 * i
    if rule == "tf_half_pixel_for_nn":
        return (i + half) / scale
    if rule == "pytorch_half_pixel" and n_out == 1:
        return 0 * i
    if rule == "half_pixel_symmetric":
        adjust = np.float32(n_out) / (scale * np.float32(n_in))
        return np.float32(n_in) / 2 * (1 - adjust) + (i + half) / scale - half
    return (i + half) / scale - half


# Adding a half first would round once more. What float32 puts beside a tie is one, as in ONNX Runtime: 2 / (4 / 7).
_TIE = np.float32(1e-6)
_ROUNDINGS = {
    "round_prefer_floor": lambda p: np.floor(p) + (p - np.floor(p) > np.float32(0.5) + _TIE),
    "round_prefer_ceil": lambda p: np.floor(p) + (p - np.floor(p) >= np.float32(0.5) - _TIE),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(call, n_in, n_out, scale, rule):
    # Upsample and Resize of opset 10 went down.
    default = "round_prefer_floor" if call.node.op == "Resize" and call.opset >= 11 else "floor"
    rounded = _ROUNDINGS[call.attr("nearest_mode", default)](_positions(n_in, n_out, scale, rule))
    return np.clip(rounded, 0, n_in - 1).astype(np.int64)


def _along(call, x, axis, size, scale, rule):
    """One axis resized; only where interpolate knows no such rule."""
    n, mode = x.shape[axis], call.attr("mode", "nearest")
    if mode == "nearest":
        return ops.index_select(x, axis, to_tensor(_nearest(call, n, size, scale, rule), x.device))
    at = _positions(n, size, scale, rule).astype(np.float64)
    a, widen = call.attr("cubic_coeff_a", -0.75), 1.0
    if call.attr("antialias", 0):
        widen = max(1.0, 1 / scale)  # the kernel covers as many pixels as an output pixel does
    reach = math.ceil((1 if mode == "linear" else 2) * widen)
    base = np.floor(at)
    taps = {}
    for k in range(1 - reach, reach + 1):
        distance = np.abs(at - base - k) / widen
        taps[k] = np.maximum(1 - distance, 0) if mode == "linear" else _cubic(distance, a)
    if call.attr("exclude_outside", 0):
        taps = {k: np.where((base + k >= 0) & (base + k < n), w, 0.0) for k, w in taps.items()}
    total = sum(taps.values())
    taps = {k: (np.clip(base + k, 0, n - 1).astype(np.int64), w / total) for k, w in taps.items()}
    return _by_taps(x, axis, size, taps) if len(taps) <= 4 else _by_matrix(x, axis, size, taps)


def _by_taps(x, axis, size, taps):
    shape = [1] * x.ndim
    shape[axis] = size
    y = None
    for index, w in taps.values():
        part = ops.index_select(x, axis, to_tensor(index, x.device))
        part = part * ops.cast(to_tensor(w.astype(np.float32).reshape(shape), x.device), x.dtype)
        y = part if y is None else y + part
    return y


def _by_matrix(x, axis, size, taps):
    matrix = np.zeros((x.shape[axis], size))
    for index, w in taps.values():
        np.add.at(matrix, (index, np.arange(size)), w)
    matrix = ops.cast(to_tensor(matrix.astype(np.float32), x.device), x.dtype)
    y = ops.matmul(ops.transpose(x, axis, x.ndim - 1), matrix)
    return ops.transpose(y, axis, x.ndim - 1)


_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}  # names of opset 20 on


def _check_grid(call):
    mode, outside = call.attr("mode", "linear"), call.attr("padding_mode", "zeros")
    if _SAMPLING.get(mode, mode) not in ("bilinear", "nearest", "bicubic"):
        return f"mode {mode!r}"
    return None if outside in ("zeros", "border", "reflection") else f"padding_mode {outside!r}"


@op("GridSample", check=_check_grid)
def grid_sample(call):
    mode, outside = call.attr("mode", "linear"), call.attr("padding_mode", "zeros")
    corners = bool(call.attr("align_corners", 0))
    return ops.grid_sample(call.tensor(0), call.tensor(1), _SAMPLING.get(mode, mode), outside, corners)


def _cubic(d, a):
    """Keys' kernel (1981) with parameter a, at distances d."""
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
