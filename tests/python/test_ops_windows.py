"""unfold, fold, max_unpool2d and embedding: against PyTorch to second order, on every ISA, in plans, messages."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile as fc_compile  # noqa: E402
from fastcnn import nn  # noqa: E402
from torch_compare import compare, isa, same  # noqa: E402, F401

ops = fc.ops
F = torch.nn.functional


def rand(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


WINDOWS = [
    (dict(kernel_size=3), (7, 9)),
    (dict(kernel_size=(2, 3), stride=(2, 1), padding=(1, 2)), (6, 5)),
    (dict(kernel_size=2, dilation=(2, 3), stride=3, padding=1), (9, 10)),
    (dict(kernel_size=1, stride=2), (5, 4)),
    (dict(kernel_size=(4, 5)), (4, 5)),
]


@pytest.mark.parametrize("options, size", WINDOWS, ids=range(len(WINDOWS)))
def test_unfold_and_fold(isa, options, size):  # noqa: F811
    for batch in ((2, 3), (1, 1), (5,)):
        for dtype in ("float32", "float64"):
            compare(
                lambda x: ops.unfold(x, **options),
                lambda x: F.unfold(x, **options),
                [rand(*batch, *size)],
                dtype,
            )
            columns = F.unfold(torch.zeros(*batch, *size), **options).shape
            compare(
                lambda x: ops.fold(x, size, **options) ** 2,
                lambda x: F.fold(x, size, **options) ** 2,
                [rand(*columns)],
                dtype,
                double=True,
            )


def test_windows_of_infinities_stay_apart():
    x = rand(1, 2, 6, 6)
    x[0, 0, 2, 3] = np.inf
    x[0, 1, 4, 4] = np.nan
    compare(lambda x: ops.unfold(x, 3), lambda x: F.unfold(x, 3), [x])
    t = fc.tensor(rand(2, 4, 5, 5)).to("bfloat16")
    assert ops.unfold(t, 3, padding=1).dtype == fc.bfloat16
    ones = ops.ones((1, 9, 16), dtype="bfloat16")
    assert ops.fold(ones, (6, 6), 3).numpy().max() == 9


def test_windows_compiled():
    x = fc.tensor(rand(2, 3, 6, 7)).to("float32")

    def step(x):
        x = x.detach().requires_grad_()
        y = nn.Fold((6, 7), 3, padding=1)(nn.Unfold(3, padding=1)(x * x))
        return y, *fc.grad((y * y).sum(), [x])

    for got, want in zip(fc_compile(step)(x), step(x), strict=True):
        same(got, want, 1e-6, 1e-6)


UNPOOL = [((2, 3, 8, 6), (2,)), ((2, 3, 9, 11), (3, 2, 1)), ((4, 8, 8), ((2, 4),)), ((1, 2, 7, 7), (3, 1))]


@pytest.mark.parametrize("shape, window", UNPOOL, ids=range(len(UNPOOL)))
def test_max_unpool(isa, shape, window):  # noqa: F811
    a = rand(*shape)
    pooled, indices = F.max_pool2d(torch.tensor(a), *window, return_indices=True)
    sizes = [None] if window == (3, 1) else [None, shape[-2:]] if len(shape) == 3 else [None, shape[-2:], shape]
    for size in sizes:
        for dtype in ("float32", "float64"):
            compare(
                lambda x, i, s=size: nn.MaxUnpool2d(*window)(x, i, s) ** 2,
                lambda x, i, s=size: torch.nn.MaxUnpool2d(*window)(x, i, s) ** 2,
                [pooled.numpy(), indices.numpy()],
                dtype,
                double=True,
            )
    ours = ops.max_pool2d(fc.tensor(a), *window, return_indices=True)
    same(ours[1], indices, 0, 0)
    compiled = fc_compile(lambda x, i: ops.max_unpool2d(x, i, *window))
    same(compiled(*ours), ops.max_unpool2d(*ours, *window), 0, 0)


def test_embedding_is_torchs(isa):  # noqa: F811
    ids = np.array([[1, 4, 1], [0, 1, 3]])
    for padding_idx in (None, 1, -1):
        for dtype in ("float32", "float64"):
            for i in (ids, ids[0], ids[0, 0], ids[None, :, :, None], np.zeros((0, 2), np.int64)):
                compare(
                    lambda w, i=i: ops.embedding(fc.tensor(i), w, padding_idx) ** 2,
                    lambda w, i=i: F.embedding(torch.tensor(i), w, padding_idx) ** 2,
                    [rand(5, 3)],
                    dtype,
                    double=i.size > 0,
                )


def test_embedding_layer():
    ops.manual_seed(0)
    layer = nn.Embedding(1000, 16, padding_idx=-1)
    w = layer.weight.numpy()
    assert layer.padding_idx == 999 and not w[999].any() and abs(w[:999].std() - 1) < 0.03
    theirs = torch.nn.Embedding(1000, 16, padding_idx=-1)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in layer.state_dict().items()})
    ids = np.random.default_rng(0).integers(0, 1000, (4, 50))
    ids[0, :3] = 999

    def step(ids):
        y = layer(ids)
        (y * y).sum().backward()
        return y

    for run in (step, fc_compile(step)):
        layer.zero_grad()
        y, want = run(fc.tensor(ids)), theirs(torch.tensor(ids))
        same(y, want, 0, 0)
        theirs.zero_grad()
        (want**2).sum().backward()
        same(layer.weight.grad, theirs.weight.grad, 1e-6, 1e-6)
    assert repr(layer) == "Embedding(1000, 16, padding_idx=999)"
    table = fc.tensor(rand(4, 3))
    kept = nn.Embedding.from_pretrained(table)
    assert not kept.weight.requires_grad and kept.weight.dtype == fc.float64
    same(kept(fc.tensor([3, 0])), table[fc.tensor([3, 0])], 0, 0)
    assert nn.Embedding.from_pretrained(rand(4, 3), freeze=False).weight.requires_grad
    assert nn.Embedding(3, 2, dtype="bfloat16")(fc.tensor([1])).dtype == fc.bfloat16


X = ops.ones((2, 3, 4, 5))
I = ops.zeros((2, 3, 4, 5), dtype="int64")
BAD = [
    (lambda: ops.unfold(X[0, 0], 2), ValueError, r"unfold: expected x of shape \(N, C, H, W\)"),
    (lambda: ops.unfold(X, 6), ValueError, r"unfold: a window of \(6, 6\) pixels is larger than the padded image of"),
    (lambda: ops.unfold(X, 2, stride=0), ValueError, "unfold: expected stride >= 1"),
    (lambda: ops.unfold(X, (1, 2, 3)), TypeError, "unfold: expected kernel_size"),
    (lambda: ops.unfold(I, 2), TypeError, "unfold: expected x of a floating dtype"),
    (lambda: ops.fold(X, (4, 5), 2), ValueError, r"fold: expected x of shape \(N, C \* kH \* kW, L\)"),
    (lambda: ops.fold(ops.ones((2, 8, 11)), (4, 5), 2), ValueError, "fold: expected x with a multiple of 4 rows"),
    (lambda: ops.fold(ops.ones((2, 7, 12)), (4, 5), 2), ValueError, "fold: expected x with a multiple of 4 rows"),
    (lambda: ops.max_unpool2d(X, I + 80, 2), IndexError, r"max_unpool2d: expected indices in \[0, 80\)"),
    (lambda: ops.max_unpool2d(X, I - 1, 2), IndexError, r"max_unpool2d: expected indices in \[0, 80\).*got -1"),
    (lambda: ops.max_unpool2d(X, I[0], 2), ValueError, r"max_unpool2d: expected indices of shape \(2, 3, 4, 5\)"),
    (lambda: ops.max_unpool2d(X, X, 2), TypeError, "max_unpool2d: expected int64 indices, got float32"),
    (lambda: ops.max_unpool2d(X, I, 2, output_size=(12, 10)), ValueError, "max_unpool2d: expected an output_size less"),
    (lambda: fc_compile(lambda x, i: ops.max_unpool2d(x, i, 2))(X, I + 80), IndexError, "index_put: expected indices"),
    (lambda: ops.embedding(fc.tensor([0, 5]), ops.ones((5, 2))), IndexError, r"ids in \[0, 5\), got 5"),
    (lambda: ops.embedding(fc.tensor([-1]), ops.ones((5, 2))), IndexError, r"ids in \[0, 5\), got -1"),
    (lambda: fc_compile(lambda i: ops.embedding(i, ops.ones((5, 2))))(fc.tensor([-1])), IndexError, "expected indices"),
    (lambda: ops.embedding(X, ops.ones((5, 2))), TypeError, "embedding: expected an integer index, got float32"),
    (lambda: ops.embedding(I, X), ValueError, r"embedding: expected a weight \(V, D\)"),
    (lambda: ops.embedding(I, ops.ones((5, 2)), 5), ValueError, r"embedding: expected padding_idx in \[-5, 5\), got 5"),
    (lambda: nn.Embedding(0, 3), ValueError, "Embedding: expected num_embeddings"),
    (lambda: nn.Embedding(3, 3, padding_idx=3), ValueError, "Embedding: expected padding_idx"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
