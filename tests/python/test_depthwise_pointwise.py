"""Depthwise convolutions that run as one step with the 1x1 convolutions around them in inference plans: seen to
happen, with the bits of eager mode, and to stay away where somebody else needs what lies between."""

from __future__ import annotations

import fastcnn as fc
import numpy as np
import pytest

ops, nn = fc.ops, fc.nn


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


class Block(nn.Module):
    """[1x1,] depthwise, 1x1 with activations and, where the shapes agree, a shortcut."""

    def __init__(self, C, wide, O, stride=1, expand=True, kernel=3, bias=True, act=ops.relu6):
        super().__init__()
        self.expand = nn.Conv2d(C, wide, 1, bias=bias) if expand else None
        self.depth = nn.Conv2d(wide, wide, kernel, stride=stride, padding=kernel // 2, groups=wide, bias=bias)
        self.project = nn.Conv2d(wide, O, 1, bias=bias)
        self.act, self.shortcut = act, expand and stride == 1 and C == O

    def forward(self, x):
        y = self.act(self.expand(x)) if self.expand is not None else x
        y = self.project(self.act(self.depth(y)))
        return x + y if self.shortcut else y


def inference(fn):
    @fc.compile
    def run(*args):
        with fc.no_grad():
            return fn(*args)

    return run


def kinds(f):
    return [s["op"] for s in f._core.steps()]


@pytest.fixture(autouse=True)
def two_threads():
    """Whether a step pays depends on how many threads share its rows."""
    before = fc.get_num_threads()
    fc.set_num_threads(2)
    yield
    fc.set_num_threads(before)


@pytest.mark.parametrize(
    "sizes",
    [
        {"C": 8, "wide": 48, "O": 8},
        {"C": 5, "wide": 33, "O": 7, "stride": 2},
        {"C": 16, "wide": 96, "O": 24, "kernel": 5, "act": ops.relu},
        {"C": 24, "wide": 24, "O": 40, "expand": False},
        {"C": 6, "wide": 20, "O": 6, "bias": False},
    ],
    ids=lambda s: "-".join(f"{k}{v}" for k, v in s.items() if k != "act"),
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_block_is_eager_bit_for_bit(sizes, dtype, kernel_isa):
    fc.manual_seed(1)
    model = Block(**sizes).to(dtype)
    x = rand(3, sizes["C"], 23, 17).to(dtype)
    f = inference(model)
    with fc.no_grad():
        want = model(x).numpy()
    # A plan adds the shortcut before it rounds to bfloat16, eager mode rounds before and after.
    close = {"rtol": 2**-7, "atol": 2**-7} if dtype == "bfloat16" and model.shortcut else {"rtol": 0}
    np.testing.assert_allclose(f(x).numpy(), want, **close)
    assert kinds(f) == ["depthwise_pointwise"], f.describe()
    # Of bfloat16 the bias of the depthwise part is kept with its weights.
    more = dtype == "bfloat16" and sizes.get("bias", True)
    assert f.info()["prepared_operands"] == (3 if sizes.get("expand", True) else 2) + more
    # Weights that change are prepared again.
    with fc.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
        want = model(x).numpy()
    np.testing.assert_allclose(f(x).numpy(), want, **close)


def test_weights_that_are_inputs(kernel_isa):
    w, d, p = rand(48, 8, 1, 1, seed=1), rand(48, 1, 3, 3, seed=2), rand(8, 48, 1, 1, seed=3)

    def fn(x, w, d, p):
        return ops.conv2d(ops.relu(ops.conv2d(ops.relu(ops.conv2d(x, w)), d, padding=1, groups=48)), p)

    x, f = rand(2, 8, 20, 20), inference(fn)
    np.testing.assert_array_equal(f(x, w, d, p).numpy(), fn(x, w, d, p).numpy())
    assert kinds(f) == ["depthwise_pointwise"]
    assert f.info()["prepared_operands"] == 0


@pytest.mark.parametrize("kind", ["expanded", "deep", "both", "as residual", "changed in place", "softmax", "3x3"])
def test_other_readers_keep_the_result(kind, kernel_isa):
    fc.manual_seed(2)
    model = Block(8, 48, 48)
    dense = nn.Conv2d(48, 48, 3, padding=1)

    def fn(x):
        x = x * 1
        e = ops.relu(model.expand(x))
        if kind == "changed in place":
            x.mul_(2)
        d = model.depth(e)
        d = ops.softmax(d, 1) if kind == "softmax" else ops.relu(d)
        y = dense(d) if kind == "3x3" else model.project(d)
        if kind == "as residual":
            y = y + d
        return [y, x] + ([e] if kind in ("expanded", "both") else []) + ([d] if kind in ("deep", "both") else [])

    x, f = rand(2, 8, 16, 15), inference(fn)
    with fc.no_grad():
        want = [t.numpy() for t in fn(x)]
    for a, b in zip(f(x), want, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)
    steps = [s for s in f._core.steps() if s["op"] == "depthwise_pointwise"]
    # What comes before may stay apart while the last two are joined.
    assert len(steps) == (kind in ("expanded", "changed in place")), f.describe()
    assert all(s["shapes"].startswith("(2, 48,") for s in steps)


def test_training_keeps_the_parts(kernel_isa):
    model = Block(8, 48, 8)
    f = fc.compile(lambda x: fc.grad((model(x) ** 2).sum(), list(model.parameters())))
    f(rand(2, 8, 12, 12))
    assert "depthwise_pointwise" not in kinds(f)


def test_float64_keeps_the_parts(kernel_isa):
    f = inference(Block(8, 48, 8).to("float64"))
    f(rand(2, 8, 12, 12).to("float64"))
    assert "depthwise_pointwise" not in kinds(f)


def test_bfloat16_keeps_the_parts_with_long_activations(kernel_isa):
    """Its kernels have none but relu and relu6 in registers."""
    f = inference(Block(8, 48, 8, act=ops.silu).to("bfloat16"))
    f(rand(2, 8, 12, 12).to("bfloat16"))
    assert "depthwise_pointwise" not in kinds(f)


def test_autocast_joins_a_float32_net(kernel_isa):
    fc.manual_seed(5)
    model, x = Block(8, 48, 8), rand(2, 8, 20, 18)
    f = inference(model)
    with fc.no_grad(), fc.autocast(fc.bfloat16):
        got, want = f(x), model(x)
    np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert kinds(f).count("depthwise_pointwise") == 1, f.describe()
    assert "conv2d" not in kinds(f)


def test_cost_and_memory(kernel_isa):
    model = Block(8, 96, 12, stride=2)
    x, f = rand(2, 8, 20, 22), inference(model)
    y = f(x)
    (step,) = f._core.steps()
    read = x.numpy().size + sum(p.numpy().size for p in model.parameters())
    assert step["bytes"] == 4 * (read + y.numpy().size)
    assert step["flops"] == 2 * 2 * 96 * (20 * 22 * 8 + 10 * 11 * (9 + 12))
    assert f.info()["tensor_bytes"] == 0
    assert "depthwise_pointwise [strips]" in f.describe()


def test_threads_that_would_repeat_much_keep_the_first_part(kernel_isa):
    model, x = Block(8, 48, 8), rand(1, 8, 14, 14)
    f = inference(model)
    f(x)
    assert kinds(f) == ["conv2d", "depthwise_pointwise"]
    fc.set_num_threads(8)
    f = inference(model)
    f(x)
    assert kinds(f) == ["conv2d"] * 3


@pytest.mark.parametrize(("batch", "joined"), [(1, 17), (2, 17)])
def test_mobilenet_v2_is_eager(batch, joined, kernel_isa):
    fc.manual_seed(3)
    model = fc.models.create_model("mobilenet_v2", num_classes=10)
    x = rand(batch, 3, 192, 64)
    model.train()
    with fc.no_grad():
        for _ in range(2):
            model(x)
    model.eval()
    f = inference(model)
    with fc.no_grad():
        want = model(x).numpy()
    np.testing.assert_allclose(f(x).numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    assert kinds(f).count("depthwise_pointwise") == joined, f.describe()
    if batch == 2:
        assert kinds(f).count("conv2d") == 2  # the first and the last


@pytest.mark.parametrize("act", ["silu", "hardswish", "gelu", "leaky_relu"])
@pytest.mark.parametrize("kind", ["dense", "depthwise", "3x3", "block"])
def test_any_activation_joins_dense_and_depthwise(kind, act, kernel_isa):
    """Applied to outputs while they are in cache; where that would cost the better kernel it stays a step."""
    fc.manual_seed(4)
    f = getattr(ops, act)
    if kind == "block":
        model, x, steps = Block(8, 48, 24, act=f), rand(2, 8, 20, 18), {"depthwise_pointwise"}
    else:
        c = {"dense": nn.Conv2d(9, 40, 1), "depthwise": nn.Conv2d(9, 9, 3, padding=1, groups=9)}
        conv, x = c.get(kind) or nn.Conv2d(64, 64, 3, padding=1), rand(2, 64 if kind == "3x3" else 9, 24, 24)
        model, steps = (lambda x: f(conv(x))), {"conv2d"}
    run = inference(model)
    with fc.no_grad():
        want = model(x).numpy()
    np.testing.assert_array_equal(run(x).numpy(), want)
    left = set(kinds(run)) - {"activation"}
    assert left == steps
    winograd = any("winograd" in s["implementation"] for s in run._core.steps())
    assert ("activation" in kinds(run)) == winograd, run.describe()
