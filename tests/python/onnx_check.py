"""What the tests of ONNX share: small models from nodes, and the outputs of ONNX Runtime for them."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")


def model_of(nodes, constants=None, opset=17, inputs=("x",), outputs=("y",), types=None, ir_version=8):
    """A ModelProto of nodes; constants: {name: array}; types: {name: (element type, shape)} of inputs and outputs."""
    types = types or {}

    def info(name):
        return helper.make_tensor_value_info(name, *types.get(name, (onnx.TensorProto.FLOAT, None)))

    initializers = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [*map(info, inputs)], [*map(info, outputs)], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def saved(model, path):
    """Writes a ModelProto and returns the path."""
    onnx.save(model, path)
    return path


def runtime(path, optimize=False):
    """An ONNX Runtime session that says nothing and uses one thread."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_runtime(path, *arrays):
    """The first output of ONNX Runtime."""
    session = runtime(path)
    return session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})[0]


def array_of(t):
    """A float64 array of any Tensor, to compare."""
    return np.asarray((t.to("float32") if str(t.dtype) == "bfloat16" else t).numpy(), np.float64)
