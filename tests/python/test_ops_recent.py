"""Dtypes of results, exact integers, index tensors apart, in-place operators and the other small print, as PyTorch."""

from __future__ import annotations

import operator

import fastcnn as fc
import numpy as np
import pytest
import torch
from torch_compare import same

ops = fc.ops
DTYPES = "bool uint8 int32 int64 bfloat16 float16 float32 float64".split()


def word(dtype):
    return str(dtype).split(".")[-1]


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.truediv], ids=lambda f: f.__name__)
def test_promotion(op):
    for a in DTYPES:
        for b in DTYPES:
            got = op(fc.ones(2, dtype=a), fc.ones(2, dtype=b))
            want = op(torch.ones(2, dtype=getattr(torch, a)), torch.ones(2, dtype=getattr(torch, b)))
            assert word(got.dtype) == word(want.dtype), (a, b)
        for number in (2, 2.5) if a == "bool" else (True, 2, 2.5):
            got = op(fc.ones(2, dtype=a), number)
            want = op(torch.ones(2, dtype=getattr(torch, a)), number)
            assert word(got.dtype) == word(want.dtype), (a, number)


def test_promotion_of_bool_with_a_python_bool():
    for word in (lambda x: x + True, lambda x: True + x, lambda x: x * True, lambda x: x & True, lambda x: x == True):  # noqa: E712
        assert word(fc.ones(2, dtype="bool")).dtype == fc.bool
    assert (fc.ones(2, dtype="bool") + 1).dtype == fc.int64


def test_large_integers_are_exact():
    n = 2**53 + 1
    x = fc.tensor([n, -n])
    assert (x + 2).tolist() == [n + 2, 2 - n] and (x * 3).tolist() == [3 * n, -3 * n]
    assert x.sum().item() == 0 and x.max().item() == n and (x == n).tolist() == [True, False]
    assert fc.full((1,), n).item() == n


def test_index_tensors_apart():
    a = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    i, j = np.array([1, 0]), np.array([3, 2])
    x, t = fc.tensor(a).requires_grad_(), torch.tensor(a, requires_grad=True)
    for key in ((i, slice(None), j), (slice(None), i, slice(1, 3), j), (0, slice(None), i), (i, None, i)):
        ours = tuple(fc.tensor(k) if isinstance(k, np.ndarray) else k for k in key)
        theirs = tuple(torch.tensor(k) if isinstance(k, np.ndarray) else k for k in key)
        y, want = x[ours], t[theirs]
        same(y, want, 0, 0)
        w = torch.randn(want.shape)
        same(fc.grad((y * fc.tensor(w.numpy())).sum(), x)[0], torch.autograd.grad((want * w).sum(), t)[0], 0, 0)


def test_dtype_of_reductions():
    x, t = fc.tensor([1.5, 2.5]), torch.tensor([1.5, 2.5])
    for name in ("sum", "mean", "prod"):
        got, want = getattr(x, name)(dtype=fc.float64), getattr(t, name)(dtype=torch.float64)
        assert got.dtype == fc.float64
        same(got, want, 1e-12, 0)
    assert fc.tensor([True, True]).sum().dtype == fc.int64
    assert fc.tensor([200, 100], dtype="uint8").sum().item() == 300


@pytest.mark.parametrize("correction", [0, 1])
def test_std(correction):
    a = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    for dim in (None, 0, -1, (0, 2)):
        same(fc.tensor(a).std(dim, correction=correction), torch.tensor(a).std(dim, correction=correction), 1e-6, 0)


def test_squeeze_of_many_dims():
    assert fc.zeros(1, 2, 1, 3, 1).squeeze((0, 2)).shape == (2, 3, 1)
    assert fc.zeros(1, 2, 1, 3, 1).squeeze().shape == (2, 3)
    assert fc.zeros(1, 2, 1, 3, 1).squeeze((1, -1)).shape == (1, 2, 1, 3)


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv"])
def test_in_place_operators(name):
    op = getattr(operator, name)
    for other in (2.0, [1.0, 2.0, 4.0]):
        x, t = fc.ones(2, 3), torch.ones(2, 3)
        before = x
        x = op(x, fc.tensor(other) if isinstance(other, list) else other)
        t = op(t, torch.tensor(other) if isinstance(other, list) else other)
        assert x is before
        same(x, t, 0, 0)


def test_format():
    assert f"{fc.tensor(1.23456):.2f}" == "1.23" and f"{fc.tensor(7):03d}" == "007"
    assert f"{fc.zeros(2)}" == repr(fc.zeros(2))


def test_likes():
    x = fc.zeros(2, 3, dtype="float64")
    for make in (ops.zeros_like, ops.ones_like, ops.empty_like, ops.rand_like, ops.randn_like):
        y = make(x)
        assert y.shape == (2, 3) and y.dtype == fc.float64, make
        assert make(x, dtype=fc.float32).dtype == fc.float32
    assert ops.full_like(x, 3).tolist() == [[3] * 3] * 2


def test_dlpack_both_ways_shares_memory():
    t = torch.arange(6.0).reshape(2, 3)
    x = fc.from_dlpack(t)
    t[0, 0] = 9
    assert x[0, 0].item() == 9
    back = torch.from_dlpack(x)
    assert back.data_ptr() == t.data_ptr()
    same(fc.from_dlpack(torch.ones(2, dtype=torch.bfloat16)), torch.ones(2), 0, 0)
    with pytest.raises((ValueError, TypeError, BufferError)):
        fc.from_dlpack(torch.ones(2, dtype=torch.complex64))
    assert x.__dlpack_device__() == (1, 0)
    assert torch.from_dlpack(fc.from_dlpack(t.T)).stride() == t.T.stride()
    n = np.arange(6.0, dtype=np.float32)
    n.flags.writeable = False
    y = fc.from_dlpack(n, device="cpu", copy=False)
    assert np.shares_memory(np.from_dlpack(y), n)
    with pytest.raises(ValueError, match="read-only"):
        y.add_(1.0)
    fc.from_dlpack(n, copy=True).add_(1.0)
    assert n[0] == 0
    if not fc.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA"):
            fc.from_dlpack(n, device="cuda")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_targets_ignored(reduction):
    """The mean of nothing is NaN; its second gradient is 0, as PyTorch's."""
    a, v = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    x, t = fc.tensor(a).requires_grad_(), torch.tensor(a, requires_grad=True)
    got = ops.cross_entropy(x, fc.tensor([-100] * 3), reduction=reduction)
    want = torch.nn.functional.cross_entropy(t, torch.tensor([-100] * 3), reduction=reduction)
    same(got, want, 0, 0)
    g, gt = fc.grad(got.sum(), x, create_graph=True)[0], torch.autograd.grad(want.sum(), t, create_graph=True)[0]
    same(g, gt, 0, 0)
    h = fc.grad((g * fc.tensor(v)).sum(), x)[0]
    ht = torch.autograd.grad((gt * torch.tensor(v)).sum(), t)[0]
    same(h, ht, 0, 0)
