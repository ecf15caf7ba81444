"""Elementwise ops and reductions: against PyTorch, finite differences, every ISA; promotion and messages."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile  # noqa: E402
from torch_compare import compare, finite_differences, isa, rand, same, to_numpy  # noqa: E402, F401

ops = fc.ops


# name: (ours, PyTorch's, low, high)
UNARY = {
    "neg": (ops.neg, torch.neg, -2, 2),
    "abs": (ops.abs, torch.abs, -2, 2),
    "exp": (ops.exp, torch.exp, -4, 4),
    "expm1": (ops.expm1, torch.expm1, -2, 2),
    "log": (ops.log, torch.log, 0.1, 5),
    "log1p": (ops.log1p, torch.log1p, -0.5, 4),
    "log2": (ops.log2, torch.log2, 0.1, 5),
    "sqrt": (ops.sqrt, torch.sqrt, 0.1, 5),
    "rsqrt": (ops.rsqrt, torch.rsqrt, 0.1, 5),
    "square": (ops.square, torch.square, -2, 2),
    "reciprocal": (ops.reciprocal, torch.reciprocal, 0.3, 3),
    "sign": (ops.sign, torch.sign, -2, 2),
    "floor": (ops.floor, torch.floor, -3, 3),
    "ceil": (ops.ceil, torch.ceil, -3, 3),
    "round": (ops.round, torch.round, -3, 3),
    "sin": (ops.sin, torch.sin, -6, 6),
    "cos": (ops.cos, torch.cos, -6, 6),
    "atan": (ops.atan, torch.atan, -6, 6),
    "erf": (ops.erf, torch.erf, -2, 2),
    "clamp": (lambda x: x.clamp(-0.5, 0.75), lambda x: x.clamp(-0.5, 0.75), -2, 2),
    "clamp_min": (lambda x: x.clamp(min=0.1), lambda x: x.clamp(min=0.1), -2, 2),
    "x+2": (lambda x: x + 2, lambda x: x + 2, -2, 2),
    "3-x": (lambda x: 3 - x, lambda x: 3 - x, -2, 2),
    "x-0.3": (lambda x: x - 0.3, lambda x: x - 0.3, -2, 2),
    "1.7*x": (lambda x: 1.7 * x, lambda x: 1.7 * x, -2, 2),
    "x/3": (lambda x: x / 3, lambda x: x / 3, -2, 2),
    "x/4": (lambda x: x / 4, lambda x: x / 4, -2, 2),
    "2/x": (lambda x: 2 / x, lambda x: 2 / x, 0.3, 3),
    "x**3": (lambda x: x**3, lambda x: x**3, -2, 2),
    "x**2": (lambda x: x**2, lambda x: x**2, -2, 2),
    "x**0.5": (lambda x: x**0.5, lambda x: x**0.5, 0.2, 2),
    "x**-1.5": (lambda x: x**-1.5, lambda x: x**-1.5, 0.2, 2),
    "x**0": (lambda x: x**0, lambda x: x**0, -2, 2),
    "2**x": (lambda x: 2**x, lambda x: 2**x, -3, 3),
    "x//0.7": (lambda x: x // 0.7, lambda x: x.detach() // 0.7, -3, 3),
    "x%0.7": (lambda x: x % 0.7, lambda x: x % 0.7, -3, 3),
}
SHAPES = [(), (7,), (3, 40), (2, 5, 3, 4), (2, 1, 3, 2, 2), (0, 3)]

BINARY = {
    "add": (ops.add, torch.add, -2, 2),
    "sub": (ops.sub, torch.sub, -2, 2),
    "mul": (ops.mul, torch.mul, -2, 2),
    "div": (ops.div, torch.div, 0.3, 3),
    "pow": (ops.pow, torch.pow, 0.3, 2),
    "maximum": (ops.maximum, torch.maximum, -2, 2),
    "minimum": (ops.minimum, torch.minimum, -2, 2),
    "remainder": (ops.remainder, torch.remainder, 0.4, 3),
}
PAIRS = [
    ((5,), (5,)),
    ((2, 6, 3, 4), (2, 6, 3, 4)),
    ((2, 6, 3, 4), (6, 1, 1)),
    ((2, 6, 3, 4), (4,)),
    ((4, 1), (1, 5)),
    ((), (2, 3)),
    ((2, 1, 3, 1), (5, 1, 4)),
]

REDUCE = {
    "sum": (ops.sum, torch.sum),
    "mean": (ops.mean, torch.mean),
    "amax": (ops.amax, torch.amax),
    "amin": (ops.amin, torch.amin),
    "var": (ops.var, torch.var),
    "var0": (
        lambda x, dim=None, keepdim=False: ops.var(x, dim, correction=0, keepdim=keepdim),
        lambda x, dim=None, keepdim=False: torch.var(x, dim, correction=0, keepdim=keepdim),
    ),
    "norm2": (lambda x, **k: ops.norm(x, 2, **k), lambda x, **k: torch.linalg.vector_norm(x, 2, **k)),
    "norm1": (lambda x, **k: ops.norm(x, 1, **k), lambda x, **k: torch.linalg.vector_norm(x, 1, **k)),
    "norm3": (lambda x, **k: ops.norm(x, 3, **k), lambda x, **k: torch.linalg.vector_norm(x, 3, **k)),
    "norminf": (
        lambda x, **k: ops.norm(x, float("inf"), **k),
        lambda x, **k: torch.linalg.vector_norm(x, float("inf"), **k),
    ),
}
DIMS = [None, 0, -1, (1, 3), (0, 2, 3), (1,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary(isa, name, shape):  # noqa: F811
    ours, theirs, low, high = UNARY[name]
    compare(ours, theirs, [rand(*shape, low=low, high=high)])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [n for n in UNARY if n not in ("x//0.7", "x%0.7", "floor", "ceil", "round")])
def test_unary_dtypes(isa, name, dtype):  # noqa: F811
    ours, theirs, low, high = UNARY[name]
    double = dtype == "float64" and name not in ("sign",)
    compare(ours, theirs, [rand(2, 3, 2, 3, low=low, high=high)], dtype, double=double, rtol=None)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary(isa, name, shapes):  # noqa: F811
    ours, theirs, low, high = BINARY[name]
    compare(ours, theirs, [rand(*s, low=low, high=high, seed=i) for i, s in enumerate(shapes)])


@pytest.mark.parametrize("name", [n for n in BINARY if n != "remainder"])
def test_binary_second_gradient(name):
    ours, theirs, low, high = BINARY[name]
    for i, shapes in enumerate(PAIRS):
        arrays = [rand(*s, low=low, high=high, seed=i + k) for k, s in enumerate(shapes)]
        compare(ours, theirs, arrays, "float64", double=True)


FLAT = ("sign", "floor", "ceil", "round", "x//0.7")


@pytest.mark.parametrize("name", [n for n in (*UNARY, *BINARY) if n not in FLAT])
def test_finite_differences(name):
    ours, _, low, high = (UNARY | BINARY)[name]
    shapes = [(2, 3)] if name in UNARY else [(2, 3), (3,)]
    finite_differences(
        ours, [rand(*s, low=low, high=high, seed=k) for k, s in enumerate(shapes)], tolerance=2e-6
    )


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", DIMS, ids=str)
@pytest.mark.parametrize("name", REDUCE)
def test_reduce(isa, name, dim, keepdim):  # noqa: F811
    ours, theirs = REDUCE[name]
    kwargs = (
        {}
        if dim is None and not keepdim
        else {"dim": tuple(range(4)) if dim is None else dim, "keepdim": keepdim}
    )
    compare(lambda x: ours(x, **kwargs), lambda x: theirs(x, **kwargs), [rand(3, 4, 5, 2)])


@pytest.mark.parametrize("name", REDUCE)
def test_reduce_second_gradient_and_differences(name):
    ours, theirs = REDUCE[name]
    for dim in (None, 1, (0, 2)):
        kwargs = {} if dim is None else {"dim": dim}
        x = rand(3, 2, 2, seed=3)
        compare(
            lambda x, k=kwargs: ours(x, **k), lambda x, k=kwargs: theirs(x, **k), [x], "float64", double=True
        )
        finite_differences(lambda x, k=kwargs: ours(x, **k), [x], tolerance=1e-5)


def test_prod_gradient_is_exact_at_zeros(isa):  # noqa: F811
    for zeros in range(4):
        x = rand(2, 7, seed=zeros)
        x[0, :zeros] = 0
        compare(lambda x: ops.prod(x, 1), lambda x: torch.prod(x, 1), [x], "float64", double=zeros < 3)
        compare(lambda x: ops.prod(x), lambda x: torch.prod(x), [x])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_prod_of_16_bit_floats_is_rounded_once_with_a_gradient_too(dtype):
    x = fc.tensor(rand(4, 2000, seed=1).clip(-1, 1) * 0.05 + 1).to(getattr(fc, dtype))
    leaf = x.detach().requires_grad_()
    y = ops.prod(leaf, 1)
    assert y.tolist() == ops.prod(x, 1).tolist()
    (dx,) = fc.grad([y.sum()], [leaf])
    assert dx.dtype == x.dtype
    wide = x.to(fc.float64).numpy()
    np.testing.assert_allclose(
        dx.to(fc.float64).numpy(), wide.prod(1, keepdims=True) / wide, rtol=1e-2 if dtype == "bfloat16" else 2e-3
    )


def test_large_reductions_match_float64(isa):  # noqa: F811
    x = rand(64, 33, 17, 5).astype(np.float32)
    for dim in (None, (0, 2, 3), 1, 3):
        want = x.astype(np.float64).sum(axis=dim)
        got = ops.sum(fc.tensor(x), dim).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(
            ops.mean(fc.tensor(x), dim).numpy(), x.astype(np.float64).mean(axis=dim), atol=1e-6
        )


@pytest.mark.parametrize("name", ["amax", "amin", "max", "min", "maximum"])
def test_ties_share_as_in_torch(isa, name):  # noqa: F811
    x = np.array([[1.0, 3.0, 3.0, -1.0], [2.0, 2.0, 2.0, 2.0]])
    if name == "maximum":
        compare(ops.maximum, torch.maximum, [x, np.full_like(x, 2.0)], double=True, dtype="float64")
    elif name in ("max", "min"):
        compare(lambda x: getattr(x, name)(), lambda x: getattr(x, name)(), [x])
        compare(lambda x: getattr(x, name)(dim=1).values, lambda x: getattr(x, name)(dim=1).values, [x])
    else:
        compare(
            lambda x: getattr(ops, name)(x, 1),
            lambda x: getattr(torch, name)(x, 1),
            [x],
            "float64",
            double=True,
        )


def test_extremes_with_nan(isa):  # noqa: F811
    x = np.array([[1.0, np.nan, 3.0], [np.inf, -np.inf, 0.0]], np.float32)
    for name in ("amax", "amin"):
        same(getattr(ops, name)(fc.tensor(x), 1), getattr(torch, name)(torch.tensor(x), 1), 0, 0)
    assert ops.argmax(fc.tensor(x), 1).tolist() == torch.argmax(torch.tensor(x), 1).tolist()
    same(fc.tensor(x).clamp(0, 1), torch.tensor(x).clamp(0, 1), 0, 0)
    same(
        ops.maximum(fc.tensor(x), fc.tensor(x).flip(0)),
        torch.maximum(torch.tensor(x), torch.tensor(x).flip(0)),
        0,
        0,
    )
    for name in ("isnan", "isinf", "isfinite"):
        assert getattr(ops, name)(fc.tensor(x)).tolist() == getattr(torch, name)(torch.tensor(x)).tolist()


@pytest.mark.parametrize("dim", [None, 0, 1, 2, -1])
def test_arg_extremes(isa, dim):  # noqa: F811
    x = np.random.default_rng(5).integers(-3, 4, (3, 5, 4, 2)).astype(np.float32)
    for name, numpy_op in (("argmax", np.argmax), ("argmin", np.argmin)):
        got = getattr(ops, name)(fc.tensor(x), dim)
        assert str(got.dtype) == "int64"
        np.testing.assert_array_equal(got.numpy(), numpy_op(x, axis=dim))  # the first of equals
        if dim is not None:
            kept = getattr(ops, name)(fc.tensor(x), dim, True)
            np.testing.assert_array_equal(kept.numpy(), numpy_op(x, axis=dim, keepdims=True))


def test_any_all(isa):  # noqa: F811
    x = np.array([[0, 1, 0], [0, 0, 0], [2, 3, 4]])
    for dtype in ("bool", "int64", "float32"):
        t = fc.tensor(x.astype(dtype))
        for dim in (None, 0, 1):
            np.testing.assert_array_equal(ops.any(t, dim).numpy(), x.any(axis=dim))
            np.testing.assert_array_equal(ops.all(t, dim).numpy(), x.all(axis=dim))


def test_reductions_of_nothing():
    empty = ops.zeros(0, 3)
    assert ops.sum(empty).item() == 0 and ops.prod(empty).item() == 1
    assert ops.sum(empty, 0).tolist() == [0, 0, 0] and ops.sum(empty, 1).shape == (0,)
    assert np.isnan(ops.mean(empty).item()) and np.isnan(ops.var(ops.ones(1)).item())
    assert not ops.any(empty).item() and ops.all(empty).item()
    assert ops.amax(empty, 1).shape == (0,)
    for op in (ops.amax, ops.amin, ops.argmax, ops.argmin):
        with pytest.raises(ValueError, match=r"at least one element.*\(0, 3\)"):
            op(empty)
        with pytest.raises(ValueError, match="at least one element"):
            op(empty, 0)


DTYPES = ["float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "int8", "bool"]


@pytest.mark.parametrize("b", DTYPES)
@pytest.mark.parametrize("a", DTYPES)
def test_promotion(a, b):
    x, y = torch.tensor([1, 0, 1]).to(getattr(torch, a)), torch.tensor([1, 1, 0]).to(getattr(torch, b))
    ours = fc.tensor([1, 0, 1]).to(a), fc.tensor([1, 1, 0]).to(b)
    for symbol in ("__mul__", "__eq__", "__lt__", "__truediv__"):
        want = getattr(x, symbol)(y)
        got = getattr(ours[0], symbol)(ours[1])
        dtype = str(want.dtype).replace("torch.", "")
        if dtype == "int16":  # uint8 with int8; this library has no int16
            dtype = "int32"
        assert str(got.dtype) == dtype, symbol
        np.testing.assert_array_equal(to_numpy(got), to_numpy(want))


@pytest.mark.parametrize("scalar", [2, 2.5, True, -1, np.float32(1.5), np.int64(3)], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_promote_as_in_torch(dtype, scalar):
    x = torch.tensor([1, 0, 3]).to(getattr(torch, dtype))
    t = fc.tensor([1, 0, 3]).to(dtype)
    plain = scalar.item() if isinstance(scalar, np.generic) else scalar
    if dtype == "uint8" and scalar == -1:
        assert (t > scalar).all().item()  # PyTorch wraps -1 to 255 here and says False
        cases = ["__eq__", "__add__"]
    else:
        cases = ["__add__", "__radd__", "__mul__", "__rmul__", "__eq__", "__lt__", "__ge__", "__truediv__"]
        if not isinstance(plain, bool) and dtype != "bool":  # PyTorch has no subtraction of bool
            cases += ["__sub__", "__rsub__"]
        if dtype != "bool" and not (isinstance(plain, int) and plain < 0):
            cases += ["__pow__"]
    for symbol in cases:
        if (
            dtype == "bool"
            and isinstance(plain, bool)
            and symbol in ("__add__", "__radd__", "__mul__", "__rmul__")
        ):
            continue  # bool arithmetic counts here
        want, got = getattr(x, symbol)(plain), getattr(t, symbol)(scalar)
        assert str(got.dtype) == str(want.dtype).replace("torch.", ""), symbol
        np.testing.assert_allclose(
            to_numpy(got), to_numpy(want), rtol=1e-2 if "16" in dtype else 1e-6, err_msg=symbol
        )


def test_integer_arithmetic_is_exact(isa):  # noqa: F811
    big = 2**62 + 1
    x = fc.tensor(np.array([big, -big, 7]))
    assert (x + fc.tensor([1, 1, 1])).tolist() == [big + 1, -big + 1, 8]
    assert (fc.tensor([7, -7, 7, -7]) // fc.tensor([2, 2, -2, -2])).tolist() == [3, -4, -4, 3]
    assert (fc.tensor([7, -7, 7, -7]) % fc.tensor([4, 4, -4, -4])).tolist() == [3, 1, -1, -3]
    with pytest.raises(ValueError, match="division by zero"):
        fc.tensor([1]) // fc.tensor([0])
    with pytest.raises(ValueError, match="negative power"):
        fc.tensor([2]) ** -1
    assert ops.sum(fc.tensor(np.array([200, 100], np.uint8))).item() == 300


def test_where_and_masks(isa):  # noqa: F811
    mask = rand(2, 3, 4, 5, seed=9) > 0
    compare(
        lambda x, y: ops.where(fc.tensor(mask), x, y),
        lambda x, y: torch.where(torch.tensor(mask), x, y),
        [rand(2, 3, 4, 5), rand(3, 1, 1)],
        double=True,
        dtype="float64",
    )
    compare(
        lambda x: x.masked_fill(fc.tensor(mask), -7.0),
        lambda x: x.masked_fill(torch.tensor(mask), -7.0),
        [rand(2, 3, 4, 5)],
    )
    t = fc.tensor(mask)
    assert (~t & t).any().item() is False and (~t | t).all().item() is True and (t ^ t).any().item() is False
    with pytest.raises(TypeError, match="where: expected a bool condition, got float32"):
        ops.where(ops.ones(2), ops.ones(2), ops.ones(2))
    with pytest.raises(TypeError, match="does not fit into int64"):
        fc.tensor([1]).masked_fill(fc.tensor([True]), 0.5)


def test_in_place(isa):  # noqa: F811
    x = fc.tensor(rand(2, 3, 4, 5).astype(np.float32))
    want = x.numpy().copy()
    same_object = x
    x += 1
    x *= fc.tensor(np.arange(5, dtype=np.float32))
    x -= 0.5
    x /= 3
    assert x is same_object
    np.testing.assert_allclose(
        x.numpy(), ((want + 1) * np.arange(5, dtype=np.float32) - 0.5) / 3, rtol=1e-6, atol=1e-6
    )
    part = x[:, 1:, ::-2, 2]  # a view: the tensor behind it changes
    before = x.numpy().copy()
    part.zero_()
    part.add_(2, alpha=3)
    before[:, 1:, ::-2, 2] = 6
    np.testing.assert_array_equal(x.numpy(), before)
    x.T.fill_(4)
    assert (x == 4).all().item()
    assert x.copy_(fc.tensor([1, 2, 3, 4, 5])) is x and x[1, 2, 3].tolist() == [1, 2, 3, 4, 5]
    assert x.clamp_(2, 3)[0, 0, 0].tolist() == [2, 2, 3, 3, 3]
    with pytest.raises(ValueError, match=r"shape \(7,\).*|do not broadcast"):
        x.add_(ops.ones(7))
    with pytest.raises(TypeError, match="float32 result does not fit into a tensor of int64"):
        fc.tensor([1, 2]).add_(0.5)


def test_in_place_and_gradients():
    w = ops.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="leaf that requires gradients"):
        w += 1
    with pytest.raises(ValueError, match="in place"):
        w.mul_(2)
    total = ops.zeros(3)
    total += w * 2  # history is kept
    out = w * 1
    alias = out
    out += total
    assert alias is out and out.tolist() == [3, 3, 3]
    out.sum().backward()
    assert w.grad.tolist() == [3, 3, 3]
    fc.set_grad_enabled(False)
    try:
        w -= w.grad
    finally:
        fc.set_grad_enabled(True)
    assert w.tolist() == [-2, -2, -2] and w.requires_grad
    y = w * w
    v = w.detach()
    v.add_(1)
    with pytest.raises(ValueError, match="changed in place"):
        y.sum().backward()


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_gradients_add_up_after_that_of_a_sum(how):
    # The gradient of a sum is one value for all elements, and the next gradient is not.
    a, b = rand(2, 3).astype(np.float32), rand(2, 3, seed=1).astype(np.float32)
    x = ops.zeros(2, 3, requires_grad=True)

    def twice(a, b):
        (x * 2).sum().backward()
        (x + a).mean().backward()
        (x * b).sum().backward()

    (compile(twice) if how == "compiled" else twice)(fc.tensor(a), fc.tensor(b))
    np.testing.assert_allclose(x.grad.numpy(), 2 + 1 / 6 + b, rtol=1e-6)
    y = ops.zeros(2, 3, requires_grad=True)
    y.sum().backward()
    y.grad[0, 1] = 5
    assert y.grad.tolist() == [[1, 5, 1], [1, 1, 1]]
    y.grad = ops.ones(3).expand(2, 3)  # and one that the caller put there
    (y * fc.tensor(b)).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), 1 + b, rtol=1e-6)


def test_clamp_by_tensors_at_and_beyond_its_bounds():
    def run(lib):
        x = lib.tensor([-1.0, 0.0, 1.0, 2.0, float("nan"), 3.0, 0.5], requires_grad=True)
        low = lib.tensor([-2.0, 0.0, 1.5, 0.0, 0.0, 4.0, float("nan")], requires_grad=True)
        high = lib.tensor(1.0, requires_grad=True)
        y = x.clamp(low, high)
        y.sum().backward()
        return y, x.grad[:4], low.grad[:4]

    for got, want in zip(run(fc), run(torch), strict=True):
        same(got, want, 0, 0)
    ids = torch.arange(5)
    same(fc.tensor(ids.numpy()).clamp(fc.tensor(1), 3), ids.clamp(torch.tensor(1), torch.tensor(3)), 0, 0)


def test_elements_that_share_memory_take_no_updates():
    x = ops.zeros(3).expand(2, 3)
    for change in (
        lambda: x.add_(1),
        lambda: x.mul_(2),
        lambda: x.copy_(ops.ones(2, 3)),
        lambda: x.__isub__(ops.ones(2, 3)),
        lambda: x.clamp_(0, 1),
    ):
        with pytest.raises(ValueError, match=r"shape \(2, 3\) share memory"):
            change()
    assert x.fill_(4).tolist() == [[4, 4, 4], [4, 4, 4]]  # one value for all is no question
    x[1, 2] = 5
    x[:, 0] = 6
    assert x.tolist() == [[6, 4, 5], [6, 4, 5]]
    with pytest.raises(ValueError, match="share memory"):
        x[:, 0] = fc.tensor([1.0, 2.0])


def slopes_at_kinks(lib, dtype):
    """Gradients at points where the plain formula gives 0 * inf."""
    x = lib.tensor([[3.0, 3.0, 3.0], [1.0, 2.0, 4.0]], dtype=dtype)
    cases = [
        (x, lambda x: x.std()),
        (x, lambda x: x.std(1)),
        (x, lambda x: x.std((0, 1), keepdim=True)),
        (lib.tensor([0.0, 0.5, 2.0], dtype=dtype), lambda x: 0.0**x),
        (lib.tensor([[0.0, 0.0], [0.0, 3.0]], dtype=dtype), lambda x: x.norm(0.5, 1)),
    ]
    grads = []
    for x, f in cases:
        x.requires_grad = True
        f(x).sum().backward()
        grads.append(x.grad)
    return grads


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_at_kinks(isa, dtype):  # noqa: F811
    for got, want in zip(slopes_at_kinks(fc, dtype), slopes_at_kinks(torch, getattr(torch, dtype)), strict=True):
        same(got, want, 1e-5, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_minus_zero_stays(isa, dtype):  # noqa: F811
    zeros = np.array([0.0, -0.0])
    x = fc.tensor(zeros, dtype=dtype)
    for got, want in ((-x, -zeros), (x * 2, zeros), (x * -2, -zeros), (x / 2, zeros), (x / 1, zeros), (x**1, zeros)):
        np.testing.assert_array_equal(np.signbit(to_numpy(got)), np.signbit(want))


def test_numpy_operands():
    x = ops.ones(2, 3)
    a = np.arange(3, dtype=np.float32)
    for y in (x + a, a + x, a * x, x * a, np.float32(2) * x, x / a.sum()):
        assert type(y) is fc.Tensor
    assert (a - x).tolist() == (a - np.ones((2, 3))).tolist()
    assert (a < x).tolist() == (a < np.ones((2, 3))).tolist()


MESSAGES = [
    (lambda: ops.ones(2, 3) + ops.ones(4), ValueError, r"add: shapes \(2, 3\) and \(4,\) do not broadcast"),
    (lambda: ops.ones(2) + "a", TypeError, "unsupported operand"),
    (
        lambda: ops.add(ops.ones(2), "a"),
        TypeError,
        "add: expected a tensor with a tensor or a number, got Tensor and str",
    ),
    (lambda: ops.add(1, 2), TypeError, "got int and int"),
    (
        lambda: ops.sum(ops.ones(2, 3), 2),
        IndexError,
        r"sum: expected a dim in \[-2, 1\] for shape \(2, 3\), got 2",
    ),
    (lambda: ops.sum(ops.ones(2, 3), (0, -2)), ValueError, "sum: dim -2 appears more than once"),
    (lambda: ops.mean(fc.tensor([1, 2])), TypeError, "mean: expected a floating dtype, got int64"),
    (lambda: ops.var(fc.tensor([1, 2])), TypeError, "var: expected a floating dtype"),
    (lambda: ops.std(fc.tensor([1, 2])), TypeError, "std: expected a floating dtype"),
    (lambda: ops.norm(ops.ones(2), -1), ValueError, "norm: expected p >= 0, got -1"),
    (lambda: ops.clamp(ops.ones(2)), ValueError, "clamp: expected at least one of min and max"),
    (lambda: bool(ops.ones(2)), ValueError, r"truth of a tensor of shape \(2,\) is ambiguous"),
    (lambda: ops.ones(2) & ops.ones(2), TypeError, "expected bool tensors"),
    (lambda: fc.tensor([6, 5]) | fc.tensor([True, False]), TypeError, "expected bool tensors, got int64 and bool"),
    (lambda: ops.zeros(2, -3), ValueError, r"\(2, -3\)"),
    (lambda: ops.zeros(2**40, 2**40), ValueError, "more elements than int64"),
    (lambda: ops.zeros(2, dtype="float8"), TypeError, "dtype: expected float32"),
    (lambda: ops.arange(0, 5, 0), ValueError, "step != 0"),
    (lambda: [1, 2, 3][ops.ones(1)], TypeError, "index: expected an integer tensor"),
]


@pytest.mark.parametrize("case", range(len(MESSAGES)))
def test_messages(case):
    fn, error, message = MESSAGES[case]
    with pytest.raises(error, match=message):
        fn()


def test_creation():
    assert ops.zeros(2, 3).shape == ops.zeros((2, 3)).shape == (2, 3)
    assert ops.ones(2, dtype="int64").tolist() == [1, 1]
    assert str(ops.full((2,), 3).dtype) == "int64" and str(ops.full((2,), 3.0).dtype) == "float32"
    assert ops.full((2,), True).tolist() == [True, True]
    assert ops.arange(5).tolist() == [0, 1, 2, 3, 4] and ops.arange(1, 2, 0.25).tolist() == [
        1,
        1.25,
        1.5,
        1.75,
    ]
    assert ops.arange(5, 0, -2).tolist() == [5, 3, 1] and ops.arange(3, 1).shape == (0,)
    x = ops.zeros(2, 3, dtype="float64", requires_grad=True)
    assert x.requires_grad and str(ops.ones_like(x).dtype) == "float64" and not ops.ones_like(x).requires_grad
    assert [1, 2, 3][fc.tensor(1)] == 2 and float(ops.full((1,), 2.5)) == 2.5 and int(fc.tensor([7])) == 7


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4, 5), (1, 64, 30, 31), (70000,)])
def test_extremes_and_affine_maps_of_int64_are_exact(shape, kernel_isa):
    """Numbers that no float holds, over every dim, in one piece and in several."""
    x = np.random.default_rng(0).integers(-(2**62), 2**62, shape)
    tensor = fc.tensor(x)
    for dim in (None, *range(len(shape)), *([(0, 2)] if len(shape) > 2 else [])):
        for op, want in ((fc.ops.amax, np.max), (fc.ops.amin, np.min)):
            got = op(tensor) if dim is None else op(tensor, dim)
            np.testing.assert_array_equal(got.numpy(), want(x, axis=dim))
    np.testing.assert_array_equal((tensor * 3 - 7).numpy(), x * 3 - 7)
    assert fc.ops.amax(fc.tensor(np.array([-(2**63), 2**63 - 1]))).numpy() == 2**63 - 1


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "bool", "int64", "float32", "float64"])
def test_sums_come_in_the_dtype_that_was_asked_for(dtype):
    x = np.int64([[1, 0, 3], [4, 5, 6]])
    for name in ("sum", "prod", "cumsum") if dtype != "bool" else ("sum", "prod"):  # PyTorch has no such cumsum
        got = getattr(fc.tensor(x), name)(1, dtype=dtype)
        want = getattr(torch.tensor(x), name)(1, dtype=getattr(torch, dtype))
        assert str(got.dtype) == dtype and got.tolist() == want.tolist()
        assert str(getattr(ops, name)(fc.tensor(x), 1, dtype=dtype).dtype) == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("divisor", [1e5, 131072.0, 0.1, 3.0, 3e-6])
def test_halves_divided_by_numbers_that_they_cannot_hold(dtype, divisor):
    x = np.float32([60000, 1.5, -0.25])
    want = (torch.tensor(x).to(getattr(torch, dtype)) / divisor).float().numpy()
    for f in (lambda t: t / divisor, compile(lambda t: t / divisor)):
        got = f(fc.tensor(x, dtype=dtype))
        assert str(got.dtype) == dtype
        np.testing.assert_allclose(got.to("float32").numpy(), want, rtol=1e-2 if dtype == "bfloat16" else 1e-3)
