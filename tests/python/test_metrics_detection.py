"""mean_average_precision: numbers worked out by hand, and pycocotools on random detections where it is installed."""

import contextlib
import io
import math

import numpy as np
import pytest
from fastcnn.metrics import MeanAveragePrecision, get_metric


def boxes_of(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def one(predicted, scores, true, **extra):
    """compute() of one image and one class."""
    metric = MeanAveragePrecision()
    metric.update(
        [{"boxes": boxes_of(*predicted), "scores": scores, "labels": [0] * len(scores)}],
        [{"boxes": boxes_of(*true), "labels": [0] * len(true), **extra}],
    )
    return metric.compute()


A, B = (0, 0, 10, 10), (20, 20, 40, 40)


@pytest.mark.smoke
def test_numbers_worked_out_by_hand():
    found = one([A, B], [0.9, 0.8], [A, B])
    assert found["map"] == pytest.approx(1) and found["mar_1"] == 0.5 and found["mar_10"] == found["mar_100"] == 1
    # A miss of the best score: precision is 1/2 at recall 1, at all thresholds.
    assert one([B, A], [0.9, 0.8], [A])["map"] == pytest.approx(0.5)
    # One of two found: precision 1 up to recall 0.5, which 51 of the 101 points reach.
    assert one([A], [0.9], [A, B])["map"] == pytest.approx(51 / 101)
    # Overlap 0.6 and 0.8: over three and over seven of the ten thresholds.
    assert one([(0, 0, 10, 6)], [0.9], [A])["map"] == pytest.approx(0.3)
    shifted = one([(0, 0, 10, 8)], [0.9], [A])
    assert shifted["map"] == pytest.approx(0.7) and shifted["map_50"] == shifted["map_75"] == pytest.approx(1)
    # A second box on a target that is taken is a miss, but behind the hit it costs nothing.
    assert one([A, A], [0.9, 0.8], [A])["map"] == pytest.approx(1)
    assert one([A, A, B], [0.9, 0.8, 0.7], [A, B])["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_areas_split_targets_and_excuse_detections_of_other_sizes():
    big = (0, 0, 200, 200)
    found = one([A, big, B], [0.9, 0.8, 0.7], [A, big])
    assert found["map_small"] == found["map_large"] == pytest.approx(1) and math.isnan(found["map_medium"])
    assert found["mar_small"] == 1 and math.isnan(found["mar_medium"])
    # The area of the annotation decides, not the box's.
    assert math.isnan(one([big], [0.9], [big], area=[100.0])["map_large"])


def test_a_crowd_excuses_any_number_and_is_never_missed():
    crowd = (0, 0, 100, 100)
    found = one([A, (50, 50, 60, 60), B], [0.9, 0.8, 0.7], [crowd, B], iscrowd=[1, 0])
    assert found["map"] == pytest.approx(1) and found["mar_100"] == 1
    assert math.isnan(one([A], [0.9], [crowd], iscrowd=[1])["map"])
    # A target of its own comes before the crowd around it.
    assert one([A], [0.9], [crowd, A], iscrowd=[1, 0])["map"] == pytest.approx(1)


def test_nothing_there():
    empty = MeanAveragePrecision().compute()
    assert math.isnan(empty["map"]) and empty["classes"].shape == empty["map_per_class"].shape == (0,)
    assert math.isnan(one([], [], [])["map"]) and math.isnan(one([A], [0.9], [])["map"])
    assert one([], [], [A])["map"] == 0.0


def random_scene(rng, classes=4, size=300.0):
    n = int(rng.integers(0, 12))
    corner, extent = rng.random((n, 2)) * size * 0.7, np.exp(rng.uniform(np.log(8), np.log(150), (n, 2)))
    true = {
        "boxes": np.concatenate([corner, corner + extent], 1),
        "labels": rng.integers(0, classes, n),
        "iscrowd": rng.random(n) < 0.15,
        "area": extent.prod(1) * rng.uniform(0.5, 1.0, n),
    }
    kept = np.repeat(np.flatnonzero(rng.random(n) < 0.85), rng.integers(1, 4))
    noise = rng.normal(0, 0.08, (len(kept), 4)) * np.tile(extent, 2)[kept]
    found, extra = true["boxes"][kept] + noise, rng.random((int(rng.integers(0, 9)), 4)) * 100
    extra[:, 2:] += extra[:, :2]
    found = np.concatenate([found, extra])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    labels = np.concatenate([true["labels"][kept], rng.integers(0, classes + 1, len(extra))])
    wrong = rng.random(len(found)) < 0.1
    labels = np.where(wrong, rng.integers(0, classes, len(found)), labels)
    scores = rng.integers(1, 40, len(found)) / 40.0  # many ties
    return {"boxes": found, "scores": scores, "labels": labels}, true


def pycocotools_stats(predictions, targets, kind="bbox", limits=(1, 10, 100)):
    """The twelve numbers of pycocotools, -1 as nan."""
    pytest.importorskip("pycocotools")
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def shape(item, k):
        if kind == "segm":
            return {"segmentation": mask.encode(np.asfortranarray(item["masks"][k].astype(np.uint8)))}
        x0, y0, x1, y1 = map(float, item["boxes"][k])
        return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}

    truth, found, labels = [], [], set()
    for i, (p, t) in enumerate(zip(predictions, targets, strict=True)):
        labels |= set(map(int, p["labels"])) | set(map(int, t["labels"]))
        for k in range(len(t["labels"])):
            entry = shape(t, k)
            truth.append({
                "id": len(truth) + 1, "image_id": i, "category_id": int(t["labels"][k]), **entry,
                "area": float(t["area"][k]), "iscrowd": int(t["iscrowd"][k]),
            })  # fmt: skip
        for k in range(len(p["labels"])):
            found.append({
                "id": len(found) + 1, "image_id": i, "category_id": int(p["labels"][k]), "score": float(p["scores"][k]),
                "iscrowd": 0, **shape(p, k),
            })  # fmt: skip
            if kind == "segm":
                found[-1]["area"] = float(mask.area(found[-1]["segmentation"]))
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, found):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": i, "height": 60, "width": 70} for i in range(len(targets))],
                "annotations": annotations, "categories": [{"id": k} for k in sorted(labels)],
            }  # fmt: skip
            coco.createIndex()
            sides.append(coco)
        evaluation = COCOeval(*sides, kind)
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)


KEYS = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100", "mar_small",
        "mar_medium", "mar_large"]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(25)]
    predictions, targets = map(list, zip(*scenes, strict=True))
    metric = MeanAveragePrecision()
    metric.update(predictions, targets)
    found = metric.compute()
    np.testing.assert_allclose([found[k] for k in KEYS], pycocotools_stats(predictions, targets), rtol=0, atol=1e-9)
    assert 0.05 < found["map"] < 0.95 and metric.images == 25


def test_equals_pycocotools_where_detections_are_too_many():
    rng = np.random.default_rng(7)
    predictions, targets = [], []
    for _ in range(3):
        p, t = random_scene(rng, classes=1)
        far = rng.random((150, 4)) * 50
        far[:, 2:] += far[:, :2] + 1
        p = {"boxes": np.concatenate([p["boxes"], far]), "labels": np.zeros(len(p["labels"]) + 150, np.int64),
             "scores": np.concatenate([p["scores"], rng.random(150)])}  # fmt: skip
        predictions.append(p)
        targets.append(t)
    metric = MeanAveragePrecision()
    metric.update(predictions, targets)
    found = metric.compute()
    np.testing.assert_allclose([found[k] for k in KEYS], pycocotools_stats(predictions, targets), rtol=0, atol=1e-9)


def test_masks_equal_pycocotools():
    rng = np.random.default_rng(3)
    predictions, targets = [], []
    for _ in range(8):
        n = int(rng.integers(1, 5))
        y, x = np.mgrid[:60, :70]
        centre, radius = rng.uniform(10, 55, (n, 2)), rng.uniform(4, 20, n)
        true = np.hypot(y - centre[:, :1, None], x - centre[:, 1:, None]) < radius[:, None, None]
        seen = np.hypot(y - centre[:, :1, None], x - centre[:, 1:, None] - 1.5) < radius[:, None, None] * 0.9
        labels = rng.integers(0, 2, n)
        predictions.append({"masks": seen, "scores": rng.random(n), "labels": labels})
        targets.append({"masks": true, "labels": labels, "iscrowd": np.zeros(n), "area": true.sum((1, 2))})
    metric = MeanAveragePrecision(iou_type="segm")
    metric.update(predictions, targets)
    found = metric.compute()
    np.testing.assert_allclose(
        [found[k] for k in KEYS], pycocotools_stats(predictions, targets, "segm"), rtol=0, atol=1e-9
    )


def test_fixed_number_of_a_random_scene():
    """What pycocotools 2 gives for this scene (of seed 0 above), written down for machines without it."""
    fixed = [
        0.301783724803, 0.505207816736, 0.319890917042, 0.347823476798, 0.2910488889, 0.75,
        0.257421519953, 0.530758454666, 0.537814906278, 0.558645833333, 0.518096405229, 0.9,
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(25)]
    metric = MeanAveragePrecision()
    for p, t in scenes:
        metric.update([p], [t])
    found = metric.compute()
    np.testing.assert_allclose([found[k] for k in KEYS], fixed, atol=1e-9)


def test_streaming_merging_and_formats_give_the_same():
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng) for _ in range(12)]
    predictions, targets = map(list, zip(*scenes, strict=True))
    whole, a, b = (MeanAveragePrecision() for _ in range(3))
    whole.update(predictions, targets)
    a.update(predictions[:5], targets[:5])
    b.update(predictions[5:], targets[5:])
    a.merge(b)
    expected = whole.compute()
    other = MeanAveragePrecision(box_format="cxcywh")

    def converted(item):
        low, high = item["boxes"][:, :2], item["boxes"][:, 2:]
        return {**item, "boxes": np.concatenate([(low + high) / 2, high - low], 1)}

    other.update([converted(p) for p in predictions], [converted(t) for t in targets])
    for metric in (a, other):
        found = metric.compute()
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-12, err_msg=key)
    assert whole.scalars().keys() == {k for k in expected if "class" not in k}
    whole.reset()
    assert whole.images == 0 and math.isnan(whole.compute()["map"])
    with pytest.raises(ValueError, match="cannot merge"):
        a.merge(other)


def test_bad_input_says_what_was_expected_and_counts_nothing():
    metric = get_metric("mean_average_precision")
    p = {"boxes": boxes_of(A), "scores": [0.5], "labels": [1]}
    t = {"boxes": boxes_of(A), "labels": [1]}
    for predictions, targets, message in (
        (p, t, "list of dicts per image"),
        ([p], [t, t], "list of 1 and list of 2"),
        ([p, {**p, "scores": [np.nan]}], [t, t], r"predictions\[1\]\['scores'\] of 1 finite"),
        ([{**p, "scores": [0.5, 0.6]}], [t], r"of 1 finite numbers, got shape \(2,\)"),
        ([{**p, "boxes": np.zeros((2, 4))}], [t], r"\(1, 4\), got \(2, 4\)"),
        ([{**p, "labels": [0.5]}], [t], "integer class ids"),
        ([p], [{**t, "labels": [-1]}], "class ids 0 to ..., got -1"),
        ([p], [{**t, "boxes": boxes_of((10, 0, 0, 10))}], "without negative sizes"),
        ([p], [{**t, "area": [np.inf]}], r"targets\[0\]\['area'\]"),
        ([p], [{"labels": [1]}], "dict of boxes, labels, got"),
        ([p], [3], "got int"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(predictions, targets)
    assert metric.images == 0 and math.isnan(metric.compute()["map"])
    masks = MeanAveragePrecision(iou_type="segm")
    with pytest.raises(ValueError, match="targets' size in image 0"):
        masks.update(
            [{"masks": np.ones((1, 4, 4)), "scores": [0.5], "labels": [0]}],
            [{"masks": np.ones((1, 5, 5)), "labels": [0]}],
        )
    for options, message in (
        ({"iou_thresholds": [0.0]}, "iou_thresholds"),
        ({"max_detections": (10, 1)}, "that rise"),
        ({"box_format": "yxyx"}, "yxyx"),
        ({"iou_type": "keypoints"}, "keypoints"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanAveragePrecision(**options)


@pytest.mark.parametrize("empty", [np.zeros((0, 8, 8), bool), []], ids=["shape", "list"])
def test_images_without_masks_count_as_images_without_boxes(empty):
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4], masks[1, 5:] = True, True
    full = {"masks": masks, "labels": [0, 1], "scores": [0.9, 0.8]}
    none = {"masks": empty, "labels": [], "scores": []}
    metric = MeanAveragePrecision(iou_type="segm")
    metric.update([full, none, none], [full, full, none])
    assert metric.images == 3
    assert metric.compute()["map_50"] == pytest.approx(51 / 101)  # half of the targets, all right
