"""affine_sample against torch: free points, fills, resizes with antialias, colour, normalisation, bad input."""

import colorsys

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import ops

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def images(n=3, h=20, w=26, c=3, seed=0):
    smooth = np.random.default_rng(seed).random((n, c, (h + 7) // 4, (w + 7) // 4)).astype(np.float32)
    big = functional.interpolate(torch.from_numpy(smooth), (h, w), mode="bilinear", align_corners=True).numpy()
    return np.ascontiguousarray(big.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def matrices(n, h, w, seed=1):
    rng = np.random.default_rng(seed)
    m = np.zeros((n, 2, 3), np.float32)
    for k in range(n):
        a, s = rng.uniform(-3, 3), rng.uniform(0.6, 1.4)
        turn = s * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        centre = np.array([(w - 1) / 2, (h - 1) / 2])
        m[k, :, :2], m[k, :, 2] = turn, centre - turn @ centre + rng.uniform(-3, 3, 2)
    return m


def torch_grid(m, h, w):
    """The points of the matrices as grid_sample wants them."""
    y, x = np.mgrid[:h, :w].astype(np.float64)
    points = np.einsum("nij,jhw->nhwi", m.astype(np.float64), np.stack([x, y, np.ones_like(x)]))
    return torch.from_numpy(((points + 0.5) * 2 / np.array([w, h]) - 1).astype(np.float32))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("fill_mode, padding", [("constant", "zeros"), ("edge", "border")])
@pytest.mark.parametrize("c", [1, 3, 5])
def test_equals_torch_grid_sample(mode, fill_mode, padding, c):
    x, m = images(c=c), matrices(3, 20, 26)
    got = ops.affine_sample(fc.tensor(x), fc.tensor(m), mode=mode, fill_mode=fill_mode).numpy()
    expect = functional.grid_sample(
        torch.from_numpy(x.copy()), torch_grid(m, 20, 26), mode, padding, align_corners=False
    ).numpy()
    different = np.abs(got - expect) > 2e-4
    assert different.mean() < (0.002 if mode == "nearest" else 1e-9)  # ties of nearest may fall either way


@pytest.mark.parametrize("fill_mode", ["edge", "reflect", "symmetric", "constant"])
def test_whole_moves_and_mirrors_equal_numpy_pad(fill_mode):
    x = (images() * 255).astype(np.uint8)
    kwargs = {"constant_values": 9} if fill_mode == "constant" else {}
    padded = np.pad(x, ((0, 0), (0, 0), (5, 5), (7, 7)), mode=fill_mode, **kwargs)
    m = np.tile(np.float32([[1, 0, -7], [0, 1, -5]]), (3, 1, 1))
    m[1] = [[-1, 0, 25 + 7], [0, 1, -5]]
    m[2] = [[1, 0, -7], [0, -1, 19 + 5]]
    for matrix in (m, m + np.float32(1e-4) * (np.arange(6, dtype=np.float32).reshape(2, 3) % 2)):  # copied, and sampled
        got = ops.affine_sample(
            fc.tensor(x), fc.tensor(matrix), (30, 40), mode="nearest", fill_mode=fill_mode, fill=9
        ).numpy()
        np.testing.assert_array_equal(got[0], padded[0])
        np.testing.assert_array_equal(got[1], padded[1, :, :, ::-1])
        np.testing.assert_array_equal(got[2], padded[2, :, ::-1])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(9, 11), (33, 40), (20, 13)])
def test_antialias_equals_torch_resize(mode, size):
    x = images()
    m = np.zeros((3, 2, 3), np.float32)
    m[:, 0, 0], m[:, 1, 1] = 26 / size[1], 20 / size[0]
    m[:, 0, 2], m[:, 1, 2] = m[:, 0, 0] / 2 - 0.5, m[:, 1, 1] / 2 - 0.5
    got = ops.affine_sample(fc.tensor(x), fc.tensor(m), size, mode=mode, antialias=True).numpy()
    expect = functional.interpolate(torch.from_numpy(x.copy()), size, mode=mode, antialias=True).numpy()
    np.testing.assert_allclose(got, expect, atol=2e-4)


def test_perspective_and_displacement_are_points_of_the_input():
    x = images(2)
    m = np.tile(np.eye(3, dtype=np.float32), (2, 1, 1))
    m[:, 2, :2], m[:, :2, 2] = [0.004, -0.003], [[1, 2], [-2, 1]]
    d = np.random.default_rng(3).normal(0, 1, (2, 2, 20, 26)).astype(np.float32)
    got = ops.affine_sample(fc.tensor(x), fc.tensor(m), fill_mode="edge", displacement=fc.tensor(d)).numpy()
    row, col = np.mgrid[:20, :26].astype(np.float64)
    p = np.einsum("nij,jhw->nhwi", m.astype(np.float64), np.stack([col, row, np.ones_like(col)]))
    p = p[..., :2] / p[..., 2:] + d.transpose(0, 2, 3, 1)
    grid = torch.from_numpy(((p + 0.5) * 2 / np.array([26, 20]) - 1).astype(np.float32))
    expect = functional.grid_sample(
        torch.from_numpy(x.copy()), grid, "bilinear", "border", align_corners=False
    ).numpy()
    np.testing.assert_allclose(got, expect, atol=3e-4)


def test_color_stages_means_and_hue():
    x = images(2)
    stage = np.zeros((2, 2, 22), np.float32)
    stage[:, :, [0, 4, 8]] = 1
    stage[1, 0, [0, 4, 8]] = 1.5  # contrast of image 1 around its mean grey
    gray = np.float32([0.299, 0.587, 0.114])
    stage[1, 0, 9:18] = -0.5 * np.tile(gray, 3)
    stage[0, 0, 21] = 0.2  # hue of image 0
    stage[0, 1, 18:21] = 0.1  # then brighter
    eye = np.tile(np.float32([[1, 0, 0], [0, 1, 0]]), (2, 1, 1))
    got = ops.affine_sample(fc.tensor(x), fc.tensor(eye), color=fc.tensor(stage), mean=[0.1, 0.2, 0.3], std=0.5).numpy()
    expect = np.empty_like(x)
    for r in range(20):
        for q in range(26):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, r, q])
            expect[0, :, r, q] = np.clip(np.float32(colorsys.hsv_to_rgb((h + 0.2) % 1, s, v)) + 0.1, 0, 1)
    mean = np.tensordot(gray, x[1].mean((1, 2)), 1)
    expect[1] = np.clip(1.5 * x[1] - 0.5 * mean, 0, 1)
    expect = (expect - np.float32([0.1, 0.2, 0.3])[:, None, None]) / 0.5
    np.testing.assert_allclose(got, expect, atol=2e-4)


X, M = fc.zeros(2, 3, 4, 4), fc.zeros(2, 2, 3)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, r"\(N, C, H, W\)", lambda: ops.affine_sample(fc.zeros(3, 4, 4), M)),
        (TypeError, "uint8 or float32", lambda: ops.affine_sample(fc.zeros(2, 3, 4, 4, dtype=fc.int64), M)),
        (ValueError, r"matrix of shape", lambda: ops.affine_sample(X, fc.zeros(3, 2, 3))),
        (ValueError, "size", lambda: ops.affine_sample(X, M, 0)),
        (ValueError, "mode", lambda: ops.affine_sample(X, M, mode="best")),
        (ValueError, "fill_mode", lambda: ops.affine_sample(X, M, fill_mode="wrap")),
        (ValueError, "fill of 3", lambda: ops.affine_sample(X, M, fill=[1.0, 2.0])),
        (TypeError, "fill as a number", lambda: ops.affine_sample(X, M, fill="red")),
        (ValueError, "antialias", lambda: ops.affine_sample(X, M, mode="nearest", antialias=True)),
        (ValueError, "color of shape", lambda: ops.affine_sample(X, M, color=fc.zeros(2, 1, 12))),
        (ValueError, "displacement", lambda: ops.affine_sample(X, M, displacement=fc.zeros(2, 2, 4, 5))),
        (ValueError, "std > 0", lambda: ops.affine_sample(X, M, std=0.0)),
        (ValueError, "no gradient", lambda: ops.affine_sample(fc.zeros(2, 3, 4, 4, requires_grad=True), M)),
    ],
)
def test_bad_input_names_the_op(error, message, call):
    with pytest.raises(error, match=f"affine_sample.*{message}"):
        call()
