"""Batch norm in training plans: backward passes that make their output again and take the sum of two gradients. Each
join must be seen to happen, give eager's numbers bit for bit, and stay away where an operand changes in between."""

from __future__ import annotations

import fastcnn as fc
import numpy as np
import pytest

ops, nn = fc.ops, fc.nn
pytestmark = pytest.mark.usefixtures("eager_statistics")


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


class Residual(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + x), twice: gradients meet at the input of the second block."""

    def __init__(self, act, linear=False):
        super().__init__()
        for i in range(2):
            for j in range(2):
                self.add_module(f"c{i}{j}", nn.Conv2d(12, 12, 3, padding=1, bias=False))
                self.add_module(f"b{i}{j}", nn.BatchNorm2d(12))
        self.act, self.linear = act, linear

    def forward(self, x):
        for i in range(2):
            y = self.act(getattr(self, f"b{i}0")(getattr(self, f"c{i}0")(x)))
            y = getattr(self, f"b{i}1")(getattr(self, f"c{i}1")(y)) + x
            x = y if self.linear else self.act(y)
        return x


def gradients(model, x, compiled):
    def fn(x):
        loss = (model(x) ** 2).sum()
        return (loss, *fc.grad(loss, [x, *model.parameters()]))

    f = fc.compile(fn) if compiled else fn
    return f, [t.numpy() for t in f(x)]


def steps(f, kind):
    return [s for s in f._core.steps() if s["op"] == kind]


def same(model, x):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    _, want = gradients(model, x, False)
    model.load_state_dict(state)
    f, got = gradients(model, x, True)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    return f


def equal_to_eager(bn, fn, *inputs):
    """fn(*inputs), which gives tensors, compiled and not from the same statistics: the same bits."""
    state = {k: v.clone() for k, v in bn.state_dict().items()}
    want = [t.numpy() for t in fn(*inputs)]
    bn.load_state_dict(state)
    for got, w in zip(fc.compile(fn)(*inputs), want, strict=True):
        np.testing.assert_array_equal(got.numpy(), w)


@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
def test_what_is_not_finite_passes_a_clamp_as_it_passes_the_activation(act, kernel_isa):
    """One kernel clamps for both; a bound that is not there bounds nothing."""
    a = np.random.default_rng(0).normal(size=(2, 12, 5, 5)).astype(np.float32)
    a[0, :, 0, :4] = np.nan, np.inf, -np.inf, 1e30
    model = nn.Sequential(nn.BatchNorm2d(12)).eval()
    fn = {"none": lambda x: x, "relu": ops.relu, "relu6": ops.relu6}[act]
    with fc.no_grad():
        want = fn(model(fc.tensor(a)).clone()).numpy()
        got = fc.compile(lambda x: fn(model(x)))(fc.tensor(a)).numpy()
    np.testing.assert_array_equal(got, want)
    assert np.isnan(got[0, :, 0, 0]).all()
    assert (got[0, :, 0, 1] == (6 if act == "relu6" else np.inf)).all()


@pytest.mark.parametrize("act", ["relu", "relu6"])
@pytest.mark.parametrize("linear", [False, True])
def test_residual_blocks(act, linear, kernel_isa):
    fc.manual_seed(3)
    model = Residual(getattr(ops, act), linear)
    f = same(model, rand(3, 12, 6, 7).requires_grad_())
    bwd = steps(f, "batch_norm_bwd")
    assert len(bwd) == 4
    assert not steps(f, "activation_bwd") and not steps(f, "activation")
    # The inner norm of each block makes its output again: a (2, 12) operand instead of a tensor.
    assert sum("(2, 12)" in s["shapes"] for s in bwd) == 2, f.describe()
    # Of the two sums of gradients (at the input of each block) the norm in front takes the one it can see.
    full = "(3, 12, 6, 7)"
    sums = [s for s in steps(f, "binary") if s["shapes"] == f"{full} {full} -> {full}"]
    assert len(sums) == 2, f.describe()  # the other binary step is the gradient of the loss


@pytest.mark.parametrize("act", ["silu", "hardswish", "leaky_relu"])
def test_activations_by_their_input(act, kernel_isa):
    """What the activation read is not kept: forward and backward of norm and activation are one step each."""
    fc.manual_seed(3)
    f = same(Residual(getattr(ops, act), linear=True), rand(3, 12, 6, 7).requires_grad_())
    assert not steps(f, "activation_bwd") and not steps(f, "activation"), f.describe()
    bwd = steps(f, "batch_norm_bwd")
    assert sum("(2, 12)" in s["shapes"] for s in bwd) == 2, f.describe()


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_an_input_of_the_activation_that_others_read_is_kept(act, kernel_isa):
    bn, x = nn.BatchNorm2d(4), rand(5, 4, 3, 3).requires_grad_()

    def fn(x):
        z = bn(x)
        y = getattr(ops, act)(z)
        return (z, y, *fc.grad((y * y).sum(), [x, *bn.parameters()]))

    equal_to_eager(bn, fn, x)


@pytest.mark.parametrize("act", ["silu", "leaky_relu"])
def test_an_input_of_the_activation_that_is_its_gradient_is_kept(act, kernel_isa):
    bn, x = nn.BatchNorm2d(4), rand(5, 4, 3, 3).requires_grad_()

    def fn(x):
        z = bn(x)
        y = getattr(ops, act)(z)
        return (y, *fc.grad(y, [x, *bn.parameters()], [z]))

    equal_to_eager(bn, fn, x)


def under_autocast(model, dtype):
    """Of x as `dtype`: the loss and all gradients, computed in bfloat16."""

    def fn(x):
        with fc.autocast(dtype=fc.bfloat16):
            y = model(x.to(dtype))
        loss = (y.to(fc.float32) ** 2).sum()
        return (loss, *fc.grad(loss, [x, *model.parameters()]))

    return fn


@pytest.mark.parametrize("act", ["relu6", "silu"])
def test_bfloat16_images_have_kernels_of_their_own(act, kernel_isa):
    fc.manual_seed(3)
    f = fc.compile(under_autocast(Residual(getattr(ops, act), linear=True), fc.float32))
    f(rand(3, 12, 6, 7).requires_grad_())
    bwd = steps(f, "batch_norm_bwd")
    assert len(bwd) == 4 and {s["implementation"] for s in bwd} == {"simd"}, f.describe()
    assert not steps(f, "activation_bwd")


@pytest.mark.parametrize("act", ["relu", "relu6"])
def test_two_gradients_of_a_bfloat16_image_go_into_the_norm(act, kernel_isa):
    fc.manual_seed(3)
    model = Residual(getattr(ops, act), linear=False)
    fn = under_autocast(model, fc.bfloat16)
    f, x = fc.compile(fn), rand(3, 12, 6, 7).requires_grad_()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    want = [t.numpy() for t in fn(x)]
    model.load_state_dict(state)
    for got, w in zip(f(x), want, strict=True):  # fewer roundings: a few values change sides of the activation
        assert np.linalg.norm(got.numpy() - w) < 0.1 * np.linalg.norm(w)
    full = "(3, 12, 6, 7)"
    joined = [s for s in steps(f, "batch_norm_bwd") if s["shapes"].count(full) == 6]  # dy, x, y, dy2 -> dx, dz
    assert len(joined) == 1 and joined[0]["implementation"] == "simd", f.describe()


def test_no_join_when_x_changes_in_between(kernel_isa):
    bn, x = nn.BatchNorm2d(4), rand(5, 4, 3, 3)

    def fn(a):
        v = a * 2
        y = ops.relu(bn(v))
        return fc.grad((y * y).sum(), [a]), y

    for grad in (True,):
        a = x.clone().requires_grad_(grad)
        f = fc.compile(lambda a: fn(a)[0][0])
        state = {k: v.clone() for k, v in bn.state_dict().items()}
        want = fn(a)[0][0].numpy()
        bn.load_state_dict(state)
        np.testing.assert_array_equal(f(a).numpy(), want)


def test_sums_that_others_change_stay(kernel_isa):
    """The sum of two gradients is changed in place before the norm's backward pass may read its parts."""
    bn, x = nn.BatchNorm2d(4), rand(5, 4, 3, 3).requires_grad_()
    g1, g2 = rand(5, 4, 3, 3, seed=1), rand(5, 4, 3, 3, seed=2)

    def fn(x, g1, g2):
        y = bn(x)
        a, b = g1 * 1, g2 * 1
        g = a + b
        a.mul_(3)
        (dx,) = fc.grad(y, [x], [g])
        return dx, g, a

    equal_to_eager(bn, fn, x, g1, g2)


def test_double_backward(kernel_isa):
    bn = nn.BatchNorm2d(4)
    x = rand(5, 4, 3, 3).requires_grad_()

    def fn(x):
        y = ops.relu(bn(x))
        (g,) = fc.grad((y * y).sum(), [x], create_graph=True)
        return fc.grad((g * g).sum(), [x])[0]

    state = {k: v.clone() for k, v in bn.state_dict().items()}
    want = fn(x).numpy()
    bn.load_state_dict(state)
    np.testing.assert_allclose(fc.compile(fn)(x).numpy(), want, rtol=2e-4, atol=1e-5 * np.abs(want).max())
