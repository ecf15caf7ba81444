"""Random cases of sequences (N, C, L) and volumes (N, C, D, H, W): convolution, pooling, resampling, small nets."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from fastcnn import _core as fc
from fuzz_base import Case, family, normal, pick, spread

ops = fc.ops


def ints(rng, n, low, high):
    return tuple(int(v) for v in rng.integers(low, high + 1, n))


def of(library, name, axes):
    return getattr(library, f"{name}{axes}d")


def batch(rng, c, size):
    n = int(pick(rng, 0, 1, 2, 3))
    return (c, *size) if rng.random() < 0.15 else (n, c, *size)


@family
def conv_of_1_and_3_axes(rng):
    n = int(pick(rng, 1, 3))
    groups = int(pick(rng, 1, 1, 1, 2, 3))
    each = int(pick(rng, 1, 2, 3, 5)) if groups == 1 or rng.random() < 0.7 else 16
    i, o = groups * each, groups * int(rng.integers(1, 5))
    k = (1,) * n if rng.random() < 0.15 else ints(rng, n, 1, 3)
    if n == 3 and rng.random() < 0.2:
        k = (k[0], 1, 1)
    stride, dilation = ints(rng, n, 1, 3), ints(rng, n, 1, 2) if rng.random() < 0.4 else (1,) * n
    padding = ints(rng, n, 0, 2) if rng.random() < 0.6 else (0,) * n
    size = tuple(
        max(d * (a - 1) + 1 - 2 * p, 1, v) for a, d, p, v in zip(k, dilation, padding, ints(rng, n, 1, 7), strict=True)
    )
    arrays = [normal(rng, *batch(rng, i, size)), normal(rng, o, each, *k) / np.sqrt(each * np.prod(k))]
    if rng.random() < 0.6:
        arrays.append(normal(rng, o))
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return Case(
        lambda *a: of(ops, "conv", n)(*a, **options), lambda *a: of(F, "conv", n)(*a, **options), arrays,
        f"k{k} {options}", double=True,
    )  # fmt: skip


@family
def conv_transpose_of_1_and_3_axes(rng):
    n, groups = int(pick(rng, 1, 3)), int(pick(rng, 1, 1, 2, 3))
    i, o = groups * int(rng.integers(1, 5)), int(rng.integers(1, 5))
    k, stride = ints(rng, n, 1, 3), ints(rng, n, 1, 3)
    dilation = ints(rng, n, 1, 2) if rng.random() < 0.4 else (1,) * n
    padding = tuple(int(rng.integers(0, d * (a - 1) + 1)) for a, d in zip(k, dilation, strict=True))
    extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
    size = ints(rng, n, 1, 5)
    fits = [
        (m - 1) * s - 2 * p + d * (a - 1) + 1 + e >= 1
        for m, s, p, d, a, e in zip(size, stride, padding, dilation, k, extra, strict=True)
    ]
    padding = tuple(p if f else 0 for p, f in zip(padding, fits, strict=True))
    arrays = [normal(rng, *batch(rng, i, size)), normal(rng, i, o, *k) / np.sqrt(i)]
    if rng.random() < 0.5:
        arrays.append(normal(rng, o * groups))
    options = dict(stride=stride, padding=padding, output_padding=extra, groups=groups, dilation=dilation)
    return Case(
        lambda *a: of(ops, "conv_transpose", n)(*a, **options),
        lambda *a: of(F, "conv_transpose", n)(*a, **options), arrays, f"k{k} {options}", double=True,
    )  # fmt: skip


@family
def pool_of_1_and_3_axes(rng):
    n, kind = int(pick(rng, 1, 3)), pick(rng, "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    c = int(pick(rng, 1, 3, 8))
    if kind.startswith("adaptive"):
        size = ints(rng, n, 1, 6)
        out = ints(rng, n, 1, 7) if n == 3 else int(rng.integers(1, 8))
        arrays = [spread(rng, *batch(rng, c, size))]
        return Case(
            lambda x: of(ops, kind, n)(x, out), lambda x: of(F, kind, n)(x, out), arrays, f"{kind}{n} {out}",
            double=True,
        )  # fmt: skip
    k, stride = ints(rng, n, 1, 3), ints(rng, n, 1, 3)
    options = dict(
        kernel_size=k, stride=stride, padding=tuple(int(rng.integers(0, a // 2 + 1)) for a in k),
        ceil_mode=bool(rng.integers(2)),
    )  # fmt: skip
    if kind == "avg_pool":
        options["count_include_pad"] = bool(rng.integers(2))
    size = tuple(a + v for a, v in zip(k, ints(rng, n, 0, 5), strict=True))
    return Case(
        lambda x: of(ops, kind, n)(x, **options), lambda x: of(F, kind, n)(x, **options),
        [spread(rng, *batch(rng, c, size))], f"{kind}{n} {options}", double=True,
    )  # fmt: skip


@family
def interpolate_of_1_and_3_axes(rng):
    n = int(pick(rng, 1, 3))
    mode = pick(rng, "nearest", "nearest-exact", "area", "linear" if n == 1 else "trilinear")
    options = {"mode": mode}
    if "linear" in mode and rng.random() < 0.5:
        options["align_corners"] = True
    options["size"] = ints(rng, n, 1, 9)
    shape = (int(rng.integers(1, 4)), int(pick(rng, 1, 3, 8)), *ints(rng, n, 1, 6))
    return Case(
        lambda x: ops.interpolate(x, **options), lambda x: F.interpolate(x, **options), [normal(rng, *shape)],
        str(options), double=True,
    )  # fmt: skip


ACTIVATIONS = ("relu", "silu", "sigmoid", "leaky_relu")


@family
def nets_of_1_and_3_axes(rng):
    """Convolution, norm, activation and a shortcut: what plans join."""
    n, c = int(pick(rng, 1, 3)), int(pick(rng, 1, 3, 8, 16))
    act, training, slope = pick(rng, *ACTIVATIONS), bool(rng.integers(2)), rng.random() < 0.7
    shape = (int(rng.integers(1, 4)), c, *ints(rng, n, 2, 6))
    arrays = [
        spread(rng, *shape), normal(rng, c, c, *[3] * n) / np.sqrt(c * 3**n), rng.uniform(0.5, 2, c), normal(rng, c),
    ]  # fmt: skip
    mean, var = normal(rng, c), rng.uniform(0.5, 2, c)

    def net(library, conv, norm, x, w, gamma, beta, *state):
        y = conv(x, w, None, 1, 1)
        y = norm(y, *state, gamma, beta, training)
        y = getattr(library, act)(y)
        return y * 2 + x if slope else y

    def ours(x, *rest):
        state = (None, None) if training else tuple(fc.tensor(v.astype(str(x.dtype))) for v in (mean, var))
        return net(ops, of(ops, "conv", n), lambda y, m, v, *a: ops.batch_norm(y, m, v, *a), x, *rest, *state)

    def theirs(x, *rest):
        state = (None, None) if training else tuple(torch.tensor(v, dtype=x.dtype) for v in (mean, var))
        return net(F, of(F, "conv", n), lambda y, m, v, *a: F.batch_norm(y, m, v, *a), x, *rest, *state)

    return Case(ours, theirs, arrays, f"{n} axes, {act}, training={training}", scale=30)
