"""Batch norms whose result is never stored in training plans: the convolutions that read it make it from the norm's
input. Seen to happen, with eager's numbers, and to stay away where somebody else needs the result."""

from __future__ import annotations

import re

import fastcnn as fc
import numpy as np
import pytest
from plan_check import train

ops, nn = fc.ops, fc.nn
pytestmark = pytest.mark.usefixtures("eager_statistics")


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


class Block(nn.Module):
    """1x1, depthwise, 1x1, each with a norm: what an inverted residual has inside."""

    def __init__(self, C, wide, O, kernel=3, stride=1, act=ops.relu6, padding=None, bias=False):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.expand, self.b1 = nn.Conv2d(C, wide, 1, bias=bias), nn.BatchNorm2d(wide)
        self.depth = nn.Conv2d(wide, wide, kernel, stride=stride, padding=padding, groups=wide, bias=bias)
        self.b2 = nn.BatchNorm2d(wide)
        self.project, self.b3 = nn.Conv2d(wide, O, 1, bias=bias), nn.BatchNorm2d(O)
        self.act = act

    def forward(self, x):
        y = self.act(self.b1(self.expand(x)))
        y = self.act(self.b2(self.depth(y)))
        return self.b3(self.project(y))


def unstored(f):
    """How many norms of the plan give statistics alone."""
    norms = [s["shapes"].split("->")[1] for s in f._core.steps() if s["op"] == "batch_norm"]
    return sum(out.count("(") == 3 and ", " not in out.split(")")[0] for out in norms)


def readers(f, op):
    """Implementations of the convolutions that read through a norm: mean (C,) and affine (2, C) among the inputs."""
    steps = [s for s in f._core.steps() if s["op"] == op]
    return [s["implementation"] for s in steps if re.search(r"\(2, \d+\)", s["shapes"].split("->")[0])]


def norm_in_joint(f):
    """The same of both backward passes in one, whose last inputs mean and affine are behind those of its output."""
    steps = [s for s in f._core.steps() if s["op"] == "conv2d_bwd"]
    return [s["implementation"] for s in steps if re.search(r"\(3, \d+\).* \(\d+,\) \(2, \d+\) ->", s["shapes"])]


def compare(model, fn, x, exact=True):
    """fn(x) compiled and not, from the same state; results and running statistics. Returns the compiled function.

    What is not the first result may differ in the last bits where norms take the sums of their gradient from the
    convolution behind them, which adds them in another order."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    want = [t.numpy() for t in fn(x)] + [b.numpy().copy() for b in model.buffers()]
    model.load_state_dict(state)
    f = fc.compile(fn)
    got = [t.numpy() for t in f(x)] + [b.numpy().copy() for b in model.buffers()]
    assert len(got) == len(want)
    joint = [s for s in f._core.steps() if s["op"] == "conv2d_bwd"]
    sums = any("(2, " in s["shapes"].split("->")[1] for s in joint)
    most = max(np.abs(b).max() for b in want[1:])  # gradients that cancel are rounding of the others
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if exact and (i == 0 or not sums):
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max() + 1e-6 * most)
    return f


def with_gradients(model):
    def fn(x):
        y = model(x)  # of a norm: the gradient of its squares would be rounding alone
        return (y, *fc.grad((y * y * y).sum(), [x, *model.parameters()]))

    return fn


@pytest.mark.parametrize("act", ["relu", "relu6", "none"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"C": 8, "wide": 48, "O": 16},
        {"C": 5, "wide": 18, "O": 7, "stride": 2},
        {"C": 6, "wide": 33, "O": 20, "kernel": 5, "stride": 2, "bias": True},
        {"C": 4, "wide": 96, "O": 12, "padding": 0},
        {"C": 4, "wide": 20, "O": 12, "padding": 3},
    ],
    ids=lambda s: "-".join(f"{k}{v}" for k, v in s.items()),
)
def test_block_is_eager_bit_for_bit(sizes, act, kernel_isa):
    fc.manual_seed(1)
    model = Block(**sizes, act=(lambda y: y) if act == "none" else getattr(ops, act))
    for b in (model.b1, model.b2):  # padding that went through a norm would show
        nn.init.constant_(b.bias, 1.5)
    f = compare(model, with_gradients(model), rand(3, sizes["C"], 23, 17).requires_grad_())
    assert unstored(f) == 2, f.describe()
    assert readers(f, "conv2d") == ["depthwise", "dense"]
    assert sorted(readers(f, "conv2d_bwd_weights") + norm_in_joint(f)) == ["dense", "depthwise"]
    wide = f"(3, {sizes['wide']}, 23, 17)"
    written = [s for s in f._core.steps() if wide in s["shapes"].split("->")[1]]
    assert written and all(s["op"] != "batch_norm" for s in written), f.describe()


@pytest.mark.parametrize("window", [1, 3])
def test_head_of_few_outputs_reads_the_norm(window, kernel_isa):
    model = nn.Sequential(
        nn.Conv2d(3, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 2, window, padding=window // 2)
    )
    nn.init.constant_(model[1].bias, 1.5)
    f = compare(model, with_gradients(model), rand(2, 3, 13, 11).requires_grad_())
    assert unstored(f) == 1, f.describe()
    assert readers(f, "conv2d") == ["few_outputs"]


def test_padding_of_a_1x1_on_one_row_stays_zero_behind_the_norm(kernel_isa):
    model = nn.Sequential(nn.Conv2d(3, 17, 1), nn.BatchNorm2d(17), nn.ReLU(), nn.Conv2d(17, 33, 1, padding=(0, 1)))
    nn.init.constant_(model[1].bias, 1.5)
    f = compare(model, with_gradients(model), rand(1, 3, 1, 14).requires_grad_(), exact=False)
    assert readers(f, "conv2d") == ["dense"], f.describe()


def test_forward_alone(kernel_isa):
    model = Block(4, 24, 8)

    def fn(x):
        with fc.no_grad():
            return (model(x),)

    assert unstored(compare(model, fn, rand(2, 4, 9, 11))) == 2


def test_training_steps(kernel_isa):
    losses = []
    for compiled in (False, True):
        fc.manual_seed(2)
        model = nn.Sequential(Block(3, 24, 8, stride=2), nn.ReLU(), Block(8, 40, 8), nn.Flatten(), nn.Linear(8 * 63, 5))
        x, y = rand(4, 3, 13, 18), fc.tensor(np.array([0, 1, 2, 4]))
        found, run = train(model, x, y, 0.1, 6, compiled)
        losses.append(found + [p.numpy().sum() for p in model.parameters()])
        if compiled:
            assert unstored(run) == 5, run.describe()  # the first block's last norm too: a relu and a 1x1 follow
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    assert losses[0][5] < losses[0][0]


def net_of(kind):
    """Nets in which the result of norm `bn` has a reader that cannot make it."""
    conv, bn, more = nn.Conv2d(6, 24, 1), nn.BatchNorm2d(24), nn.Conv2d(24, 24, 3, padding=1, groups=24)
    wide, other = nn.Conv2d(24, 24, 3, padding=1, groups=12), nn.Conv2d(24, 4, 1)
    model = nn.ModuleList([conv, bn, more, wide, other])

    def forward(x):
        y = ops.relu(bn(conv(x)))
        if kind == "returned":
            return more(y), y
        if kind == "residual":
            return (more(y) + y,)
        if kind == "pooled":
            return more(y), ops.max_pool2d(y, 2)
        if kind == "channels padded":
            return more(y), ops.pad(y, (1, 1, 0, 0))
        if kind == "part of it":
            return more(y), other(y[1:])
        if kind == "gelu":
            return (more(ops.gelu(bn(conv(x)))),)
        if kind == "tanh":
            return (more(ops.tanh(bn(conv(x)))),)
        if kind == "as weights":
            return more(y), ops.conv2d(x[:, :2, :3, :3], y[:2, :2, :3, :3])
        assert kind == "merged groups beside"
        return more(y), wide(y)

    return model, forward


@pytest.mark.parametrize(
    "kind",
    [
        "returned",
        "residual",
        "pooled",
        "channels padded",
        "part of it",
        "gelu",
        "tanh",
        "as weights",
        "merged groups beside",
    ],
)
def test_other_readers_keep_the_result(kind, kernel_isa):
    fc.manual_seed(4)
    model, forward = net_of(kind)
    x = rand(2, 6, 4, 5).requires_grad_()

    def fn(x):
        out = forward(x)
        loss = sum(((t * t).sum() for t in out[1:]), (out[0] * out[0]).sum())
        used = [p for p in model.parameters() if p is not None]
        return (*out, *(g for g in fc.grad(loss, [x, *used], allow_unused=True) if g is not None))

    f = compare(model, fn, x)
    assert unstored(f) == 0, f.describe()
    assert not readers(f, "conv2d") and not readers(f, "conv2d_bwd_weights") and not norm_in_joint(f)


def test_two_convolutions_read_one_norm(kernel_isa):
    fc.manual_seed(5)
    conv, bn = nn.Conv2d(6, 24, 1), nn.BatchNorm2d(24)
    a, b = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 10, 1)
    model = nn.ModuleList([conv, bn, a, b])

    def fn(x):
        y = ops.relu(bn(conv(x)))
        loss = (a(y) ** 2).sum() + (b(y) ** 2).sum()
        return (loss, *fc.grad(loss, [x, *model.parameters()]))

    f = compare(model, fn, rand(2, 6, 11, 10).requires_grad_())
    assert unstored(f) == 1
    assert sorted(readers(f, "conv2d")) == ["dense", "depthwise"]


@pytest.mark.parametrize(("act", "window"), [("relu", 3), ("relu6", 3), ("relu", 5)])
def test_inner_norm_of_a_residual_block(act, window, kernel_isa):
    """3x3 and 5x5 convolutions: Winograd reads through the norm too, where the shape is one for it."""
    fc.manual_seed(9)
    pad = window // 2
    a, bn, b = nn.Conv2d(32, 48, window, padding=pad), nn.BatchNorm2d(48), nn.Conv2d(48, 32, window, padding=pad)
    model = nn.ModuleList([a, bn, b])

    def fn(x):
        y = b(getattr(ops, act)(bn(a(x)))) + x
        return (y, *fc.grad((y * y).sum(), [x, *model.parameters()]))

    f = compare(model, fn, rand(4, 32, 21, 26).requires_grad_())
    assert unstored(f) == 1
    plain = fc.compile(lambda x: b(x))
    plain(rand(4, 48, 21, 26))
    assert readers(f, "conv2d") == [plain._core.steps()[0]["implementation"]]


def test_norm_of_an_input(kernel_isa):
    bn, conv = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1, groups=12)
    model = nn.ModuleList([bn, conv])

    def fn(x):
        y = conv(bn(x))
        return (y, *fc.grad((y * y).sum(), [x, *model.parameters()]))

    f = compare(model, fn, rand(2, 12, 9, 7).requires_grad_())
    assert unstored(f) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_input_changed_in_place(when, kernel_isa):
    """The norm's input is overwritten before, or only after, the convolution reads the norm's result."""
    bn, conv = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1, groups=12)
    model = nn.ModuleList([bn, conv])

    def fn(x):
        with fc.no_grad():
            v = x * 2
            y = ops.relu(bn(v))
            if when == "before":
                v.mul_(3)
            z = conv(y)
            if when == "after":
                v.mul_(3)
            return z, v

    f = compare(model, fn, rand(2, 12, 9, 7))
    assert unstored(f) == (when == "after")


@pytest.mark.parametrize("use", [False, True], ids=["plain", "checkpoint"])
def test_checkpoint(use, kernel_isa):
    fc.manual_seed(6)
    blocks = nn.ModuleList([Block(8, 32, 8) for _ in range(3)])

    def fn(x):
        y = x
        for b in blocks:
            y = fc.checkpoint(b, y) if use else b(y)
        loss = (y * y).sum()
        return (loss, *fc.grad(loss, [x, *blocks.parameters()]))

    f = compare(blocks, fn, rand(2, 8, 12, 13).requires_grad_())
    assert unstored(f) >= 6


def test_double_backward(kernel_isa):
    fc.manual_seed(7)
    model = Block(4, 12, 4, act=ops.relu)

    def fn(x):
        y = model(x)
        (g,) = fc.grad((y * y).sum(), [x], create_graph=True)
        return fc.grad((g * g).sum(), [x, *model.parameters()], allow_unused=True)[:6]

    compare(model, fn, rand(2, 4, 7, 6).requires_grad_(), exact=False)


def test_bfloat16_and_float64_keep_the_result(kernel_isa):
    for dtype in ("bfloat16", "float64"):
        model = Block(8, 32, 8).to(dtype)
        x = rand(2, 8, 9, 9).to(dtype)
        f = fc.compile(model)
        f(x)
        assert unstored(f) == 0


def test_reference_keeps_the_result():
    before = fc.isa()
    fc._core.set_isa("ref")
    try:
        model = Block(4, 6, 4)
        f = compare(model, with_gradients(model), rand(1, 4, 5, 4).requires_grad_())
        assert unstored(f) == 0
    finally:
        fc._core.set_isa(before)


def test_same_bits_for_any_number_of_threads(kernel_isa):
    """Strips of rows, each with rows of its neighbours, on large images and on images of one strip."""
    before, results = fc.get_num_threads(), {}
    try:
        for n in (1, 2, 3, 4):
            fc.set_num_threads(n)
            results[n] = []
            for sizes, shape in (((8, 144, 24), (2, 8, 40, 35)), ((8, 33, 20, 5, 2), (3, 8, 19, 23))):
                fc.manual_seed(8)
                model = Block(*sizes)
                f = fc.compile(with_gradients(model))
                results[n] += [t.numpy() for t in f(rand(*shape).requires_grad_())]
                assert unstored(f) == 2
    finally:
        fc.set_num_threads(before)
    for n in (2, 3, 4):
        for a, b in zip(results[1], results[n], strict=True):
            np.testing.assert_array_equal(a, b)


def test_memory_and_cost(kernel_isa):
    model = Block(4, 48, 4)
    x = rand(2, 4, 20, 20)
    f = fc.compile(with_gradients(model))
    f(x.requires_grad_())
    wide = 4 * 2 * 48 * 400
    assert f.info()["tensor_bytes"] < 8 * wide  # 2 inputs of norms, 2 gradients of each, and little else
    norm = next(s for s in f._core.steps() if s["op"] == "batch_norm")
    assert norm["bytes"] == wide + 4 * 6 * 48 and norm["flops"] == wide  # 4 per value
    conv = next(s for s in f._core.steps() if s["op"] == "conv2d" and s["implementation"] == "depthwise")
    assert conv["bytes"] == 2 * wide + 4 * (9 + 3) * 48
    assert conv["flops"] == wide // 4 * (2 * 9 + 3)


def test_switched_off_every_norm_stores_its_result():
    fc.manual_seed(0)
    model, x = Block(8, 24, 8).train(), rand(2, 8, 9, 7)

    def step(x):
        loss = (model(x) * 2).sum() + (model(x) ** 2).sum()
        return [loss, *fc.grad(loss, list(model.parameters()))]

    fc._core.apply_norms_on_load(False)
    try:
        stored = compare(model, step, x)
    finally:
        fc._core.apply_norms_on_load(True)
    loaded = fc.compile(step)
    loaded(x)
    count = [(unstored(f), sum(s["op"] == "conv2d_bwd" for s in f._core.steps())) for f in (stored, loaded)]
    assert count[0] == (0, 0) and min(count[1]) > 0, count
