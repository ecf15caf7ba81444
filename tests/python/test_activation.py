"""Activations, softmax, dropout: PyTorch to second order, kinks and infinities, statistics of masks."""

import math

import numpy as np
import pytest
from fastcnn import compile as compile_function
from nn_check import (
    BEST,
    TOLERANCE,
    array,
    assert_close,
    check_against_torch,
    check_finite_differences,
    core,
    distinct,
    each_backend,
    each_isa,
    ops,
    randn,
    tensor,
    torch,
    use_isa,
)

F = torch.nn.functional

ACTIVATIONS = {
    "relu": (ops.relu, F.relu),
    "relu6": (ops.relu6, F.relu6),
    "leaky_relu": (ops.leaky_relu, F.leaky_relu),
    "leaky_relu 0.2": (lambda x: ops.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "elu": (ops.elu, F.elu),
    "elu 0.7": (lambda x: ops.elu(x, alpha=0.7), lambda x: F.elu(x, alpha=0.7)),
    "selu": (ops.selu, F.selu),
    "celu": (ops.celu, F.celu),
    "celu 2": (lambda x: ops.celu(x, 2), lambda x: F.celu(x, 2)),
    "gelu": (ops.gelu, F.gelu),
    "gelu tanh": (lambda x: ops.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (ops.silu, F.silu),
    "mish": (ops.mish, F.mish),
    "hardswish": (ops.hardswish, F.hardswish),
    "hardsigmoid": (ops.hardsigmoid, F.hardsigmoid),
    "hardtanh": (ops.hardtanh, F.hardtanh),
    "hardtanh -0.3 2": (lambda x: ops.hardtanh(x, -0.3, 2), lambda x: F.hardtanh(x, -0.3, 2)),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "softplus": (ops.softplus, F.softplus),
    "softplus 2 3": (lambda x: ops.softplus(x, 2, 3), lambda x: F.softplus(x, 2, 3)),
    "softsign": (ops.softsign, F.softsign),
    "logsigmoid": (ops.logsigmoid, F.logsigmoid),
    "softshrink": (ops.softshrink, F.softshrink),
    "softshrink 0.25": (lambda x: ops.softshrink(x, 0.25), lambda x: F.softshrink(x, 0.25)),
    "hardshrink": (ops.hardshrink, F.hardshrink),
    "hardshrink 0.25": (lambda x: ops.hardshrink(x, 0.25), lambda x: F.hardshrink(x, 0.25)),
    "threshold": (lambda x: ops.threshold(x, 1.0, -0.7), lambda x: F.threshold(x, 1.0, -0.7)),
    "rrelu": (ops.rrelu, F.rrelu),
}
each_activation = pytest.mark.parametrize("name", ACTIVATIONS)
# torch 2.13 has no second derivative to compare with: see test_second_derivative_by_differences.
FIRST_ORDER_ONLY = {"hardsigmoid"}


@each_backend
@each_activation
def test_activation(name, dtype, isa):
    fn, torch_fn = ACTIVATIONS[name]
    for shape in [(2, 5, 3, 4), (37,), (2, 3, 7)]:
        # torch's hardsigmoid has 1/6 in float32 precision, also in float64.
        check_against_torch(
            fn,
            torch_fn,
            [distinct(shape)],
            dtype,
            isa,
            second=name not in FIRST_ORDER_ONLY,
            tolerance=1e-7 if (name, dtype) == ("hardsigmoid", "float64") else None,
        )


@each_activation
def test_second_derivative_by_differences(name):
    fn, _ = ACTIVATIONS[name]
    x, one = distinct((41,)), tensor(np.ones(41))

    def first(values, graph=False):
        t = tensor(values, requires_grad=True)
        return t, core.grad([fn(t)], [t], [one], create_graph=graph)[0]

    t, g = first(x, graph=True)
    second = array(core.grad([g], [t], [one])[0]) if g.requires_grad and second_exists(g, t) else np.zeros(41)
    h = 1e-5
    assert_close(second, (array(first(x + h)[1]) - array(first(x - h)[1])) / (2 * h), 1e-6, name)
    check_finite_differences(fn, [x])


def second_exists(g, t):
    return (
        core.grad([g], [t], [tensor(np.ones(g.shape))], retain_graph=True, allow_unused=True)[0] is not None
    )


@pytest.mark.parametrize(
    "isa", sorted({"ref", BEST})
)  # the best ISA stands for the kernels: they have one source
@each_activation
def test_kinks_and_special_values_as_torch(name, isa):
    fn, torch_fn = ACTIVATIONS[name]
    x = np.array(
        [0.0, -0.0, 1, -1, 3, -3, 6, 2, -0.3, np.nan, np.inf, -np.inf, 80, -80, 1e-6, -1e-6, 1e30, -1e30],
        np.float32,
    )
    tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)  # in float32 its gelu is NaN at infinity
    ty = torch_fn(tx)
    (tg,) = torch.autograd.grad(ty, tx, torch.ones_like(ty))
    with use_isa(isa):
        t = tensor(x, "float32", True)
        y = fn(t)
        (g,) = core.grad([y], [t], [tensor(np.ones(len(x)), "float32")])
    np.testing.assert_allclose(array(y), ty.detach().numpy(), rtol=2e-5, atol=1e-30, err_msg=f"{name}: value")
    finite = np.isfinite(x)
    np.testing.assert_allclose(
        array(g)[finite], tg.numpy()[finite], rtol=2e-5, atol=2e-6, err_msg=f"{name}: gradient"
    )


def test_third_derivative_is_refused_or_right():
    """sigmoid and tanh go to any order; the others say that they cannot."""
    for name in ("sigmoid", "tanh", "gelu", "hardswish"):
        fn, torch_fn = ACTIVATIONS[name]
        t = tensor(distinct((9,)), requires_grad=True)
        one = tensor(np.ones(9))
        (g,) = core.grad([fn(t)], [t], [one], create_graph=True)
        (h,) = core.grad([g], [t], [one], create_graph=True)
        if name == "gelu":
            with pytest.raises(ValueError, match="gelu: the third derivative is not available"):
                core.grad([h], [t], [one])
            continue
        got = core.grad([h], [t], [one], allow_unused=True)[0]
        if name == "hardswish":
            assert got is None
            continue
        tt = torch.tensor(array(t), requires_grad=True)
        ty = torch_fn(tt)
        for _ in range(3):
            (ty,) = torch.autograd.grad(ty.sum(), tt, create_graph=True)
        assert_close(array(got), ty.detach().numpy(), 1e-10, name)


@each_backend
@pytest.mark.parametrize(
    "shape, weights", [((2, 3, 4, 5), 3), ((2, 3, 4, 5), 1), ((6, 4), 4), ((5,), 1), ((2, 3, 4), 3)]
)
def test_prelu(shape, weights, dtype, isa):
    check_against_torch(ops.prelu, F.prelu, [distinct(shape), 0.25 + 0.1 * randn((weights,))], dtype, isa)


@each_backend
def test_tanhshrink_softmin_and_glu(dtype, isa):
    check_against_torch(ops.tanhshrink, F.tanhshrink, [distinct((2, 5, 3, 4))], dtype, isa)
    for shape, dim in [((6,), -1), ((2, 4, 3, 5), 1), ((2, 4, 3, 6), -1), ((2, 4, 3), 1)]:
        for ours, theirs in ((ops.glu, F.glu), (ops.softmin, F.softmin)):
            check_against_torch(
                lambda x, f=ours, d=dim: f(x, d), lambda x, f=theirs, d=dim: f(x, d), [distinct(shape)], dtype, isa
            )


@each_backend
def test_rrelu_in_training(dtype, isa):
    with use_isa(isa):
        ops.manual_seed(0)
        x = tensor(-np.ones((40, 50)), dtype, True)
        y = ops.rrelu(x, 0.25, 0.75, training=True)
        slopes = -array(y)
        assert 0.25 <= slopes.min() < 0.27 and 0.73 < slopes.max() <= 0.75 and abs(slopes.mean() - 0.5) < 0.02
        (g,) = core.grad([y], [x], [tensor(np.ones((40, 50)), dtype)])
        np.testing.assert_array_equal(array(g), slopes)
        x = tensor(distinct((7, 9)), dtype)
        y = array(ops.rrelu(x, training=True))
        np.testing.assert_array_equal(y[array(x) > 0], array(x)[array(x) > 0])
        ops.manual_seed(0)
        step = compile_function(lambda x: ops.rrelu(x, training=True))
        assert (array(step(x)) != array(step(x))).any()


@each_backend
@pytest.mark.parametrize("f", [ops.alpha_dropout, ops.feature_alpha_dropout])
def test_alpha_dropout_keeps_mean_and_variance(f, dtype, isa):
    with use_isa(isa):
        ops.manual_seed(5)
        for p in (0.2, 0.7):
            x = tensor(randn((200, 100, 2, 3)), dtype, True)
            y = f(x, p, training=True)
            (g,) = core.grad([y], [x], [tensor(np.ones(x.shape), dtype)])
            kept = array(g) != 0
            assert abs(kept.mean() - (1 - p)) < 0.02
            assert f is ops.alpha_dropout or (kept.min((2, 3)) == kept.max((2, 3))).all()
            y = array(y)
            assert abs(y.mean()) < 0.03 and abs(y.var() - 1) < 0.03
            a = ((1 - p) * (1 + p * 1.7580993408473766**2)) ** -0.5
            want = np.where(kept, array(x), -1.7580993408473766) * a + a * p * 1.7580993408473766
            assert_close(y, want, TOLERANCE[dtype], "values")
        assert f(x, 0.5).is_same(x) and f(x, 0.0, True).is_same(x) and not array(f(x, 1.0, True)).any()
        step = compile_function(lambda x: f(x, 0.5, training=True))
        assert (array(step(x)) != array(step(x))).any()


def test_integers():
    x = core.tensor(np.array([-2, 0, 3]))
    assert ops.relu(x).dtype == core.int64 and ops.relu(x).tolist() == [0, 0, 3]
    assert_close(array(ops.sigmoid(x)), 1 / (1 + np.exp([2.0, 0, -3])), 1e-6, "sigmoid")
    with pytest.raises(TypeError, match="gelu: expected x of a floating dtype, got int64"):
        ops.gelu(x)


SOFTMAX = [
    ((7,), 0),
    ((3, 10), 1),
    ((3, 10), 0),
    ((2, 5, 3, 4), 1),
    ((2, 5, 3, 4), 2),
    ((2, 5, 3, 4), -1),
    ((2, 5, 3, 4), 0),
    ((2, 19, 7), 1),
    ((4, 1000), -1),
    ((), 0),
]


@each_backend
@pytest.mark.parametrize("shape, dim", SOFTMAX)
def test_softmax(shape, dim, dtype, isa):
    x = 3 * randn(shape)
    check_against_torch(lambda x: ops.softmax(x, dim), lambda x: F.softmax(x, dim), [x], dtype, isa)
    # bfloat16 values of log_softmax reach -15, and exp of them is all that backward has.
    check_against_torch(
        lambda x: ops.log_softmax(x, dim),
        lambda x: F.log_softmax(x, dim),
        [x],
        dtype,
        isa,
        tolerance=0.1 if dtype == "bfloat16" else None,
    )
    if dtype == "float64":
        check_finite_differences(lambda x: ops.softmax(x, dim), [x])
        check_finite_differences(lambda x: ops.log_softmax(x, dim), [x])


@each_isa
def test_softmax_of_extremes_as_torch(isa):
    x = np.array([[1e4, 0, -1e4], [-np.inf, 0, 1], [-np.inf] * 3, [np.nan, 0, 1], [np.inf, 0, 0]], np.float32)
    with use_isa(isa):
        for ours, theirs in [(ops.softmax, F.softmax), (ops.log_softmax, F.log_softmax)]:
            got, want = array(ours(tensor(x, "float32"), 1)), theirs(torch.tensor(x), 1).double().numpy()
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


# ---- dropout ----


@each_backend
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout(p, dtype, isa):
    with use_isa(isa):
        ops.manual_seed(3)
        x = tensor(np.ones((8, 16, 9, 11)), dtype, True)
        y = ops.dropout(x, p)
        values, scale = array(y), float(array(tensor(np.array(1 / (1 - p)), dtype)))
        assert set(np.unique(values)) <= {0.0, scale}
        kept, n = (values != 0).mean(), values.size
        assert abs(kept - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)
        dy = tensor(randn(x.shape), dtype, True)
        (dx,) = core.grad([y], [x], [dy], create_graph=True)
        assert_close(
            array(dx), array(dy) * values, 4e-2 if dtype == "bfloat16" else 1e-6, "same mask in backward"
        )
        (back,) = core.grad([dx], [dy], [tensor(np.ones(x.shape), dtype)])
        assert_close(array(back), values, 0, "same mask in double backward")
        assert (array(ops.dropout(x, p)) != values).any()
        ops.manual_seed(3)
        np.testing.assert_array_equal(array(ops.dropout(x, p)), values)


@each_isa
def test_dropout_is_the_same_on_every_isa(isa):
    x = tensor(np.ones((4, 7, 5, 3)), "float32")
    ops.manual_seed(11)
    with use_isa("ref"):
        want = [array(f(x, 0.4)) for f in (ops.dropout, ops.dropout2d, ops.drop_path)]
    ops.manual_seed(11)
    with use_isa(isa):
        got = [array(f(x, 0.4)) for f in (ops.dropout, ops.dropout2d, ops.drop_path)]
    for g, w in zip(got, want):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("shape", [(64, 32, 3, 5), (64, 32, 7), (64, 32), (64, 32, 2, 3, 2)])
def test_whole_channels_and_whole_samples(shape):
    ops.manual_seed(0)
    x = tensor(np.ones(shape), "float32")
    channels = array(ops.dropout2d(x, 0.3)).reshape(64, 32, -1)
    assert (channels.min(2) == channels.max(2)).all()
    assert abs((channels[:, :, 0] != 0).mean() - 0.7) < 5 * math.sqrt(0.21 / 2048)
    samples = array(ops.drop_path(x, 0.3)).reshape(64, -1)
    assert (samples.min(1) == samples.max(1)).all()
    assert 0 < (samples[:, 0] != 0).sum() < 64
    np.testing.assert_allclose(samples.max(), 1 / 0.7, rtol=1e-6)


def test_rows_between_linear_layers_are_not_copied():
    """(N, H, W, C) as a view of a channels-last image, which is how ConvNeXt's blocks go through linear layers."""
    arrays = [randn((2, 8, 5, 6), 0), randn((16, 8), 1), randn((8, 16), 2)]

    def block(x, w, v):
        return ops.linear(ops.gelu(ops.linear(x.permute(0, 2, 3, 1), w)), v).permute(0, 3, 1, 2)

    def twin(x, w, v):
        return F.linear(F.gelu(F.linear(x.permute(0, 2, 3, 1), w)), v).permute(0, 3, 1, 2)

    check_against_torch(block, twin, arrays)
    compiled = compile_function(block)
    compiled(*(tensor(a, "float32") for a in arrays))
    kinds = [line.split()[1] for line in compiled.describe().splitlines()[1:] if line]
    assert kinds == ["matmul", "activation", "matmul"]


@pytest.mark.parametrize("f", [ops.dropout, ops.dropout2d, ops.drop_path])
def test_dropout_at_its_ends(f):
    x = tensor(np.full((4, 3, 2, 2), np.inf), "float32", True)
    assert f(x, 0.0).is_same(x) and f(x, 0.5, training=False).is_same(x)
    y = f(x, 1.0)
    assert not array(y).any()
    assert not array(core.grad([y], [x], [tensor(np.ones(y.shape), "float32")])[0]).any()
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"expected p in \[0, 1\], got"):
            f(x, p)


BAD = [
    (
        lambda x: ops.gelu(x, approximate="fast"),
        ValueError,
        r"gelu: expected approximate 'none' or 'tanh', got 'fast'",
    ),
    (lambda x: ops.hardtanh(x, 2, 1), ValueError, r"hardtanh: expected min_val <= max_val, got 2 and 1"),
    (lambda x: ops.celu(x, 0), ValueError, r"celu: expected alpha other than 0"),
    (lambda x: ops.softplus(x, 0), ValueError, r"softplus: expected beta other than 0"),
    (
        lambda x: ops.prelu(x, tensor(np.ones(5), "float32")),
        ValueError,
        r"prelu: expected weight of shape \(1,\) or \(3,\)",
    ),
    (
        lambda x: ops.softmax(x, 4),
        IndexError,
        r"softmax: expected dim in \[-4, 4\) for x of shape \(2, 3, 4, 4\), got 4",
    ),
    (lambda x: ops.log_softmax(x, -5), IndexError, r"log_softmax: expected dim in"),
    (
        lambda x: ops.softmax(core.tensor(np.arange(3)), 0),
        TypeError,
        r"softmax: expected x of a floating dtype, got int64",
    ),
    (lambda x: ops.dropout(core.tensor(np.arange(3))), TypeError, r"dropout: expected x of a floating dtype"),
    (
        lambda x: ops.dropout2d(tensor(np.ones(3), "float32")),
        ValueError,
        r"dropout2d: expected x with at least 2 dimensions",
    ),
    (lambda x: ops.glu(x, 1), ValueError, r"glu: expected an even size of dim 1, got shape \(2, 3, 4, 4\)"),
    (lambda x: ops.glu(x, 4), IndexError, r"glu: expected a dim"),
    (lambda x: ops.softshrink(x, -1), ValueError, r"softshrink: expected lambd >= 0, got -1"),
    (lambda x: ops.hardshrink(core.tensor([1])), TypeError, r"hardshrink: expected x of a floating dtype, got int64"),
    (lambda x: ops.rrelu(x, 0.5, 0.1), ValueError, r"rrelu: expected lower <= upper, got 0.5 and 0.1"),
    (lambda x: ops.alpha_dropout(x, 2, True), ValueError, r"alpha_dropout: expected p in \[0, 1\], got 2"),
    (lambda x: ops.feature_alpha_dropout(x[0, 0, 0]), ValueError, r"feature_alpha_dropout: expected x \(N, C, …\)"),
    (lambda x: ops.relu("x"), TypeError, r"incompatible function arguments"),
    (lambda x: ops.relu(None), (TypeError, ValueError), r"."),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(tensor(np.zeros((2, 3, 4, 4)), "float32"))
