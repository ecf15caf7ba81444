"""FCN, DeepLabV3 and U-Net: outputs and gradients of the originals, published counts, weights with a second head."""

import fastcnn as fc
import numpy as np
import pytest
import torch_zoo
from fastcnn import models
from zoo_check import assert_gradients_near, assert_near, build, count

COUNTS = {"fcn_resnet50": 35_322_218, "deeplabv3_resnet50": 42_004_074}  # torchvision's, 21 classes and the second head


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_published_ones(name):
    assert count(build(name, 21, aux_loss=True)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_outputs_equal_torchvisions(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    try:
        theirs = torch_zoo.build(name, num_classes=5, aux_loss=True).eval()
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"torchvision cannot be imported: {e}")
    ours = build(name, 5, aux_loss=True).eval()
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    a = np.random.default_rng(0).standard_normal((1, 3, 41, 56)).astype(np.float32)
    with fc.no_grad(), torch.no_grad():
        got, want = ours(fc.tensor(a)), theirs(torch.tensor(a))
    assert list(got) == list(want) == ["out", "aux"]
    for key, value in want.items():
        assert_near(got[key].numpy(), value.numpy(), 1e-4, key)


def test_gradients_reach_all_of_a_dilated_net_and_weights_with_a_second_head_load(tmp_path):
    fc.manual_seed(0)
    net = models.create_model("fcn_resnet50", 3, 1, aux_loss=True)
    x, y = fc.randn((2, 1, 32, 40)), fc.tensor(np.random.default_rng(0).integers(0, 3, (2, 32, 40)))
    out = net(x)
    (fc.ops.cross_entropy(out["out"], y) + 0.5 * fc.ops.cross_entropy(out["aux"], y)).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not np.isfinite(p.grad.numpy()).all()] == []
    net.save(tmp_path / "fcn.safetensors")
    plain = models.create_model("fcn_resnet50", 7, 1, pretrained=tmp_path / "fcn.safetensors")
    skipped = dict(plain.pretrained_report.skipped)
    assert skipped["classifier.4.weight"] == "trained for 3 classes, drawn anew for 7"
    assert skipped["aux_classifier.0.weight"] == "the model was built without aux_classifier"
    assert np.abs(plain.classifier[4].weight.numpy()).max() > 0
    same = models.create_model("fcn_resnet50", pretrained=tmp_path / "fcn.safetensors")  # as many as the file has
    np.testing.assert_array_equal(same.classifier[4].weight.numpy(), net.classifier[4].weight.numpy())
    with fc.no_grad():
        assert plain.eval()(x).shape == (2, 7, 32, 40)


def torch_unet(num_classes, in_channels, width):
    """U-Net on torch with the names of Pytorch-UNet."""
    torch = pytest.importorskip("torch")
    tn, f = torch.nn, torch.nn.functional

    class Double(tn.Module):
        def __init__(self, inp, out):
            super().__init__()
            self.double_conv = tn.Sequential(
                tn.Conv2d(inp, out, 3, 1, 1, bias=False), tn.BatchNorm2d(out), tn.ReLU(),
                tn.Conv2d(out, out, 3, 1, 1, bias=False), tn.BatchNorm2d(out), tn.ReLU(),
            )  # fmt: skip

        def forward(self, x):
            return self.double_conv(x)

    class Net(tn.Module):
        def __init__(self):
            super().__init__()
            self.inc = Double(in_channels, width)
            for i in range(4):
                down, up = tn.Module(), tn.Module()
                down.maxpool_conv = tn.Sequential(tn.MaxPool2d(2), Double(width << i, width << (i + 1)))
                setattr(self, f"down{i + 1}", down)
                up.up = tn.ConvTranspose2d(width << (4 - i), width << (3 - i), 2, 2)
                up.conv = Double(width << (4 - i), width << (3 - i))
                setattr(self, f"up{i + 1}", up)
            self.outc = tn.Module()
            self.outc.conv = tn.Conv2d(width, num_classes, 1)

        def forward(self, x):
            maps = [self.inc(x)]
            for i in range(4):
                maps.append(getattr(self, f"down{i + 1}").maxpool_conv(maps[-1]))
            y = maps.pop()
            for i in range(4):
                part, skip = getattr(self, f"up{i + 1}"), maps.pop()
                y = part.up(y)
                dy, dx = skip.shape[2] - y.shape[2], skip.shape[3] - y.shape[3]
                y = part.conv(torch.cat([skip, f.pad(y, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))], 1))
            return self.outc.conv(y)

    torch.manual_seed(0)
    return torch, Net()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("size", [(32, 48), (37, 50)], ids=["even", "odd"])
def test_unet_equals_torch(size, compiled):
    torch, theirs = torch_unet(3, 2, 4)
    ours = models.unet(3, 2, width=4)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    a, ids = rng.standard_normal((2, 2, *size)).astype(np.float32), rng.integers(0, 3, (2, *size))

    def step(x, y):
        logits = ours(x)
        return [logits, *fc.grad(fc.ops.cross_entropy(logits, y), list(ours.parameters()))]

    logits, *grads = (fc.compile(step) if compiled else step)(fc.tensor(a), fc.tensor(ids))
    tlogits = theirs(torch.tensor(a))
    named = dict(theirs.named_parameters())
    names = [k for k, _ in ours.named_parameters()]
    tloss = torch.nn.functional.cross_entropy(tlogits, torch.tensor(ids))
    tgrads = torch.autograd.grad(tloss, [named[k] for k in names])
    assert_near(logits.detach().numpy(), tlogits.detach().numpy(), 1e-3, "logits")
    assert_gradients_near([g.numpy() for g in grads], [g.numpy() for g in tgrads], names)


def test_size_and_bad_input_of_unet():
    assert count(build("unet", 2, 3)) == 31_037_698  # as Pytorch-UNet counts
    net = models.unet(2, 3, width=2)
    with pytest.raises(ValueError, match="UNet: expected images of at least 16x16, got 15x16"):
        net(fc.ops.ones((1, 3, 15, 16)))
    for bad in (dict(num_classes=0), dict(width=1)):
        with pytest.raises(ValueError, match="UNet: expected num_classes"):
            models.unet(**bad)
    with pytest.raises(ValueError, match="num_classes >= 1"):
        models.fcn_resnet50(0)
