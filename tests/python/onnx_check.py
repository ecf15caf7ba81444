"""What the tests of ONNX share: small models from nodes, and the outputs of ONNX Runtime for them."""

import fastcnn as fc
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


RNG = np.random.default_rng(0)


def restart_numbers():
    """Called before every test."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def small_net(quantized=False):
    """Conv, norm, ReLU, pool, Gemm; with quantisation around the convolution."""
    q = ["s", "z"]
    first = [helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1] * 4)]
    if quantized:
        first = [
            helper.make_node("QuantizeLinear", ["x", *q], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", *q], ["xd"]),
            helper.make_node("DequantizeLinear", ["conv.weight", "ws", "wz"], ["wd"], axis=0),
            helper.make_node("Conv", ["xd", "wd"], ["c"], pads=[1] * 4),
        ]
    nodes = [
        *first,
        helper.make_node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], momentum=0.8),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    w = numbers(6, 2, 3, 3)
    constants = {
        "conv.weight": w, "bn.weight": np.ones(6, np.float32), "bn.bias": np.zeros(6, np.float32),
        "bn.mean": numbers(6), "bn.var": np.full(6, 2, np.float32), "fc.weight": numbers(3, 6), "fc.bias": numbers(3),
    }  # fmt: skip
    if quantized:
        scale = (np.abs(w).reshape(6, -1).max(1) / 127).astype(np.float32)
        constants["conv.weight"] = np.round(w / scale[:, None, None, None]).astype(np.int8)
        constants.update(ws=scale, wz=np.zeros(6, np.int8), s=np.float32(0.05), z=np.uint8(128))
    return model_of(nodes, constants, 13)


def close(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(want).max())))


def refused(path, data, match):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as e:
        fc.onnx.load(path)
    assert path.name in str(e.value)


def external(tmp_path, **entries):
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.float32([1, 2, 3])})
    t = model.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        t.external_data.add(key=key, value=value)
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
