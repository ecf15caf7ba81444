"""The content of an ONNX file as plain Python: nodes, constants as NumPy arrays, inputs, outputs. Nothing runs here.

Whatever is wrong with a file is a ValueError that names the file. Memory follows the bytes that are there, never the
sizes that a file claims; external data may only lie in the model's own folder.
"""

from __future__ import annotations

import math
import os
from collections import ChainMap
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from ._node import Node
from ._qoperators import expand

OPSETS = range(7, 26)  # from 7 on operands broadcast
_MOST_DENSE = 1 << 24  # elements of sparse tensors
_MOST_NODES = 1 << 17  # that functions become
_ELEMENT_BITS = {"FLOAT4E2M1": 4, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}


class Graph:
    """What a file holds. constants: {name: array}; inputs: {name: shape, with None for free sizes, or None}; outputs:
    {name: element type of ONNX, 0 where unknown}; opset: version of ONNX's own operators; size: bytes read; metadata:
    {str: str}."""

    def __init__(self, nodes, constants, inputs, outputs, opset, size, metadata):
        self.nodes, self.constants, self.inputs, self.outputs = nodes, constants, inputs, outputs
        self.opset, self.size, self.metadata = opset, size, metadata


def source_name(source):
    """How errors call a file or the bytes of one."""
    return "onnx.load: bytes" if isinstance(source, (bytes, bytearray, memoryview)) else os.fspath(source)


def read_graph(source, outputs=None):
    """The Graph in an ONNX file or in the bytes of one, nodes that no output depends on left out.

    outputs: names of values to give in place of the graph's outputs.
    Raises: FileNotFoundError; ValueError for damaged files and opsets outside OPSETS.
    """
    in_memory = isinstance(source, (bytes, bytearray, memoryview))
    data, where = bytes(source) if in_memory else Path(source).read_bytes(), source_name(source)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"{where}: not an ONNX file, or a damaged one: {e}") from None
    try:
        return _graph_of(model, None if in_memory else Path(source).parent, len(data), outputs)
    except _Damaged as e:
        raise ValueError(f"{where}: {e}") from None


class _Damaged(Exception):
    """What is wrong, without the name of the file."""


def _need(condition, what):
    if not condition:
        raise _Damaged(what)


def _check_names(model):
    # Text that is no UTF-8 comes out of protocol buffers as bytes.
    _need(all(isinstance(name, str) for name in _names(model)), "a name is not UTF-8")


def _names(model):
    """Every text of a model that is read here."""
    for o in model.opset_import:
        yield o.domain
    for p in model.metadata_props:
        yield from (p.key, p.value)
    for graph in _graphs(model.graph):
        for n in graph.node:
            yield from (n.op_type, n.domain, n.name, *n.input, *n.output)
            yield from (a.name for a in n.attribute)
        sparse = [t for s in _sparse_tensors(graph) for t in (s.values, s.indices)]
        for t in (*graph.initializer, *(a.t for n in graph.node for a in n.attribute if a.HasField("t")), *sparse):
            yield t.name
            for e in t.external_data:
                yield from (e.key, e.value)
        for v in (*graph.input, *graph.output):
            yield v.name


def _graphs(graph):
    """A graph and those in its nodes."""
    yield graph
    for n in graph.node:
        for a in n.attribute:
            if a.HasField("g"):
                yield from _graphs(a.g)


def _sparse_tensors(graph):
    attributes = (a for n in graph.node for a in n.attribute)
    return [*graph.sparse_initializer, *(a.sparse_tensor for a in attributes if a.HasField("sparse_tensor"))]


def _graph_of(model, folder, size, chosen):
    _check_names(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    _need(model.HasField("graph") and opset is not None, "not an ONNX model: it has no graph or no opset")
    _need(
        opset in OPSETS,
        f"opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]} (onnx.version_converter moves a model between opsets)",
    )
    if model.functions:
        model = _inline(model)
        _check_names(model)
    proto = model.graph
    dense = sum(math.prod(map(abs, s.dims)) for graph in _graphs(proto) for s in _sparse_tensors(graph))
    _need(dense <= _MOST_DENSE, f"its sparse tensors have {dense} elements; at most {_MOST_DENSE} are written out")
    constants, nodes = {}, []
    _read(proto, constants, nodes, folder, opset)
    try:
        nodes = expand(nodes, constants, opset)
    except ValueError as e:
        raise _Damaged(str(e)) from None
    inputs = {i.name: _shape(i) for i in proto.input if i.name not in constants}
    outputs = {o.name: o.type.tensor_type.elem_type for o in proto.output}
    _need(outputs, "the graph has no outputs")
    _need(len(outputs) == len(proto.output), "two outputs have one name")
    if chosen is not None:
        outputs = _chosen_outputs([chosen] if isinstance(chosen, str) else list(chosen), nodes, outputs)
    nodes = _ordered(nodes, {*constants, *inputs}, outputs)
    for node in nodes:
        _check_schema(node.proto, opset)
    metadata = {p.key: p.value for p in model.metadata_props}
    return Graph(nodes, constants, inputs, outputs, opset, size, metadata)


def _read(graph, constants, nodes, folder, opset, prefix="", outer=None, guards=()):
    """Adds the constants and nodes of a graph. For a branch of an If: prefix of its names; outer: {name: name in the
    whole graph} around it; guards: see Node. Returns the names of its outputs."""
    names = outer.new_child() if outer is not None else ChainMap()

    def own(name):
        if prefix:
            names[name] = prefix + name
        return prefix + name

    for t in (*graph.initializer, *graph.sparse_initializer):
        name = t.name if isinstance(t, onnx.TensorProto) else t.values.name
        _need(name and prefix + name not in constants, f"initialiser {name!r} has no name or occurs twice")
        constants[own(name)] = array_of(t, folder) if isinstance(t, onnx.TensorProto) else _dense(t, folder, name)
    for n in graph.node:
        if prefix:
            n = _copied(n, [i and names.get(i, i) for i in n.input], [o and own(o) for o in n.output])
        if n.op_type == "If" and n.domain in ("", "ai.onnx"):
            _read_if(n, constants, nodes, folder, opset, prefix, names, guards)
            continue
        node = Node(n, {a.name: _attribute(a, n, folder) for a in n.attribute}, guards)
        if node.op == "Constant":
            _check_schema(n, opset)
        value = _constant_value(node) if node.op == "Constant" else None
        if value is None:
            nodes.append(node)
        else:
            _need(len(node.outputs) == 1 and node.outputs[0] not in constants, f"{node}: its output is made twice")
            constants[node.outputs[0]] = value
    return [names.get(o.name, o.name) for o in graph.output]


def _copied(n, inputs, outputs):
    copy = onnx.NodeProto()
    copy.CopyFrom(n)
    copy.input[:], copy.output[:] = inputs, outputs
    return copy


def _read_if(n, constants, nodes, folder, opset, prefix, names, guards):
    """Of a constant condition one branch, else both, guarded."""
    _check_schema(n, opset)
    branches = {a.name == "then_branch": a.g for a in n.attribute if a.name in ("then_branch", "else_branch")}
    condition, results = n.input[0], {}
    fixed = constants.get(condition)
    what = f"If {n.name or n.output[0]!r}"
    _need(fixed is None or (fixed.size == 1 and fixed.dtype == bool), f"{what}: its condition is not one bool")
    for taken in (True, False) if fixed is None else (bool(fixed.reshape(-1)[0]),):
        inside = f"{prefix}if{len(nodes)}_{'then' if taken else 'else'}/"
        more = guards if fixed is not None else (*guards, (condition, taken))
        made = results[taken] = _read(branches[taken], constants, nodes, folder, opset, inside, names, more)
        _need(all(made) and len(made) == len(n.output), f"{what} has {len(n.output)} outputs, a branch {made}")
    if fixed is None:
        pick = onnx.helper.make_node("(if)", [condition, *results[True], *results[False]], n.output, name=n.name)
        nodes.append(Node(pick, {}, guards))
        return
    for source, name in zip(*results.values(), n.output, strict=True):
        if name:
            nodes.append(Node(onnx.helper.make_node("Identity", [source], [name]), {}, guards))


def _inline(model):
    from onnx import inliner

    _need(
        _size_inlined(model) <= _MOST_NODES + model.ByteSize() // 512,
        "its local functions call themselves, lie too deep or grow far beyond the size of the file",
    )
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as e:  # the inliner's own errors have no common type
        raise _Damaged(f"its local functions cannot be inlined: {e}") from None


def _size_inlined(model):
    """How many nodes the graph has without functions, one more for each kilobyte of them. Calls get the defaults of
    attributes that they leave out, which the inliner forgets."""
    functions = {_called(f, f.name): f for f in model.functions}
    counts = {}

    def count(nodes, depth):
        total = 0 if depth < 100 else math.inf
        for n in nodes if depth < 100 else ():
            key = _called(n, n.op_type)
            if key not in functions:
                total += 1 + n.ByteSize() // 1024
                total += sum(count(g.node, depth + 1) for a in n.attribute for g in (a.g, *a.graphs))
                continue
            given = {a.name for a in n.attribute}
            n.attribute.extend(a for a in functions[key].attribute_proto if a.name not in given)
            if key not in counts:
                counts[key] = math.inf  # what a function that calls itself finds
                counts[key] = count(functions[key].node, depth + 1)
            total += counts[key]
        return total

    return count(model.graph.node, 0)


def _called(proto, name):
    return proto.domain, name, getattr(proto, "overload", "")


def _ordered(nodes, known, outputs):
    """The nodes that outputs need. Every name must be made once, before it is read."""
    makers = {}
    for n in nodes:
        for name in n.inputs:
            _need(not name or name in known, f"{n} reads {name!r}, which nothing before it makes")
        for name in filter(None, n.outputs):
            _need(name not in known, f"{n}: {name!r} is made twice")
            known.add(name)
            makers[name] = n
    for name in outputs:
        _need(name in known, f"output {name!r} is made by no node")
    needed, todo = set(), list(outputs)
    while todo:
        n = makers.get(todo.pop())
        if n is not None and id(n) not in needed:
            needed.add(id(n))
            todo += n.inputs
    nodes = [n for n in nodes if id(n) in needed]
    read = {name for n in nodes for name in n.inputs} | set(outputs)
    for n in nodes:
        n.outputs = [name if name in read else "" for name in n.outputs]
        while n.outputs and not n.outputs[-1] and n.op != "Split":  # the number of its outputs tells their sizes
            n.outputs.pop()
    return nodes


def _chosen_outputs(chosen, nodes, outputs):
    """{name: element type} of the values that a caller wants."""
    made = [name for n in nodes for name in n.outputs if name and not n.guards]
    wrong = [name for name in chosen if name not in {*made, *outputs}]
    _need(
        chosen and not wrong and len({*chosen}) == len(chosen),
        f"expected outputs as different names of values that nodes make, got {chosen}; the last ones of the graph are "
        f"{', '.join(made[-8:])}",
    )
    return {name: outputs.get(name, 0) for name in chosen}


def _shape(value):
    t = value.type.tensor_type
    if not t.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in t.shape.dim)


def _check_schema(n, opset):
    """Numbers of operands, types of attributes; operators that ONNX has not are refused by name later."""
    if n.domain not in ("", "ai.onnx"):
        return
    try:
        schema = onnx.defs.get_schema(n.op_type, opset, "")
    except onnx.defs.SchemaError:
        return
    what = f"{n.op_type} {n.name or ', '.join(n.output)!r}"
    _need(
        schema.min_input <= len(n.input) <= schema.max_input and 1 <= len(n.output) <= schema.max_output,
        f"{what} has {len(n.input)} operands and {len(n.output)} outputs, which opset {opset} does not know",
    )
    _need(all(n.input[: schema.min_input]), f"{what} lacks an operand")
    known, given = schema.attributes, {}
    for a in n.attribute:
        _need(a.name not in given, f"{what}: attribute {a.name!r} occurs twice")
        given[a.name] = int(a.type)
        if a.name in known:
            _need(
                given[a.name] == int(known[a.name].type.value),
                f"{what}: attribute {a.name!r} has type {a.type}, expected {known[a.name].type.name}",
            )
    missing = [name for name, a in known.items() if a.required and name not in given]
    _need(not missing, f"{what} lacks the attribute {', '.join(missing)}")


def _attribute(a, node, folder):
    kinds = onnx.AttributeProto
    simple = {kinds.FLOAT: "f", kinds.INT: "i"}
    lists = {kinds.FLOATS: "floats", kinds.INTS: "ints"}
    if a.type in simple:
        return getattr(a, simple[a.type])
    if a.type in lists:
        return list(getattr(a, lists[a.type]))
    if a.type == kinds.STRING:
        return a.s.decode("utf-8", "replace")
    if a.type == kinds.STRINGS:
        return [s.decode("utf-8", "replace") for s in a.strings]
    if a.type == kinds.TENSOR:
        return array_of(a.t, folder, f"attribute {a.name!r} of {node.op_type} {node.name!r}")
    if a.type == kinds.SPARSE_TENSOR:
        return _dense(a.sparse_tensor, folder, f"{a.name} of {node.op_type}")
    return None  # graphs: the ops that have them are refused by name


def _constant_value(node):
    for name in ("value", "sparse_value"):
        if name in node.attrs:
            return node.attrs[name]
    for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
        if name in node.attrs:
            return np.asarray(node.attrs[name], dtype)
    return None


def array_of(t, folder, what=None):
    """The NumPy array of a TensorProto. folder: where its external data may lie."""
    what = what or f"initialiser {t.name!r}"
    types = onnx.TensorProto
    names = {v: k for k, v in types.DataType.items()}
    name = names.get(t.data_type, f"type {t.data_type}")
    _need(name in names.values() and name not in ("UNDEFINED", "STRING"), f"{what} holds {name}, not numbers")
    _need(name not in ("COMPLEX64", "COMPLEX128"), f"{what}: complex numbers are not supported")
    _need(all(d >= 0 for d in t.dims) and len(t.dims) <= 64, f"{what} has shape {list(t.dims)}")
    _need(not t.HasField("segment"), f"{what} is stored in segments, which are not supported")
    count = math.prod(t.dims)
    bits = _ELEMENT_BITS.get(name) or 8 * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
    nbytes = (count * bits + 7) // 8
    if t.data_location == types.EXTERNAL:
        t = _with_external_data(t, folder, nbytes, what)
    if t.HasField("raw_data"):
        _need(
            len(t.raw_data) == nbytes, f"{what} {name} {list(t.dims)} needs {nbytes} bytes, {len(t.raw_data)} are there"
        )
    else:
        field = onnx.helper.tensor_dtype_to_field(t.data_type)
        per_value = max(1, 8 // bits) if field == "int32_data" and bits < 8 else 1
        held = len(getattr(t, field))
        _need(held * per_value >= count and held <= count, f"{what} {name} {list(t.dims)} has {held} values")
    try:
        return np.array(numpy_helper.to_array(t))
    except Exception as e:  # numbers that their type cannot hold
        raise _Damaged(f"{what}: {e}") from None


def _dense(t, folder, name):
    """The NumPy array of a SparseTensorProto, whose places count along the flat tensor or have one number per axis."""
    what, shape = f"sparse tensor {name!r}", tuple(t.dims)
    values, places = array_of(t.values, folder, what), array_of(t.indices, folder, what)
    _need(all(n >= 0 for n in shape) and len(shape) <= 32, f"{what} has shape {list(shape)}")
    flat = places.ndim == 1
    sizes = np.asarray([math.prod(shape)] if flat else shape, np.int64)
    each = places.reshape(-1, 1) if flat else places
    fits = values.ndim == 1 and places.dtype == np.int64 and each.shape == (len(values), len(sizes))
    _need(fits, f"{what} {list(shape)}: {list(values.shape)} values at places of {places.dtype} {list(places.shape)}")
    _need(((each >= 0) & (each < sizes)).all(), f"{what} {list(shape)} has places outside")
    array = np.zeros(shape, values.dtype)
    if flat:
        array.reshape(-1)[places] = values
    else:
        array[tuple(places.T)] = values
    return array


def _with_external_data(t, folder, nbytes, what):
    """A copy of the TensorProto with its bytes. They must lie in a file of the model's folder or below."""
    info = {e.key: e.value for e in t.external_data}
    location = info.get("location", "")
    _need(location and "\0" not in location, f"{what}: external data at {location!r}, which is no name of a file")
    _need(folder is not None, f"{what}: external data at {location!r}; bytes have no folder, give the path of the file")
    folder = os.path.realpath(folder)
    file = os.path.realpath(os.path.join(folder, location))  # links are followed before the comparison
    _need(
        os.path.commonpath([folder, file]) == folder,
        f"{what}: external data at {location!r}, which is outside of the model's folder",
    )
    _need(os.path.isfile(file), f"{what}: its external data {location!r} is missing")
    try:
        offset, length = int(info.get("offset", 0)), int(info.get("length", nbytes))
    except ValueError:
        raise _Damaged(f"{what}: offset or length of its external data is no number") from None
    size = os.path.getsize(file)
    _need(
        length == nbytes and offset >= 0 and offset + length <= size,
        f"{what} needs {nbytes} bytes, its external data names {length} from byte {offset} of {size} in {location!r}",
    )
    with open(file, "rb") as f:
        f.seek(offset)
        data = f.read(nbytes)
    return onnx.TensorProto(name=t.name, data_type=t.data_type, dims=t.dims, raw_data=data)
