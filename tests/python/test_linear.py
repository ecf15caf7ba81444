"""linear and matmul: PyTorch and finite differences, ranks, transposed operands, broadcasting."""

import numpy as np
import pytest
from nn_check import (
    array,
    assert_close,
    check_against_torch,
    check_finite_differences,
    core,
    each_backend,
    each_isa,
    ops,
    randn,
    tensor,
    torch,
    use_isa,
)

F = torch.nn.functional

LINEAR = [
    ((5,), 3),
    ((4, 5), 3),
    ((1, 17), 35),
    ((2, 3, 6), 4),
    ((2, 3, 4, 6), 5),
    ((33, 64), 10),
    ((0, 5), 3),
]


@each_backend
@pytest.mark.parametrize("shape, out", LINEAR)
def test_linear(shape, out, dtype, isa):
    arrays = [randn(shape), randn((out, shape[-1])) / np.sqrt(shape[-1]), randn((out,))]
    check_against_torch(ops.linear, F.linear, arrays, dtype, isa)
    check_against_torch(ops.linear, F.linear, arrays[:2], dtype, isa)
    if dtype == "float64":
        check_finite_differences(ops.linear, arrays)


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_linear_with_frozen_operands(needs):
    check_against_torch(
        ops.linear, F.linear, [randn((4, 5)), randn((3, 5)), randn((3,))], needs_grad=list(needs)
    )


MATMUL = [
    ((3, 4), (4, 5)),
    ((37, 65), (65, 19)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (1, 5, 4, 6)),
    ((5, 3, 4), (2, 1, 4, 6)),
    ((1, 3, 4), (2, 4, 5)),
    ((2, 2, 3, 4), (4, 5)),
    ((0, 3, 4), (4, 5)),
    ((3, 0), (0, 5)),
]


@each_backend
@pytest.mark.parametrize("a, b", MATMUL)
def test_matmul(a, b, dtype, isa):
    arrays = [randn(a, 1), randn(b, 2) / np.sqrt(max(1, a[-1]))]
    check_against_torch(ops.matmul, torch.matmul, arrays, dtype, isa)
    if dtype == "float64":
        check_finite_differences(ops.matmul, arrays)


@each_isa
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("swap_a, swap_b", [(True, False), (False, True), (True, True)])
def test_matmul_of_transposed_views(batch, swap_a, swap_b, isa):
    a, b = randn((*batch, *((6, 4) if swap_a else (4, 6)))), randn((*batch, *((5, 6) if swap_b else (6, 5))))
    last = [*range(len(batch)), len(batch) + 1, len(batch)]

    def ours(x, y):
        return ops.matmul(x.permute(last) if swap_a else x, y.permute(last) if swap_b else y)

    def theirs(x, y):
        return (x.mT if swap_a else x) @ (y.mT if swap_b else y)

    check_against_torch(ours, theirs, [a, b], "float32", isa)


def test_the_gradient_of_a_transposed_parameter_is_dense():
    w = tensor(randn((5, 7)), requires_grad=True)
    y = ops.matmul(tensor(randn((3, 7))), w.permute([1, 0]))
    (dw,) = core.grad([y], [w], [y.detach()])
    assert dw.is_contiguous()


def test_matmul_of_strided_operands():
    a, b = randn((4, 3, 6)), randn((6, 3, 5))
    got = ops.matmul(tensor(a).permute([1, 0, 2]), tensor(b).permute([1, 0, 2]))
    assert_close(array(got), np.matmul(a.transpose(1, 0, 2), b.transpose(1, 0, 2)), 1e-12, "strided")


@each_isa
def test_autocast(isa):
    with use_isa(isa):
        x, w = tensor(randn((4, 6)), "float32", True), tensor(randn((3, 6)), "float32", True)
        before = ops.set_autocast_dtype("bfloat16")
        try:
            y = ops.linear(x, w)
            z = ops.matmul(x, w.permute([1, 0]))
        finally:
            ops.set_autocast_dtype(before)
        assert y.dtype == z.dtype == core.bfloat16
        assert_close(array(y), array(ops.linear(x, w)), 4e-2, "autocast")
        (dw,) = core.grad([y], [w], [y.detach()])
        assert dw.dtype == core.float32


def T(*shape, dtype="float32"):
    return tensor(np.zeros(shape), dtype)


BAD = [
    (
        lambda: ops.linear(T(2, 5), T(3, 4)),
        ValueError,
        r"linear: expected x of shape \(..., 4\) \(w is \(3, 4\)\), got \(2, 5\)",
    ),
    (lambda: ops.linear(T(), T(3, 4)), ValueError, r"linear: expected x of shape"),
    (
        lambda: ops.linear(T(2, 4), T(3, 4, 1)),
        ValueError,
        r"linear: expected w of shape \(out features, in features\)",
    ),
    (
        lambda: ops.linear(T(2, 4), T(3, 4), T(4)),
        ValueError,
        r"linear: expected bias of shape \(3,\).*got \(4,\)",
    ),
    (
        lambda: ops.linear(T(2, 4), T(3, 4, dtype="float64")),
        TypeError,
        r"linear: expected w of dtype float32 like x, got float64",
    ),
    (
        lambda: ops.matmul(T(2, 4), T(5, 3)),
        ValueError,
        r"matmul: expected b with 4 rows \(a is \(2, 4\)\), got b of shape \(5, 3\)",
    ),
    (lambda: ops.matmul(T(4), T(5)), ValueError, r"matmul: expected b with 4 rows"),
    (lambda: ops.matmul(T(), T(5)), ValueError, r"matmul: expected at least 1 dimension"),
    (
        lambda: ops.matmul(T(2, 3, 4), T(3, 4, 5)),
        ValueError,
        r"batch dimensions of a \(2, 3, 4\) and b \(3, 4, 5\) do not broadcast",
    ),
    (
        lambda: ops.matmul(T(2, 2), T(2, 2, dtype="float64")),
        TypeError,
        r"matmul: expected b of dtype float32 like a",
    ),
    (
        lambda: ops.matmul(T(2, 2, dtype="int64"), T(2, 2, dtype="int64")),
        TypeError,
        r"matmul: expected a of a floating dtype, got int64",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
