"""Every layer of fc.nn against the torch layer of the same name, forward and backward; init functions."""

import math

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _core, nn
from fastcnn._core import ops
from fastcnn.nn import init
from nn_check import losses_in_steps

torch = pytest.importorskip("torch")

IMAGE = (2, 4, 6, 6)
SEQUENCE = (2, 4, 11)
# name, positional arguments, keywords, shape of x
LAYERS = [
    ("Conv2d", (4, 6, 3), {}, IMAGE),
    ("Conv2d", (4, 6, (3, 2), (2, 1)), dict(padding=(1, 0), dilation=(1, 2), groups=2, bias=False), IMAGE),
    ("Conv2d", (4, 6, 3), dict(padding="same"), IMAGE),
    ("Conv2d", (4, 6, 3), dict(padding="valid"), IMAGE),
    ("Conv2d", (4, 6, 3), dict(padding=1, padding_mode="reflect"), IMAGE),
    ("Conv2d", (4, 6, 3), dict(padding=1, padding_mode="replicate"), IMAGE),
    ("Conv2d", (4, 6, 3), dict(padding=1, padding_mode="circular"), IMAGE),
    ("ConvTranspose2d", (4, 6, 3), dict(stride=2, padding=1, output_padding=1), IMAGE),
    ("ConvTranspose2d", (4, 6, 2), dict(groups=2, bias=False, dilation=2), IMAGE),
    ("Conv2d", (np.int64(4), 6, np.int64(3)), dict(stride=np.array([2, 1]), padding=np.int8(1)), IMAGE),
    ("ConvTranspose2d", (4, 6, np.int64(3)), dict(stride=[np.int64(2), 1]), IMAGE),
    ("LayerNorm", (np.int64(6),), {}, IMAGE),
    ("ZeroPad2d", (np.int64(2),), {}, IMAGE),
    ("Linear", (5, 3), {}, (2, 5)),
    ("Linear", (5, 3), dict(bias=False), (2, 4, 5)),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (), dict(start_dim=2), IMAGE),
    ("BatchNorm1d", (4,), {}, (5, 4)),
    ("BatchNorm1d", (4,), {}, (5, 4, 3)),
    ("BatchNorm2d", (4,), {}, IMAGE),
    ("BatchNorm2d", (4,), dict(momentum=None, eps=1e-3), IMAGE),
    ("BatchNorm2d", (4,), dict(affine=False), IMAGE),
    ("BatchNorm2d", (4,), dict(track_running_stats=False), IMAGE),
    ("GroupNorm", (2, 4), {}, IMAGE),
    ("LayerNorm", ([6, 6],), {}, IMAGE),
    ("LayerNorm", (5,), dict(bias=False), (3, 5)),
    ("InstanceNorm2d", (4,), {}, IMAGE),
    ("InstanceNorm2d", (4,), dict(affine=True, track_running_stats=True), IMAGE),
    ("InstanceNorm2d", (4,), {}, IMAGE[1:]),
    ("InstanceNorm2d", (4,), dict(affine=True, track_running_stats=True), IMAGE[1:]),
    ("LocalResponseNorm", (3,), dict(alpha=0.1), IMAGE),
    ("MaxPool2d", (2,), {}, IMAGE),
    ("MaxPool2d", (3,), dict(stride=2, padding=1, dilation=1, ceil_mode=True), IMAGE),
    ("AvgPool2d", (3,), dict(stride=2, padding=1, count_include_pad=False), IMAGE),
    ("AvgPool2d", (3, 2, 1), dict(ceil_mode=True, divisor_override=4), IMAGE),
    ("LPPool2d", (3, 2), {}, IMAGE), ("LPPool1d", (3, 2), {}, SEQUENCE),
    ("AdaptiveAvgPool2d", ((3, 2),), {}, IMAGE),
    ("AdaptiveAvgPool2d", (4,), {}, IMAGE),
    ("AdaptiveMaxPool2d", (3,), {}, IMAGE),
    *((name, (), {}, IMAGE) for name in (
        "ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Hardswish",
        "Hardsigmoid", "Hardtanh", "Sigmoid", "Tanh", "Softplus", "Softsign", "Identity", "LogSigmoid", "Softshrink",
        "Hardshrink", "Tanhshrink", "Softmax2d",
    )),
    ("GLU", (), {}, IMAGE),
    ("GLU", (1,), {}, IMAGE),
    ("Softshrink", (0.2,), {}, IMAGE),
    ("Hardshrink", (0.2,), {}, IMAGE),
    ("Threshold", (0.1, 20.0), {}, IMAGE),
    ("Threshold", (0.1, -2.0, True), {}, IMAGE),
    ("RReLU", (0.3, 0.3), {}, IMAGE),
    ("Softmin", (), dict(dim=1), IMAGE),
    ("Softmax2d", (), {}, IMAGE[1:]),
    ("Unflatten", (1, (2, 2)), {}, IMAGE),
    ("Unflatten", (-1, (3, -1)), {}, (2, 5, 6)),
    ("AlphaDropout", (0.0,), {}, IMAGE),
    ("ReLU", (), dict(inplace=True), IMAGE),
    ("LeakyReLU", (0.2,), {}, IMAGE),
    ("PReLU", (4,), dict(init=0.1), IMAGE),
    ("ELU", (0.7,), {}, IMAGE),
    ("GELU", (), dict(approximate="tanh"), IMAGE),
    ("Hardtanh", (-0.5, 0.7), {}, IMAGE),
    ("Softplus", (2.0, 1.0), {}, IMAGE),
    ("Softmax", (), dict(dim=1), IMAGE),
    ("LogSoftmax", (), dict(dim=-1), (3, 5)),
    ("Upsample", (), dict(scale_factor=2), IMAGE),
    ("Upsample", (), dict(size=(9, 4), mode="bilinear", align_corners=True), IMAGE),
    ("Upsample", (), dict(scale_factor=2, mode="bicubic"), IMAGE),
    ("PixelShuffle", (2,), {}, IMAGE),
    ("PixelUnshuffle", (2,), {}, IMAGE),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, IMAGE),
    ("ConstantPad2d", ((1, 2, 0, 3), -1.5), {}, IMAGE),
    ("CircularPad2d", ((1, 2, 0, 3),), {}, IMAGE),
    ("ReflectionPad2d", (2,), {}, IMAGE),
    ("ReplicationPad2d", ((0, 1, 2, 3),), {}, IMAGE),
    ("Conv1d", (4, 6, 3), {}, SEQUENCE),
    ("Conv1d", (4, 6, 3), dict(stride=2, padding=2, dilation=2, groups=2, bias=False), SEQUENCE),
    ("Conv1d", (4, 4, (3,)), dict(stride=(2,), padding=(1,), groups=4), SEQUENCE),
    ("Conv1d", (4, 6, 4), dict(padding="same", padding_mode="reflect"), SEQUENCE),
    ("Conv1d", (4, 6, 3), dict(padding=2, padding_mode="circular"), SEQUENCE[1:]),
    ("ConvTranspose1d", (4, 6, 3), dict(stride=2, padding=1, output_padding=1), SEQUENCE),
    ("ConvTranspose1d", (4, 6, 2), dict(groups=2, bias=False, dilation=2), SEQUENCE[1:]),
    ("MaxPool1d", (2,), {}, SEQUENCE),
    ("MaxPool1d", (3,), dict(stride=2, padding=1, dilation=1, ceil_mode=True), SEQUENCE[1:]),
    ("AvgPool1d", (3,), dict(stride=2, padding=1, count_include_pad=False), SEQUENCE),
    ("AvgPool1d", (3, 2, 1), dict(ceil_mode=True), SEQUENCE),
    ("AdaptiveAvgPool1d", (4,), {}, SEQUENCE),
    ("AdaptiveMaxPool1d", (3,), {}, SEQUENCE),
    ("InstanceNorm1d", (4,), {}, SEQUENCE),
    ("InstanceNorm1d", (4,), dict(affine=True, track_running_stats=True), SEQUENCE),
    ("InstanceNorm1d", (4,), {}, SEQUENCE[1:]),
    ("ZeroPad1d", (2,), {}, SEQUENCE),
    ("ConstantPad1d", ((1, 2), -1.5), {}, SEQUENCE),
    ("CircularPad1d", ((1, 2),), {}, SEQUENCE),
    ("ReflectionPad1d", (2,), {}, SEQUENCE),
    ("ReplicationPad1d", ((0, 3),), {}, SEQUENCE),
]  # fmt: skip


def ids(rows):
    return [f"{r[0]}-{i}" for i, r in enumerate(rows)]


def close(ours, theirs, tolerance=1e-4):
    ours = ours.detach().numpy()
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


def copy_state(ours, theirs):
    theirs.load_state_dict({k: torch.from_numpy(np.array(v.numpy())) for k, v in ours.state_dict().items()})


def both(shape, seed=0, positive=False):
    a = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    a = np.abs(a) + 0.1 if positive else a
    return _core.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)


@pytest.mark.parametrize("row", LAYERS, ids=ids(LAYERS))
def test_layer_equals_torch(row):
    name, args, kwargs, shape = row
    _core.ops.manual_seed(3)
    ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    if getattr(ours, "weight", None) is not None:
        init.uniform_(ours.weight, -1, 1)
    copy_state(ours, theirs)
    for step in range(2):  # the second sees the statistics of the first
        x, tx = both(shape, step, positive=name.startswith("LPPool"))
        y, ty = ours(x), theirs(tx * 1)
        close(y, ty)
        g = np.random.default_rng(9).standard_normal(y.shape).astype(np.float32)
        (y * _core.tensor(g)).sum().backward()
        (ty * torch.from_numpy(g)).sum().backward()
        close(x.grad, tx.grad, 2e-4)
    for (key, p), (_, tp) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert p.grad is not None, key
        close(p.grad, tp.grad, 5e-4)
    for (_, b), (_, tb) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        close(b, tb)
    x, tx = both(shape, 5, positive=name.startswith("LPPool"))
    close(ours.eval()(x), theirs.eval()(tx * 1))


SIDE_BY_SIDE = [
    ("MSELoss", (), {}, "same"),
    ("L1Loss", (), dict(reduction="sum"), "same"),
    ("SmoothL1Loss", (), dict(beta=0.5), "same"),
    ("HuberLoss", (), dict(delta=0.7, reduction="none"), "same"),
    ("BCEWithLogitsLoss", (), {}, "unit"),
    ("BCEWithLogitsLoss", (), dict(weight="n", pos_weight="n"), "unit"),
    ("KLDivLoss", (), dict(reduction="batchmean"), "distribution"),
    ("KLDivLoss", (), dict(log_target=True), "log"),
    ("CrossEntropyLoss", (), {}, "ids"),
    ("CrossEntropyLoss", (), dict(weight="n", label_smoothing=0.1, ignore_index=2), "ids"),
    ("CrossEntropyLoss", (), dict(reduction="none"), "distribution"),
    ("NLLLoss", (), dict(weight="n"), "ids"),
]


@pytest.mark.parametrize("row", SIDE_BY_SIDE, ids=ids(SIDE_BY_SIDE))
def test_loss_equals_torch(row):
    name, args, kwargs, target = row
    rng, n = np.random.default_rng(1), 5
    weights = rng.uniform(0.5, 2, n).astype(np.float32)
    ours = getattr(nn, name)(
        *args, **{k: _core.tensor(weights) if v == "n" else v for k, v in kwargs.items()}
    )
    theirs = getattr(torch.nn, name)(
        *args, **{k: torch.tensor(weights) if v == "n" else v for k, v in kwargs.items()}
    )
    unit = rng.uniform(0.1, 1, (4, n)).astype(np.float32)
    t = {
        "same": rng.standard_normal((4, n)).astype(np.float32),
        "unit": unit,
        "distribution": unit / unit.sum(1, keepdims=True),
        "log": np.log(unit / unit.sum(1, keepdims=True)),
        "ids": np.array([0, 2, 4, 1]),
    }[target]
    x, tx = both((4, n))
    y, ty = ours(x, _core.tensor(t)), theirs(tx, torch.from_numpy(t))
    close(y, ty)
    y.sum().backward()
    ty.sum().backward()
    close(x.grad, tx.grad)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_layers_without_a_torch_twin():
    x, tx = both(IMAGE)
    y = nn.GlobalAvgPool2d()(x)
    close(y, tx.mean((2, 3), keepdim=True))
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full(IMAGE, 1 / 36), rtol=1e-5)
    conv = nn.Conv2d(4, 5, 3, stride=2, padding="same")
    assert conv(ops.ones((1, 4, 7, 8))).shape == (1, 5, 4, 4)
    assert nn.Conv2d(4, 5, 3, padding=((1, 0), (0, 2)))(ops.ones((1, 4, 7, 8))).shape == (1, 5, 6, 8)
    values, indices = nn.MaxPool2d(2, return_indices=True)(ops.ones((1, 4, 4, 4)))
    assert values.shape == indices.shape == (1, 4, 2, 2)


def test_a_net_of_sequences_learns_the_same_in_a_plan():
    def grown(compiled):
        _core.ops.manual_seed(0)
        net = nn.Sequential(
            nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, groups=2),
            nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip
        x = np.random.default_rng(0).standard_normal((16, 3, 40)).astype(np.float32)
        y = (x[:, 0].mean(1) > 0).astype(np.int64)
        return losses_in_steps(net, x, y, compiled)

    eager, planned = grown(False), grown(True)
    np.testing.assert_allclose(planned, eager, rtol=1e-3)
    assert eager[-1] < 0.5 * eager[0]


SEQ, KERNELS = ops.ones((2, 3, 8)), ops.ones((4, 3, 3))


@pytest.mark.parametrize("call, error, words", [
    (lambda: ops.conv1d(ops.ones((2, 3, 8, 8)), KERNELS), ValueError, r"conv1d: .*\(N, C, L\).*\(2, 3, 8, 8\)"),
    (lambda: ops.conv1d(SEQ, ops.ones((4, 3, 3, 3))), ValueError, r"conv1d: .*3 dimensions.*\(4, 3, 3, 3\)"),
    (lambda: ops.conv1d(SEQ, ops.ones((4, 5, 3))), ValueError, r"conv1d: .*5 channels.*\(2, 3, 8\)"),
    (lambda: ops.conv1d(ops.ones((2, 3, 2)), KERNELS), ValueError, r"conv1d: the kernel covers 3 places.*of 2"),
    (lambda: ops.conv1d(SEQ, KERNELS, ops.ones((5,))), ValueError, "conv1d: .*bias of shape"),
    (lambda: ops.conv1d(SEQ, KERNELS, stride=0), ValueError, "conv1d: expected stride >= 1"),
    (lambda: ops.conv1d(SEQ, KERNELS, stride=(1, 2)), TypeError, "conv1d: expected stride as an int"),
    (lambda: ops.conv1d(SEQ, KERNELS, padding="full"), ValueError, "conv1d: .*'full'"),
    (lambda: ops.conv1d(ops.ones((2, 3, 8), dtype="int64"), KERNELS), TypeError, "conv1d: .*floating"),
    (lambda: ops.conv_transpose1d(SEQ, KERNELS), ValueError, "conv_transpose1d: .*4 channels"),
    (lambda: ops.conv_transpose1d(SEQ, ops.ones((3, 3, 3)), output_padding=1), ValueError, "smaller than stride"),
    (lambda: ops.max_pool1d(SEQ, 9), ValueError, r"max_pool1d: the window of 9.*\(2, 3, 8\)"),
    (lambda: ops.max_pool1d(SEQ, 2, padding=2), ValueError, "max_pool1d: .*half the window"),
    (lambda: ops.avg_pool1d(ops.ones((8,)), 2), ValueError, r"avg_pool1d: .*\(N, C, L\)"),
    (lambda: ops.adaptive_avg_pool1d(SEQ, 0), ValueError, "adaptive_avg_pool1d: .*output_size >= 1"),
    (lambda: nn.Conv1d(3, 4, (3, 3)), ValueError, "Conv1d: expected kernel_size as an int"),
    (lambda: nn.InstanceNorm1d(3)(ops.ones((1, 3, 4, 4))), ValueError, "InstanceNorm1d: expected x as 2-D or 3-D"),
    (lambda: nn.ZeroPad1d((1, 2, 3)), ValueError, r"ZeroPad1d: .*\(left, right\)"),
    (lambda: nn.Dropout1d()(ops.ones((1, 3, 4, 4))), ValueError, "Dropout1d: .*\\(N, C, L\\)"),
])  # fmt: skip
def test_what_does_not_fit_a_sequence_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_sequences_may_be_padded_unevenly_and_give_places():
    x = _core.tensor(np.arange(12, dtype=np.float32).reshape(1, 2, 6))
    assert nn.Conv1d(2, 3, 3, padding=(2, 1))(x).shape == (1, 3, 7)
    values, places = nn.MaxPool1d(2, return_indices=True)(x)
    assert places.tolist() == [[[1, 3, 5], [1, 3, 5]]] and values.tolist() == [[[1, 3, 5], [7, 9, 11]]]
    values, places = nn.AdaptiveMaxPool1d(2, return_indices=True)(x[0])
    assert places.tolist() == [[2, 5], [2, 5]]
    assert repr(nn.Conv1d(2, 3, 3, padding=1)) == "Conv1d(2, 3, kernel_size=(3,), stride=(1,), padding=(1,))"


def test_dropout1d_drops_whole_channels():
    _core.ops.manual_seed(0)
    y = nn.Dropout1d(0.5)(ops.ones((50, 8, 5))).numpy()
    assert np.isin(y, (0, 2)).all() and (y == y[:, :, :1]).all() and 0.3 < (y == 0).mean() < 0.7
    single = nn.Dropout1d(0.5)(ops.ones((8, 5))).numpy()
    assert (single == single[:, :1]).all()


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d", "DropPath"])
def test_dropping(name):
    _core.ops.manual_seed(0)
    layer, x = getattr(nn, name)(0.25), ops.ones((200, 8, 3, 3))
    y = layer(x).numpy()
    assert set(np.unique(np.round(y, 4))) == {0, np.float32(1.3333)}
    assert abs((y == 0).mean() - 0.25) < 0.1
    axes = {"Dropout": (), "Dropout2d": (2, 3), "DropPath": (1, 2, 3)}[name]
    assert (y.min(axes) == y.max(axes)).all() if axes else True
    if name == "Dropout":
        assert (y.min((2, 3)) != y.max((2, 3))).any()
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())
    with pytest.raises(ValueError, match="between 0 and 1"):
        getattr(nn, name)(1.5)


def test_rrelu_and_alpha_dropout_follow_the_mode():
    _core.ops.manual_seed(0)
    x = -ops.ones((40, 50, 2))
    y = nn.RReLU(0.1, 0.5)(x).numpy()
    assert -0.5 <= y.min() < y.max() <= -0.1
    np.testing.assert_allclose(nn.RReLU(0.1, 0.5).eval()(x).numpy(), -0.3, rtol=1e-6)
    for name in ("AlphaDropout", "FeatureAlphaDropout"):
        layer = getattr(nn, name)(0.25)
        y = layer(x).numpy()
        assert len(np.unique(y)) == 2 and (name == "AlphaDropout" or (y[..., 0] == y[..., 1]).all())
        assert layer.eval()(x).is_same(x)
        with pytest.raises(ValueError, match="between 0 and 1"):
            getattr(nn, name)(1.5)


def test_unflatten():
    x = ops.arange(48).reshape(2, 24)
    assert x.unflatten(1, (2, 3, 4)).shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(ops.unflatten(x, -1, [4, -1]).numpy(), x.numpy().reshape(2, 4, 6))
    np.testing.assert_array_equal(
        ops.unflatten(x, 1, (2, 3, 4)).flatten(1).numpy(), x.numpy()
    )  # logical order also of images
    for sizes in ((5, 5), (-1, 5), (-1, -1), (), (0, -1)):
        with pytest.raises(ValueError, match="unflatten: expected"):
            ops.unflatten(x, 1, sizes)
    with pytest.raises(IndexError, match="unflatten: expected a dim"):
        ops.unflatten(x, 2, (2, 12))
    with pytest.raises(TypeError, match="Unflatten: expected dim as an int"):
        nn.Unflatten("C", (2, 3))


BAD = [
    (lambda: nn.RReLU(0.5, 0.1), "RReLU: expected lower <= upper"),
    (lambda: nn.Softshrink(-1), "Softshrink: expected lambd >= 0"),
    (lambda: nn.Softmax2d()(ops.ones((2, 3))), "Softmax2d: expected x"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), "same"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "padding_mode"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups=2"),
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size"),
    (lambda: nn.Conv2d(3, 4, 0), "kernel_size >= 1"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), "zeros"),
    (lambda: nn.Linear(0, 4), "in_features"),
    (lambda: nn.BatchNorm2d(0), "num_features"),
    (lambda: nn.BatchNorm2d(3)(ops.ones((2, 3))), "4-D"),
    (lambda: nn.GroupNorm(3, 4), "num_groups=3"),
    (lambda: nn.PReLU(0), "num_parameters"),
    (lambda: nn.Hardtanh(1, -1), "min_val < max_val"),
    (lambda: nn.Upsample(), "size or scale_factor"),
    (lambda: nn.ZeroPad2d((1, 2)), "left, right, top, bottom"),
    (lambda: nn.MSELoss("average"), "reduction"),
    (lambda: nn.CrossEntropyLoss(reduction="batchmean"), "reduction"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2), "label_smoothing"),
    (lambda: nn.Conv2d(3, 4, 3)(ops.ones((1, 5, 8, 8))), "conv2d"),
    (lambda: nn.Linear(3, 4)(ops.ones((1, 5))), "linear"),
]


@pytest.mark.parametrize("build, message", BAD, ids=[m for _, m in BAD])
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
    with pytest.raises(TypeError, match="Conv2d: expected kernel_size as an int or a pair of ints, got 3.0"):
        nn.Conv2d(3, 4, 3.0)


# ---------------------------------------------------------------- first values


def test_default_first_values_are_torchs():
    _core.ops.manual_seed(0)
    for layer, fan_in in [
        (nn.Conv2d(64, 128, 3), 576),
        (nn.Conv2d(64, 128, 3, groups=4), 144),
        (nn.Linear(500, 300), 500),
    ]:
        bound = 1 / math.sqrt(fan_in)
        for t in (layer.weight, layer.bias):
            a = t.numpy()
            assert np.abs(a).max() <= bound and np.abs(a).max() > 0.9 * bound
        w = layer.weight.numpy()
        assert w.std() == pytest.approx(bound / math.sqrt(3), rel=0.02) and abs(w.mean()) < 0.02 * bound
        assert layer.weight.requires_grad and layer.weight.grad is None


def test_seed_repeats():
    def draw(seed):
        _core.ops.manual_seed(seed)
        return nn.Conv2d(3, 8, 3).weight.numpy().copy()

    assert np.array_equal(draw(1), draw(1)) and not np.array_equal(draw(1), draw(2))


STATISTICS = [
    ("normal_", (0.5, 2.0), 0.5, 2.0),
    ("uniform_", (-1.0, 3.0), 1.0, 4 / math.sqrt(12)),
    ("kaiming_normal_", (), 0, math.sqrt(2 / 360)),
    ("kaiming_uniform_", (), 0, math.sqrt(2 / 360)),
    ("xavier_normal_", (), 0, math.sqrt(2 / 990)),
    ("xavier_uniform_", (2.0,), 0, 2 * math.sqrt(2 / 990)),
]


@pytest.mark.parametrize("name, args, mean, std", STATISTICS)
def test_statistics(name, args, mean, std):
    _core.ops.manual_seed(0)
    t = nn.Parameter(np.zeros((70, 40, 3, 3), np.float32))
    assert getattr(init, name)(t, *args) is t and t.requires_grad
    a = t.numpy()
    assert a.std() == pytest.approx(std, rel=0.02) and a.mean() == pytest.approx(mean, abs=0.02 * std)
    with init.skip_random():
        before = a.copy()
        getattr(init, name)(t, *args)
    assert np.array_equal(t.numpy(), before)


def test_kaiming_modes():
    _core.ops.manual_seed(0)
    t = nn.Parameter(np.zeros((70, 40, 3, 3), np.float32))
    assert init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu").numpy().std() == pytest.approx(
        math.sqrt(2 / 630), rel=0.02
    )
    with pytest.raises(ValueError, match="fan_in"):
        init.kaiming_normal_(t, mode="fan_on")
    with pytest.raises(ValueError, match="2 dimensions"):
        init.xavier_normal_(nn.Parameter(np.zeros(3, np.float32)))


@pytest.mark.parametrize(
    "name, param",
    [
        ("relu", None),
        ("tanh", None),
        ("selu", None),
        ("conv2d", None),
        ("leaky_relu", 0.2),
        ("leaky_relu", None),
    ],
)  # noqa: E501
def test_gains(name, param):
    assert init.calculate_gain(name, param) == pytest.approx(torch.nn.init.calculate_gain(name, param))


def test_unknown_gain():
    with pytest.raises(ValueError, match="swoosh"):
        init.calculate_gain("swoosh")


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 4, 3, 3)])
def test_orthogonal(shape):
    a = init.orthogonal_(nn.Parameter(np.zeros(shape, np.float32)), gain=2.0).numpy().reshape(shape[0], -1)
    product = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_trunc_normal():
    _core.ops.manual_seed(0)
    a = init.trunc_normal_(
        nn.Parameter(np.zeros(200_000, np.float32)), mean=1.0, std=2.0, a=-1.0, b=2.0
    ).numpy()
    assert a.min() >= -1 and a.max() <= 2
    # Quantiles of the cut normal distribution.
    normal = torch.distributions.Normal(1.0, 2.0)
    low, high = normal.cdf(torch.tensor(-1.0)), normal.cdf(torch.tensor(2.0))
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(a, q) == pytest.approx(normal.icdf(low + q * (high - low)).item(), abs=0.02)
    with pytest.raises(ValueError, match="a < b"):
        init.trunc_normal_(nn.Parameter(np.zeros(3, np.float32)), a=2, b=1)


def test_inverse_error_function():
    x = np.concatenate([np.linspace(-0.9999, 0.9999, 999), [1 - 1e-7, -1 + 1e-7]])
    np.testing.assert_allclose(
        init._erfinv(x), torch.erfinv(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_dirac(groups):
    t = init.dirac_(nn.Parameter(np.ones((6, 4 // groups, 3, 3), np.float32)), groups)
    expected = torch.nn.init.dirac_(torch.ones(6, 4 // groups, 3, 3), groups)
    np.testing.assert_array_equal(t.numpy(), expected.numpy())


def test_constants():
    t = nn.Parameter(np.full((2, 3), 7, np.float32))
    assert (init.ones_(t).numpy() == 1).all() and (init.zeros_(t).numpy() == 0).all()
    assert (init.constant_(t, 2.5).numpy() == 2.5).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_refused_image_leaves_running_statistics_alone(compiled):
    m = fc.nn.InstanceNorm2d(2, track_running_stats=True)
    run = fc.compile(lambda x: m(x)) if compiled else m
    with pytest.raises(ValueError, match="instance_norm"):
        run(fc.ones((3, 2, 1, 1)))
    assert m.running_mean.tolist() == [0, 0] and m.running_var.tolist() == [1, 1]
    run(fc.ones((3, 2, 2, 2)))
    np.testing.assert_allclose(m.running_mean.tolist(), 0.1)
