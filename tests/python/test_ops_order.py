"""argsort, sort, topk, cumsum, einsum, triangles, repetition, comparison: against PyTorch, eager, planned, exported."""

import fastcnn as fc
import numpy as np
import pytest
from nn_check import assert_close, randn

torch = pytest.importorskip("torch")

SHAPES = [
    ((), 0), ((1,), 0), ((5,), 0), ((3, 7), 1), ((3, 7), 0), ((2, 3, 400), -1), ((2, 300, 3), 1), ((2, 3, 4, 5), 1),
    ((0, 3), 1), ((3, 0), 1),
]  # fmt: skip
DTYPES = ["float32", "float64", "int64", "int32", "uint8", "int8"]


def values(shape, dtype, seed=0):
    """Many equal ones; floats with NaN and infinities."""
    a = np.random.default_rng(seed).integers(-20 if dtype != "uint8" else 0, 20, shape)
    a = np.asarray(a, dtype)
    if dtype.startswith("float") and a.size > 8:
        a.flat[[1, 5]], a.flat[[3, 7]] = np.nan, (np.inf, -np.inf)
    return a


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, dim", SHAPES, ids=str)
@pytest.mark.parametrize("isa", ["ref", "best"])
def test_order_is_torchs(shape, dim, dtype, isa):
    if isa == "ref":
        fc._core.set_isa("ref")
    a = values(shape, dtype)
    x, t = fc.tensor(a), torch.from_numpy(a)
    for descending in (False, True):
        got, at = x.sort(dim, descending)
        want, places = t.sort(dim=dim, descending=descending, stable=True)
        np.testing.assert_array_equal(got.numpy(), want.numpy())
        np.testing.assert_array_equal(at.numpy(), places.numpy())
        np.testing.assert_array_equal(fc.argsort(x, dim, descending).numpy(), places.numpy())
        n = a.shape[dim] if shape else 1
        for k in {min(1, n), n // 2, n} if shape else {1}:
            some, where = fc.topk(x, k, dim, largest=descending)
            np.testing.assert_array_equal(some.numpy(), np.take(want.numpy(), range(k), dim) if shape else want.numpy())
            if shape:
                np.testing.assert_array_equal(np.take_along_axis(a, where.numpy(), dim), some.numpy())
    fine = np.asarray(np.nan_to_num(a, posinf=3, neginf=-3))
    assert_close(fc.cumsum(fc.tensor(fine), dim).numpy(), torch.from_numpy(fine).cumsum(dim).numpy(), 1e-5, "cumsum")
    assert fc.cumsum(x, dim).dtype == (x.dtype if dtype.startswith("float") else fc.int64)


def test_gradients_of_sorted_values_and_running_sums():
    a = randn((3, 5, 4)).astype(np.float32)

    def run(lib, x):
        y, _ = lib.sort(x, 1, True) if lib is fc else lib.sort(x, dim=1, descending=True)
        z, _ = lib.topk(x, 2, 2)
        return (y * y * 3).sum() + (z ** 3).sum() + (lib.cumsum(x * x, 1) ** 2).sum()

    t = torch.tensor(a, requires_grad=True)
    (want,) = torch.autograd.grad(run(torch, t), t, create_graph=True)
    (second,) = torch.autograd.grad((want**2).sum(), t)
    for fn in (lambda f: f, fc.compile):

        def both(x):
            (g,) = fc.grad(run(fc, x), x, create_graph=True)
            return g, *fc.grad((g * g).sum(), x)

        x = fc.tensor(a, requires_grad=True)
        got, again = fn(both)(x)
        assert_close(got.detach().numpy(), want.detach().numpy(), 1e-4, "gradient")
        assert_close(again.detach().numpy(), second.numpy(), 1e-3, "second gradient")


def test_a_session_sorts(tmp_path):
    def fn(x):
        values, places = fc.topk(x, 3)
        return values, places, fc.cumsum(x, 1)

    x = fc.tensor(randn((4, 9)).astype(np.float32))
    fc.export(fn, str(tmp_path / "net.fcnn"), x)
    got = fc.load(str(tmp_path / "net.fcnn")).predict(x.numpy())
    for ours, theirs in zip(got, fn(x), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs.numpy())


EQUATIONS = [
    ("ij,jk->ik", [(3, 4), (4, 5)]), ("ij,jk", [(3, 4), (4, 5)]), ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("ij->ji", [(3, 4)]), ("ii->i", [(4, 4)]), ("ii", [(4, 4)]), ("ij->", [(3, 4)]), ("i,j->ij", [(3,), (4,)]),
    ("i,i", [(3,), (3,)]), ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("...,...", [(2, 3), (3,)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 6)]), ("abc,cd,de->abe", [(2, 3, 4), (4, 5), (5, 6)]),
    ("nchw,oc->nohw", [(2, 3, 4, 5), (6, 3)]), ("ijk,ij->k", [(2, 3, 4), (2, 3)]), ("...i->...", [(2, 3, 4)]),
    ("iij->j", [(3, 3, 2)]), ("ab,ab->ab", [(2, 3), (2, 3)]), ("a...,a->...", [(3, 2, 4), (3,)]),
    ("i,j,k->ijk", [(2,), (3,), (4,)]), ("ij,kl->", [(2, 3), (4, 5)]), ("ij,jk->ik", [(3, 0), (0, 5)]),
    ("ba , ac -> bc", [(3, 4), (4, 5)]), ("Aa,aB->AB", [(3, 4), (4, 5)]),
]  # fmt: skip


@pytest.mark.parametrize("equation, shapes", EQUATIONS, ids=str)
def test_einsum_is_torchs(equation, shapes):
    arrays = [randn(s, i).astype(np.float32) for i, s in enumerate(shapes)]
    x = [fc.tensor(a, requires_grad=True) for a in arrays]
    t = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, want = fc.einsum(equation, *x), torch.einsum(equation, *t)
    assert_close(y.detach().numpy(), want.detach().numpy(), 1e-4, "value")
    planned = fc.compile(lambda *o: fc.einsum(equation, list(o)))(*x)
    assert_close(planned.detach().numpy(), want.detach().numpy(), 1e-4, "plan")
    (y * y).sum().backward()
    (want * want).sum().backward()
    for ours, theirs in zip(x, t, strict=True):
        assert_close(ours.grad.numpy(), theirs.grad.numpy(), 1e-3, "gradient")


@pytest.mark.parametrize("call, error, words", [
    (lambda: fc.einsum("ij,jk->ik", fc.ones(3, 4)), ValueError, "expected 2 operands"),
    (lambda: fc.einsum("ij,jk->ik", fc.ones(3, 4), fc.ones(5, 6)), ValueError, "sizes 4 and 5"),
    (lambda: fc.einsum("ij->k", fc.ones(3, 4)), ValueError, "a dim that no operand has"),
    (lambda: fc.einsum("ij->ii", fc.ones(3, 4)), ValueError, "appears twice in the result"),
    (lambda: fc.einsum("ij", fc.ones(3, 4, 5)), ValueError, r"with 2 dims .*\(3, 4, 5\)"),
    (lambda: fc.einsum("ii", fc.ones(3, 4)), ValueError, r"repeated dim.*\(3, 4\)"),
    (lambda: fc.einsum("i1->i", fc.ones(3, 4)), ValueError, "expected letters"),
    (lambda: fc.einsum("ij,jk", fc.ones(3, 4), fc.ones(4, 5, dtype="float64")), TypeError, "einsum"),
    (lambda: fc.einsum("ij,jk", fc.ones(3, 4, dtype="int64"), fc.ones(4, 5, dtype="int64")), TypeError, "einsum"),
    (lambda: fc.topk(fc.ones(3, 4), 5), ValueError, r"topk: expected k in \[0, 4\]"),
    (lambda: fc.sort(fc.ones(3, 4), 2), IndexError, "sort: expected a dim"),
    (lambda: fc.cumsum(fc.ones(3), 1), IndexError, "cumsum: expected a dim"),
    (lambda: fc.tril(fc.ones(3)), ValueError, r"tril: .*2 dimensions.*\(3,\)"),
    (lambda: fc.ones(3, 4).repeat(2), ValueError, "repeat: expected a number for each of 2 dims"),
    (lambda: fc.ones(3).repeat(-1), ValueError, "repeat: expected numbers >= 0"),
    (lambda: fc.repeat_interleave(fc.ones(3), -1, 0), ValueError, "repeat_interleave: .*>= 0"),
    (lambda: fc.outer(fc.ones(3, 4), fc.ones(3)), ValueError, "outer: expected two vectors"),
    (lambda: fc.isclose(fc.ones(3), fc.ones(3, dtype="int64")), TypeError, "isclose"),
    (lambda: fc.meshgrid(fc.ones(3), indexing="yx"), ValueError, "meshgrid: expected indexing"),
    (lambda: fc.linspace(0, 1, -1), ValueError, "linspace: expected steps >= 0"),
    (lambda: fc.compile(fc.nonzero)(fc.ones(3)), ValueError, "nonzero"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_triangles_and_repetition_are_torchs():
    a = randn((3, 4, 5)).astype(np.float32)
    x, t = fc.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    for d in (-7, -1, 0, 1, 2, 9):
        np.testing.assert_array_equal(x.tril(d).detach().numpy(), t.tril(d).detach().numpy())
        np.testing.assert_array_equal(fc.triu(x, d).detach().numpy(), t.triu(d).detach().numpy())
    for times in [(1, 1, 1), (2, 1, 3), (2, 2, 1, 2), (0, 1, 1), (1, 2, 1, 1, 1)]:
        np.testing.assert_array_equal(x.repeat(*times).detach().numpy(), t.repeat(*times).detach().numpy())
    np.testing.assert_array_equal(fc.tile(x, (2, 3)).detach().numpy(), np.tile(a, (2, 3)))
    np.testing.assert_array_equal(x.repeat_interleave(3, 1).detach().numpy(), np.repeat(a, 3, 1))
    for y in (x, t):
        ((y.tril(1) * 2).sum() + (y.repeat(2, 1, 3) ** 2).sum() + (y.repeat_interleave(2, 0) ** 3).sum()).backward()
    assert_close(x.grad.numpy(), t.grad.numpy(), 1e-5, "gradient")
    y = fc.ones(2).repeat(1)
    y[0] = 5  # a tensor of its own
    assert y.tolist() == [5, 1]


def test_ranges_grids_and_places():
    for n in (0, 1, 2, 7):
        np.testing.assert_array_equal(fc.linspace(-1, 2, n).numpy(), torch.linspace(-1, 2, n).numpy())
    assert fc.linspace(0, 0.3, 4, dtype="float64").tolist()[-1] == 0.3
    np.testing.assert_array_equal(fc.eye(3, 5).numpy(), np.eye(3, 5))
    a = randn((3, 4)) > 0
    np.testing.assert_array_equal(fc.nonzero(fc.tensor(a)).numpy(), np.argwhere(a))
    for ours, theirs in zip(fc.tensor(a).nonzero(as_tuple=True), np.nonzero(a), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    for indexing in ("ij", "xy"):
        for ours, theirs in zip(
            fc.meshgrid(fc.arange(3), fc.arange(4), indexing=indexing),
            np.meshgrid(np.arange(3), np.arange(4), indexing=indexing),
            strict=True,
        ):
            np.testing.assert_array_equal(ours.numpy(), theirs)


def test_comparison_by_tolerance_is_numpys():
    a = np.array([1, np.inf, -np.inf, np.nan, 2, 0], np.float32)
    b = np.array([1, np.inf, np.inf, np.nan, 2.1, 1e-9], np.float32)
    for equal_nan in (False, True):
        got = fc.isclose(fc.tensor(a), fc.tensor(b), equal_nan=equal_nan)
        np.testing.assert_array_equal(got.numpy(), np.isclose(a, b, equal_nan=equal_nan))
    assert fc.allclose(fc.ones(3), fc.ones(3) + 1e-7) and not fc.ones(3).allclose(fc.ones(3) + 1e-3)
    assert not fc.allclose(fc.tensor([2**53]), fc.tensor([2**52]))


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (40,), (6, 7), (0,), (0, 3)], ids=str)
def test_unique_is_torchs(shape, dtype):
    a = np.asarray(np.random.default_rng(0).integers(0, 9, shape), dtype)
    got = fc.unique(fc.tensor(a), return_inverse=True, return_counts=True)
    want = torch.unique(torch.from_numpy(a), return_inverse=True, return_counts=True)
    for g, w in zip(got, want, strict=True):
        assert g.shape == tuple(w.shape) and g.tolist() == w.tolist()
    assert fc.tensor(a).unique().tolist() == want[0].tolist()
    assert len(fc.unique(fc.tensor(a), return_counts=True)) == 2


def test_unique_counts_each_nan_and_takes_no_trace():
    values, counts = fc.unique(fc.tensor([np.nan, 1.0, np.nan, 1.0]), return_counts=True)
    assert values.tolist()[0] == 1 and np.isnan(values.numpy()[1:]).all() and counts.tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match="unique: how many values there are is not known"):
        fc.compile(lambda x: fc.unique(x * 2))(fc.tensor([1.0, 2.0]))


@pytest.mark.parametrize("mask_shape", [(3, 4), (4,), (3, 1), (2, 3, 4)], ids=str)
def test_masked_select_is_torchs_with_gradients(mask_shape):
    rng = np.random.default_rng(1)
    a, mask = rng.standard_normal((3, 4)).astype(np.float32), rng.random(mask_shape) < 0.5
    x, t = fc.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    y, want = x.masked_select(fc.tensor(mask)), t.masked_select(torch.from_numpy(mask))
    np.testing.assert_array_equal(y.numpy(), want.detach().numpy())
    (y * y).sum().backward()
    (want * want).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), t.grad.numpy())
    with pytest.raises(TypeError, match="masked_select: expected a bool mask, got int64"):
        x.masked_select(fc.tensor([1, 0, 1, 0]))
    with pytest.raises(ValueError, match=r"masked_select: shapes \(3, 4\) and \(3,\) do not broadcast"):
        x.masked_select(fc.tensor([True, False, True]))
    with pytest.raises(ValueError, match="masked_select: how many values"):
        fc.compile(lambda v: v.masked_select(v > 0))(x.detach())


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scatter_add_is_torchs_with_gradients(dim):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((6, 6)).astype(np.float32)
    index = rng.integers(0, 3 if dim == 0 else 5, (6, 4) if dim == 0 else (2, 6))
    x, s = fc.tensor(a, requires_grad=True), fc.tensor(b, requires_grad=True)
    t, u = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    rows, columns = index.shape
    want = t.scatter_add(dim, torch.from_numpy(index), u[:rows, :columns])  # its gradient takes no larger ones
    y = x.scatter_add(dim, fc.tensor(index), s)
    np.testing.assert_allclose(y.numpy(), want.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(fc.compile(lambda *v: fc.scatter_add(v[0], dim, v[1], v[2]))(x, fc.tensor(index), s)
                                  .numpy(), y.numpy())  # fmt: skip
    (y**2).sum().backward()
    (want**2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(s.grad.numpy(), u.grad.numpy(), rtol=1e-5)
    wrong = np.full_like(index, 9)
    with pytest.raises(IndexError, match="9"):
        fc.scatter_add(x.detach(), dim, fc.tensor(wrong), s.detach())
    with pytest.raises(ValueError, match="scatter_add: index of shape"):
        fc.scatter_add(x, 0, fc.tensor(np.zeros((2, 6), np.int64)), s)
    with pytest.raises(TypeError, match="scatter_add: expected src of dtype float32"):
        fc.scatter_add(x, 0, fc.tensor(index), s.to("float64"))
