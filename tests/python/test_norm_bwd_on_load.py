"""Backward passes of batch norms that the convolution before them makes as it reads: one step gives both gradients of
that convolution and, where its input is a norm itself, the sums for the next. Seen to happen, equal to eager up to the
order of those sums, and away where a gradient has other readers."""

from __future__ import annotations

import re

import fastcnn as fc
import numpy as np
import pytest
from plan_check import train

pytestmark = pytest.mark.usefixtures("eager_statistics")  # bits are compared

ops, nn = fc.ops, fc.nn


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


def conv_norm(C, O, kernel=1, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(C, O, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(O))


class Inverted(nn.Module):
    """1x1, depthwise, 1x1; with a shortcut where the shapes allow."""

    def __init__(self, C, wide, O, stride=1, act=ops.relu6, kernel=3):
        super().__init__()
        self.expand, self.depth = conv_norm(C, wide), conv_norm(wide, wide, kernel, stride, wide)
        self.project, self.act, self.add = conv_norm(wide, O), act, stride == 1 and C == O

    def forward(self, x):
        y = self.project(self.act(self.depth(self.act(self.expand(x)))))
        return x + y if self.add else y


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, all with relu."""

    def __init__(self, C, narrow):
        super().__init__()
        self.a, self.b, self.c = conv_norm(C, narrow), conv_norm(narrow, narrow, 3), conv_norm(narrow, C)

    def forward(self, x):
        return ops.relu(self.c(ops.relu(self.b(ops.relu(self.a(x))))) + x)


def steps(f, op):
    return [s for s in f._core.steps() if s["op"] == op]


def joint(f):
    return sorted(s["implementation"] for s in steps(f, "conv2d_bwd"))


def gradients(model):
    def fn(x):
        y = model(x)  # of a norm: the gradient of its squares would be rounding alone
        return (y, *fc.grad((y * y * y).sum(), [x, *(p for p in model.parameters() if p.requires_grad)]))

    return fn


def gradients_of_parameters(model):
    def fn(x):
        y = model(x)
        return (y, *fc.grad((y * y * y).sum(), list(model.parameters())))

    return fn


def compare(model, fn, x, tolerance=2e-5):
    """fn(x) compiled and not, from the same state: forward bit for bit, gradients up to rounding."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    want = [t.numpy() for t in fn(x)]
    model.load_state_dict(state)
    f = fc.compile(fn)
    got = [t.numpy() for t in f(x)]
    np.testing.assert_array_equal(got[0], want[0])
    most = max(np.abs(b).max() for b in want[1:])  # gradients that cancel are rounding of the others
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=tolerance * np.abs(b).max() + 1e-6 * most)
    return f


@pytest.mark.parametrize("act", ["relu", "relu6"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_inverted_residual(act, stride, kernel, kernel_isa):
    fc.manual_seed(1)
    model = Inverted(16, 96, 24, stride, getattr(ops, act), kernel)
    f = compare(model, gradients(model), rand(3, 16, 22, 17).requires_grad_())
    assert joint(f) == ["dense", "dense", "depthwise"], f.describe()
    assert not steps(f, "conv2d_bwd_data") and not steps(f, "conv2d_bwd_weights")
    assert sum("(2, 96)" in s["shapes"].split("->")[1] for s in steps(f, "conv2d_bwd")) == 2, f.describe()
    assert all(re.search(r"-> \(3, \d+\) ", s["shapes"]) for s in steps(f, "batch_norm_bwd"))  # no images


def test_shortcuts(kernel_isa):
    fc.manual_seed(2)
    model = nn.Sequential(conv_norm(8, 16), Inverted(16, 48, 16), Inverted(16, 64, 16), Bottleneck(16, 40))
    f = compare(model, gradients(model), rand(2, 8, 19, 18).requires_grad_(), 1e-4)
    assert joint(f).count("depthwise") == 2 and joint(f).count("dense") >= 6, f.describe()


def test_bottlenecks(kernel_isa):
    """Every norm's gradient is made on load, and the sums of those between convolutions come with the gradients."""
    fc.manual_seed(3)
    model = nn.Sequential(Bottleneck(64, 24), Bottleneck(64, 24))
    f = compare(model, gradients(model), rand(2, 64, 20, 20).requires_grad_(), 1e-4)
    assert joint(f) == ["dense"] * 4 + ["winograd"] * 2, f.describe()
    assert all(s["shapes"].split("-> ")[1].startswith("(3, ") for s in steps(f, "batch_norm_bwd")), f.describe()
    given = [s for s in steps(f, "batch_norm_bwd") if s["bytes"] < 4 * 2 * 24 * 400]
    assert len(given) == 5, f.describe()  # but for the last one, whose gradient no convolution gives


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_first_layers(act, kernel_isa):
    """Nothing asks for the gradient of the image: the norm's is made on load of the weights' alone."""
    fc.manual_seed(9)
    model = nn.Sequential(conv_norm(3, 16, 3, 2), getattr(nn, {"relu": "ReLU", "silu": "SiLU"}[act])(), nn.MaxPool2d(2))
    f = compare(model, gradients_of_parameters(model), rand(3, 3, 38, 40))
    assert joint(f) == ["weights_alone"] and not steps(f, "conv2d_bwd_weights"), f.describe()
    (step,), pixels = steps(f, "conv2d_bwd"), 3 * 19 * 20
    assert step["flops"] == 5 * 16 * pixels + 2 * 27 * 16 * pixels
    assert step["bytes"] == 4 * (2 * 16 * pixels + 3 * 3 * 38 * 40 + 27 * 16 + 16 * 6)


@pytest.mark.parametrize("between", [nn.ReLU6, nn.Identity])
def test_first_layers_take_sums_from_the_depthwise_convolution_behind(between, kernel_isa):
    fc.manual_seed(10)
    model = nn.Sequential(conv_norm(3, 16, 3, 2), between(), conv_norm(16, 16, 3, groups=16), nn.ReLU())
    f = compare(model, gradients_of_parameters(model), rand(3, 3, 38, 40))
    assert joint(f) == ["depthwise", "weights_alone"], f.describe()
    given = [s for s in steps(f, "batch_norm_bwd") if s["bytes"] < 4 * 3 * 16 * 19 * 20]
    assert len(given) == 1, f.describe()  # no images: sums and coefficients alone


class Basic(nn.Module):
    """Two 3x3 and a shortcut, behind which both gradients of the output meet."""

    def __init__(self, C, act=ops.relu):
        super().__init__()
        self.a, self.b, self.act = conv_norm(C, C, 3), conv_norm(C, C, 3), act

    def forward(self, x):
        y = self.b(self.act(self.a(x))) + x
        return self.act(y) if self.act else y


@pytest.mark.parametrize("act", ["relu", "relu6"])
@pytest.mark.parametrize("C, size", [(24, (20, 18)), (80, (13, 14))])  # in strips; with many channels as a whole
def test_basic_blocks(act, C, size, kernel_isa):
    fc.manual_seed(8)
    model = nn.Sequential(Basic(C, getattr(ops, act)), Basic(C, getattr(ops, act)))
    f = compare(model, gradients(model), rand(3, C, *size).requires_grad_(), 1e-4)
    assert joint(f) == ["winograd"] * 4, f.describe()
    given = [s for s in steps(f, "batch_norm_bwd") if s["bytes"] < 4 * 3 * C * size[0] * size[1]]
    assert len(given) == 3, f.describe()


@pytest.mark.parametrize("kind", ["bias", "frozen", "returned", "two readers", "gelu", "padding", "groups"])
def test_stays_away(kind, kernel_isa):
    fc.manual_seed(4)
    conv = nn.Conv2d(16, 24, 1, bias=kind == "bias", groups=2 if kind == "groups" else 1)
    if kind == "padding":
        conv = nn.Conv2d(16, 16, 3, groups=16, bias=False)
    bn = nn.BatchNorm2d(conv.out_channels)
    model = nn.ModuleList([conv, bn])
    if kind == "frozen":
        conv.weight.requires_grad_(False)
    act = ops.gelu if kind == "gelu" else ops.relu

    def fn(x):
        h = conv(x)
        y = act(bn(h))
        loss = (y * y * y).sum()
        wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
        if kind == "returned":
            wanted.append(h)
        if kind == "two readers":
            loss = loss + (h * h * h).sum()
        return (y, *fc.grad(loss, wanted))

    f = compare(model, fn, rand(2, 16, 12, 13).requires_grad_())
    assert joint(f) == (["dense"] if kind == "gelu" else []), f.describe()


def test_training_steps(kernel_isa):
    losses = []
    for compiled in (False, True):
        fc.manual_seed(5)
        blocks = [Inverted(16, 48, 16), Inverted(16, 48, 24, 2), Bottleneck(24, 16)]
        model = nn.Sequential(conv_norm(3, 16, 3), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(24 * 63, 5))
        x, y = rand(4, 3, 13, 18), fc.tensor(np.array([0, 1, 2, 4]))
        found, run = train(model, x, y, 0.02, 5, compiled)
        losses.append(found)
        if compiled:
            assert len(joint(run)) == 9, run.describe()  # the first layer too
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    assert losses[0][4] < losses[0][0]


def test_checkpoint_and_double_backward(kernel_isa):
    fc.manual_seed(6)
    blocks = nn.ModuleList([Inverted(8, 32, 8) for _ in range(2)])

    def checkpointed(x):
        y = x
        for b in blocks:
            y = fc.checkpoint(b, y)
        return (y, *fc.grad((y * y * y).sum(), [x, *blocks.parameters()]))

    def twice(x):
        y = blocks[0](x)
        (g,) = fc.grad((y * y * y).sum(), [x], create_graph=True)
        return (y, *fc.grad((g * g).sum(), [x]))

    x = rand(2, 8, 12, 13).requires_grad_()
    assert joint(compare(blocks, checkpointed, x, 1e-4))
    compare(blocks, twice, x, 1e-3)


def test_other_dtypes_and_the_reference_keep_their_steps(kernel_isa):
    for dtype in ("bfloat16", "float64"):
        model = Inverted(8, 32, 8).to(dtype)
        f = fc.compile(gradients(model))
        f(rand(2, 8, 9, 9).to(dtype).requires_grad_())
        assert not joint(f)
    before = fc.isa()
    fc._core.set_isa("ref")
    try:
        model = Inverted(4, 6, 4)
        assert not joint(compare(model, gradients(model), rand(1, 4, 5, 4).requires_grad_()))
    finally:
        fc._core.set_isa(before)


def test_same_bits_for_any_number_of_threads(kernel_isa):
    before, results = fc.get_num_threads(), {}
    try:
        for n in (1, 2, 3, 4):
            fc.set_num_threads(n)
            fc.manual_seed(7)
            last = (Bottleneck(24, 32), Bottleneck(24, 32), conv_norm(24, 80, 3), Basic(80), Basic(80))
            model = nn.Sequential(Inverted(16, 144, 24), Inverted(24, 96, 24, 2), *last)
            f = fc.compile(gradients(model))
            results[n] = [t.numpy() for t in f(rand(2, 16, 40, 35).requires_grad_())]
            assert len(joint(f)) >= 12 and "winograd" in joint(f)
    finally:
        fc.set_num_threads(before)
    for n in (2, 3, 4):
        for a, b in zip(results[1], results[n], strict=True):
            np.testing.assert_array_equal(a, b)


def test_memory_and_cost(kernel_isa):
    model = Inverted(16, 96, 24)
    f = fc.compile(gradients(model))
    f(rand(2, 16, 20, 20).requires_grad_())
    wide = 4 * 2 * 96 * 400
    assert f.info()["tensor_bytes"] < 6 * wide  # 2 inputs of norms, 2 gradients, and little else
    depth = next(s for s in steps(f, "conv2d_bwd") if s["implementation"] == "depthwise")
    assert depth["bytes"] == 4 * wide + 4 * 96 * (2 * 9 + 4 + 3) + 8 * 2 * 96  # dy is past its activation
    assert depth["flops"] == wide // 4 * (2 * 2 * 9 + 5 + 3 + 4)
    taken = [s for s in steps(f, "batch_norm_bwd") if s["shapes"].endswith("-> (3, 96) (96,) (96,)")]
    assert len(taken) == 2 and all(s["bytes"] == 4 * 96 * (3 + 5) + 8 * 2 * 96 and s["flops"] == 0 for s in taken)
