"""The gradient of a squeeze-and-excitation gate in training plans: sums of products without the product, and the two
gradients of the gated image in one pass. Seen to happen, equal to eager, and away where somebody needs a part."""

from __future__ import annotations

import fastcnn as fc
import numpy as np
import pytest
from plan_check import train

ops, nn = fc.ops, fc.nn


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


def kinds(f):
    return [s["op"] for s in f._core.steps()]


def compare(fn, x):
    want = [t.numpy() for t in fn(x)]
    f = fc.compile(fn)
    for a, b in zip(f(x), want, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
    return f


@pytest.mark.parametrize("shape", [(3, 16, 7, 6), (2, 21, 30, 31), (1, 8, 5, 5)])
def test_gate_of_means(shape, kernel_isa):
    fc.manual_seed(1)
    gate = nn.SqueezeExcite(shape[1], rd_channels=4)

    def fn(x):
        y = gate(x)
        return (y, *fc.grad((y * y).sum(), [x, *gate.parameters()]))

    f = compare(fn, rand(*shape).requires_grad_())
    assert kinds(f).count("channel_dot") == 1 and kinds(f).count("channel_scale") == 1, f.describe()
    assert "avg_pool2d_bwd" not in kinds(f)


def test_a_product_that_is_a_result_is_kept(kernel_isa):
    a, b = rand(2, 8, 5, 5), rand(2, 8, 5, 5, seed=1)

    def fn(a):
        m = a * b
        return m, m.sum((2, 3), keepdim=True)

    f = compare(fn, a)
    assert "channel_dot" not in kinds(f)


def test_operands_that_change_before_the_sum(kernel_isa):
    a, b = rand(2, 8, 5, 5), rand(2, 8, 5, 5, seed=1)

    def fn(a):
        c = a + 1
        m = c * b
        c.mul_(3)
        return m.sum((2, 3), keepdim=True), c

    f = compare(fn, a)
    assert "channel_dot" not in kinds(f)


def test_sums_over_other_dims_stay(kernel_isa):
    a, b = rand(2, 8, 5, 5), rand(2, 8, 5, 5, seed=1)
    f = compare(lambda a: ((a * b).sum((0, 2), keepdim=True), (a * b[:, :1]).sum((2, 3), keepdim=True)), a)
    assert "channel_dot" not in kinds(f)


def test_steps_of_a_whole_net_equal_eager():
    losses = []
    for compiled in (False, True):
        fc.manual_seed(0)
        model = fc.models.create_model("mobilenet_v3_small", num_classes=5)
        losses.append(train(model, rand(4, 3, 64, 64), fc.tensor(np.arange(4)), 0.01, 4, compiled)[0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
