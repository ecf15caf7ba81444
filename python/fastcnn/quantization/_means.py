"""The means of a quantised net's inner values, taken back to those of the float net (Nagel et al. 2019, section 4.2).

What rounding and cutting off add to a value is not zero in the mean, and layers behind it carry that on. Here the
offset of each layer without an activation is changed by as much, first layers first. Weights and scales stay.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from ._convert import alive
from ._ranges import run_graph

_SLICES = 4  # of the calibration data: means need no more


def run_results(quantized, tensors, results, batch):
    """{name: float64 array} of values of a quantised graph on one batch; results: as Converter.convert gives them."""
    places = {name: name if scale is None else f"{name}.q" for _, name, scale, _, _ in results}
    nodes = alive(quantized["nodes"], places.values())
    outs = [out for node in nodes for out in node["out"] if "shape" in out]
    form = {**quantized, "nodes": nodes}
    form |= {key: {out["name"]: out[key[:-1]] for out in outs} for key in ("dtypes", "shapes")}
    read = {n for node in nodes for n in node["in"]}
    values = run_graph(form, {n: t for n, t in tensors.items() if n in read}, list(places.values()), batch)
    found = {}
    for _, name, scale, zero, factors in results:
        a = values[places[name]].astype(np.float64)
        found[name] = a if scale is None else (a - zero) * scale * factors.reshape(-1, *[1] * (a.ndim - 2))
    return found


def correct_means(graph, graph_tensors, quantized, tensors, results, batches):
    """Changes offsets in tensors: each channel of a layer's result gets the mean that it has in the float net.

    graph, graph_tensors: the float ones. results: as Converter.convert gives them.
    """
    some = batches[:: -(-len(batches) // _SLICES)]
    free = [result for result in results if result[0].act is None]
    wanted = [_means(run_graph(graph, graph_tensors, [r[1] for r in free], batch)) for batch in some]
    count = sum(len(batch[0]) for batch in some)
    for layer, name, scale, zero, factors in free:
        error = np.zeros(len(layer.bias))
        for batch, means in zip(some, wanted, strict=True):
            got = run_results(quantized, tensors, [(layer, name, scale, zero, factors)], batch)
            error += len(batch[0]) / count * (means[name] - _means(got)[name])
        key = f"{layer.name}.offset"
        offset = tensors[key].numpy() + error / ((scale or 1.0) * factors)
        tensors[key] = _core.tensor(offset.astype(np.float32))


def _means(values):
    """{name: (C,)} of values (N, C, ...)."""
    return {n: a.mean(axis=(0, *range(2, a.ndim)), dtype=np.float64) for n, a in values.items()}
