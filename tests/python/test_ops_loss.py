"""Losses: against PyTorch, first and second gradients, finite differences, every ISA; messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile as fc_compile  # noqa: E402
from torch_compare import compare, finite_differences, isa, rand, same  # noqa: E402, F401

ops = fc.ops
F = torch.nn.functional
REDUCTIONS = ["none", "mean", "sum"]


def ids_for(shape, seed=0, ignore=None):
    rng = np.random.default_rng([seed, *shape])
    t = rng.integers(
        0, shape[1] if len(shape) > 1 else shape[0], shape[:1] + shape[2:] if len(shape) > 1 else ()
    )
    if ignore is not None and t.ndim:
        t[rng.uniform(size=t.shape) < 0.3] = ignore
        t.flat[0] = 0
    return t


SHAPES = [(5, 7), (2, 5, 3, 4), (2, 3, 4), (7,), (2, 3, 2, 1, 2), (1, 1), (3, 40)]
OPTIONS = [
    dict(zip(("reduction", "label_smoothing", "weighted", "ignore"), v, strict=True))
    for v in itertools.product(REDUCTIONS, (0.0, 0.2), (False, True), (None, -100, 1))
]


def class_arguments(shape, options, seed=0):
    classes = shape[1] if len(shape) > 1 else shape[0]
    ignore = options["ignore"]
    if ignore is not None and ignore >= classes:
        ignore = -100
    ids = ids_for(shape, seed, ignore)
    kwargs = {"reduction": options["reduction"]}
    if ignore is not None:
        kwargs["ignore_index"] = ignore
    w = rand(classes, low=0.2, high=2) if options["weighted"] else None
    return ids, kwargs, w


def of(library, a, dtype):
    if a is None:
        return None
    return torch.tensor(a).to(getattr(torch, dtype)) if library is torch else fc.tensor(a).to(dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_cross_entropy_of_ids(isa, options):  # noqa: F811
    for shape in SHAPES:
        ids, kwargs, w = class_arguments(shape, options)
        kwargs["label_smoothing"] = options["label_smoothing"]
        compare(
            lambda x, i=ids, k=kwargs, w=w: ops.cross_entropy(
                x, fc.tensor(i), weight=of(fc, w, "float32"), **k
            ),
            lambda x, i=ids, k=kwargs, w=w: F.cross_entropy(
                x, torch.tensor(i), weight=of(torch, w, "float32"), **k
            ),
            [rand(*shape, low=-5, high=5)],
        )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_cross_entropy_second_gradient(options):
    for shape in SHAPES:
        ids, kwargs, w = class_arguments(shape, options, 1)
        kwargs["label_smoothing"] = options["label_smoothing"]
        compare(
            lambda x, i=ids, k=kwargs, w=w: (
                ops.cross_entropy(x, fc.tensor(i), weight=of(fc, w, "float64"), **k) ** 2
            ),
            lambda x, i=ids, k=kwargs, w=w: (
                F.cross_entropy(x, torch.tensor(i), weight=of(torch, w, "float64"), **k) ** 2
            ),
            [rand(*shape, low=-3, high=3)],
            "float64",
            double=True,
        )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_of_probabilities(isa, reduction, smoothing, weighted):  # noqa: F811
    for shape in SHAPES:
        classes = shape[1] if len(shape) > 1 else shape[0]
        w = rand(classes, low=0.2, high=2) if weighted else None
        target = rand(*shape, low=0, high=1, seed=4)
        for dtype in ("float32", "float64"):
            compare(
                lambda x, t, w=w, d=dtype: ops.cross_entropy(
                    x, t, weight=of(fc, w, d), reduction=reduction, label_smoothing=smoothing
                ),
                lambda x, t, w=w, d=dtype: F.cross_entropy(
                    x, t, weight=of(torch, w, d), reduction=reduction, label_smoothing=smoothing
                ),
                [rand(*shape), target],
                dtype,
                double=dtype == "float64",
            )


def test_cross_entropy_extremes(isa):  # noqa: F811
    big = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    ids = np.array([1, 2])
    compare(
        lambda x: ops.cross_entropy(x, fc.tensor(ids)), lambda x: F.cross_entropy(x, torch.tensor(ids)), [big]
    )
    ignored = fc.tensor(np.array([-100, -100]))
    assert np.isnan(ops.cross_entropy(fc.tensor(big), ignored).item())  # as PyTorch: 0 / 0
    assert ops.cross_entropy(fc.tensor(big), ignored, reduction="sum").item() == 0
    half = fc.tensor(big.astype(np.float32)).to("bfloat16").requires_grad_()
    loss = ops.cross_entropy(half, fc.tensor(ids))
    assert str(loss.dtype) == "float32"
    loss.backward()
    assert str(half.grad.dtype) == "bfloat16"
    for t in ("int32", "uint8"):
        got = ops.cross_entropy(fc.tensor(big), fc.tensor(ids).to(t))
        same(got, F.cross_entropy(torch.tensor(big), torch.tensor(ids)), 1e-6, 0)


@pytest.mark.parametrize(
    "options", [o for o in OPTIONS if o["label_smoothing"] == 0], ids=lambda o: "-".join(map(str, o.values()))
)
def test_nll_loss(isa, options):  # noqa: F811
    for shape in SHAPES:
        ids, kwargs, w = class_arguments(shape, options, 2)
        compare(
            lambda x, i=ids, k=kwargs, w=w: ops.nll_loss(x, fc.tensor(i), weight=of(fc, w, "float64"), **k),
            lambda x, i=ids, k=kwargs, w=w: F.nll_loss(
                x, torch.tensor(i), weight=of(torch, w, "float64"), **k
            ),
            [rand(*shape)],
            "float64",
        )


PAIRED = {
    "mse": (lambda x, t, r: ops.mse_loss(x, t, reduction=r), lambda x, t, r: F.mse_loss(x, t, reduction=r)),
    "l1": (lambda x, t, r: ops.l1_loss(x, t, reduction=r), lambda x, t, r: F.l1_loss(x, t, reduction=r)),
    "smooth_l1": (
        lambda x, t, r: ops.smooth_l1_loss(x, t, reduction=r, beta=0.7),
        lambda x, t, r: F.smooth_l1_loss(x, t, reduction=r, beta=0.7),
    ),
    "smooth_l1 beta 0": (
        lambda x, t, r: ops.smooth_l1_loss(x, t, reduction=r, beta=0),
        lambda x, t, r: F.smooth_l1_loss(x, t, reduction=r, beta=0),
    ),
    "huber": (
        lambda x, t, r: ops.huber_loss(x, t, reduction=r, delta=0.7),
        lambda x, t, r: F.huber_loss(x, t, reduction=r, delta=0.7),
    ),
    "bce": (
        lambda x, t, r: ops.binary_cross_entropy_with_logits(x * 9, t.sigmoid(), reduction=r),
        lambda x, t, r: F.binary_cross_entropy_with_logits(x * 9, t.sigmoid(), reduction=r),
    ),
    "kl_div": (
        lambda x, t, r: ops.kl_div(x, t.sigmoid(), reduction=r),
        lambda x, t, r: F.kl_div(x, t.sigmoid(), reduction=r),
    ),
    "kl_div log": (
        lambda x, t, r: ops.kl_div(x, t, reduction=r, log_target=True),
        lambda x, t, r: F.kl_div(x, t, reduction=r, log_target=True),
    ),
}


@pytest.mark.filterwarnings("ignore:reduction.*mean")  # PyTorch, about kl_div
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", PAIRED)
def test_paired_losses(isa, name, reduction):  # noqa: F811
    ours, theirs = PAIRED[name]
    for shape in [(4, 5), (2, 3, 4, 5), (), (6,)]:
        arrays = [rand(*shape), rand(*shape, seed=1)]
        compare(lambda x, t: ours(x, t, reduction), lambda x, t: theirs(x, t, reduction), arrays)
        compare(
            lambda x, t: ours(x, t, reduction),
            lambda x, t: theirs(x, t, reduction),
            arrays,
            "float64",
            double=not name.startswith("kl"),
        )


FUSED = {
    "mse_loss": {}, "l1_loss": {}, "smooth_l1_loss": {"beta": 0.7}, "huber_loss": {"delta": 0.7},
    "binary_cross_entropy_with_logits": {},
}  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", FUSED)
def test_losses_against_constant_targets_are_one_op(isa, name, reduction):  # noqa: F811
    kwargs = {"reduction": reduction, **FUSED[name]}
    for shape in [(4, 5), (2, 3, 4, 5), (), (0, 3), (40, 33)]:
        t = rand(*shape, low=0, high=1, seed=1)
        for dtype in ("float32", "float64"):
            compare(
                lambda x, t=t, d=dtype: getattr(ops, name)(x, fc.tensor(t).to(d), **kwargs),
                lambda x, t=t, d=dtype: getattr(F, name)(x, torch.tensor(t).to(getattr(torch, d)), **kwargs),
                [rand(*shape, low=-3, high=3)],
                dtype,
                double=dtype == "float64" and 0 not in shape,
            )
    plan = fc_compile(lambda x, t: getattr(ops, name)(x, t, **kwargs))
    plan(fc.tensor(rand(3, 4)).to("float32"), fc.tensor(rand(3, 4, low=0, high=1)).to("float32"))
    assert [line.split()[1] for line in plan.describe().splitlines()[1:] if line] == ["pointwise_loss"]


def test_integer_and_transposed_targets(isa):  # noqa: F811
    x = rand(4, 3)
    got = ops.mse_loss(fc.tensor(x), fc.tensor(np.arange(12).reshape(3, 4)).transpose(0, 1))
    same(got, F.mse_loss(torch.tensor(x), torch.arange(12).reshape(3, 4).t().double()), 1e-6, 0)


@pytest.mark.parametrize("name", PAIRED)
def test_paired_finite_differences(name):
    ours, _ = PAIRED[name]
    finite_differences(lambda x, t: ours(x, t, "mean"), [rand(2, 3), rand(2, 3, seed=1)], tolerance=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_logits_of_one_sample_as_a_view(loss):
    x = np.random.default_rng(0).standard_normal((5, 3))
    ours, theirs = fc.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    for lib, t in ((ops, ours), (F, theirs)):
        getattr(lib, loss)(t[:, 1], fc.tensor(4) if lib is ops else torch.tensor(4)).backward()
    same(ours.grad, theirs.grad, 1e-12, 1e-12)


def test_cross_entropy_finite_differences():
    w = fc.tensor(rand(4, low=0.2, high=2))
    for reduction, smoothing in itertools.product(REDUCTIONS, (0, 0.1)):
        finite_differences(
            lambda x, r=reduction, s=smoothing: ops.cross_entropy(
                x, fc.tensor([1, 3, -100]), weight=w, reduction=r, label_smoothing=s
            ),
            [rand(3, 4)],
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bce_weights(isa, reduction):  # noqa: F811
    w, p = rand(3, 4, low=0.1, high=2), rand(4, low=0.5, high=3)
    for kwargs in ({"weight": w}, {"pos_weight": p}, {"weight": w, "pos_weight": p}):
        compare(
            lambda x, t, k=kwargs: ops.binary_cross_entropy_with_logits(
                x, t, reduction=reduction, **{n: fc.tensor(v) for n, v in k.items()}
            ),
            lambda x, t, k=kwargs: F.binary_cross_entropy_with_logits(
                x, t, reduction=reduction, **{n: torch.tensor(v) for n, v in k.items()}
            ),
            [rand(3, 4, low=-6, high=6), rand(3, 4, low=0, high=1, seed=3)],
            "float64",
            double=True,
        )


def test_bce_of_huge_logits(isa):  # noqa: F811
    x = np.array([-1e4, -100, -30, 0, 30, 100, 1e4])
    for target in (0.0, 1.0):
        compare(
            lambda x, t=target: ops.binary_cross_entropy_with_logits(
                x, ops.full_like(x, t), reduction="none"
            ),
            lambda x, t=target: F.binary_cross_entropy_with_logits(
                x, torch.full_like(x, t), reduction="none"
            ),
            [x],
            atol=1e-5,
        )


def test_kl_div_at_zero_and_batchmean(isa):  # noqa: F811
    t = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    compare(
        lambda x: ops.kl_div(x, fc.tensor(t).to(x.dtype), reduction="batchmean"),
        lambda x: F.kl_div(x, torch.tensor(t).to(x.dtype), reduction="batchmean"),
        [rand(2, 3, low=-3, high=-0.1)],
    )


def test_training_step_drives_the_loss_down():
    ops.manual_seed(0)
    x, w = ops.randn(32, 5), ops.zeros(5, 3, requires_grad=True)
    y = (x @ ops.randn(5, 3)).argmax(1)
    losses = []
    for _ in range(60):
        w.grad = None
        loss = ops.cross_entropy(x @ w, y)
        loss.backward()
        was = fc.set_grad_enabled(False)
        w -= w.grad * 0.5
        fc.set_grad_enabled(was)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(3), rel=1e-5) and losses[-1] < 0.35


X = lambda: ops.zeros(4, 3)  # noqa: E731
MESSAGES = [
    (
        lambda: ops.cross_entropy(X(), fc.tensor([0, 1])),
        ValueError,
        r"cross_entropy: expected class ids of shape \(4,\) for input of shape \(4, 3\), got \(2,\)",
    ),
    (
        lambda: ops.cross_entropy(X(), ops.zeros(4)),
        ValueError,
        r"expected probabilities of the shape of logits \(4, 3\) \(or int64 class ids\), got float32",
    ),
    (lambda: ops.cross_entropy(X(), fc.tensor([0, 1, 2, 3])), IndexError, "cross_entropy.*3"),
    (lambda: ops.cross_entropy(X(), fc.tensor([0, 1, 2, -1])), IndexError, "cross_entropy.*-1"),
    (
        lambda: ops.cross_entropy(X(), fc.tensor([0, 1, 2, 0]), weight=ops.ones(4)),
        ValueError,
        r"expected a weight of shape \(3,\), got \(4,\)",
    ),
    (
        lambda: ops.cross_entropy(X(), fc.tensor([0, 1, 2, 0]), reduction="avg"),
        ValueError,
        "cross_entropy: expected reduction none, mean or sum, got 'avg'",
    ),
    (
        lambda: ops.cross_entropy(X(), fc.tensor([0, 1, 2, 0]), label_smoothing=1.5),
        ValueError,
        "label_smoothing",
    ),
    (lambda: ops.cross_entropy(fc.tensor([[1, 2]]), fc.tensor([0])), TypeError, "floating input, got int64"),
    (lambda: ops.cross_entropy(X(), fc.tensor([True] * 4)), TypeError, "int64 class ids as target, got bool"),
    (
        lambda: ops.nll_loss(X(), fc.tensor([0, 1, 2, 3])),
        IndexError,
        r"nll_loss: expected class ids in \[0, 3\).*got 3",
    ),
    (lambda: ops.nll_loss(X(), fc.tensor([0, 1, 2, -1])), IndexError, "got -1"),
    (
        lambda: ops.mse_loss(X(), ops.zeros(4)),
        ValueError,
        r"mse_loss: expected a target of shape \(4, 3\), got \(4,\)",
    ),
    (
        lambda: ops.binary_cross_entropy_with_logits(X(), ops.zeros(4, 1)),
        ValueError,
        r"shape \(4, 3\), got \(4, 1\)",
    ),
    (lambda: ops.smooth_l1_loss(X(), X(), beta=-1), ValueError, "beta >= 0"),
    (lambda: ops.huber_loss(X(), X(), delta=0), ValueError, "delta > 0"),
    (lambda: ops.l1_loss(fc.tensor([1]), fc.tensor([1])), TypeError, "l1_loss: expected a floating input"),
]


@pytest.mark.parametrize("case", range(len(MESSAGES)))
def test_messages(isa, case):  # noqa: F811
    fn, error, message = MESSAGES[case]
    with pytest.raises(error, match=message):
        fn()
