"""Random parity with PyTorch: every op family of fuzz_cases.py on random shapes, options and memory layouts.

Values, gradients and second gradients, float32 and float64, every ISA of the machine, eager and compiled. Seeded and
short by default; FASTCNN_FUZZ_ITERATIONS=n runs n cases per family and ISA, FASTCNN_FUZZ_SEED moves the start. A
failure names the family and seed: `FASTCNN_FUZZ_SEED=s FASTCNN_FUZZ_ITERATIONS=1` repeats it.
"""

from __future__ import annotations

import os
import warnings
import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastcnn  # noqa: E402
from fastcnn import _core as fc  # noqa: E402
from fuzz_cases import FAMILIES  # noqa: E402
from torch_compare import ISAS, isa, to_numpy  # noqa: E402, F401

# The reference kernels are slow and fixed: few cases of them.
ITERATIONS = {name: int(os.environ.get("FASTCNN_FUZZ_ITERATIONS", 4 if name == "ref" else 12)) for name in ISAS}
START = int(os.environ.get("FASTCNN_FUZZ_SEED", 0))
TOLERANCE = {"float32": 3e-5, "float64": 1e-9}


def laid_out(rng, t):
    """The same values as a view of other memory: steps, negative strides, permuted or offset."""
    how = int(rng.integers(5))
    if t.ndim == 0 or how == 0:
        return t
    a = t.numpy()
    if how == 1:  # every second element of a larger tensor
        big = np.zeros([2 * n + 1 for n in a.shape], a.dtype)
        view = big[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    elif how == 2:  # backwards
        view = np.empty_like(a)[tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in a.shape)]
    elif how == 3:
        order = rng.permutation(a.ndim)
        view = np.empty([a.shape[i] for i in order], a.dtype).transpose(np.argsort(order))
    else:  # row-major
        view = np.empty(a.shape, a.dtype, order="C")
    view[...] = a
    return fc.from_numpy(view)


def near(got, want, tolerance, what):
    got, want = to_numpy(got), to_numpy(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, PyTorch has {want.shape}"
    finite = np.abs(want[np.isfinite(want)]) if want.dtype.kind == "f" else np.zeros(0)
    size = max(1.0, float(finite.max())) if finite.size else 1.0
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * size, err_msg=what)


def listed(y):
    return list(y) if isinstance(y, (tuple, list)) else [y]


def derivatives(fn, grad, leaves, weights, seconds, double):
    """Values, gradients, second gradients as lists; grad is the library's, seconds weigh the gradients."""
    values = listed(fn(*leaves))
    wanted = [x for x in leaves if x.requires_grad]
    outputs = [(y, w) for y, w in zip(values, weights, strict=True) if y.requires_grad]
    if not outputs or not wanted:
        return values, [], []
    g = grad([y for y, _ in outputs], wanted, [w for _, w in outputs], create_graph=double, allow_unused=True)
    if not double:
        return values, list(g), []
    s = [(a, v) for a, v in zip(g, seconds, strict=True) if a is not None and a.requires_grad]
    if not s:
        return values, list(g), [None] * len(wanted)
    h = grad([a for a, _ in s], wanted, [v for _, v in s], allow_unused=True)
    return values, list(g), list(h)


def check(family, seed, compiled):
    rng = np.random.default_rng([seed, zlib.crc32(family.encode())])
    case = FAMILIES[family](rng)
    dtype = case.dtypes[int(rng.integers(len(case.dtypes)))]
    theirs, ours = [], []
    for a in case.arrays:
        a = np.asarray(a)
        t = torch.tensor(a.astype(dtype) if a.dtype.kind == "f" else a)
        x = laid_out(rng, fc.tensor(t.numpy()))
        if a.dtype.kind == "f":
            t.requires_grad_()
            x.requires_grad_()
        theirs.append(t)
        ours.append(x)
    shapes = ", ".join(f"{tuple(x.shape)}/{x.stride()}" for x in ours)
    label = f"{family} seed={seed} {dtype} {case.what} on {shapes}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = listed(case.theirs(*theirs))
        weights = [torch.tensor(rng.standard_normal(y.shape)).to(y.dtype) for y in values]
        seconds = [torch.tensor(rng.standard_normal(t.shape)).to(t.dtype) for t in theirs if t.requires_grad]
        want = derivatives(case.theirs, torch.autograd.grad, theirs, weights, seconds, case.double)
    weights = [laid_out(rng, fc.tensor(w.numpy())) for w in weights]
    seconds = [fc.tensor(v.numpy()) for v in seconds]
    got = derivatives(case.ours, fc.grad, ours, weights, seconds, case.double)
    tolerance = TOLERANCE[dtype] * case.scale
    for kind, a, b in zip(("value", "gradient", "second gradient"), got, want, strict=True):
        assert len(a) == len(b), f"{label}: {len(a)} {kind}s, PyTorch has {len(b)}"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if kind == "value":
                assert str(x.dtype) == str(y.dtype).split(".")[-1], f"{label}: {x.dtype}, PyTorch has {y.dtype}"
            if y is None:
                y = torch.zeros(()) if x is None else torch.zeros(tuple(x.shape))
            if x is None:
                x = fc.tensor(np.zeros(tuple(y.shape), dtype))
            near(x, y, tolerance * (1 if kind == "value" else 4), f"{label}: {kind} {i}")
    if not compiled or not case.compiled:
        return
    # The plan against the eager result of the same kernels.
    step = fastcnn.compile(
        lambda xs, ws: [t for part in derivatives(case.ours, fc.grad, xs, ws, [], False) for t in part]
    )
    plan_out = step([x.detach().requires_grad_(x.requires_grad) for x in ours], weights)
    for i, (x, y) in enumerate(zip(plan_out, [*got[0], *got[1]], strict=True)):
        if x is None or y is None:
            assert x is None and y is None, f"{label}: plan result {i}"
            continue
        near(x, y, 1e-5 if dtype == "float32" else 1e-12, f"{label}: plan result {i}")


@pytest.mark.parametrize("family", FAMILIES)
def test_parity(isa, family):  # noqa: F811
    for seed in range(START, START + ITERATIONS[isa]):
        check(family, seed, compiled=seed % 2 == 0)
