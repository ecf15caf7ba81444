"""Models: registry, parameter counts, keys, equality with torch, training, pretrained files, summary."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _core, models, nn, safetensors, summary
from fastcnn._core import ops
from zoo_check import build, count

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "mobilenet_v2": 3_504_872,
}
SMALL_COUNTS = {  # 10 classes, 3 channels (He et al. 2015, table 6)
    "resnet20": 0.27e6,
    "resnet32": 0.46e6,
    "resnet44": 0.66e6,
    "resnet56": 0.85e6,
    "resnet110": 1.7e6,
    "resnet1202": 19.4e6,
    "plain20": 0.27e6,
    "plain56": 0.85e6,
    "plain110": 1.7e6,
    "preact_resnet18": 11.17e6,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    assert count(build(name)) == COUNTS[name]


@pytest.mark.parametrize("name", SMALL_COUNTS)
def test_small_parameter_counts(name):
    assert count(build(name, 10)) == pytest.approx(SMALL_COUNTS[name], rel=0.02)


def test_lenet_counts():
    assert count(build("lenet5", 10, 1)) == 61_706
    assert count(build("lenet", 10, 1)) == 1_663_370
    assert count(build("lenet5", 10, 1, image_size=32)) == 61_706


# ---------------------------------------------------------------- keys


def bn_keys(prefix, n):
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{v}": (n,) for v in vectors} | {f"{prefix}.num_batches_tracked": ()}


def resnet_keys(bottleneck, layers, groups=1, base_width=64):
    """Keys and shapes of torchvision's ResNets, by their rule."""
    keys = {"conv1.weight": (64, 3, 7, 7), **bn_keys("bn1", 64)}
    inp = 64
    for i, n in enumerate(layers):
        width = 64 * 2**i
        inner, out = (width * base_width // 64 * groups, 4 * width) if bottleneck else (width, width)
        for j in range(n):
            p = f"layer{i + 1}.{j}"
            shapes = [(inner, inp, 1), (inner, inner // groups, 3), (out, inner, 1)]
            for k, (o, c, size) in enumerate(shapes if bottleneck else [(out, inp, 3), (out, out, 3)], 1):
                keys[f"{p}.conv{k}.weight"] = (o, c, size, size)
                keys |= bn_keys(f"{p}.bn{k}", o)
            if j == 0 and (i > 0 or bottleneck):
                keys[f"{p}.downsample.0.weight"] = (out, inp, 1, 1)
                keys |= bn_keys(f"{p}.downsample.1", out)
            inp = out
    return keys | {"fc.weight": (1000, inp), "fc.bias": (1000,)}


RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
    "resnext50_32x4d": (True, (3, 4, 6, 3), 32, 4),
    "wide_resnet50_2": (True, (3, 4, 6, 3), 1, 128),
}


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_keys_are_torchvisions(name):
    ours = {k: tuple(v.shape) for k, v in build(name).state_dict().items()}
    assert ours == resnet_keys(*RESNETS[name])
    assert list(ours) == list(resnet_keys(*RESNETS[name]))


def test_other_keys_are_torchvisions():
    keys = set(build("vgg16").state_dict())
    convs = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    assert keys == {f"features.{i}.{n}" for i in convs for n in ("weight", "bias")} | {
        f"classifier.{i}.{n}" for i in (0, 3, 6) for n in ("weight", "bias")
    }
    bn = set(build("vgg11_bn").state_dict())
    assert {"features.0.bias", "features.1.running_mean", "features.25.weight", "features.26.weight"} <= bn
    keys = set(build("alexnet").state_dict())
    assert keys == {f"features.{i}.{n}" for i in (0, 3, 6, 8, 10) for n in ("weight", "bias")} | {
        f"classifier.{i}.{n}" for i in (1, 4, 6) for n in ("weight", "bias")
    }
    state = build("mobilenet_v2").state_dict()
    shapes = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_var": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.weight": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.bias": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    }
    assert {k: tuple(state[k].shape) for k in shapes} == shapes and len(state) == 314


# ---------------------------------------------------------------- equality with torch


def torch_resnet(bottleneck, layers, groups=1, base_width=64, num_classes=1000):
    """torchvision's ResNet written down again on torch, for its outputs."""
    torch = pytest.importorskip("torch")
    tn = torch.nn

    class Block(tn.Module):
        def __init__(self, inp, width, stride):
            super().__init__()
            inner, out = (width * base_width // 64 * groups, 4 * width) if bottleneck else (width, width)
            if bottleneck:
                convs = [(inp, inner, 1, 1, 1), (inner, inner, 3, stride, groups), (inner, out, 1, 1, 1)]
            else:
                convs = [(inp, out, 3, stride, 1), (out, out, 3, 1, 1)]
            self.n = len(convs)
            for k, (i, o, size, s, g) in enumerate(convs, 1):
                setattr(self, f"conv{k}", tn.Conv2d(i, o, size, s, size // 2, groups=g, bias=False))
                setattr(self, f"bn{k}", tn.BatchNorm2d(o))
            self.downsample = None
            if stride != 1 or inp != out:
                self.downsample = tn.Sequential(
                    tn.Conv2d(inp, out, 1, stride, bias=False), tn.BatchNorm2d(out)
                )
            self.out = out

        def forward(self, x):
            y = x
            for k in range(1, self.n + 1):
                y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
                y = y.relu() if k < self.n else y
            return (y + (x if self.downsample is None else self.downsample(x))).relu()

    class Net(tn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = tn.Conv2d(3, 64, 7, 2, 3, bias=False), tn.BatchNorm2d(64)
            inp = 64
            for i, n in enumerate(layers):
                blocks = []
                for j in range(n):
                    blocks.append(Block(inp, 64 * 2**i, 2 if i and not j else 1))
                    inp = blocks[-1].out
                setattr(self, f"layer{i + 1}", tn.Sequential(*blocks))
            self.fc = tn.Linear(inp, num_classes)

        def forward(self, x):
            x = tn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    return Net()


def give_state(ours, theirs):
    import torch

    theirs.load_state_dict({k: torch.from_numpy(np.array(v.numpy())) for k, v in ours.state_dict().items()})


@pytest.fixture
def direct_convolution():
    """PyTorch's own float32 is 1e-4 from float64 in the deep ones; Winograd's rounding flips single ReLUs besides."""
    before = fc.get_conv_algorithm()
    fc.set_conv_algorithm("direct")
    yield
    fc.set_conv_algorithm(before)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_outputs_equal_torch(name, direct_convolution):
    torch = pytest.importorskip("torch")
    _core.ops.manual_seed(0)
    ours, theirs = models.create_model(name, num_classes=7), torch_resnet(*RESNETS[name], num_classes=7)
    give_state(ours, theirs)
    a = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    y, ty = ours(_core.tensor(a)), theirs(torch.from_numpy(a))
    np.testing.assert_allclose(
        y.detach().numpy(), ty.detach().numpy(), rtol=1e-4, atol=1e-4 * ty.abs().max().item()
    )
    y, ty = ours.eval()(_core.tensor(a)), theirs.eval()(torch.from_numpy(a))  # statistics of the step before
    np.testing.assert_allclose(
        y.detach().numpy(), ty.detach().numpy(), rtol=1e-4, atol=1e-4 * ty.abs().max().item()
    )


@pytest.mark.parametrize("name, tolerance", [("resnet18", 1e-4), ("resnext50_32x4d", 5e-4), ("resnet50", 5e-4)])
def test_outputs_equal_torch_with_winograd(name, tolerance):
    torch = pytest.importorskip("torch")
    assert fc.get_conv_algorithm() == "auto"
    _core.ops.manual_seed(0)
    ours, theirs = models.create_model(name, num_classes=7), torch_resnet(*RESNETS[name], num_classes=7)
    give_state(ours, theirs)
    a = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    y, ty = ours(_core.tensor(a)), theirs(torch.from_numpy(a))
    np.testing.assert_allclose(y.detach().numpy(), ty.detach().numpy(), rtol=0, atol=tolerance * ty.abs().max().item())


def test_gradients_equal_torch(direct_convolution):
    torch = pytest.importorskip("torch")
    _core.ops.manual_seed(0)
    ours, theirs = models.resnet18(num_classes=5), torch_resnet(*RESNETS["resnet18"], num_classes=5)
    give_state(ours, theirs)
    a = np.random.default_rng(0).standard_normal((4, 3, 64, 64)).astype(np.float32)
    ids = np.array([0, 4, 2, 1])
    ops.cross_entropy(ours(_core.tensor(a)), _core.tensor(ids)).backward()
    torch.nn.functional.cross_entropy(theirs(torch.from_numpy(a)), torch.from_numpy(ids)).backward()
    for (k, p), tp in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        g, tg = p.grad.numpy(), tp.grad.numpy()
        assert np.abs(g - tg).max() <= 2e-3 * np.abs(tg).max() + 1e-6, k


def test_cifar_block_equals_torch():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    _core.ops.manual_seed(0)
    net = models.resnet20(in_channels=1)
    state = {k: torch.from_numpy(np.array(v.numpy())) for k, v in net.state_dict().items()}
    a = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype(np.float32)

    def bn(x, p):
        return f.batch_norm(x, None, None, state[f"{p}.weight"], state[f"{p}.bias"], True)

    x = bn(f.conv2d(torch.from_numpy(a), state["conv1.weight"], padding=1), "bn1").relu()
    for i in (1, 2, 3):
        for j in range(3):
            p, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = bn(f.conv2d(x, state[f"{p}.conv1.weight"], stride=stride, padding=1), f"{p}.bn1").relu()
            y = bn(f.conv2d(y, state[f"{p}.conv2.weight"], padding=1), f"{p}.bn2")
            if stride == 2:
                c = x.shape[1] // 2
                x = f.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, c, c))
            x = (x + y).relu()
    expected = f.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    np.testing.assert_allclose(net(_core.tensor(a)).detach().numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_preactivation_block_equals_torch():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    _core.ops.manual_seed(0)
    net = models.preact_resnet20()
    state = {k: torch.from_numpy(np.array(v.numpy())) for k, v in net.state_dict().items()}
    a = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)

    def bn_relu(x, p):
        return f.batch_norm(x, None, None, state[f"{p}.weight"], state[f"{p}.bias"], True).relu()

    x = f.conv2d(torch.from_numpy(a), state["conv1.weight"], padding=1)
    for i in (1, 2, 3):
        for j in range(3):
            p, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = bn_relu(x, f"{p}.bn1")  # a projection takes what is activated already (He et al. 2016)
            x = f.conv2d(y, state[f"{p}.shortcut.weight"], stride=2) if stride == 2 else x
            y = bn_relu(f.conv2d(y, state[f"{p}.conv1.weight"], stride=stride, padding=1), f"{p}.bn2")
            x = x + f.conv2d(y, state[f"{p}.conv2.weight"], padding=1)
    expected = f.linear(bn_relu(x, "bn").mean((2, 3)), state["fc.weight"], state["fc.bias"])
    np.testing.assert_allclose(net(_core.tensor(a)).detach().numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_vgg_and_lenet_equal_torch():
    torch = pytest.importorskip("torch")
    tn = torch.nn
    widths, layers, c = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"), [], 3
    for w in widths:
        layers += [tn.MaxPool2d(2, 2)] if w == "M" else [tn.Conv2d(c, w, 3, padding=1), tn.BatchNorm2d(w), tn.ReLU()]
        c = c if w == "M" else w
    lenet = [tn.Conv2d(1, 6, 5, padding=2), tn.Tanh(), tn.AvgPool2d(2, 2), tn.Conv2d(6, 16, 5), tn.Tanh(),
             tn.AvgPool2d(2, 2), tn.Flatten(), tn.Linear(400, 120), tn.Tanh(), tn.Linear(120, 84), tn.Tanh(),
             tn.Linear(84, 10)]  # fmt: skip
    _core.ops.manual_seed(0)
    vgg, small = models.vgg11_bn(num_classes=0).features, models.lenet5()
    for ours, theirs, shape in ((vgg, layers, (2, 3, 64, 64)), (small, lenet, (4, 1, 28, 28))):
        theirs = tn.Sequential(*theirs)
        states = ours.state_dict().values(), theirs.state_dict().values()
        for v, tv in zip(*states, strict=True):
            tv.copy_(torch.from_numpy(np.array(v.numpy())))
        a = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        y, ty = ours(_core.tensor(a)).detach().numpy(), theirs(torch.from_numpy(a)).detach().numpy()
        np.testing.assert_allclose(y, ty, rtol=1e-4, atol=1e-4 * np.abs(ty).max())


# ---------------------------------------------------------------- they run and train

TRAINED = [
    ("lenet5", 1, 28, {}), ("lenet5", 3, 32, dict(activation="relu", pool="max", image_size=32)),
    ("lenet", 1, 28, {}), ("resnet20", 1, 28, {}), ("plain20", 3, 32, {}),
    ("resnet20", 3, 32, dict(shortcut="B", zero_init_last=True)),
    ("preact_resnet20", 3, 32, {}), ("preact_resnet18", 3, 16, {}), ("mobilenet_v2", 3, 32, {}),
    ("alexnet", 3, 63, {}), ("resnet18", 3, 32, dict(zero_init_last=True)), ("vgg11_bn", 3, 32, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, channels, size, options", TRAINED, ids=[f"{r[0]}-{i}" for i, r in enumerate(TRAINED)]
)
def test_forward_and_backward(name, channels, size, options):
    _core.ops.manual_seed(0)
    net = models.create_model(name, 4, channels, **options)
    y = net(ops.randn((2, channels, size, size)))
    assert y.shape == (2, 4) and np.isfinite(y.detach().numpy()).all()
    ops.cross_entropy(y, _core.tensor(np.array([1, 3]))).backward()
    without = [
        k for k, p in net.named_parameters() if p.grad is None or not np.isfinite(p.grad.numpy()).all()
    ]
    assert without == []


def test_a_small_net_learns():
    _core.ops.manual_seed(0)
    net = models.lenet5(3, 1)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, 48)
    x = rng.standard_normal((48, 1, 28, 28)).astype(np.float32) * 0.3
    for i, k in enumerate(ids):
        x[i, 0, 8 * k : 8 * k + 8] += 1
    x, ids, losses = _core.tensor(x), _core.tensor(ids), []
    for _ in range(30):
        net.zero_grad()
        loss = ops.cross_entropy(net(x), ids)
        loss.backward()
        losses.append(loss.item())
        with nn.parameter.no_grad():
            for p in net.parameters():
                p.copy_(p - 0.2 * p.grad)
    assert losses[-1] < 0.3 * losses[0]


def test_options():
    net = models.resnet18(zero_init_last=True)
    assert not net.layer1[0].bn2.weight.numpy().any() and net.layer1[0].bn1.weight.numpy().all()
    assert models.resnet18().layer1[0].bn2.weight.numpy().all()
    net = models.resnet20(zero_init_last=True)
    assert not net.layer3[2].bn2.weight.numpy().any() and models.resnet20().layer3[2].bn2.weight.numpy().all()
    for name in ("preact_resnet20", "plain20"):
        with pytest.raises(ValueError, match="zero_init_last needs"):
            build(name, zero_init_last=True)
    assert build("resnet18", num_classes=0)(ops.ones((2, 3, 32, 32))).shape == (2, 512)
    assert build("mobilenet_v2", width_mult=0.5).features[18][0].out_channels == 1280
    assert sum(isinstance(m, nn.Conv2d) for m in build("resnet20", shortcut="B").modules()) == 21
    assert all(b.shortcut is None for b in build("plain20").layer1)
    for bad in (dict(shortcut="C"),):
        with pytest.raises(ValueError, match="shortcut"):
            build("resnet20", **bad)
    with pytest.raises(ValueError, match="activation"):
        build("lenet5", activation="rleu")
    with pytest.raises(ValueError, match="image_size"):
        build("lenet5", image_size=8)
    with pytest.raises(TypeError):
        build("resnet18", shortcut="A")


def test_first_values():
    _core.ops.manual_seed(0)
    net = models.resnet18()
    assert net.conv1.weight.numpy().std() == pytest.approx(np.sqrt(2 / (64 * 49)), rel=0.03)
    assert net.layer4[1].conv2.weight.numpy().std() == pytest.approx(np.sqrt(2 / (512 * 9)), rel=0.01)


# ---------------------------------------------------------------- registry and files


def test_list_models():
    names = models.list_models()
    assert names == sorted(names) and {*COUNTS, *SMALL_COUNTS, "lenet5", "lenet"} <= set(names)
    assert models.list_models("vgg*_bn") == ["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
    assert "wide_resnet50_2" in models.list_models("resnet") and models.list_models("nothing*") == []
    assert all(callable(getattr(models, n)) and getattr(models, n).__doc__ for n in names)


def test_unknown_and_registered_names():
    with pytest.raises(ValueError, match="resnet50"):
        models.create_model("resnet5O")
    with pytest.raises(ValueError, match="list_models"):
        models.create_model("zzzzzzzzzzzz")
    with pytest.raises(ValueError, match="exists already"):
        models.register(lambda num_classes, in_channels: None, name="resnet18")


def test_pretrained(tmp_path):
    path = tmp_path / "resnet20.safetensors"
    _core.ops.manual_seed(1)
    trained = models.create_model("resnet20", num_classes=10)
    trained.save(path)
    again = models.create_model("resnet20", num_classes=10, pretrained=path)
    for k, v in trained.state_dict().items():
        assert np.array_equal(v.numpy(), again.state_dict()[k].numpy())
    other = models.create_model("resnet20", num_classes=3, pretrained=str(path))
    assert np.array_equal(other.conv1.weight.numpy(), trained.conv1.weight.numpy())
    assert other.fc.weight.shape == (3, 64) and 0 < np.abs(other.fc.weight.numpy()).max() <= 1 / 8
    with pytest.raises(ValueError, match="missing key"):
        models.create_model("resnet32", num_classes=10, pretrained=path)
    with pytest.raises(ValueError, match="no weights"):
        models.create_model("resnet20", pretrained=True)
    with pytest.raises(FileNotFoundError):
        models.create_model("resnet20", pretrained=tmp_path / "none.safetensors")
    safetensors.save_file({}, path)
    with pytest.raises(ValueError, match="missing key"):
        models.create_model("resnet20", pretrained=path)


# ---------------------------------------------------------------- summary


def test_summary():
    net = models.create_model("lenet", 10, 1).train()
    net.fc1.freeze()
    s = summary(net, (2, 1, 28, 28))
    assert [r.name for r in s.rows][:3] == ["conv1", "relu", "pool"]
    assert s.rows[0].output_shape == (2, 32, 28, 28) and s.rows[0].params == 832
    assert s.rows[0].macs == 2 * 32 * 28 * 28 * 25 and s.total_macs == 2 * 12_273_152
    assert s.total_params == 1_663_370 and s.trainable_params == 1_663_370 - 1_606_144
    text = str(s)
    assert "conv1 (Conv2d)" in text and "(2, 512)" in text and "1,663,370" in text and text == repr(s)
    assert net.training and net.conv1.training and not net.conv1._forward_hooks


def test_summary_of_sequences_takes_batches_and_sizes_of_numpy():
    net = fc.nn.Sequential(fc.nn.Conv1d(3, 2, 3), fc.nn.Flatten(), fc.nn.Linear(16, 2))
    for size in ((2, 3, 10), [(2, 3, 10)], tuple(np.array([2, 3, 10]))):
        s = summary(net, size)
        assert s.input_size == (2, 3, 10)
        assert [r.output_shape for r in s.rows] == [(2, 2, 8), (2, 16), (2, 2)]
        assert s.total_macs == 2 * (2 * 8 * 9 + 32)


def test_summary_leaves_the_model_alone():
    net = models.resnet20()
    net.layer1.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    s = summary(net, [(1, 3, 32, 32)])
    assert sum(r.params for r in s.rows) == s.total_params
    assert s.total_macs == pytest.approx(40.8e6, rel=0.02)  # He et al. 2015: 40.8 million
    assert all(np.array_equal(v.numpy(), before[k].numpy()) for k, v in net.state_dict().items())
    assert net.training and not net.layer1[0].training and net.layer2[0].bn1.training
    with pytest.raises(ValueError):
        summary(net, (1, 5, 32, 32))
    assert net.training and not net.conv1._forward_hooks
