"""fc.onnx.load of operators on integers and of those that ONNX Runtime fuses: its numbers, at most a step apart."""

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx_check import helper, model_of, numbers, restart_numbers, run_runtime, runtime, saved  # noqa: E402

MICROSOFT = {"domain": "com.microsoft"}


@pytest.fixture(autouse=True)
def _numbers():
    restart_numbers()


def loaded(path, x):
    return fc.onnx.load(path)(fc.tensor(x)).numpy()


def microsofts(nodes, constants=None, **more):
    model = model_of(nodes, constants, **more)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def small(kind, *shape):
    """Random integers of 8 bits; signed ones of 7, as ONNX Runtime's sums of pairs saturate on processors without
    VNNI."""
    low, high = {"u1": (0, 256), "i1": (-64, 65)}[kind]
    return np.random.default_rng(3).integers(low, high, shape).astype(kind)


def same_but_for_ties(got, want):
    """Integers, of which a rounded product may lie a step away."""
    assert got.dtype == want.dtype and got.shape == want.shape
    apart = np.abs(got.astype(int) - want.astype(int))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.02
    assert np.unique(want).size > 10, "the case has numbers to tell apart"


def scales(**numbers_of):
    """{"as": a scale, "az": a zero point}."""
    constants = {}
    for name, (scale, zero) in numbers_of.items():
        constants[name + "s"], constants[name + "z"] = np.asarray(scale, np.float32), np.asarray(zero)
    return constants


U8, I8 = np.uint8, np.int8
PAIR = scales(a=(0.0413, U8(120)), b=(0.0297, U8(90)), y=(0.0611, U8(110)))
CONV = helper.make_node("QLinearConv", ["q", "as", "az", "k", "ks", "kz", "ys", "yz", "b"], ["r"],
                        strides=[2, 1], pads=[1, 0, 2, 1], group=2)  # fmt: skip
CASES = {
    "QLinearConv per channel": (CONV, {
        **PAIR, "k": small("i1", 6, 2, 3, 3), "b": np.arange(-300, 300, 100, dtype=np.int32),
        "ks": np.linspace(0.002, 0.01, 6, dtype=np.float32), "kz": np.zeros(6, I8),
    }),
    "QLinearConv per tensor": (CONV, {
        **PAIR, **scales(k=(0.004, U8(131))), "k": small("u1", 6, 2, 3, 3), "b": np.arange(6, dtype=np.int32),
    }),
    "QLinearMatMul per column": (
        helper.make_node("QLinearMatMul", ["q", "as", "az", "m", "ms", "mz", "ys", "yz"], ["r"]),
        {**PAIR, "m": small("i1", 5, 7), "ms": np.linspace(0.002, 0.01, 7, dtype=np.float32), "mz": np.zeros(7, I8)},
    ),
    "QLinearAdd": (
        helper.make_node("QLinearAdd", ["q", "as", "az", "c", "bs", "bz", "ys", "yz"], ["r"], **MICROSOFT),
        {**PAIR, "c": small("u1", 2, 4, 1, 5)},
    ),
    "QLinearMul": (
        helper.make_node("QLinearMul", ["q", "as", "az", "c", "bs", "bz", "ys", "yz"], ["r"], **MICROSOFT),
        {**PAIR, "c": small("u1", 4, 1, 1)},
    ),
    "QLinearSigmoid": (
        helper.make_node("QLinearSigmoid", ["q", "as", "az", "ys", "yz"], ["r"], **MICROSOFT),
        {**PAIR, **scales(y=(1 / 256, U8(0)))},
    ),
    "QLinearLeakyRelu": (
        helper.make_node("QLinearLeakyRelu", ["q", "as", "az", "ys", "yz"], ["r"], alpha=0.3, **MICROSOFT), PAIR,
    ),
    "QLinearAveragePool": (
        helper.make_node("QLinearAveragePool", ["q", "as", "az", "bs", "bz"], ["r"], kernel_shape=[2, 3],
                         pads=[1, 1, 0, 1], strides=[2, 1], **MICROSOFT), PAIR,
    ),
    "QLinearGlobalAveragePool": (
        helper.make_node("QLinearGlobalAveragePool", ["w", "as", "az", "bs", "bz"], ["r"], **MICROSOFT),
        {**PAIR, "w": small("u1", 8, 16, 3, 3)},
    ),
    "QLinearSoftmax": (
        helper.make_node("QLinearSoftmax", ["q", "as", "az", "ys", "yz"], ["r"], opset=13, axis=1, **MICROSOFT),
        {**PAIR, **scales(y=(1 / 256, U8(0)))},
    ),
    "QLinearConcat": (
        helper.make_node("QLinearConcat", ["ys", "yz", "q", "as", "az", "c", "bs", "bz"], ["r"], axis=2, **MICROSOFT),
        {**PAIR, "c": small("u1", 2, 4, 3, 5)},
    ),
    "QLinearWhere": (
        helper.make_node("QLinearWhere", ["t", "q", "as", "az", "c", "bs", "bz", "ys", "yz"], ["r"], **MICROSOFT),
        {**PAIR, "c": small("u1", 2, 4, 6, 5), "t": np.arange(5) % 2 == 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_on_integers_gives_onnx_runtimes_integers(tmp_path, name):
    node, constants = CASES[name]
    nodes = [helper.make_node("QuantizeLinear", ["x", "as", "az"], ["q"]), node]
    path = saved(microsofts(nodes, constants, outputs=["r"], types={"r": (2, None)}), tmp_path / "m.onnx")
    x = 2 * numbers(2, 4, 6, 5)
    same_but_for_ties(loaded(path, x), run_runtime(path, x))


@pytest.mark.parametrize("scaled", [True, False])
def test_qgemm_with_and_without_a_scale_of_its_result(tmp_path, scaled):
    constants = {
        **PAIR, "m": small("i1", 7, 5), "ms": np.linspace(0.002, 0.01, 7, dtype=np.float32), "mz": np.zeros(7, I8),
        "b": np.arange(-300, 400, 100, dtype=np.int32),
    }  # fmt: skip
    operands = ["q", "as", "az", "m", "ms", "mz", "b", *(["ys", "yz"] if scaled else [])]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "as", "az"], ["q"]),
        helper.make_node("QGemm", operands, ["r"], transB=1, **MICROSOFT),
    ]
    types = {"r": (2 if scaled else 1, None)}
    path, x = saved(microsofts(nodes, constants, outputs=["r"], types=types), tmp_path / "m.onnx"), 2 * numbers(3, 5)
    if scaled:
        same_but_for_ties(loaded(path, x), run_runtime(path, x))
    else:
        np.testing.assert_allclose(loaded(path, x), run_runtime(path, x), atol=1e-5)


@pytest.mark.parametrize("x", [numbers(2, 4, 6, 5), np.abs(numbers(2, 4, 6, 5)) + 1, np.zeros((2, 4, 6, 5), "f4")])
def test_ranges_that_follow_the_data(tmp_path, x):
    """As quantize_dynamic writes convolutions and products."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("ConvInteger", ["q", "k", "z", "kz"], ["i"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", ["f", "s"], ["c"]),
        helper.make_node("DynamicQuantizeLinear", ["c"], ["q2", "s2", "z2"]),
        helper.make_node("MatMulInteger", ["q2", "m", "z2"], ["i2"]),
        helper.make_node("Cast", ["i2"], ["f2"], to=1),
        helper.make_node("Mul", ["f2", "s2"], ["y"]),
    ]
    constants = {"k": small("u1", 6, 4, 3, 3), "kz": U8(125), "m": small("i1", 5, 3)}
    path = saved(model_of(nodes, constants), tmp_path / "m.onnx")
    got, want = loaded(path, x), run_runtime(path, x)
    np.testing.assert_allclose(got, want, atol=0.01 * max(np.abs(want).max(), 1))


def test_integer_sums_keep_their_type(tmp_path):
    nodes = [
        helper.make_node("ConvInteger", ["x", "k", "z"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER"),
    ]
    types = {"x": (2, None), "y": (6, None)}
    path = saved(model_of(nodes, {"k": small("i1", 6, 4, 3, 3), "z": U8(7)}, types=types), tmp_path / "m.onnx")
    x = small("u1", 2, 4, 7, 5)
    got, want = loaded(path, x), run_runtime(path, x)
    assert got.dtype == want.dtype == np.int32
    np.testing.assert_array_equal(got, want)


FUSED = {
    "none": ({}, True), "Relu": ({"activation": "Relu"}, True),
    "LeakyRelu": ({"activation": "LeakyRelu", "activation_params": [0.2]}, False),
    "Clip": ({"activation": "Clip", "activation_params": [-0.5, 1.5]}, False),
    "HardSigmoid": ({"activation": "HardSigmoid", "activation_params": [0.2, 0.4]}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_convolutions_that_onnx_runtime_fused(tmp_path, name):
    options, residual = FUSED[name]
    operands = ["x", "k", "b", *(["x"] if residual else [])]
    node = helper.make_node("FusedConv", operands, ["y"], pads=[1, 1, 1, 1], **options, **MICROSOFT)
    constants = {"k": numbers(4, 4, 3, 3), "b": numbers(4)}
    path, x = saved(microsofts([node], constants), tmp_path / "m.onnx"), numbers(2, 4, 6, 5)
    np.testing.assert_allclose(loaded(path, x), run_runtime(path, x), atol=1e-5)


@pytest.mark.parametrize("kind", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
def test_gelus_of_onnx_runtime(tmp_path, kind):
    operands = ["x", "b"] if kind in ("BiasGelu", "FastGelu") else ["x"]
    path = saved(microsofts([helper.make_node(kind, operands, ["y"], **MICROSOFT)], {"b": numbers(5)}),
                 tmp_path / "m.onnx")  # fmt: skip
    x = 2 * numbers(3, 5)
    np.testing.assert_allclose(loaded(path, x), run_runtime(path, x), atol=1e-5)


def net_and_pictures(tmp_path):
    fc.manual_seed(0)
    net = fc.models.create_model("resnet8", num_classes=5).train()
    pictures = numbers(8, 3, 32, 32)
    net(fc.tensor(pictures))  # running statistics
    fc.onnx.export(net.eval(), tmp_path / "net.onnx", pictures[:1])
    return net, pictures


def test_a_net_in_operators_on_integers_is_the_net_and_can_be_trained(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    net, pictures = net_and_pictures(tmp_path)

    class Reader(quantization.CalibrationDataReader):
        batches = iter([{"x": pictures[i : i + 1]} for i in range(8)])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        tmp_path / "net.onnx", tmp_path / "int8.onnx", Reader(), quant_format=quantization.QuantFormat.QOperator,
        per_channel=True, reduce_range=True, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    kinds = {n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} & kinds >= {"QLinearConv", "QLinearAdd"}
    read = fc.onnx.load(tmp_path / "int8.onnx")
    want = runtime(tmp_path / "int8.onnx").run(None, {"x": pictures})[0]
    got, largest = read(fc.tensor(pictures)).numpy(), np.abs(want).max()
    assert np.abs(got - want).max() < 0.03 * largest  # a step of 8 bits here and there
    assert np.abs(got - net(fc.tensor(pictures)).numpy()).max() < 0.2 * largest
    assert np.ptp(want, axis=0).max() > 0.1 * largest, "pictures differ"

    read.train()
    optimizer = fc.optim.SGD(read.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        loss = fc.ops.cross_entropy(read(fc.tensor(pictures)), fc.tensor(np.arange(8) % 5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_net_whose_ranges_follow_the_data_is_the_net(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    net, pictures = net_and_pictures(tmp_path)
    quantization.quantize_dynamic(tmp_path / "net.onnx", tmp_path / "int8.onnx", op_types_to_quantize=["Conv", "Gemm"])
    assert "ConvInteger" in {n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node}
    read = fc.onnx.load(tmp_path / "int8.onnx")
    want = runtime(tmp_path / "int8.onnx").run(None, {"x": pictures})[0]
    got, largest = read(fc.tensor(pictures)).numpy(), np.abs(want).max()
    assert np.abs(got - want).max() < 0.03 * largest
    assert np.abs(fc.compile(lambda x: read(x))(fc.tensor(pictures)).numpy() - got).max() < 1e-5 * largest
    assert np.abs(got - net(fc.tensor(pictures)).numpy()).max() < 0.2 * largest


def test_what_has_another_layout_or_meaning_is_refused_by_name(tmp_path):
    def refused(node, constants, message, **more):
        path = saved(microsofts([node], constants, types={"x": (2, None), "y": (2, None)}, **more), tmp_path / "m.onnx")
        with pytest.raises(ValueError, match=message):
            fc.onnx.load(path)

    last = helper.make_node("QLinearGlobalAveragePool", ["x", "as", "az", "ys", "yz"], ["y"], channels_last=1,
                            **MICROSOFT)  # fmt: skip
    refused(last, PAIR, "com.microsoft.QLinearGlobalAveragePool")
    old = helper.make_node("QLinearSoftmax", ["x", "as", "az", "ys", "yz"], ["y"], opset=12, **MICROSOFT)
    refused(old, PAIR, "com.microsoft.QLinearSoftmax")
    gemm = helper.make_node("QGemm", ["x", "as", "az", "m", "bs", "bz", "b"], ["y"], alpha=0.5, **MICROSOFT)
    refused(gemm, {**PAIR, "m": small("u1", 5, 3), "b": np.zeros(3, np.int32)}, "com.microsoft.QGemm")
    fused = helper.make_node("FusedConv", ["x", "k"], ["y"], activation="Elu", activation_params=[1.0], **MICROSOFT)
    refused(fused, {"k": numbers(2, 2, 3, 3)}, "com.microsoft.FusedConv")
    few = helper.make_node("QLinearAdd", ["x", "as", "az"], ["y"], **MICROSOFT)
    refused(few, PAIR, "com.microsoft.QLinearAdd")
    wrong = helper.make_node("QLinearSigmoid", ["x", "as", "az", "ys", "yz"], ["y"], channels_last="no", **MICROSOFT)
    refused(wrong, PAIR, "attribute 'channels_last' is no int")
    strides = helper.make_node("QLinearConv", ["x", "as", "az", "k", "bs", "bz", "ys", "yz"], ["y"], strides="no")
    refused(strides, {**PAIR, "k": small("u1", 6, 2, 3, 3)}, "attribute 'strides' has type")


def test_several_zero_points_of_the_data_are_refused_in_the_call(tmp_path):
    node = helper.make_node("MatMulInteger", ["x", "m", "z"], ["y"])
    types = {"x": (2, None), "z": (2, None), "y": (6, None)}
    model = model_of([node], {"m": small("u1", 5, 3)}, inputs=("x", "z"), types=types)
    read = fc.onnx.load(saved(model, tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match="expected one zero point"):
        read(fc.tensor(small("u1", 2, 5)), fc.tensor(small("u1", 2)))


def standard_cases():
    import importlib

    from onnx.backend.test.case import node

    for name in ("convinteger", "dynamicquantizelinear", "matmulinteger", "qlinearconv", "qlinearmatmul"):
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    kinds = ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
    for case in node._NodeTestCases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in kinds and "float8" not in case.name and case.data_sets:
            yield case


def test_operators_on_integers_give_what_the_standard_says(tmp_path):
    """All operands but the first are constants there, as in files."""
    checked = []
    for case in standard_cases():
        graph = case.model.graph
        given, expected = case.data_sets[0]
        for i, array in reversed(list(zip(graph.input, given, strict=True))[1:]):
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), i.name))
            graph.input.remove(i)
        for imported in case.model.opset_import:
            imported.version = min(imported.version, 25)
        got = fc.onnx.load(saved(case.model, tmp_path / "m.onnx"))(fc.tensor(given[0]))
        for g, want in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
            assert g.shape == want.shape, case.name
            np.testing.assert_allclose(np.asarray(g.numpy(), float), want.astype(float), rtol=1e-5, err_msg=case.name)
        checked.append(case.name)
    assert len(checked) > 9
