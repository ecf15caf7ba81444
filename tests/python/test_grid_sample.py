"""grid_sample against torch: modes, borders, corners, gradients to image and grid, points at infinity, bad input."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import ops
from nn_check import check_finite_differences

torch = pytest.importorskip("torch")
sample = torch.nn.functional.grid_sample

MODES = ["bilinear", "nearest", "bicubic"]
PADDINGS = ["zeros", "border", "reflection"]


def operands(n=2, c=3, h=5, w=7, oh=6, ow=4, reach=1.7, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, c, h, w)).astype(dtype)
    return x, rng.uniform(-reach, reach, (n, oh, ow, 2)).astype(dtype)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_equal_torch(mode, padding, align):
    for seed, reach in enumerate((0.9, 1.7, 9.0)):
        x, grid = operands(reach=reach, seed=seed)
        tx, tg = (torch.tensor(a, requires_grad=True) for a in (x, grid))
        want = sample(tx, tg, mode=mode, padding_mode=padding, align_corners=align)
        fx, fg = (fc.tensor(a, requires_grad=True) for a in (x, grid))
        got = ops.grid_sample(fx, fg, mode, padding, align)
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-10, atol=1e-11)
        dy = np.random.default_rng(9).standard_normal(want.shape)
        want.backward(torch.from_numpy(dy))
        got.backward(fc.tensor(dy))
        np.testing.assert_allclose(fx.grad.numpy(), tx.grad.numpy(), rtol=1e-9, atol=1e-10)
        if mode != "nearest":
            np.testing.assert_allclose(fg.grad.numpy(), tg.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_second_derivatives_by_finite_differences(mode):
    x, grid = operands(n=1, c=2, h=4, w=4, oh=3, ow=2, reach=0.7, seed=4)
    check_finite_differences(lambda x, g: ops.grid_sample(x, g, mode, "border", True), [x, grid])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_narrower_images(dtype, tolerance):
    x, grid = operands(dtype=np.float32)
    got = ops.grid_sample(fc.tensor(x).to(getattr(fc, dtype)), fc.tensor(grid))
    assert got.dtype == getattr(fc, dtype)
    want = sample(torch.from_numpy(x), torch.from_numpy(grid), align_corners=False).numpy()
    np.testing.assert_allclose(got.to(fc.float32).numpy(), want, rtol=tolerance, atol=tolerance)


def test_compiled_equals_eager_and_one_pixel_images():
    x, grid = operands(dtype=np.float32)
    tensors = [*map(fc.tensor, (x, grid))]

    def f(x, grid):
        return ops.grid_sample(x, grid, "bicubic", "reflection")

    compiled = fc.compile(f)
    for _ in range(2):
        np.testing.assert_array_equal(compiled(*tensors).numpy(), f(*tensors).numpy())
    one = operands(h=1, w=1)
    for padding in PADDINGS:
        for align in (False, True):
            want = sample(*map(torch.from_numpy, one), padding_mode=padding, align_corners=align).numpy()
            got = ops.grid_sample(*map(fc.tensor, one), "bilinear", padding, align).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_points_nowhere_do_no_harm(mode, padding):
    x = fc.tensor(np.ones((1, 2, 4, 4), np.float32))

    def at(points):
        grid = np.zeros((1, len(points), 2, 2), np.float32)
        grid[0, :, 0, 0] = grid[0, :, 1, 1] = points  # one coordinate of each point is that, the other 0
        return ops.grid_sample(x, fc.tensor(grid), mode, padding).numpy()[0]

    far, nowhere = at([1e30, -1e30, 3e9]), at([np.nan, np.inf, -np.inf])
    outside = 0 if padding == "zeros" else 1
    np.testing.assert_allclose(far, outside, rtol=1e-6)
    if padding == "zeros":
        assert (nowhere == 0).all()
    np.testing.assert_allclose(at([0.0]), 1, rtol=1e-6)


BAD = [
    (lambda x, g: ops.grid_sample(x, g[:1]), ValueError, r"grid_sample: expected grid of shape \(2, h, w, 2\)"),
    (lambda x, g: ops.grid_sample(x[0], g), ValueError, "expected x of shape"),
    (lambda x, g: ops.grid_sample(x, g, "cubic"), ValueError, "mode bilinear, nearest or bicubic, got 'cubic'"),
    (lambda x, g: ops.grid_sample(x, g, "nearest", "edge"), ValueError, "padding_mode zeros, border or reflection"),
    (lambda x, g: ops.grid_sample(x.to(fc.int64), g), TypeError, "expected x of a floating dtype"),
    (lambda x, g: ops.grid_sample(x[:, :, :0], g), ValueError, "at least 1x1"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(*map(fc.tensor, operands()))
