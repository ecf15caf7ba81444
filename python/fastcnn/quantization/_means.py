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
    places = {result[1]: _place(result) for result in results}
    values = run_nodes(quantized, alive(quantized["nodes"], places.values()), tensors, list(places.values()), batch)
    return {result[1]: _as_floats(values[places[result[1]]].numpy(), result) for result in results}


def correct_means(graph, graph_tensors, quantized, tensors, results, batches):
    """Changes offsets in tensors: each channel of a layer's result gets the mean that it has in the float net.

    graph, graph_tensors: the float ones. results: as Converter.convert gives them.
    """
    some = batches[:: -(-len(batches) // _SLICES)]
    free = [result for result in results if result[0].act is None]
    wanted = [_means(run_graph(graph, graph_tensors, [r[1] for r in free], batch)) for batch in some]
    count = sum(len(batch[0]) for batch in some)
    walks = [_Walk(quantized, tensors, batch) for batch in some]
    for result in free:
        layer, name, scale, _, factors = result
        key = f"{layer.name}.offset"
        error = np.zeros(len(layer.bias))
        for batch, means, walk in zip(some, wanted, walks, strict=True):
            got = _as_floats(walk.to(_place(result), key).numpy(), result)
            error += len(batch[0]) / count * (means[name] - _means({name: got})[name])
        offset = tensors[key].numpy() + error / ((scale or 1.0) * factors)
        tensors[key] = _core.tensor(offset.astype(np.float32))


class _Walk:
    """Values of a graph on one batch, from its first nodes to its last: what is known is not computed again."""

    def __init__(self, graph, tensors, batch):
        self._graph, self._tensors, self._batch = graph, tensors, batch
        self._left, self._known = graph["nodes"], {}

    def to(self, place, key):
        """The value `place`. What depends on the tensor `key` is computed again next time."""
        nodes = alive(self._left, [place])
        again, depends = [], {key}
        for node in nodes:
            if depends.intersection(node["in"]):
                again.append(id(node))
                depends.update(out["name"] for out in node["out"])
        done = {id(node) for node in nodes} - set(again)
        self._left = [node for node in self._left if id(node) not in done]
        read = {n for node in self._left for n in node["in"]}
        kept = [o["name"] for node in nodes if id(node) in done for o in node["out"] if o["name"] in read]
        values = run_nodes(self._graph, nodes, self._tensors | self._known, [place, *kept], self._batch)
        found = values.pop(place)
        self._known = {n: t for n, t in (self._known | values).items() if n in read}
        return found


def _place(result):
    """The name of a layer's result in the quantised graph."""
    return result[1] if result[2] is None else f"{result[1]}.q"


def _as_floats(value, result):
    _, _, scale, zero, factors = result
    a = value.astype(np.float64)
    return a if scale is None else (a - zero) * scale * factors.reshape(-1, *[1] * (a.ndim - 2))


def run_nodes(graph, nodes, tensors, names, batch):
    """{name: Tensor} of results of some nodes of a graph; tensors hold what others have made, too."""
    outs = {out["name"]: out for node in nodes for out in node["out"] if "shape" in out}
    form = {**graph, "nodes": nodes} | {k: {n: o[k[:-1]] for n, o in outs.items()} for k in ("dtypes", "shapes")}
    read = {n for node in nodes for n in node["in"]}
    return run_graph(form, {n: t for n, t in tensors.items() if n in read}, names, batch, as_arrays=False)


def _means(values):
    """{name: (C,)} of values (N, C, ...)."""
    return {n: a.mean(axis=(0, *range(2, a.ndim)), dtype=np.float64) for n, a in values.items()}
