# ruff: noqa: E501, E731 (tables of calls read best one to a line)
"""Random cases of every op family, each as our call, PyTorch's call and its operands.

What it is not: the comparison; that is test_fuzz_parity.py. A family takes a NumPy generator and returns a Case.
Values are spread so that kinks and ties are rare (`spread`) or plain normal numbers (`normal`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastcnn import _core as fc

ops = fc.ops


@dataclass
class Case:
    ours: Any
    theirs: Any
    arrays: list  # floating arrays get gradients, others are plain operands
    what: str = ""
    double: bool = False  # second gradients too
    compiled: bool = True  # may run inside compile (nothing reads values on the host)
    scale: float = 1.0  # of the tolerance
    dtypes: tuple = field(default=("float32", "float64"))


FAMILIES = {}


def family(fn):
    FAMILIES[fn.__name__] = fn
    return fn


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def normal(rng, *shape):
    return rng.standard_normal(shape)


def spread(rng, *shape):
    """Distinct values away from 0 and from each other: no ties, no kinks."""
    n = int(np.prod(shape))
    a = (rng.permutation(n) - n // 2 + 0.37) / max(8, n / 6)
    return a.reshape(shape)


def positive(rng, *shape):
    return rng.uniform(0.3, 2, shape)


def dims(rng, rank, most=7, zero=0.03):
    return tuple(0 if rng.random() < zero else int(rng.integers(1, most + 1)) for _ in range(rank))


def channels(rng):
    return int(pick(rng, 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 33, 48, 64))


def pair(rng, low, high):
    """An int or a pair, as our call takes it, and the pair."""
    a, b = int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))
    return (a, (a, a)) if rng.random() < 0.5 else ((a, b), (a, b))


def image(rng, c, h, w, unbatched=0.1):
    n = int(pick(rng, 0, 1, 1, 2, 3) if rng.random() < 0.3 else rng.integers(1, 4))
    return (c, h, w) if rng.random() < unbatched else (n, c, h, w)


# ---- convolution, linear --------------------------------------------------------------------------------------


@family
def conv2d(rng):
    kind = pick(rng, "plain", "plain", "group", "depthwise", "point", "first")
    groups, i, o = 1, channels(rng), channels(rng)
    if kind == "group":
        groups = int(pick(rng, 2, 3, 4))
        i, o = groups * int(rng.integers(1, 9)), groups * int(rng.integers(1, 9))
    elif kind == "depthwise":
        groups, o = i, i * int(pick(rng, 1, 1, 2))
    elif kind == "first":
        i = int(pick(rng, 1, 3))
    k = (1, 1) if kind == "point" else (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    if rng.random() < 0.4 and kind != "point":
        k = (3, 3)
    stride, s = pair(rng, 1, 3)
    dilation, d = pair(rng, 1, 2) if rng.random() < 0.3 else (1, (1, 1))
    need = [(k[j] - 1) * d[j] + 1 for j in (0, 1)]
    h, w = (max(n, int(rng.integers(1, 18))) for n in need)
    mode = pick(rng, "zeros", "zeros", "zeros", "reflect", "replicate", "circular")
    form = pick(rng, "int", "pair", "sides", "same", "valid")
    most = [min(4, h - 1), min(4, w - 1)]
    if form == "int":
        p = int(rng.integers(0, min(most) + 1))
        padding, sides = p, (p, p, p, p)
    elif form == "pair":
        a, b = (int(rng.integers(0, m + 1)) for m in most)
        padding, sides = (a, b), (b, b, a, a)
    elif form == "sides":
        t, u = (int(v) for v in rng.integers(0, most[0] + 1, 2))
        a, b = (int(v) for v in rng.integers(0, most[1] + 1, 2))
        padding, sides = ((t, u), (a, b)), (a, b, t, u)
    elif form == "valid":
        padding, sides = "valid", (0, 0, 0, 0)
    else:
        padding, total = "same", []
        for (
            n,
            kk,
            ss,
        ) in zip((h, w), need, s, strict=True):
            total.append(max(0, (-(-n // ss) - 1) * ss + kk - n))
        sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        if max(sides) >= min(h, w) or max(sides) > min(most):
            mode = "zeros"
    shape = image(rng, i, h, w)
    arrays = [normal(rng, *shape), normal(rng, o, i // groups, *k) / np.sqrt(i // groups * k[0] * k[1])]
    if rng.random() < 0.6:
        arrays.append(normal(rng, o))

    def theirs(x, w, b=None):
        if any(sides):
            x4 = x if x.ndim == 4 else x[None]
            x4 = (
                F.pad(x4, sides, mode="constant" if mode == "zeros" else mode)
                if len(x4)
                else x4.new_zeros(
                    x4.shape[0], x4.shape[1], x4.shape[2] + sides[2] + sides[3], x4.shape[3] + sides[0] + sides[1]
                )
                + 0 * x4.sum()
            )
            x = x4 if x.ndim == 4 else x4[0]
        return F.conv2d(x, w, b, stride=s, dilation=d, groups=groups)

    def ours(x, w, b=None):
        return ops.conv2d(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups, padding_mode=mode)

    what = f"{kind} k{k} stride={stride} padding={padding} dilation={dilation} groups={groups} {mode}"
    return Case(ours, theirs, arrays, what, double=True)


@family
def conv_transpose2d(rng):
    groups = int(pick(rng, 1, 1, 2, 3))
    i, o = groups * int(rng.integers(1, 12)), int(rng.integers(1, 12))
    k = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    stride, s = pair(rng, 1, 3)
    dilation, d = pair(rng, 1, 2) if rng.random() < 0.3 else (1, (1, 1))
    h, w = (int(v) for v in rng.integers(1, 9, 2))
    p = [int(rng.integers(0, min(3, d[j] * (k[j] - 1) + 1))) for j in (0, 1)]
    out = [int(rng.integers(0, max(s[j], d[j]))) for j in (0, 1)]
    for j, n in enumerate((h, w)):
        if (n - 1) * s[j] - 2 * p[j] + d[j] * (k[j] - 1) + 1 + out[j] < 1:
            p[j] = 0
    options = dict(stride=stride, padding=tuple(p), output_padding=tuple(out), groups=groups, dilation=dilation)
    arrays = [normal(rng, *image(rng, i, h, w)), normal(rng, i, o, *k) / np.sqrt(i)]
    if rng.random() < 0.5:
        arrays.append(normal(rng, o * groups))
    return Case(
        lambda *a: ops.conv_transpose2d(*a, **options),
        lambda *a: F.conv_transpose2d(*a, **options),
        arrays, str((k, options)), double=True,
    )  # fmt: skip


@family
def linear(rng):
    lead = dims(rng, int(rng.integers(1, 4)), 9)  # (I,) alone is a vector
    if rng.random() < 0.2:
        lead = ()
    i, o = int(rng.integers(1, 70)), int(rng.integers(1, 70))
    arrays = [normal(rng, *lead, i), normal(rng, o, i) / np.sqrt(i)]
    if rng.random() < 0.6:
        arrays.append(normal(rng, o))
    return Case(ops.linear, F.linear, arrays, double=True)


@family
def matmul(rng):
    m, k, n = (int(v) for v in rng.integers(1, 40, 3))
    batch = dims(rng, int(rng.integers(0, 3)), 3)
    a = [*batch, m, k]
    b = [*(1 if rng.random() < 0.3 else v for v in batch), k, n]
    if rng.random() < 0.3:
        b = [k, n]
    if rng.random() < 0.15:
        a = [k]
    if rng.random() < 0.15:
        b = [k]
    return Case(ops.matmul, torch.matmul, [normal(rng, *a), normal(rng, *b)], double=True)


# ---- pooling --------------------------------------------------------------------------------------------------


def pool_sizes(rng, dilated=False):
    kernel, k = pair(rng, 1, 4)
    stride = None if rng.random() < 0.3 else pair(rng, 1, 4)[0]
    dilation, d = pair(rng, 1, 2) if dilated and rng.random() < 0.4 else (1, (1, 1))
    p = tuple(int(rng.integers(0, v // 2 + 1)) for v in k)
    h, w = (int(rng.integers(max(1, d[j] * (k[j] - 1) + 1 - 2 * p[j]), 20)) for j in (0, 1))
    return kernel, stride, p, dilation, h, w


@family
def max_pool2d(rng):
    kernel, stride, p, dilation, h, w = pool_sizes(rng, True)
    options = dict(kernel_size=kernel, stride=stride, padding=p, dilation=dilation, ceil_mode=bool(rng.random() < 0.4))
    both = bool(rng.random() < 0.4)
    x = spread(rng, *image(rng, channels(rng), h, w))
    return Case(
        lambda x: ops.max_pool2d(x, **options, return_indices=both),
        lambda x: F.max_pool2d(x, **options, return_indices=both),
        [x], str((options, both)), double=True,
    )  # fmt: skip


@family
def avg_pool2d(rng):
    kernel, stride, p, _, h, w = pool_sizes(rng)
    options = dict(
        kernel_size=kernel, stride=stride, padding=p, ceil_mode=bool(rng.random() < 0.4),
        count_include_pad=bool(rng.random() < 0.5),
    )  # fmt: skip
    x = normal(rng, *image(rng, channels(rng), h, w))
    return Case(lambda x: ops.avg_pool2d(x, **options), lambda x: F.avg_pool2d(x, **options), [x], str(options), True)


@family
def lp_pool2d(rng):
    kernel, stride, _, _, h, w = pool_sizes(rng)
    k = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    h, w = max(h, k[0]), max(w, k[1])
    p = pick(rng, 1.0, 2.0, 3.0, 2.5)
    options = dict(kernel_size=kernel, stride=stride, ceil_mode=bool(rng.random() < 0.3))
    x = positive(rng, *image(rng, channels(rng), h, w, 0))
    return Case(
        lambda x: ops.lp_pool2d(x, p, **options), lambda x: F.lp_pool2d(x, p, **options), [x], str((p, options)), True
    )


@family
def adaptive_pool2d(rng):
    h, w = (int(v) for v in rng.integers(1, 15, 2))
    size = pick(rng, int(rng.integers(1, 8)), (int(rng.integers(1, 20)), int(rng.integers(1, 8))), (None, 3), 1)
    x = spread(rng, *image(rng, channels(rng), h, w))
    which = pick(rng, "avg", "max", "both", "global")
    if which == "avg":
        return Case(
            lambda x: ops.adaptive_avg_pool2d(x, size), lambda x: F.adaptive_avg_pool2d(x, size), [x], str(size), True
        )
    if which == "global":
        return Case(ops.global_avg_pool2d, lambda x: F.adaptive_avg_pool2d(x, 1), [x], which, True)
    both = which == "both"
    return Case(
        lambda x: ops.adaptive_max_pool2d(x, size, return_indices=both),
        lambda x: F.adaptive_max_pool2d(x, size, return_indices=both),
        [x], str((size, both)), True,
    )  # fmt: skip


# ---- normalisation, activations, softmax ---------------------------------------------------------------------


@family
def batch_norm(rng):
    c, rank = channels(rng), int(rng.integers(0, 4))
    shape = (int(rng.integers(2, 6)), c, *dims(rng, rank, 6, 0))
    training = bool(rng.random() < 0.6)
    affine, stats = rng.random() < 0.7, (not training) or rng.random() < 0.6
    momentum, eps = pick(rng, 0.1, 0.3), pick(rng, 1e-5, 1e-3)
    arrays = [normal(rng, *shape) * 2 + 0.5]
    if affine:
        arrays += [normal(rng, c), normal(rng, c)]
    mean, var = normal(rng, c), positive(rng, c)

    def call(lib, x, *wb):
        if lib is fc:
            m = fc.tensor(mean, dtype=x.dtype) if stats else None
            v = fc.tensor(var, dtype=x.dtype) if stats else None
            y = ops.batch_norm(x, m, v, *(wb or (None, None)), training=training, momentum=momentum, eps=eps)
        else:
            m = torch.tensor(mean, dtype=x.dtype) if stats else None
            v = torch.tensor(var, dtype=x.dtype) if stats else None
            y = F.batch_norm(x, m, v, *(wb or (None, None)), training=training, momentum=momentum, eps=eps)
        return (y, m.clone(), v.clone()) if stats else y

    return Case(
        lambda *a: call(fc, *a), lambda *a: call(torch, *a), arrays, f"training={training} stats={stats}",
        double=True, compiled=False, scale=4,
    )  # fmt: skip


@family
def other_norms(rng):
    which = pick(rng, "layer", "group", "instance", "lrn")
    eps = pick(rng, 1e-5, 1e-2)
    if which == "layer":
        shape = dims(rng, int(rng.integers(1, 5)), 9, 0)
        last = shape[int(rng.integers(len(shape))) :]
        arrays = [normal(rng, *shape), *([normal(rng, *last), normal(rng, *last)] if rng.random() < 0.7 else [])]
        if int(np.prod(last)) < 2:
            eps = 0.1
        return Case(
            lambda x, *wb: ops.layer_norm(x, last, *wb, eps=eps), lambda x, *wb: F.layer_norm(x, last, *wb, eps=eps),
            arrays, str(last), True, scale=10,
        )  # fmt: skip
    g = int(rng.integers(1, 5))
    c = g * int(rng.integers(1, 9))
    space = dims(rng, int(rng.integers(1, 4)), 6, 0)
    if int(np.prod(space)) < 4:
        space = (4, *space[1:])
    x = normal(rng, int(rng.integers(1, 4)), c, *space)
    if which == "lrn":
        size, alpha, beta, k = (
            int(rng.integers(1, 7)),
            pick(rng, 1e-4, 0.5),
            pick(rng, 0.75, 0.5, 2.0),
            pick(rng, 1.0, 2.0),
        )
        return Case(
            lambda x: ops.local_response_norm(x, size, alpha, beta, k),
            lambda x: F.local_response_norm(x, size, alpha, beta, k), [x], str((size, alpha, beta, k)), True,
        )  # fmt: skip
    wb = [normal(rng, c), normal(rng, c)] if rng.random() < 0.7 else []
    if which == "group":
        return Case(
            lambda x, *wb: ops.group_norm(x, g, *wb, eps=eps), lambda x, *wb: F.group_norm(x, g, *wb, eps=eps),
            [x, *wb], f"groups={g}", True, scale=10,
        )  # fmt: skip
    return Case(
        lambda x, w=None, b=None: ops.instance_norm(x, w, b, eps=eps),
        lambda x, w=None, b=None: F.instance_norm(x, weight=w, bias=b, eps=eps), [x, *wb], "instance", True, scale=10,
    )  # fmt: skip


ACTIVATIONS = {
    "relu": {}, "relu6": {}, "leaky_relu": {"negative_slope": 0.2}, "elu": {"alpha": 1.3}, "selu": {}, "celu": {"alpha": 0.5},
    "gelu": {}, "silu": {}, "mish": {}, "hardswish": {}, "hardsigmoid": {}, "hardtanh": {"min_val": -0.6, "max_val": 1.7},
    "sigmoid": {}, "tanh": {}, "softplus": {"beta": 2.0, "threshold": 5.0}, "softsign": {}, "gelu_tanh": {"approximate": "tanh"},
}  # fmt: skip


@family
def activation(rng):
    name = pick(rng, *ACTIVATIONS, "prelu")
    shape = dims(rng, int(rng.integers(0, 6)), 9)
    if name == "prelu":
        shape = (*dims(rng, 1, 4), channels(rng), *dims(rng, int(rng.integers(0, 4)), 6))
        w = normal(rng, pick(rng, 1, shape[1]))
        return Case(ops.prelu, F.prelu, [spread(rng, *shape), w], name, True)
    x = spread(rng, *shape) * pick(rng, 1, 3, 0.2)
    options = ACTIVATIONS[name]
    ours, theirs = getattr(ops, name.split("_tanh")[0]), getattr(F, name.split("_tanh")[0])
    return Case(
        lambda x: ours(x, **options), lambda x: theirs(x, **options), [x], name, name != "hardsigmoid"
    )  # PyTorch has no second one


@family
def softmax(rng):
    shape = dims(rng, int(rng.integers(1, 5)), 40 if rng.random() < 0.3 else 8)
    dim, name = int(rng.integers(-len(shape), len(shape))), pick(rng, "softmax", "log_softmax")
    x = normal(rng, *shape) * pick(rng, 1, 20)
    return Case(lambda x: getattr(ops, name)(x, dim), lambda x: getattr(F, name)(x, dim), [x], f"{name} {dim}", True)


# ---- resampling, pad -----------------------------------------------------------------------------------------


@family
def interpolate(rng):
    mode = pick(rng, "nearest", "nearest-exact", "bilinear", "bicubic")
    h, w = (int(v) for v in rng.integers(1, 14, 2))
    options = {"mode": mode}
    if mode.startswith("bi"):
        options["align_corners"] = pick(rng, True, False, None)
        options["antialias"] = bool(rng.random() < 0.4)
    # PyTorch's own gradients and channels-last values are wrong for antialias with scale factors that do not divide.
    if rng.random() < 0.6 or options.get("antialias"):
        options["size"] = pick(rng, int(rng.integers(1, 25)), tuple(int(v) for v in rng.integers(1, 25, 2)))
    else:
        f = [float(np.round(rng.uniform(max(0.4, 1 / n), 3), 2)) for n in (h, w)]
        options["scale_factor"] = pick(rng, max(f), tuple(f))
    n, c = int(rng.integers(0 if rng.random() < 0.05 else 1, 3)), channels(rng)
    if n == 0:
        n = 1
    return Case(
        lambda x: ops.interpolate(x, **options), lambda x: F.interpolate(x, **options),
        [normal(rng, n, c, h, w)], str(options), True, scale=4,
    )  # fmt: skip


@family
def pad(rng):
    mode = pick(rng, "constant", "constant", "reflect", "replicate", "circular")
    rank = int(rng.integers(1, 6)) if mode == "constant" else int(rng.integers(2, 6))
    shape = dims(rng, rank, 7, 0.03 if mode == "constant" else 0)
    count = int(rng.integers(1, rank + 1)) if mode == "constant" else max(1, rank - 2)
    pads = []
    for n in list(reversed(shape))[:count]:
        most = {"constant": 4, "reflect": n - 1, "replicate": 4, "circular": n}[mode]
        low = -(n // 3) if mode == "constant" else 0
        pads += [int(v) for v in rng.integers(low, max(most, 0) + 1, 2)]
    value = pick(rng, None, 0.5, -2.0) if mode == "constant" else None
    return Case(
        lambda x: ops.pad(x, pads, mode=mode, value=value), lambda x: F.pad(x, pads, mode=mode, value=value),
        [normal(rng, *shape)], f"{pads} {mode} {value}", True,
    )  # fmt: skip


@family
def pixel_shuffle(rng):
    r, c = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    lead, h, w = dims(rng, int(rng.integers(0, 3)), 3, 0), *(int(v) for v in rng.integers(1, 6, 2))
    if rng.random() < 0.5:
        return Case(
            lambda x: ops.pixel_shuffle(x, r),
            lambda x: F.pixel_shuffle(x, r),
            [normal(rng, *lead, c * r * r, h, w)],
            f"{r}",
            True,
        )
    return Case(
        lambda x: ops.pixel_unshuffle(x, r),
        lambda x: F.pixel_unshuffle(x, r),
        [normal(rng, *lead, c, h * r, w * r)],
        f"un {r}",
        True,
    )


# ---- losses --------------------------------------------------------------------------------------------------


@family
def cross_entropy(rng):
    n, c = int(rng.integers(1, 7)), int(rng.integers(1, 20))
    space = dims(rng, int(rng.integers(0, 3)), 5, 0)
    options = {"reduction": pick(rng, "mean", "sum", "none"), "label_smoothing": pick(rng, 0.0, 0.1, 0.3)}
    ids = rng.random() < 0.6
    arrays = [normal(rng, n, c, *space) * 3]
    alone = rng.random() < 0.1 and not space
    if alone:
        arrays = [arrays[0][0]]
    if ids:
        target = rng.integers(0, c, (n, *space))
        options["ignore_index"] = pick(rng, -100, 0, c - 1, 255)
        if options["ignore_index"] not in range(c):
            target[rng.random(target.shape) < 0.2] = options["ignore_index"]
        target.flat[0] = (options["ignore_index"] + 1) % c if options["ignore_index"] in range(c) else 0
        if (target != options["ignore_index"]).sum() == 0:
            options["ignore_index"] = -100  # a mean over nothing is NaN
        arrays.append(target[0] if alone else target)
    else:
        p = rng.random((n, c, *space))
        p /= p.sum(1, keepdims=True)
        arrays.append(p[0] if alone else p)
    weighted = rng.random() < 0.5
    if weighted:
        weight = rng.uniform(0.2, 2, c)

    def call(lib, x, t):
        w = {}
        if weighted:
            w["weight"] = fc.tensor(weight, dtype=x.dtype) if lib is fc else torch.tensor(weight, dtype=x.dtype)
        return (ops if lib is fc else F).cross_entropy(x, t, **w, **options)

    return Case(
        lambda *a: call(fc, *a), lambda *a: call(torch, *a), arrays, f"{options} weighted={weighted}", True, scale=4
    )


@family
def nll_loss(rng):
    n, c = int(rng.integers(1, 7)), int(rng.integers(1, 20))
    space = dims(rng, int(rng.integers(0, 3)), 5, 0)
    options = {"reduction": pick(rng, "mean", "sum", "none"), "ignore_index": pick(rng, -100, 0)}
    weight = rng.uniform(0.2, 2, c)
    weighted = rng.random() < 0.5

    def call(lib, x, t):
        w = None
        if weighted:
            w = fc.tensor(weight, dtype=x.dtype) if lib is fc else torch.tensor(weight, dtype=x.dtype)
        return (ops if lib is fc else F).nll_loss(x, t, w, **options)

    return Case(
        lambda *a: call(fc, *a), lambda *a: call(torch, *a),
        [normal(rng, n, c, *space), rng.integers(0, c, (n, *space))], f"{options} {weighted}", True,
    )  # fmt: skip


@family
def other_losses(rng):
    shape = dims(rng, int(rng.integers(0, 5)), 7, 0)
    red = pick(rng, "mean", "sum", "none")
    name = pick(rng, "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "bce")
    a = spread(rng, 2, *shape)
    x, t = a[0], a[1] + 0.0113  # |x - t| meets no threshold
    options = {"reduction": red}
    if name == "bce":
        t = rng.random(shape)
        ours, theirs = ops.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
        arrays = [x * 3, t]
        if rng.random() < 0.5:
            pos = rng.uniform(0.5, 2, shape[-1:])
            return Case(
                lambda x, t, p: ours(x, t, pos_weight=p.detach(), **options),
                lambda x, t, p: theirs(x, t, pos_weight=p.detach(), **options), [*arrays, pos], f"bce pos {red}", True,
            )  # fmt: skip
        return Case(
            lambda x, t: ours(x, t, **options), lambda x, t: theirs(x, t, **options), arrays, f"bce {red}", True
        )
    if name == "smooth_l1_loss":
        options["beta"] = pick(rng, 1.0, 0.3)
    if name == "huber_loss":
        options["delta"] = pick(rng, 1.0, 0.3)
    if name == "kl_div":
        options["log_target"] = bool(rng.random() < 0.5)
        options["reduction"] = pick(rng, "mean", "sum", "none", "batchmean") if shape else red
        t = t if options["log_target"] else positive(rng, *shape)
    ours, theirs = getattr(ops, name), getattr(F, name)
    return Case(
        lambda x, t: ours(x, t, **options), lambda x, t: theirs(x, t, **options), [x, t], f"{name} {options}", True
    )


# ---- elementwise, reductions ---------------------------------------------------------------------------------

UNARY = "neg abs exp expm1 sqrt rsqrt square reciprocal sin cos erf log log1p log2 sign floor ceil round".split()


@family
def unary(rng):
    name = pick(rng, *UNARY)
    shape = dims(rng, int(rng.integers(0, 6)), 9)
    x = (
        positive(rng, *shape)
        if name in ("sqrt", "rsqrt", "log", "log2", "reciprocal", "log1p")
        else spread(rng, *shape)
    )
    return Case(getattr(ops, name), getattr(torch, name), [x], name, name not in ("sign", "floor", "ceil", "round"))


def broadcast_pair(rng):
    shape = dims(rng, int(rng.integers(0, 6)), 6)
    other = tuple(1 if rng.random() < 0.3 else n for n in shape)[int(rng.integers(0, len(shape) + 1)) :]
    first = tuple(1 if rng.random() < 0.15 else n for n in shape)
    return (first, other) if rng.random() < 0.5 else (other, first)


@family
def binary(rng):
    name = pick(rng, "add", "sub", "mul", "div", "pow", "maximum", "minimum", "remainder", "where")
    a, b = broadcast_pair(rng)
    x, y = positive(rng, *a), positive(rng, *b)
    if name == "where":
        mask = rng.random(np.broadcast_shapes(a, b)) < 0.5
        return Case(lambda c, x, y: ops.where(c, x, y), lambda c, x, y: torch.where(c, x, y), [mask, x, y], name, True)
    if name in ("add", "sub", "mul"):
        x, y = normal(rng, *a), normal(rng, *b)
    return Case(getattr(ops, name), getattr(torch, name), [x, y], name, name != "remainder")


@family
def scalars(rng):
    shape = dims(rng, int(rng.integers(0, 5)), 9)
    s = pick(rng, 2, 0.5, 3.0, -1.5, True, np.float32(0.25), np.float64(1.3), np.int64(3))
    plain = s.item() if isinstance(s, np.generic) else s
    fns = [
        lambda x, s: x + s, lambda x, s: s - x, lambda x, s: x * s, lambda x, s: x / s, lambda x, s: s / x,
        lambda x, s: x - s, lambda x, s: s + x, lambda x, s: x**s, lambda x, s: abs(s) ** x,
    ]  # fmt: skip
    k = int(rng.integers(len(fns)))
    f = fns[k]
    if s is True and k in (1, 5):  # PyTorch subtracts no bool
        s = plain = 2
    return Case(
        lambda x: f(x, plain if k in (1, 4, 6, 8) else s),
        lambda x: f(x, plain),
        [positive(rng, *shape)],
        f"{k} {s!r}",
        True,
    )


def random_dims(rng, rank):
    if rank == 0 or rng.random() < 0.25:
        return None
    if rng.random() < 0.4:
        return int(rng.integers(-rank, rank))
    n = int(rng.integers(1, rank + 1))
    return tuple(int(d) - (rank if rng.random() < 0.3 else 0) for d in rng.permutation(rank)[:n])


@family
def reduction(rng):
    name = pick(rng, "sum", "mean", "amax", "amin", "var", "std", "norm", "prod")
    shape = dims(rng, int(rng.integers(0, 6)), pick(rng, 6, 20), 0.02 if name in ("sum", "norm") else 0)
    while int(np.prod(shape)) > 40000:
        shape = shape[1:]
    dim, keep = random_dims(rng, len(shape)), bool(rng.random() < 0.4)
    x = spread(rng, *shape)
    scale = 1
    if name in ("amax", "amin"):
        at = () if dim is None else dim
        return Case(
            lambda x: getattr(ops, name)(x, dim, keep),
            lambda x: getattr(torch, name)(x, at, keep),
            [x],
            f"{name} {dim} {keep}",
            True,
        )
    if name in ("var", "std"):
        c = pick(rng, 0, 1)
        x = normal(rng, *shape)
        n = int(np.prod(shape if dim is None else [shape[d] for d in np.atleast_1d(dim)]))
        if n - c < 1 or (name == "std" and n < 2):
            c, name = 0, "var"
        return Case(
            lambda x: getattr(x, name)(dim, correction=c, keepdim=keep),
            lambda x: getattr(torch, name)(x, dim, correction=c, keepdim=keep), [x], f"{name} {dim} {c} {keep}", True, scale=4,
        )  # fmt: skip
    if name == "norm":
        p = pick(rng, 1.0, 2.0, 3.0)
        if 0 in shape:
            p = 1.0
        return Case(
            lambda x: ops.norm(x, p, dim, keep),
            lambda x: torch.linalg.vector_norm(x, p, dim, keep),
            [x],
            f"norm {p} {dim} {keep}",
            True,
        )
    if name == "prod":
        dim = dim if isinstance(dim, int) else None
        x = positive(rng, *shape)
        scale = 10
        if int(np.prod(shape)) > 200:
            x = x**0.05
        options = {} if dim is None else {"dim": dim, "keepdim": keep}
        return Case(
            lambda x: ops.prod(x, **options),
            lambda x: torch.prod(x, **options),
            [x],
            f"prod {dim} {keep}",
            True,
            scale=scale,
        )
    options = {} if dim is None else {"dim": dim, "keepdim": keep}
    return Case(
        lambda x: getattr(ops, name)(x, **options),
        lambda x: getattr(torch, name)(x, **options),
        [x],
        f"{name} {options}",
        True,
        scale=2,
    )


@family
def extremes(rng):
    shape = dims(rng, int(rng.integers(1, 5)), 9, 0)
    dim, keep = int(rng.integers(-len(shape), len(shape))), bool(rng.random() < 0.4)
    name = pick(rng, "max", "min", "argmax", "argmin")
    x = spread(rng, *shape)
    if name.startswith("arg"):
        options = {} if rng.random() < 0.3 else {"dim": dim, "keepdim": keep}
        return Case(
            lambda x: getattr(x, name)(**options), lambda x: getattr(x, name)(**options), [x], f"{name} {options}"
        )
    whole = rng.random() < 0.3
    if whole:
        return Case(lambda x: getattr(x, name)(), lambda x: getattr(x, name)(), [x], name, True)
    return Case(
        lambda x: tuple(getattr(x, name)(dim, keep)),
        lambda x: tuple(getattr(x, name)(dim, keep)),
        [x],
        f"{name} {dim} {keep}",
        True,
    )


# ---- shape ops, indexing -------------------------------------------------------------------------------------


@family
def shape_ops(rng):
    rank = int(rng.integers(1, 5))
    shape = dims(rng, rank, 6)
    x = normal(rng, *shape)
    d = int(rng.integers(-rank, rank))
    which = pick(
        rng,
        "permute",
        "transpose",
        "flatten",
        "reshape",
        "expand",
        "flip",
        "squeeze",
        "unsqueeze",
        "narrow",
        "clone",
        "chunk",
        "split",
        "T",
    )
    order = [int(v) for v in rng.permutation(rank)]
    if which == "permute":
        f = lambda x: x.permute(order)  # noqa: E731
    elif which == "transpose":
        e = int(rng.integers(-rank, rank))
        f = lambda x: x.transpose(d, e)  # noqa: E731
    elif which == "flatten":
        a, b = sorted(int(v) for v in rng.integers(0, rank, 2))
        f = lambda x: x.flatten(a, b)  # noqa: E731
    elif which == "reshape":
        to = list(shape)
        to.insert(int(rng.integers(0, rank + 1)), 1)
        rng.shuffle(to)
        to = [int(v) for v in to]
        f = lambda x: x.permute(order).reshape(to)  # noqa: E731
    elif which == "expand":
        to = (3, *shape)
        f = lambda x: x.expand(to)  # noqa: E731
    elif which == "flip":
        at = order[: int(rng.integers(1, rank + 1))]
        f = lambda x: x.flip(at)  # noqa: E731
    elif which == "squeeze":
        f = (lambda x: x.squeeze()) if rng.random() < 0.3 else (lambda x: x.squeeze(d))
    elif which == "unsqueeze":
        f = lambda x: x.unsqueeze(d)  # noqa: E731
    elif which == "narrow":
        n = shape[d]
        a = int(rng.integers(0, n + 1))
        m = int(rng.integers(0, n - a + 1))
        f = lambda x: x.narrow(d, a, m)  # noqa: E731
    elif which == "chunk":
        k = int(rng.integers(1, 5))
        f = (lambda x: tuple(p * 2 for p in x.chunk(k, d))) if shape[d] else (lambda x: x * 2)
    elif which == "split":
        k = int(rng.integers(1, 5))
        f = lambda x: tuple(p * (i + 1) for i, p in enumerate(x.split(k, d)))  # noqa: E731
    elif which == "T":
        f = lambda x: x.permute(*range(rank - 1, -1, -1)) * 1  # noqa: E731
    else:
        f = lambda x: x.clone()  # noqa: E731
    return Case(f, f, [x], f"{which} {order} {d}", True)


@family
def joins(rng):
    rank = int(rng.integers(1, 5))
    shape, d, n = list(dims(rng, rank, 5)), int(rng.integers(-rank, rank)), int(rng.integers(1, 5))
    if rng.random() < 0.6:
        arrays = []
        for _ in range(n):
            s = list(shape)
            s[d] = int(rng.integers(0, 5))
            arrays.append(normal(rng, *s))
        return Case(lambda *a: ops.cat(list(a), d), lambda *a: torch.cat(a, d), arrays, f"cat {d}", True)
    d = int(rng.integers(-rank - 1, rank + 1))
    return Case(
        lambda *a: ops.stack(list(a), d),
        lambda *a: torch.stack(a, d),
        [normal(rng, *shape) for _ in range(n)],
        f"stack {d}",
        True,
    )


@family
def gathers(rng):
    rank = int(rng.integers(1, 4))
    shape, d = dims(rng, rank, 6, 0), int(rng.integers(-rank, rank))
    x = normal(rng, *shape)
    which = pick(rng, "gather", "index_select", "masked_fill", "one_hot")
    if which == "gather":
        s = [int(rng.integers(1, n + 1)) for n in shape]
        s[d] = int(rng.integers(1, 8))
        return Case(
            lambda x, i: x.gather(d, i),
            lambda x, i: x.gather(d, i),
            [x, rng.integers(0, shape[d], s)],
            f"gather {d}",
            True,
        )
    if which == "index_select":
        i = rng.integers(0, shape[d], int(rng.integers(0, 8)))
        return Case(
            lambda x, i: x.index_select(d, i), lambda x, i: x.index_select(d, i), [x, i], f"index_select {d}", True
        )
    if which == "one_hot":
        i = rng.integers(0, 7, shape)
        return Case(lambda i: ops.one_hot(i, 7, dtype="int64"), lambda i: F.one_hot(i, 7), [i], "one_hot")
    mask = rng.random(shape) < 0.4
    return Case(lambda x, m: x.masked_fill(m, 1.5), lambda x, m: x.masked_fill(m, 1.5), [x, mask], which, True)


def random_slice(rng, n):
    a, b = (pick(rng, None, int(v)) for v in rng.integers(-n - 1, n + 2, 2))
    return slice(a, b, pick(rng, None, 1, 2, 3))


def random_key(rng, shape, tensors):
    """Items for PyTorch; index arrays stand as NumPy arrays and are made tensors by the caller."""
    key, d, rank = [], 0, len(shape)
    array = tuple(dims(rng, int(rng.integers(0, 3)), 4, 0))
    while d < rank and rng.random() < 0.85:
        kind = pick(rng, "int", "slice", "slice", "none", "array" if tensors else "slice", "mask" if tensors else "int")
        if kind == "int" and shape[d]:
            key.append(int(rng.integers(-shape[d], shape[d])))
        elif kind == "none":
            key.append(None)
            continue
        elif kind == "array" and shape[d]:
            key.append(rng.integers(-shape[d], shape[d], array))
        elif kind == "mask" and not any(isinstance(k, np.ndarray) for k in key) and rng.random() < 0.5:
            key.append(rng.random(shape[d]) < 0.5)
            d += 1
            break
        else:
            key.append(random_slice(rng, shape[d]))
        d += 1
    if rng.random() < 0.3:
        key.append(Ellipsis)
    return tuple(key)


@family
def getitem(rng):
    shape = dims(rng, int(rng.integers(1, 5)), 6, 0)
    tensors = bool(rng.random() < 0.6)
    key = random_key(rng, shape, tensors)
    lib = lambda m: tuple(m.tensor(k) if isinstance(k, np.ndarray) else k for k in key)  # noqa: E731
    mask = any(isinstance(k, np.ndarray) and k.dtype == bool for k in key)
    return Case(
        lambda x: x[lib(fc)], lambda x: x[lib(torch)], [normal(rng, *shape)], repr(key), True, compiled=not mask
    )


@family
def setitem(rng):
    shape = dims(rng, int(rng.integers(1, 5)), 6, 0)
    key = random_key(rng, shape, False)
    size = np.empty(shape)[key].shape
    v = normal(rng, *tuple(1 if rng.random() < 0.2 else n for n in size)[int(rng.integers(0, len(size) + 1)) :])

    def call(lib, x, v):
        y = x.detach().clone()
        y[key] = v.detach()
        return y

    return Case(lambda *a: call(fc, *a), lambda *a: call(torch, *a), [normal(rng, *shape), v], repr(key))
