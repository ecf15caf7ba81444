"""fc.onnx.load: whole networks give ONNX Runtime's numbers, compile and train; damage and unknown nodes are refused."""

import copy
import importlib.util
import os
import pathlib
import random
import tracemalloc

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx_check import helper, model_of, numbers, run_runtime, same_numbers, saved, small_net  # noqa: E402, F401


def close(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(want).max())))


# ---------------------------------------------------------------- networks of others


def package_file(package, name):
    """A file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"needs a file of the package {package}")
    return pathlib.Path(spec.submodule_search_locations[0]) / name


@pytest.mark.parametrize(
    "name, size",
    [("ppocr_mobile_v2.0_cls", (48, 64)), ("PP-OCRv4_det", (64, 32)), ("PP-OCRv4_rec", (48, 32))],
    ids=["classifier", "detector", "recogniser"],
)
def test_networks_of_an_ocr_package(name, size):
    path = package_file("rapidocr_onnxruntime", f"models/ch_{name}_infer.onnx")
    net = fc.onnx.load(path)
    step = fc.compile(lambda x: net(x))
    for batch in (1, 2):
        x = np.random.default_rng(batch).standard_normal((batch, 3, *size)).astype(np.float32)
        with fc.no_grad():
            eager, planned = net(fc.tensor(x)).numpy(), step(fc.tensor(x)).numpy()
        want = run_runtime(path, x)
        close(eager, want)
        close(planned, want)


@pytest.fixture(scope="module")
def zoo():
    torch = pytest.importorskip("torch")
    from fastcnn.bench.augment import import_torchvision

    return torch, import_torchvision().models


def exported(torch, net, x, path, keep_norms=False):
    options = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE} if keep_norms else {}
    torch.onnx.export(
        net, x, str(path), opset_version=17, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}, **options
    )
    return path


def shaken(torch, net):
    """Norms with statistics and weights as if trained."""
    torch.manual_seed(0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5), m.bias.data.normal_(0, 0.1)
    return net.eval()


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_networks_exported_by_torch(zoo, tmp_path, name):
    torch, models = zoo
    net = shaken(torch, getattr(models, name)(weights=None, num_classes=10))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = net(x).numpy()
    read = fc.onnx.load(exported(torch, net, x, tmp_path / "m.onnx"))
    with fc.no_grad():
        close(read(fc.tensor(x.numpy())).numpy(), want)
        close(read(x=fc.tensor(x[:1].numpy())).numpy(), want[:1])


@pytest.mark.filterwarnings("ignore")
def test_a_network_trains_as_in_torch(zoo, tmp_path):
    """Batch norms by statistics of the batch, every gradient, and running statistics; names are the file's."""
    torch, models = zoo
    net = shaken(torch, models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5))
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    read = fc.onnx.load(exported(torch, net, x, tmp_path / "m.onnx", keep_norms=True))
    names = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    assert set(read.state_dict()) == names
    assert {n for n, _ in read.named_parameters()} == {n for n, _ in net.named_parameters()}
    net.train(), read.train()
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    ours = fc.ops.cross_entropy(read(fc.tensor(x.numpy())), fc.tensor(y.numpy()))
    ours.backward()
    np.testing.assert_allclose(ours.item(), loss.item(), rtol=1e-4)
    grads = dict(read.named_parameters())
    for name, p in net.named_parameters():
        want = p.grad.numpy()
        limit = 2e-3 * np.abs(want).max()
        np.testing.assert_allclose(grads[name].grad.numpy(), want, rtol=2e-3, atol=limit, err_msg=name)
    state = read.state_dict()
    for name, value in net.state_dict().items():
        if "running_mean" in name:
            np.testing.assert_allclose(state[name].numpy(), value.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


# ---------------------------------------------------------------- training, state, modes

@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_fine_tuning_lowers_the_loss(tmp_path, quantized, compiled):
    path = saved(small_net(quantized), tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    x, y = fc.tensor(numbers(16, 2, 8, 8)), fc.tensor(np.arange(16) % 3)
    close(net(x).numpy(), run_runtime(path, x.numpy()))
    assert {n for n, _ in net.named_parameters()} == {"conv.weight", "bn.weight", "bn.bias", "fc.weight", "fc.bias"}
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    optimizer = fc.optim.Adam(net.parameters(), lr=0.02)
    net.train()

    def step(x, y):
        optimizer.zero_grad()
        loss = fc.ops.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step = fc.compile(step) if compiled else step
    losses = [step(x, y).item() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    after = net.state_dict()
    assert all((after[k].numpy() != before[k]).any() for k in before), "every weight and statistic has moved"


def test_freezing_keeps_norms_in_evaluation(tmp_path):
    net = fc.onnx.load(saved(small_net(), tmp_path / "m.onnx"))
    x = fc.tensor(numbers(4, 2, 8, 8))
    want = net(x).numpy()
    net.freeze().train()
    np.testing.assert_array_equal(net(x).numpy(), want)
    assert not any(p.requires_grad for p in net.parameters())
    net.unfreeze()
    assert np.abs(net(x).numpy() - want).max() > 1e-3


def test_state_moves_between_files_and_copies(tmp_path):
    net = fc.onnx.load(saved(small_net(), tmp_path / "m.onnx"))
    x = fc.tensor(numbers(2, 2, 8, 8))
    net.save(tmp_path / "w.safetensors")
    other = fc.onnx.load(saved(small_net(), tmp_path / "n.onnx"))  # other numbers
    assert np.abs(other(x).numpy() - net(x).numpy()).max() > 1e-3
    other.load(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other(x).numpy(), net(x).numpy())
    twin = copy.deepcopy(net)
    for p in twin.parameters():
        p.detach().zero_()
    np.testing.assert_array_equal(other(x).numpy(), net(x).numpy())
    np.testing.assert_array_equal(twin(x).numpy(), np.zeros((2, 3), np.float32))


def test_what_weighs_and_what_does_not(tmp_path):
    """Numbers beside the graph's input normalise it; clashing and odd names become near ones."""
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Mul", ["b", "w.scale"], ["c"]),
        helper.make_node("Add", ["c", "train"], ["d"]),
        helper.make_node("Mul", ["d", "half"], ["e"]),
        helper.make_node("PRelu", ["e", "..odd"], ["y"]),
    ]
    constants = {
        "mean": numbers(1, 2, 1, 1), "w": numbers(3, 2, 1, 1), "w.scale": numbers(3, 1, 1), "train": numbers(3, 1, 1),
        "half": np.float32(0.5), "..odd": numbers(3, 1, 1),
    }  # fmt: skip
    path = saved(model_of(nodes, constants), tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    assert [n for n, _ in net.named_buffers()] == ["mean"]
    assert sorted(n for n, _ in net.named_parameters()) == ["odd", "train_", "w", "w_scale"]
    x = numbers(2, 2, 4, 4)
    close(net(fc.tensor(x)).numpy(), run_runtime(path, x))


def test_shapes_follow_the_input(tmp_path):
    """Shape arithmetic is done anew for each shape: a reshape by halves of the input's own sizes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Div", ["h", "two"], ["half"]),
        helper.make_node("Unsqueeze", ["half", "axes"], ["half1"]),
        helper.make_node("Concat", ["minus", "half1"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"two": np.int64(2), "axes": np.int64([0]), "minus": np.int64([-1])}
    net = fc.onnx.load(saved(model_of(nodes, constants), tmp_path / "m.onnx"))
    step = fc.compile(lambda x: net(x))
    for shape, want in (((1, 2, 6, 5), (20, 3)), ((2, 2, 8, 3), (24, 4))):
        assert net(fc.zeros(shape)).shape == want == step(fc.zeros(shape)).shape


def test_inputs_and_outputs_by_name(tmp_path):
    nodes = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Relu", ["d"], ["r"])]
    net = fc.onnx.load(saved(model_of(nodes, inputs=("a", "b"), outputs=("d", "r")), tmp_path / "m.onnx"))
    a, b = fc.tensor(np.float32([1, 2])), fc.tensor(np.float32([2, 1]))
    d, r = net(a, b=b)
    assert (d.tolist(), r.tolist()) == ([-1, 1], [0, 1])
    for args, named in (((a,), {}), ((a, b, a), {}), ((a, b), {"a": a}), ((), {"a": a, "c": b})):
        with pytest.raises(TypeError, match="expected the inputs a, b"):
            net(*args, **named)
    with pytest.raises(TypeError, match="input 'b' as a Tensor, got list"):
        net(a, [1])


def test_values_inside_the_graph_can_be_outputs(tmp_path):
    path = saved(small_net(), tmp_path / "m.onnx")
    x = numbers(2, 2, 8, 8)
    maps, features = fc.onnx.load(path, outputs=["r", "f"])(fc.tensor(x))
    close(features.numpy(), maps.numpy().mean((2, 3)))
    body = fc.onnx.load(path, outputs="f")
    np.testing.assert_array_equal(body(fc.tensor(x)).numpy(), features.numpy())
    assert not any(name.startswith("fc.") for name in body.state_dict()), "what the outputs do not need is left out"
    for outputs in (["f", "f"], [], ["pool"]):
        with pytest.raises(ValueError, match=r"m.onnx: expected outputs as .*the last ones of the graph are .*f, y"):
            fc.onnx.load(path, outputs=outputs)


def test_models_are_read_from_bytes(tmp_path):
    path = saved(small_net(), tmp_path / "m.onnx")
    x = fc.tensor(numbers(2, 2, 8, 8))
    np.testing.assert_array_equal(fc.onnx.load(path.read_bytes())(x).numpy(), fc.onnx.load(path)(x).numpy())
    with pytest.raises(ValueError, match="bytes: not an ONNX file"):
        fc.onnx.load(b"hello")
    with pytest.raises(ValueError, match="bytes have no folder"):
        fc.onnx.load(external(tmp_path, location="w.bin").read_bytes())


# ---------------------------------------------------------------- branches


def branch(nodes, output, constants=None):
    value = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    initializers = [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    return helper.make_graph(nodes, "branch", [], [value], initializers)


def choice(condition, output="y", nested=None):
    """An If whose branches have values and weights of one name each: x * w and SiLU of x, or another choice."""
    silu = [helper.make_node("Sigmoid", ["x"], ["b"]), helper.make_node("Mul", ["x", "b"], ["c"])]
    branches = {
        "then_branch": branch([helper.make_node("Mul", ["x", "w"], ["c"])], "c", {"w": numbers(4)}),
        "else_branch": branch([nested], nested.output[0]) if nested else branch(silu, "c"),
    }
    return helper.make_node("If", [condition], [output], name="choice", **branches)


def larger(axis, size, name):
    """Nodes of the condition that x has more than size elements along an axis."""
    return [
        helper.make_node("Shape", ["x"], [f"{name}_shape"], start=axis, end=axis + 1),
        helper.make_node("Constant", [], [f"{name}_size"], value_ints=[size]),
        helper.make_node("Greater", [f"{name}_shape", f"{name}_size"], [name]),
    ]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_branches_of_shapes_are_taken_call_by_call(tmp_path, compiled):
    model = model_of([*larger(0, 2, "many"), *larger(1, 2, "long"), choice("many", nested=choice("long", "inner"))])
    path = saved(model, tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    predict = fc.compile(lambda x: net(x)) if compiled else net
    for shape in ((3, 1, 4), (1, 3, 4), (1, 1, 4)):
        x = numbers(*shape)
        np.testing.assert_allclose(predict(fc.tensor(x)).numpy(), run_runtime(path, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("taken", [True, False])
def test_of_a_constant_condition_one_branch_remains(tmp_path, taken):
    x = numbers(2, 4)
    for nodes in ([], [helper.make_node("Not", ["no"], ["yes"])]):
        model = model_of([*nodes, choice("yes" if nodes else "on")], {"no": np.array(not taken), "on": np.array(taken)})
        path = saved(model, tmp_path / "m.onnx")
        net = fc.onnx.load(path)
        assert {n.op for n in net._nodes} <= {"Mul", "(silu)", "Identity"} and len(net.state_dict()) == taken
        np.testing.assert_allclose(net(fc.tensor(x)).numpy(), run_runtime(path, x), rtol=1e-5, atol=1e-6)


def test_branches_of_data_are_refused(tmp_path):
    nodes = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Cast", ["m"], ["on"], to=9)]
    with pytest.raises(ValueError, match=r"\(if\) 'choice': operand 0, 'on', depends on the data"):
        fc.onnx.load(saved(model_of([*nodes, choice("on")]), tmp_path / "m.onnx"))
    model = model_of([*larger(0, 2, "many"), choice("many")])
    model.graph.node[-1].attribute[0].g.output[0].name = ""
    refused(tmp_path / "m.onnx", model.SerializeToString(), "If 'choice' has 1 outputs, a branch")


# ---------------------------------------------------------------- constants of rare types


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_tensors_are_written_out(tmp_path, flat):
    def sparse(name):
        places = np.int64([1, 5]) if flat else np.int64([[0, 1], [1, 2]])
        return helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(np.float32([3, 4]), name), onnx.numpy_helper.from_array(places), [2, 3]
        )

    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=sparse("")),
        helper.make_node("Mul", ["x", "c"], ["t"]),
        helper.make_node("Add", ["t", "s"], ["y"]),
    ]
    model, path, x = model_of(nodes), tmp_path / "m.onnx", numbers(2, 3)
    model.graph.sparse_initializer.append(sparse("s"))
    dense = np.float32([[0, 3, 0], [0, 0, 4]])
    np.testing.assert_allclose(fc.onnx.load(saved(model, path))(fc.tensor(x)).numpy(), x * dense + dense)
    for dims, match in (([1 << 20, 1 << 20], "tensors have"), ([1, 2], "places outside"), ([-1, 6], "has shape")):
        model.graph.sparse_initializer[0].dims[:] = dims
        refused(path, model.SerializeToString(), match)


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "BFLOAT16", "FLOAT16", "INT4", "UINT16"])
def test_constants_of_small_types(tmp_path, kind):
    w = helper.make_tensor("w", getattr(onnx.TensorProto, kind), [3], [2, 4, 3])
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("Mul", ["x", "f"], ["y"])]
    model = model_of(nodes, opset=21)
    model.graph.initializer.append(w)
    x = numbers(2, 3)
    net = fc.onnx.load(saved(model, tmp_path / "m.onnx"))
    np.testing.assert_allclose(net(fc.tensor(x)).numpy(), x * np.float32([2, 4, 3]), rtol=1e-6)


def test_16_bits_as_onnx_runtimes_quantiser_writes_them(tmp_path):
    constants = {"s": np.float32(0.01), "z": np.uint16(300)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain="com.microsoft"),
    ]
    model, x = model_of(nodes, constants), numbers(2, 3)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = saved(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(fc.onnx.load(path)(fc.tensor(x)).numpy(), run_runtime(path, x), atol=1e-6)


# ---------------------------------------------------------------- what is refused


def test_all_unsupported_nodes_are_listed_at_once(tmp_path):
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["l"], name="rnn", hidden_size=2),
        helper.make_node("NonMaxSuppression", ["l", "l"], ["n"], name="nms"),
        helper.make_node("FusedMatMul", ["l", "n"], ["f"], name="fused", domain="com.microsoft"),
        helper.make_node("Loop", ["l"], ["unused"], name="dead"),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    path = saved(model_of(nodes, {"w": numbers(1, 8, 3), "r": numbers(1, 8, 2)}), tmp_path / "net.onnx")
    with pytest.raises(ValueError) as e:
        fc.onnx.load(path)
    text = str(e.value)
    assert "net.onnx: 3 nodes are not supported" in text and "dead" not in text
    assert all(t in text for t in ("LSTM 'rnn'", "NonMaxSuppression 'nms'", "com.microsoft.FusedMatMul 'fused'"))


def of_constants():
    """Operators that have no kernel of fastcnn, each with constants: {name: (node, {name: array})}."""
    return {
        "NonZero": (["c"], {"c": np.float32([[1, 0], [2, 3]])}),
        "ConstantOfShape": (["c"], {"c": np.int64([2, 3])}),
        "Range": (["c", "e", "d"], {"c": np.float32(0), "e": np.float32(3), "d": np.float32(0.5)}),
    }


@pytest.mark.parametrize("op", of_constants())
def test_operators_of_constants_are_computed_of_constants_alone(tmp_path, op):
    names, constants = of_constants()[op]
    node = helper.make_node(op, names, ["k"], name="p")
    last = [helper.make_node("Cast", ["k"], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"])]
    path = saved(model_of([node, *last], constants), tmp_path / "m.onnx")
    np.testing.assert_allclose(fc.onnx.load(path)(fc.zeros(1)).numpy(), run_runtime(path, np.zeros(1, np.float32)))
    changed = [helper.make_node("Add", ["x", "c"], ["s"]), helper.make_node(op, ["s", *names[1:]], ["y"], name="p")]
    with pytest.raises(ValueError, match=f"1 nodes .*supported:\n.*{op} 'p': operand 0, 's', depends on the data"):
        fc.onnx.load(saved(model_of(changed, constants), tmp_path / "n.onnx"))


def test_positions_counted_on_a_mask_of_the_inputs_shape(tmp_path):
    """As timm's edgenext does: ones of the shape of x, counted along an axis, divided by a table, beside a weight."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["ones"], value=helper.make_tensor("v", 1, [1], [1])),
        helper.make_node("CumSum", ["ones", "axis"], ["at"]),
        helper.make_node("CumSum", ["table", "first"], ["steps"]),
        helper.make_node("Mul", ["x", "table"], ["t"]),
        helper.make_node("Div", ["at", "steps"], ["d"]),
        helper.make_node("Sin", ["d"], ["p"]),
        helper.make_node("Add", ["t", "p"], ["y"]),
    ]
    constants = {"axis": np.int64(3), "first": np.int64(0), "table": np.abs(numbers(5)) + 1}
    path = saved(model_of(nodes, constants), tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    for n in (1, 3):
        x = numbers(n, 2, 4, 5)
        close(net(fc.tensor(x)).numpy(), run_runtime(path, x))


def test_constants_of_the_inputs_shape_may_be_as_large_as_activations(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "nine"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["y"], value=helper.make_tensor("v", 9, [1], [0])),
    ]
    types = {"x": (onnx.TensorProto.FLOAT, ["n"]), "y": (onnx.TensorProto.BOOL, None)}
    net = fc.onnx.load(saved(model_of(nodes, {"nine": np.int64([9])}, types=types), tmp_path / "m.onnx"))
    assert net(fc.zeros(1 << 21)).shape == (9 << 21,)


OPTIONS = {
    "3-D convolution": (
        helper.make_node("Conv", ["x", "w"], ["y"]), {"w": numbers(2, 3, 3, 1, 1)}, r"shape \[2, 3, 3, 1, 1\]",
    ),
    "3-D pool": (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2]), {}, "3-D windows"),
    "padding mode": (helper.make_node("Pad", ["x", "p"], ["y"], mode="mirror"), {"p": np.int64([1] * 8)}, "'mirror'"),
    "resize rule": (
        helper.make_node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="tf_crop_and_resize"),
        {"s": np.float32([1, 1, 2, 2])}, "tf_crop_and_resize",
    ),
    "shape from data": (helper.make_node("Reshape", ["x", "x"], ["y"]), {}, "operand 1, 'x', depends on the data"),
    "many of TopK": (helper.make_node("TopK", ["x", "k"], ["y", "i"]), {"k": np.int64([99])}, "k of 99, more than 64"),
    "indices": (helper.make_node("MaxPool", ["x"], ["m", "y"], kernel_shape=[2, 2]), {}, "the indices"),
    "auto_pad": (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="X"), {"w": numbers(2, 3, 1, 1)}, "auto_pad 'X'"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_unsupported_options_are_named_when_a_file_is_read(tmp_path, name):
    node, constants, match = OPTIONS[name]
    with pytest.raises(ValueError, match=f"{node.op_type}.*{match}"):
        fc.onnx.load(saved(model_of([node], constants), tmp_path / "m.onnx"))


def test_errors_of_a_run_name_the_node(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    types = {"x": (onnx.TensorProto.FLOAT, ["n", 3, 8, 8])}
    net = fc.onnx.load(saved(model_of([node], {"w": numbers(4, 3, 3, 3)}, types=types), tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match=r"OnnxModule: Conv 'first'.*\(1, 5, 8, 8\)"):
        net(fc.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match=r"input 'x' of shape \(any, 3, 8, 8\), got \(3, 8, 8\)"):
        net(fc.zeros(3, 8, 8))


def refused(path, data, match):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as e:
        fc.onnx.load(path)
    assert path.name in str(e.value)


def test_memory_that_a_run_lacks_is_said_with_the_node(tmp_path):
    nodes = [helper.make_node("Resize", ["x", "", "", "n"], ["y"], name="up")]
    net = fc.onnx.load(saved(model_of(nodes, {"n": np.int64([1, 1, 1 << 60, 1])}), tmp_path / "m.onnx"))
    with pytest.raises(MemoryError, match="Resize 'up'"):
        net(fc.zeros(1, 1, 2, 2))


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "bad.onnx"
    for data in (b"", b"hello", b"PK\x03\x04" + bytes(50), b"\x08\x07", b"\x3a\x00", os.urandom(64)):
        refused(path, data, "bad.onnx")
    relu = helper.make_node("Relu", ["x"], ["y"])
    for change, match in (
        (dict(opset=6), "opset 6; expected 7 to 25"), (dict(opset=27), "opset 27"), (dict(outputs=()), "no outputs"),
        (dict(outputs=("z",)), "'z' is made by no node"), (dict(inputs=()), "reads 'x', which nothing"),
        (dict(constants={"y": numbers(1)}), "'y' is made twice"),
    ):  # fmt: skip
        refused(path, model_of([relu], **change).SerializeToString(), match)
    with pytest.raises(FileNotFoundError):
        fc.onnx.load(tmp_path / "none.onnx")


def test_tensors_must_have_their_bytes(tmp_path):
    def changed(change):
        model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"w": numbers(3)})
        change(model.graph.initializer[0])
        return model.SerializeToString()

    for change, match in (
        (lambda t: t.dims.append(1 << 40), "needs 13194139533312 bytes, 12 are there"),
        (lambda t: t.dims.append(-1), r"has shape \[3, -1\]"),
        (lambda t: setattr(t, "raw_data", b"1234"), "needs 12 bytes, 4 are there"),
        (lambda t: setattr(t, "data_type", 8), "STRING"),
        (lambda t: setattr(t, "data_type", 99), "type 99"),
        (lambda t: t.ClearField("raw_data"), "has 0 values"),
    ):
        refused(tmp_path / "bad.onnx", changed(change), match)


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


def test_external_data_is_read_from_the_models_folder_alone(tmp_path):
    data = np.float32([7, 1, 2, 3]).tobytes()
    (tmp_path / "outside.bin").write_bytes(data)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "w.bin").write_bytes(data)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "outside.bin")
    net = fc.onnx.load(external(tmp_path, location="sub/w.bin", offset="4", length="12"))
    assert net(fc.zeros(3)).tolist() == [1, 2, 3]
    outside = ["../outside.bin", str(tmp_path / "outside.bin"), "sub/../../outside.bin", "link.bin", "..", "/"]
    for location in outside:
        with pytest.raises(ValueError, match="outside of the model's folder"):
            fc.onnx.load(external(tmp_path, location=location))
    for entries, match in (
        (dict(location="none.bin"), "is missing"),
        (dict(location="sub"), "is missing"),
        (dict(), "no name of a file"),
        (dict(location="a\0b"), "no name of a file"),
        (dict(location="sub/w.bin", offset="8"), "from byte 8 of 16"),
        (dict(location="sub/w.bin", offset="-4"), "from byte -4"),
        (dict(location="sub/w.bin", offset="x"), "no number"),
        (dict(location="sub/w.bin", length="99"), "names 99"),
    ):
        with pytest.raises(ValueError, match=match):
            fc.onnx.load(external(tmp_path, **entries))


def bombs():
    big = np.int64([1 << 20, 1 << 20])
    ones = {"s": big, "one": np.ones(1, np.float32), "i": np.int64([1])}
    yield [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])], ones
    yield [helper.make_node("Expand", ["one", "s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])], ones
    yield [helper.make_node("Tile", ["s", "r"], ["c"]), helper.make_node("Reshape", ["x", "c"], ["y"])], {
        "s": big, "r": np.int64([1 << 40]),
    }  # fmt: skip
    yield [helper.make_node("Range", ["a", "b", "d"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])], {
        "a": np.float32(0), "b": np.float32(1e30), "d": np.float32(1),
    }  # fmt: skip
    doubling = [helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(40)]
    yield [*doubling, helper.make_node("Reshape", ["x", "v40"], ["y"])], {"v0": np.ones(4, np.int64)}
    many = [helper.make_node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(100)]
    yield [*many, helper.make_node("Sum", ["x", *(f"c{i}" for i in range(100))], ["y"])], {"s": np.int64([1 << 22])}


def test_small_files_cannot_ask_for_much_memory(tmp_path, request):
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    for nodes, constants in bombs():
        refused(tmp_path / "bad.onnx", model_of(nodes, constants).SerializeToString(), "constant")
    assert tracemalloc.get_traced_memory()[1] < 300_000_000


def test_cut_and_flipped_files_are_errors_or_networks(tmp_path):
    data, path, rng = small_net(True).SerializeToString(), tmp_path / "m.onnx", random.Random(0)
    errors = 0
    for i in range(300):
        changed = bytearray(data)
        if i % 3 == 0:
            del changed[rng.randrange(len(data)) :]
        for _ in range(rng.choice((1, 3, 8)) if changed else 0):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            fc.onnx.load(path)
        except ValueError as e:
            errors += "m.onnx" in str(e)
    assert errors > 100


def called(name, nodes, opset=17, **more):
    """A local function of one operand; calls(name, x, y, ...) are nodes of it."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports, **more)


def with_functions(functions, nodes):
    model = model_of(nodes)
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_local_functions_have_their_defaults_and_their_opsets(tmp_path):
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    bent = called("Bent", [leaky], attribute_protos=[helper.make_attribute("slope", 0.5)])
    mean = called("Mean", [helper.make_node("ReduceMean", ["a"], ["b"], axes=[1])], opset=13)
    nodes = [
        helper.make_node("Bent", ["x"], ["t"], domain="local"),
        helper.make_node("Bent", ["t"], ["u"], domain="local", slope=0.25),
        helper.make_node("Mean", ["u"], ["y"], domain="local"),
    ]
    x = numbers(2, 3)
    net = fc.onnx.load(saved(with_functions([bent, mean], nodes), tmp_path / "m.onnx"))
    want = np.where(x < 0, x / 8, x).mean(1, keepdims=True)
    np.testing.assert_allclose(net(fc.tensor(x)).numpy(), want, rtol=1e-5)


def test_functions_cannot_grow_without_bounds(tmp_path):
    """Each calls the one before twice; the last calls itself."""
    twice = [
        called(f"F{i}", [helper.make_node(f"F{i - 1}", [a], [b], domain="local") for a, b in ("at", "tb")])
        for i in range(1, 40)
    ]
    first = called("F0", [helper.make_node("Relu", ["a"], ["b"])])
    call = helper.make_node("F39", ["x"], ["y"], domain="local")
    for functions in ([first, *twice], [called("F39", [helper.make_node("F39", ["a"], ["b"], domain="local")])]):
        refused(tmp_path / "bad.onnx", with_functions(functions, [call]).SerializeToString(), "call themselves")


def test_import_stays_quick_and_says_what_is_missing():
    import subprocess
    import sys

    code = "import sys, fastcnn; assert 'onnx' not in sys.modules; sys.modules['onnx'] = None\ntry: fastcnn.onnx\n"
    code += "except ImportError as e: print(e)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "fastcnn[onnx]"' in out
