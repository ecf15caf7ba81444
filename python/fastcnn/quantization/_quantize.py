"""fc.quantize: from a trained Module and calibration data to a QuantizedModel with a report of each layer."""

from __future__ import annotations

from fnmatch import fnmatchcase
from numbers import Real

import numpy as np

from .. import _core
from .._graph import trace_graph
from ..nn import Module
from ._budget import Statistics, choose_float_layers, convert
from ._convert import too_deep
from ._graph import GraphIndex, find_layers
from ._means import run_results
from ._model import QuantizedModel
from ._ranges import run_graph

_SLICE = 8  # samples whose inner values are held at a time


def quantize(
    model, calibration_data, *, method="percentile", percentile=99.999, rounding="calibrated", skip=(), min_sqnr_db=None
):
    """An int8 model for inference on the CPU out of a trained float32 one, which stays as it is.

    Weights: int8, symmetric, one scale for each output channel; batch norms are folded in first. Activations: uint8,
    one scale and zero for each tensor, from the ranges that the calibration data gives (Jacob et al. 2018). Sums are
    int32; relu, relu6 and residual sums come before the rounding. Pooling, sums, relu and concatenation stay in bytes;
    all other ops run in float32, and the result of the last layer is float32.
    Args: model: a Module in float32, as it is in eval mode. calibration_data: batches (N, C, H, W) float32 as the model
    takes them, or (images, labels) pairs, of which the first is taken; a list, a DataLoader or one array; 100 images
    are often enough. method: "percentile" leaves out 100 - percentile per cent of the values at each end, "minmax"
    nothing. rounding: "calibrated" chooses between the two neighbours of a weight by what that does to the layer's
    results on the data (GPTQ, Frantar et al. 2022), where an output has up to 1300 inputs; "nearest" looks at the
    weight alone. Either way biases take back by how much a layer's result has moved in the mean (Nagel et al. 2019).
    skip: names of layers that stay float32, with * and ?, as in the report. min_sqnr_db: the least signal-to-noise
    ratio of the model's results against the float model, in decibels: the layers whose rounding adds most for what
    they cost stay float32 until half of the calibration batches (of 8 images), with ranges from the other half, reach
    it; None: all layers that can be are int8. 31 names 97 % of photographs alike (docs/api/quantization.md).
    Returns: a QuantizedModel. Its report has for each layer {"name", "op", "scale", "zero", "sqnr_db"} of its result:
    the signal-to-noise ratio against the float model on the first batch, with all layers before it quantised too.
    Raises: TypeError for what is no Module or no array; ValueError for no data, for batch norms that never saw data,
    for values that are not finite, for names in skip that match nothing, for a min_sqnr_db that is not above 0 or that
    no int8 layer leaves room for, and where nothing can be quantised.
    """
    if not isinstance(model, Module):
        raise TypeError(f"quantize: expected a Module, got {type(model).__name__}")
    if method not in ("percentile", "minmax"):
        raise ValueError(f"quantize: expected method 'percentile' or 'minmax', got {method!r}")
    if rounding not in ("calibrated", "nearest"):
        raise ValueError(f"quantize: expected rounding 'calibrated' or 'nearest', got {rounding!r}")
    if not 50 < percentile <= 100:
        raise ValueError(f"quantize: expected percentile in (50, 100], got {percentile}")
    if min_sqnr_db is not None and not isinstance(min_sqnr_db, Real):
        raise TypeError(f"quantize: expected min_sqnr_db as a number or None, got {type(min_sqnr_db).__name__}")
    if min_sqnr_db is not None and not 0 < min_sqnr_db < np.inf:
        raise ValueError(f"quantize: expected min_sqnr_db above 0 decibels or None, got {min_sqnr_db}")
    batches = _batches(calibration_data)
    graph = trace_graph(model, batches[0])
    index = GraphIndex(graph, graph["tensors"])
    patterns = (skip,) if isinstance(skip, str) else tuple(skip)
    layers, floats = find_layers(index, lambda name: any(fnmatchcase(name, p) for p in patterns))
    _check_patterns(patterns, [layer.name for layer in layers], floats)
    floats |= {layer.name: "its sums could overflow int32" for layer in layers if too_deep(layer)}
    layers = [layer for layer in layers if layer.name not in floats]
    if not layers:
        reasons = "; ".join(f"{n}: {why}" for n, why in floats.items()) or "it has no convolution or linear layer"
        raise ValueError(f"quantize: no layer of the model can be quantised ({reasons})")
    form = {**graph, "shapes": index.shapes, "dtypes": index.dtypes}
    settings = (method, percentile, rounding)
    if min_sqnr_db is not None:
        costly = choose_float_layers(form, index, layers, batches, min_sqnr_db, *settings)
        floats |= dict.fromkeys(costly, f"its rounding would take the result below {min_sqnr_db:g} dB")
        layers = [layer for layer in layers if layer.name not in floats]
    statistics = Statistics(form, index, layers, batches, *settings)
    quantized, tensors, results = convert(form, index, layers, statistics, batches)
    report = _report(form, index.tensors, quantized, tensors, results, batches[0])
    return QuantizedModel(quantized, tensors, report, floats)


def _batches(data):
    """Lists of input arrays, at most _SLICE samples each."""
    if isinstance(data, (np.ndarray, _core.Tensor)):
        data = [data]
    batches = []
    for item in data:
        first = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(first, _core.Tensor):
            first = first.numpy()
        if not isinstance(first, np.ndarray):
            raise TypeError(f"quantize: expected calibration data of arrays or tensors, got {type(first).__name__}")
        if first.dtype != np.float32:
            raise TypeError(f"quantize: expected calibration data of float32, got {first.dtype}")
        batches += [[np.ascontiguousarray(first[i : i + _SLICE])] for i in range(0, len(first), _SLICE)]
    if not batches:
        raise ValueError("quantize: expected calibration data, got no samples")
    return batches


def _check_patterns(patterns, names, floats):
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in (*names, *floats)):
            known = ", ".join(names)
            raise ValueError(
                f"quantize: skip names {pattern!r}, which is no layer of the model; its layers are {known}"
            )


def _report(graph, graph_tensors, quantized, tensors, results, batch):
    names = [name for _, name, _, _, _ in results]
    wanted = run_graph(graph, graph_tensors, names, batch)
    got = run_results(quantized, tensors, results, batch)
    rows = []
    for layer, name, scale, zero, _ in results:
        a, b = wanted[name].astype(np.float64), got[name]
        noise = np.square(a - b).sum()
        ratio = 10 * np.log10(max(np.square(a).sum(), 1e-300) / max(noise, 1e-300))
        rows.append({"name": layer.name, "op": layer.op, "scale": scale, "zero": zero, "sqnr_db": float(ratio)})
    return rows
