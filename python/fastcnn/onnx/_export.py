"""export: a traced module as an ONNX file. The graph is that of fastcnn's tracer; _emit.py has the form of each op."""

from __future__ import annotations

import os

import numpy as np
from onnx import ValueInfoProto, checker, helper, shape_inference

from .. import __version__
from .._files import atomic_write
from .._graph import trace_graph
from ..safetensors import bits_of
from . import _emit_elements, _emit_nets  # noqa: F401 (their functions register themselves)
from ._emit import EMIT, Step
from ._module import OnnxModule
from ._writer import ELEMENT, Writer, is_free, line_of

OPSETS = range(13, 22)
_LARGEST = (1 << 31) - (1 << 20)  # of a protocol buffer, in bytes


def export(model, path, example, opset=17, dynamic_batch=True, metadata=None, input_names=None, output_names=None):
    """Writes a model, as it predicts, to an ONNX file.

    Args: model: a Module, in evaluation mode here whatever its mode, or a function of tensors. path: the file; the old
    one stays whole until the new one is on disk. example: an array or tensor, or a tuple of them, one for each
    argument; shapes and dtypes matter. opset: 13 to 21. dynamic_batch: dim 0 of the inputs is free in the file; False:
    that of the example. metadata: {str: str} for readers, such as class names. input_names, output_names: of the graph,
    one for each; None: inputs have the names of forward's arguments, a result is "output" (several: "output_0", ..., or
    the keys of a dict); a network that was read from a file keeps the file's.
    Weights keep their names of state_dict. The file has passed onnx.checker.
    Raises: ValueError that lists all ops that ONNX has no form for, for names that do not fit, and for models of 2 GB
    and more.
    """
    metadata = dict(metadata or {})
    if not all(isinstance(t, str) for pair in metadata.items() for t in pair):
        raise TypeError(f"onnx.export: expected metadata of str to str, got {metadata!r}")
    graph = trace_graph(model, example, dynamic_batch=dynamic_batch)
    if isinstance(model, OnnxModule) and input_names is None and output_names is None:
        names = [*model.input_names, *model.output_names]
        if len({*names}) == len(names) and not {*names} & {*graph["tensors"]}:
            input_names, output_names = model.input_names, model.output_names
    graph = _renamed(graph, input_names, output_names)
    proto = to_model(graph, graph["tensors"], opset, type(model).__name__)
    helper.set_model_props(proto, metadata)
    size = proto.ByteSize()
    if size > _LARGEST:
        raise ValueError(f"onnx.export: a file of {size} bytes; one file holds at most {_LARGEST}")
    try:
        checker.check_model(proto)
        _check_types(proto)
    except (checker.ValidationError, shape_inference.InferenceError) as e:
        more = "; float32 is written: model.to('float32')" if "float16)" in str(e) else ""
        raise ValueError(f"onnx.export: {os.fspath(path)}: the checker refuses the graph: {e}{more}") from None
    with atomic_write(path) as file:
        file.write(proto.SerializeToString())


def _check_types(proto):
    """Raises InferenceError where a node knows no operands of such a type, which the checker does not look at."""
    graph = proto.graph
    # Weights as inputs, so that none is copied.
    weights = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer]
    outputs = [ValueInfoProto(name=o.name) for o in graph.output]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *weights], outputs)
    model = helper.make_model(bare, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    for found, wanted in zip(shape_inference.infer_shapes(model, True).graph.output, graph.output, strict=True):
        kinds = [v.type.tensor_type.elem_type for v in (found, wanted)]
        if kinds[0] not in (0, kinds[1]):
            raise shape_inference.InferenceError(f"output {wanted.name!r} has element type {kinds[0]}, not {kinds[1]}")


def _renamed(graph, input_names, output_names):
    """A traced graph with other names of its inputs and outputs, where they are given."""
    taken = {*graph["tensors"], *(o["name"] for node in graph["nodes"] for o in node["out"])}
    changed, names = {}, []
    for what, given in (("inputs", input_names), ("outputs", output_names)):
        own = [entry["name"] for entry in graph[what]]
        given = own if given is None else [given] if isinstance(given, str) else list(given)
        if len(given) != len(own) or not all(isinstance(n, str) and n and n not in taken for n in given):
            raise ValueError(f"onnx.export: expected {len(own)} names of {what} that no weight has, got {given}")
        changed[what] = [{**entry, "name": name} for entry, name in zip(graph[what], given, strict=True)]
        names += given
    if len({*names}) != len(names):
        raise ValueError(f"onnx.export: expected each name of inputs and outputs once, got {names}")
    new = {old["name"]: entry["name"] for old, entry in zip(graph["inputs"], changed["inputs"], strict=True)}
    nodes = [{**node, "in": [new.get(n, n) for n in node["in"]]} for node in graph["nodes"]]
    outputs = [{**entry, "tensor": new.get(entry["tensor"], entry["tensor"])} for entry in changed["outputs"]]
    return {**graph, "inputs": changed["inputs"], "outputs": outputs, "nodes": nodes}


def to_model(graph, tensors, opset, name="fastcnn"):
    """The onnx.ModelProto of a traced graph.

    graph: {inputs: [{name, dtype, shape}], outputs: [{name, tensor, dtype, shape}], nodes: [{op, in, out, params}]},
    as fastcnn's trace_graph gives it; tensors: {name: Tensor} from outside.
    Raises: ValueError that lists every node that ONNX has no form for.
    """
    if opset not in OPSETS:
        raise ValueError(f"onnx.export: expected opset {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    batch_from = None
    for entry in graph["inputs"]:
        for dim, size in enumerate(entry["shape"]):
            if is_free(size) and line_of(size) == (1, 0) and batch_from is None:
                batch_from = entry["name"], dim
    w = Writer(opset, batch_from)
    known = {}  # name in the traced graph -> (shape, dtype)
    for entry in [*graph["inputs"], *graph["outputs"]]:
        w.claim(entry["name"])
    for entry in graph["inputs"]:
        known[entry["name"]] = entry["shape"], entry["dtype"]
    for key, tensor in tensors.items():
        w.claim(key)
        known[key] = list(tensor.shape), str(tensor.dtype)
    names = {key: key for key in known}
    results = {o["tensor"]: o["name"] for o in reversed(graph["outputs"])}
    for node in graph["nodes"]:
        for o in node["out"]:
            if "shape" in o:
                known[o["name"]] = o["shape"], o["dtype"]
    _emit_nodes(w, graph["nodes"], known, names, results)
    for o in graph["outputs"]:  # results that are inputs or weights, or one result given twice
        if names[o["tensor"]] != o["name"]:
            w.node("Identity", [names[o["tensor"]]], o["name"])
    read = {n for node in w.nodes for n in node.input}
    for key, tensor in tensors.items():
        if key in read:
            w.initializers.append(_proto(key, tensor))
    model = helper.make_model(
        helper.make_graph(
            w.nodes, name, [_value(e["name"], e) for e in graph["inputs"]],
            [_value(e["name"], e) for e in graph["outputs"]], [i for i in w.initializers if i.name in read],
        ),
        opset_imports=[helper.make_opsetid("", opset)], producer_name="fastcnn", producer_version=__version__,
        ir_version=8 if opset < 19 else 9 if opset < 21 else 10,
    )  # fmt: skip
    return model


def _emit_nodes(w, nodes, known, names, results):
    """Adds all nodes to the Writer; names: traced name -> name in the ONNX graph, filled on the way."""
    expanded = {}  # output of an expand -> (its base, the node): ONNX broadcasts by itself
    refused = []
    used = {name for node in nodes for name in node["in"]} | set(results)
    for node in nodes:
        op, outputs = node["op"], node["out"]
        first = outputs[0]["name"]
        if op == "expand" and first not in results:
            expanded[first] = node["in"][0], node
            continue
        inputs = [_unexpanded(i, op, node, known, expanded) for i in node["in"]]
        try:
            for i in inputs:
                if i in expanded and i not in names:
                    _emit_one(w, expanded[i][1], [expanded[i][0]], known, names, results)
            extra = [o["name"] for o in outputs[1:] if o["name"] in used]
            if op not in EMIT or extra or any("shape" not in o for o in outputs):
                raise ValueError("which ONNX has no form for" if op not in EMIT else "one of its further results")
            _emit_one(w, node, inputs, known, names, results)
        except ValueError as e:
            refused.append(f"{op} ({', '.join(node['in'])}): {e}")
            names.update((o["name"], o["name"]) for o in outputs)
    if refused:
        listed = "\n  ".join(refused[:50])
        raise ValueError(f"onnx.export: {len(refused)} ops cannot be written:\n  {listed}")


def _unexpanded(name, op, node, known, expanded):
    """The operand before it was expanded, where the op broadcasts it all the same."""
    if op not in ("binary", "where") or name not in expanded:
        return name
    bases = [expanded[i][0] if i in expanded else i for i in node["in"]]
    return expanded[name][0] if _broadcast([known[b][0] for b in bases]) == node["out"][0]["shape"] else name


def _broadcast(shapes):
    ndim = max(map(len, shapes))
    full = [[1] * (ndim - len(s)) + list(s) for s in shapes]
    return [next((n for n in sizes if n != 1), 1) for sizes in zip(*full, strict=True)]


def _emit_one(w, node, inputs, known, names, results):
    outputs = [dict(o) for o in node["out"]]
    for o in outputs:
        traced = o["name"]
        o["name"] = names[traced] = results.get(traced) or w.name(f"t{traced.lstrip('%')}")
    shapes, dtypes = zip(*(known[i] for i in inputs), strict=True) if inputs else ((), ())
    step = Step(w, node["op"], [names[i] for i in inputs], shapes, dtypes, outputs, node.get("params", {}))
    EMIT[node["op"]](step)


def _value(name, entry):
    sizes = [n.replace("N", "batch") if is_free(n) else n for n in entry["shape"]]
    return helper.make_tensor_value_info(name, ELEMENT[entry["dtype"]], sizes)


def _proto(name, tensor):
    dtype = str(tensor.dtype)
    bits = np.ascontiguousarray(bits_of(tensor))
    return helper.make_tensor(name, ELEMENT[dtype], list(tensor.shape), bits.tobytes(), raw=True)
