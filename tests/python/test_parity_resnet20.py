"""Ten training steps equal PyTorch's: losses, gradients, weights and batch-norm statistics of ResNet-20 (direct
convolution), losses and gradients of a smooth net with Winograd."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _core

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Block(torch.nn.Module):
    def __init__(self, inp, out, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(out)
        self.conv2 = torch.nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(out)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if y.shape != x.shape:
            extra = y.shape[1] - x.shape[1]
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra - extra // 2))
        return F.relu(y + x)


class ResNet20(torch.nn.Module):
    """He et al. 2015, section 4.2, shortcuts of option A."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        inp = 16
        for i, width in enumerate((16, 32, 64)):
            blocks = [Block(inp if j == 0 else width, width, 2 if i and j == 0 else 1) for j in range(3)]
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*blocks))
            inp = width
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


@pytest.fixture
def conv_algorithm():
    before = fc.get_conv_algorithm()
    yield fc.set_conv_algorithm
    fc.set_conv_algorithm(before)


# Training on noise is chaotic: PyTorch's own float32 and float64 gradients differ by 4 % after five steps, because
# single ReLUs flip. So ten steps are compared in float64, and float32 over the steps that rounding leaves alone.
# Winograd's errors of 1e-6 flip a few ReLUs of a million, each worth 1e-3 of a gradient: direct convolution here.
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype, steps, tolerance", [("float64", 10, 1e-4), ("float32", 1, 1e-4)])
def test_ten_steps_as_torch(conv_algorithm, compiled, dtype, steps, tolerance):
    conv_algorithm("direct")
    size, batch = (16, 4) if dtype == "float64" else (32, 16)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    theirs = ResNet20().to(getattr(torch, dtype))
    ours = fc.models.create_model("resnet20", num_classes=10).to(dtype)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
    a = fc.optim.SGD(ours.parameters(), **options)
    b = torch.optim.SGD(theirs.parameters(), **options)
    names = [n for n, _ in ours.named_parameters()]

    def step(x, y):
        loss = fc.ops.cross_entropy(ours(x), y)
        loss.backward()
        grads = [p.grad.clone() for p in ours.parameters()]
        a.step()
        a.zero_grad()
        return [loss.detach(), *grads]

    run = fc.compile(step) if compiled else step
    for t in range(steps):
        x = rng.standard_normal((batch, 3, size, size)).astype(dtype)
        y = rng.integers(0, 10, batch)
        loss, *grads = run(fc.tensor(x), fc.tensor(y))
        b.zero_grad()
        want = F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        want.backward()
        assert loss.item() == pytest.approx(want.item(), rel=tolerance), f"step {t}"
        wants = dict(theirs.named_parameters())
        for name, grad in zip(names, grads, strict=True):
            g, w = grad.numpy(), wants[name].grad.numpy()
            error = np.linalg.norm(g - w) / np.linalg.norm(w)
            assert error < tolerance, f"gradient of {name} at step {t}: {error:.2e}"
        b.step()
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        want = state[name].numpy()
        error = np.linalg.norm(value.numpy() - want) / max(np.linalg.norm(want), 1e-12)
        assert error < tolerance, f"{name} after {steps} steps: {error:.2e}"
    assert int(ours.state_dict()["bn1.num_batches_tracked"].item()) == steps


def smooth_net(nn):
    layers = []
    for i, o in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@pytest.mark.skipif(fc.isa() == "ref", reason="the references know no algorithms")
@pytest.mark.parametrize("compiled", [False, True])
def test_ten_steps_with_winograd(conv_algorithm, compiled):
    conv_algorithm("auto")
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    theirs, ours = smooth_net(torch.nn), smooth_net(fc.nn)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    a = fc.optim.SGD(ours.parameters(), **options)
    b = torch.optim.SGD(theirs.parameters(), **options)

    def step(x, y):
        loss = fc.ops.cross_entropy(ours(x), y)
        loss.backward()
        grads = [p.grad.clone() for p in ours.parameters()]
        a.step()
        a.zero_grad()
        return [loss.detach(), *grads]

    run = fc.compile(step) if compiled else step
    _core.record_kernel_choices(True)
    for t in range(10):
        x = rng.standard_normal((16, 3, 32, 32)).astype(np.float32)
        y = rng.integers(0, 10, 16)
        loss, *grads = run(fc.tensor(x), fc.tensor(y))
        b.zero_grad()
        want = F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        want.backward()
        b.step()
        assert loss.item() == pytest.approx(want.item(), rel=1e-4), f"step {t}"
        for (name, p), grad in zip(theirs.named_parameters(), grads, strict=True):
            w = p.grad.numpy()
            error = np.linalg.norm(grad.numpy() - w) / np.linalg.norm(w)
            assert error < 1e-3, f"gradient of {name} at step {t}: {error:.2e}"
    taken = set(_core.take_kernel_choices())
    _core.record_kernel_choices(False)
    backward = ("conv2d_bwd",) if compiled else ("conv2d_bwd_data", "conv2d_bwd_weights")
    assert {f"{op}:winograd" for op in ("conv2d", *backward)} <= taken


# Garments at a small rate: 6e-4 apart at most for 2.5 times the rate, as PyTorch's float32 is from its float64.
# Faster, both leave float64 by a per cent within ten steps, and no algorithm is told from another.
@pytest.mark.skipif(fc.isa() == "ref", reason="the references know no algorithms")
def test_ten_steps_of_resnet20_with_winograd(conv_algorithm):
    conv_algorithm("auto")
    data = fc.data.load("fashion_mini", split="train")
    torch.manual_seed(0)
    theirs = ResNet20().double()
    ours = fc.models.create_model("resnet20", num_classes=10)
    ours.load_state_dict({k: v.float().numpy() for k, v in theirs.state_dict().items()})
    options = {"lr": 2e-4, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
    a = fc.optim.SGD(ours.parameters(), **options)
    b = torch.optim.SGD(theirs.parameters(), **options)

    @fc.compile
    def step(x, y):
        loss = fc.ops.cross_entropy(ours(x), y)
        loss.backward()
        a.step()
        a.zero_grad()
        return loss

    _core.record_kernel_choices(True)
    losses = []
    for t in range(10):
        items = [data[i] for i in range(32 * t, 32 * t + 32)]
        x = np.repeat(np.stack([np.asarray(image) for image, _ in items]).astype(np.float32) / 255, 3, 1)
        x, y = np.pad((x - 0.29) / 0.35, ((0, 0), (0, 0), (2, 2), (2, 2))), np.array([int(i) for _, i in items])
        loss = step(fc.tensor(x), fc.tensor(y)).item()
        b.zero_grad()
        want = F.cross_entropy(theirs(torch.tensor(x).double()), torch.tensor(y))
        want.backward()
        b.step()
        assert loss == pytest.approx(want.item(), rel=1e-3), f"step {t}"
        losses.append(loss)
    taken = set(_core.take_kernel_choices())
    _core.record_kernel_choices(False)
    assert {"conv2d:winograd", "conv2d_bwd:winograd"} <= taken
    assert losses[-1] < 0.9 * losses[0]
