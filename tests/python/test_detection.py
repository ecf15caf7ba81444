"""Detectors: anchors, codes and matching by hand; keys, counts, outputs, losses and predictions of torchvision's nets
with the same weights; targets, messages, and that a compiled step learns."""

from __future__ import annotations

import re

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import models, optim
from fastcnn.models import detection
from zoo_check import assert_near, build, count

# torchvision's table of weights: 91 classes. It counts RetinaNet with frozen batch norms, which have 53,120 numbers.
COUNTS = {
    "ssd300_vgg16": 35_641_826, "ssdlite320_mobilenet_v3": 3_440_060, "retinanet_resnet50_fpn": 34_014_999 + 53_120,
}  # fmt: skip
THEIRS = {"ssdlite320_mobilenet_v3": "ssdlite320_mobilenet_v3_large"}
SMALL = dict(min_size=96, max_size=160)  # of RetinaNet, to be quick


def test_parameter_counts_are_the_published_ones():
    assert {name: count(build(name, 91)) for name in COUNTS} == COUNTS


def targets_for(size, seed=0):
    rng, found = np.random.default_rng(seed), []
    for n in (3, 1):
        low = rng.uniform(0, 0.5, (n, 2)) * size
        high = low + rng.uniform(0.15, 0.45, (n, 2)) * size
        boxes = np.concatenate([low, high], 1).astype(np.float32)
        found.append({"boxes": boxes, "labels": rng.integers(1, 4, n)})
    return found


def moderate_outputs_(torch, net, side):
    """Scales the last layers of a net that was never trained: scores and offsets like those of one that was."""
    with torch.no_grad():
        images = net.transform([torch.rand(3, side, side)])[0].tensors
        out = net.head(list(net.backbone(images).values()))
        for part, attribute, key, size in (
            (net.head.classification_head, "cls_logits", "cls_logits", 1.5),
            (net.head.regression_head, "bbox_reg", "bbox_regression", 0.5),
        ):
            last = [getattr(part, attribute)] if hasattr(part, attribute) else part.module_list
            for m in last:
                m = m[-1] if isinstance(m, torch.nn.Sequential) else m
                m.weight.mul_(size / out[key].std())
                m.bias.zero_()


@pytest.fixture(scope="module", params=list(COUNTS))
def pair(request):
    """(our net, torchvision's with the same weights, size of images)."""
    torch = pytest.importorskip("torch")
    tv = pytest.importorskip("torch_boxes").torchvision()
    name = request.param
    options = SMALL if name.startswith("retina") else {}
    torch.manual_seed(0)
    theirs = getattr(tv.models.detection, THEIRS.get(name, name))(
        weights=None, weights_backbone=None, num_classes=4, **options
    )
    side = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3": 320}.get(name, 96)
    moderate_outputs_(torch, theirs.eval(), side)
    ours = build(name, 4, **options)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs, side


def test_keys_are_torchvisions(pair):
    ours, theirs, _ = pair
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }


def by_label_and_score(found):
    order = np.lexsort((-found["scores"], found["labels"]))
    return {k: v[order] for k, v in found.items()}


def test_predictions_equal_torchvisions(pair):
    import torch

    ours, theirs, side = pair
    rng = np.random.default_rng(0)
    images = [rng.uniform(0, 1, (3, *size)).astype(np.float32) for size in ((side, side), (side - 20, side + 40))]
    with torch.no_grad():
        wanted = theirs.eval()([torch.tensor(i) for i in images])
    found = ours.predict(images)
    for got, want in zip(found, wanted, strict=True):
        got, want = by_label_and_score(got), by_label_and_score({k: v.numpy() for k, v in want.items()})
        assert len(got["scores"]) == len(want["scores"]) > 10 and (np.diff(got["scores"]) != 0).any()
        np.testing.assert_array_equal(got["labels"], want["labels"])
        np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-3)
        near = np.abs(got["boxes"] - want["boxes"]).max(1) < 1e-3 * side
        assert near.mean() > 0.99  # equal scores may change places


def test_losses_equal_torchvisions(pair):
    import torch

    ours, theirs, side = pair
    images = np.random.default_rng(1).uniform(0, 1, (2, 3, side, side)).astype(np.float32)
    targets = targets_for(side)
    with torch.no_grad():
        before = {k: v.clone() for k, v in theirs.state_dict().items()}
        want = theirs.train()(
            [torch.tensor(i) for i in images], [{k: torch.tensor(v) for k, v in t.items()} for t in targets]
        )
        theirs.load_state_dict(before)  # batch norm has counted
    encoded = {k: fc.tensor(v) for k, v in ours.encode(targets, (side, side)).items()}
    with fc.no_grad():
        got = ours.train()(fc.tensor(images))
        got = ours.loss(got, encoded, (side, side))
    ours.load_state_dict({k: v.numpy() for k, v in before.items()})
    assert {k: v.item() for k, v in got.items()} == pytest.approx({k: v.item() for k, v in want.items()}, rel=2e-3)


def test_anchors_are_torchvisions():
    torch = pytest.importorskip("torch")
    tv = pytest.importorskip("torch_boxes").torchvision()
    from torchvision.models.detection import anchor_utils, image_list

    assert tv.models.detection
    grids = [(5, 7), (3, 4), (1, 1)]
    images = image_list.ImageList(torch.zeros(1, 3, 40, 56), [(40, 56)])
    maps = [torch.zeros(1, 1, *g) for g in grids]
    for ours, theirs in [
        (detection.AnchorGenerator([(8, 10), (16,), (33,)]), anchor_utils.AnchorGenerator(
            ((8, 10), (16,), (33,)), ((0.5, 1.0, 2.0),) * 3)),
        (detection.DefaultBoxGenerator([(2,), (2, 3), ()]), anchor_utils.DefaultBoxGenerator([[2], [2, 3], []])),
        (detection.DefaultBoxGenerator([(2,), (2, 3), ()], steps=(8, 16, 50)),
         anchor_utils.DefaultBoxGenerator([[2], [2, 3], []], steps=[8, 16, 50])),
    ]:  # fmt: skip
        np.testing.assert_allclose(ours((40, 56), grids), theirs(images, maps)[0].numpy(), rtol=1e-6, atol=1e-5)
        assert ours.num_anchors_per_location() == theirs.num_anchors_per_location()


def test_codes_go_there_and_back():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (2, 30, 2))
    boxes, anchors = (np.concatenate([low, low + rng.uniform(2, 30, low.shape)], -1) for _ in range(2))
    for weights in ((1, 1, 1, 1), (10, 10, 5, 5), (1, 2, 3, 4)):
        coder = detection.BoxCoder(weights)
        codes = coder.encode(fc.tensor(boxes), fc.tensor(anchors[0]))
        np.testing.assert_allclose(coder.decode(codes, fc.tensor(anchors[0])).numpy(), boxes, rtol=1e-9)
    huge = coder.decode(fc.full((1, 4), 1e4), fc.tensor(np.array([[0, 0, 1, 1]], np.float32))).numpy()
    assert np.isfinite(huge).all()


def test_matchers_by_hand():
    iou = np.array([[0.9, 0.45, 0.2, 0.3, 0.0], [0.1, 0.2, 0.6, 0.3, 0.05]])
    assert detection.Matcher(0.5, 0.4)(iou).tolist() == [0, -2, 1, -1, -1]
    low = np.array([[0.1, 0.3, 0.3], [0.6, 0.0, 0.1]])  # the first object is nowhere above
    assert detection.Matcher(0.5, 0.4)(low).tolist() == [1, -1, -1]
    assert detection.Matcher(0.5, 0.4, keep_best=True)(low).tolist() == [1, 0, 0]
    assert detection.SSDMatcher(0.5)(low).tolist() == [1, 0, -1]
    far = np.array([[0.1, 0.2, 0.0], [0.0, 0.0, 0.0]], np.float32)  # no anchor touches the second
    assert detection.Matcher(0.5, 0.4, keep_best=True)(far).tolist() == [-1, 0, -1]
    with pytest.raises(ValueError, match="Matcher: expected 0 <= low <= high <= 1, got low=0.6, high=0.5"):
        detection.Matcher(0.5, 0.6)


def test_hardest_takes_as_many_as_asked_and_the_highest():
    rng = np.random.default_rng(0)
    losses = rng.exponential(1, (6, 200)).astype(np.float32)
    losses[3] = 0.7  # all equal
    losses[4, 20:] = 0
    counts = np.array([[0], [1], [60], [30], [50], [200]], np.float32)
    chosen = detection.ssd.hardest(fc.tensor(losses), fc.tensor(counts)).numpy()
    assert chosen.sum(1).tolist() == [0, 1, 60, 30, 20, 199 + (losses[5].min() > 0)]
    for row, mask in zip(losses[:3], chosen[:3], strict=True):
        assert not mask.any() or row[mask > 0].min() >= row[mask == 0].max()


def test_encoded_targets_have_one_shape_and_name_bad_objects():
    net = build("retinanet_small", 4)
    some, none = targets_for(64)[0], {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64)}
    encoded = net.encode([some, none], (64, 64))
    anchors = net.anchors((64, 64)).numpy()
    assert encoded["labels"].shape == (2, len(anchors)) and encoded["boxes"].shape == (2, len(anchors), 4)
    assert set(encoded["labels"][0]) >= set(some["labels"]) and (encoded["labels"][1] == -1).all()
    np.testing.assert_array_equal(encoded["boxes"][1], anchors)
    with pytest.raises(ValueError, match=r"RetinaNet.encode: image 0: expected labels 1 to 3 .* got 4 to 4"):
        net.encode([{"boxes": [[0, 0, 5, 5]], "labels": [4]}], (64, 64))
    with pytest.raises(ValueError, match=r"expected boxes x1 y1 x2 y2 with x1 < x2, y1 < y2, got \[5.0, 0.0, 0.0"):
        net.encode([{"boxes": [[5, 0, 0, 5]], "labels": [1]}], (64, 64))
    with pytest.raises(ValueError, match=r"expected integer labels of shape \(1,\) for 1 boxes, got int64 of shape"):
        net.encode([{"boxes": [[0, 0, 5, 5]], "labels": [1, 2]}], (64, 64))
    for targets, match in (
        ([{"boxes": [[0, 0], [9, 9]], "labels": [1]}], r"expected boxes of shape \(M, 4\), got \(2, 2\)"),
        ([{"boxes": [0, 0, 5, 5, 1, 1, 9, 9], "labels": [1, 2]}], r"expected boxes of shape \(M, 4\), got \(8,\)"),
        ([{"boxes": [[0, 0, 5, 5]], "category": [1]}], r"image 0: .* got no 'labels' among \['boxes', 'category'\]"),
        ([{"boxes": [[64, 0, 70, 5]], "labels": [1]}], r"boxes that touch the image of 64x64 pixels, got \[64.0, 0.0"),
    ):
        with pytest.raises(ValueError, match=match):
            net.encode(targets, (64, 64))
    with pytest.raises(TypeError, match="image 0: .* got a list; fc.data.CocoDetection makes those"):
        net.encode([[{"bbox": [0, 0, 5, 5], "category_id": 1}]], (64, 64))
    with pytest.raises(TypeError, match="expected a list with a dict for each image, got one dict"):
        net.encode({"boxes": [[0, 0, 5, 5]], "labels": [1]}, (64, 64))
    assert (net.encode([{"boxes": [], "labels": []}], (64, 64))["labels"] == -1).all()
    with pytest.raises(ValueError, match="RetinaNet: expected box_loss 'l1' or 'giou', got 'iou'"):
        models.create_model("retinanet_small", box_loss="iou")


def test_predict_names_images_that_are_none():
    net = build("retinanet_small", 4)
    for images, match in (
        (np.zeros((3, 8, 8), np.uint8), r"predict: expected a batch .* got one array of \(3, 8, 8\); one"),
        ([np.zeros((8, 8), np.uint8)], r"predict: expected images \(3, H, W\), got \(8, 8\)$"),
        ([np.zeros((8, 8, 3), np.uint8)], r"got \(8, 8, 3\); transpose\(2, 0, 1\) makes it one"),
        ([np.zeros((1, 8, 8), np.uint8)], r"predict: expected images \(3, H, W\), got \(1, 8, 8\)"),
        ([np.zeros((3, 0, 8), np.uint8)], r"got \(3, 0, 8\)"),
        ([np.full((3, 8, 8), 200.0)], "expected uint8 images, or values of 0 to 1, got 200; divide by 255"),
        ([np.full((3, 8, 8), -2.0)], "values of 0 to 1, got -2; the net normalises them itself"),
    ):
        with pytest.raises(ValueError, match=match):
            net.predict(images)
    assert net.predict([]) == []


def test_predict_takes_images_that_are_a_line():
    net = models.create_model("retinanet_small", 4, score_thresh=0.0)
    (found,) = net.predict([np.full((3, 1, 3000), 0.5)])  # longer than max_size: below one pixel high
    assert len(found["boxes"]) and (found["boxes"] <= [3000.01, 1, 3000.01, 1]).all()


@pytest.mark.parametrize("name", ["retinanet_small", "ssdlite320_mobilenet_v3", "ssd300_vgg16"])
def test_a_net_in_bf16_takes_bytes_and_float32_predicts_and_encodes(name):
    net = models.create_model(name, 4).eval()
    side = net.size[0] if net.size else 64
    images = np.random.default_rng(0).integers(0, 256, (2, 3, side, side)).astype(np.uint8)
    with fc.no_grad():
        want = net(fc.tensor(images))["cls_logits"].numpy()
    net._grids.clear()  # to be found by the net in bf16
    net.to(fc.bfloat16)
    wanted = net.encode(targets_for(side), (side, side))
    for given in (images, images.astype(np.float32) / 255):
        assert len(net.predict(given)) == 2
        outputs = net(fc.tensor(given))
        assert_near(outputs["cls_logits"].to("float32").detach().numpy(), want, 0.03, name)
    losses = net.loss(outputs, wanted, (side, side))
    assert all(np.isfinite(v.item()) for v in losses.values())


def test_the_loss_takes_what_encode_gave():
    for name, side in (("retinanet_small", 64), ("ssdlite320_mobilenet_v3", 320)):
        net = models.create_model(name, 4, box_loss="giou")
        wanted = net.encode(targets_for(side), (side, side))
        with fc.no_grad():
            outputs = net(fc.zeros((2, 3, side, side)))
            given, tensors = (
                net.loss(outputs, t, (side, side)) for t in (wanted, {k: fc.tensor(v) for k, v in wanted.items()})
            )
        assert {k: v.item() for k, v in given.items()} == {k: v.item() for k, v in tensors.items()}
        codes = net.box_coder.encode(fc.tensor(wanted["boxes"]), net.anchors((side, side)))
        exact = {**outputs, "bbox_regression": codes}
        assert net.loss(exact, wanted, (side, side))["bbox_regression"].item() == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="SSD: expected box_loss 'smooth_l1' or 'giou', got 'l1'"):
        build("ssd300_vgg16", 4, box_loss="l1")


def test_grey_images_and_statistics_that_do_not_fit():
    net = build("retinanet_resnet50_fpn", 4, 1, **SMALL)
    assert net.image_mean == pytest.approx((0.449,)) and net.image_std == pytest.approx((0.226,))
    with fc.no_grad():
        assert net(fc.zeros((1, 1, 64, 64)))["cls_logits"].shape[2] == 4
    with pytest.raises(ValueError, match="expected image_mean and image_std of one number, .* got 3 and 2"):
        build("retinanet_small", 4, image_mean=(0.1, 0.2, 0.3), image_std=(0.1, 0.2))
    with pytest.raises(ValueError, match="RetinaNet: expected image_std of 3 channels, got 2"):
        build("retinanet_small", 4, image_std=(0.1, 0.2))(fc.zeros((1, 3, 32, 32)))


def test_published_files_of_torchvision_with_old_keys_load(tmp_path):
    torch = pytest.importorskip("torch")
    tv = pytest.importorskip("torch_boxes").torchvision()
    torch.manual_seed(0)
    make = tv.models.detection.retinanet_resnet50_fpn
    theirs = make(weights=None, weights_backbone=None, num_classes=4).eval()
    moderate_outputs_(torch, theirs, 96)
    old = {}
    for key, value in theirs.state_dict().items():
        if "num_batches" not in key:  # frozen norms have none
            key = re.sub(r"(blocks\.\d)\.0\.", r"\1.", key) if ".fpn." in key else key
            key = re.sub(r"(_head\.conv\.)(\d)\.0\.", lambda m: f"{m[1]}{2 * int(m[2])}.", key)
            old[key] = value
    torch.save(old, tmp_path / "coco.pth")
    other = make(weights=None, weights_backbone=None, num_classes=4).eval()
    assert not other.load_state_dict(old, strict=False).unexpected_keys  # torchvision renames them
    for m in other.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.eps = 0.0  # as torchvision's overwrite_eps for these weights
    net = models.create_model("retinanet_resnet50_fpn", pretrained=tmp_path / "coco.pth").eval()
    assert net.num_classes == 4 and net.pretrained_options == {"norm_eps": 0.0}
    assert "norm_eps=0" in net.pretrained_report.notes[0] and not net.pretrained_report.skipped
    images = np.random.default_rng(0).uniform(0, 1, (1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        x = other.transform.normalize(torch.tensor(images))
        want = other.head(list(other.backbone(x).values()))
    with fc.no_grad():
        got = net(fc.tensor(images))
    for key in got:
        np.testing.assert_allclose(got[key].numpy(), want[key].numpy(), rtol=1e-3, atol=1e-3)


def test_no_images_have_no_loss():
    for name, side in (("retinanet_small", 64), ("ssdlite320_mobilenet_v3", 320)):
        net = models.create_model(name, 4)
        outputs = {k: v[:0] for k, v in net(fc.tensor(np.zeros((2, 3, side, side), np.uint8))).items()}
        targets = {k: v[:0] for k, v in net.encode([{"boxes": np.zeros((0, 4)), "labels": []}], (side, side)).items()}
        losses = net.loss(outputs, targets, (side, side))
        assert {k: v.item() for k, v in losses.items()} == {"classification": 0, "bbox_regression": 0}
        sum(losses.values()).backward()
        assert all(p.grad is None or not p.grad.numpy().any() for p in net.parameters())


@pytest.mark.parametrize("box_loss", ["giou", "l1"])
def test_a_compiled_step_is_one_plan_learns_and_equals_eager(box_loss):
    fc.manual_seed(0)
    net = models.create_model("retinanet_small", 4, channels=16, box_loss=box_loss)
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64), dtype=np.uint8)
    optimizer = optim.Adam(net.parameters(), lr=3e-3)

    def loss(images, labels, boxes):
        losses = net.loss(net(images), {"labels": labels, "boxes": boxes}, images.shape[2:])
        return losses["classification"] + losses["bbox_regression"]

    def gradients(*given):
        total = loss(*given)
        return total, fc.grad(total, list(net.parameters()))

    @fc.compile
    def step(images, labels, boxes):
        optimizer.zero_grad()
        total = loss(images, labels, boxes)
        total.backward()
        optimizer.step()
        return total.detach()

    given = net.encode(targets_for(64), (64, 64))
    given = [fc.tensor(images), fc.tensor(given["labels"]), fc.tensor(given["boxes"])]
    eager, plan = gradients(*given), fc.compile(gradients)(*given)
    assert plan[0].item() == pytest.approx(eager[0].item(), rel=1e-5)
    for a, b in zip(plan[1], eager[1], strict=True):
        assert_near(a.numpy(), b.numpy(), 2e-3, "gradient")
    losses = [step(*given).item() for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    fewer = net.encode(targets_for(64, 5)[1:] * 2, (64, 64))  # other numbers of objects: the same plan
    before = step.cache_info()["plans"]
    step(given[0], fc.tensor(fewer["labels"]), fc.tensor(fewer["boxes"]))
    assert step.cache_info()["plans"] == before


def test_weights_for_other_classes_load(tmp_path):
    fc.manual_seed(0)
    models.create_model("retinanet_small", 4).save(tmp_path / "net.safetensors")
    net = models.create_model("retinanet_small", 6, pretrained=tmp_path / "net.safetensors")
    skipped = dict(net.pretrained_report.skipped)
    assert skipped["head.classification_head.cls_logits.weight"].startswith("trained for 12 scores per place")
    assert net(fc.zeros((1, 3, 64, 64)))["cls_logits"].shape == (1, (64 + 16 + 4) * 3, 6)
