"""A traced float graph becomes a quantised one: layers on bytes, and between them whatever can stay in bytes.

A value may exist as bytes, as floats or both; the node that needs the other form makes it. Bytes pass through max and
average pooling, sums, relu and relu6, concatenation, views and copies; everything else runs in float32.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from ._graph import VIEWS, GraphIndex, Layer
from ._ranges import scale_and_zero
from ._rounding import round_weights

_LEVELS = 127  # of int8 weights, symmetric
_LEAST_SHARE = 0.5  # of the levels that a channel gets: others than the calibration images may need more
_HEADROOM = 1.2  # of ranges that layers without an activation take, for the same reason
_MOST_DEPTH = (1 << 31) // (255 * 128)  # as kMostQuantizedDepth in params.h


class Converter:
    """Rewrites the nodes of one graph; see convert."""

    def __init__(self, index: GraphIndex, layers: list[Layer]):
        self.index, self.layers = index, layers
        self.at_end = {layer.last: layer for layer in layers}
        self.inside = {i for layer in layers for i in layer.nodes}
        self.starts = {(layer.x, min(layer.nodes)) for layer in layers}
        self._parent = {}
        for i, node in enumerate(index.nodes):
            if i not in self.inside and self._keeps_scale(node):
                for name in node["in"]:
                    self._join(name, node["out"][0]["name"])

    # ---- which values share a scale, and which are wanted as bytes ----

    def _keeps_scale(self, node):
        op = node["op"]
        if not node["in"] or self.index.dtypes.get(node["in"][0]) != "float32":  # none: numbers, as PReLU's zero
            return False
        copies = op == "unary" and not node.get("params") and node["out"][0].get("dtype") == "float32"
        zeros = op == "pad" and not node.get("params", {}).get("value")
        return op in ("max_pool2d", "cat", *VIEWS) or copies or zeros

    def root(self, name):
        """The value whose scale a value has: one for all that is concatenated, pooled for maxima or viewed."""
        while name in self._parent:
            name = self._parent[name]
        return name

    def _join(self, a, b):
        a, b = self.root(a), self.root(b)
        if a != b:
            self._parent[a] = b

    def _bytes_pass(self, node):
        """Can the node take and give bytes?"""
        if node["op"] == "max_pool2d":
            return node["out"][1]["name"] not in self.index.users  # nobody reads the places of maxima
        if node["op"] == "avg_pool2d":
            return True
        if any(self.index.constant(n) for n in node["in"]):
            return False
        return self._keeps_scale(node) or self.index.is_sum(node) or bool(self.index.relu_of(node))

    def wants_bytes(self, name):
        """Does a reader of the value take bytes?"""
        for i, _ in self.index.users.get(name, ()):
            if i in self.inside:
                return True
            node = self.index.nodes[i]
            if not self._bytes_pass(node):
                continue
            if self._keeps_scale(node) and node["op"] not in ("max_pool2d", "cat"):
                if self.wants_bytes(node["out"][0]["name"]):
                    return True
            else:
                return True
        return False

    def ranged(self):
        """Names of all values whose range may be needed."""
        names = []
        for layer in self.layers:
            names += [layer.x, layer.out, *([layer.residual] if layer.residual else [])]
        for i, node in enumerate(self.index.nodes):
            if i not in self.inside and self._bytes_pass(node):
                names += [*node["in"], node["out"][0]["name"]]
        return list(dict.fromkeys(n for n in names if self.index.dtypes.get(n) == "float32"))

    def between(self):
        """Names of the values that layers read or make."""
        names = [n for layer in self.layers for n in (layer.x, layer.out, layer.residual) if n]
        return [n for n in dict.fromkeys(names) if len(self.index.shapes[n]) >= 2]

    # ---- writing ----

    def _streams(self):
        """Lists of values that share the factors of their channels: what is summed with what; the others alone."""
        parent = {}

        def root(name):
            while name in parent:
                name = parent[name]
            return name

        for layer in self.layers:
            if layer.residual and root(layer.out) != root(layer.residual):
                parent[root(layer.out)] = root(layer.residual)
        streams = {}
        for name in {n for layer in self.layers for n in (layer.out, layer.residual) if n}:
            streams.setdefault(root(name), []).append(name)
        return list(streams.values())

    def _find_factors(self):
        """{name: (C,)}: by which each channel of a value is finer than the value's scale.

        Where a layer makes a value and layers alone read it, its channels may have scales of their own: the layer's
        multipliers and the readers' weights take them in (Nagel et al. 2019, Xiao et al. 2022). Weights of dense
        readers spread by that, so the factors get the power that is best for both. No channel gets less than half the
        range, and after relu6, which bounds all alike, each gets the whole: channels that some calibration images do
        not wake would be cut off in others.
        """
        found = {}
        for names in self._streams():
            if not all(self._scales_apart(name) for name in names):
                continue
            need = np.max([self._share(name) for name in names], axis=0)
            readers = [layer for layer in self.layers if layer.x in names]
            powers = np.linspace(0, 1, 5)
            noise = [sum(self._noise(layer, need**power) for layer in readers) for power in powers]
            factors = need ** powers[int(np.argmin(noise))]
            found |= dict.fromkeys(names, factors)
        return found

    def _scales_apart(self, name):
        """Does a layer make the value, and do none but layers read it?"""
        made = next((layer for layer in self.layers if layer.out == name), None)
        if made is not None and made.act == "relu6":
            return False
        reads = sum((layer.x == name) + (layer.residual == name) for layer in self.layers)
        alone = name not in self._parent and name not in self._parent.values() and name not in self.index.outputs
        return made is not None and not made.flat and alone and reads == len(self.index.users.get(name, ()))

    def _share(self, name):
        """(C,) part of the bytes on either side of zero that each channel of a value uses."""
        scale, zero = self._scales[name]
        of = self._channels[name]
        share = of.high / ((255 - zero) * scale) if zero < 255 else np.zeros_like(of.high)
        if zero:
            share = np.maximum(share, -of.low / (zero * scale))
        return np.clip(share, _LEAST_SHARE, 1)

    def _widen(self, ranges):
        """Ranges with room beyond what calibration images showed, where layers without an activation make a value."""
        free = {layer.out for layer in self.layers if layer.act is None}
        room = {name: _HEADROOM if name in free else 1.0 for name in ranges}
        return {name: (low * room[name], high * room[name]) for name, (low, high) in ranges.items()}

    def _find_shifts(self):
        """{name: (steps (C,), zeros (C,))}: inputs of the model whose channels have a scale and a zero of their own.

        Images of bytes, normalised, have another grid in each channel, and rounding to a common one adds as much noise
        as all layers do. So the channels are brought to bytes each in its own way where one layer alone reads them;
        padding comes before that, since its zeros are another byte in each channel.
        """
        found = {}
        for name in (i["name"] for i in self.index.graph["inputs"]):
            readers = [layer for layer in self.layers if layer.x == name]
            alone = len(readers) == len(self.index.users.get(name, ())) == 1 and not readers[0].flat
            if not alone or len(self.index.shapes[name]) != 4 or self.index.shapes[name][1] == 1:
                continue
            of, (low, high) = self._channels[name], self._limits_of[name]
            room = 0.1 * (high - low)  # an extreme that was cut off but is no outlier keeps the grid
            lows, highs = np.minimum(of.low, 0), np.maximum(of.high, 0)
            lows, highs = (np.clip(a, low - room, high + room) for a in (lows, highs))
            steps = np.where(highs > lows, highs - lows, 255) / 255
            found[name] = steps, -lows / steps
        return found

    def _meets(self, layer, factors):
        """(O, I/groups, 1, 1): the factors of the inputs that each weight of a layer meets."""
        groups = layer.params.get("groups", 1)
        o, i = layer.weights.shape[:2]
        return np.broadcast_to(factors.reshape(groups, 1, i), (groups, o // groups, i)).reshape(o, i, 1, 1)

    def _noise(self, layer, factors):
        """What rounding adds to the square of a layer's result, with these factors of its input's channels."""
        meets = self._meets(layer, factors)
        squares = self._meets(layer, self._channels[layer.x].square)
        of_x = np.square(layer.weights * meets * self._scales[layer.x][0]).sum()
        steps = np.abs(layer.weights * meets).max(axis=(1, 2, 3), keepdims=True) / _LEVELS / meets
        of_weights = (np.square(steps) * squares).sum() * layer.weights[0, 0].size
        return of_x + of_weights

    def convert(self, ranges, channels, moments):
        """(graph, {name: tensor}, [(layer, name of the result, scale, zero, factors)]).

        ranges, channels, moments: of find_ranges, find_channels and find_moments ({}: all to the nearest); the bias of
        a layer takes back by how much its rounded weights move the mean of its result (Nagel et al. 2019).
        """
        groups, ranges = {}, self._widen(ranges)
        for name, (low, high) in ranges.items():
            old = groups.get(self.root(name), (0.0, 0.0))
            groups[self.root(name)] = min(old[0], low), max(old[1], high)
        self._scales = {name: scale_and_zero(*groups[self.root(name)]) for name in ranges}
        self._channels, self._moments, self._limits_of = channels, moments, ranges
        self._finer, self._shifts = self._find_factors(), self._find_shifts()
        for name, (steps, zeros) in self._shifts.items():
            self._finer[name] = steps
            self._scales[name] = 1.0, int(np.rint(zeros.mean()))
        index = self.index
        self.nodes, self.new_tensors, self.results = [], {}, []
        self.floats = {i["name"] for i in index.graph["inputs"]} | set(index.tensors)
        self.bytes = {}
        for i, node in enumerate(index.nodes):
            if i in self.at_end:
                self._layer(self.at_end[i])
            elif i not in self.inside:
                self._other(node)
        for name in index.outputs:
            self._float(name)
        used = {n for node in self.nodes for n in node["in"]} | index.outputs
        tensors = {n: t for n, t in index.tensors.items() if n in used}
        graph = {k: index.graph[k] for k in ("inputs", "outputs", "batch")}
        return {**graph, "nodes": alive(self.nodes, index.outputs)}, {**tensors, **self.new_tensors}, self.results

    def _emit(self, op, inputs, name, dtype, shape, params):
        out = {"name": name, "dtype": dtype, "shape": shape}
        self.nodes.append({"op": op, "in": list(inputs), "out": [out], "params": dict(params)})

    def _float(self, name):
        """The name of a value in float32."""
        if name not in self.floats:
            scale, zero = self._scales[name]
            self._emit(
                "dequantize",
                [self.bytes[name]],
                name,
                "float32",
                self.index.shapes[name],
                {"scale": scale, "zero": zero},
            )
            self.floats.add(name)
        return name

    def _byte(self, name):
        """The name of a value as bytes."""
        if name not in self.bytes:
            (scale, zero), source, shape = self._scales[name], name, self.index.shapes[name]
            if name in self._shifts:
                (source, shape), (scale, zero) = self._shifted(name), (1.0, 0)
            self._emit("quantize", [source], f"{name}.q", "uint8", shape, {"scale": scale, "zero": zero})
            self.bytes[name] = f"{name}.q"
        return self.bytes[name]

    def _shifted(self, name):
        """(name, shape) of an input in units of its channels' steps, 0 to 255, with the padding of its reader."""
        steps, zeros = self._shifts[name]
        parts = {"weight": 1 / steps, "bias": zeros, "mean": np.zeros_like(steps), "var": np.ones_like(steps)}
        for key, value in parts.items():
            self.new_tensors[f"{name}.shift.{key}"] = _core.tensor(value.astype(np.float32))
        p = next(layer for layer in self.layers if layer.x == name).params
        top, bottom, left, right = (p.get(side, 0) for side in ("pT", "pB", "pL", "pR"))
        n, c, h, w = shape = self.index.shapes[name]
        source = name
        if top or bottom or left or right:
            n, c, h, w = shape = [n, c, h + top + bottom, w + left + right]
            source, sides = f"{name}.padded", {"before": [0, 0, top, left], "after": [0, 0, bottom, right]}
            self._emit("pad", [name], source, "float32", shape, sides)
        inputs = [source, *(f"{name}.shift.{key}" for key in parts)]
        rows = n * h * w if isinstance(n, int) else f"{h * w}*{n}"
        self._emit("batch_norm_infer", inputs, f"{name}.shifted", "float32", shape, {"rows": rows, "C": c, "eps": 0.0})
        return f"{name}.shifted", shape

    def _put_bytes(self, op, inputs, name, params, shape=None):
        self._emit(op, inputs, f"{name}.q", "uint8", shape or self.index.shapes[name], params)
        self.bytes[name] = f"{name}.q"

    def _limits(self, act, name):
        """low and high of bytes behind an activation."""
        scale, zero = self._scales[name]
        low = zero if act else 0
        return low, min(255, int(np.rint(6 / scale)) + zero) if act == "relu6" else 255

    def _layer(self, layer):
        x = self._byte(layer.x)
        x_scale, x_zero = self._scales[layer.x]
        as_bytes = self.wants_bytes(layer.out)
        scale, zero = self._scales[layer.out] if as_bytes else (1.0, 0)
        finer = self._finer.get(layer.out, np.ones(len(layer.bias)))
        real = layer.weights
        meets = self._meets(layer, self._finer.get(layer.x, np.ones(real.shape[1] * layer.params.get("groups", 1))))
        weights, w_scale = round_weights(real, meets, self._moments.get(layer.name), _LEVELS)
        steps = w_scale[:, None, None, None] / meets
        multiplier = x_scale * w_scale / (scale * finer)
        bias = layer.bias - self._mean_error(layer, weights * steps - real)
        if layer.x in self._shifts:
            off = (x_zero - self._shifts[layer.x][1]) * self._shifts[layer.x][0]
            bias = bias + (weights * steps * self._meets(layer, off)).sum(axis=(1, 2, 3))
        offset = bias / (scale * finer) + zero
        weights = weights.astype(np.int8)
        params = {**layer.params, "x_zero": x_zero}
        if layer.x in self._shifts:  # it is padded already
            params |= {"H": params["H"] + params.pop("pT", 0) + params.pop("pB", 0)}
            params |= {"W": params["W"] + params.pop("pL", 0) + params.pop("pR", 0)}
        inputs = [x, f"{layer.name}.weight_int8", f"{layer.name}.multiplier", f"{layer.name}.offset"]
        if layer.residual:
            r_scale, r_zero = self._scales[layer.residual]
            inputs.append(self._byte(layer.residual))
            params |= {"has_residual": 1, "residual_multiplier": r_scale / scale}
            offset = offset - r_zero * r_scale / scale  # both have the same factors
        for key, value in (("weight_int8", weights), ("multiplier", multiplier), ("offset", offset)):
            value = value if key == "weight_int8" else value.astype(np.float32)
            self.new_tensors[f"{layer.name}.{key}"] = _core.tensor(np.ascontiguousarray(value))
        if layer.flat:
            m, k = params["N"], params["C"]
            self._emit("reshape", [x], f"{layer.name}.x", "uint8", [m, k, 1, 1], {})
            inputs[0] = f"{layer.name}.x"
        shape = [params["N"], params["O"], params["oH"], params["oW"]]
        result = last = f"{layer.name}.y"
        if as_bytes:
            low, high = self._limits(layer.act, layer.out)
            high = 255 if layer.out in self._finer else high  # the range ends where relu6 does, or before
            self._emit("quantized_conv2d", inputs, result, "uint8", shape, {**params, "low": low, "high": high})
        else:
            self._emit("quantized_conv2d", inputs, result, "float32", shape, {**params, "high": 255})
            if layer.act:
                last = f"{layer.name}.act"
                self._emit("activation", [result], last, "float32", shape, {"act": layer.act})
        out_shape = self.index.shapes[layer.out]
        dtype = "uint8" if as_bytes else "float32"
        # Views give the value the name that its readers know.
        self._emit("reshape", [last], f"{layer.out}.q" if as_bytes else layer.out, dtype, out_shape, {})
        if as_bytes:
            self.bytes[layer.out] = f"{layer.out}.q"
        else:
            self.floats.add(layer.out)
        self.results.append((layer, layer.out, *((scale, zero) if as_bytes else (None, None)), finer))

    def _mean_error(self, layer, error):
        """(O,) mean of what an error of the weights adds to the result, borders aside."""
        groups = layer.params.get("groups", 1)
        x = self._channels[layer.x].mean.reshape(groups, -1)
        return np.einsum("goi,gi->go", error.sum(axis=(2, 3)).reshape(groups, -1, x.shape[1]), x).ravel()

    def _other(self, node):
        name = node["out"][0]["name"]
        ready = all(n in self.bytes for n in node["in"])
        if not (ready and self._bytes_pass(node)):
            for n in node["in"]:
                self._float(n)
            self.nodes.append(node)
            self.floats.update(o["name"] for o in node["out"])
            return
        inputs, params = [self.bytes[n] for n in node["in"]], node.get("params", {})
        scale, zero = self._scales[name]
        x_scale, x_zero = self._scales[node["in"][0]]
        if node["op"] == "max_pool2d":
            self._put_bytes("quantized_pool2d", inputs, name, {**params, "max": 1})
        elif node["op"] == "avg_pool2d":
            factors = {"x_zero": x_zero, "multiplier": x_scale / scale, "offset": float(zero)}
            self._put_bytes("quantized_pool2d", inputs, name, {**params, **factors})
        elif self.index.is_sum(node):
            b_scale, b_zero = self._scales[node["in"][1]]
            offset = zero - x_zero * x_scale / scale - b_zero * b_scale / scale
            factors = {"a_multiplier": x_scale / scale, "b_multiplier": b_scale / scale, "has_b": 1, "offset": offset}
            self._put_bytes("quantized_add", inputs, name, factors)
        elif act := self.index.relu_of(node):
            low, high = self._limits(act, name)
            offset = zero - x_zero * x_scale / scale
            factors = {"a_multiplier": x_scale / scale, "offset": offset, "low": low, "high": high}
            self._put_bytes("quantized_add", inputs, name, factors)
        else:  # the same bytes elsewhere
            self._put_bytes(node["op"], inputs, name, {**params, "value": zero} if node["op"] == "pad" else params)


def alive(nodes, names):
    """Nodes whose results are among names, or are read on the way there."""
    wanted, kept = set(names), []
    for node in reversed(nodes):
        if any(o["name"] in wanted for o in node["out"]):
            wanted.update(node["in"])
            kept.append(node)
    return kept[::-1]


def too_deep(layer):
    """Could the int32 sums of a layer overflow?"""
    return layer.weights[0].size > _MOST_DEPTH
