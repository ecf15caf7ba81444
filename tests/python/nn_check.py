"""How tests of network ops compare: with PyTorch in float64 on the same values, and with finite differences.

Not a test itself. The reference is always computed in float64 on the values as rounded to the dtype under
test, so that one bound per dtype holds for value, gradients and second gradients.
"""

import contextlib

import numpy as np
import pytest

fastcnn = pytest.importorskip("fastcnn")
core = fastcnn._core
torch = pytest.importorskip("torch")
ops = core.ops
torch.set_num_threads(1)  # tiny operands: its threads would only wait for each other

BEST = core.available_isas()[0]
ISAS = core.available_isas()
# float32 has kernels per ISA; other dtypes take the references or conversions of the best one.
BACKENDS = [("float32", isa) for isa in ISAS] + [("float64", BEST), ("bfloat16", BEST)]
TOLERANCE = {"float64": 1e-10, "float32": 3e-5, "bfloat16": 4e-2}

each_backend = pytest.mark.parametrize("dtype, isa", BACKENDS, ids=[f"{d}-{i}" for d, i in BACKENDS])
each_isa = pytest.mark.parametrize("isa", ISAS)


@contextlib.contextmanager
def use_isa(isa):
    before = core.isa()
    core.set_isa(isa)
    try:
        yield
    finally:
        core.set_isa(before)


def tensor(array, dtype="float64", requires_grad=False):
    """A tensor of dtype; with requires_grad a leaf of that dtype."""
    return core.tensor(np.asarray(array), dtype=core.dtype(dtype), requires_grad=requires_grad)


def array(t):
    """The values in float64."""
    return np.array(t.detach().to(core.float64).numpy())


def randn(shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def distinct(shape, seed=0):
    """Values far from each other and from 0, 1, 3, 6: no ties in a maximum, no step over a kink."""
    n = int(np.prod(shape))
    values = (np.arange(n) - n / 2 + 0.37) * (8.0 / max(n, 1))
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def assert_close(got, want, tolerance, what):
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if got.size == 0:
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=what)
    scale = max(1.0, np.nanmax(np.abs(want)))
    error = np.nanmax(np.abs(got - want)) / scale
    assert error <= tolerance, f"{what}: error {error:.3g} of the largest value, allowed {tolerance:.3g}"


def check_against_torch(
    fn, torch_fn, arrays, dtype="float64", isa=BEST, second=True, tolerance=None, needs_grad=None
):
    """fn(*tensors) and torch_fn(*tensors): value, gradients and gradients of the gradients."""
    tolerance = tolerance or TOLERANCE[dtype]
    needs_grad = needs_grad or [True] * len(arrays)
    with use_isa(isa):
        leaves = [tensor(a, dtype, g) for a, g in zip(arrays, needs_grad)]
        refs = [torch.tensor(array(t), requires_grad=g) for t, g in zip(leaves, needs_grad)]
        y, ty = fn(*leaves), torch_fn(*refs)
        assert str(y.dtype) == dtype
        assert_close(array(y), ty.detach().numpy(), tolerance, "value")
        dy = tensor(randn(tuple(ty.shape), 1), dtype, True)
        tdy = torch.tensor(array(dy), requires_grad=True)
        inputs = [t for t, g in zip(leaves, needs_grad) if g]
        tinputs = [t for t, g in zip(refs, needs_grad) if g]
        grads = core.grad([y], inputs, [dy], create_graph=second)
        tgrads = torch.autograd.grad(ty, tinputs, tdy, create_graph=second)
        for i, (g, tg) in enumerate(zip(grads, tgrads)):
            assert g.dtype == inputs[i].dtype
            assert_close(array(g), tg.detach().numpy(), tolerance, f"gradient {i}")
        if not second:
            return
        pairs = [(g, tg) for g, tg in zip(grads, tgrads) if tg.requires_grad]
        if not pairs:
            return
        us = [tensor(randn(tuple(tg.shape), 2 + i), dtype) for i, (_, tg) in enumerate(pairs)]
        second_grads = core.grad([g for g, _ in pairs], [*inputs, dy], us, allow_unused=True)
        tus = [torch.tensor(array(u)) for u in us]
        tsecond = torch.autograd.grad([tg for _, tg in pairs], [*tinputs, tdy], tus, allow_unused=True)
        for i, (g, tg) in enumerate(zip(second_grads, tsecond)):
            want = np.zeros([*inputs, dy][i].shape) if tg is None else tg.numpy()
            got = np.zeros(want.shape) if g is None else array(g)
            assert_close(got, want, 4 * tolerance, f"second gradient {i}")


def check_finite_differences(fn, arrays, step=1e-5, tolerance=2e-6):
    """The gradient along one random direction against a central difference, in float64."""
    leaves = [tensor(a, "float64", True) for a in arrays]
    y = fn(*leaves)
    dy = randn(y.shape, 1)
    grads = core.grad([y], leaves, [tensor(dy)])
    directions = [randn(a.shape, 7 + i) for i, a in enumerate(arrays)]
    along = sum(float((array(g) * d).sum()) for g, d in zip(grads, directions))

    def value(sign):
        moved = [tensor(a + sign * step * d) for a, d in zip(arrays, directions)]
        return float((array(fn(*moved)) * dy).sum())

    numeric = (value(1) - value(-1)) / (2 * step)
    assert along == pytest.approx(numeric, rel=tolerance, abs=tolerance * max(1.0, np.abs(dy).sum()))


def losses_in_steps(net, x, y, compiled, lr=0.1, steps=30):
    """Losses of a net that learns classes y of x with SGD, eager or in a plan."""
    optimizer = fastcnn.optim.SGD(net.parameters(), lr, momentum=0.9)

    def step(x, y):
        loss = ops.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = fastcnn.compile(step) if compiled else step
    return [step(core.tensor(x), core.tensor(y)).item() for _ in range(steps)]
