"""Mixed precision: which dtypes flow through a training step, and that its losses follow PyTorch's bf16 autocast."""

import fastcnn as fc
import numpy as np
import pytest

torch = pytest.importorskip("torch")


def nets(seed=0):
    """The same small residual net twice, with the same weights."""
    tn, fn = torch.nn, fc.nn
    torch.manual_seed(seed)

    def make(n):
        return [
            n.Conv2d(3, 16, 3, padding=1, bias=False), n.BatchNorm2d(16), n.ReLU(),
            n.Conv2d(16, 24, 3, stride=2, padding=1), n.BatchNorm2d(24), n.ReLU(), n.MaxPool2d(3, 2, 1),
            n.Conv2d(24, 30, 1), n.ReLU(), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(30, 5),
        ]  # fmt: skip

    theirs, ours = tn.Sequential(*make(tn)), fn.Sequential(*make(fn))
    ours.load_state_dict({k: fc.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    return theirs, ours


def batch(seed, n=24):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, n)
    x = rng.standard_normal((n, 3, 17, 17)) + y[:, None, None, None] * 0.5
    return x.astype(np.float32), y


@pytest.mark.parametrize("compiled", [True, False])
def test_losses_follow_torch(compiled):
    theirs, ours = nets()
    their_sgd = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    our_sgd = fc.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)

    def step(x, y):
        with fc.autocast(fc.bfloat16):
            out = ours(x)
            loss = fc.ops.cross_entropy(out, y)
        loss.backward()
        our_sgd.step()
        our_sgd.zero_grad()
        return loss

    run = fc.compile(step) if compiled else step
    a, b = [], []
    for i in range(12):
        x, y = batch(i)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        their_sgd.zero_grad()
        loss.backward()
        their_sgd.step()
        a.append(loss.item())
        b.append(run(fc.tensor(x), fc.tensor(y)).item())
    np.testing.assert_allclose(b, a, rtol=0.08, atol=0.02)
    assert a[-1] < 0.7 * a[0] and b[-1] < 0.7 * b[0]
    assert all(p.dtype == fc.float32 for p in ours.parameters())


def test_no_op_of_a_compiled_step_is_left_to_the_reference():
    _, ours = nets()
    sgd = fc.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)

    @fc.compile
    def step(x, y):
        with fc.autocast(fc.bfloat16):
            loss = fc.ops.cross_entropy(ours(x), y)
        loss.backward()
        sgd.step()
        sgd.zero_grad()
        return loss

    x, y = batch(0)
    core = fc._core
    core.record_kernel_choices(True)
    try:
        step(fc.tensor(x), fc.tensor(y))
        choices = set(core.take_kernel_choices())
    finally:
        core.record_kernel_choices(False)
    assert {"conv2d:pairs", "conv2d_bwd_data:pairs", "conv2d_bwd_weights:pairs", "matmul:pairs"} <= choices
    assert "batch_norm:simd" in choices and "batch_norm_bwd:simd" in choices
    slow = {c for c in choices if c.endswith(":ref") or c.endswith("float32")} - {"rng_advance:ref"}
    assert slow <= {"bn_update_running:float32"}, slow


def test_dtypes():
    _, ours = nets()
    x, y = batch(0)
    with fc.autocast(fc.bfloat16):
        out = ours(fc.tensor(x))
        loss = fc.ops.cross_entropy(out, fc.tensor(y))
    assert out.dtype == fc.bfloat16 and loss.dtype == fc.float32
    loss.backward()
    for name, p in ours.named_parameters():
        assert p.grad.dtype == fc.float32, name
    assert fc.ops.relu(fc.tensor(x)).dtype == fc.float32
