"""Attention layers against twins written on torch: outputs, gradients of input and parameters, eager and compiled."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn
from nn_check import array, assert_close, randn, tensor, torch

tn = torch.nn
F = torch.nn.functional


class TorchSE(tn.Module):
    def __init__(self, c, squeezed, act, gate):
        super().__init__()
        self.fc1, self.fc2, self.act, self.gate = tn.Conv2d(c, squeezed, 1), tn.Conv2d(squeezed, c, 1), act, gate

    def forward(self, x):
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


class TorchECA(tn.Module):
    def __init__(self, k):
        super().__init__()
        self.conv = tn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3))[:, None, :])[:, 0, :, None, None].sigmoid()


class TorchCBAM(tn.Module):
    def __init__(self, c, squeezed, k):
        super().__init__()
        self.channel, self.spatial, self.spatial.conv = tn.Module(), tn.Module(), tn.Module()
        self.channel.fc1 = tn.Conv2d(c, squeezed, 1, bias=False)
        self.channel.fc2 = tn.Conv2d(squeezed, c, 1, bias=False)
        self.spatial.conv.conv = tn.Conv2d(2, 1, k, padding=k // 2, bias=False)
        self.spatial.conv.bn = tn.BatchNorm2d(1)

    def forward(self, x):
        def mlp(v):
            return self.channel.fc2(F.relu(self.channel.fc1(v)))

        x = x * (mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1))).sigmoid()
        both = torch.stack([x.mean(1), x.max(1).values], 1)
        return x * self.spatial.conv.bn(self.spatial.conv.conv(both)).sigmoid()


class TorchSelfAttention(tn.Module):
    def __init__(self, c, inner):
        super().__init__()
        self.query_conv, self.key_conv = tn.Conv2d(c, inner, 1), tn.Conv2d(c, inner, 1)
        self.value_conv, self.gamma = tn.Conv2d(c, c, 1), tn.Parameter(torch.zeros(1))

    def forward(self, x):
        q, k, v = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        weights = torch.einsum("nci,ncj->nij", q, k).softmax(2)  # i looks at j
        return x + self.gamma * torch.einsum("nij,ncj->nci", weights, v).reshape(x.shape)


RELU, SIGMOID = tn.ReLU(), tn.Sigmoid()
CASES = {
    "se": (lambda: nn.SqueezeExcite(32), lambda: TorchSE(32, 8, RELU, SIGMOID), 32),
    "se_of_efficientnet": (
        lambda: nn.SqueezeExcite(12, rd_channels=3, act_layer=nn.SiLU),
        lambda: TorchSE(12, 3, tn.SiLU(), SIGMOID), 12,
    ),
    "se_of_mobilenet_v3": (
        lambda: nn.SqueezeExcite(16, rd_channels=8, gate_layer=nn.Hardsigmoid),
        lambda: TorchSE(16, 8, RELU, tn.Hardsigmoid()), 16,
    ),
    "eca": (lambda: nn.ECA(12), lambda: TorchECA(3), 12),
    "eca_wide": (lambda: nn.ECA(256), lambda: TorchECA(5), 256),
    "cbam": (lambda: nn.CBAM(32), lambda: TorchCBAM(32, 2, 7), 32),
    "cbam_3": (lambda: nn.CBAM(8, rd_ratio=0.5, kernel_size=3), lambda: TorchCBAM(8, 4, 3), 8),
    "self": (lambda: nn.SelfAttention2d(16), lambda: TorchSelfAttention(16, 2), 16),
    "self_narrow": (lambda: nn.SelfAttention2d(3, rd_channels=5), lambda: TorchSelfAttention(3, 5), 3),
}  # fmt: skip


def pair_of(name):
    """(our layer, torch's in float64) with the same drawn weights; gamma and batch norm moved off their start."""
    ours, theirs = CASES[name][0](), CASES[name][1]().double()
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    rng = np.random.default_rng(0)
    for k, v in state.items():
        if v.dtype.kind == "f":
            state[k] = np.abs(v + 0.3 * rng.standard_normal(v.shape)) if "running_var" in k else (
                v + 0.3 * rng.standard_normal(v.shape))  # fmt: skip
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    ours.load_state_dict({k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in state.items()})
    return ours, theirs


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_torch(name, compiled):
    ours, theirs = pair_of(name)
    a = randn((2, CASES[name][2], 5, 4), 3)
    x, tx = tensor(a, "float32", True), torch.tensor(a, requires_grad=True)
    weight = randn(a.shape, 4)
    w, tw = tensor(weight, "float32"), torch.tensor(weight)

    def step(x, w):
        y = ours(x)
        return [y, *fc.grad((y * w).sum(), [x, *ours.parameters()])]

    run = fc.compile(step) if compiled else step
    got = run(x, w)
    ty = theirs(tx)
    tparams = [dict(theirs.named_parameters())[k] for k, _ in ours.named_parameters()]
    want = [ty, *torch.autograd.grad((ty * tw).sum(), [tx, *tparams])]
    for i, (g, t) in enumerate(zip(got, want, strict=True)):
        assert_close(array(g), t.detach().numpy(), 3e-5, f"{name}: value or gradient {i}")
    for (key, b), tb in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert_close(array(b), tb.numpy(), 3e-5, f"{name}: {key}")
    got, want = ours.eval()(tensor(a, "float32")), theirs.eval()(torch.tensor(a))
    assert_close(array(got), want.detach().numpy(), 3e-5, f"{name}: in evaluation")


def test_self_attention_starts_as_the_identity():
    a = randn((2, 8, 3, 3))
    assert np.array_equal(nn.SelfAttention2d(8)(tensor(a, "float32")).detach().numpy(), a.astype(np.float32))


def test_kernel_of_eca_grows_with_the_channels():
    sizes = [nn.ECA(c).kernel_size for c in (64, 128, 256, 512, 1024, 2048)]
    assert sizes == [3, 5, 5, 5, 5, 7]  # table of Wang et al.'s ResNet-50: 3, 5, 5, 5, 5, 7


@pytest.mark.parametrize("make", [nn.SqueezeExcite, nn.ECA, nn.CBAM, nn.SelfAttention2d])
def test_bad_input_is_named(make):
    name = make.__name__
    with pytest.raises(ValueError, match=rf"{name}: expected x of shape \(N, 8, H, W\), got \(2, 4, 3, 3\)"):
        make(8)(fc.ops.ones((2, 4, 3, 3)))
    with pytest.raises(ValueError, match=name):
        make(8)(fc.ops.ones((2, 8)))
    with pytest.raises(ValueError, match=name):
        make(0)
    with pytest.raises(ValueError, match="odd kernel_size"):
        nn.ECA(8, kernel_size=4)
    with pytest.raises(ValueError, match="odd kernel_size"):
        nn.CBAM(8, kernel_size=2)
    with pytest.raises(ValueError, match="rd_channels"):
        nn.SqueezeExcite(8, rd_channels=0)
