"""The number of threads never changes a bit: every op family, forward and backward, on every ISA of the machine."""

from __future__ import annotations

import zlib

import fastcnn as fc
import numpy as np
import pytest
from torch_compare import ISAS, isa  # noqa: F401

ops, core = fc.ops, fc._core
THREADS = (1, 2, 3, 4, 8)


def data(dtype, *shape, seed=0, grad=True):
    rng = np.random.default_rng([seed, *shape])
    t = fc.tensor(rng.normal(size=shape).astype(np.float32)).to(dtype)
    return t.requires_grad_() if grad else t


def ids(high, *shape, seed=1):
    return fc.tensor(np.random.default_rng([seed, *shape]).integers(0, high, shape))


def with_gradients(fn, *leaves):
    """fn's value and the gradients of a weighted sum of it."""
    y = fn(*leaves)
    w = data(y.dtype, *y.shape, seed=9, grad=False)
    return [y.detach(), *fc.grad((y * w).sum(), list(leaves))]


def conv(shape, weight, **options):
    return lambda t: with_gradients(
        lambda x, w, b: ops.conv2d(x, w, b, **options), data(t, *shape), data(t, *weight), data(t, weight[0])
    )


def transposed(t):
    return with_gradients(
        lambda x, w: ops.conv_transpose2d(x, w, stride=2, padding=1),
        data(t, 2, 24, 13, 13),
        data(t, 24, 16, 4, 4),
    )


def one(fn, *shape):
    return lambda t: with_gradients(fn, data(t, *shape))


def norm(kind):
    def run(t):
        x, w, b = data(t, 4, 32, 17, 17), data(t, 32), data(t, 32)
        if kind == "batch":
            mean, var = fc.zeros(32), fc.ones(32)
            out = with_gradients(lambda x, w, b: ops.batch_norm(x, mean, var, w, b, training=True), x, w, b)
            return [*out, mean, var]
        if kind == "group":
            return with_gradients(lambda x, w, b: ops.group_norm(x, 8, w, b), x, w, b)
        if kind == "instance":
            return with_gradients(lambda x, w, b: ops.instance_norm(x, w, b), x, w, b)
        return with_gradients(lambda x, w, b: ops.layer_norm(x, [65], w, b), data(t, 123, 65), data(t, 65), data(t, 65))

    return run


def losses(t):
    x, y = data(t, 257, 33), data(t, 257, 33, seed=4, grad=False)
    parts = [
        lambda x: ops.cross_entropy(x, ids(33, 257), label_smoothing=0.1),
        lambda x: ops.cross_entropy(x, ops.softmax(y, 1)),
        lambda x: ops.nll_loss(ops.log_softmax(x, 1), ids(33, 257)),
        lambda x: ops.mse_loss(x, y),
        lambda x: ops.l1_loss(x, y),
        lambda x: ops.smooth_l1_loss(x, y),
        lambda x: ops.huber_loss(x, y),
        lambda x: ops.binary_cross_entropy_with_logits(x, ops.sigmoid(y)),
    ]
    return [r for part in parts for r in with_gradients(part, x)]


def reductions(t):
    out = []
    for dim in (None, 0, 1, 2, 3, (0, 2), (1, 3), (0, 2, 3)):
        for name in ("sum", "mean", "var", "amax", "amin", "norm"):
            x = data(t, 5, 37, 19, 23)
            out += with_gradients(lambda x: getattr(x, name)(dim=dim), x)
        if isinstance(dim, int):
            x = data(t, 5, 37, 19, 23, grad=False)
            out += [x.prod(dim), x.argmax(dim), x.max(dim).values]
    return out


def elementwise(t):
    x, y, row = data(t, 65, 1031), data(t, 65, 1031, seed=3), data(t, 1, 1031, seed=4)
    out = with_gradients(lambda x, y, row: ops.exp(x * 0.1) * row + y / (row * row + 1) - ops.tanh(y), x, y, row)
    names = "relu gelu silu mish hardswish elu softplus sigmoid tanh".split()
    return out + [r for n in names for r in with_gradients(getattr(ops, n), x)]


def optimizers(t):
    out = []
    for make in (
        lambda p: fc.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: fc.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: fc.optim.AdamW(p, lr=0.1),
        lambda p: fc.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    ):
        params = [fc.nn.Parameter(data(t, *s, grad=False)) for s in ((4099,), (33, 65), (3,))]
        opt = make(params)
        for step in range(3):
            for p in params:
                p.grad = data(t, *p.shape, seed=step, grad=False)
            opt.step()
        out += [p.detach() for p in params]
    return out


def random(t):
    ops.manual_seed(3)
    x = data(t, 16, 40, 9, 9)
    out = with_gradients(lambda x: ops.dropout(x, 0.3), x) + with_gradients(lambda x: ops.dropout2d(x, 0.3), x)
    return [*out, ops.rand(70001), ops.randn(70001), ops.randint(0, 100, (70001,))]


def resampling(t):
    x = data(t, 3, 20, 23, 19)
    out = []
    for options in (
        {"scale_factor": 2, "mode": "nearest"},
        {"size": (31, 45), "mode": "bilinear"},
        {"size": (11, 13), "mode": "bicubic"},
        {"size": (11, 13), "mode": "nearest-exact"},
    ):
        out += with_gradients(lambda x: ops.interpolate(x, **options), x)
    for mode in ("constant", "reflect", "replicate", "circular"):
        out += with_gradients(lambda x: ops.pad(x, (3, 2, 1, 4), mode), x)
    for shape in ((3, 20, 23, 19), (1, 3, 40, 33)):  # a thread for each image; rows of one image
        grid = data("float32", shape[0], 50, 41, 2, seed=8)
        for mode in ("bilinear", "bicubic"):
            out += with_gradients(lambda x, g: ops.grid_sample(x, g, mode, "border"), data(t, *shape), grid)
    return out + with_gradients(lambda x: ops.pixel_shuffle(x, 2), x)


def indexing(t):
    x, i = data(t, 300, 41), ids(300, 1000)
    at = ids(300, 700, 41, seed=6)
    out = with_gradients(lambda x: x[i], x)  # repeated ids: sums in backward
    out += with_gradients(lambda x: ops.gather(x, 0, at), x)
    src = data(t, 700, 41, seed=7)
    out += with_gradients(lambda x: x[5:200:3, ::2], x)
    return out + with_gradients(lambda x, s: ops.cat([x, s, x], 0).T.contiguous(), x, src)


FAMILIES = {
    "conv 3x3": conv((3, 32, 19, 19), (48, 32, 3, 3), padding=1),
    "conv 3x3 stride 2": conv((3, 16, 19, 19), (40, 16, 3, 3), padding=1, stride=2),
    "conv 1x1": conv((3, 64, 11, 11), (32, 64, 1, 1)),
    "conv first layer": conv((2, 3, 40, 40), (16, 3, 7, 7), stride=2, padding=3),
    "conv dilated": conv((2, 16, 17, 17), (16, 16, 3, 3), dilation=2, padding=2),
    "conv groups": conv((2, 32, 15, 15), (32, 8, 3, 3), groups=4, padding=1),
    "conv 5x5": conv((5, 8, 14, 14), (24, 8, 5, 5), padding=2),
    "conv 5x5 wide": conv((5, 32, 14, 15), (24, 32, 5, 5), padding=1),
    "depthwise": conv((3, 48, 21, 21), (48, 1, 3, 3), groups=48, padding=1),
    "depthwise 5x5 stride 2": conv((3, 24, 21, 21), (24, 1, 5, 5), groups=24, padding=2, stride=2),
    "transposed": transposed,
    "linear": lambda t: with_gradients(ops.linear, data(t, 130, 257), data(t, 70, 257), data(t, 70)),
    "matmul": lambda t: with_gradients(ops.matmul, data(t, 3, 67, 129), data(t, 3, 129, 45)),
    "max_pool": one(lambda x: ops.max_pool2d(x, 3, 2, 1), 3, 20, 21, 21),
    "avg_pool": one(lambda x: ops.avg_pool2d(x, 3, 2, 1), 3, 20, 21, 21),
    "adaptive_pool": one(lambda x: ops.adaptive_avg_pool2d(x, (5, 7)), 3, 20, 21, 21),
    "global_pool": one(ops.global_avg_pool2d, 3, 20, 21, 21),
    **{f"{kind} norm": norm(kind) for kind in ("batch", "group", "instance", "layer")},
    "softmax": one(lambda x: ops.softmax(x, -1), 301, 67),
    "softmax of channels": one(lambda x: ops.log_softmax(x, 1), 4, 37, 9, 9),
    "losses": losses,
    "reductions": reductions,
    "elementwise": elementwise,
    "optimizers": optimizers,
    "random": random,
    "resampling": resampling,
    "indexing": indexing,
}


def checksum(tensors):
    return [zlib.crc32(t.float().contiguous().numpy().tobytes()) for t in tensors]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("isa", [n for n in ISAS if n != "ref"], indirect=True)
def test_same_bits(isa, family, dtype):  # noqa: F811
    before, results = fc.get_num_threads(), {}
    try:
        for n in THREADS:
            fc.set_num_threads(n)
            results[n] = checksum(FAMILIES[family](dtype))
    finally:
        fc.set_num_threads(before)
    assert len(results[1]) > 0
    for n in THREADS[1:]:
        different = [i for i, (a, b) in enumerate(zip(results[1], results[n], strict=True)) if a != b]
        assert not different, f"{family} {dtype}: results {different} differ between 1 and {n} threads"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_same_bits_of_a_compiled_training(precision):
    """Plans fuse across ops, and batch norms take their statistics from the convolution before them."""
    rng = np.random.default_rng(5)
    images, labels = rng.normal(size=(24, 3, 20, 20)).astype("f"), rng.integers(0, 5, 24)

    def train():
        fc.manual_seed(1)
        net = fc.models.create_model("resnet8", num_classes=5, in_channels=3)
        opt = fc.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

        @fc.compile
        def step(x, y):
            with fc.autocast(enabled=precision == "bf16-mixed"):
                loss = ops.cross_entropy(net(x), y, label_smoothing=0.1)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        losses = [step(fc.tensor(images[i : i + 8]), fc.tensor(labels[i : i + 8])) for i in (0, 8, 16)]
        return checksum([*losses, *net.state_dict().values()])

    before, results = fc.get_num_threads(), {}
    try:
        for n in THREADS:
            fc.set_num_threads(n)
            results[n] = train()
    finally:
        fc.set_num_threads(before)
    assert all(results[n] == results[1] for n in THREADS), {n: results[n] == results[1] for n in THREADS}
