"""How op tests compare with PyTorch: values, gradients, second gradients and finite differences.

What it is not: tests. Ops run on every ISA of the machine through the `isa` fixture of the test files.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastcnn import _core as fc

torch.set_num_threads(1)  # tiny operands: its threads would only wait for each other
ISAS = fc.available_isas()


@pytest.fixture(params=ISAS)
def isa(request):
    """Runs the test with the kernels of one ISA."""
    before = fc.isa()
    fc.set_isa(request.param)
    yield request.param
    fc.set_isa(before)


def rand(*shape, low=-2.0, high=2.0, seed=0):
    """The same numbers for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


def to_numpy(t):
    """A NumPy array of either library's tensor, float64 where it is floating."""
    if isinstance(t, torch.Tensor):
        t = t.detach()
        return t.double().numpy(force=True) if t.dtype.is_floating_point else t.numpy()
    a = t.detach()
    return a.to("float64").numpy() if a.dtype.is_floating_point else a.numpy()


def same(got, want, rtol, atol, what="value"):
    """Shapes equal, values close, NaN and infinities in the same places."""
    got, want = to_numpy(got), to_numpy(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, PyTorch has {want.shape}"
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=what)


def _leaves(arrays, dtype):
    ours, theirs = [], []
    for a in arrays:
        a = np.asarray(a)
        if a.dtype.kind == "f":
            a = a.astype(np.float64)
            theirs.append(torch.tensor(a).to(getattr(torch, dtype)).requires_grad_())
            ours.append(fc.tensor(to_numpy(theirs[-1])).to(dtype).detach().requires_grad_())
        else:
            theirs.append(torch.tensor(a))
            ours.append(fc.tensor(a))
    return ours, theirs


def compare(ours, theirs, arrays, dtype="float32", rtol=None, atol=None, double=False, seed=0):
    """ours(*tensors) and theirs(*tensors) agree in value, gradient and, with double, second gradient."""
    tolerance = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 2e-2, "float16": 3e-3}[dtype]
    rtol, atol = tolerance if rtol is None else rtol, tolerance if atol is None else atol
    x, x_torch = _leaves(arrays, dtype)
    y, y_torch = ours(*x), theirs(*x_torch)
    same(y, y_torch, rtol, atol)
    if not y_torch.requires_grad:
        assert not y.requires_grad
        return
    rng = np.random.default_rng(seed)
    w = torch.tensor(rng.standard_normal(y_torch.shape)).to(y_torch.dtype)
    w_ours = fc.tensor(to_numpy(w)).to(y.dtype)
    pairs = [(a, b) for a, b in zip(x, x_torch, strict=True) if b.requires_grad]
    g_torch = torch.autograd.grad(y_torch, [b for _, b in pairs], w, create_graph=double, allow_unused=True)
    g = fc.grad(y, [a for a, _ in pairs], w_ours, create_graph=double, allow_unused=True)
    for i, (a, b) in enumerate(zip(g, g_torch, strict=True)):
        if b is None:
            assert a is None or not to_numpy(a).any(), f"gradient {i}: PyTorch has none"
            continue
        assert a is not None, f"gradient {i} is missing"
        same(a, b, rtol, atol, f"gradient of input {i}")
    if not double:
        return
    v = [torch.tensor(rng.standard_normal(b.shape)).to(b.dtype) for b in g_torch]
    s_torch = sum((a * b).sum() for a, b in zip(g_torch, v, strict=True))
    s = sum((a * fc.tensor(to_numpy(b)).to(a.dtype)).sum() for a, b in zip(g, v, strict=True))
    if not s_torch.requires_grad:
        return
    h_torch = torch.autograd.grad(s_torch, [b for _, b in pairs], allow_unused=True)
    if not s.requires_grad:
        assert all(b is None or not b.abs().max() > 0 for b in h_torch), "no second gradient"
        return
    h = fc.grad(s, [a for a, _ in pairs], allow_unused=True)
    for i, (a, b) in enumerate(zip(h, h_torch, strict=True)):
        a = np.zeros(pairs[i][1].shape) if a is None else to_numpy(a)
        b = np.zeros(pairs[i][1].shape) if b is None else to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"second gradient of input {i}")


def finite_differences(fn, arrays, eps=1e-6, tolerance=1e-6, seed=0):
    """The gradient of fn in float64 against central differences in every input element."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(a, dtype=np.float64) for a in arrays]
    x = [fc.tensor(a).requires_grad_() for a in arrays]
    y = fn(*x)
    w = rng.standard_normal(y.shape)
    grads = fc.grad(y, x, fc.tensor(w), allow_unused=True)
    for i, (a, g) in enumerate(zip(arrays, grads, strict=True)):
        want = np.zeros_like(a)
        for at in np.ndindex(a.shape):
            sides = []
            for sign in (1, -1):
                moved = [b.copy() for b in arrays]
                moved[i][at] += sign * eps
                sides.append(float((fn(*[fc.tensor(b) for b in moved]).numpy() * w).sum()))
            want[at] = (sides[0] - sides[1]) / (2 * eps)
        got = np.zeros_like(a) if g is None else g.numpy()
        np.testing.assert_allclose(
            got, want, rtol=tolerance, atol=tolerance, err_msg=f"gradient of input {i}"
        )
