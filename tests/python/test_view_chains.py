"""Chains of views against NumPy (hypothesis): reshape, permute, slice, expand, flip, select in any order; gradients."""

import fastcnn as fc
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

# Each step draws numbers and makes a valid view of whatever shape it meets: (array, tensor) -> (array, tensor).
LARGEST = 2000  # elements, expand included


def reshape(a, t, draw):
    """Merges two neighbouring dims, splits one, or flattens."""
    shape = list(a.shape)
    kind = draw % 3
    if kind == 0 and len(shape) > 1:
        i = draw // 3 % (len(shape) - 1)
        shape[i : i + 2] = [shape[i] * shape[i + 1]]
    elif kind == 1 and shape and len(shape) < 6:
        i = draw // 3 % len(shape)
        parts = [d for d in range(1, shape[i] + 1) if shape[i] % d == 0] or [1]
        d = parts[draw // 7 % len(parts)]
        shape[i : i + 1] = [d, shape[i] // d]
    else:
        shape = [a.size]
    return a.reshape(shape), t.reshape(*shape)


def permute(a, t, draw):
    order = np.random.default_rng(draw).permutation(a.ndim).tolist()
    return a.transpose(order), t.permute(*order)


def cut(a, t, draw):
    """A slice with a step in one dim, at times empty."""
    rng = np.random.default_rng(draw)
    if a.ndim == 0:
        return a, t
    i = int(rng.integers(a.ndim))
    start, stop = (int(v) for v in np.sort(rng.integers(0, a.shape[i] + 1, 2)))
    key = (slice(None),) * i + (slice(start, stop, int(rng.integers(1, 4))),)
    return a[key], t[key]


def select(a, t, draw):
    i = draw % a.ndim if a.ndim else 0
    if a.ndim == 0 or a.shape[i] == 0:
        return a, t
    return a.take(draw // 5 % a.shape[i], i), t.select(i, draw // 5 % a.shape[i])


def expand(a, t, draw):
    """A dim of size 1 repeated, or a new one in front."""
    ones = [i for i, n in enumerate(a.shape) if n == 1]
    times = draw % 3 + 1
    if a.size * times > LARGEST or a.ndim >= 6:
        return a, t
    shape = list(a.shape)
    if ones and draw % 2:
        shape[ones[draw // 2 % len(ones)]] = times
    else:
        shape.insert(0, times)
    return np.broadcast_to(a, shape), t.expand(*shape)


def unsqueeze(a, t, draw):
    i = draw % (a.ndim + 1)
    return (np.expand_dims(a, i), t.unsqueeze(i)) if a.ndim < 6 else (a, t)


def squeeze(a, t, draw):
    return a.squeeze(), t.squeeze()


def flip(a, t, draw):
    return (np.flip(a, draw % a.ndim), t.flip(draw % a.ndim)) if a.ndim else (a, t)


steps = st.lists(
    st.tuples(
        st.sampled_from([reshape, permute, cut, select, expand, unsqueeze, squeeze, flip]), st.integers(0, 1 << 20)
    ),
    max_size=8,
)
shapes = st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple).filter(lambda s: np.prod(s) <= LARGEST)


def chain(value, array, moves):
    for step, draw in moves:
        array, value = step(array, value, draw)
    return array, value


@settings(max_examples=250, deadline=None)
@given(shapes, steps)
def test_chains_of_views_show_what_numpy_shows_and_send_gradients_back(shape, moves):
    count = int(np.prod(shape))
    places = np.arange(count).reshape(shape)
    x = fc.tensor(places.astype(np.float32), requires_grad=True)
    want, got = chain(x, places, moves)
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy(), want.astype(np.float32))
    weights = np.random.default_rng(0).integers(1, 9, want.shape).astype(np.float32)
    (got * fc.tensor(weights)).sum().backward()
    gradient = np.zeros(count, np.float32)
    np.add.at(gradient, want.reshape(-1), weights.reshape(-1))  # an element gets what all of its copies get
    np.testing.assert_array_equal(x.grad.numpy().reshape(-1), gradient)


@settings(max_examples=40, deadline=None)
@given(shapes, steps)
def test_plans_of_chains_give_the_same(shape, moves):
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    want, _ = chain(fc.tensor(array), array, moves)
    step = fc.compile(lambda x: chain(x * 2 + 1, array, moves)[1] * 0.5)
    np.testing.assert_allclose(step(fc.tensor(array)).numpy(), (want * 2 + 1) * 0.5, rtol=1e-6, atol=1e-6)
