"""Ops on boxes: nms, box_iou, roi_align and ciou_loss against torchvision, gradients, plans, messages."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
tvops = pytest.importorskip("torch_boxes").torchvision().ops

from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile as fc_compile  # noqa: E402
from torch_compare import compare, finite_differences, isa, same  # noqa: E402, F401

ops = fc.ops


def boxes(n, seed=0, extent=100.0, side=40.0, dtype=np.float32):
    rng = np.random.default_rng([seed, n])
    low = rng.uniform(0, extent, (n, 2))
    return np.concatenate([low, low + rng.uniform(0.1, side, (n, 2))], 1).astype(dtype)


def scores(n, seed=1):
    return np.random.default_rng([seed, n]).uniform(0, 1, n).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_nms_keeps_what_torchvision_keeps_in_its_order(isa, threshold):  # noqa: F811
    for n in (0, 1, 30, 800):
        b, s = boxes(n), scores(n)
        s[::7] = 0.5  # ties
        want = tvops.nms(torch.tensor(b), torch.tensor(s), threshold).numpy()
        np.testing.assert_array_equal(ops.nms(fc.tensor(b), fc.tensor(s), threshold).numpy(), want)
        group = np.random.default_rng(2).integers(0, 5, n)
        want = tvops.boxes._batched_nms_vanilla(
            torch.tensor(b), torch.tensor(s), torch.tensor(group), threshold
        ).numpy()
        got = ops.nms(fc.tensor(b), fc.tensor(s), threshold, fc.tensor(group)).numpy()
        assert sorted(got) == sorted(want) and (np.diff(s[got]) <= 0).all()


def test_nms_of_overlaps_that_equal_the_threshold_is_torchvisions(isa):  # noqa: F811
    rng = np.random.default_rng(0)
    low = rng.integers(0, 12, (300, 2))
    b = np.concatenate([low, low + rng.integers(1, 10, (300, 2))], 1).astype(np.float32)  # IoUs are simple fractions
    for threshold in (0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.7):
        want = tvops.nms(torch.tensor(b), torch.tensor(scores(300)), threshold).numpy()
        np.testing.assert_array_equal(ops.nms(fc.tensor(b), fc.tensor(scores(300)), threshold).numpy(), want)


def test_nms_of_a_fixed_size_compiles_and_without_one_says_so():
    b, s = fc.tensor(boxes(50)), fc.tensor(scores(50))
    whole = ops.nms(b, s, 0.3).numpy()
    for size in (3, 50, 70):
        want = np.concatenate([whole[:size], np.full(max(0, size - len(whole)), -1)])
        plan = fc_compile(lambda b, s, size=size: ops.nms(b, s, 0.3, max_output=size))
        for _ in range(2):
            np.testing.assert_array_equal(plan(b, s).numpy(), want)
    with pytest.raises(ValueError, match="nms: how many boxes are kept is not known while compile traces"):
        fc_compile(lambda b, s: ops.nms(b, s, 0.3))(b, s)


def test_box_iou_is_torchvisions(isa):  # noqa: F811
    for n, m in [(0, 3), (3, 0), (1, 1), (20, 33)]:
        a, b = boxes(n, dtype=np.float64), boxes(m, 1, dtype=np.float64)
        compare(ops.box_iou, tvops.box_iou, [a, b])
        compare(ops.box_iou, tvops.box_iou, [a, b], "float64", double=n * m > 1)
    finite_differences(ops.box_iou, [boxes(4, dtype=np.float64), boxes(3, 1, dtype=np.float64)], tolerance=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_ciou_loss_is_torchvisions(reduction):
    a, b = boxes(40, extent=10, side=10, dtype=np.float64), boxes(40, 1, 10, 10, np.float64)
    for dtype in ("float32", "float64"):
        compare(
            lambda x, y: ops.ciou_loss(x, y, reduction),
            lambda x, y: tvops.complete_box_iou_loss(x, y, reduction),
            [a, b],
            dtype,
        )
    same(ops.ciou_loss(fc.tensor(a), fc.tensor(a), "none"), torch.zeros(40), 0, 1e-6)


def rois(n, images, seed=3):
    """Within images of 36 x 46 pixels."""
    b = boxes(n, seed, 18, 18, np.float64)
    return np.concatenate([np.random.default_rng(seed).integers(0, images, (n, 1)), b], 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_align_is_torchvisions(isa, ratio, aligned):  # noqa: F811
    for channels, size in [(3, (7, 7)), (20, (2, 5)), (1, (1, 1))]:
        x, r = np.random.default_rng(0).standard_normal((2, channels, 11, 14)), rois(9, 2)
        for dtype in ("float32", "float64"):
            compare(
                lambda x, r=r, d=dtype, s=size: ops.roi_align(x, fc.tensor(r).to(d), s, 0.3, ratio, aligned),
                lambda x, r=r, s=size: tvops.roi_align(x, torch.tensor(r).to(x), s, 0.3, ratio, aligned),
                [x],
                dtype,
            )


def test_roi_align_beyond_the_image_is_the_edge_for_a_pixel_and_then_zero(isa):  # noqa: F811
    x = fc.tensor(np.arange(1.0, 17.0, dtype=np.float32).reshape(1, 1, 4, 4))
    at = [(-0.5, 1.0, 5.0), (-1.5, 1.0, 0.0), (3.9, 2.0, 12.0), (4.2, 2.0, 0.0)]  # x, y, value at that point
    r = np.array([[0, px - 0.5, py - 0.5, px + 0.5, py + 0.5] for px, py, _ in at], np.float32)
    got = ops.roi_align(x, fc.tensor(r), 1, 1.0, 1, False).numpy().reshape(-1)
    np.testing.assert_allclose(got, [v for _, _, v in at])
    y = fc.tensor(np.ones((1, 1, 4, 4))).requires_grad_()
    finite_differences(lambda y: ops.roi_align(y, fc.tensor(r.astype(np.float64)), 2, aligned=True), [y.numpy()])


def test_roi_align_takes_lists_of_boxes_and_compiles_with_gradient():
    x = fc.tensor(np.random.default_rng(0).standard_normal((2, 5, 9, 9)).astype(np.float32))
    parts = [boxes(3, extent=5, side=4), boxes(2, 1, 5, 4)]
    joined = np.concatenate([np.concatenate([np.full((len(p), 1), i), p], 1) for i, p in enumerate(parts)])
    joined = fc.tensor(joined.astype(np.float32))
    y = ops.roi_align(x, joined, 3, aligned=True)
    same(ops.roi_align(x, [fc.tensor(p) for p in parts], 3, aligned=True), torch.tensor(y.numpy()), 0, 0)

    def step(x, r):
        x = x.detach().requires_grad_()
        y = ops.roi_align(x, r, 3, aligned=True)
        return y, fc.grad((y * y).sum(), [x])[0]

    for got, want in zip(fc_compile(step)(x, joined), step(x, joined), strict=True):
        same(got, torch.tensor(want.numpy()), 1e-6, 1e-6)


def test_ops_on_boxes_tell_what_they_expected():
    b, s = fc.tensor(boxes(4)), fc.tensor(scores(4))
    x = ops.zeros((1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"nms: expected boxes of shape \(N, 4\), got \(4, 3\)"):
        ops.nms(b[:, :3], s, 0.5)
    with pytest.raises(ValueError, match=r"nms: expected scores of shape \(4,\).*\(4, 4\), got \(3,\)"):
        ops.nms(b, s[:3], 0.5)
    with pytest.raises(ValueError, match=r"nms: expected iou_threshold in \[0, 1\], got 2"):
        ops.nms(b, s, 2)
    with pytest.raises(TypeError, match="nms: expected groups of an integer dtype, got float32"):
        ops.nms(b, s, 0.5, s)
    with pytest.raises(TypeError, match="box_iou: expected boxes1 of a floating dtype, got int64"):
        ops.box_iou(fc.tensor(np.zeros((2, 4), np.int64)), b)
    with pytest.raises(ValueError, match=r"roi_align: expected boxes of shape \(K, 5\).*got \(4, 4\)"):
        ops.roi_align(x, b, 2)
    bad = np.array([[1, 0, 0, 2, 2]], np.float32)
    with pytest.raises(ValueError, match=r"roi_align: expected numbers of images in \[0, 1\), got 1.*\(box 0\)"):
        ops.roi_align(x, fc.tensor(bad), 2)
    bad[0] = [0, 0, 0, np.nan, 2]
    with pytest.raises(ValueError, match=r"roi_align: expected finite numbers in boxes, got nan \(box 0\)"):
        ops.roi_align(x, fc.tensor(bad), 2)
    with pytest.raises(TypeError, match=r"roi_align: expected boxes as a tensor \(K, 5\) or a list"):
        ops.roi_align(x, 3, 2)
