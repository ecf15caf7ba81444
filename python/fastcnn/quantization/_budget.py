"""Which layers stay float32 so that the result of a net keeps a signal-to-noise ratio (fc.quantize, min_sqnr_db).

Noise of layers adds up, so each is quantised alone once, and those that add most for what they cost in float32 stay
out until the others are within the budget. Half of the data finds ranges and rounding, the other half judges: on the
data that it was made for a net is 1 to 3 dB better than elsewhere.
"""

from __future__ import annotations

import numpy as np

from ._convert import Converter, alive
from ._means import correct_means, run_nodes
from ._ranges import find_channels, find_ranges, run_graph
from ._rounding import find_moments

_JUDGES = 4  # batches
_PASS = 64  # multiplications in the time that a value takes to become bytes or floats


class Statistics:
    """What calibration data tells of the values of a graph."""

    def __init__(self, form, index, layers, batches, method, percentile, rounding, converters=()):
        ranged = dict.fromkeys(n for c in (Converter(index, layers), *converters) for n in c.ranged())
        between = Converter(index, layers).between()
        self.ranges = find_ranges(form, index.tensors, list(ranged), batches, method, percentile)
        self.channels = find_channels(form, index.tensors, between, batches)
        self.moments = find_moments(form, index.tensors, layers, batches) if rounding == "calibrated" else {}


def convert(form, index, layers, statistics, batches=()):
    """(graph, tensors, results) of a net whose `layers` are quantised; see Converter.convert.

    batches: on which the means of inner values are taken back to those of the float net; none: they stay as they are.
    """
    converter = Converter(index, layers)
    ranges = {name: statistics.ranges[name] for name in converter.ranged()}
    channels = {name: statistics.channels[name] for name in converter.between()}
    quantized, tensors, results = converter.convert(ranges, channels, statistics.moments)
    if batches:
        correct_means(form, index.tensors, quantized, tensors, results, batches)
    return quantized, tensors, results


def choose_float_layers(form, index, layers, batches, min_sqnr_db, *settings):
    """Names of the layers that stay float32; settings: as Statistics takes them.

    Raises: ValueError where even one layer in int8 is too many.
    """
    fit, judge = (batches[::2], batches[1::2][:_JUDGES]) if len(batches) > 1 else (batches, batches)
    statistics = Statistics(form, index, layers, fit, *settings, [Converter(index, [layer]) for layer in layers])
    judgement = _Judgement(form, index, judge)

    def noise(some, means):
        return judgement.noise(*convert(form, index, some, statistics, means)[:2])

    budget = 10 ** (-min_sqnr_db / 10)
    left, found = list(layers), noise(layers, fit)
    alone = {layer.name: noise([layer], ()) for layer in layers} if found > budget else {}
    while found > budget:
        share = found / max(sum(alone[layer.name] for layer in left), 1e-300)  # alone, a layer sees floats all around
        excess = found - budget
        for layer in sorted(left, key=lambda layer: alone[layer.name] / _cost(layer), reverse=True):
            left.remove(layer)
            excess -= share * alone[layer.name]
            if excess <= 0:
                break
        if not left:
            raise ValueError(
                f"quantize: min_sqnr_db {min_sqnr_db:g} is more than the model reaches with any of its layers in int8"
            )
        found = noise(left, fit)
    kept = {layer.name for layer in left}
    return [layer.name for layer in layers if layer.name not in kept]


def _cost(layer):
    """Multiplications that a layer costs, and the passes around it."""
    p = layer.params
    places = p.get("oH", 1) * p.get("oW", 1)
    inputs = layer.weights.shape[1] * p.get("groups", 1) * p.get("H", 1) * p.get("W", 1)
    return layer.weights.size * places + _PASS * (inputs + len(layer.bias) * places)


class _Judgement:
    """Noise in the results of a quantised graph, as a share of the squares of the float ones."""

    def __init__(self, form, index, batches):
        self._outputs, self._batches = sorted(index.outputs), batches
        self._wanted = [run_graph(form, index.tensors, self._outputs, batch) for batch in batches]

    def noise(self, quantized, tensors):
        nodes = alive(quantized["nodes"], self._outputs)
        signal = error = 0.0
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            got = run_nodes(quantized, nodes, tensors, self._outputs, batch)
            for name, want in wanted.items():
                want = want.astype(np.float64)
                signal += np.square(want).sum()
                error += np.square(got[name].numpy() - want).sum()
        return error / max(signal, 1e-300)
