"""Operators that move and pick elements: Reshape, Transpose, Slice, Concat, Gather, Pad, Expand, DepthToSpace, ..."""

from __future__ import annotations

import math

import numpy as np

from ._registry import axis_of, op, ops, to_tensor


@op("Reshape", host=(1,), params="through")
def reshape(call):
    x, shape = call.tensor(0), call.ints(1)
    if not call.attr("allowzero", 0):
        if any(n == 0 and i >= x.ndim for i, n in enumerate(shape)):
            raise ValueError(f"a 0 in shape {shape} copies a size that x of shape {x.shape} does not have")
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return ops.reshape(x, shape)


@op("Flatten", params="through")
def flatten(call):
    x, axis = call.tensor(0), call.attr("axis", 1)
    axis = x.ndim if axis == x.ndim else axis_of(axis, x.ndim)
    return ops.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@op("Squeeze", host=(1,), params="through")
def squeeze(call):
    x, axes = call.tensor(0), call.ints(1, "axes")
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [axis_of(a, x.ndim) for a in axes]
    if any(x.shape[a] != 1 for a in axes):
        raise ValueError(f"expected axes {axes} of size 1, got x of shape {x.shape}")
    return ops.reshape(x, [n for i, n in enumerate(x.shape) if i not in axes])


@op("Unsqueeze", host=(1,), params="through")
def unsqueeze(call):
    x, axes = call.tensor(0), call.ints(1, "axes")
    ndim = x.ndim + len(axes)
    if len({axis_of(a, ndim) for a in axes}) != len(axes):
        raise ValueError(f"an axis of {axes} occurs twice")
    axes = {axis_of(a, ndim) for a in axes}
    sizes = iter(x.shape)
    return ops.reshape(x, [1 if i in axes else next(sizes) for i in range(ndim)])


@op("Transpose", params="through")
def transpose(call):
    x = call.tensor(0)
    return ops.permute(x, call.attr("perm") or list(range(x.ndim))[::-1])


@op("Concat", params="through")
def concat(call):
    tensors = [call.tensor(i) for i in range(len(call.values))]
    return ops.cat(tensors, axis_of(call.attr("axis"), tensors[0].ndim))


@op("Split", host=(1,), params="through")
def split(call):
    x, sizes = call.tensor(0), call.ints(1, "split")
    axis, parts = axis_of(call.attr("axis", 0), x.ndim), len(call.node.outputs)
    if sizes is None:
        each = -(-x.shape[axis] // parts)
        sizes = [min(each, max(x.shape[axis] - i * each, 0)) for i in range(parts)]
    if len(sizes) != parts or sum(sizes) != x.shape[axis] or min(sizes) < 0:
        raise ValueError(f"expected {parts} sizes that sum to {x.shape[axis]}, got {sizes} for x of shape {x.shape}")
    starts = [sum(sizes[:i]) for i in range(parts)]
    return tuple(ops.narrow(x, axis, at, n) for at, n in zip(starts, sizes, strict=True))


@op("Slice", host=(1, 2, 3, 4), params="through")
def slice_(call):
    x = call.tensor(0)
    starts, ends = call.ints(1, "starts"), call.ints(2, "ends")
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(axis, x.ndim)
        if step == 0:
            raise ValueError("a step of 0")
        size = x.shape[axis]
        # As in Python, but a start before the first element means the first one for steps backwards, too.
        begin, stop = (v + size if v < 0 else v for v in (start, end))
        if step > 0:
            begin, stop = min(max(begin, 0), size), min(max(stop, 0), size)
            x = ops.slice(x, axis, begin, max(stop, begin), step)
        else:
            begin, stop = min(max(begin, 0), size - 1), min(max(stop, -1), size - 1)
            x = _backwards(x, axis, len(range(begin, stop, step)), begin, step)
    return x


def _backwards(x, axis, count, begin, step):
    if count == 0:
        return ops.narrow(x, axis, 0, 0)
    last = begin + (count - 1) * step
    return ops.flip(ops.slice(x, axis, last, begin + 1, -step), (axis,))


@op("Expand", host=(1,), params="through")
def expand(call):
    x, shape = call.tensor(0), call.ints(1)
    if len(shape) > 32:  # NumPy's limit, far above that of tensors
        raise ValueError(f"a shape of {len(shape)} dimensions")
    return ops.expand(x, np.broadcast_shapes(x.shape, tuple(shape)))


@op("Tile", host=(1,))
def tile(call):
    x = call.tensor(0)
    for axis, times in enumerate(call.ints(1)):
        if times != 1:
            x = ops.cat([x] * times, axis) if times else ops.narrow(x, axis, 0, 0)
    return x


@op("Gather", params="through")
def gather(call):
    """Indices may be constants of any shape, or data of one axis."""
    x, axis = call.tensor(0), axis_of(call.attr("axis", 0), call.tensor(0).ndim)
    index = call.value(1)
    if isinstance(index, np.ndarray):
        if index.size and not (-x.shape[axis] <= index.min() and index.max() < x.shape[axis]):
            raise ValueError(f"indices {index.min()} to {index.max()} in an axis of {x.shape[axis]}")
        index = np.where(index < 0, index + x.shape[axis], index).astype(np.int64)
        if index.ndim == 0:
            return ops.select(x, axis, int(index))
        shape, flat = index.shape, to_tensor(index.reshape(-1), x.device)
    else:
        shape, flat = index.shape, ops.cast(index, "int64").reshape(-1)
    y = ops.index_select(x, axis, flat)
    return y if len(shape) == 1 else y.reshape(*x.shape[:axis], *shape, *x.shape[axis + 1 :])


@op("GatherElements")
def gather_elements(call):
    x, index = call.tensor(0), ops.cast(call.tensor(1), "int64")
    axis = axis_of(call.attr("axis", 0), x.ndim)
    return ops.gather(x, axis, ops.where(ops.lt(index, 0), index + x.shape[axis], index))


def _rows(x, index):
    """x as rows, one for each place that its first axes have; the rows that the last axis of index names; the rest of
    x's shape."""
    axes = index.shape[-1] if index.ndim else 0
    sizes, rest = x.shape[:axes], x.shape[axes:]
    if not 0 < axes <= x.ndim:
        raise ValueError(f"expected indices of 1 to {x.ndim} axes of x, got an array of shape {index.shape}")
    places = np.where(index < 0, index + np.asarray(sizes), index)
    if ((places < 0) | (places >= np.asarray(sizes))).any():
        raise ValueError(f"indices {index.min()} to {index.max()} of {axes} axes in x of shape {x.shape}")
    rows = np.ravel_multi_index(tuple(places.reshape(-1, axes).T), sizes)
    return x.reshape(math.prod(sizes), *rest), rows, rest


@op("GatherND", host=(1,), check=lambda c: "batch_dims" if c.attr("batch_dims", 0) else None)
def gather_nd(call):
    index = call.host(1)
    x, rows, rest = _rows(call.tensor(0), index)
    return ops.index_select(x, 0, to_tensor(rows, x.device)).reshape(*index.shape[:-1], *rest)


@op("ScatterND", host=(1,), check=lambda c: "reduction" if c.attr("reduction", "none") != "none" else None)
def scatter_nd(call):
    """Each row is picked from x or from the updates behind it."""
    shape = call.tensor(0).shape
    x, rows, rest = _rows(call.tensor(0), call.host(1))
    source = np.arange(x.shape[0])
    source[rows] = x.shape[0] + np.arange(len(rows))
    both = ops.cat([x, call.tensor(2).reshape(len(rows), *rest)], 0)
    return ops.index_select(both, 0, to_tensor(source, x.device)).reshape(shape)


@op("ScatterElements", host=(1,), check=lambda c: "reduction" if c.attr("reduction", "none") != "none" else None)
def scatter_elements(call):
    """Each element is picked from x or from the updates behind it."""
    x, index, updates = call.tensor(0), call.host(1), call.tensor(2)
    axis = axis_of(call.attr("axis", 0), x.ndim)
    size = x.shape[axis]
    if index.ndim != x.ndim or index.shape != tuple(updates.shape):
        raise ValueError(f"expected indices {index.shape} of the shape of updates {updates.shape}, in x of {x.shape}")
    if index.size and not (-size <= index.min() and index.max() < size):
        raise ValueError(f"indices {index.min()} to {index.max()} in an axis of {size}")
    places = np.indices(index.shape)
    places[axis] = np.where(index < 0, index + size, index)
    source = np.arange(x.numel())
    source[np.ravel_multi_index(tuple(places), x.shape).reshape(-1)] = x.numel() + np.arange(index.size)
    both = ops.cat([x.reshape(-1), updates.reshape(-1)], 0)
    return ops.index_select(both, 0, to_tensor(source, x.device)).reshape(x.shape)


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _check_pad(call):
    mode = call.attr("mode", "constant")
    return None if mode in _PAD_MODES else f"mode {mode!r}"


@op("Pad", host=(1, 2, 3), check=_check_pad)
def pad(call):
    x, pads, axes = call.tensor(0), call.ints(1, "pads"), call.ints(3)
    axes = list(range(x.ndim)) if axes is None else [axis_of(a, x.ndim) for a in axes]
    if len(pads) != 2 * len(axes):
        raise ValueError(f"expected {2 * len(axes)} pads, got {pads} for x of shape {x.shape}")
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    mode = _PAD_MODES[call.attr("mode", "constant")]
    if mode != "constant":  # cropping first: other modes do not know it
        cut = [(min(a, 0), min(b, 0)) for a, b in zip(before, after)]
        if any(map(any, cut)):
            x = ops.pad(x, [n for pair in reversed(cut) for n in pair])
        before, after = [max(n, 0) for n in before], [max(n, 0) for n in after]
    last = max((i + 1 for i in range(x.ndim) if before[x.ndim - 1 - i] or after[x.ndim - 1 - i]), default=0)
    if last == 0:
        return x
    flat = [n for i in range(last) for n in (before[x.ndim - 1 - i], after[x.ndim - 1 - i])]
    return ops.pad(x, flat, mode, call.scalar(2, call.attr("value", 0.0)) if mode == "constant" else None)


def _check_blocks(call):
    mode = call.attr("mode", "DCR")
    return None if mode in ("DCR", "CRD") else f"mode {mode!r}"


@op("DepthToSpace", check=_check_blocks)
def depth_to_space(call):
    x, block = call.tensor(0), call.attr("blocksize")
    if call.attr("mode", "DCR") == "CRD":
        return ops.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    y = x.reshape(n, block, block, c // block**2, h, w)
    return ops.permute(y, (0, 3, 4, 1, 5, 2)).reshape(n, c // block**2, h * block, w * block)


@op("SpaceToDepth")
def space_to_depth(call):
    x, block = call.tensor(0), call.attr("blocksize")
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block)
    return ops.permute(y, (0, 3, 5, 1, 2, 4)).reshape(n, c * block**2, h // block, w // block)


@op("OneHot", host=(1, 2))
def one_hot(call):
    ids, depth = ops.cast(call.tensor(0), "int64"), int(call.scalar(1))
    off, on = call.host(2)
    ids = ops.where(ops.lt(ids, 0), ids + depth, ids)
    axis = axis_of(call.attr("axis", -1), ids.ndim + 1)
    shape = [1] * (ids.ndim + 1)
    shape[axis] = depth
    hit = ops.eq(ops.unsqueeze(ids, axis), to_tensor(np.arange(depth).reshape(shape), ids.device))
    return ops.where(hit, to_tensor(np.asarray(on), ids.device), to_tensor(np.asarray(off), ids.device))


@op("TopK", host=(1,))
def top_k(call):
    x, k = call.tensor(0), call.scalar(1, call.attr("k"))
    return ops.topk(x, int(k), axis_of(call.attr("axis", -1), x.ndim), bool(call.attr("largest", 1)))


@op("Trilu", host=(1,))
def trilu(call):
    x, k = call.tensor(0), call.scalar(1, 0)
    rows, columns = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
    kept = columns - rows >= k if call.attr("upper", 1) else columns - rows <= k
    kept = to_tensor(kept, x.device)
    return ops.logical_and(x, kept) if str(x.dtype) == "bool" else ops.where(kept, x, 0)
