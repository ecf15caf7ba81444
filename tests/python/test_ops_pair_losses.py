"""Losses of probabilities, scores, rates and distances: against PyTorch to second order, plans, bounds, messages."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastcnn  # noqa: E402
from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile as fc_compile  # noqa: E402
from fastcnn import nn  # noqa: E402
from torch_compare import compare, isa, rand, same  # noqa: E402, F401

ops = fc.ops
F = torch.nn.functional
REDUCTIONS = ["none", "mean", "sum"]


def signs(*shape, seed=0):
    return np.where(rand(*shape, seed=seed) > 0, 1, -1)


UNIT = rand(4, 5, low=0.05, high=0.95)
WEIGHT = rand(5, low=0.3, high=2, seed=9)
IDS = np.array([0, 3, 4, 1])
# name: (arguments; floating ones have gradients, keywords, keywords that are weights)
CASES = {
    "binary_cross_entropy": [
        ([UNIT, rand(4, 5, low=0, high=1, seed=1)], {}, False),
        ([UNIT, rand(4, 5, low=0, high=1, seed=1)], {}, True),
        ([rand(low=0.1, high=0.9), rand(low=0, high=1)], {}, False),
    ],
    "soft_margin_loss": [([rand(4, 5, high=30), signs(4, 5)], {}, False)],
    "multilabel_soft_margin_loss": [
        ([rand(4, 5), rand(4, 5, low=0, high=1, seed=1)], {}, False),
        ([rand(2, 4, 5), rand(2, 4, 5, low=0, high=1, seed=1)], {}, True),
    ],
    "multi_margin_loss": [
        ([rand(4, 5), IDS], {}, False),
        ([rand(4, 5), IDS], dict(p=2, margin=0.7), True),
        ([rand(4, 5), IDS], dict(p=1), True),
        ([rand(5), np.array(2)], {}, False),
    ],
    "poisson_nll_loss": [
        ([rand(4, 5), rand(4, 5, low=0, high=4, seed=1)], {}, False),
        ([rand(4, 5), rand(4, 5, low=0.1, high=4, seed=1)], dict(full=True), False),
        ([rand(4, 5, low=0.1), rand(4, 5, low=0, high=4, seed=1)], dict(log_input=False, eps=1e-3), False),
    ],
    "gaussian_nll_loss": [
        ([rand(4, 5), rand(4, 5, seed=1), rand(4, 5, low=0.1, seed=2)], {}, False),
        ([rand(4, 5), rand(4, 5, seed=1), rand(4, low=0.1, seed=2)], dict(full=True), False),
        ([rand(4, 5), rand(4, 5, seed=1), rand(4, 1, low=0, high=0.2, seed=2)], dict(eps=0.1), False),
    ],
    "triplet_margin_loss": [
        ([rand(4, 5), rand(4, 5, seed=1), rand(4, 5, seed=2)], {}, False),
        ([rand(4, 5), rand(4, 5, seed=1), rand(4, 5, seed=2)], dict(swap=True, margin=0.5, p=3), False),
        ([rand(5), rand(5, seed=1), rand(5, seed=2)], dict(p=1, eps=1e-3), False),
        ([rand(2, 3, 5), rand(2, 3, 5, seed=1), rand(1, 3, 5, seed=2)], dict(margin=3), False),
    ],
    "margin_ranking_loss": [
        ([rand(9), rand(9, seed=1), signs(9)], {}, False),
        ([rand(4, 5), rand(4, 5, seed=1), signs(4, 1)], dict(margin=0.4), False),
    ],
    "hinge_embedding_loss": [
        ([rand(4, 5), signs(4, 5)], {}, False),
        ([rand(7), np.array([1, -1, 0, 1, 2, -1, 1])], dict(margin=0.3), False),
    ],
    "cosine_embedding_loss": [
        ([rand(6, 5), rand(6, 5, seed=1), signs(6)], {}, False),
        ([rand(6, 5), rand(6, 5, seed=1), signs(6)], dict(margin=-0.5), False),
        ([rand(5), rand(5, seed=1), np.array(-1)], dict(margin=-1), False),
    ],
}
NO_SECOND = {"multi_margin_loss"}  # in PyTorch
ROWS = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


def weight_of(library, dtype):
    w = torch.tensor(WEIGHT).to(getattr(torch, dtype))
    return w if library is torch else fc.tensor(w.double().numpy()).to(dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name, row", ROWS, ids=[f"{n}-{i}" for n, i in ROWS])
def test_loss_is_torchs(name, row, reduction):
    arrays, kwargs, weighted = CASES[name][row]
    for dtype in ("float32", "float64"):
        theirs = dict(kwargs, weight=weight_of(torch, dtype)) if weighted else kwargs
        ours = dict(kwargs, weight=weight_of(fc, dtype)) if weighted else kwargs
        compare(
            lambda *t, k=ours: getattr(ops, name)(*t, reduction=reduction, **k),
            lambda *t, k=theirs: getattr(F, name)(*t, reduction=reduction, **k),
            arrays,
            dtype,
            double=dtype == "float64" and name not in NO_SECOND,
            rtol=1e-9 if (dtype, name) == ("float64", "binary_cross_entropy") else None,  # PyTorch adds 1e-12 there
        )


@pytest.mark.parametrize("name, row", ROWS, ids=[f"{n}-{i}" for n, i in ROWS])
def test_loss_compiled_and_of_bfloat16(name, row):
    arrays, kwargs, _ = CASES[name][row]
    t = [fc.tensor(a) if a.dtype.kind == "i" else fc.tensor(a).to("float32") for a in arrays]
    fn = lambda *t: getattr(ops, name)(*t, **kwargs)  # noqa: E731

    def step(*t):
        t = [x.detach().requires_grad_() if x.dtype.is_floating_point else x for x in t]
        y = fn(*t)
        return y, *fc.grad(y, [x for x in t if x.requires_grad])

    for got, want in zip(fc_compile(step)(*t), step(*t), strict=True):
        same(got, want, 1e-6, 1e-7)
    # 16-bit values are taken to float32 first, as in the other losses.
    half = [x.to("bfloat16") if x.dtype.is_floating_point else x for x in t]
    y = fn(*half)
    assert y.dtype == fc.float32
    same(y, fn(*[x.to("float32") if x.dtype.is_floating_point else x for x in half]), 1e-6, 1e-7)


def test_losses_on_every_isa(isa):  # noqa: F811
    for name, cases in CASES.items():
        arrays, kwargs, _ = cases[0]
        compare(
            lambda *t, n=name, k=kwargs: getattr(ops, n)(*t, **k),
            lambda *t, n=name, k=kwargs: getattr(F, n)(*t, **k),
            arrays,
        )


def test_binary_cross_entropy_of_0_and_1():
    x = np.array([0.0, 1, 0, 1, 1e-30, 0.5])
    t = np.array([0.0, 1, 1, 0, 1, 0.3])
    for dtype in ("float32", "float64"):
        compare(
            lambda x: ops.binary_cross_entropy(x, fc.tensor(t).to(dtype), reduction="none"),
            lambda x: F.binary_cross_entropy(x, torch.tensor(t).to(x), reduction="none"),
            [x],
            dtype,
            rtol=1e-8 if dtype == "float64" else None,  # PyTorch's 1e-12 is a float32
        )


def test_gaussian_variance_as_a_number():
    x, t = rand(4, 5), rand(4, 5, seed=1)
    compare(
        lambda x: ops.gaussian_nll_loss(x, fc.tensor(t), 0.3),
        lambda x: F.gaussian_nll_loss(x, torch.tensor(t), 0.3),
        [x],
        "float64",
        double=True,
    )


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 0.5, float("inf")])
def test_pairwise_distance(p):
    for a, b, keepdim in [((4, 5), (4, 5), False), ((5,), (4, 5), True), ((2, 1, 5), (3, 5), False)]:
        compare(
            lambda x, y, k=keepdim: ops.pairwise_distance(x, y, p, keepdim=k),
            lambda x, y, k=keepdim: F.pairwise_distance(x, y, p, keepdim=k),
            [rand(*a), rand(*b, seed=1)],
            "float64",
            double=p in (2, 3),
        )
    half = fc.tensor(rand(4, 5)).to("bfloat16")
    assert ops.pairwise_distance(half, half).dtype == fc.bfloat16
    same(nn.PairwiseDistance(keepdim=True)(half, -half), ops.pairwise_distance(half, -half, keepdim=True), 0, 0)


def test_cosine_similarity():
    zero = rand(4, 5)
    zero[1] = 0
    cases = [((4, 5), (4, 5), 1), ((2, 4, 5, 3), (4, 5, 1), 2), ((2, 4, 5, 3), (4, 5, 3), -3), ((5,), (5,), 0)]
    for a, b, dim in cases:
        compare(
            lambda x, y, d=dim: ops.cosine_similarity(x, y, d),
            lambda x, y, d=dim: F.cosine_similarity(x, y, d),
            [rand(*a), rand(*b, seed=1)],
            "float64",
            double=True,
        )
    for eps in (1e-8, 0.5, 3.0):
        x, y = zero, rand(4, 5, seed=1)
        compare(
            lambda x, y, e=eps: ops.cosine_similarity(x, y, eps=e),
            lambda x, y, e=eps: F.cosine_similarity(x, y, eps=e),
            [x, y],
        )
    half = fc.tensor(rand(4, 5)).to("bfloat16")
    assert nn.CosineSimilarity()(half, half).dtype == fc.bfloat16


X, T = fastcnn.ones((2, 3)), fastcnn.ones((2, 3))
BAD = [
    (lambda: ops.binary_cross_entropy(X * 2, T), ValueError, "binary_cross_entropy: expected probabilities between"),
    (lambda: ops.binary_cross_entropy(X, T * -1), ValueError, "binary_cross_entropy: expected targets between 0 and 1"),
    (lambda: ops.binary_cross_entropy(X, T[0]), ValueError, r"target of shape \(2, 3\), got \(3,\)"),
    (lambda: ops.binary_cross_entropy(X, T, T[None]), ValueError, "weight of shape"),
    (lambda: ops.multi_margin_loss(X, fc.tensor([0, 3])), IndexError, r"multi_margin_loss: expected class ids in"),
    (lambda: ops.multi_margin_loss(X, fc.tensor([0, 1]), p=3), ValueError, "p 1 or 2, got 3"),
    (lambda: ops.multi_margin_loss(X[None], fc.tensor([0])), ValueError, r"scores \(N, C\) or \(C\)"),
    (lambda: ops.multilabel_soft_margin_loss(X, T, weight=T), ValueError, r"weight of shape \(3,\)"),
    (lambda: ops.poisson_nll_loss(X, T[0]), ValueError, "poisson_nll_loss"),
    (lambda: ops.gaussian_nll_loss(X, T, T[0, :2] * -1), ValueError, "variances >= 0, got -1"),
    (lambda: ops.gaussian_nll_loss(X, T, T[0]), ValueError, "expected a variance of the input's shape"),
    (lambda: ops.gaussian_nll_loss(X, T, "1"), TypeError, "tensor or a number, got str"),
    (lambda: ops.triplet_margin_loss(X, T, T[0]), ValueError, "triplet_margin_loss: expected three tensors"),
    (lambda: ops.triplet_margin_loss(X, T, T[:, :2]), ValueError, "triplet_margin_loss: expected shapes that broad"),
    (lambda: ops.triplet_margin_loss(X, T, T, margin=0), ValueError, "margin > 0"),
    (lambda: nn.TripletMarginLoss(margin=0), ValueError, "margin > 0"),
    (lambda: nn.MultiMarginLoss(p=3), ValueError, "p 1 or 2"),
    (lambda: nn.BCELoss(reduction="all"), ValueError, "reduction"),
    (lambda: ops.margin_ranking_loss(X, T, T[0]), ValueError, "margin_ranking_loss: expected three tensors of one"),
    (lambda: ops.margin_ranking_loss(X, T[:, :2], T), ValueError, "margin_ranking_loss: expected shapes"),
    (lambda: ops.cosine_embedding_loss(X, T, T), ValueError, r"expected vectors \(N, D\)"),
    (lambda: ops.cosine_similarity(X, T, dim=2), IndexError, "cosine_similarity"),
    (lambda: ops.pairwise_distance(X, T[:, :2]), ValueError, "pairwise_distance: expected shapes that broadcast"),
    (lambda: ops.soft_margin_loss(fc.tensor([1, 2]), fc.tensor([1, 1])), TypeError, "soft_margin_loss"),
    (lambda: ops.hinge_embedding_loss(X, T[0]), ValueError, "hinge_embedding_loss"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


LAYERS = [
    ("BCELoss", dict(weight="w", reduction="sum"), "binary_cross_entropy", 0),
    ("SoftMarginLoss", dict(reduction="none"), "soft_margin_loss", 0),
    ("MultiLabelSoftMarginLoss", dict(weight="w"), "multilabel_soft_margin_loss", 0),
    ("MultiMarginLoss", dict(p=2, margin=0.5, weight="w"), "multi_margin_loss", 0),
    ("PoissonNLLLoss", dict(log_input=False, full=True, eps=1e-2), "poisson_nll_loss", 2),
    ("GaussianNLLLoss", dict(full=True, eps=1e-2), "gaussian_nll_loss", 0),
    ("TripletMarginLoss", dict(margin=0.5, p=1.0, eps=1e-3, swap=True), "triplet_margin_loss", 0),
    ("MarginRankingLoss", dict(margin=0.5), "margin_ranking_loss", 0),
    ("HingeEmbeddingLoss", dict(margin=0.5), "hinge_embedding_loss", 0),
    ("CosineEmbeddingLoss", dict(margin=0.5), "cosine_embedding_loss", 0),
]


@pytest.mark.parametrize("name, kwargs, op, row", LAYERS, ids=[r[0] for r in LAYERS])
def test_layer_has_torchs_arguments(name, kwargs, op, row):
    def make(library, module):
        return getattr(module, name)(
            **{k: weight_of(library, "float32") if v == "w" else v for k, v in kwargs.items()}
        )

    ours, theirs = make(fc, nn), make(torch, torch.nn)
    arrays = CASES[op][row][0]
    if op == "binary_cross_entropy":
        arrays = [a[..., :5] for a in arrays]
    compare(ours, theirs, arrays)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert f"reduction={kwargs.get('reduction', 'mean')!r}" in repr(ours)
