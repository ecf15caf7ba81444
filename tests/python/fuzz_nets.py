"""Random cases of network ops: convolution, pooling, norms, activations, resampling, losses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from fastcnn import _core as fc
from fuzz_base import Case, channels, dims, family, image, normal, pair, pick, positive, spread

ops = fc.ops


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
    point = kind == "point" or (kind == "depthwise" and rng.random() < 0.2)
    k = (1, 1) if point else (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    if rng.random() < 0.4 and not point:
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
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 1.3},
    "selu": {},
    "celu": {"alpha": 0.5},
    "gelu": {},
    "silu": {},
    "mish": {},
    "hardswish": {},
    "hardsigmoid": {},
    "hardtanh": {"min_val": -0.6, "max_val": 1.7},
    "sigmoid": {},
    "tanh": {},
    "softplus": {"beta": 2.0, "threshold": 5.0},
    "softsign": {},
    "gelu_tanh": {"approximate": "tanh"},
    "logsigmoid": {},
    "softshrink": {"lambd": 0.3},
    "hardshrink": {"lambd": 0.3},
    "tanhshrink": {},
    "threshold": {"threshold": 0.2, "value": -1.5},
    "rrelu": {"lower": 0.1, "upper": 0.4},
}


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
    second = name != "hardsigmoid"  # PyTorch has none of it, and 1/6 in float32 precision
    return Case(
        lambda x: ours(x, **options), lambda x: theirs(x, **options), [x], name, second, scale=1 if second else 30
    )


@family
def softmax(rng):
    shape = dims(rng, int(rng.integers(1, 5)), 40 if rng.random() < 0.3 else 8)
    dim, name = int(rng.integers(-len(shape), len(shape))), pick(rng, "softmax", "log_softmax")
    x = normal(rng, *shape) * pick(rng, 1, 20)
    return Case(lambda x: getattr(ops, name)(x, dim), lambda x: getattr(F, name)(x, dim), [x], f"{name} {dim}", True)


# ---- resampling, pad -----------------------------------------------------------------------------------------


@family
def interpolate(rng):
    mode = pick(rng, "nearest", "nearest-exact", "area", "bilinear", "bicubic")
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


@family
def pair_losses(rng):
    """Losses of pairs and triples of vectors, and of probabilities and rates."""
    n, d, red = int(rng.integers(1, 7)), channels(rng), pick(rng, "mean", "sum", "none")
    name = pick(rng, *(
        "triplet_margin_loss margin_ranking_loss cosine_embedding_loss hinge_embedding_loss soft_margin_loss "
        "binary_cross_entropy poisson_nll_loss gaussian_nll_loss cosine_similarity"
    ).split())  # fmt: skip
    x, y, z = (spread(rng, n, d) for _ in range(3))
    signs, options = rng.choice([-1, 1], (n, d)), {"reduction": red}
    if name == "triplet_margin_loss":
        options |= {"margin": 0.7, "swap": bool(rng.random() < 0.5), "p": pick(rng, 1.0, 2.0, 3.0)}
        arrays = [x, y, z]
    elif name == "margin_ranking_loss":
        options["margin"], arrays = 0.0137, [x, y, signs]
    elif name == "cosine_embedding_loss":
        options["margin"], arrays = 0.0137, [x, y, signs[:, 0]]
    elif name in ("hinge_embedding_loss", "soft_margin_loss"):
        arrays = [x, signs]
    elif name == "binary_cross_entropy":
        arrays = [rng.uniform(0.1, 0.9, (n, d)), rng.random((n, d))]
    elif name == "poisson_nll_loss":
        options |= {"full": bool(rng.random() < 0.5)}
        arrays = [x, positive(rng, n, d)]
    elif name == "gaussian_nll_loss":
        options |= {"full": bool(rng.random() < 0.5)}
        arrays = [x, y, positive(rng, *pick(rng, (n, d), (n, 1)))]
    else:
        options, arrays = {"dim": int(rng.integers(-2, 2))}, [x, y]
    ours, theirs = getattr(ops, name), getattr(F, name)
    return Case(
        lambda *a: ours(*a, **options), lambda *a: theirs(*a, **options), arrays, f"{name} {options}", True, scale=10
    )


@family
def windows_as_columns(rng):
    name = pick(rng, "unfold", "fold", "max_unpool2d")
    c, h, w = channels(rng), int(rng.integers(5, 11)), int(rng.integers(5, 11))
    lead = pick(rng, (c,), (int(rng.integers(1, 4)), c))
    if name == "max_unpool2d":
        k, p = int(rng.integers(1, 4)), int(rng.integers(0, 2))
        options = {"kernel_size": k, "stride": int(rng.integers(1, k + 1)), "padding": min(p, k // 2)}
        pooled, at = F.max_pool2d(torch.tensor(spread(rng, *lead, h, w)), return_indices=True, **options)
        # Windows that share a place have its one value; others would leave a choice. The last rows may pool no more.
        size = (h, w) if all(abs((n - 1) * options["stride"] - 2 * options["padding"] + k - m) < options["stride"]
                             for n, m in zip(pooled.shape[-2:], (h, w), strict=True)) else None  # fmt: skip
        if size is None:
            return windows_as_columns(rng)
        return Case(
            lambda x, i: ops.max_unpool2d(x, i, output_size=size, **options),
            lambda x, i: F.max_unpool2d(x, i, output_size=size, **options),
            [pooled.numpy(), at.numpy()], f"{name} {options}", True,
        )  # fmt: skip
    options = {key: pair(rng, low, high)[0] for key, low, high in
               (("kernel_size", 1, 3), ("dilation", 1, 2), ("padding", 0, 2), ("stride", 1, 3))}  # fmt: skip
    image = spread(rng, *lead, h, w)
    if name == "unfold":
        return Case(
            lambda x: ops.unfold(x, **options), lambda x: F.unfold(x, **options), [image], f"{name} {options}", True
        )
    columns = spread(rng, *F.unfold(torch.tensor(image), **options).shape)
    return Case(
        lambda x: ops.fold(x, (h, w), **options), lambda x: F.fold(x, (h, w), **options), [columns],
        f"{name} {options}", True,
    )  # fmt: skip


@family
def embedding(rng):
    v, d, ids = int(rng.integers(1, 9)), channels(rng), dims(rng, int(rng.integers(0, 4)), 6)
    padding = pick(rng, None, int(rng.integers(-v, v)))
    return Case(
        lambda i, w: ops.embedding(i, w, padding), lambda i, w: F.embedding(i, w, padding),
        [rng.integers(0, v, ids), normal(rng, v, d)], f"embedding {v} {padding}", True,
    )  # fmt: skip
