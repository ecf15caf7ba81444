"""Volumes (N, C, D, H, W): ops, layers, nets and gradients against PyTorch, and what does not fit."""

import itertools

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn, ops, optim
from nn_check import losses_in_steps

torch = pytest.importorskip("torch")
F = torch.nn.functional


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(ours, theirs, *arrays, tolerance=2e-5):
    """Values and gradients of both functions of these arrays, eager and compiled, for both orders in memory."""
    mine = [fc.tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    want = theirs(*other)
    assert want.numel(), "the case has a result"
    weights = numbers(*want.shape, seed=9)
    (want * torch.tensor(weights)).sum().backward()
    close = dict(rtol=tolerance, atol=tolerance * max(1, np.abs(want.detach().numpy()).max()))

    def same(y, leaves):
        assert y.shape == tuple(want.shape)
        np.testing.assert_allclose(y.numpy(), want.detach().numpy(), **close)
        (y * fc.tensor(weights)).sum().backward()
        for a, b in zip(leaves, other, strict=True):
            scale = max(1, np.abs(b.grad.numpy()).max())
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=tolerance, atol=tolerance * scale)

    same(ours(*mine), mine)
    x = mine[0]
    order = [0, *range(2, x.ndim), 1] if x.ndim == 5 else [*range(1, x.ndim), 0]
    turned = fc.tensor(np.ascontiguousarray(arrays[0].transpose(order)), requires_grad=True)
    back = [order.index(i) for i in range(x.ndim)]
    y = ours(ops.permute(turned, back), *mine[1:])
    np.testing.assert_allclose(y.numpy(), want.detach().numpy(), **close)
    with fc.no_grad():
        planned = fc.compile(lambda *t: ours(*t))(*(fc.tensor(a) for a in arrays))
    np.testing.assert_allclose(planned.numpy(), want.detach().numpy(), **close)


CONVS = [
    # C, O, kernel, options
    (3, 4, 3, {}),
    (3, 4, (2, 3, 1), {"stride": (2, 1, 2), "padding": (1, 1, 0)}),
    (4, 6, (3, 2, 2), {"dilation": (2, 1, 2), "padding": (2, 1, 0)}),
    (4, 6, 3, {"groups": 2, "padding": 1}),
    (32, 32, (3, 1, 2), {"groups": 2, "padding": 1, "stride": (2, 1, 1)}),
    (5, 5, 3, {"groups": 5, "padding": 1}),
    (4, 3, (1, 3, 3), {"padding": (0, 1, 1), "stride": (2, 2, 1)}),
    (4, 3, (3, 1, 1), {"padding": (1, 0, 0), "stride": (2, 1, 1)}),
    (4, 4, (3, 1, 1), {"dilation": (2, 1, 1), "groups": 4}),
    (4, 3, (2, 1, 1), {"padding": (1, 1, 0)}),
    (4, 3, 1, {"stride": 2}),
    (4, 3, 2, {"stride": 3}),  # frames that no window sees
    (3, 4, (3, 2, 2), {"stride": (3, 1, 1), "dilation": (2, 1, 1), "padding": (2, 0, 0)}),
    (3, 4, (3, 2, 3), {"padding": "same"}),
    (3, 4, (2, 3, 3), {"padding": "valid"}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("C, O, kernel, options", CONVS)
@pytest.mark.parametrize("bias", [True, False])
def test_conv3d(C, O, kernel, options, bias):  # noqa: E741
    k = (kernel,) * 3 if isinstance(kernel, int) else kernel
    arrays = [numbers(2, C, 6, 5, 7), numbers(O, C // options.get("groups", 1), *k, seed=1)]
    arrays += [numbers(O, seed=2)] if bias else []
    check(lambda *t: ops.conv3d(*t, **options), lambda *t: F.conv3d(*t, **options), *arrays)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_conv3d_pads_in_every_mode(mode):
    ours = nn.Conv3d(3, 4, 3, padding=(1, 2, 1), padding_mode=mode)
    theirs = torch.nn.Conv3d(3, 4, 3, padding=(1, 2, 1), padding_mode=mode)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    check(ours, theirs, numbers(2, 3, 4, 5, 6))


TRANSPOSED = [
    (3, 4, 3, {}),
    (4, 6, 2, {"stride": 2}),
    (4, 6, (2, 3, 2), {"stride": (2, 2, 1), "padding": (0, 1, 0), "groups": 2}),
    (4, 6, (3, 2, 3), {"stride": (2, 1, 2), "padding": (1, 0, 1), "output_padding": (1, 0, 1)}),
    (3, 4, (3, 2, 2), {"dilation": (2, 1, 2), "stride": (3, 2, 1), "output_padding": (2, 1, 1)}),
    (4, 4, (3, 3, 3), {"groups": 4, "padding": 1}),
    (3, 4, (1, 3, 3), {"stride": (2, 1, 1)}),
]


@pytest.mark.parametrize("C, O, kernel, options", TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose3d(C, O, kernel, options, bias):  # noqa: E741
    k = (kernel,) * 3 if isinstance(kernel, int) else kernel
    arrays = [numbers(2, C, 4, 3, 5), numbers(C, O // options.get("groups", 1), *k, seed=1)]
    arrays += [numbers(O, seed=2)] if bias else []
    check(lambda *t: ops.conv_transpose3d(*t, **options), lambda *t: F.conv_transpose3d(*t, **options), *arrays)


POOLS = [
    {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (1, 2, 3)},
    {"kernel_size": (3, 1, 1), "stride": (2, 1, 1)}, {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (2, 3, 2), "stride": (2, 2, 1), "padding": (1, 1, 0), "ceil_mode": True},
    {"kernel_size": 1, "stride": (2, 1, 3)}, {"kernel_size": 1},
]  # fmt: skip


@pytest.mark.parametrize("options", POOLS)
def test_max_pool3d_with_its_places(options):
    x = numbers(2, 3, 7, 6, 5)
    check(lambda t: ops.max_pool3d(t, **options), lambda t: F.max_pool3d(t, **options), x)
    values, places = ops.max_pool3d(fc.tensor(x), **options, return_indices=True)
    want = F.max_pool3d(torch.tensor(x), **options, return_indices=True)
    np.testing.assert_array_equal(places.numpy(), want[1].numpy())
    np.testing.assert_array_equal(values.numpy(), want[0].numpy())
    assert places.dtype == fc.int64


def test_max_pool3d_dilates():
    options = {"kernel_size": (2, 3, 2), "dilation": (2, 1, 3), "stride": 1}
    check(lambda t: ops.max_pool3d(t, **options), lambda t: F.max_pool3d(t, **options), numbers(2, 3, 7, 6, 5))


@pytest.mark.parametrize("options", [*POOLS, {"kernel_size": 2, "divisor_override": 3}])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool3d(options, count_include_pad):
    options = {**options, "count_include_pad": count_include_pad}
    check(lambda t: ops.avg_pool3d(t, **options), lambda t: F.avg_pool3d(t, **options), numbers(2, 3, 7, 6, 5))


@pytest.mark.parametrize("size", [1, 3, (2, 5, 3), (7, 2, 2), (9, 7, 1)])
def test_adaptive_pools(size):
    x = numbers(2, 3, 7, 6, 5)
    for name in ("adaptive_avg_pool3d", "adaptive_max_pool3d"):
        check(lambda t, n=name: getattr(ops, n)(t, size), lambda t, n=name: getattr(F, n)(t, size), x)
    places = ops.adaptive_max_pool3d(fc.tensor(x), size, return_indices=True)[1]
    want = F.adaptive_max_pool3d(torch.tensor(x), size, return_indices=True)[1]
    np.testing.assert_array_equal(places.numpy(), want.numpy())
    assert ops.adaptive_avg_pool3d(fc.tensor(x), (None, 2, None)).shape == (2, 3, 7, 2, 5)


SIZES = [{"size": (3, 8, 5)}, {"scale_factor": 2}, {"scale_factor": (0.5, 1.5, 2.3)}, {"size": 4}]


@pytest.mark.parametrize("options", SIZES)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "trilinear"])
def test_interpolate_volumes(options, mode):
    options = {**options, "mode": mode}
    check(lambda t: ops.interpolate(t, **options), lambda t: F.interpolate(t, **options), numbers(2, 3, 4, 5, 6))
    if mode == "trilinear":
        options["align_corners"] = True
        check(lambda t: ops.interpolate(t, **options), lambda t: F.interpolate(t, **options), numbers(2, 3, 4, 5, 6))


@pytest.mark.parametrize("options", [{"size": 9}, {"size": (3,)}, {"scale_factor": 2.5}])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "linear"])
def test_interpolate_sequences(options, mode):
    options = {**options, "mode": mode}
    x = numbers(2, 3, 6)
    got = ops.interpolate(fc.tensor(x), **options).numpy()
    np.testing.assert_allclose(got, F.interpolate(torch.tensor(x), **options).numpy(), rtol=1e-5, atol=1e-6)
    assert nn.Upsample(**options)(fc.tensor(x)).shape == got.shape


VOLUME = (2, 4, 5, 6, 7)
LAYERS = [
    ("Conv3d", (4, 6, 3), {"padding": 1}, VOLUME), ("Conv3d", (4, 6, 3), {"stride": 2}, VOLUME[1:]),
    ("ConvTranspose3d", (4, 6, 2), {"stride": 2, "bias": False}, VOLUME),
    ("ConvTranspose3d", (4, 6, 3), {"padding": 1}, VOLUME[1:]),
    ("MaxPool3d", (2,), {}, VOLUME), ("MaxPool3d", (3, 2, 1), {}, VOLUME[1:]),
    ("AvgPool3d", (2,), {}, VOLUME), ("AvgPool3d", (3, 2, 1), {}, VOLUME[1:]),
    ("AdaptiveAvgPool3d", ((2, None, 3),), {}, VOLUME), ("AdaptiveMaxPool3d", (2,), {}, VOLUME[1:]),
    ("BatchNorm3d", (4,), {}, VOLUME), ("InstanceNorm3d", (4,), {}, VOLUME),
    ("InstanceNorm3d", (4,), {"affine": True, "track_running_stats": True}, VOLUME),
    ("InstanceNorm3d", (4,), {}, VOLUME[1:]), ("GroupNorm", (2, 4), {}, VOLUME),
    ("ZeroPad3d", (1,), {}, VOLUME), ("ConstantPad3d", ((1, 2, 0, 1, 2, 0), 1.5), {}, VOLUME),
    ("ReflectionPad3d", ((1, 2, 0, 1, 2, 0),), {}, VOLUME), ("ReplicationPad3d", (2,), {}, VOLUME),
    ("CircularPad3d", ((1, 2, 0, 1, 2, 0),), {}, VOLUME),
    ("Upsample", (), {"scale_factor": 2, "mode": "trilinear"}, VOLUME),
    ("ReLU", (), {}, VOLUME), ("LeakyReLU", (0.1,), {}, VOLUME), ("SiLU", (), {}, VOLUME),
]  # fmt: skip


@pytest.mark.parametrize("name, args, options, shape", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_layers_are_pytorchs(name, args, options, shape, training):
    ours, theirs = getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    ours.train(training), theirs.train(training)
    x = numbers(*shape)
    np.testing.assert_allclose(
        ours(fc.tensor(x)).numpy(), theirs(torch.tensor(x)).detach().numpy(), rtol=2e-4, atol=2e-5
    )
    for key, value in theirs.state_dict().items():  # running statistics
        np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), rtol=1e-4, atol=1e-5)


def test_dropout3d_drops_whole_channels():
    fc.manual_seed(0)
    y = nn.Dropout3d(0.5)(ops.ones((50, 8, 2, 3, 4))).numpy()
    assert np.isin(y, (0, 2)).all() and (y == y[:, :, :1, :1, :1]).all() and 0.3 < (y == 0).mean() < 0.7
    single = nn.Dropout3d(0.5)(ops.ones((8, 2, 3, 4))).numpy()
    assert (single == single[:, :1, :1, :1]).all()


def test_float64_gradients_of_any_order():
    """Of conv3d by finite differences, and the gradient of a gradient against PyTorch."""
    x, w = numbers(1, 2, 3, 4, 3).astype(np.float64), numbers(3, 2, 2, 3, 2, seed=1).astype(np.float64)

    def value(a, b):
        return ops.sum(ops.tanh(ops.conv3d(fc.tensor(a), fc.tensor(b), padding=1))).item()

    leaves = [fc.tensor(a, requires_grad=True) for a in (x, w)]
    ops.sum(ops.tanh(ops.conv3d(*leaves, padding=1))).backward()
    for i, array in enumerate((x, w)):
        for place in itertools.islice(np.ndindex(array.shape), 0, None, 7):
            moved = [x.copy(), w.copy()]
            moved[i][place] += 1e-6
            up = value(*moved)
            moved[i][place] -= 2e-6
            assert abs((up - value(*moved)) / 2e-6 - leaves[i].grad.numpy()[place]) < 1e-6

    def penalty(library, t, k, pool):
        y = pool((library.tanh(k(t))) ** 2).sum()
        (g,) = (torch.autograd.grad if library is torch else fc.grad)([y], [t], create_graph=True)
        (g * g).sum().backward()
        return t.grad.numpy()

    a, b = fc.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    got = penalty(ops, a, lambda t: ops.conv3d(t, fc.tensor(w), padding=1), lambda t: ops.max_pool3d(t, 2))
    want = penalty(torch, b, lambda t: F.conv3d(t, torch.tensor(w), padding=1), lambda t: F.max_pool3d(t, 2))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def grown(compiled):
    fc.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    x = numbers(16, 1, 6, 8, 8)
    y = (x[:, 0, :3].mean((1, 2, 3)) > x[:, 0, 3:].mean((1, 2, 3))).astype(np.int64)
    x[:, 0, :3] += 0.7 * (2 * y - 1)[:, None, None, None]
    return losses_in_steps(net, x, y, compiled)


def test_a_net_of_volumes_learns_the_same_in_a_plan():
    eager, planned = grown(False), grown(True)
    np.testing.assert_allclose(planned, eager, rtol=1e-3)
    assert eager[-1] < 0.5 * eager[0]


@pytest.mark.parametrize("dims", [1, 3])
def test_plans_join_what_follows_convolutions_of_sequences_and_volumes(dims):
    """As for images: norms fold into the weights, activations and shortcuts go with the convolution."""
    conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(conv(4, 4, 3, padding=1, bias=False), norm(4), nn.ReLU())
            self.b = nn.Sequential(conv(4, 4, 3, padding=1, bias=False), norm(4))

        def forward(self, x):
            return ops.relu(self.b(self.a(x)) + self.a(x))

    net, x = Block(), numbers(2, 4, *[5] * dims)
    net(fc.tensor(x))
    net.eval()
    step = fc.compile(lambda t: net(t))
    with fc.no_grad():
        np.testing.assert_allclose(step(fc.tensor(x)).numpy(), net(fc.tensor(x)).numpy(), rtol=1e-4, atol=1e-5)
    text = step.describe()
    assert "conv2d" in text and not any(f" {op} " in text for op in ("batch_norm_infer", "activation", "binary"))


def test_a_session_of_volumes_gives_the_nets_numbers(tmp_path):
    net = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.ConvTranspose3d(4, 3, 2, 2),
        nn.Upsample(scale_factor=2, mode="trilinear"),
    ).eval()  # fmt: skip
    x = numbers(3, 2, 4, 6, 6)
    fc.export(net, tmp_path / "net.fcnn", fc.tensor(x[:1]))
    session = fc.load(tmp_path / "net.fcnn")
    for n in (1, 3):
        with fc.no_grad():
            want = fc.compile(lambda t: net(t))(fc.tensor(x[:n])).numpy()
        np.testing.assert_array_equal(session.predict(x[:n]).numpy(), want)


@pytest.mark.parametrize("name, count", [("r3d_18", 33371472), ("mc3_18", 11695440), ("r2plus1d_18", 31505325)])
def test_video_nets_have_torchvisions_parameters_and_learn(name, count):
    net = fc.models.create_model(name)
    assert sum(p.numel() for p in net.parameters()) == count
    keys = set(net.state_dict())
    inner = ".3.weight" if name == "r2plus1d_18" else ".weight"
    assert {"stem.0.weight", "layer1.0.conv1.0" + inner, "layer4.1.conv2.1.running_mean",
            "layer2.0.downsample.0.weight", "fc.bias"} <= keys  # fmt: skip
    net = fc.models.create_model(name, num_classes=2, in_channels=1)
    clips, classes = fc.tensor(numbers(2, 1, 4, 16, 16)), fc.tensor(np.int64([0, 1]))
    optimizer = optim.SGD(net.parameters(), 0.02)
    losses = []
    for _ in range(4):
        loss = ops.cross_entropy(net(clips), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"expected clips \(N, 1, frames, H, W\), got \(2, 1, 16, 16\)"):
        net(ops.ones((2, 1, 16, 16)))


CLIP, KERNELS = ops.ones((2, 3, 4, 5, 6)), ops.ones((4, 3, 2, 3, 3))


@pytest.mark.parametrize("call, error, words", [
    (lambda: ops.conv3d(ops.ones((2, 3, 8)), KERNELS), ValueError, r"conv3d: .*\(N, C, D, H, W\).*\(2, 3, 8\)"),
    (lambda: ops.conv3d(CLIP, ops.ones((4, 3, 3, 3))), ValueError, r"conv3d: .*5 dimensions.*\(4, 3, 3, 3\)"),
    (lambda: ops.conv3d(CLIP, ops.ones((4, 5, 2, 3, 3))), ValueError, r"conv3d: .*5 channels.*\(2, 3, 4, 5, 6\)"),
    (lambda: ops.conv3d(CLIP, ops.ones((4, 3, 5, 1, 1))), ValueError, "covers 5 places in depth.* volume of 4"),
    (lambda: ops.conv3d(CLIP, KERNELS, ops.ones((5,))), ValueError, "conv3d: .*bias of shape"),
    (lambda: ops.conv3d(CLIP, KERNELS, stride=0), ValueError, r"conv3d: expected stride >= 1, got \(0, 0, 0\)"),
    (lambda: ops.conv3d(CLIP, KERNELS, stride=0, padding="same"), ValueError, "conv3d: expected stride >= 1"),
    (lambda: ops.conv3d(CLIP, KERNELS, padding_mode="constant"), ValueError, "conv3d: expected padding_mode zeros"),
    (lambda: ops.conv3d(CLIP, KERNELS.to("float64")), TypeError, "conv3d: expected w of dtype float32"),
    (lambda: ops.conv_transpose3d(CLIP, ops.ones((3, 3, 2, 2, 2)), ops.ones(3, dtype="float64")), TypeError,
     "conv_transpose3d: expected bias of dtype float32"),
    (lambda: ops.conv_transpose3d(ops.ones((1, 3, 0, 5, 6)), ops.ones((3, 3, 2, 2, 2))), ValueError,
     "conv_transpose3d: expected a volume of at least 1x1x1"),
    (lambda: ops.interpolate(CLIP, 4, mode="linear"), ValueError, "trilinear for x.*'linear'"),
    (lambda: ops.interpolate(CLIP[0, 0], 4, mode="trilinear"), ValueError, "area or linear for x.*'trilinear'"),
    (lambda: ops.conv3d(CLIP, KERNELS, stride=(1, 2)), TypeError, "conv3d: expected stride as an int or three ints"),
    (lambda: ops.conv3d(CLIP, KERNELS, padding="full"), ValueError, "conv3d: .*'full'"),
    (lambda: ops.conv3d(CLIP, KERNELS, padding=-1), ValueError, "conv3d: expected padding >= 0"),
    (lambda: ops.conv3d(CLIP, ops.ones((4, 1, 2, 3, 3)), groups=3), ValueError, "divisible by groups=3"),
    (lambda: ops.conv3d(ops.ones((2, 3, 4, 5, 6), dtype="int64"), KERNELS), TypeError, "conv3d: .*floating"),
    (lambda: ops.conv_transpose3d(CLIP, KERNELS), ValueError, "conv_transpose3d: .*4 channels"),
    (lambda: ops.conv_transpose3d(CLIP, ops.ones((3, 3, 2, 2, 2)), output_padding=1), ValueError, "smaller than"),
    (lambda: ops.conv_transpose3d(CLIP, ops.ones((3, 3, 1, 1, 1)), padding=2), ValueError, "at least 1x1x1, got 0"),
    (lambda: ops.max_pool3d(CLIP, 5), ValueError, r"max_pool3d: the window of .*\(2, 3, 4, 5, 6\)"),
    (lambda: ops.max_pool3d(CLIP, 2, padding=2), ValueError, "max_pool3d: .*half the window"),
    (lambda: ops.avg_pool3d(ops.ones((8, 3)), 2), ValueError, r"avg_pool3d: .*\(N, C, D, H, W\)"),
    (lambda: ops.avg_pool3d(CLIP, 2, divisor_override=0), ValueError, "divisor_override other than 0"),
    (lambda: ops.adaptive_avg_pool3d(CLIP, 0), ValueError, "adaptive_avg_pool3d: .*output_size >= 1"),
    (lambda: ops.interpolate(CLIP, 4, mode="bilinear"), ValueError, "interpolate: .*trilinear.*'bilinear'"),
    (lambda: ops.interpolate(CLIP, (4, 4)), ValueError, "interpolate: expected size as one or three numbers, got 2"),
    (lambda: ops.interpolate(CLIP), ValueError, "expected either size or scale_factor"),
    (lambda: ops.interpolate(CLIP, 4, antialias=True), ValueError, "antialias is for images"),
    (lambda: nn.Conv3d(3, 4, (3, 3)), ValueError, "Conv3d: expected kernel_size as an int or three ints"),
    (lambda: nn.BatchNorm3d(3)(ops.ones((1, 3, 4, 4))), ValueError, "BatchNorm3d: expected x as 5-D"),
    (lambda: nn.ZeroPad3d((1, 2, 3)), ValueError, r"ZeroPad3d: .*front, back\)"),
    (lambda: nn.Dropout3d()(ops.ones((1, 3, 4))), ValueError, r"Dropout3d: .*\(N, C, D, H, W\)"),
])  # fmt: skip
def test_what_does_not_fit_a_volume_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes(dtype):
    x, w = numbers(1, 4, 4, 5, 6), numbers(3, 4, 2, 3, 3, seed=1)
    got = ops.conv3d(fc.tensor(x, dtype=dtype), fc.tensor(w, dtype=dtype), padding=1)
    assert str(got.dtype) == dtype
    want = F.conv3d(torch.tensor(x), torch.tensor(w), padding=1).numpy()
    tolerance = {"bfloat16": 0.2, "float16": 0.02, "float64": 1e-5}[dtype]
    np.testing.assert_allclose(got.to("float64").numpy(), want, atol=tolerance)


def test_sums_of_taps_are_not_rounded_one_by_one():
    """Depthwise windows are summed frame by frame, parts of float16 would leave its range."""
    w = np.broadcast_to(np.float32([100, -100, 50]).reshape(1, 1, 3, 1, 1), (1, 1, 3, 2, 2))
    for name, groups in (("conv3d", 2), ("conv_transpose3d", 2)):
        weights = np.ascontiguousarray(np.repeat(w, 2, 0))
        x = fc.tensor(np.full((1, 2, 3, 2, 2), 200, np.float32), dtype="float16")
        y = getattr(ops, name)(x, fc.tensor(weights, dtype="float16"), groups=groups)
        want = getattr(F, name)(torch.full((1, 2, 3, 2, 2), 200.0), torch.tensor(weights), groups=groups)
        np.testing.assert_allclose(y.to("float32").numpy(), want.half().float().numpy(), rtol=2e-3)
        with fc.autocast("float16"):
            y = getattr(ops, name)(x.to("float32"), fc.tensor(weights), groups=groups)
        assert str(y.dtype) == "float16"
        np.testing.assert_allclose(y.to("float32").numpy(), want.half().float().numpy(), rtol=2e-3)
    large = fc.tensor(np.full((1, 1, 2, 2, 2), 60000, np.float32), dtype="float16")
    assert ops.avg_pool3d(large, 2, divisor_override=8).item() == 60000


def test_empty_batches():
    x = ops.ones((0, 3, 4, 5, 6))
    assert ops.conv3d(x, KERNELS).shape == (0, 4, 3, 3, 4)
    assert ops.conv_transpose3d(x, ops.ones((3, 2, 2, 2, 2)), stride=2).shape == (0, 2, 8, 10, 12)
    assert ops.max_pool3d(x, 2).shape == ops.avg_pool3d(x, 2).shape == (0, 3, 2, 2, 3)
