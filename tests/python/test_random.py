"""Random tensors: seeds, streams, moments, and equality of numbers on every ISA."""

from __future__ import annotations

import numpy as np
import pytest
from fastcnn import _core as fc
from fastcnn import compile

ops = fc.ops
DTYPES = ["float32", "float64", "bfloat16", "float16"]


def draws(dtype="float32"):
    return [
        ops.rand(3, 5, dtype=dtype),
        ops.randn(2, 3, 4, 5, dtype=dtype),
        ops.randint(-3, 9, (7,)),
        ops.rand(1, dtype=dtype),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_seed_fixes_the_numbers_on_every_isa(dtype):
    before, results = fc.isa(), []
    try:
        for name in fc.available_isas():
            fc.set_isa(name)
            ops.manual_seed(42)
            results.append([t.to("float64").numpy() for t in draws(dtype)])
    finally:
        fc.set_isa(before)
    for other in results[1:]:
        for i, (a, b) in enumerate(zip(results[0], other, strict=True)):
            # Uniforms and integers are exact; the logarithm and cosine of normals may differ a little.
            np.testing.assert_allclose(a, b, rtol=1e-5 if i == 1 else 0, atol=1e-5 if i == 1 else 0)


def test_threads_do_not_matter():
    before, results = fc.get_num_threads(), []
    try:
        for n in (1, 2):
            fc.set_num_threads(n)
            ops.manual_seed(1)
            results.append(ops.randn(300, 200).numpy())
    finally:
        fc.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_streams_move_on_and_seeds_differ():
    ops.manual_seed(7)
    a, b = ops.rand(1000), ops.rand(1000)
    assert (a != b).any().item()
    state = ops.random_state()
    assert state.tolist() == [7, 2]
    ops.manual_seed(8)
    c = ops.rand(1000)
    assert (a != c).any().item() and state.tolist() == [8, 1]  # the state itself, not a copy
    ops.manual_seed(7)
    assert (ops.rand(1000) == a).all().item()
    state.copy_(fc.tensor([7, 1]))  # state can be saved and restored
    assert (ops.rand(1000) == b).all().item()
    ops.manual_seed(2**64 - 1)
    assert np.isfinite(ops.rand(3).numpy()).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(dtype):
    ops.manual_seed(3)
    u = ops.rand(100_000, dtype=dtype).to("float64").numpy()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.003
    n = ops.randn(100_000, dtype=dtype).to("float64").numpy()
    assert abs(n.mean()) < 0.015 and abs(n.std() - 1) < 0.015 and abs((n**4).mean() - 3) < 0.15
    assert abs(np.corrcoef(n[::2], n[1::2])[0, 1]) < 0.02  # both halves of Box-Muller


def test_randint():
    ops.manual_seed(4)
    x = ops.randint(-2, 4, (60_000,))
    counts = np.bincount(x.numpy() + 2, minlength=6)
    assert str(x.dtype) == "int64" and counts.size == 6 and abs(counts - 10_000).max() < 500
    assert ops.randint(3, (2, 2)).shape == (2, 2) and ops.randint(5, 6, (3,)).tolist() == [5, 5, 5]
    assert str(ops.randint(0, 3, (2,), dtype="uint8").dtype) == "uint8"
    with pytest.raises(ValueError, match="randint: expected low < high, got low=3 high=3"):
        ops.randint(3, 3, (2,))
    with pytest.raises(TypeError, match="rand: expected a floating dtype, got int64"):
        ops.rand(3, dtype="int64")
    with pytest.raises(TypeError, match="randn: expected a floating dtype, got bool"):
        ops.randn(3, dtype="bool")


def test_like_variants():
    x = ops.zeros(2, 3, dtype="float64")
    assert ops.rand_like(x).shape == (2, 3) and str(ops.randn_like(x).dtype) == "float64"
    assert ops.randn(2, requires_grad=True).requires_grad


def test_bernoulli_draws_with_its_probabilities():
    ops.manual_seed(5)
    p = fc.tensor(np.repeat(np.float32([0, 0.25, 0.9, 1]), 20_000).reshape(4, -1))
    y = ops.bernoulli(p)
    assert y.shape == p.shape and y.dtype == p.dtype and np.isin(y.numpy(), (0, 1)).all()
    np.testing.assert_allclose(y.numpy().mean(1), [0, 0.25, 0.9, 1], atol=0.015)
    with pytest.raises(ValueError, match=r"bernoulli: expected probabilities in \[0, 1\], got -0.5 to 2"):
        ops.bernoulli(fc.tensor([-0.5, 2.0]))
    draw = compile(lambda x: x + ops.bernoulli(p))  # p from outside, in a plan
    assert set(np.unique((draw(p) - p).numpy().round(5))) == {0, 1}
    with pytest.raises(TypeError, match="bernoulli: expected a floating dtype, got int64"):
        ops.bernoulli(fc.tensor([1, 0]))


def test_randperm_is_a_permutation_that_follows_the_seed():
    ops.manual_seed(6)
    first = ops.randperm(1000)
    assert str(first.dtype) == "int64" and sorted(first.tolist()) == list(range(1000)) != first.tolist()
    assert ops.randperm(1000).tolist() != first.tolist()
    ops.manual_seed(6)
    assert ops.randperm(1000).tolist() == first.tolist()
    assert ops.randperm(0).shape == (0,) and ops.randperm(1).tolist() == [0]
    places = np.array([ops.randperm(3).tolist() for _ in range(600)])
    assert (np.abs((places == 0).sum(0) - 200) < 60).all()
    with pytest.raises(ValueError, match="randperm: expected n >= 0, got -1"):
        ops.randperm(-1)
    assert sorted(ops.randperm(256, dtype="uint8").tolist()) == list(range(256))
    for dtype, n in (("uint8", 257), ("float16", 2050), ("bfloat16", 258)):
        with pytest.raises(ValueError, match=f"randperm: {dtype} holds no {n} different whole numbers"):
            ops.randperm(n, dtype=dtype)
    with pytest.raises(TypeError, match="randperm: expected a dtype of numbers, got bool"):
        ops.randperm(3, dtype="bool")
