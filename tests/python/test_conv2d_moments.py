"""Convolutions that give the statistics of the batch norm behind them in training plans. Seen to happen, with eager's
numbers but for the order of sums, and to stay away where the norm reads something else."""

from __future__ import annotations

import re

import fastcnn as fc
import numpy as np
import pytest
from plan_check import train

ops, nn = fc.ops, fc.nn


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


def given(f):
    """How many norms of the plan take moments, and the implementations of the convolutions that give them."""
    steps = f._core.steps()
    norms = [s["shapes"].split("->")[0] for s in steps if s["op"] == "batch_norm"]
    convs = [s for s in steps if s["op"] == "conv2d" and re.search(r"\(2, \d+\)", s["shapes"].split("->")[1])]
    return sum(bool(re.search(r"\(2, \d+\)", s)) for s in norms), [s["implementation"] for s in convs]


class Net(nn.Module):
    """A first layer, an inverted residual, a 3x3 residual block and a stride: one of each kind of kernel."""

    def __init__(self, bias=False, groups=1):
        super().__init__()
        layers = ((3, 32, 3, 2, 1), (32, 96, 1, 1, 1), (96, 96, 3, 1, 96), (96, 32, 1, 1, 1), (32, 32, 3, 1, 1))
        layers += ((32, 48, 3, 2, groups),)
        self.convs = nn.ModuleList(
            [nn.Conv2d(i, o, k, stride=s, padding=k // 2, groups=g, bias=bias) for i, o, k, s, g in layers]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(o) for _, o, *_ in layers])

    def forward(self, x):
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(x))
            x = y + x if i == 4 else ops.relu6(y)
        return x


def results(model, x, compiled=True, moments=True):
    """The loss, the gradients and the running statistics of one pass from the model's state; the function."""

    def fn(x):
        loss = (model(x) ** 2).mean()
        return (loss, *fc.grad(loss, [x, *model.parameters()]))

    state = {k: v.clone() for k, v in model.state_dict().items()}
    fc._core.give_conv2d_moments(moments)
    try:
        f = fc.compile(fn) if compiled else fn
        got = [t.numpy() for t in f(x)] + [b.numpy().copy() for b in model.buffers()]
    finally:
        fc._core.give_conv2d_moments(True)
    model.load_state_dict(state)
    return got, f


def close(got, want, tolerance):
    # The gradient of weights before a norm is a small difference of large sums: compare with the largest of all.
    top = max(np.abs(b).max() for b in want[1:])
    np.testing.assert_allclose(got[0], want[0], rtol=tolerance)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance * top)


@pytest.mark.parametrize("bias", [False, True])
def test_training_pass_is_eager(bias, kernel_isa):
    fc.manual_seed(1)
    model, x = Net(bias), rand(4, 3, 57, 50).requires_grad_()
    got, f = results(model, x)
    norms, convs = given(f)
    assert norms == 6 and len(convs) == 6, f.describe()
    assert {"dense", "depthwise"} <= set(convs)
    _, plain = results(model, x, moments=False)
    assert given(plain) == (0, [])
    taken = [[s["implementation"] for s in g._core.steps() if s["op"] == "conv2d"] for g in (f, plain)]
    assert taken[0] == taken[1]  # nobody changes kernels for it
    close(got, results(model, x, compiled=False)[0], 2e-5)


def test_groups(kernel_isa):
    fc.manual_seed(2)
    model, x = Net(groups=16), rand(2, 3, 67, 70).requires_grad_()
    got, f = results(model, x)
    assert given(f)[0] == 6
    close(got, results(model, x, compiled=False)[0], 2e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes_have_their_own_pass(dtype):
    fc.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    f = fc.compile(model)
    f(rand(2, 3, 9, 9).to(dtype))
    assert given(f) == (0, [])


def test_reference_has_its_own_pass():
    fc._core.set_isa("ref")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    f = fc.compile(model)
    f(rand(2, 3, 9, 9))
    assert given(f) == (0, [])


def test_mean_far_from_zero(kernel_isa):
    fc.manual_seed(5)
    conv, bn = nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24)
    nn.init.constant_(conv.bias, 1e4)
    model, x = nn.Sequential(conv, bn), rand(4, 16, 40, 40)
    with fc.no_grad():
        y = conv(x).numpy().astype(np.float64)
        f = fc.compile(model)
        got = f(x).numpy()
    assert given(f) == (1, ["dense"])
    want = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + bn.eps)
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_two_norms_of_one_result(kernel_isa):
    conv, a, b = nn.Conv2d(6, 24, 1), nn.BatchNorm2d(24), nn.BatchNorm2d(24)
    model = nn.ModuleList([conv, a, b])

    def fn(x):
        y = conv(x)
        return a(y) + ops.relu(b(y))

    x = rand(2, 6, 11, 10)
    want = fn(x).numpy()
    for n in (a, b):
        n.load_state_dict(nn.BatchNorm2d(24).state_dict())
    f = fc.compile(fn)
    np.testing.assert_allclose(f(x).numpy(), want, rtol=1e-5, atol=1e-5)
    assert given(f) == (2, ["dense"])
    assert len(list(model.parameters())) == 6


@pytest.mark.parametrize("kind", ["scaled", "in place", "activation", "part", "inference"])
def test_norm_of_something_else(kind, kernel_isa):
    conv, bn = nn.Conv2d(6, 24, 1), nn.BatchNorm2d(24)

    def fn(x):
        with fc.no_grad():
            y = conv(x)
            if kind == "scaled":
                y = y * 2
            elif kind == "in place":
                y.mul_(2)
            elif kind == "part":
                y = y[1:]
            return ops.relu(bn(ops.relu(y) if kind == "activation" else y))

    bn.train(kind != "inference")
    x = rand(3, 6, 11, 10)
    state = {k: v.clone() for k, v in bn.state_dict().items()}
    want = fn(x).numpy()
    bn.load_state_dict(state)
    f = fc.compile(fn)
    np.testing.assert_allclose(f(x).numpy(), want, rtol=1e-5, atol=1e-5)
    # An activation is one with the convolution, which gives the moments of what it stores.
    assert given(f)[0] == (kind == "activation"), f.describe()


def test_checkpoint(kernel_isa):
    fc.manual_seed(6)
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Conv2d(8, 3, 1)

    def fn(x):
        y = fc.checkpoint(block, x)
        return fc.grad((head(y) ** 2).sum(), [x, *head.parameters()])

    x = rand(2, 8, 12, 13).requires_grad_()
    want = [t.numpy() for t in fn(x)]
    f = fc.compile(fn)
    for a, b in zip(f(x), want, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    assert given(f)[0] == 2  # forward, and again in backward


def test_same_bits_for_any_number_of_threads(kernel_isa):
    before, all_results = fc.get_num_threads(), {}
    try:
        for n in (1, 2, 3, 5):
            fc.set_num_threads(n)
            fc.manual_seed(7)
            got, f = results(Net(), rand(3, 3, 57, 66).requires_grad_())
            assert given(f)[0] == 6
            all_results[n] = got
    finally:
        fc.set_num_threads(before)
    for n in (2, 3, 5):
        for a, b in zip(all_results[1], all_results[n], strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_steps(kernel_isa):
    losses = []
    for compiled in (False, True):
        fc.manual_seed(8)
        model = nn.Sequential(Net(), nn.AvgPool2d(5), nn.Flatten(), nn.Linear(48, 5))
        x, y = rand(8, 3, 20, 20), fc.tensor(np.arange(8) % 5)
        found, run = train(model, x, y, 0.02, 6, compiled)
        losses.append(found)
        if compiled:
            assert given(run)[0] > 0, run.describe()
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert losses[0][5] < losses[0][0]


def test_cost():
    model, x = nn.Sequential(nn.Conv2d(4, 48, 1, bias=False), nn.BatchNorm2d(48)), rand(2, 4, 20, 20)
    f = fc.compile(model)
    f(x)
    wide = 2 * 48 * 400
    conv, norm = (next(s for s in f._core.steps() if s["op"] == op) for op in ("conv2d", "batch_norm"))
    assert conv["flops"] == wide * (2 * 4 + 3) and conv["bytes"] == 4 * (wide * 13 // 12 + 4 * 48) + 8 * 2 * 48
    assert norm["flops"] == 3 * wide and norm["bytes"] == 4 * (2 * wide + 4 * 48) + 8 * 2 * 48
