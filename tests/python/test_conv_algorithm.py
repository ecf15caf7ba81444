"""fc.set_conv_algorithm: the strict mode, what it chooses, and that compiled functions notice a change."""

import os
import subprocess
import sys

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _core

pytestmark = pytest.mark.skipif(fc.isa() == "ref", reason="the references know no algorithms")


@pytest.fixture(autouse=True)
def restore():
    before = fc.get_conv_algorithm()
    fc.set_conv_algorithm("auto")
    yield
    fc.set_conv_algorithm(before)


def operands(window=3):
    rng = np.random.default_rng(0)
    x = fc.tensor(rng.standard_normal((8, 64, 28, 28)).astype(np.float32), requires_grad=True)
    w = rng.standard_normal((64, 64, window, window)).astype(np.float32) / (8 * window)
    return x, fc.tensor(w, requires_grad=True)


def choices(run):
    _core.record_kernel_choices(True)
    try:
        run()
        return {c for c in _core.take_kernel_choices() if c.startswith("conv2d")}
    finally:
        _core.record_kernel_choices(False)


def three_passes(x, w):
    y = fc.ops.conv2d(x, w, padding=w.shape[2] // 2)
    return [y, *fc.grad([(y * y).sum()], [x, w])]


PASSES = ("conv2d", "conv2d_bwd_data", "conv2d_bwd_weights")


@pytest.mark.parametrize("window", [3, 5])
def test_auto_takes_winograd_and_direct_does_not(window):
    x, w = operands(window)
    assert choices(lambda: three_passes(x, w)) == {f"{p}:winograd" for p in PASSES}
    fast = [g.numpy() for g in three_passes(x, w)]
    fc.set_conv_algorithm("direct")
    assert fc.get_conv_algorithm() == "direct"
    assert choices(lambda: three_passes(x, w)) == {f"{p}:dense" for p in PASSES}
    for a, b in zip(fast, three_passes(x, w), strict=True):
        b = b.numpy()
        assert 0 < np.abs(a - b).max() < 1e-5 * np.abs(b).max()


def test_a_compiled_function_plans_again_and_keeps_both_plans():
    x, w = operands()
    step = fc.compile(lambda x, w: fc.ops.conv2d(x, w, padding=1))
    taken = [choices(lambda: step(x, w))]
    fast = step(x, w).numpy()
    fc.set_conv_algorithm("direct")
    taken.append(choices(lambda: step(x, w)))
    strict = step(x, w).numpy()
    assert [{"conv2d:winograd"}, {"conv2d:dense"}] == taken
    assert np.abs(fast - strict).max() > 0
    fc.set_conv_algorithm("auto")
    assert choices(lambda: step(x, w)) == set()  # the plan of before, nothing is chosen again
    np.testing.assert_array_equal(step(x, w).numpy(), fast)
    assert step.cache_info()["plans"] == 2


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="set_conv_algorithm: expected 'auto' or 'direct', got 'winograd'"):
        fc.set_conv_algorithm("winograd")
    assert fc.get_conv_algorithm() == "auto"


@pytest.mark.parametrize("value, shown", [("direct", "direct"), ("auto", "auto"), ("", "auto"), ("fft", "ValueError")])
def test_environment(value, shown):
    code = (
        "import fastcnn as fc\n"
        "try:\n    print(fc.get_conv_algorithm())\n"
        "except ValueError as e:\n    assert 'FASTCNN_CONV_ALGORITHM' in str(e); print('ValueError')"
    )
    env = {**os.environ, "FASTCNN_CONV_ALGORITHM": value}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == shown
