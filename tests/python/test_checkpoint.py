"""fc.checkpoint: the same numbers with less memory, in every mode in which the tape is used."""

import fastcnn as fc
import numpy as np
import pytest

nn, ops = fc.nn, fc.ops


def block(channels, p=0.0):
    layers = [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Dropout(p)] if p else []))


def net(p=0.0, seed=0):
    fc.manual_seed(seed)
    return nn.ModuleList([block(4, p) for _ in range(4)])


def run(blocks, x, use):
    for b in blocks:
        x = fc.checkpoint(b, x) if use else b(x)
    return (x * x).mean()


def gradients(blocks):
    return [p.grad.numpy().copy() for p in blocks.parameters()]


@pytest.fixture
def x():
    return fc.tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32))


@pytest.mark.smoke
@pytest.mark.parametrize("p", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradients_and_statistics_are_those_without(x, p, compiled):
    results = []
    for use in (False, True):
        blocks = net(p)
        fc.manual_seed(7)

        def step(x, blocks=blocks, use=use):
            loss = run(blocks, x, use)
            loss.backward()
            return loss.detach()

        f = fc.compile(step) if compiled else step
        losses = [f(x).item(), f(x).item()]  # the second adds to the gradients of the first
        after = ops.rand((4,)).numpy()  # the random stream stands at the same place
        buffers = [b.numpy().copy() for b in blocks.buffers()]
        results.append((losses, gradients(blocks), buffers, after))
    (loss_a, grad_a, buf_a, rand_a), (loss_b, grad_b, buf_b, rand_b) = results
    assert loss_a == loss_b and np.array_equal(rand_a, rand_b)
    for a, b in zip(grad_a + buf_a, grad_b + buf_b, strict=True):
        assert np.array_equal(a, b)
    assert all(b.numpy() == 2 for n, b in blocks.named_buffers() if n.endswith("num_batches_tracked"))


def test_a_plan_with_checkpoints_needs_less_memory():
    arenas = []
    for use in (False, True):
        blocks = nn.ModuleList([nn.Sequential(block(8), block(8), block(8), block(8)) for _ in range(4)])
        sgd = fc.optim.SGD(blocks.parameters(), lr=0.1)

        @fc.compile
        def step(x, blocks=blocks, sgd=sgd, use=use):
            loss = run(blocks, x, use)
            loss.backward()
            sgd.step()
            sgd.zero_grad()
            return loss.detach()

        step(ops.zeros((4, 8, 32, 32)))
        arenas.append(step.info()["arena_bytes"])
    assert arenas[1] < 0.6 * arenas[0], arenas


def test_eager_backward_keeps_only_the_borders():
    used = []
    for use in (False, True):
        blocks = nn.ModuleList([nn.Sequential(block(8), block(8), block(8), block(8)) for _ in range(4)])
        x = ops.zeros((4, 8, 32, 32))
        before = fc.memory_info()["in_use"]
        loss = run(blocks, x, use)
        used.append(fc.memory_info()["in_use"] - before)
        loss.backward()
        del loss
    assert used[1] < 0.35 * used[0], used


def test_double_backward_and_grad_of_inputs(x):
    x = fc.tensor(x.numpy(), requires_grad=True)
    w = fc.tensor(np.random.default_rng(1).standard_normal((3, 4, 3, 3)).astype(np.float32), requires_grad=True)

    def f(x):
        return ops.tanh(ops.conv2d(x, w)).sum()

    results = []
    for g in (f, lambda x: fc.checkpoint(f, x)):
        (dx,) = fc.grad(g(x), [x], create_graph=True)
        results.append([t.numpy() for t in fc.grad((dx * dx).sum(), [x, w])])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nested_and_many_results(x):
    w = fc.tensor(np.full((4, 4, 1, 1), 0.3, np.float32), requires_grad=True)

    def inner(x):
        return ops.sigmoid(ops.conv2d(x, w))

    def outer(x, nest):
        y = fc.checkpoint(inner, x) if nest else inner(x)
        return {"a": ops.exp(y), "b": (y * 2, 5)}

    found = []
    for nest in (False, True):
        r = fc.checkpoint(outer, x, nest=nest) if nest else outer(x, nest)
        assert r["b"][1] == 5
        (r["a"] * r["b"][0]).sum().backward()
        found.append(w.grad.numpy().copy())
        w.grad = None
    np.testing.assert_array_equal(*found)


def test_autocast_of_the_first_run_holds_in_the_second(x):
    w = fc.tensor(np.full((4, 4, 1, 1), 0.3, np.float32), requires_grad=True)
    seen = []

    def f(x):
        y = ops.conv2d(x, w)
        seen.append(str(y.dtype))
        return ops.sigmoid(y).to("float32").sum()

    with fc.autocast(fc.bfloat16):
        loss = fc.checkpoint(f, x)
    loss.backward()
    assert len(seen) == 2 and seen[0] == seen[1] and "bfloat16" in seen[0]


def test_a_function_that_differs_the_second_time_is_refused(x):
    w = fc.tensor(np.ones((4, 4, 1, 1), np.float32), requires_grad=True)
    calls = []

    def more_ops(x):
        calls.append(1)
        y = ops.conv2d(x, w)
        return ops.exp(y).sum() if len(calls) == 1 else ops.exp(ops.exp(y)).sum()

    with pytest.raises(ValueError, match="checkpoint: .* must do the same"):
        fc.checkpoint(more_ops, x).backward()

    def raises(x):
        if calls:
            calls.clear()
            return ops.exp(ops.conv2d(x, w)).sum()
        raise RuntimeError("not again")

    with pytest.raises(RuntimeError, match="not again"):
        fc.checkpoint(raises, x).backward()
    ops.conv2d(x, w).sum().backward()  # the library goes on
    assert w.grad is not None
    with pytest.raises(TypeError, match="checkpoint"):
        fc.checkpoint(3)


def test_without_gradients_it_is_a_plain_call(x):
    with fc.no_grad():
        assert not fc.checkpoint(block(4), x).requires_grad


def test_a_deep_net_trains_the_same_in_less_memory():
    from fastcnn import models, optim

    x = fc.tensor(np.random.default_rng(0).standard_normal((4, 3, 16, 16), dtype=np.float32))
    y = fc.tensor(np.arange(4))

    def train(every):
        fc.manual_seed(3)
        net = models.create_model("resnet110", num_classes=4, checkpoint=every)
        optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

        @fc.compile
        def step(x, y):
            optimizer.zero_grad()
            loss = fc.ops.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        losses = [step(x, y).item()]
        # After one step: 110 norms over four images make differences of rounding hundred times larger in each.
        state = {name: value.numpy().copy() for name, value in net.state_dict().items()}
        logits = net.eval()(x).numpy()
        net.train()
        losses.append(step(x, y).item())
        return losses, logits, state, step.info()["arena_bytes"]

    losses, logits, state, memory = train(0)
    same_losses, same_logits, same_state, less = train(4)
    np.testing.assert_allclose(same_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(same_logits, logits, rtol=1e-3, atol=1e-3)
    assert same_state.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_allclose(same_state[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name)
    assert less < 0.5 * memory
    with pytest.raises(ValueError, match="checkpoint >= 0, got -1"):
        models.create_model("resnet20", checkpoint=-1)
