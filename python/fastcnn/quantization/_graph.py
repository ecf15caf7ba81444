"""Plain dicts of a traced graph (docs/embed.md) to walk: who makes and reads a value, and which nodes are one layer.

A layer is a convolution or matrix product with constant weights, or a batch norm that stands alone, with all that is
computed in the same pass: a batch norm behind it, the sum with another value, relu or relu6. Nothing here runs a graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

VIEWS = ("reshape", "permute", "slice")
_RELUS = ("relu", "relu6")


class GraphIndex:
    """A traced graph with its tensors: shapes, makers and readers of values by name."""

    def __init__(self, graph, tensors):
        self.graph, self.tensors, self.nodes = graph, tensors, graph["nodes"]
        self.shapes = {i["name"]: i["shape"] for i in graph["inputs"]}
        self.dtypes = {i["name"]: i["dtype"] for i in graph["inputs"]}
        self.users, self.outputs = {}, {o["tensor"] for o in graph["outputs"]}
        for i, node in enumerate(self.nodes):
            for slot, name in enumerate(node["in"]):
                self.users.setdefault(name, []).append((i, slot))
            for out in node["out"]:
                if "shape" in out:
                    self.shapes[out["name"]], self.dtypes[out["name"]] = out["shape"], out["dtype"]

    def constant(self, name):
        return name in self.tensors

    def array(self, name):
        return self.tensors[name].detach().numpy().astype(np.float64)

    def only_user(self, name):
        """(node index, slot) of the one reader of a value that nobody else wants, else None."""
        users = self.users.get(name, ())
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def is_sum(self, node):
        """Is it the sum of two values of one shape?"""
        return (
            node["op"] == "binary"
            and node.get("params", {}).get("op", "add") == "add"
            and not any(self.constant(n) for n in node["in"])
            and self.shapes[node["in"][0]] == self.shapes[node["in"][1]]
            and self.dtypes[node["out"][0]["name"]] == "float32"
        )

    @staticmethod
    def relu_of(node):
        act = node.get("params", {}).get("act") if node["op"] == "activation" else None
        return act if act in _RELUS else None


@dataclass
class Layer:
    """Nodes that become one quantized_conv2d. weights (O, I/groups, kH, kW) and bias (O,) float64, norms folded."""

    name: str
    op: str
    x: str
    out: str
    params: dict
    weights: np.ndarray
    bias: np.ndarray
    last: int
    nodes: set = field(default_factory=set)
    residual: str | None = None
    act: str | None = None
    flat: bool = False  # a matrix product: x and out are (M, K) and (M, O)


def find_layers(index, skip):
    """([Layer], {name: why it stays float}) in the order of the graph. skip(name): is the layer to stay float?"""
    layers, floats, taken, seen = [], {}, set(), {}
    for i, node in enumerate(index.nodes):
        if i in taken or node["op"] not in ("conv2d", "matmul", "batch_norm_infer", "conv2d_bwd_data"):
            continue
        scope = _name_of(index, node, i)
        count = seen[scope] = seen.get(scope, 0) + 1
        name = scope if count == 1 else f"{scope}#{count}"  # a layer that is called again, or two in one scope
        made = _start(index, node, i, name)
        if isinstance(made, str) or skip(scope) or skip(name):
            floats[name] = made if isinstance(made, str) else "skipped"
            taken |= _norm_behind(index, node)
            continue
        _extend(index, made, taken)
        taken |= made.nodes
        layers.append(made)
    return layers, floats


def _norm_behind(index, node):
    """The batch norm of a layer that stays float: it is no layer of its own."""
    use = index.only_user(node["out"][0]["name"])
    return {use[0]} if use and index.nodes[use[0]]["op"] == "batch_norm_infer" else set()


def _name_of(index, node, i):
    weight = next((n for n in node["in"][1:] if index.constant(n)), None)
    return weight.rpartition(".")[0] or weight if weight else f"{node['op']}.{i}"


def _start(index, node, i, name):
    """The layer that begins at a node, or why there is none."""
    params, x, out = node.get("params", {}), node["in"][0], node["out"][0]["name"]
    if node["op"] == "conv2d_bwd_data":
        return "transposed convolution"
    if index.dtypes.get(x) != "float32":
        return f"its input is {index.dtypes.get(x, 'a constant')}"
    if not all(index.constant(n) for n in node["in"][1:]):
        return "its weights are computed"
    if node["op"] == "conv2d":
        w = index.array(node["in"][1])
        bias = index.array(node["in"][2]) if params.get("has_bias") else np.zeros(w.shape[0])
        kept = {k: v for k, v in params.items() if k != "has_bias"}
        return Layer(name, "conv2d", x, out, kept, w, bias, i, {i})
    if node["op"] == "matmul":
        w = index.array(node["in"][1])
        if w.ndim != 2 or len(index.shapes[x]) != 2 or params.get("trans_a"):
            return "a product of stacks of matrices"
        w = (w if params.get("trans_b") else w.T)[:, :, None, None]
        bias = index.array(node["in"][2]) if params.get("has_bias") else np.zeros(w.shape[0])
        size = {"N": params["M"], "C": w.shape[1], "O": w.shape[0]}
        ones = dict.fromkeys(("H", "W", "kH", "kW", "oH", "oW"), 1)
        return Layer(name, "linear", x, out, {**size, **ones}, w, bias, i, {i}, flat=True)
    shape = index.shapes[x]
    if len(shape) != 4:
        return "a batch norm of vectors"
    n, c, h, w = shape
    params = {"N": n, "C": c, "H": h, "W": w, "O": c, "kH": 1, "kW": 1, "oH": h, "oW": w, "groups": c}
    layer = Layer(name, "batch_norm", x, out, params, np.ones((c, 1, 1, 1)), np.zeros(c), i, {i})
    _fold_norm(index, layer, node)
    return layer


def _fold_norm(index, layer, node):
    gamma, beta, mean, var = (index.array(n) for n in node["in"][1:5])
    name = node["in"][3].rpartition(".")[0]
    if not mean.any() and (var == 1).all():
        raise ValueError(
            f"quantize: batch norm {name!r} has never seen data (running mean 0, running variance 1): train the model "
            "first, or load its weights"
        )
    scale = gamma / np.sqrt(var + node.get("params", {}).get("eps", 1e-5))
    layer.weights = layer.weights * scale[:, None, None, None]
    layer.bias = (layer.bias - mean) * scale + beta


def _extend(index, layer, taken):
    """Takes in what follows as long as nobody else reads what lies between."""
    while (use := index.only_user(layer.out)) is not None and use[0] not in taken:
        i, slot = use
        node = index.nodes[i]
        constants = all(index.constant(n) for n in node["in"][1:])
        plain = layer.act is layer.residual is None
        if node["op"] == "batch_norm_infer" and slot == 0 and constants and plain:
            _fold_norm(index, layer, node)
        elif (
            layer.act is layer.residual is None and not layer.flat and index.is_sum(node) and len(set(node["in"])) == 2
        ):
            layer.residual = node["in"][1 - slot]
        elif layer.act is None and index.relu_of(node):
            layer.act = index.relu_of(node)
        else:
            return
        layer.nodes.add(i)
        layer.last, layer.out = max(layer.last, i), node["out"][0]["name"]
