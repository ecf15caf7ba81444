"""fc.onnx.export: every kind of model passes the checker and gives ONNX Runtime's numbers, at other batch sizes too."""

import os

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn

onnx = pytest.importorskip("onnx")
from onnx_check import RNG, numbers, runtime  # noqa: E402


def shaken(net):
    """Statistics of norms as if trained."""
    for name, b in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            low, high = (0.5, 1.5) if name.endswith("var") else (-0.1, 0.1)  # or ReLUs would be silent
            b.copy_(fc.tensor(RNG.uniform(low, high, b.shape).astype(np.float32)))
    return net


def outputs_of(result):
    result = list(result.values()) if isinstance(result, dict) else result
    return [t.numpy() for t in (result if isinstance(result, (list, tuple)) else [result])]


def compare(net, path, *inputs, tolerance=1e-4):
    """The file's outputs are the model's."""
    session = runtime(path)
    got = session.run(None, {i.name: a for i, a in zip(session.get_inputs(), inputs, strict=True)})
    with fc.no_grad():
        want = outputs_of(net(*map(fc.tensor, inputs)))
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(w).max())))


MODELS = {
    "resnet8": (3, 32), "mobilenet_v3_small": (3, 32), "shufflenet_v2_x0_5": (3, 32), "squeezenet1_1": (3, 48),
    "efficientnet_lite0": (3, 32), "preact_resnet20": (3, 32), "capsnet": (1, 28), "airbench94": (3, 32),
    "unet": (3, 32),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_same_at_every_batch_size(tmp_path, name):
    channels, size = MODELS[name]
    options = {"width": 8} if name == "unet" else {}
    net = shaken(fc.models.create_model(name, num_classes=5, in_channels=channels, **options)).train()
    fc.onnx.export(net, tmp_path / "net.onnx", numbers(2, channels, size, size))
    assert net.training and all(m.training for m in net.modules()), "the mode is as before"
    net.eval()
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    kept = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    unused = {k for k in kept if k.startswith("decoder.")} if name == "capsnet" else set()
    assert kept - {i.name for i in model.graph.initializer} == unused
    for batch in (1, 3):
        compare(net, tmp_path / "net.onnx", numbers(batch, channels, size, size))


@pytest.mark.parametrize("name", ["dcgan", "resnet_gan", "sngan", "cgan"])
def test_both_sides_of_gans(tmp_path, name):
    pair = shaken(fc.models.create_model(name, image_size=32, width=8, in_channels=3)).eval()
    labels = (RNG.integers(0, 10, 2),) if name == "cgan" else ()
    z = numbers(2, pair.generator.latent_dim)
    for net, x in ((pair.generator, z), (pair.discriminator, numbers(2, 3, 32, 32))):
        fc.onnx.export(net, tmp_path / "net.onnx", (x[:1].repeat(3, 0), *(l[:1].repeat(3) for l in labels)))
        compare(net, tmp_path / "net.onnx", x, *labels)
        with fc.no_grad():
            again = fc.onnx.load(tmp_path / "net.onnx").eval()(*map(fc.tensor, (x, *labels)))
            np.testing.assert_allclose(again.numpy(), net(*map(fc.tensor, (x, *labels))).numpy(), rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """A function of tensors with layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x):
        return self.function(x, *self.layers)


def layer(module):
    return lambda: (Net(lambda x, m: m(x), module()), (2, 8, 9, 11))


def function(f, *shape):
    return lambda: (Net(f), shape or (2, 8, 9, 11))


def _view_mix(x):
    n, c, h, w = x.shape
    y = x.reshape(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h * w)
    return fc.cat([y[:, 1:, ::2], y[:, :-1, 1::2][:, :, :1].expand(n, c - 1, 3)], 2)


ops = fc.ops
CASES = {
    **{name: layer(getattr(nn, name)) for name in (
        "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Sigmoid Tanh Softsign "
        "LogSigmoid Softshrink Hardshrink Tanhshrink RReLU Softmin Softmax2d"
    ).split()},
    "softplus": function(lambda x: ops.softplus(x, 2.0)),
    "softplus_cut": function(lambda x: ops.softplus(x, 2.0, 1.0)),
    "gelu_tanh": function(lambda x: ops.gelu(x, "tanh")),
    "prelu": layer(lambda: nn.PReLU(8)),
    "glu": layer(lambda: nn.GLU(1)),
    "unflatten": layer(lambda: nn.Unflatten(1, (2, -1))),
    "unfold": layer(lambda: nn.Unfold((3, 2), padding=1, stride=2, dilation=2)),
    "fold": lambda: (Net(lambda x, m: m(x), nn.Fold((5, 7), 2, padding=1, stride=2)), (2, 12, 12)),
    "embedding": lambda: (Net(lambda x, m: m((x * 9).to("int64").clamp(0, 9)), nn.Embedding(10, 4)), (2, 8)),
    "threshold": layer(lambda: nn.Threshold(0.1, -1.5)),
    "softmax": function(lambda x: ops.softmax(x, 1)),
    "softmax_w": function(lambda x: ops.softmax(x, 3)),
    "log_softmax": function(lambda x: ops.log_softmax(x, 2), 2, 3, 4),
    "conv": layer(lambda: nn.Conv2d(8, 4, (3, 2), stride=2, padding="same", dilation=2, groups=2)),
    "conv_asymmetric": layer(lambda: nn.Conv2d(8, 4, 3, padding=((0, 2), (1, 0)), bias=False)),
    "conv_reflect": layer(lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect")),
    "conv_transpose": layer(lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2)),
    "max_pool_ceil": layer(lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "max_pool_ceil_dropped": lambda: (Net(lambda x, m: m(x), nn.MaxPool2d(2, 3, ceil_mode=True)), (2, 8, 9, 10)),
    "max_pool_dilated": layer(lambda: nn.MaxPool2d(2, 1, dilation=2)),
    "avg_pool": layer(lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "avg_pool_ceil": layer(lambda: nn.AvgPool2d(2, 2, ceil_mode=True)),
    "avg_pool_ceil_dropped": lambda: (Net(lambda x, m: m(x), nn.AvgPool2d(3, 3, 1, ceil_mode=True)), (2, 8, 8, 9)),
    "lp_pool": layer(lambda: nn.LPPool2d(2, 3, 2)),
    "adaptive_uneven": layer(lambda: nn.AdaptiveAvgPool2d((4, 5))),
    "adaptive_even": layer(lambda: nn.AdaptiveAvgPool2d((3, 1))),
    "adaptive_max": layer(lambda: nn.AdaptiveMaxPool2d((3, 11))),
    "global_avg_pool": function(lambda x: ops.global_avg_pool2d(x)),
    "group_norm": layer(lambda: nn.GroupNorm(2, 8)),
    "group_norm_plain": layer(lambda: nn.GroupNorm(4, 8, affine=False)),
    "instance_norm": layer(lambda: nn.InstanceNorm2d(8, affine=True)),
    "layer_norm": layer(lambda: nn.LayerNorm((9, 11))),
    "batch_norm_of_batch": layer(lambda: nn.BatchNorm2d(8, track_running_stats=False)),
    "local_response_norm": layer(lambda: nn.LocalResponseNorm(5)),
    "linear_3d": lambda: (Net(lambda x, m: m(x), nn.Linear(11, 5)), (2, 9, 11)),
    "matmul": function(lambda x: ops.matmul(x, ops.transpose(x, -1, -2)), 2, 3, 4, 5),
    "attention": lambda: (Net(lambda x, m: m(x), nn.SelfAttention2d(8)), (2, 8, 4, 5)),
    "squeeze_excite": layer(lambda: nn.SqueezeExcite(8)),
    "cbam": layer(lambda: nn.CBAM(8)),
    "nearest": function(lambda x: ops.interpolate(x, scale_factor=2)),
    "nearest_size": function(lambda x: ops.interpolate(x, size=(5, 17))),
    "bilinear": function(lambda x: ops.interpolate(x, size=(13, 20), mode="bilinear", align_corners=False)),
    "bilinear_corners": function(lambda x: ops.interpolate(x, size=(13, 20), mode="bilinear", align_corners=True)),
    "bicubic": function(lambda x: ops.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=False)),
    "bilinear_shrunk": function(lambda x: ops.interpolate(x, scale_factor=0.7, mode="bilinear"), 2, 3, 10, 8),
    "grid_sample": function(lambda x: ops.grid_sample(x, ops.tanh(x[:, :4].reshape(-1, 6, 33, 2)) * 1.2)),
    "pixel_shuffle": function(lambda x: ops.pixel_shuffle(x, 2)),
    "pad": function(lambda x: ops.pad(ops.pad(x, (1, 2, 0, -1), "constant", 0.5), (1, 1, 2, 1), "replicate")),
    "views": function(_view_mix),
    "arithmetic": function(lambda x: (2 - x) / (abs(x) + 1.5) + (x * x - 0.5) ** 2 - 3 / (x * x + 1)),
    "unary": function(lambda x: ops.sqrt(abs(x)) + ops.exp(-abs(x)) + ops.log1p(x * x) + ops.floor(x) - ops.erf(x)),
    "unary2": function(lambda x: ops.rsqrt(x * x + 1) + ops.expm1(-abs(x)) + ops.log2(x * x + 1) + ops.sign(x)),
    "comparisons": function(lambda x: ops.where(ops.logical_and(x > 0.2, ops.ne(x, 1)), x, -x)),
    "reductions": function(lambda x: x.sum((2, 3)) + x.mean((2, 3)) + x.amax((2, 3)) - x.amin(3).sum(2)),
    "product": function(lambda x: x.prod(3)),
    "atan": function(lambda x: ops.atan(x)),
    "variance": function(lambda x: ops.var(x, 1)),
    "argmax": function(lambda x: ops.argmax(x, 1)),
    "any": function(lambda x: ops.any(x > 2, 1)),
    "clamp": function(lambda x: ops.clamp(x, -0.5) + ops.clamp(x, None, 0.25)),
    "topk": function(lambda x: (*ops.topk(x, 3, 1), *ops.topk(x, 2, 3, largest=False))),
    "sort": function(lambda x: ops.sort(x, 1, True)[0] + ops.gather(x, 1, ops.argsort(x, 1))),
    "sort_over_the_batch": function(lambda x: ops.sort(x, 0)[0]),
    "cumsum": function(lambda x: ops.cumsum(x, 2) - ops.cumsum(x, 1)),
    "einsum": function(lambda x: ops.einsum("nchw,nkhw->nck", x, x)),
    "triangles": function(lambda x: ops.tril(x, 1) - ops.triu(x) + x.repeat(1, 2, 1, 1)[:, 4:12]),
    "conv1d": lambda: (Net(lambda x, m: m(x), nn.Sequential(
        nn.Conv1d(8, 6, 3, 2, 1, groups=2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2),
        nn.ConvTranspose1d(6, 4, 2, 2), nn.AvgPool1d(3, 1, 1), nn.AdaptiveMaxPool1d(5),
    )), (2, 8, 21)),
    "split_stack": function(lambda x: ops.stack(ops.split(x, 4, 1), 1).flatten(1, 2)),
    "batch_expanded": function(lambda x: fc.cat([fc.zeros(1, 1, 9, 11).expand(x.shape[0], 1, 9, 11), x], 1)),
    "flip": function(lambda x: ops.flip(x, (2, 3))),
    "gather": function(lambda x: ops.index_select(x, 1, fc.tensor([3, 0, 7]))),
    "casts": function(lambda x: (x * 3).to("int64").to("float32") + (x > 0).to("float32")),
    "floor_divide": function(lambda x: ops.floor_divide(x, 0.3) + ops.remainder(x, 0.7)),
    "dropout": layer(lambda: nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5), nn.DropPath(0.5))),
    "several": function(lambda x: (x, x + 1, x)),
    "by_name": function(lambda x: {"out": x * 2, "aux": x.mean(1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_ops_and_layers(tmp_path, name):
    net, shape = CASES[name]()
    shaken(net).eval()
    fc.onnx.export(net, tmp_path / "net.onnx", numbers(*shape))
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    compare(net, tmp_path / "net.onnx", numbers(3, *shape[1:]))


@pytest.mark.parametrize("opset", [13, 16, 18, 21])
def test_opsets(tmp_path, opset):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.LayerNorm(6), nn.Hardswish(), nn.Upsample(scale_factor=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(1),
    ).eval()  # fmt: skip
    net = Net(lambda x, m: m(x) + x.sum(1).mean((1, 2)).reshape(-1, 1), net).eval()
    fc.onnx.export(net, tmp_path / "net.onnx", numbers(2, 3, 8, 8), opset=opset)
    model = onnx.load(tmp_path / "net.onnx")
    assert [o.version for o in model.opset_import] == [opset]
    onnx.checker.check_model(model, full_check=True)
    compare(net, tmp_path / "net.onnx", numbers(4, 3, 8, 8))


@pytest.mark.parametrize("opset", [16, 20])
def test_grid_sample_keeps_its_options(tmp_path, opset):
    grid = fc.tensor(np.random.default_rng(0).uniform(-1.4, 1.4, (1, 5, 6, 2)).astype(np.float32))
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (False, True):

                def net(x, options=(mode, padding, align)):
                    return ops.grid_sample(x, grid.expand(x.shape[0], 5, 6, 2), *options)

                fc.onnx.export(net, tmp_path / "net.onnx", numbers(2, 3, 7, 9), opset=opset)
                compare(net, tmp_path / "net.onnx", numbers(3, 3, 7, 9))
    with pytest.raises(ValueError, match="grid_sample, which needs opset 16, in opset 15"):
        fc.onnx.export(net, tmp_path / "net.onnx", numbers(2, 3, 7, 9), opset=15)


def test_what_is_read_again_is_the_same_net(tmp_path):
    net = shaken(fc.models.create_model("resnet8", num_classes=4)).eval()
    x = fc.tensor(numbers(2, 3, 32, 32))
    fc.onnx.export(net, tmp_path / "net.onnx", x)
    again = fc.onnx.load(tmp_path / "net.onnx")
    with fc.no_grad():
        np.testing.assert_allclose(again(x).numpy(), net(x).numpy(), rtol=1e-5, atol=1e-5)
    assert set(again.state_dict()) == {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    net.load_state_dict({**net.state_dict(), **again.state_dict()})


def test_a_network_from_a_file_keeps_its_names(tmp_path):
    first, second, x = tmp_path / "first.onnx", tmp_path / "second.onnx", numbers(2, 3)
    net = Net(lambda x, m: (m(x), x.sum(1)), nn.Linear(3, 4)).eval()
    fc.onnx.export(net, first, x, input_names="image", output_names=["scores", "sums"])
    fc.onnx.export(fc.onnx.load(first), second, x)
    graph = onnx.load(second).graph
    assert [v.name for v in (*graph.input, *graph.output)] == ["image", "scores", "sums"]
    assert {i.name for i in graph.initializer} >= {"layers.0.weight", "layers.0.bias"}


def test_names_shapes_and_fixed_batches(tmp_path):
    class Two(nn.Module):
        def forward(self, image, mask):
            return {"masked": image * mask}

    fc.onnx.export(Two(), tmp_path / "two.onnx", (numbers(2, 3, 4, 4), numbers(2, 1, 4, 4)))
    assert fc.onnx.load(tmp_path / "two.onnx").metadata == {}
    session = runtime(tmp_path / "two.onnx")
    assert [i.name for i in session.get_inputs()] == ["image", "mask"]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("masked", ["batch", 3, 4, 4])]
    compare(Two(), tmp_path / "two.onnx", numbers(5, 3, 4, 4), numbers(5, 1, 4, 4))
    fc.onnx.export(Two(), tmp_path / "two.onnx", (numbers(2, 3, 4, 4), numbers(2, 1, 4, 4)), dynamic_batch=False)
    assert runtime(tmp_path / "two.onnx").get_inputs()[0].shape == [2, 3, 4, 4]
    fc.onnx.export(nn.ReLU(), tmp_path / "r.onnx", numbers(1, 2), metadata={"classes": '["a", "b"]'})
    assert fc.onnx.load(tmp_path / "r.onnx").metadata == {"classes": '["a", "b"]'}
    with pytest.raises(TypeError, match="metadata of str to str"):
        fc.onnx.export(nn.ReLU(), tmp_path / "r.onnx", numbers(1, 2), metadata={"classes": ["a"]})


def test_a_net_that_onnx_runtime_quantised_comes_back(tmp_path):
    """int8 weights per channel and activations of 8 bits: within a step of the last scale."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    net = shaken(fc.models.create_model("resnet8", num_classes=5)).eval()
    fc.onnx.export(net, tmp_path / "net.onnx", numbers(1, 3, 32, 32))
    pictures = numbers(8, 3, 32, 32)

    class Reader(quantization.CalibrationDataReader):
        batches = iter([{"x": pictures[i : i + 1]} for i in range(8)])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        tmp_path / "net.onnx", tmp_path / "int8.onnx", Reader(), quant_format=quantization.QuantFormat.QDQ,
        per_channel=True, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    read = fc.onnx.load(tmp_path / "int8.onnx")
    got, want = read(fc.tensor(pictures)).numpy(), runtime(tmp_path / "int8.onnx").run(None, {"x": pictures})[0]
    largest = np.abs(want).max()
    assert np.abs(got - want).max() < 0.02 * largest  # a step of 8 bits here and there
    assert np.abs(got - net(fc.tensor(pictures)).numpy()).max() < 0.15 * largest
    assert np.ptp(want, axis=0).max() > 0.1 * largest, "pictures differ"


def test_half_precision_weights(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to("float16").eval()
    fc.onnx.export(net, tmp_path / "net.onnx", numbers(1, 3, 6, 6).astype(np.float16))
    compare(net, tmp_path / "net.onnx", numbers(2, 3, 6, 6).astype(np.float16), tolerance=1e-2)


@pytest.mark.parametrize("opset", [13, 17])
def test_norms_of_halves_keep_their_float32_weights(tmp_path, opset):
    """Layers keep them so; LayerNormalization and older BatchNormalization know one type for data and weights."""
    norms = [nn.BatchNorm2d(4), nn.GroupNorm(1, 4), nn.LayerNorm((5, 6)), nn.InstanceNorm2d(4, affine=True)]
    net = shaken(nn.Sequential(*norms, nn.BatchNorm2d(4, track_running_stats=False))).to("float16").eval()
    x = numbers(3, 4, 5, 6).astype(np.float16)
    fc.onnx.export(net, tmp_path / "net.onnx", x, opset=opset)
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    compare(net, tmp_path / "net.onnx", x, tolerance=1e-2)


def test_bfloat16_where_onnx_has_none_is_refused_with_a_way_out(tmp_path):
    net = nn.Conv2d(3, 4, 3).to("bfloat16")
    with pytest.raises(ValueError, match=r"bfloat16.*model.to\('float32'\)"):
        fc.onnx.export(net, tmp_path / "net.onnx", fc.zeros(1, 3, 5, 5).to("bfloat16"))
    fc.onnx.export(net.to("float32"), tmp_path / "net.onnx", numbers(1, 3, 5, 5))
    compare(net, tmp_path / "net.onnx", numbers(2, 3, 5, 5))


INTEGERS = {
    "sums": lambda x: (x.sum(1), x.prod(2), x.amax(1), ops.argmax(x, 2), ops.cumsum(x, 1)),
    "truths": lambda x: (ops.any(x, 2), ops.all(x, 2), ops.logical_xor(x, ops.flip(x, (1,))), ops.logical_not(x)),
    "products": lambda x: (x * x, x * 0.5, x / (x * x + 1), abs(x), ops.sign(x)),
    "choices": lambda x: (ops.maximum(x, ops.flip(x, (1,))), ops.where(x > 1, x, ops.flip(x, (2,))), ops.triu(x)),
    "orders": lambda x: (ops.sort(x, 1)[0], ops.topk(x, 2, 2)[0], ops.eq(x, ops.flip(x, (1,)))),
    "numbers": lambda x: (x * 2 - 1, x + 3, 1.5 - x, ops.clamp(x, 1, 4), ops.floor_divide(x, 3), x**2, -x),
}  # fmt: skip


INTEGER_CASES = [(name, dtype) for name in INTEGERS for dtype in ("int8", "uint8", "int32", "int64", "bool")]


@pytest.mark.parametrize("name, dtype", [c for c in INTEGER_CASES if c != ("numbers", "bool")])
def test_integers_and_bools_are_computed_in_types_that_onnx_has(tmp_path, name, dtype):
    """Sums are int64; any and all ask for zeros, of which -1 and 0.5 are none."""
    for opset in (13, 21):
        x = (5 * RNG.standard_normal((2, 3, 4))).astype(dtype)
        x[0, 0] = -(np.arange(4) % 2) if dtype[0] == "i" else 0
        fc.onnx.export(INTEGERS[name], tmp_path / "net.onnx", x, opset=opset)
        onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
        compare(INTEGERS[name], tmp_path / "net.onnx", x)


def test_any_and_all_of_floats_see_fractions_and_negative_numbers(tmp_path):
    def found(x):
        return ops.any(x, 1), ops.all(x, 1)

    x = np.float32([[0.5, 0], [-3, 0], [0, 0], [0.1, -0.2]])
    fc.onnx.export(found, tmp_path / "net.onnx", x)
    compare(found, tmp_path / "net.onnx", x)


def test_a_graph_of_types_that_onnx_does_not_know_is_refused(tmp_path):
    """The checker alone does not look at types."""
    with pytest.raises(ValueError, match="unsupported type"):
        fc.onnx.export(lambda x: ops.cumsum(x.to("float16"), 1), tmp_path / "net.onnx", numbers(2, 3), opset=13)
    assert not os.listdir(tmp_path)


def test_all_that_cannot_be_written_is_listed_and_the_old_file_stays(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def step(x):
        y = ops.affine_sample(x, fc.zeros(2, 3, 3))
        back = ops.max_unpool2d(*ops.max_pool2d(x, 2, return_indices=True), 2)
        return ops.pad(y, (1, 1, 1, 1), "circular"), fc.rand(2, 3), back

    with pytest.raises(ValueError) as e:
        fc.onnx.export(step, path, numbers(2, 3, 4, 4), dynamic_batch=False)
    for text in ("affine_sample", "circular padding, which needs opset 19", "random", "further results", "index_put"):
        assert text in str(e.value)
    with pytest.raises(ValueError, match="expected opset 13 to 21, got 12"):
        fc.onnx.export(nn.ReLU(), path, numbers(1, 2), opset=12)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["net.onnx"]
    fc.onnx.export(lambda x: ops.pad(x, (1, 1, 1, 1), "circular"), path, numbers(2, 3, 4, 4), opset=19)
    compare(lambda x: ops.pad(x, (1, 1, 1, 1), "circular"), path, numbers(3, 3, 4, 4))


def test_the_command_writes_a_checkpoint_with_what_its_pictures_need(tmp_path, capsys):
    import json

    from fastcnn.checkpoints import save_checkpoint
    from fastcnn.cli import main

    net = shaken(fc.models.create_model("resnet8", num_classes=3)).eval()
    about = {
        "model": "resnet8", "num_classes": 3, "in_channels": 3, "image_size": [32, 32], "mean": [0.5] * 3,
        "std": [0.25] * 3, "classes": ["a", "b", "c"],
    }  # fmt: skip
    save_checkpoint(tmp_path / "best.safetensors", net.state_dict(), metadata=about)
    assert main(["export", "--checkpoint", str(tmp_path), "--format", "onnx"]) == 0
    assert main(["export", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "other.onnx")]) == 0
    assert "best.onnx: resnet8" in capsys.readouterr().out
    assert (tmp_path / "other.onnx").read_bytes() == (tmp_path / "best.onnx").read_bytes()
    compare(net, tmp_path / "best.onnx", numbers(4, 3, 32, 32))
    found = {k: json.loads(v) for k, v in fc.onnx.load(tmp_path / "best.onnx").metadata.items()}
    wanted = {"resize": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    assert found == {"preprocess": wanted, "class_names": ["a", "b", "c"]}


def test_inputs_and_outputs_get_the_names_asked_for(tmp_path):
    net = Net(lambda x: {"a": x + 1, "same": x})
    fc.onnx.export(net, tmp_path / "net.onnx", numbers(2, 3), input_names=["image"], output_names=["sum", "copy"])
    session = runtime(tmp_path / "net.onnx")
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert [o.name for o in session.get_outputs()] == ["sum", "copy"]
    compare(net, tmp_path / "net.onnx", numbers(4, 3))
    with pytest.raises(ValueError, match=r"expected 1 names of inputs that no weight has, got \['a', 'b'\]"):
        fc.onnx.export(net, tmp_path / "n.onnx", numbers(2, 3), input_names=["a", "b"])
    with pytest.raises(ValueError, match="each name of inputs and outputs once"):
        fc.onnx.export(net, tmp_path / "n.onnx", numbers(2, 3), input_names="a")
    with pytest.raises(ValueError, match=r"that no weight has, got \['layers.0.weight'\]"):
        head = Net(lambda x, m: m(x), nn.Linear(3, 2))
        fc.onnx.export(head, tmp_path / "n.onnx", numbers(2, 3), output_names="layers.0.weight")
    assert not (tmp_path / "n.onnx").exists()
