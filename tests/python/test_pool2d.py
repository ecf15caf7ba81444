"""Pooling against PyTorch and finite differences: window rules, indices, gradients to second order."""

import itertools

import numpy as np
import pytest
from nn_check import (
    BEST,
    array,
    assert_close,
    check_against_torch,
    check_finite_differences,
    core,
    distinct,
    each_backend,
    ops,
    randn,
    tensor,
    torch,
)

F = torch.nn.functional

WINDOWS = [
    ((2, 3, 6, 8), {"kernel_size": 2}),
    ((2, 17, 7, 9), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 4, 7, 6), {"kernel_size": (3, 2), "stride": (2, 1)}),
    ((1, 4, 7, 6), {"kernel_size": (2, 4), "stride": (1, 3), "padding": (1, 2)}),
    ((2, 5, 7, 8), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ((1, 2, 5, 6), {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
    ((1, 2, 6, 6), {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True}),
    ((1, 2, 4, 4), {"kernel_size": 1, "stride": 2, "ceil_mode": True}),
    ((3, 6, 5), {"kernel_size": 2}),
    ((2, 33, 4, 4), {"kernel_size": 4}),
]


@each_backend
@pytest.mark.parametrize("shape, o", WINDOWS)
def test_max_pool2d(shape, o, dtype, isa):
    x = distinct(shape) if dtype != "bfloat16" else randn(shape)
    check_against_torch(lambda x: ops.max_pool2d(x, **o), lambda x: F.max_pool2d(x, **o), [x], dtype, isa)


@each_backend
@pytest.mark.parametrize("dilation, padding", [(2, 0), ((1, 3), 1), (2, 2)])
def test_max_pool2d_dilated(dilation, padding, dtype, isa):
    o = {"kernel_size": 3, "stride": 2, "dilation": dilation, "padding": min(padding, 1)}
    check_against_torch(
        lambda x: ops.max_pool2d(x, **o),
        lambda x: F.max_pool2d(x, **o),
        [distinct((2, 3, 9, 10))],
        dtype,
        isa,
    )


@each_backend
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("shape, o", WINDOWS)
def test_avg_pool2d(shape, o, include, dtype, isa):
    o = {**o, "count_include_pad": include}
    check_against_torch(
        lambda x: ops.avg_pool2d(x, **o), lambda x: F.avg_pool2d(x, **o), [randn(shape)], dtype, isa
    )


@pytest.mark.parametrize("dtype, isa", [("float32", BEST), ("float64", "ref")])
@pytest.mark.parametrize("divisor", [1, 5, -2])
@pytest.mark.parametrize("shape, o", WINDOWS)
def test_avg_pool2d_with_another_divisor(shape, o, divisor, dtype, isa):
    o = {**o, "divisor_override": divisor, "count_include_pad": divisor > 1}
    check_against_torch(
        lambda x: ops.avg_pool2d(x, **o), lambda x: F.avg_pool2d(x, **o), [randn(shape)], dtype, isa
    )


ADAPTIVE = [
    ((2, 3, 8, 8), 4),
    ((2, 3, 7, 5), (3, 2)),
    ((1, 17, 5, 7), (7, 9)),
    ((3, 6, 6), (None, 2)),
    ((2, 9, 7, 7), 1),
]


@each_backend
@pytest.mark.parametrize("shape, size", ADAPTIVE)
def test_adaptive(shape, size, dtype, isa):
    check_against_torch(
        lambda x: ops.adaptive_avg_pool2d(x, size),
        lambda x: F.adaptive_avg_pool2d(x, size),
        [randn(shape)],
        dtype,
        isa,
    )
    check_against_torch(
        lambda x: ops.adaptive_max_pool2d(x, size),
        lambda x: F.adaptive_max_pool2d(x, size),
        [distinct(shape)],
        dtype,
        isa,
    )


@each_backend
def test_global_avg_pool2d(dtype, isa):
    check_against_torch(
        ops.global_avg_pool2d, lambda x: x.mean((2, 3), keepdim=True), [randn((3, 18, 7, 5))], dtype, isa
    )


@each_backend
@pytest.mark.parametrize("p", [1, 2, 3.5, float("inf")])
def test_lp_pool2d(p, dtype, isa):
    x = np.abs(distinct((2, 3, 6, 7))) + 0.1 if np.isinf(p) else np.abs(randn((2, 3, 6, 7))) + 0.1
    o = {"kernel_size": (2, 3), "stride": 2, "ceil_mode": False}
    check_against_torch(lambda x: ops.lp_pool2d(x, p, **o), lambda x: F.lp_pool2d(x, p, **o), [x], dtype, isa)


def test_lp_pool2d_of_zeros_has_gradient_zero():
    x = tensor(np.zeros((1, 1, 4, 4)), requires_grad=True)
    y = ops.lp_pool2d(x, 2, 2)
    (dx,) = core.grad([y], [x], [tensor(np.ones((1, 1, 2, 2)))])
    assert not array(y).any() and not array(dx).any()


@pytest.mark.parametrize("isa", core.available_isas())
def test_indices(isa):
    before = core.isa()
    core.set_isa(isa)
    try:
        x = distinct((2, 5, 7, 6)).astype(np.float32)
        y, index = ops.max_pool2d(tensor(x, "float32"), 3, 2, 1, return_indices=True)
        ty, tindex = F.max_pool2d(torch.tensor(x), 3, 2, 1, return_indices=True)
        assert index.dtype == core.int64
        assert_close(array(y), ty.numpy(), 0, "value")
        np.testing.assert_array_equal(np.asarray(index), tindex.numpy())
        _, index = ops.adaptive_max_pool2d(tensor(x, "float32"), (3, 4), return_indices=True)
        np.testing.assert_array_equal(
            np.asarray(index), F.adaptive_max_pool2d(torch.tensor(x), (3, 4), True)[1].numpy()
        )
    finally:
        core.set_isa(before)


@pytest.mark.parametrize("isa", [BEST, "ref"])
def test_ties_and_special_values_as_torch(isa):
    before = core.isa()
    core.set_isa(isa)
    try:
        x = np.zeros((1, 1, 4, 4), np.float32)
        x[0, 0, 0, 1] = np.nan
        x[0, 0, 2:, 2:] = -np.inf
        xt, yt = torch.tensor(x), tensor(x, "float32")
        y, index = ops.max_pool2d(yt, 2, return_indices=True)
        ty, tindex = F.max_pool2d(xt, 2, return_indices=True)
        np.testing.assert_array_equal(array(y), ty.numpy())
        np.testing.assert_array_equal(np.asarray(index), tindex.numpy())
    finally:
        core.set_isa(before)


def test_ceil_mode_sizes_as_torch():
    for size, kernel, stride, pad in itertools.product(range(1, 9), (1, 2, 3), (1, 2, 3), (0, 1)):
        if pad > kernel // 2 or kernel > size + 2 * pad:
            continue
        o = {"kernel_size": kernel, "stride": stride, "padding": pad, "ceil_mode": True}
        want = F.max_pool2d(torch.zeros(1, 1, size, size), **o).shape
        assert ops.max_pool2d(tensor(np.zeros((1, 1, size, size)), "float32"), **o).shape == tuple(want), (
            size,
            o,
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.max_pool2d(x, 3, 2, 1),
        lambda x: ops.avg_pool2d(x, 3, 2, 1),
        lambda x: ops.avg_pool2d(x, 2, ceil_mode=True),
        lambda x: ops.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: ops.adaptive_max_pool2d(x, 2),
        ops.global_avg_pool2d,
    ],
)
def test_finite_differences(call):
    check_finite_differences(call, [distinct((2, 3, 7, 5))])


def test_empty_batch():
    x = tensor(np.zeros((0, 3, 4, 4)), "float32", True)
    for y in (ops.max_pool2d(x, 2), ops.avg_pool2d(x, 2)):
        assert y.shape == (0, 3, 2, 2)
        assert core.grad([y], [x], [y.detach()])[0].shape == x.shape


def T(*shape, dtype="float32"):
    return tensor(np.zeros(shape), dtype)


BAD = [
    (
        lambda: ops.max_pool2d(T(1, 2, 6, 6), 2, padding=2),
        ValueError,
        r"max_pool2d: expected padding of at most half the window",
    ),
    (
        lambda: ops.avg_pool2d(T(1, 2, 6, 6), 3, padding=2),
        ValueError,
        r"avg_pool2d: expected padding of at most half the window",
    ),
    (
        lambda: ops.max_pool2d(T(1, 2, 3, 6), 4),
        ValueError,
        r"window of \(4, 4\) pixels is larger than the padded image of \(3, 6\)",
    ),
    (
        lambda: ops.max_pool2d(T(6, 6), 2),
        ValueError,
        r"max_pool2d: expected x of shape \(N, C, H, W\) or \(C, H, W\), got \(6, 6\)",
    ),
    (lambda: ops.max_pool2d(T(1, 2, 6, 6), 0), ValueError, r"expected kernel_size >= 1, got \(0, 0\)"),
    (lambda: ops.max_pool2d(T(1, 2, 6, 6), 2, 0), ValueError, r"expected stride >= 1, got \(0, 0\)"),
    (lambda: ops.max_pool2d(T(1, 2, 6, 6), 2, dilation=0), ValueError, r"expected dilation >= 1"),
    (lambda: ops.max_pool2d(T(1, 2, 6, 6), 2, padding=-1), ValueError, r"expected padding >= 0"),
    (
        lambda: ops.max_pool2d(T(1, 2, 6, 6, dtype="int32"), 2),
        TypeError,
        r"max_pool2d: expected x of a floating dtype, got int32",
    ),
    (lambda: ops.max_pool2d(T(1, 2, 6, 6), "2"), TypeError, r"expected kernel_size as an int or a pair"),
    (
        lambda: ops.adaptive_avg_pool2d(T(1, 2, 6, 6), 0),
        ValueError,
        r"adaptive_avg_pool2d: expected output_size >= 1",
    ),
    (lambda: ops.adaptive_max_pool2d(T(1, 2, 0, 6), 1), ValueError, r"expected an image of at least 1x1"),
    (lambda: ops.adaptive_avg_pool2d(T(6, 6), (None, 2)), ValueError, r"expected x of shape"),
    (lambda: ops.lp_pool2d(T(1, 2, 6, 6), 0, 2), ValueError, r"lp_pool2d: expected norm_type > 0, got 0"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
