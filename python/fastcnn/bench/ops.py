"""Ops that memory limits: activations, sums, norms, pooling, losses, optimizers; time and bytes per second.

Each row is one op on tensors of a size that nets have: forward alone, or forward and backward of the op as one compiled
function, beside PyTorch's. Bytes are those that no implementation can avoid: each operand and result once (backward:
gradients too).
What it is not: convolutions (layers.py) and whole nets (nets.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import _core, optim
from .._compile import compile as compile_function
from .._modes import no_grad
from . import layers

PASSES = ("fwd", "fwd+bwd")
MAP, POOLED, STEM = (16, 64, 56, 56), (16, 256, 28, 28), (16, 64, 112, 112)


@dataclass(frozen=True)
class Op:
    """One row of the table.

    call(ops, *operands): the op in terms that ``fastcnn.ops`` and PyTorch's functional namespace share; peer: the same
    for PyTorch where the two differ. operands: a shape each (float32, the first one has a gradient), or (shape,
    classes) for class ids. weights: how many of the operands besides the first have gradients.
    """

    name: str
    operands: tuple
    call: Callable
    peer: Callable | None = None
    weights: int = 0
    forward_only: bool = False

    @property
    def passes(self):
        """The passes that are measured."""
        return PASSES[:1] if self.forward_only else PASSES


def _same(name, *operands, weights=0, forward_only=False, **options):
    return Op(name, operands, lambda o, *a: getattr(o, name)(*a, **options), None, weights, forward_only)


OPS = (
    _same("relu", MAP),
    _same("relu6", MAP),
    _same("silu", MAP),
    _same("hardswish", MAP),
    _same("gelu", MAP),
    _same("sigmoid", MAP),
    _same("tanh", MAP),
    _same("add", MAP, MAP, weights=1),
    Op("mul by a number per channel", (MAP, (16, 64, 1, 1)), lambda o, x, s: o.mul(x, s), weights=1),
    Op(
        "batch_norm (training)", (MAP, (64,), (64,)),
        lambda o, x, g, b: o.batch_norm(x, None, None, g, b, True), weights=2,
    ),
    Op(
        "batch_norm (evaluation)", (MAP, (64,), (64,)),
        lambda o, x, g, b: o.batch_norm(x, g, b * b + 1, g, b, False), forward_only=True,
    ),
    Op("group_norm", (MAP, (64,), (64,)), lambda o, x, g, b: o.group_norm(x, 8, g, b), weights=2),
    Op("layer_norm", ((4096, 768), (768,), (768,)), lambda o, x, g, b: o.layer_norm(x, (768,), g, b), weights=2),
    Op("max_pool2d 3x3/2", (STEM,), lambda o, x: o.max_pool2d(x, 3, 2, 1)),
    Op("max_pool2d 2x2/2", (MAP,), lambda o, x: o.max_pool2d(x, 2, 2)),
    Op("avg_pool2d 2x2/2", (MAP,), lambda o, x: o.avg_pool2d(x, 2, 2)),
    Op("adaptive_avg_pool2d to 1", (POOLED,), lambda o, x: o.adaptive_avg_pool2d(x, 1)),
    Op("interpolate nearest x2", (POOLED,), lambda o, x: o.interpolate(x, scale_factor=2, mode="nearest")),
    Op(
        "interpolate bilinear x2", (POOLED,),
        lambda o, x: o.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    ),
    Op("cat of channels", (MAP, MAP), lambda o, x, y: o.cat([x, y], 1), weights=1),
    Op("pad by 1", (MAP,), lambda o, x: o.pad(x, (1, 1, 1, 1))),
    Op("pixel_shuffle 2", (MAP,), lambda o, x: o.pixel_shuffle(x, 2)),
    Op("mean over pixels", (MAP,), lambda o, x: x.mean((2, 3))),
    Op("sum", (MAP,), lambda o, x: x.sum()),
    Op("amax over classes", ((4096, 1000),), lambda o, x: o.amax(x, 1)),
    Op("argmax over classes", ((4096, 1000),), lambda o, x: x.argmax(1), forward_only=True),
    Op("softmax", ((4096, 1000),), lambda o, x: o.softmax(x, 1)),
    Op("log_softmax", ((4096, 1000),), lambda o, x: o.log_softmax(x, 1)),
    Op("cross_entropy", ((4096, 1000), ((4096,), 1000)), lambda o, x, y: o.cross_entropy(x, y)),
    Op("cross_entropy of pixels", ((8, 21, 128, 128), ((8, 128, 128), 21)), lambda o, x, y: o.cross_entropy(x, y)),
    Op("mse_loss", (MAP, MAP), lambda o, x, y: o.mse_loss(x, y)),
    Op("smooth_l1_loss", (MAP, MAP), lambda o, x, y: o.smooth_l1_loss(x, y)),
    Op(
        "binary_cross_entropy_with_logits", (MAP, MAP),
        lambda o, x, y: o.binary_cross_entropy_with_logits(x, y),
    ),
    Op("dropout", (MAP,), lambda o, x: o.dropout(x, 0.2, True)),
    Op("index_select of rows", ((4096, 768), ((8192,), 4096)), lambda o, x, i: o.index_select(x, 0, i)),
    Op("gather of columns", ((4096, 1000), ((4096, 8), 1000)), lambda o, x, i: o.gather(x, 1, i)),
    Op("sort of rows", ((64, 1000),), lambda o, x: x.sort(1)[0]),
    Op("topk 5 of classes", ((4096, 1000),), lambda o, x: x.topk(5, 1)[0]),
    Op("cumsum", ((4096, 1000),), lambda o, x: x.cumsum(1)),
    Op("conv1d 64-64 k3", ((16, 64, 1000), (64, 64, 3)), lambda o, x, w: o.conv1d(x, w, None, 1, 1), weights=1),
    Op(
        "conv3d 64-64 k3", ((1, 64, 8, 56, 56), (64, 64, 3, 3, 3)), lambda o, x, w: o.conv3d(x, w, None, 1, 1),
        weights=1,
    ),
    Op(
        "conv3d 3-64 stem", ((1, 3, 16, 112, 112), (64, 3, 3, 7, 7)),
        lambda o, x, w: o.conv3d(x, w, None, (1, 2, 2), (1, 3, 3)), weights=1,
    ),
    Op("max_pool3d 3/2", ((2, 64, 8, 56, 56),), lambda o, x: o.max_pool3d(x, 3, 2, 1)),
    Op("linear 512-1000 b128", ((128, 512), (1000, 512), (1000,)), lambda o, x, w, b: o.linear(x, w, b), weights=2),
    Op("linear 2048-1000 b1", ((1, 2048), (1000, 2048), (1000,)), lambda o, x, w, b: o.linear(x, w, b), weights=2),
)  # fmt: skip

# Optimizers: one step over the parameters of a net of this many values in tensors of these shapes (ResNet-18's kinds).
PARAMETERS = ((512, 512, 3, 3), (256, 256, 3, 3), (256, 256, 3, 3), (1000, 512), (64, 64, 3, 3), *((256,),) * 20)
OPTIMIZERS = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 0.01},
}
_STATES = {"SGD": 1, "Adam": 2, "AdamW": 2}  # tensors per parameter beside itself and its gradient


def arrays_of(op, seed=0):
    """The operands of a row: float32 numbers, or class ids as int64."""
    rng = np.random.default_rng(seed)
    found = []
    for o in op.operands:
        if isinstance(o[0], tuple):
            found.append(rng.integers(0, o[1], o[0]))
        else:
            found.append(rng.standard_normal(o, dtype=np.float32))
    return found


def _numbers(result):
    return np.asarray(result.numpy(), dtype=np.float64)


def _ours(op, name, arrays):
    """(function without arguments, shape of the op's result)."""
    tensors = [_core.tensor(a).contiguous() for a in arrays]
    forward = compile_function(lambda *a: op.call(_core.ops, *a))

    def run_forward():
        with no_grad():
            return forward(*tensors)

    y = run_forward()
    if name == "fwd":
        return run_forward, y.shape

    def both(dy, *a):
        leaves = [t.detach().requires_grad_() for t in a[: 1 + op.weights]]
        result = op.call(_core.ops, *leaves, *a[1 + op.weights :])
        return result, *_core.grad(result, leaves, dy)

    dy = _core.tensor(gradient_of(y.shape)).contiguous()
    plan = compile_function(both)
    return (lambda: plan(dy, *tensors)), y.shape


def gradient_of(shape):
    """The gradient that the backward pass starts from."""
    return np.random.default_rng(7).standard_normal(shape, dtype=np.float32)


def _gbyte(op, name, shape):
    def size(s):
        return float(np.prod(s))

    x = sum(size(o[0]) * 2 if isinstance(o[0], tuple) else size(o) for o in op.operands)
    both = size(shape) + sum(size(o) for o in op.operands[: 1 + op.weights]) if name != "fwd" else 0
    return 4e-9 * (x + size(shape) + both)


def _compare(op, name, ours, theirs):
    """Largest relative difference of results; raises where the sides do different work. Random ops differ by nature."""
    if op.name == "dropout":
        return None
    a, b = ours(), theirs()
    pairs = zip(a, b, strict=True) if name != "fwd" else [(a, b)]
    worst = max(layers.relative_error(_numbers(p), _numbers(q.detach())) for p, q in pairs)
    if not worst < 1e-3:
        raise RuntimeError(f"bench: {op.name} {name}: the sides differ by {worst}")
    return worst


def run(rows, effort, peer=None, progress=None):
    """Yields one result row per op and pass. peer: torch_peer, or None for fastcnn alone."""
    for op in rows:
        for name in op.passes:
            if progress:
                progress(f"{op.name} {name}")
            arrays = arrays_of(op)
            ours, shape = _ours(op, name, arrays)
            calls = peer.op_calls(op, name, arrays, gradient_of(shape)) if peer else None
            row = {"kind": "op", "name": op.name, "pass": name, "gbyte": _gbyte(op, name, shape)}
            if calls:
                row["difference"] = _compare(op, name, ours, next(iter(calls.values())))
            layers.time_row(row, ours, calls, effort)
            yield row


def run_optimizers(names, effort, peer=None, progress=None):
    """Yields one row per optimizer: a step over PARAMETERS whose gradients are there."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s, dtype=np.float32) for s in PARAMETERS]
    for name in names:
        if progress:
            progress(name)
        parameters = [_core.tensor(v).contiguous().requires_grad_() for v in values]
        for p in parameters:
            p.grad = _core.tensor(np.full(p.shape, 1e-3, np.float32))
        ours = compile_function(getattr(optim, name)(parameters, **OPTIMIZERS[name]).step)
        calls = peer.optimizer_calls(name, OPTIMIZERS[name], values) if peer else None
        count = sum(v.size for v in values)
        # Parameter, gradient and states are read; parameter and states written.
        row = {"kind": "op", "name": f"optim.{name}", "pass": "step", "gbyte": 4e-9 * count * (3 + 2 * _STATES[name])}
        layers.time_row(row, ours, calls, effort)
        yield row
