"""Views, indexing, joining, padding, resampling: against NumPy (hypothesis) and PyTorch, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile  # noqa: E402
from torch_compare import compare, finite_differences, isa, same  # noqa: E402, F401

ops = fc.ops
F = torch.nn.functional


def rand(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


# ---- views against NumPy ----------------------------------------------------------------------

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def counted(shape):
    """Distinct elements; memory is channels-last for rank 4."""
    a = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return a, fc.tensor(a)


@st.composite
def basic_index(draw, shape):
    items, dims = [], len(shape)
    used = draw(st.integers(0, dims))
    for n in shape[:used]:
        kind = draw(st.sampled_from(["int", "slice", "none+slice"]))
        if kind == "int":
            items.append(draw(st.integers(-n, n - 1)))
            continue
        if kind == "none+slice" and len(items) < 2:
            items.append(None)
        bound = st.none() | st.integers(-n - 2, n + 2)
        items.append(slice(draw(bound), draw(bound), draw(st.none() | st.sampled_from([1, 2, 3, -1, -2]))))
    if draw(st.booleans()):
        items.append(Ellipsis)
        if used < dims and draw(st.booleans()):
            items.append(draw(st.integers(-shape[-1], shape[-1] - 1)))
    return tuple(items)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_basic_indexing_is_numpys(data):
    shape = data.draw(shapes)
    index = data.draw(basic_index(shape))
    a, t = counted(shape)
    want, got = a[index], t[index]
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy(), want)
    np.testing.assert_array_equal(got.clone().numpy(), want)  # the copy kernels on these strides
    # Gradient: ones where the slice looked.
    x = fc.tensor(a).requires_grad_()
    y = x[index]
    if y.numel() and y.requires_grad:
        (g,) = fc.grad(y, x, fc.tensor(want * 2))
        expected = np.zeros_like(a)
        expected[index] = want * 2
        np.testing.assert_array_equal(g.numpy(), expected)
    t[index] = -1.0
    a[index] = -1.0
    np.testing.assert_array_equal(t.numpy(), a)
    if want.size:
        values = np.random.default_rng(0).normal(size=want.shape).astype(np.float32)
        t[index] = fc.tensor(values)
        a[index] = values
        np.testing.assert_array_equal(t.numpy(), a)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_chains_of_views_are_numpys(data):
    shape = data.draw(shapes)
    a, t = counted(shape)
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(
            st.sampled_from(
                ["permute", "reshape", "flip", "slice", "squeeze", "unsqueeze", "flatten", "expand"]
            )
        )
        if kind == "permute":
            order = data.draw(st.permutations(range(a.ndim)))
            a, t = a.transpose(order), t.permute(*order)
        elif kind == "reshape" and a.size:
            factors = [n for n in (2, 3, 4, 6) if a.size % n == 0]
            first = data.draw(st.sampled_from([1, *factors]))
            a, t = a.reshape(first, -1, 1), t.reshape(first, -1, 1)
        elif kind == "flip" and a.ndim:
            d = data.draw(st.integers(0, a.ndim - 1))
            a, t = np.flip(a, d), t.flip(d)
        elif kind == "slice" and a.ndim:
            step = data.draw(st.sampled_from([1, 2, -1]))
            a, t = a[..., ::step], t[..., ::step]
        elif kind == "squeeze":
            a, t = a.squeeze(), t.squeeze()
        elif kind == "unsqueeze" and a.ndim < 6:
            d = data.draw(st.integers(0, a.ndim))
            a, t = np.expand_dims(a, d), t.unsqueeze(d)
        elif kind == "flatten" and a.ndim:
            d = data.draw(st.integers(0, a.ndim - 1))
            a, t = a.reshape(*a.shape[:d], -1), t.flatten(d)
        elif kind == "expand" and a.ndim < 5:
            a, t = np.broadcast_to(a, (2, *a.shape)), t.expand(2, *a.shape)
        assert t.shape == a.shape, kind
        np.testing.assert_array_equal(t.numpy(), a, err_msg=kind)
    np.testing.assert_array_equal((t + 1).numpy(), a + 1)
    np.testing.assert_array_equal(t.contiguous().numpy(), a)
    np.testing.assert_allclose(t.sum().item(), a.sum(), rtol=1e-6)


def test_views_share_memory_and_copies_do_not():
    x = ops.zeros(2, 3, 4, 5)
    for view in (
        x[0],
        x[:, ::-1],
        x.permute(3, 1, 0, 2),
        x.unsqueeze(0),
        x.T,
        x.expand(2, 2, 3, 4, 5),
        x.view(2, 3, 20),
    ):
        before = x.sum().item()
        view[(0,) * view.ndim] = view[(0,) * view.ndim].item() + 1.0
        assert x.sum().item() == before + 1
    flat = x.flatten(1)  # channels-last memory, logical order: a copy
    flat.fill_(9)
    assert not (x == 9).any().item()
    pooled = ops.ones(2, 3, 1, 1)  # here the orders agree
    pooled.flatten(1).fill_(9)
    assert (pooled == 9).all().item()


def test_flatten_keeps_logical_order():
    a, t = counted((2, 3, 4, 5))
    np.testing.assert_array_equal(t.flatten(1).numpy(), a.reshape(2, -1))
    np.testing.assert_array_equal(t.flatten().numpy(), a.reshape(-1))
    assert t.flatten(1).stride() == (60, 1)
    np.testing.assert_array_equal(t.reshape(6, 20).reshape(2, 3, 4, 5).numpy(), a)
    assert fc.tensor(3.0).flatten().shape == (1,) and ops.zeros(0, 3).reshape(-1, 3).shape == (0, 3)


# ---- advanced indexing ------------------------------------------------------------------------

ADVANCED = {
    "list": lambda t, w: t[w([2, 0, -1])],
    "second dim": lambda t, w: t[:, w([1, 1, 0])],
    "matrix": lambda t, w: t[:, w([[1, 0], [2, 2]])],
    "last": lambda t, w: t[..., w([0, -1])],
    "with views": lambda t, w: t[1:, ::-1, None, w([3, 0])],
    "pair": lambda t, w: t[w([0, 1, 2]), w([2, -1, 0])],
    "broadcast pair": lambda t, w: t[:, w([[0], [2]]), w([1, -4, 3])],
    "int beside": lambda t, w: t[1, w([2, 0])],
    "int behind": lambda t, w: t[w([2, 0]), 1],
    "int between": lambda t, w: t[w([2, 0]), 1, w([3, 1])] if t.ndim == 3 else t[w([2, 0]), 1, w([1, 0])],
}


@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("name", ADVANCED)
def test_index_arrays(isa, name, shape):  # noqa: F811
    index = ADVANCED[name]
    a, t = counted(shape)
    np.testing.assert_array_equal(index(t, fc.tensor).numpy(), index(a, np.array))
    np.testing.assert_array_equal(index(t, list).numpy(), index(a, np.array))
    theirs = _torch_views if name == "with views" else lambda x: index(x, torch.tensor)
    compare(lambda x: index(x, fc.tensor), theirs, [rand(*shape)], "float64", double=True)


def _torch_views(x):
    return x[1:].flip(1)[:, :, None, [3, 0]]  # PyTorch has no negative steps


def test_ints_apart_from_index_arrays_are_views_as_in_torch():
    a, t = counted((3, 3, 4, 2))
    x = torch.tensor(a)
    same(t[:, [2, 0], :, 1], x[:, [2, 0], :, 1], 0, 0)
    same(t[1, :, [3, 0, 0]], x[1, :, [3, 0, 0]], 0, 0)


def test_masks(isa):  # noqa: F811
    a, t = counted((3, 4, 2, 2))
    mask = rand(3, 4, 2, 2) > 0.3
    np.testing.assert_array_equal(t[fc.tensor(mask)].numpy(), a[mask])
    rows = np.array([True, False, True])
    np.testing.assert_array_equal(t[rows].numpy(), a[rows])
    np.testing.assert_array_equal(t[:, [True, False, False, True]].numpy(), a[:, [True, False, False, True]])
    t[fc.tensor(mask)] = 7.0
    a[mask] = 7
    t[fc.tensor(rows)] = -1
    a[rows] = -1
    t[1, [0, 2]] = fc.tensor(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    a[1, [0, 2]] = np.arange(8).reshape(2, 2, 2)
    t[mask] = np.arange(mask.sum(), dtype=np.float32)
    a[mask] = np.arange(mask.sum())
    np.testing.assert_array_equal(t.numpy(), a)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (3, 5), (6,), (4, 4)])
def test_masks_of_another_shape(shape):
    _, t = counted((3, 4, 2))
    mask = np.ones(shape, bool)
    for change in (lambda: t[mask], lambda: t.__setitem__(mask, ops.ones(3)), lambda: t[..., mask]):
        with pytest.raises(IndexError, match=r"mask of shape .* does not fit x of shape \(3, 4, 2\)"):
            change()


def test_len_iter_unbind():
    a, t = counted((3, 2))
    assert len(t) == 3 and [r.tolist() for r in t] == a.tolist()
    x, y, z = t
    assert z.tolist() == [4, 5] and [r.tolist() for r in t.unbind(1)] == a.T.tolist()
    with pytest.raises(TypeError, match="no length"):
        len(fc.tensor(1.0))
    with pytest.raises(TypeError, match="cannot be iterated"):
        iter(fc.tensor(1.0))


# ---- against PyTorch, with gradients ----------------------------------------------------------

CASES = {
    "reshape": (lambda x: x.reshape(6, -1), lambda x: x.reshape(6, -1), (2, 3, 4, 5)),
    "flatten": (lambda x: x.flatten(1), lambda x: x.flatten(1), (2, 3, 4, 5)),
    "flatten 1x1": (lambda x: x.flatten(1), lambda x: x.flatten(1), (2, 3, 1, 1)),
    "permute": (lambda x: x.permute(2, 0, 3, 1), lambda x: x.permute(2, 0, 3, 1), (2, 3, 4, 5)),
    "transpose": (lambda x: x.transpose(-1, 0), lambda x: x.transpose(-1, 0), (2, 3, 4)),
    "T": (lambda x: x.T, lambda x: x.T, (2, 3)),
    "expand": (lambda x: x.expand(2, -1, 3, 4), lambda x: x.expand(2, -1, 3, 4), (2, 1, 4)),
    "narrow": (lambda x: x.narrow(1, 1, 2), lambda x: x.narrow(1, 1, 2), (2, 4, 3, 2)),
    "step": (lambda x: x[:, 1::2, ::3], lambda x: x[:, 1::2, ::3], (2, 4, 5, 2)),
    "flip": (lambda x: x.flip(1, 3), lambda x: x.flip(1, 3), (2, 3, 2, 3)),
    "select": (lambda x: x[:, -1], lambda x: x[:, -1], (2, 3, 2, 3)),
    "squeeze": (lambda x: x.squeeze(), lambda x: x.squeeze(), (1, 3, 1, 2)),
    "split": (
        lambda x: x.split(2, 1)[1] * x.split([1, 2, 2], 1)[2],
        lambda x: x.split(2, 1)[1] * x.split([1, 2, 2], 1)[2],
        (2, 5, 3, 2),
    ),
    "chunk": (lambda x: x.chunk(3, 1)[1], lambda x: x.chunk(3, 1)[1], (2, 5, 3)),
    "cat": (
        lambda x: ops.cat([x, x * 2, x[:, :1]], 1),
        lambda x: torch.cat([x, x * 2, x[:, :1]], 1),
        (2, 3, 4, 5),
    ),
    "cat 0": (lambda x: ops.cat([x, x.exp()]), lambda x: torch.cat([x, x.exp()]), (2, 3, 2, 2)),
    "cat last": (lambda x: ops.cat([x, x], -1), lambda x: torch.cat([x, x], -1), (2, 3, 2, 2)),
    "stack": (lambda x: ops.stack([x, x * x], 1), lambda x: torch.stack([x, x * x], 1), (2, 3, 4)),
    "stack last": (lambda x: ops.stack([x, x * x], -1), lambda x: torch.stack([x, x * x], -1), (2, 3, 4)),
    "index_select": (
        lambda x: ops.index_select(x, 1, fc.tensor([2, 0, 2])),
        lambda x: torch.index_select(x, 1, torch.tensor([2, 0, 2])),
        (2, 3, 4, 5),
    ),
    "gather": (
        lambda x: ops.gather(x, 1, fc.tensor([[[0, 1], [2, 2]]])),
        lambda x: torch.gather(x, 1, torch.tensor([[[0, 1], [2, 2]]])),
        (2, 3, 4),
    ),
    "pad": (
        lambda x: ops.pad(x, (1, 2, 3, 0), value=1.5),
        lambda x: F.pad(x, (1, 2, 3, 0), value=1.5),
        (2, 3, 4, 5),
    ),
    "pad crop": (
        lambda x: ops.pad(x, (-1, 2, 0, -2, 1, 1)),
        lambda x: F.pad(x, (-1, 2, 0, -2, 1, 1)),
        (2, 3, 4, 5),
    ),
    "pad reflect": (
        lambda x: ops.pad(x, (1, 2, 3, 0), "reflect"),
        lambda x: F.pad(x, (1, 2, 3, 0), "reflect"),
        (2, 3, 4, 5),
    ),
    "pad replicate": (
        lambda x: ops.pad(x, (1, 2, 3, 4), "replicate"),
        lambda x: F.pad(x, (1, 2, 3, 4), "replicate"),
        (2, 3, 4, 5),
    ),
    "pad circular": (
        lambda x: ops.pad(x, (1, 2, 3, 4), "circular"),
        lambda x: F.pad(x, (1, 2, 3, 4), "circular"),
        (2, 3, 4, 5),
    ),
    "pixel_shuffle": (lambda x: ops.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, 2), (2, 8, 3, 2)),
    "pixel_shuffle 3-D": (lambda x: ops.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, 2), (8, 3, 2)),
    "pixel_unshuffle": (lambda x: ops.pixel_unshuffle(x, 2), lambda x: F.pixel_unshuffle(x, 2), (2, 3, 4, 6)),
    "pixel_unshuffle 5-D": (
        lambda x: ops.pixel_unshuffle(x, 3),
        lambda x: F.pixel_unshuffle(x, 3),
        (2, 2, 1, 3, 6),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_shape_ops(isa, name, dtype):  # noqa: F811
    ours, theirs, shape = CASES[name]
    compare(ours, theirs, [rand(*shape)], dtype, double=dtype == "float64")


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("sizes", [(2, 3, 19, 64, 2), (1, 1, 33, 40, 4), (3, 16, 12, 9, 2), (2, 5, 8, 8, 3)])
def test_pixels_are_shuffled_in_runs_of_any_element(isa, dtype, sizes):  # noqa: F811
    n, c, h, w, r = sizes
    a = np.random.default_rng(r).integers(0, 250, (n, c * r * r, h, w)).astype(dtype)
    want = a.reshape(n, c, r, r, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * r, w * r)
    y = ops.pixel_shuffle(fc.tensor(a), r)
    np.testing.assert_array_equal(y.numpy(), want)
    np.testing.assert_array_equal(ops.pixel_unshuffle(y, r).numpy(), a)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_copies_of_any_order_of_dims_are_numpys(data):
    sides = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 17]), min_size=2, max_size=5))
    order = data.draw(st.permutations(range(len(sides))))
    start = data.draw(st.integers(0, 1)) if sides[0] > 1 else 0
    a, x = counted((*sides,))
    a, x = a[start:].transpose(order), x[start:].permute(*order)
    np.testing.assert_array_equal(x.contiguous().numpy(), a)
    wide = (3, *a.shape)  # one element for many
    np.testing.assert_array_equal(x.unsqueeze(0).expand(*wide).contiguous().numpy(), np.broadcast_to(a, wide))


@pytest.mark.parametrize("name", [n for n in CASES if "5-D" not in n])
def test_shape_finite_differences(name):
    ours, _, shape = CASES[name]
    finite_differences(lambda x: ours(x * x), [rand(*shape)[:, : shape[1]]])


INTERPOLATE = [
    {"size": (7, 5), "mode": "nearest"},
    {"scale_factor": 2.0, "mode": "nearest"},
    {"scale_factor": (1.7, 0.6), "mode": "nearest-exact"},
    {"size": (7, 9), "mode": "bilinear"},
    {"size": (2, 9), "mode": "bilinear", "align_corners": True},
    {"scale_factor": 2, "mode": "bilinear", "align_corners": False},
    {"scale_factor": (2.3, 0.7), "mode": "bilinear"},
    {"size": (9, 3), "mode": "bicubic"},
    {"size": (9, 3), "mode": "bicubic", "align_corners": True},
    {"size": (2, 3), "mode": "bilinear", "antialias": True},
    {"size": (3, 9), "mode": "bicubic", "antialias": True},
    {"size": 3, "mode": "bilinear"},
    {"size": (3, 4), "mode": "area"},
    {"scale_factor": (0.5, 1.7), "mode": "area"},
]


@pytest.mark.parametrize("options", INTERPOLATE, ids=str)
def test_interpolate(isa, options):  # noqa: F811
    for dtype in ("float32", "float64"):
        compare(
            lambda x: ops.interpolate(x, **options),
            lambda x: F.interpolate(x, **options),
            [rand(2, 3, 4, 6)],
            dtype,
            double=dtype == "float64",
        )


def test_one_hot(isa):  # noqa: F811
    ids = np.random.default_rng(0).integers(0, 5, (2, 3))
    want = F.one_hot(torch.tensor(ids), 5)
    got = ops.one_hot(fc.tensor(ids), 5)
    assert str(got.dtype) == "float32"
    np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert ops.one_hot(fc.tensor([0, 2]), dtype="int64").tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(IndexError, match=r"one_hot: expected class ids >= 0, got -1"):
        ops.one_hot(fc.tensor([0, -1]), 3)
    with pytest.raises(IndexError, match=r"expected class ids in \[0, 3\), got 3"):
        ops.one_hot(fc.tensor([0, 3]), 3)


MESSAGES = [
    (
        lambda x: x.reshape(7, -1),
        ValueError,
        r"reshape: cannot show shape \(2, 3, 4\) \(24 elements\) as \(7, -1\)",
    ),
    (lambda x: x.reshape(5, 5), ValueError, r"\(24 elements\) as \(5, 5\) \(25\)"),
    (lambda x: x.reshape(-1, -1), ValueError, "at most one -1"),
    (lambda x: x.reshape("a"), TypeError, "reshape: expected"),
    (lambda x: x.permute(0, 1), ValueError, r"permute: expected 3 dims for shape \(2, 3, 4\), got 2"),
    (lambda x: x.permute(0, 1, 1), ValueError, "permute: dim 1 appears more than once"),
    (lambda x: x.permute(0, 1, 3), IndexError, r"permute: expected a dim in \[-3, 2\]"),
    (lambda x: x.expand(2, 5, 4), ValueError, r"expand: shape \(2, 3, 4\) cannot become \(2, 5, 4\)"),
    (lambda x: x.expand(4), ValueError, "more dimensions"),
    (lambda x: x.unsqueeze(5), IndexError, r"unsqueeze: expected a dim in \[-4, 3\]"),
    (lambda x: x.narrow(1, 2, 2), IndexError, "narrow: start 2, length 2 do not fit in dim 1"),
    (lambda x: x[2], IndexError, r"expected an index in \[-2, 1\] for dim 0 of shape \(2, 3, 4\), got 2"),
    (lambda x: x[0, 0, 0, 0], IndexError, r"index: 4 indices are too many for shape \(2, 3, 4\)"),
    (lambda x: x[..., ...], IndexError, "at most one Ellipsis"),
    (lambda x: x["a"], TypeError, "index: expected ints, slices"),
    (lambda x: x[1.0], TypeError, "index: expected ints, slices"),
    (lambda x: x[True], TypeError, "index: expected ints, slices"),
    (lambda x: x[ops.ones(2)], IndexError, "expected an integer or bool tensor, got float32"),
    (
        lambda x: x[fc.tensor([0, 2])],
        IndexError,
        r"index_select: expected indices in \[-2, 2\), got 2 at position \(1\)",
    ),
    (lambda x: x[[0, 0], [0, 3]], IndexError, r"index: expected indices in \[-3, 3\) for dim 1.*got 3"),
    (lambda x: x[[0], :, [4]], IndexError, r"index: expected indices in .*got 4"),
    (lambda x: x[::0], ValueError, "zero"),
    (lambda x: ops.slice(x, 0, 0, 1, 0), ValueError, "step != 0"),
    (
        lambda x: ops.cat([x, x[0]]),
        ValueError,
        r"cat: expected shapes equal apart from dim 0, got \(2, 3, 4\) and \(3, 4\)",
    ),
    (lambda x: ops.cat([]), ValueError, "cat: expected at least one tensor"),
    (lambda x: ops.stack([x, x[0]]), ValueError, "stack: expected equal shapes"),
    (lambda x: x.split(0), ValueError, "split: expected a size > 0"),
    (lambda x: x.split([1, 2]), ValueError, "split: sizes add up to 3, dim 0"),
    (lambda x: ops.gather(x, 0, fc.tensor([0])), ValueError, "gather: expected x and index of one rank"),
    (
        lambda x: ops.index_select(x, 0, ops.ones(1)),
        TypeError,
        "index_select: expected an integer index, got float32",
    ),
    (lambda x: ops.pad(x, (1,)), ValueError, "pad: expected pairs"),
    (lambda x: ops.pad(x, (4, 0), "reflect"), ValueError, "reflect needs padding smaller"),
    (lambda x: ops.pad(x, (5, 0), "circular"), ValueError, "circular needs padding no larger"),
    (lambda x: ops.pad(x, (1, 1), "mirror"), ValueError, "pad: expected mode constant, reflect"),
    (lambda x: ops.pad(x, (-3, -3)), ValueError, "leaves less than nothing"),
    (
        lambda x: ops.interpolate(x[0], size=2),
        ValueError,
        r"interpolate: expected x of shape \(N, C, H, W\), got \(3, 4\)",
    ),
    (lambda x: ops.interpolate(x[None]), ValueError, "either size or scale_factor"),
    (lambda x: ops.interpolate(x[None], size=2, mode="cubic"), ValueError, "expected mode nearest"),
    (lambda x: ops.interpolate(x[None], size=2, align_corners=True), ValueError, "align_corners is for"),
    (lambda x: ops.interpolate(x[None], size=0), ValueError, "sizes > 0"),
    (lambda x: ops.pixel_shuffle(x, 2), ValueError, "pixel_shuffle: expected channels divisible by 4"),
    (lambda x: ops.pixel_unshuffle(x, 2), ValueError, "height and width divisible by 2"),
]


@pytest.mark.parametrize("case", range(len(MESSAGES)))
def test_messages(case):
    fn, error, message = MESSAGES[case]
    with pytest.raises(error, match=message):
        fn(ops.zeros(2, 3, 4))


def test_setitem_and_gradients():
    x = ops.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="setitem: a tensor that requires gradients"):
        x[0] = 1
    y = ops.zeros(3)
    with pytest.raises(ValueError, match="gradients do not flow through in-place"):
        y[0] = x[0]
    with pytest.raises(ValueError, match="copy_: shapes .* do not broadcast"):
        y[:2] = ops.ones(3)


GATHERED = [((7,), 0), ((300, 5), 0), ((6, 90), 1), ((3, 7, 70), 1), *[((2, 70, 5, 6), d) for d in range(4)]]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
@pytest.mark.parametrize("shape, dim", GATHERED)
def test_gather_and_its_gradient(shape, dim, whole, isa):  # noqa: F811
    rng = np.random.default_rng([dim, *shape])
    size = [9 if d == dim else n if whole else max(1, n - 1) for d, n in enumerate(shape)]
    index = rng.integers(0, shape[dim], size)
    part = tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(size))
    ids = fc.tensor(index)
    compare(lambda x: ops.gather(x, dim, ids), lambda x: torch.gather(x, dim, torch.from_numpy(index)), [rand(*shape)])
    for dtype in ("bool", "float64", "bfloat16"):  # values move unchanged, whatever they are
        x = rand(*shape) > 0 if dtype == "bool" else np.round(rand(*shape), 1).astype(np.float32)
        t = fc.tensor(x).to(dtype)
        want = np.take_along_axis(t.to("float32").numpy()[part], index, dim)
        np.testing.assert_array_equal(ops.gather(t, dim, ids).to("float32").numpy(), want)


@pytest.mark.parametrize("places", [([0, 1], [0, 4]), ([0, 3], [0, 0]), ([-4, 0], [1, 1]), ([0, 1], [-5, 3])])
def test_index_arrays_out_of_range_raise_in_plans_too(places):
    _, t = counted((3, 4, 2))
    pick = compile(lambda x, i, j: x[i, j])
    good = [fc.tensor([0, -3, 2]), fc.tensor([3, -4, -1])]
    assert pick(t, *good).tolist() == t[tuple(good)].tolist()
    with pytest.raises(IndexError, match="expected indices"):
        pick(t, *map(fc.tensor, places)).numpy()
    assert pick(t, *good).tolist() == t[tuple(good)].tolist()
