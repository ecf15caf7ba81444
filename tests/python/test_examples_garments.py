"""The examples on garments over photographs in short: exact boxes and masks, losses that fall, predictions of the right
shape, pictures."""

from __future__ import annotations

import json
import pathlib
import sys

import fastcnn as fc
import numpy as np
import pytest

pytest.importorskip("skimage")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import _garments  # noqa: E402
import detection_garments  # noqa: E402
import segmentation_garments  # noqa: E402
from fastcnn import models  # noqa: E402


@pytest.fixture(scope="module")
def scenes():
    return _garments.scenes(32, 64, seed=1, most=2, scales=(26, 40))


def test_boxes_are_the_extent_of_the_masks(scenes):
    alone = [i for i, t in enumerate(scenes["targets"]) if len(t["boxes"]) == 1]
    assert len(alone) > 3 and scenes["images"].shape == (32, 3, 64, 64) and scenes["images"].dtype == np.uint8
    for i in alone:
        rows, cols = np.nonzero(scenes["masks"][i])
        extent = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(scenes["targets"][i]["boxes"][0], extent)
        assert set(np.unique(scenes["masks"][i])) == {0, scenes["targets"][i]["labels"][0]}
    again = _garments.scenes(4, 64, seed=1, most=2, scales=(26, 40))
    np.testing.assert_array_equal(again["images"], scenes["images"][:4])


def test_augmented_boxes_follow_their_garments(scenes):
    one = [i for i, t in enumerate(scenes["targets"]) if len(t["boxes"]) == 1][:6]
    images, targets = detection_garments.augmented(scenes, np.array(one), 0)
    out = detection_garments.AUGMENT(  # the same random numbers for masks
        scenes["images"][one], 0, boxes=[scenes["targets"][i]["boxes"] for i in one], masks=scenes["masks"][one]
    )
    np.testing.assert_array_equal(images, out["images"])
    assert (images != scenes["images"][one]).any() and sum(len(t["boxes"]) for t in targets) >= 4
    for target, mask in zip(targets, out["masks"], strict=True):
        for box in target["boxes"]:
            inside = np.zeros_like(mask, bool)
            x1, y1, x2, y2 = np.round(box).astype(int)
            inside[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            edge = (mask[0] > 0).any() or (mask[-1] > 0).any() or (mask[:, 0] > 0).any() or (mask[:, -1] > 0).any()
            assert edge or not (mask[~inside] > 0).any()  # what is repeated from the edge is no garment


def test_a_detector_learns_scenes(scenes, tmp_path):
    fc.manual_seed(0)
    net = models.create_model("retinanet_small", num_classes=11, channels=16, sizes=((20,), (32,), (48,)))
    encoded = net.encode(scenes["targets"], (64, 64))
    anchors, there = net.anchors((64, 64)), encoded["labels"] > 0
    assert all(there[i].any() for i, t in enumerate(scenes["targets"]) if len(t["boxes"]))
    codes = net.box_coder.encode(fc.tensor(encoded["boxes"]), anchors)
    np.testing.assert_allclose(net.box_coder.decode(codes, anchors).numpy(), encoded["boxes"], atol=1e-3)
    losses = []
    detection_garments.train(net, scenes, 12, batch=8, lr=4e-3, report=lambda *row: losses.append(row[1] + row[2]))
    assert losses[-1] < 0.8 * losses[0]
    result, found = detection_garments.evaluate(net, scenes)
    assert len(found) == 32 and 0 <= result["map_50"] <= 1
    for item in found:
        assert item["boxes"].shape == (len(item["scores"]), 4) and (item["boxes"] >= 0).all()
        assert (item["boxes"] <= 64).all() and set(item["labels"]) <= set(range(11))
    pytest.importorskip("matplotlib")
    detection_garments.draw(scenes, found, tmp_path, count=1)
    assert (tmp_path / "detections_00.png").stat().st_size > 1000


def test_a_segmentation_net_learns_scenes(scenes, tmp_path):
    fc.manual_seed(0)
    net = models.create_model("unet", num_classes=11, width=8)
    losses = []
    segmentation_garments.train(net, scenes, 12, batch=8, report=lambda *row: losses.append(row[1] + row[2]))
    assert losses[-1] < 0.8 * losses[0]
    each, found = segmentation_garments.evaluate(net, scenes)
    assert found.shape == (32, 64, 64) and each.shape == (11,)
    assert (found == scenes["masks"]).mean() > 0.5  # at least the background
    pytest.importorskip("matplotlib")
    segmentation_garments.draw(scenes, found, tmp_path, count=1)
    assert (tmp_path / "masks_00.png").stat().st_size > 1000


@pytest.mark.parametrize("example, picture, score", [
    (detection_garments, "detections_00.png", "map_50"), (segmentation_garments, "masks_00.png", "mean_iou"),
])  # fmt: skip
def test_command_lines_leave_weights_a_curve_and_pictures(example, picture, score, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    options = ["--scenes", "16", "--test-scenes", "4", "--size", "96", "--epochs", "1", "--out", str(tmp_path)]
    example.main(options)
    (row,) = json.loads((tmp_path / "curve.json").read_text())
    assert row["epoch"] == 1 and score in row
    assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    example.main([*options, "--weights", str(tmp_path / "weights.safetensors")])
    assert "16 + 4 scenes made" in capsys.readouterr().out
    example.main(["--fast-dev-run", "--out", str(tmp_path)])
    assert "32 + 8 scenes made" in capsys.readouterr().out
