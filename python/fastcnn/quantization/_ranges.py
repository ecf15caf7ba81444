"""Which range each value takes on calibration data, and the scale and zero that bytes get from it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from .. import _core
from .._modes import no_grad

_BINS = 4096


def run_graph(graph, tensors, names, inputs, *, as_arrays=True):
    """{name: array or Tensor} of inner values of a float or quantised graph on one batch of inputs."""
    outputs = [
        {"name": f"value_{i}", "tensor": n, "dtype": graph["dtypes"][n], "shape": graph["shapes"][n]}
        for i, n in enumerate(names)
    ]
    form = {k: graph[k] for k in ("inputs", "nodes", "batch")}
    function = _core.GraphFunction(json.dumps({**form, "outputs": outputs}), list(tensors.items()))
    with no_grad():
        results = function([x if isinstance(x, _core.Tensor) else _core.from_numpy(x) for x in inputs])
    return {n: t.numpy() if as_arrays else t for n, t in zip(names, results, strict=True)}


@dataclass
class Channels:
    """What the channels of a value (N, C, ...) are like on the calibration data; each (C,) float64."""

    mean: np.ndarray
    square: np.ndarray  # mean of squares
    low: np.ndarray
    high: np.ndarray


def find_channels(graph, tensors, names, batches):
    """{name: Channels} of values over all batches."""
    found, samples = {}, 0
    for batch in batches:
        samples += (count := len(batch[0]))
        for name, a in run_graph(graph, tensors, names, batch).items():
            others = (0, *range(2, a.ndim))
            mean, square = a.mean(axis=others, dtype=np.float64), np.square(a).mean(axis=others, dtype=np.float64)
            new = Channels(count * mean, count * square, a.min(axis=others), a.max(axis=others))
            old = found.get(name)
            if old is not None:
                new.mean, new.square = old.mean + new.mean, old.square + new.square
                new.low, new.high = np.minimum(old.low, new.low), np.maximum(old.high, new.high)
            found[name] = new
    for c in found.values():
        c.mean, c.square = c.mean / samples, c.square / samples
        c.low, c.high = c.low.astype(np.float64), c.high.astype(np.float64)
    return found


def find_ranges(graph, tensors, names, batches, method, percentile):
    """{name: (low, high)} over all batches; low <= 0 <= high.

    method: "minmax" takes the extremes; "percentile" cuts 100 - percentile per cent of the values off at each end,
    counted in 4096 bins between the extremes.
    Raises: ValueError where a value is not finite.
    """
    ranges = {n: (0.0, 0.0) for n in names}
    for batch in batches:
        for name, a in run_graph(graph, tensors, names, batch).items():
            low, high = float(a.min()), float(a.max())
            if not np.isfinite([low, high]).all():
                raise ValueError(f"quantize: the value {name!r} of the model is not finite on the calibration data")
            ranges[name] = min(ranges[name][0], low), max(ranges[name][1], high)
    if method == "minmax":
        return ranges
    counts = {n: np.zeros(_BINS, np.int64) for n in names}
    for batch in batches:
        for name, a in run_graph(graph, tensors, names, batch).items():
            if ranges[name][0] < ranges[name][1]:
                counts[name] += np.histogram(a, _BINS, ranges[name])[0]
    return {n: _cut(counts[n], *ranges[n], percentile / 100) for n in names}


def _cut(counts, low, high, share):
    total = counts.sum()
    if not total:
        return low, high
    below = np.cumsum(counts) / total
    width = (high - low) / _BINS
    first = int(np.searchsorted(below, 1 - share, "right"))  # bins before it hold less than the share cut off
    last = int(np.searchsorted(below, share, "left"))
    return min(0.0, low + first * width), max(0.0, low + (last + 1) * width)


def scale_and_zero(low, high):
    """Of uint8 for values in [low, high], which holds 0: 0 itself is exact."""
    scale = float(np.float32((high - low) / 255)) or 1.0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))
