"""OnnxModule: a graph from an ONNX file as a Module, and load, which makes one.

When a file is read, every constant becomes a weight (Parameter), a buffer, or an array for shape arithmetic. forward
goes through the nodes in order and calls fastcnn's ops, which fc.compile records like those of any other module.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import helper

from .. import _core
from ..nn import Module, Parameter
from . import _conv, _math, _resize, _shape  # noqa: F401 (their operators register themselves)
from ._file import read_graph, source_name
from ._host import FOLDABLE, MOST_ELEMENTS, fold
from ._node import Node
from ._registry import HANDLERS, Call, host_slots, op, to_tensor
from ._rewrite import rewrite


def load(path, outputs=None):
    """Reads an ONNX file into an OnnxModule, in evaluation mode.

    path: a .onnx file; data outside of it must lie in its folder. Or the bytes of one. outputs: names of values inside
    the graph to give in place of its outputs, such as features; nodes that they do not need are left out. Opsets 7 to
    25; convolutional networks, with quantisation (QuantizeLinear and DequantizeLinear) evaluated in floats.
    Call it with the graph's inputs in order, or by name: net(x), net(image=x). It gives one Tensor, or a tuple where
    the graph has several outputs. Weights train after net.train(), in which batch norms and dropout act as in training;
    they keep the file's names in state_dict. net.fc = nn.Linear(512, 7) puts a layer in the place of the node that
    reads fc.weight (Conv, Gemm and norms; other modules raise a ValueError in the next call).
    Raises: FileNotFoundError; ValueError for damaged files, and one that lists every node that is not supported.
    """
    graph = read_graph(path, outputs)
    try:
        return OnnxModule(graph).eval()
    except ValueError as e:
        raise ValueError(f"{source_name(path)}: {e}") from None


class Scope(Module):
    """Holds what stands before a dot in the names of weights. It is called where one node alone reads them and hooks
    want to know."""

    def forward(self, x, run):
        """Runs that node."""
        return run(x)


# Nodes that are one layer, which another module can stand for.
_LAYERS = (
    "Conv", "ConvTranspose", "Gemm", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
    "GroupNormalization", "PRelu",
)  # fmt: skip

# Multiply-adds of a node from its operands and result.
_MACS = {
    "Conv": lambda node, x, result: math.prod(result.shape) * math.prod(x[1].shape[1:]),
    "ConvTranspose": lambda node, x, result: math.prod(x[0].shape) * math.prod(x[1].shape[1:]),
    "Gemm": lambda node, x, result: math.prod(result.shape) * x[0].shape[0 if node.attrs.get("transA") else -1],
    "MatMul": lambda node, x, result: math.prod(result.shape) * x[0].shape[-1],
}

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Sum")


class OnnxModule(Module):
    """A network read from an ONNX file; see fastcnn.onnx.load.

    Attributes: input_names, output_names: of the graph; opset: its version of the operators; metadata: {str: str}.
    """

    # While a summary counts: takes what a node reads and gives, its multiply-adds, and whether a scope stands for it.
    _watch = None

    def __init__(self, graph):
        super().__init__()
        self.opset, self.metadata = graph.opset, graph.metadata
        self.input_names, self.output_names = tuple(graph.inputs), tuple(graph.outputs)
        self._norms_frozen = False
        self._input_shapes, self._output_types = dict(graph.inputs), dict(graph.outputs)
        plan = _Plan(graph)
        self._nodes, self._host, self._places = plan.nodes, plan.host, {}
        self._on_host = [plan.host_slots(node) for node in plan.nodes]
        names = _unused_names(self)
        for name, (key, array, trains) in plan.weights.items():
            tensor = to_tensor(array)
            self._places[name] = _place(self, key, Parameter(tensor) if trains else tensor, names)
        self._last_use = _last_uses(self._nodes, self.output_names)
        self._layers = _layers(self._nodes, self._places)

    def trains_batch_norms(self):
        """Do batch norms take the statistics of the batch?"""
        return self.training and not self._norms_frozen

    def _freeze_self(self, train_bn):
        super()._freeze_self(train_bn)
        self._norms_frozen = not train_bn

    def _unfreeze_self(self):
        super()._unfreeze_self()
        self._norms_frozen = False

    def extra_repr(self):
        return f"inputs {', '.join(self.input_names)}; {len(self._nodes)} nodes, opset {self.opset}"

    def forward(self, *inputs, **named):
        """Runs the graph; see fastcnn.onnx.load for what goes in and comes out."""
        values = self._bind(inputs, named)
        layers = self._weights(values)
        for name, array in self._host.items():
            values.setdefault(name, array)
        # As many as activations may have: zeros of the shape of a feature map are common.
        most = max(MOST_ELEMENTS, 16 * sum(values[name].numel() for name in self.input_names))
        for i, node in enumerate(self._nodes):
            runs = not node.guards or all(_truth(values[name]) == wanted for name, wanted in node.guards)
            if not runs:
                pass
            elif i in layers:
                values[node.outputs[0]] = self._call_layer(layers[i], i, values, most)
            else:
                self._run(node, self._on_host[i], values, most)
            if runs and self._watch is not None and (type(layers[i]) is Scope if i in layers else node.op in _MACS):
                operands, result = [values[n] if n else None for n in node.inputs], values[node.outputs[0]]
                if isinstance(result, _core.Tensor):  # not shapes and sizes
                    macs = _MACS[node.op](node, operands, result) if node.op in _MACS else 0
                    self._watch(node, operands, result, macs, i in layers)
            for name in self._last_use[i]:
                values.pop(name, None)
        outputs = tuple(self._output(name, values[name]) for name in self.output_names)
        return outputs[0] if len(outputs) == 1 else outputs

    def _weights(self, values):
        """Adds the weights to values; returns {index of a node: its scope with hooks, or the module in its place}."""
        layers = {}
        for name, (path, attribute) in self._places.items():
            scope, depth = self, 0
            while depth < len(path) and (depth == 0 or type(scope) is Scope):
                scope = getattr(scope, path[depth], None)
                depth += 1
            if path and type(scope) is not Scope:
                index = self._layers.get(path) if depth == len(path) else None
                if index is None or not isinstance(scope, Module):
                    raise ValueError(self._no_layer(path[:depth], scope))
                layers[index] = scope
                continue
            if path in self._layers and (scope._forward_hooks or scope._forward_pre_hooks):
                layers[self._layers[path]] = scope
            values[name] = getattr(scope, attribute, None)
            if not isinstance(values[name], _core.Tensor):
                key, kind = ".".join((*path, attribute)), type(values[name]).__name__
                raise ValueError(f"OnnxModule: expected {key!r}, which the graph reads, as a Tensor, got {kind}")
        return layers

    def _call_layer(self, layer, i, values, most):
        node = self._nodes[i]
        if type(layer) is not Scope:
            return layer(values[node.inputs[0]])

        def run(x):
            own = {**values, node.inputs[0]: x}  # hooks may have changed it for this node
            self._run(node, self._on_host[i], own, most)
            return own[node.outputs[0]]

        return layer(values[node.inputs[0]], run=run)

    def _no_layer(self, path, scope):
        keys = [".".join((*p, a)) for p, a in self._places.values() if p[: len(path)] == path]
        return (
            f"OnnxModule: {'.'.join(path)!r} is now of type {type(scope).__name__}, but the graph reads "
            f"{', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''} from it; expected a module only in the place of "
            f"a scope that one node of {', '.join(_LAYERS)} reads"
        )

    def _bind(self, inputs, named):
        names = self.input_names
        if len(inputs) > len(names) or set(named) - set(names[len(inputs) :]) or len(inputs) + len(named) < len(names):
            given = [*map(str, range(len(inputs))), *named]
            raise TypeError(f"OnnxModule: expected the inputs {', '.join(names)}, got {', '.join(given) or 'none'}")
        values = {**dict(zip(names, inputs)), **named}
        for name, x in values.items():
            shape = self._input_shapes[name]
            if isinstance(x, np.ndarray):
                x = values[name] = to_tensor(x)
            if not isinstance(x, _core.Tensor):
                raise TypeError(f"OnnxModule: expected input {name!r} as a Tensor, got {type(x).__name__}")
            # Fixed sizes of a file are often just those of its example, so that they are no condition here.
            if shape is not None and x.ndim != len(shape):
                wanted = ", ".join("any" if n is None else str(n) for n in shape)
                raise ValueError(f"OnnxModule: expected input {name!r} of shape ({wanted}), got {x.shape}")
        return values

    def _run(self, node, on_host, values, most):
        if node.op == "(if)":  # one of its branches has not run
            for name, source in zip(node.outputs, _picked(values[node.inputs[0]], node.inputs), strict=False):
                if name:
                    values[name] = values[source]
            return
        operands = [values[n] if n else None for n in node.inputs]
        for slot in on_host:  # a weight whose values decide shapes as well
            if slot < len(operands) and node.inputs[slot] in self._host:
                operands[slot] = self._host[node.inputs[slot]]
        try:
            if node.op in ("Shape", "Size"):
                results = [_shape_of(node, operands[0])]
            elif all(v is None or isinstance(v, np.ndarray) for v in operands):
                results = fold(node, operands, self.opset, most)
            else:
                results = HANDLERS[node.op].run(Call(self, node, operands, self.opset))
        except (ValueError, TypeError, LookupError, MemoryError, ArithmeticError, AttributeError) as e:
            text = str(e) if str(node) in str(e) else f"{node}: {e}"
            # Not the error's own type: NumPy's MemoryError takes other arguments.
            kind = next((k for k in (TypeError, MemoryError, IndexError) if isinstance(e, k)), ValueError)
            raise kind(f"OnnxModule: {text}") from e
        for name, value in zip(node.outputs, results if isinstance(results, (tuple, list)) else (results,)):
            if name:
                values[name] = value

    def _output(self, name, value):
        if isinstance(value, np.ndarray):
            value = to_tensor(value)
        integer = {2: "uint8", 3: "int8", 6: "int32"}.get(self._output_types[name])  # quantised values travel as floats
        return value if integer is None or str(value.dtype) == integer else _core.ops.cast(value, integer)


def _shape_of(node, value):
    shape = tuple(value.shape)
    if node.op == "Size":
        return np.asarray(math.prod(shape), np.int64)
    return np.asarray(shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], np.int64)


@op("(if)", host=(0,), params="through")
def _pick(call):
    raise AssertionError("OnnxModule._run picks")


def _truth(condition):
    if np.size(condition) != 1:
        raise ValueError(f"expected one bool as the condition of an If, got shape {list(np.shape(condition))}")
    return bool(condition.reshape(-1)[0])


def _picked(condition, inputs):
    """The results of the branch that is taken."""
    each = (len(inputs) - 1) // 2
    return inputs[1 : 1 + each] if _truth(condition) else inputs[1 + each :]


def _last_uses(nodes, outputs):
    """For each node the names that no later node reads."""
    last = {}
    for i, node in enumerate(nodes):
        for name in (*node.inputs, *node.outputs):
            if name:
                last[name] = i
    dead = [[] for _ in nodes]
    for name, i in last.items():
        if name not in outputs:
            dead[i].append(name)
    return dead


def _layers(nodes, places):
    """{path of a scope: index of the node} where one node is a layer of that scope's weights alone."""
    readers = {}
    for i, node in enumerate(nodes):
        for name in node.inputs:
            if name in places:
                readers.setdefault(places[name][0], set()).add(i)
    layers = {}
    for path, indices in readers.items():
        node = nodes[min(indices)]
        nested = any(other != path and other[: len(path)] == path for other in readers)
        alone = path and len(indices) == 1 and not nested and node.inputs[0] not in places
        if alone and node.op in _LAYERS and not any(node.outputs[1:]):
            layers[path] = min(indices)
    return layers


def _place(root, key, value, taken):
    """Registers a tensor under a dotted key, changed a little where it cannot be one; returns (path, attribute)."""
    parts = key.split(".")
    scope = root
    if all(parts) and not any(p.startswith("_") and hasattr(Module, p) for p in parts):
        for part in parts[:-1]:
            if part in taken(scope):
                scope = None
                break
            if part not in scope._kinds:
                scope.add_module(part, Scope())
            scope = getattr(scope, part)
            if not isinstance(scope, Module):
                scope = None
                break
        if scope is not None and parts[-1] not in scope._kinds and parts[-1] not in taken(scope):
            return _register(scope, parts[-1], value, tuple(parts[:-1]))
    name = "_".join(p for p in parts if p) or "weight"
    while name in root._kinds or name in taken(root):
        name += "_"
    return _register(root, name, value)


def _register(scope, name, value, path=()):
    if isinstance(value, Parameter):
        scope.register_parameter(name, value)
    else:
        scope.register_buffer(name, value)
    return path, name


def _unused_names(root):
    """taken(scope): the names that a scope needs for itself."""
    own = {*dir(Module), *vars(root), *dir(type(root))}
    return lambda scope: own if scope is root else _SCOPE_NAMES


_SCOPE_NAMES = frozenset(dir(Scope))


# ---- what each constant becomes ---------------------------------------------------------------------------


class _Plan:
    """Folds what is constant and sorts the constants. nodes: what is left to run; host: {name: array};
    weights: {name: (key for state_dict, array, does it train)}."""

    def __init__(self, graph):
        self._graph = graph
        self._refuse_unknown()
        self.host, self.weights, self.nodes = {}, {}, []
        self._budget = (1 << 26) + 8 * graph.size  # bytes of folded constants
        self._users = {}
        for node in graph.nodes:
            for slot, name in enumerate(node.inputs):
                self._users.setdefault(name, []).append((node, slot))
        self._wanted_on_host = self._host_demand()
        self._keys = {}  # name of a folded weight -> name of the constant that it was
        for name, array in graph.constants.items():
            self._sort(name, array, name)
        for read in graph.nodes:
            for node in self._decided(read):
                if node.op in FOLDABLE and not node.guards and self._known(node):
                    self._fold(node)
                else:
                    self.nodes.append(node)
        self._check()
        self.nodes = rewrite(self.nodes, self.host, graph.outputs)
        used = {n for node in self.nodes for n in node.inputs} | set(graph.outputs)
        self.host = {n: a for n, a in self.host.items() if n in used}
        self.weights = {n: w for n, w in self.weights.items() if n in used}

    def _decided(self, node):
        """The node without guards that are known to hold; none where one does not; "(if)" of a known condition as
        what it picks."""
        undecided = []
        for name, wanted in node.guards:
            if name not in self.host:
                undecided.append((name, wanted))
            elif _truth(self.host[name]) != wanted:
                return []
        node.guards = tuple(undecided)
        if node.op != "(if)" or node.inputs[0] not in self.host:
            return [node]
        sources = _picked(self.host[node.inputs[0]], node.inputs)
        pairs = [(source, name) for source, name in zip(sources, node.outputs, strict=False) if name]
        return [Node(helper.make_node("Identity", [source], [name]), {}, node.guards) for source, name in pairs]

    def _refuse_unknown(self):
        known = {*HANDLERS, *FOLDABLE, "Shape", "Size"}
        self._raise([f"{n}" for n in self._graph.nodes if n.op not in known])

    def _check(self):
        """Everything that can be told of the nodes before data comes."""
        wrong, later = [], set()
        for node in self.nodes:
            if node.op in ("Shape", "Size") or self._known(node, later):
                later.update(node.outputs)
                continue
            handler = HANDLERS.get(node.op)
            of_data = [
                f"operand {slot}, {name!r}" for slot, name in enumerate(node.inputs)
                if name and slot in host_slots(node) and name not in later and name not in self.host
            ]  # fmt: skip
            if of_data:
                alone = "" if handler else "; it is computed of constants and shapes alone"
                wrong.append(f"{node}: {of_data[0]}, depends on the data{alone}")
                continue
            if handler.check is None:
                continue
            arrays = [self.host.get(n, self.weights.get(n, (None, None))[1]) for n in node.inputs]
            try:
                refused = handler.check(Call(None, node, arrays, self._graph.opset))
            except (ValueError, TypeError, IndexError) as e:
                refused = str(e)
            if refused:
                wrong.append(f"{node}: {refused}")
        self._raise(wrong)

    @staticmethod
    def _raise(wrong):
        if wrong:
            listed = "\n  ".join(wrong[:100])
            more = f"\n  and {len(wrong) - 100} more" if len(wrong) > 100 else ""
            raise ValueError(f"{len(wrong)} nodes are not supported:\n  {listed}{more}")

    def host_slots(self, node):
        """Operands of a node that are read as arrays: for results that are wanted as arrays all of them."""
        if node.op not in ("Shape", "Size") and self._wanted_on_host.issuperset(filter(None, node.outputs)):
            return range(len(node.inputs))
        return host_slots(node)

    def _known(self, node, later=()):
        """Are all operands arrays, among them those of these names, which are computed later?"""
        slots = self.host_slots(node)
        return all(
            not n or n in later or (n in self.host and (slot in slots or n not in self.weights))
            for slot, n in enumerate(node.inputs)
        )

    def _host_demand(self):
        """Names whose values decide shapes, limits or positions."""
        makers = {name: node for node in self._graph.nodes for name in node.outputs}
        todo = []
        for node in self._graph.nodes:
            todo += [node.inputs[s] for s in host_slots(node) if s < len(node.inputs) and node.inputs[s]]
        wanted = set()
        while todo:
            name = todo.pop()
            if name in wanted:
                continue
            wanted.add(name)
            maker = makers.get(name)
            if maker is not None and maker.op not in ("Shape", "Size"):
                todo += [n for n in maker.inputs if n]
        return wanted

    def _sort(self, name, array, key):
        """A weight or buffer where tensors of it are read, an array where shapes depend on it; it can be both. One
        number is a weight of layers alone: a head with one output has such a bias, a norm of one channel a mean."""
        uses = self._users.get(name, ())
        floats = array.dtype.name in ("float32", "float64", "float16", "bfloat16")  # the float8 types have a kind "f"
        weighs = array.size > 1 or (array.size and any(node.op in _LAYERS for node, _ in uses))
        if floats and weighs and any(slot not in self.host_slots(node) for node, slot in uses):
            self.weights[name] = key, array, self._trains(name)
        if name not in self.weights or name in self._wanted_on_host:
            self.host[name] = array

    def _trains(self, name):
        todo, seen = [name], set()
        while todo:
            name = todo.pop()
            for node, slot in self._users.get(name, ()):
                params = HANDLERS[node.op].params if node.op in HANDLERS else ()
                if params == "through":
                    new = [o for o in node.outputs if o not in seen]
                    seen.update(new)
                    todo += new
                elif slot in params and not (
                    node.op in _ELEMENTWISE and any(n in self._graph.inputs for n in node.inputs)
                ):
                    return True
        return False

    def _fold(self, node):
        values = [self.host[n] if n else None for n in node.inputs]
        results = fold(node, values, self._graph.opset)
        self._budget -= sum(r.nbytes for r in results)
        if self._budget < 0:
            raise ValueError(f"{node}: constants grow far beyond the size of the file")
        same_weight = node.op in ("DequantizeLinear", "Cast", "Identity")
        for name, array in zip(node.outputs, results, strict=False):
            if name:
                first = self._keys.get(node.inputs[0], node.inputs[0])
                key = self._keys[name] = first if same_weight and first in self._graph.constants else name
                taken = any(w[0] == key for w in self.weights.values())
                self._sort(name, array, name if taken else key)
