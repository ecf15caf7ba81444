"""Rounds weights to int8 so that what rounding adds to the results of a layer on calibration data is small.

Rounding to nearest is right for inputs without structure. Neighbouring pixels are alike, so that the errors of a
filter's weights add up, most of all where the weights themselves cancel out; here the error of each weight is made up
for by the ones after it (GPTQ, Frantar et al. 2022). The ranges of activations are found elsewhere.
"""

from __future__ import annotations

import numpy as np

from ._ranges import run_graph

_MOST_INPUTS = 1300  # of one output; in larger layers errors average out, and the moments would take long
_FEW_INPUTS = 160  # of one output: depthwise and first layers, where the noise of weights is greatest
_SHARES = np.linspace(1, 0.6, 17)  # of the largest weight: scales tried in layers of few inputs
_POSITIONS = 64  # of each image, drawn at random; fewer of many images
_PLACES = 4096  # over all images, about
_DAMPING = 1e-2
_BLOCK = 64  # weights of one output between two updates of all that follow


def find_moments(graph, tensors, layers, batches):
    """{name of a layer: (G, K, K)}: mean over places of the products of the K inputs that an output of a group sees."""
    layers = [layer for layer in layers if 1 < layer.weights[0].size <= _MOST_INPUTS]
    sums, rows, rng = {}, {}, np.random.default_rng(0)
    positions = min(_POSITIONS, max(8, _PLACES // sum(len(batch[0]) for batch in batches)))
    for batch in batches:
        values = run_graph(graph, tensors, list(dict.fromkeys(layer.x for layer in layers)), batch)
        for layer in layers:
            x = _inputs_seen(layer, values[layer.x], positions, rng).transpose(1, 0, 2)
            found = np.matmul(x.transpose(0, 2, 1), x)
            sums[layer.name] = sums[layer.name] + found if layer.name in sums else found
            rows[layer.name] = rows.get(layer.name, 0) + x.shape[1]
    return {name: total / rows[name] for name, total in sums.items()}


def _inputs_seen(layer, x, positions, rng):
    """(R, G, K): what R outputs of each of the G groups see of x, in the order of weights (K = I/groups * kH * kW).

    positions: how many of each image are drawn.
    """
    if layer.flat:
        return x[:, None, :]
    p = {"sH": 1, "sW": 1, "dH": 1, "dW": 1, "pT": 0, "pB": 0, "pL": 0, "pR": 0, "groups": 1, **layer.params}
    n, channels = x.shape[:2]
    places = n * p["oH"] * p["oW"]
    some = np.arange(places) if p["oH"] * p["oW"] <= positions else rng.choice(places, n * positions, replace=False)
    image, row, column = np.unravel_index(some, (n, p["oH"], p["oW"]))
    x = np.pad(x, ((0, 0), (0, 0), (p["pT"], p["pB"]), (p["pL"], p["pR"])))
    rows = row[:, None] * p["sH"] + np.arange(p["kH"]) * p["dH"]
    columns = column[:, None] * p["sW"] + np.arange(p["kW"]) * p["dW"]
    seen = x[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (R, kH, kW, C)
    seen = seen.reshape(len(some), p["kH"], p["kW"], p["groups"], channels // p["groups"])
    return seen.transpose(0, 3, 4, 1, 2).reshape(len(some), p["groups"], -1)


def round_weights(weights, meets, moments, levels):
    """(q, scale): integers of at most `levels` in magnitude, (O, I, kH, kW), and (O,), with which q * scale / meets is
    near weights in the sense above.

    meets: (O, I, 1, 1) factors of inputs. moments: (G, K, K) of find_moments, or None: each to the nearest. Layers of
    few inputs get the scale of each output, between 0.6 and 1 of what the largest weight needs, whose error is least.
    """
    peak = np.abs(weights * meets).max(axis=(1, 2, 3))
    scale = np.where(peak > 0, peak, 1.0) / levels
    if moments is None:
        return np.rint(weights * meets / scale[:, None, None, None]), scale
    groups, k = moments.shape[:2]
    form = (groups, len(weights) // groups, k)
    moments, w = moments.astype(np.float64), weights.reshape(form)
    steps = scale.reshape(form[:2])[:, :, None] * np.broadcast_to(1 / meets, weights.shape).reshape(form)
    shares = _SHARES if k <= _FEW_INPUTS else _SHARES[:1]
    # All shares at once, as if they were so many times the outputs: (G, O/G * shares, K).
    tried = (steps[:, :, None, :] * shares[:, None]).reshape(groups, -1, k)
    wanted = np.repeat(w, len(shares), axis=1)
    q = _compensated(wanted, tried, moments, levels)
    error = q * tried - wanted
    noise = (np.matmul(error, moments) * error).sum(axis=2).reshape(*form[:2], len(shares))
    least = noise.argmin(axis=2)
    best = np.take_along_axis(q.reshape(*form[:2], len(shares), k), least[:, :, None, None], 2)
    return best.reshape(weights.shape), scale * shares[least].ravel()


def _compensated(w, s, moments, levels):
    """Integers for weights w (G, O/G, K) of steps s, one input after the other.

    With the moments as V V^T, V upper triangular, the noise of errors e is the square of V^T e, whose entry j holds
    e_0 to e_j alone: each weight is rounded from where it makes its entry zero. The factors of GPTQ, which come from
    the inverse of the moments, give the same integers (Chen et al. 2025), at several times the cost.
    """
    k = w.shape[2]
    diagonal = np.einsum("gkk->gk", moments)
    order = np.argsort(-diagonal, axis=1, kind="stable")  # what matters most first: the others make up for it
    h = moments[np.arange(len(order))[:, None, None], order[:, :, None], order[:, None, :]]
    h[:, np.arange(k), np.arange(k)] += _DAMPING * diagonal.mean(1, keepdims=True) + 1e-12
    v = np.linalg.cholesky(h[:, ::-1, ::-1])[:, ::-1, ::-1]
    # (G, K, K): row j has the shares of errors 0 to j - 1 in the weight j.
    passed = (v / np.einsum("gkk->gk", v)[:, None, :]).transpose(0, 2, 1).copy()
    w, s = (np.take_along_axis(a.transpose(0, 2, 1), order[:, :, None], 1) for a in (w, s))  # (G, K, O/G)
    q, errors = np.empty_like(w), np.empty_like(w)
    for first in range(0, k, _BLOCK):
        end = min(first + _BLOCK, k)
        target = w[:, first:end] + np.matmul(passed[:, first:end, :first], errors[:, :first])
        for j in range(first, end):
            if j > first:
                target[:, j - first] += np.matmul(passed[:, None, j, first:j], errors[:, first:j])[:, 0]
            step = s[:, j]
            rounded = np.rint(target[:, j - first] / step)
            q[:, j] = np.minimum(np.maximum(rounded, -levels), levels)
            errors[:, j] = w[:, j] - q[:, j] * step
    return np.take_along_axis(q, np.argsort(order, axis=1)[:, :, None], 1).transpose(0, 2, 1)
