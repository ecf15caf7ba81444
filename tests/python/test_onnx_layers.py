"""fc.onnx.load: layers that others take the place of, that hooks see and that summaries count."""

import copy

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx_check import helper, model_of, numbers, saved, small_net  # noqa: E402


def test_a_new_head_takes_the_place_of_the_old_one_and_trains(tmp_path):
    path = saved(small_net(), tmp_path / "m.onnx")
    net = fc.onnx.load(path).freeze()
    x, y = fc.tensor(numbers(8, 2, 8, 8)), fc.tensor(np.arange(8) % 5)
    features = fc.onnx.load(path, outputs="f")(x)
    step = fc.compile(lambda x: net(x))
    assert step(x).shape == (8, 3)
    net.fc = fc.nn.Linear(6, 5)
    assert step(x).shape == (8, 5), "plans follow"
    np.testing.assert_allclose(net(x).numpy(), net.fc(features).numpy(), rtol=1e-5, atol=1e-6)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    optimizer, losses = fc.optim.Adam(net.train().parameters(), lr=0.1), []
    for _ in range(20):
        loss = fc.ops.cross_entropy(net(x), y)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    twin = copy.deepcopy(net)
    twin.fc = fc.nn.Identity()
    np.testing.assert_allclose(twin(x).numpy(), features.numpy(), rtol=1e-5, atol=1e-6)
    net.conv = fc.nn.Conv2d(2, 6, 3, stride=2)  # with options of its own
    assert fc.onnx.load(path, outputs="c")(x).shape == (8, 6, 8, 8) and net(x).shape == (8, 5)


def test_layers_are_seen_by_hooks(tmp_path):
    """So that summaries, feature extractors and pictures know them."""
    path = saved(small_net(), tmp_path / "m.onnx")
    net, x = fc.onnx.load(path), fc.tensor(numbers(2, 2, 8, 8))
    want = net(x).numpy()
    found = fc.models.feature_extractor(net, {"conv": "maps", "fc": "scores"})(x)
    np.testing.assert_array_equal(found["maps"].numpy(), fc.onnx.load(path, outputs="c")(x).numpy())
    np.testing.assert_array_equal(found["scores"].numpy(), want)
    rows = fc.summary(net, (2, 8, 8)).rows
    assert [(r.name, r.output_shape) for r in rows] == [("conv", (1, 6, 8, 8)), ("bn", (1, 6, 8, 8)), ("fc", (1, 3))]
    assert [(r.layer, r.macs) for r in rows] == [
        ("Conv", 6 * 64 * 2 * 9), ("BatchNormalization", 0), ("Gemm", 3 * 6)
    ]  # fmt: skip
    net.fc = fc.nn.Linear(6, 5)
    assert fc.summary(net, (2, 8, 8)).rows[-1][:5] == ("fc", "Linear", (1, 5), 35, 30)
    net = fc.onnx.load(path)
    with net.fc.register_forward_pre_hook(lambda module, args: (0 * args[0],)):
        np.testing.assert_allclose(net(x).numpy(), np.stack([net.fc.bias.numpy()] * 2), rtol=1e-6)


def test_a_summary_counts_nodes_whose_weights_lie_in_no_scope(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first"),
        helper.make_node("ConvTranspose", ["c", "w2"], ["d"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["m"], transB=1),
        helper.make_node("MatMul", ["m", "w4"], ["y"]),
    ]
    shapes = {"w": (4, 2, 3, 3), "b": (4,), "w2": (4, 6, 2, 2), "w3": (5, 6), "w4": (5, 3)}
    net = fc.onnx.load(saved(model_of(nodes, {k: numbers(*s) for k, s in shapes.items()}), tmp_path / "m.onnx"))
    s = fc.summary(net, (2, 6, 6))
    assert [(r.layer, r.output_shape, r.params, r.macs) for r in s.rows] == [
        ("Conv", (1, 4, 4, 4), 76, 4 * 16 * 18),
        ("ConvTranspose", (1, 6, 8, 8), 96, 4 * 16 * 6 * 4),
        ("Gemm", (1, 5), 30, 30),
        ("MatMul", (1, 3), 15, 15),
    ]
    assert s.rows[0].name == "first" and s.total_params == 76 + 96 + 30 + 15
    assert net._watch is None and net(fc.tensor(numbers(2, 2, 6, 6))).shape == (2, 3)


def test_modules_that_cannot_stand_for_a_scope_are_refused(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "body.conv.weight", "body.conv.bias"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "head.weight"], ["m"]),
        helper.make_node("Add", ["m", "head.bias"], ["y"]),
    ]
    names = {"body.conv.weight": (4, 2, 1, 1), "body.conv.bias": (4,), "head.weight": (4, 4), "head.bias": (4,)}
    path = saved(model_of(nodes, {k: numbers(*s) for k, s in names.items()}), tmp_path / "m.onnx")
    x = fc.tensor(numbers(2, 2, 3, 3))
    for name, value, match in (
        ("head", fc.nn.Linear(4, 4), "'head' is now of type Linear, but the graph reads head.weight, head.bias"),
        ("body", fc.nn.Conv2d(2, 4, 1), "'body' is now of type Conv2d, but the graph reads body.conv.weight"),
        ("head", None, "'head' is now of type NoneType"),
    ):
        net = fc.onnx.load(path)
        setattr(net, name, value)
        with pytest.raises(ValueError, match=match):
            net(x)
    net = fc.onnx.load(path)
    net.head.weight = fc.nn.Parameter(fc.tensor(numbers(4, 7)))  # weights by themselves can be any that fit
    net.head.bias = fc.nn.Parameter(fc.zeros(7))
    assert net(x).shape == (2, 7)
    net.head.bias = None
    with pytest.raises(ValueError, match="expected 'head.bias', which the graph reads, as a Tensor, got NoneType"):
        net(x)
