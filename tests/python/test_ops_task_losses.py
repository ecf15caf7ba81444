"""Losses of detectors, segmentation, capsules and GANs: against PyTorch, finite differences, plans, messages."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
tvops = pytest.importorskip("fastcnn.bench.augment").import_torchvision().ops

from fastcnn import _core as fc  # noqa: E402
from fastcnn import compile as fc_compile  # noqa: E402
from fastcnn import nn  # noqa: E402
from torch_compare import compare, finite_differences, isa, rand, same  # noqa: E402, F401

ops = fc.ops
REDUCTIONS = ["none", "mean", "sum"]


def boxes(*shape, seed=0, size=10.0):
    corners = rand(*shape, 4, low=0, high=size, seed=seed)
    low, high = corners[..., :2], corners[..., 2:]
    return np.concatenate([np.minimum(low, high), np.maximum(low, high) + 0.1], -1)


def reduced(loss, reduction):
    return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.25])
def test_focal_loss_is_torchvisions(alpha, gamma, reduction):
    hard = (rand(6, 5, seed=1) > 0).astype(np.float64)
    for target in (hard, rand(6, 5, low=0, high=1, seed=2)):
        for dtype in ("float32", "float64"):
            compare(
                lambda x, t=target: ops.focal_loss(x, fc.tensor(t), alpha, gamma, reduction),
                lambda x, t=target: tvops.sigmoid_focal_loss(x, torch.tensor(t).to(x), alpha, gamma, reduction),
                [rand(6, 5, low=-6, high=6)],
                dtype,
                double=dtype == "float64",
            )


def test_focal_loss_of_any_logit_is_finite(isa):  # noqa: F811
    x = fc.tensor(np.array([[-200.0, -30, 0, 30, 200]] * 2, np.float32)).requires_grad_()
    t = fc.tensor(np.array([[0.0] * 5, [1.0] * 5], np.float32))
    for gamma in (0.5, 2.0):
        loss = ops.focal_loss(x, t, gamma=gamma, reduction="none")
        (g,) = fc.grad(loss.sum(), [x])
        assert np.isfinite(loss.numpy()).all() and np.isfinite(g.numpy()).all()
        assert loss.numpy()[0, 0] < 1e-12 and loss.numpy()[1, 4] < 1e-12
        assert loss.numpy()[0, 4] == pytest.approx(0.75 * 200) and loss.numpy()[1, 0] == pytest.approx(50)


def dice_of_torch(x, target, smooth, multilabel, ignore_index, reduction):
    if target.dtype.is_floating_point:
        p, t = (x.sigmoid() if multilabel or x.shape[1] == 1 else x.softmax(1)), target
    else:
        valid = (target != ignore_index).unsqueeze(1)
        p = x.softmax(1) * valid
        t = torch.stack([target == c for c in range(x.shape[1])], 1) * valid
    dims = [0, *range(2, x.ndim)]
    loss = 1 - (2 * (p * t).sum(dims) + smooth) / (p.sum(dims) + t.sum(dims) + smooth)
    return reduced(loss, reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_loss_is_its_formula(reduction, smooth):
    def check(x, target, dtype, multilabel=False, ignore=-100):
        compare(
            lambda x: ops.dice_loss(x, fc.tensor(target), smooth, multilabel, ignore, reduction),
            lambda x: dice_of_torch(x, torch.tensor(target), smooth, multilabel, ignore, reduction),
            [x], dtype, double=dtype == "float64",
        )  # fmt: skip

    for shape in [(2, 3, 4, 5), (4, 3), (2, 3, 7)]:
        x, places = rand(*shape), shape[:1] + shape[2:]
        ids = np.random.default_rng(3).integers(0, 3, places)
        for dtype in ("float32", "float64"):
            check(x, ids, dtype)
            check(x, ids, dtype, ignore=1)
            check(x, np.where(ids == 2, -100, ids), dtype)
            for multilabel in (False, True):
                check(x, rand(*shape, low=0, high=1, seed=4).astype(dtype), dtype, multilabel)
    check(rand(2, 1, 4, 5), (rand(2, 1, 4, 5, seed=5) > 0).astype(np.float64), "float64")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_giou_loss_is_torchvisions(reduction):
    a, b = boxes(40), boxes(40, seed=1)
    for shape in [(40, 4), (5, 8, 4)]:
        for dtype in ("float32", "float64"):
            compare(
                lambda x, y: ops.giou_loss(x, y, reduction),
                lambda x, y: tvops.generalized_box_iou_loss(x, y, reduction),
                [a.reshape(shape), b.reshape(shape)],
                dtype,
                double=dtype == "float64",
            )
    same(ops.giou_loss(fc.tensor(a), fc.tensor(a), "none"), torch.zeros(40), 0, 1e-6)


def test_task_losses_by_finite_differences():
    one_zero = (rand(4, 3, seed=1) > 0).astype(np.float64)
    ids = np.array([0, 2, 1, 2])
    finite_differences(lambda x: ops.focal_loss(x, fc.tensor(one_zero)), [rand(4, 3)])
    finite_differences(lambda x: ops.focal_loss(x, fc.tensor(one_zero), gamma=1.5), [rand(4, 3)])
    finite_differences(lambda x: ops.dice_loss(x, fc.tensor(ids)), [rand(4, 3)])
    finite_differences(lambda x: ops.margin_loss(x, fc.tensor(ids)), [rand(4, 3, low=0, high=1)])
    finite_differences(lambda x: ops.hinge_gan_loss(x, "fake"), [rand(4, 3)])
    finite_differences(lambda x, y: ops.giou_loss(x, y), [boxes(6), boxes(6, seed=1)])


@pytest.mark.parametrize("loss", [ops.giou_loss, ops.ciou_loss])
def test_box_losses_of_no_pairs_are_zero(loss):
    """A batch without objects must not turn the weights into NaN."""
    a = fc.tensor(np.zeros((0, 4), np.float32), requires_grad=True)
    value = loss(a, fc.tensor(np.zeros((0, 4), np.float32)))
    value.backward()
    assert value.item() == 0 and a.grad.shape == (0, 4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_hinge_gan_and_margin_losses_are_their_formulas(reduction):
    relu = torch.relu
    formulas = {"real": lambda x: relu(1 - x), "fake": lambda x: relu(1 + x), "generator": lambda x: -x}
    for target, formula in formulas.items():
        compare(
            lambda x, t=target: ops.hinge_gan_loss(x, t, reduction),
            lambda x, f=formula: reduced(f(x), reduction),
            [rand(8, 1)],
        )

    def margin(x, ids):
        t = torch.nn.functional.one_hot(torch.tensor(ids), x.shape[1])
        return reduced((t * relu(0.8 - x) ** 2 + 0.4 * (1 - t) * relu(x - 0.2) ** 2).sum(1), reduction)

    ids = np.array([0, 2, 1, 2])
    compare(
        lambda x: ops.margin_loss(x, fc.tensor(ids), 0.8, 0.2, 0.4, reduction),
        lambda x: margin(x, ids),
        [rand(4, 3, low=0, high=1)],
    )


def test_task_losses_compile_and_are_layers():
    x, t = fc.tensor(rand(6, 3, 4, 4).astype(np.float32)), (rand(6, 3, 4, 4, seed=1) > 0).astype(np.float32)
    ids, scores = np.random.default_rng(0).integers(0, 3, (6, 4, 4)), fc.tensor(rand(6, 3).astype(np.float32))
    a, b = (fc.tensor(boxes(9, seed=i).astype(np.float32)) for i in range(2))
    first = fc.tensor(ids[:, 0, 0].copy())
    for layer, op, args in [
        (nn.FocalLoss(gamma=1.5), lambda *v: ops.focal_loss(*v, gamma=1.5), (x, fc.tensor(t))),
        (nn.DiceLoss(smooth=0.5), lambda *v: ops.dice_loss(*v, smooth=0.5), (x, fc.tensor(ids))),
        (nn.MarginLoss(reduction="sum"), lambda *v: ops.margin_loss(*v, reduction="sum"), (scores, first)),
        (nn.GIoULoss(), ops.giou_loss, (a, b)),
    ]:

        def step(y, *rest, layer=layer):
            y = y.detach().requires_grad_()
            loss = layer(y, *rest)
            return loss, fc.grad(loss, [y])[0]

        loss, gradient = fc_compile(step)(*args)
        same(loss, op(*args), 1e-6, 1e-6)
        same(gradient, step(*args)[1], 1e-5, 1e-7)
    assert nn.HingeGANLoss("sum")(scores, "real").item() == pytest.approx(
        np.maximum(0, 1 - scores.numpy()).sum(), rel=1e-5
    )


@pytest.mark.parametrize("loss", [ops.dice_loss, ops.cross_entropy, ops.nll_loss, ops.margin_loss])
@pytest.mark.parametrize("bad", [-1, 3])
def test_class_ids_out_of_range_raise_in_plans_too(loss, bad):
    step = fc_compile(lambda x, t: loss(x, t))
    x, good = ops.ones(3, 3), fc.tensor([0, 1, 2])
    want = loss(x, good).item()
    assert step(x, good).item() == pytest.approx(want)
    with pytest.raises(IndexError):
        step(x, fc.tensor([0, bad, 2])).item()
    assert step(x, good).item() == pytest.approx(want)


def test_task_losses_tell_what_they_expected():
    x = fc.tensor(rand(2, 3, 4))
    with pytest.raises(ValueError, match=r"focal_loss: expected a target of shape \(2, 3, 4\), got \(2, 3\)"):
        ops.focal_loss(x, fc.tensor(rand(2, 3)))
    with pytest.raises(ValueError, match="focal_loss: expected gamma >= 0, got -1"):
        ops.focal_loss(x, x, gamma=-1)
    with pytest.raises(ValueError, match=r"dice_loss: .*\(2, 3, 4\).*got float64 of shape \(2, 4\)"):
        ops.dice_loss(x, fc.tensor(rand(2, 4)))
    with pytest.raises(IndexError, match=r"dice_loss: expected class ids in \[0, 3\).*got 3"):
        ops.dice_loss(x, fc.tensor(np.full((2, 4), 3)))
    with pytest.raises(ValueError, match="dice_loss: expected probabilities.*of one class, got int64"):
        ops.dice_loss(x[:, :1], fc.tensor(np.zeros((2, 4), np.int64)))
    with pytest.raises(ValueError, match="hinge_gan_loss: expected target real, fake or generator, got 'false'"):
        ops.hinge_gan_loss(x, "false")
    with pytest.raises(ValueError, match=r"giou_loss: expected two tensors of boxes.*\(2, 3, 4\) and \(2, 4\)"):
        ops.giou_loss(x, fc.tensor(rand(2, 4)))
    with pytest.raises(ValueError, match=r"giou_loss: .*reduction none, mean or sum, got 'all'"):
        ops.giou_loss(x, x, "all")
    with pytest.raises(TypeError, match="focal_loss: expected a floating input, got int64"):
        ops.focal_loss(fc.tensor(np.zeros(3, np.int64)), fc.tensor(np.zeros(3)))
