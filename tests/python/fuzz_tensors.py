"""Random cases of tensor ops: elementwise, reductions, shape ops, indexing."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from fastcnn import _core as fc
from fuzz_base import Case, dims, family, normal, pick, positive, spread

ops = fc.ops


# ---- elementwise, reductions ---------------------------------------------------------------------------------

UNARY = "neg abs exp expm1 sqrt rsqrt square reciprocal sin cos erf atan log log1p log2 sign floor ceil round".split()


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
            lambda x: getattr(torch, name)(x, dim, correction=c, keepdim=keep),
            [x],
            f"{name} {dim} {c} {keep}",
            True,
            scale=4,
        )
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
