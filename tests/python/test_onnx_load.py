"""fc.onnx.load: whole networks give ONNX Runtime's numbers, compile and train."""

import copy
import importlib.util
import pathlib

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx_check import close, external, helper, model_of, numbers, refused, run_runtime, saved, small_net  # noqa: E402

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


def test_layers_of_one_channel_have_weights_as_others(tmp_path):
    """A bias of one number trains; statistics of one channel move with the batches and are those of the evaluation."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], momentum=0.5),
        helper.make_node("PRelu", ["b", "act.slope"], ["p"]),
        helper.make_node("Mul", ["p", "half"], ["y"]),
    ]
    one = np.ones(1, np.float32)
    constants = {
        "conv.weight": numbers(1, 2, 1, 1), "conv.bias": 2 * one, "bn.weight": one, "bn.bias": 0 * one,
        "bn.mean": 0 * one, "bn.var": one, "act.slope": one / 4, "half": one / 2,
    }  # fmt: skip
    path = saved(model_of(nodes, constants), tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    assert {*net.state_dict()} == {*constants} - {"half"}
    assert {n for n, _ in net.named_buffers()} == {"bn.mean", "bn.var"}
    x = fc.tensor(numbers(4, 2, 3, 3))
    close(net(x).numpy(), run_runtime(path, x.numpy()))
    net.train()
    optimizer = fc.optim.SGD(net.parameters(), lr=0.1)
    fc.ops.sum(net(x) ** 2).backward()
    optimizer.step()
    after = {k: v.numpy() for k, v in net.state_dict().items()}
    moved = {k for k in after if (after[k] != constants[k]).any()}
    assert {"bn.mean", "bn.var", "bn.weight", "bn.bias", "act.slope"} <= moved
    conv = (x.numpy() * constants["conv.weight"].reshape(1, 2, 1, 1)).sum(1) + 2
    np.testing.assert_allclose(after["bn.mean"], [0.5 * conv.mean()], rtol=1e-4)


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


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_a_resize_to_the_sizes_of_one_image_takes_no_batch(tmp_path, mode):
    """As exporters write it without a free batch: the images would be resized to one."""
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode=mode)
    path = saved(model_of([node], {"s": np.int64([1, 2, 6, 8])}), tmp_path / "m.onnx")
    net, x = fc.onnx.load(path), numbers(1, 2, 3, 4)
    close(net(fc.tensor(x)).numpy(), run_runtime(path, x))
    with pytest.raises(ValueError, match=r"of one image.*got a batch \(2, 2, 3, 4\)"):
        net(fc.zeros(2, 2, 3, 4))


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


def test_import_stays_quick_and_says_what_is_missing():
    import subprocess
    import sys

    code = "import sys, fastcnn; assert 'onnx' not in sys.modules; sys.modules['onnx'] = None\ntry: fastcnn.onnx\n"
    code += "except ImportError as e: print(e)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "fastcnn[onnx]"' in out
