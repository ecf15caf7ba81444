"""The classification zoo: keys, parameter counts, outputs and gradients of torchvision's and timm's nets, bad input.

Keys are compared with zoo_keys.json, which torch_zoo.py makes from those libraries; outputs need the
libraries themselves.
"""

import json
import pathlib
import re

import fastcnn as fc
import numpy as np
import pytest
import torch_zoo
from fastcnn import models, nn
from fastcnn.nn import init
from zoo_check import assert_gradients_near, assert_near, build, count

KEYS = json.loads(torch_zoo.KEYS.read_text())
# Parameters as published: torchvision's and timm's tables of weights, the papers' tables for wrn_28_10 (36.5 million).
COUNTS = {
    "mobilenet_v1": 4_231_976, "mobilenet_v3_large": 5_483_032, "mobilenet_v3_small": 2_542_856,
    "efficientnet_b0": 5_288_548, "efficientnet_b1": 7_794_184, "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232, "efficientnet_b4": 19_341_616, "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704, "efficientnet_b7": 66_347_960,
    "efficientnet_lite0": 4_652_008, "efficientnet_lite1": 5_416_680, "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096, "efficientnet_lite4": 13_006_568,
    "se_resnet50": 28_088_024, "cbam_resnet50": 28_073_576,
    "shufflenet_v2_x0_5": 1_366_792, "shufflenet_v2_x1_0": 2_278_604,
    "squeezenet1_0": 1_248_424, "squeezenet1_1": 1_235_496,
    "densenet121": 7_978_856, "densenet161": 28_681_000, "densenet169": 14_149_480, "densenet201": 20_013_928,
    "convnext_tiny": 28_589_128, "convnext_small": 50_223_688, "convnext_base": 88_591_464,
}  # fmt: skip
SMALL_COUNTS = {"wrn_28_10": 36.5e6, "preact_resnet18": 11.17e6, "airbench94": 1.97e6}  # 10 classes


@pytest.mark.parametrize("name", KEYS)
def test_keys_and_shapes_are_those_of_torchvision_and_timm(name):
    with init.skip_random():
        net = getattr(models, name)()  # with the usual number of classes
    assert torch_zoo.digest(net.state_dict()) == KEYS[name]


def test_parameter_counts_are_the_published_ones():
    assert {name: count(build(name)) for name in COUNTS} == COUNTS
    for name, published in SMALL_COUNTS.items():
        assert count(build(name, 10)) == pytest.approx(published, rel=0.003)


# ---------------------------------------------------------------- equality with torchvision and timm

# name: side of the images, options of ours and of theirs that switch off what draws random numbers
COMPARED = {
    "mobilenet_v3_small": (64, dict(dropout=0.0), dict(dropout=0.0)),
    "efficientnet_b0": (40, dict(dropout=0.0, stochastic_depth=0.0), dict(dropout=0.0, stochastic_depth_prob=0.0)),
    "efficientnet_b5": (33, dict(dropout=0.0, stochastic_depth=0.0), dict(dropout=0.0, stochastic_depth_prob=0.0)),
    "shufflenet_v2_x1_0": (64, {}, {}),
    "squeezenet1_0": (63, dict(dropout=0.0), dict(dropout=0.0)),
    "squeezenet1_1": (48, dict(dropout=0.0), dict(dropout=0.0)),
    "densenet121": (64, {}, {}),
    "convnext_tiny": (48, dict(stochastic_depth=0.0), dict(stochastic_depth_prob=0.0)),
    "mobilenet_v1": (47, dict(dropout=0.0), {}),
    "efficientnet_lite0": (48, dict(dropout=0.0, drop_path=0.0), {}),
    "tf_efficientnet_lite1": (45, dict(dropout=0.0, drop_path=0.0), {}),
    "se_resnet50": (40, {}, {}),
    "eca_resnet50": (40, {}, {}),
    "cbam_resnet50": (40, {}, {}),
}
DEEP = {"efficientnet_b5"}  # compared in evaluation only


def pair(name):
    """(ours, theirs) with the same drawn weights and statistics, no two channels alike."""
    torch = pytest.importorskip("torch")
    _, options, theirs_options = COMPARED[name]
    ours = build(name, 7, **options)
    torch.manual_seed(0)
    try:
        theirs = torch_zoo.build(name, num_classes=7, **theirs_options)
    except (ImportError, RuntimeError) as e:  # RuntimeError: built for another torch
        pytest.skip(f"{'timm' if name in torch_zoo.TIMM else 'torchvision'} cannot be imported: {e}")
    generator = torch.Generator().manual_seed(0)
    state = theirs.state_dict()
    for key, value in state.items():
        if "running_var" in key:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dtype.is_floating_point and value.ndim == 1:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
        elif "layer_scale" in key:  # 1e-6 would hide the branches
            value.copy_(torch.rand(value.shape, generator=generator))
    ours.load_state_dict({key: value.numpy() for key, value in state.items()})
    return torch, ours, theirs


@pytest.mark.parametrize("name", COMPARED)
def test_outputs_gradients_and_statistics_equal_the_original(name):
    torch, ours, theirs = pair(name)
    size = COMPARED[name][0]
    a = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    with torch.no_grad(), fc.no_grad():
        y, ty = ours.eval()(fc.tensor(a)).numpy(), theirs.eval()(torch.tensor(a)).numpy()
    assert ty.std() > 1e-3
    assert_near(y, ty, 1e-4, "logits in evaluation")
    if name in DEEP:
        return
    ids = np.array([5, 2, 0, 3])
    a = np.random.default_rng(1).standard_normal((4, 3, size, size)).astype(np.float32)
    logits, tlogits = ours.train()(fc.tensor(a)), theirs.train()(torch.tensor(a))
    assert_near(logits.detach().numpy(), tlogits.detach().numpy(), 1e-3, "logits in training")
    fc.ops.cross_entropy(logits, fc.tensor(ids)).backward()
    torch.nn.functional.cross_entropy(tlogits, torch.tensor(ids)).backward()
    ours_grads = [p.grad.numpy() for p in ours.parameters()]
    theirs_grads = [dict(theirs.named_parameters())[key].grad.numpy() for key, _ in ours.named_parameters()]
    assert_gradients_near(ours_grads, theirs_grads, [key for key, _ in ours.named_parameters()])
    buffers = dict(theirs.named_buffers())
    for key, b in ours.named_buffers():
        assert_near(b.numpy(), buffers[key].numpy(), 1e-3, key)


# ---------------------------------------------------------------- they train

TRAINED = {
    "mobilenet_v1": dict(width_mult=0.25), "mobilenet_v3_small": dict(width_mult=0.5, dropout=0.0),
    "mobilenet_v3_large": dict(width_mult=0.25), "efficientnet_b0": dict(dropout=0.0, stochastic_depth=0.0),
    "efficientnet_lite0": {}, "shufflenet_v2_x0_5": {}, "squeezenet1_1": dict(dropout=0.0), "densenet121": {},
    "convnext_tiny": {}, "cbam_resnet50": {}, "se_resnet50": {},
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_every_parameter(name):
    fc.manual_seed(0)
    net = models.create_model(name, 4, 1, **TRAINED[name])
    y = net(fc.randn((4, 1, 32, 32)))
    assert y.shape == (4, 4) and np.isfinite(y.detach().numpy()).all()
    fc.ops.cross_entropy(y, fc.tensor(np.array([1, 3, 0, 2]))).backward()
    wrong = [k for k, p in net.named_parameters() if p.grad is None or not np.isfinite(p.grad.numpy()).all()]
    assert wrong == []


def small_nets():
    narrow = dict(num_classes=4, in_channels=3)
    return {
        "mobilenet_v3": models.mobilenet_v3_small(4, width_mult=0.5, dropout=0.0),
        "efficientnet": models.efficientnet.EfficientNet(0.25, 0.3, 0.0, **narrow, stochastic_depth=0.0),
        "efficientnet_lite": models.efficientnet_lite.EfficientNetLite(0.25, 0.3, 0.0, **narrow, drop_path=0.0),
        "shufflenet_v2": models.shufflenet_v2.ShuffleNetV2((16, 32, 64, 64), **narrow),
        "squeezenet": models.squeezenet1_1(4, dropout=0.0),
        "densenet": models.densenet.DenseNet((2, 2, 2, 2), 8, 16, **narrow),
        "convnext": models.convnext.ConvNeXt((1, 1, 1, 1), (8, 16, 16, 32), 0.0, **narrow, layer_scale=0.5),
        "cbam_resnet": models.resnet.ResNet(models.resnet.BasicBlock, (1, 1, 1, 1), **narrow, attention="cbam"),
        "se_resnet20": models.resnet20(4, attention="se"),
    }


SMALL_NETS = (
    "mobilenet_v3", "efficientnet", "efficientnet_lite", "shufflenet_v2", "squeezenet", "densenet", "convnext",
    "cbam_resnet", "se_resnet20",
)  # fmt: skip


@pytest.mark.parametrize("name", SMALL_NETS)
def test_compiled_steps_equal_eager_ones(name):
    rng = np.random.default_rng(0)
    y = fc.tensor(rng.integers(0, 4, 4))
    fc.manual_seed(1)
    eager, compiled = small_nets()[name], small_nets()[name]
    compiled.load_state_dict(eager.state_dict())

    def step_of(net):
        def step(x):
            logits = net(x)
            return [logits, *fc.grad(fc.ops.cross_entropy(logits, y), list(net.parameters()))]

        return step

    step, replayed = step_of(eager), fc.compile(step_of(compiled))
    names = [key for key, _ in eager.named_parameters()]
    for call in range(2):
        x = fc.tensor(rng.standard_normal((4, 3, 64, 64)).astype(np.float32))
        (logits, *want), (clogits, *got) = step(x), replayed(x)
        assert_near(clogits.detach().numpy(), logits.detach().numpy(), 1e-3, f"logits of call {call}")
        assert_gradients_near([g.numpy() for g in got], [w.numpy() for w in want], names)
    assert replayed.cache_info()["misses"] == 1
    for (key, a), b in zip(eager.named_buffers(), compiled.buffers(), strict=True):
        assert_near(b.numpy(), a.numpy(), 1e-3, key)


def test_stochastic_depth_grows_with_depth_and_acts_in_training_alone():
    net = build("efficientnet_b0")
    rates = [m.drop_prob for m in net.modules() if isinstance(m, nn.DropPath)]
    np.testing.assert_allclose(rates, 0.2 * np.arange(16) / 16)
    net = models.convnext.ConvNeXt((1, 2), (8, 8), 0.9, num_classes=3, layer_scale=1.0)
    x = fc.randn((4, 3, 32, 32))
    with fc.no_grad():
        assert not np.array_equal(net(x).numpy(), net(x).numpy())
        net.eval()
        assert np.array_equal(net(x).numpy(), net(x).numpy())


def test_airbench_whitens_its_first_layer_and_passes_images_on():
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((3, 3))
    images = np.einsum("ij,njhw->nihw", mix, rng.standard_normal((64, 3, 12, 12))).astype(np.float32)
    net = models.airbench94().whiten(images)
    with fc.no_grad():
        y = net.whiten_conv(fc.tensor(images)).numpy()
    flat = y[:, :12].transpose(1, 0, 2, 3).reshape(12, -1)
    np.testing.assert_allclose(flat @ flat.T / flat.shape[1], np.eye(12), atol=0.02)
    np.testing.assert_array_equal(y[:, 12:], -y[:, :12])
    x = fc.randn((1, 24, 4, 4))
    group = net.groups[0]
    np.testing.assert_allclose(group.conv1(x).detach().numpy()[:, :24], x.numpy(), atol=1e-5)  # dirac
    trained = {k for k, p in net.named_parameters() if p.requires_grad}
    assert "whiten_conv.bias" in trained and not {"whiten_conv.weight", "groups.0.norm1.weight"} & trained
    fc.ops.cross_entropy(net(fc.randn((4, 3, 32, 32))), fc.tensor(np.arange(4))).backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match="got 1 in"):
        net.whiten(images[:, :1])


# ---------------------------------------------------------------- options and bad input


def test_options_of_the_new_nets():
    assert build("mobilenet_v1", width_mult=0.5).conv_stem.out_channels == 16
    assert build("efficientnet_b0", num_classes=0).eval()(fc.ops.ones((1, 3, 32, 32))).shape == (1, 1280)
    assert build("squeezenet1_1", num_classes=0)(fc.ops.ones((1, 3, 32, 32))).shape == (1, 512)
    lite, original = build("efficientnet_lite0"), build("tf_efficientnet_lite0")
    assert (lite.conv_stem.padding, lite.bn1.eps) == ((1, 1), 1e-5)
    assert (original.conv_stem.padding, original.bn1.eps) == ("same", 1e-3)
    norm = build("mobilenet_v3_large").features[0][1]
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    assert build("wrn_28_10", 10, dropout=0.3).layer1[0].drop.p == 0.3
    for name in ("resnet18", "resnet20"):
        with pytest.raises(ValueError, match="attention: expected one of"):
            build(name, attention="sx")
        assert isinstance(build(name, attention="nonlocal").layer1[0].se, fc.nn.SelfAttention2d)


SMALLEST = {
    "airbench94": 9, "alexnet": 63, "vgg11": 32, "densenet121": 29, "squeezenet1_0": 21, "squeezenet1_1": 17,
    "convnext_tiny": 32,
}  # fmt: skip


@pytest.mark.parametrize("name", SMALLEST)
def test_images_below_the_stride_of_the_net_are_refused_with_advice(name):
    net, size = build(name, 2).eval(), SMALLEST[name]
    with fc.no_grad():
        assert net(fc.ops.ones((1, 3, size, size))).shape == (1, 2)
        with pytest.raises(ValueError, match=rf"at least {size}x{size}, got {size - 1}x{size}; resize"):
            net(fc.ops.ones((1, 3, size - 1, size)))
        with pytest.raises(ValueError):  # the bound is not too careful
            net.forward(fc.ops.ones((1, 3, size - 1, size)))


def test_wrong_images_are_refused_with_advice():
    for name in ("resnet18", "mobilenet_v3_small", "resnet20", "convnext_tiny"):
        with pytest.raises(ValueError, match=r"of 3 channels, got 1 in \(2, 1, 64, 64\); build it with in_channels=1"):
            build(name)(fc.ops.ones((2, 1, 64, 64)))
        with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(3, 64, 64\)"):
            build(name)(fc.ops.ones((3, 64, 64)))
    net = build("resnet20", 10)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(2, 32, 32, 3\), .* give x.permute\(0, 3, 1, 2\)"):
        net(fc.ops.ones((2, 32, 32, 3)))
    with pytest.raises(TypeError, match=r"expected images as a Tensor, got an array of shape \(2, 3, 8, 8\); fc"):
        net(np.ones((2, 3, 8, 8), np.float32))
    with pytest.raises(TypeError, match="expected images as a Tensor, got a list"):
        net([1.0])
    with pytest.raises(ValueError, match="LeNet5: expected images of 28x28, got 32x32"):
        build("lenet5", 10, 1)(fc.ops.ones((2, 1, 32, 32)))


def test_every_model_stands_in_the_documentation():
    text = (pathlib.Path(__file__).parents[2] / "docs/models.md").read_text()
    first_cells = re.findall(r"^\| (.*?) \|", text, re.M)
    listed = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert listed == set(models.list_models())
