"""Network ops under compile: the numbers of eager mode, to second order, statistics and dropout included."""

import numpy as np
import pytest
from nn_check import array, assert_close, core, each_isa, ops, randn, tensor, use_isa


def run_both(fn, arrays, calls=3, tolerance=1e-5):
    """fn(list of tensors) -> list, eager and compiled, `calls` times with changing inputs."""
    compiled = core.Compiled()
    for call in range(calls):
        inputs = [tensor(a + 0.1 * call * randn(a.shape, 50), "float32") for a in arrays]
        want = fn(inputs)
        got, _ = compiled.call(b"", inputs, fn)
        for i, (g, w) in enumerate(zip(got, want)):
            assert_close(array(g), array(w), tolerance, f"call {call}, output {i}")
    assert compiled.cache_info()["misses"] == 1


def params(*shapes):
    return [tensor(randn(s, 3) / np.sqrt(max(1, np.prod(s[1:]))), "float32", True) for s in shapes]


@each_isa
def test_network_and_its_gradients(isa):
    weights = params(
        (8, 3, 3, 3), (8,), (8,), (8, 1, 3, 3), (12, 8, 1, 1), (12,), (5, 12), (5,), (12, 6, 2, 2)
    )
    w0, gamma, beta, w1, w2, b2, w3, b3, w4 = weights

    def net(inputs):
        (x,) = inputs
        h = ops.relu(ops.batch_norm(ops.conv2d(x, w0, padding=1), None, None, gamma, beta, training=True))
        h = ops.silu(ops.conv2d(h, w1, padding="same", stride=2, groups=8))
        h = ops.group_norm(ops.conv2d(h, w2, b2, padding=1, padding_mode="reflect"), 3)
        h = ops.max_pool2d(ops.local_response_norm(h, 3), 3, 1, 1) + ops.avg_pool2d(h, 3, 1, 1)
        up = ops.hardswish(ops.conv_transpose2d(h, w4, stride=2))
        y = ops.log_softmax(ops.linear(ops.global_avg_pool2d(h).permute([0, 2, 3, 1]), w3, b3), -1)
        grads = core.grad([y * y, up * up], weights, [ops.exp(y), up])
        return [y.detach(), up.detach(), *grads]

    with use_isa(isa):
        run_both(net, [randn((4, 3, 8, 8))], tolerance=1e-4)


def test_gradient_penalty():
    """Double backward, as WGAN-GP trains (Gulrajani et al. 2017)."""
    weights = params((6, 2, 3, 3), (6,), (6,), (1, 6))
    w0, gamma, beta, w1 = weights

    def penalty(inputs):
        x = inputs[0].detach()
        x.requires_grad_()
        h = ops.leaky_relu(ops.instance_norm(ops.conv2d(x, w0, padding=1), gamma, beta), 0.2)
        y = ops.linear(ops.global_avg_pool2d(h).permute([0, 2, 3, 1]), w1)
        (g,) = core.grad([y], [x], [ops.ones(y.shape)], create_graph=True)
        return [g.detach(), *core.grad([(g * g).sum()], weights[:2] + [w1])]

    run_both(penalty, [randn((3, 2, 6, 6))], tolerance=1e-4)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_move_with_each_replay(momentum):
    def fresh():
        count = core.tensor(np.int64(1)) if momentum is None else None
        return tensor(np.zeros(4), "float32"), tensor(np.ones(4), "float32"), count

    eager, replayed = fresh(), fresh()

    def step(state):
        mean, var, count = state
        options = {"training": True, "momentum": momentum, "num_batches_tracked": count}
        return lambda inputs: [ops.batch_norm(inputs[0], mean, var, **options)]

    compiled = core.Compiled()
    for call in range(4):
        x = tensor(randn((5, 4, 3, 3), call) * (1 + call), "float32")
        want = step(eager)([x])[0]
        got = compiled.call(b"", [x], step(replayed))[0][0]
        assert_close(array(got), array(want), 1e-5, "value")
        for a, b in zip(replayed[:2], eager[:2]):
            assert_close(array(a), array(b), 1e-6, "running statistics")


def test_dropout_draws_anew_in_each_replay_and_as_eager():
    x, one = tensor(np.ones((64, 16)), "float32", True), tensor(np.ones((64, 16)), "float32")

    def step(inputs):
        a, b = ops.dropout(x * inputs[0], 0.3), ops.dropout2d(x * inputs[0], 0.5)
        (dx,) = core.grad([a + b], [x], [inputs[0]])
        return [a.detach(), b.detach(), dx]

    ops.manual_seed(5)
    want = [[array(t) for t in step([one])] for _ in range(3)]
    ops.manual_seed(5)
    compiled = core.Compiled()
    got = [[array(t) for t in compiled.call(b"", [one], step)[0]] for _ in range(3)]
    for call in range(3):
        for g, w in zip(got[call], want[call]):
            np.testing.assert_array_equal(g, w)
        assert_close(got[call][2], got[call][0] + got[call][1], 1e-6, "the mask of backward")
    assert (got[0][0] != got[1][0]).any() and (got[1][0] != got[2][0]).any()
