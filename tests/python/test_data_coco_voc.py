"""CocoDetection and VocSegmentation on small sets of their formats; targets that move with their images in a loader."""

import copy
import json

import fastcnn as fc
import numpy as np
import pytest
from fastcnn.augment import (
    CenterCrop,
    ColorJitter,
    Compose,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
)
from fastcnn.data import (
    ArrayDataset,
    CocoDetection,
    ConcatDataset,
    DamagedImage,
    DataLoader,
    ImageDataset,
    SampleError,
    Subset,
    VocSegmentation,
    collate_detection,
)
from fastcnn.data.masks import polygon_mask, rle_counts, segmentation_mask

Image = pytest.importorskip("PIL.Image")

# ---------------------------------------------------------------- masks


@pytest.mark.smoke
def test_polygons_cover_the_pixels_whose_centres_they_hold():
    square = polygon_mask(np.array([[1, 1], [4, 1], [4, 3], [1, 3]], float), (5, 6))
    assert np.argwhere(square).tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]
    outside = polygon_mask(np.array([[-5, -5], [2.4, -5], [2.4, 99], [-5, 99]], float), (3, 4))
    assert outside.tolist() == [[True, True, False, False]] * 3
    # A star's middle is crossed twice: outside by the even-odd rule.
    angle = np.arange(5) * 4 * np.pi / 5
    star = polygon_mask(np.stack([20 + 18 * np.sin(angle), 20 - 18 * np.cos(angle)], 1), (40, 40))
    assert not star[20, 20] and star[5, 20] and 250 < star.sum() < 500
    triangle = polygon_mask(np.array([[0, 0], [100, 0], [0, 60]], float), (60, 100))
    assert triangle.sum() == pytest.approx(3000, rel=0.01)


def test_run_lengths_go_down_the_columns():
    expected = np.array([[0, 1, 1], [1, 1, 0]], bool)
    assert segmentation_mask({"size": [2, 3], "counts": [1, 4, 1]}, (2, 3)).tolist() == expected.tolist()
    # As pycocotools writes them.
    assert rle_counts("141") == [1, 4, 1]
    assert segmentation_mask({"size": [2, 3], "counts": "141"}, (2, 3)).tolist() == expected.tolist()


def test_masks_equal_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for size in ((7, 5), (64, 90), (300, 200)):
        mask = rng.random(size) < 0.3
        mask[: size[0] // 2] = False
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        np.testing.assert_array_equal(segmentation_mask(rle, size), mask)
        np.testing.assert_array_equal(segmentation_mask({**rle, "counts": rle["counts"].decode()}, size), mask)
    for _ in range(5):  # theirs rounds outlines to fifths of pixels: the border may differ
        angle, radius = np.sort(rng.random(12)) * 2 * np.pi, rng.uniform(40, 90, 12)
        points = np.stack([110 + radius * np.cos(angle), 100 + radius * np.sin(angle)], 1)
        theirs = coco.decode(coco.frPyObjects([points.ravel().tolist()], 200, 220))[..., 0] > 0
        ours = segmentation_mask([points.ravel().tolist()], (200, 220))
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97


# ---------------------------------------------------------------- a small COCO set


def scene(rng, h, w, n):
    """(pixels, boxes xywh, polygons): rectangles of one colour on black, so that pixels tell where boxes are."""
    pixels = np.zeros((h, w, 3), np.uint8)
    boxes = []
    for k in range(n):
        x, y = int(rng.integers(0, w // 2)), int(rng.integers(0, h // 2))
        bw, bh = int(rng.integers(6, w // 2)), int(rng.integers(6, h // 2))
        pixels[y : y + bh, x : x + bw] = (50 + 60 * k, 250 - 60 * k, 120)
        boxes.append([x, y, bw, bh])
    return pixels, boxes


@pytest.fixture
def coco(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "bus"}, {"id": 3, "name": "ant"}]}
    for i in range(9):
        h, w = int(rng.integers(40, 80)), int(rng.integers(40, 80))
        pixels, boxes = scene(rng, h, w, i % 4)
        name = f"{i:03d}.png"
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        content["images"].append({"id": 100 - i, "file_name": name, "height": h, "width": w})
        for k, (x, y, bw, bh) in enumerate(boxes):
            polygon = [x, y, x + bw, y, x + bw, y + bh, x, y + bh]
            content["annotations"].append({
                "id": 10 * i + k, "image_id": 100 - i, "category_id": (7, 3)[k % 2], "bbox": [x, y, bw, bh],
                "area": bw * bh, "iscrowd": 0, "segmentation": [polygon],
                "keypoints": [x + 1, y + 1, 2, x + bw - 1, y + bh - 1, 1, 0, 0, 0],
            })  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return tmp_path, path, content


def test_boxes_labels_masks_and_keypoints(coco):
    root, path, content = coco
    ds = CocoDetection(root / "images", path, masks=True, keypoints=True)
    assert len(ds) == 9 and ds.classes == ["ant", "bus"] and ds.category_ids.tolist() == [3, 7]
    assert ds.image_ids.tolist() == list(range(92, 101)) and ds.num_classes == 2
    for i in range(9):
        image, target = ds[i]
        own = [a for a in content["annotations"] if a["image_id"] == ds.image_ids[i]]
        info = next(x for x in content["images"] if x["id"] == ds.image_ids[i])
        assert image.shape == (3, info["height"], info["width"]) and image.dtype == np.float32 and image.max() <= 1
        assert target["boxes"].shape == (len(own), 4) and target["boxes"].dtype == np.float32
        assert target["labels"].tolist() == [{7: 1, 3: 0}[a["category_id"]] for a in own]
        assert target["image_id"] == info["id"] and target["iscrowd"].dtype == bool
        assert target["masks"].shape == (len(own), info["height"], info["width"])
        for k, a in enumerate(own):
            x, y, w, h = a["bbox"]
            assert target["boxes"][k].tolist() == [x, y, x + w, y + h]
            assert target["area"][k] == target["masks"][k].sum() == w * h
            assert target["keypoints"][k].tolist() == np.reshape(a["keypoints"], (3, 3)).tolist()
    shifted = CocoDetection(root / "images", path, label_start=1, skip_empty=True)
    assert len(shifted) == 6 and {int(y) for _, t in shifted for y in t["labels"]} == {1, 2}
    assert "masks" not in shifted[0][1]


def test_left_and_right_keypoints_change_places_in_mirrored_images(coco):
    root, path, content = coco
    for category in content["categories"]:
        category["keypoints"] = ["left_end", "right_end", "nose"]
    path.write_text(json.dumps(content))
    ds = Subset(CocoDetection(root / "images", path, keypoints=True), [1, 2, 3, 5])
    assert ds.keypoint_pairs == ((0, 1),)
    flipped = DataLoader(ds, 1, transform=RandomHorizontalFlip(1.0))
    compared = 0
    for (image, target), (_, (moved,)) in zip(ds, flipped, strict=True):
        for a, b in zip(target["keypoints"], moved["keypoints"], strict=True):
            assert b[0].tolist() == [image.shape[2] - a[1][0], a[1][1], a[1][2]]
            assert b[1].tolist() == [image.shape[2] - a[0][0], a[0][1], a[0][2]] and b[2].tolist() == [0, 0, 0]
            compared += 1
    assert compared > 2


def brightest_box(pixels):
    ys, xs = np.nonzero(pixels.sum(0) > 0.3)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_boxes_masks_and_keypoints_move_with_their_images_for_any_number_of_workers(coco):
    root, path, _ = coco
    ds = CocoDetection(root / "images", path, masks=True, keypoints=True)
    steps = Compose([RandomResizedCrop(48, scale=(0.5, 1.0)), RandomHorizontalFlip(), RandomVerticalFlip()])
    batches = {}
    for workers in (0, 1, 2, 4):
        loader = DataLoader(ds, 4, shuffle=True, seed=2, num_workers=workers, transform=steps)
        batches[workers] = [batch for _ in range(2) for batch in loader]
    checked = 0
    for images, targets in batches[0]:
        assert images.shape[1:] == (3, 48, 48) and images.transpose(0, 2, 3, 1).flags.c_contiguous
        for image, target in zip(images, targets, strict=True):
            n = len(target["boxes"])
            assert {len(target[k]) for k in ("labels", "area", "iscrowd", "masks", "keypoints")} == {n}
            assert target["boxes"].dtype == np.float32 and target["masks"].shape == (n, 48, 48)
            np.testing.assert_array_equal(target["area"], target["masks"].sum((1, 2)))
            seen = target["keypoints"][..., 2] > 0
            assert not target["keypoints"][~seen].any() and (target["keypoints"][..., :2] <= 48).all()
            if n == 1 and target["masks"].sum() > 80:
                np.testing.assert_allclose(target["boxes"][0], brightest_box(image), atol=1.5)
                inside = image.sum(0) > 0.7
                assert (inside & target["masks"][0]).sum() / (inside | target["masks"][0]).sum() > 0.85
                checked += 1
    assert checked >= 2
    for other in batches.values():
        for (a, s), (b, t) in zip(batches[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
            for x, y in zip(s, t, strict=True):
                assert x.keys() == y.keys()
                for key in x:
                    np.testing.assert_array_equal(x[key], y[key])


def test_a_loop_over_targets_resumes_within_an_epoch(coco):
    root, path, _ = coco
    ds = CocoDetection(root / "images", path, masks=True)
    options = {"shuffle": True, "seed": 5, "transform": RandomResizedCrop(24)}
    whole = DataLoader(ds, 2, **options)
    expected = [pair for images, targets in whole for pair in zip(images, targets, strict=True)]
    first = DataLoader(ds, 2, num_workers=2, **options)
    running = iter(first)
    next(running), next(running)
    again = DataLoader(ds, 3, num_workers=1, **options)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [pair for images, targets in again for pair in zip(images, targets, strict=True)]
    assert len(rest) == 5
    for (a, s), (b, t) in zip(expected[4:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
        for key in s:
            np.testing.assert_array_equal(s[key], t[key])


def test_boxes_that_leave_the_image_take_their_rows_with_them(coco):
    root, path, _ = coco
    ds = CocoDetection(root / "images", path)
    all_rows = sum(len(t["boxes"]) for _, ts in DataLoader(ds, 4, transform=RandomCrop(24)) for t in ts)
    strict = DataLoader(ds, 4, transform=RandomCrop(24), min_visibility=0.9)
    some = [t for _, ts in strict for t in ts]
    assert all(len(t["labels"]) == len(t["boxes"]) == len(t["area"]) for t in some)
    assert sum(len(t["boxes"]) for t in some) < all_rows < sum(len(t["boxes"]) for _, t in ds)
    with pytest.raises(ValueError, match="min_visibility"):
        DataLoader(ds, min_visibility=2)


class Two(ImageDataset):
    """One image with two boxes, of which CenterCrop(8) shows the second."""

    target_type, in_channels, num_classes = "detection", 3, 2
    boxes = np.array([[1, 1, 5, 5], [10, 10, 15, 15]], np.float32)

    def __init__(self, **more):
        self.target = {"boxes": self.boxes, "labels": np.array([1, 2]), "image_id": np.int64(7), **more}

    def __len__(self):
        return 1

    def raw(self, index):
        return np.zeros((20, 20, 3), np.uint8), self.target


def test_joined_datasets_mirror_left_and_right_of_each():
    """The first of them may know no keypoints."""
    shape = {"keypoints": np.array([[[2, 2, 2], [4, 4, 2]], [[11, 11, 2], [14, 14, 2]]], np.float32)}
    plain, paired, other = Two(), Two(**shape), Two(**shape)
    paired.keypoint_pairs, other.keypoint_pairs = ((0, 1),), ((1, 0),)
    (_, (alone,)), *_ = DataLoader(paired, 1, transform=RandomHorizontalFlip(1.0))
    *_, (_, (joined,)) = DataLoader(ConcatDataset([plain, paired]), 1, transform=RandomHorizontalFlip(1.0))
    np.testing.assert_array_equal(joined["keypoints"], alone["keypoints"])
    with pytest.raises(ValueError, match="the same keypoint_pairs"):
        ConcatDataset([paired, other])


@pytest.mark.parametrize("kind", [list, fc.tensor, "torch"])
def test_rows_of_lists_and_tensors_leave_with_their_boxes(kind):
    make = pytest.importorskip("torch").tensor if kind == "torch" else kind
    ds = Two(boxes=make(Two.boxes), labels=make(np.array([1, 2])), iscrowd=make(np.array([0, 1])))
    ((_, (target,)),) = DataLoader(ds, 1, transform=CenterCrop(8))
    assert target["boxes"].tolist() == [[4, 4, 8, 8]] and target["image_id"] == 7
    assert np.asarray(target["labels"]).tolist() == [2] and np.asarray(target["iscrowd"]).tolist() == [1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": np.array([1, 2, 3])}, r"labels of 2 rows, one for each box, got shape \(3,\)"),
        ({"masks": np.zeros((3, 20, 20))}, r"masks of 2 rows.*\(3, 20, 20\)"),
        ({"area": np.ones(1)}, r"area of 2 rows.*\(1,\)"),
        ({"keypoints": np.zeros((2, 3, 2))}, r"keypoints \(n, k, 3\) of x, y and visible, got shape \(2, 3, 2\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_targets_whose_rows_are_not_those_of_the_boxes_are_refused(more, message):
    with pytest.raises(SampleError, match=f"sample 0 failed: ValueError: expected {message}"):
        list(DataLoader(Two(**more), 1, transform=CenterCrop(8)))


def test_area_follows_its_box_where_there_are_no_masks(coco):
    root, path, _ = coco
    ds = CocoDetection(root / "images", path, skip_empty=True)
    for images, targets in DataLoader(ds, 3, transform=Resize((100, 100))):
        assert images.shape == (3, 3, 100, 100)
        for t in targets:
            np.testing.assert_allclose(t["area"], (t["boxes"][:, 2:] - t["boxes"][:, :2]).prod(1), rtol=1e-5)


def test_batches_of_images_that_differ_in_size_are_lists(coco):
    root, path, _ = coco
    ds = ConcatDataset([Subset(CocoDetection(root / "images", path), [1, 2]), CocoDetection(root / "images", path)])
    images, targets = next(iter(DataLoader(ds, 4)))
    assert isinstance(images, list) and [x.shape[0] for x in images] == [3] * 4 and len(targets) == 4
    np.testing.assert_array_equal(images[0], ds[0][0])
    np.testing.assert_array_equal(targets[3]["boxes"], ds[3][1]["boxes"])
    same, _ = collate_detection([(images[0], {}), (images[0] * 2, {})])
    assert same.shape == (2, *images[0].shape)
    # A plain function sees the pixels alone, and may not change their size.
    darker, moved = next(iter(DataLoader(ds, 4, transform=lambda x, rng: x // 2)))
    assert darker[1].max() < images[1].max() and len(moved[1]["boxes"]) == len(targets[1]["boxes"])
    with pytest.raises(SampleError, match="leaves masks as they are|no Transform"):
        next(iter(DataLoader(ds, 4, transform=lambda x, rng: x[:, :, ::2])))
    # collate_fn gets samples that are transformed.
    samples = next(iter(DataLoader(ds, 2, transform=Resize((20, 20)), collate_fn=lambda s: s)))
    assert [x.shape for x, _ in samples] == [(3, 20, 20)] * 2 and "boxes" in samples[1][1]


def test_boxes_outside_the_image_are_clipped_or_dropped(coco):
    root, path, content = coco
    image = next(x for x in content["images"] if x["file_name"] == "001.png")
    w, h = image["width"], image["height"]
    base = {"image_id": image["id"], "category_id": 3}
    content["annotations"] = [
        {**base, "bbox": [-10, -10, 20.5, 30.0000006]}, {**base, "bbox": [w - 4.0, h - 5.0, 10, 10.0000006]},
        {**base, "bbox": [w + 3.0, 0, 5, 5]}, {**base, "bbox": [3, 3, 0, 5], "iscrowd": 1},
    ]  # fmt: skip
    path.write_text(json.dumps(content))
    ds = CocoDetection(root / "images", path, skip_empty=True)
    assert len(ds) == 1
    target = ds[0][1]
    np.testing.assert_allclose(target["boxes"], [[0, 0, 10.5, 20], [w - 4, h - 5, w, h]], atol=1e-5)
    assert len(target["labels"]) == 2 and target["area"][0] == pytest.approx(20.5 * 30)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("images"), "list 'images', got NoneType"),
        (lambda c: c["annotations"].__setitem__(3, 5), r"annotations\[3\]: expected an object .*got int"),
        (lambda c: c["annotations"][2].pop("bbox"), r"annotations\[2\].*bbox"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), r"annotations\[2\]: expected bbox of 4 finite"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, float("nan"), 3]), "4 finite numbers"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, "3", 3]), "4 finite numbers"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, -3, 3]), "without negative size"),
        (lambda c: c["annotations"][2].update(area="x"), "area as a finite number"),
        (lambda c: c["annotations"][2].update(area=10**400), "area as a finite number"),
        (lambda c: c["annotations"][1].update(image_id=5), r"annotations\[1\]: expected a known image_id, got 5"),
        (lambda c: c["annotations"][1].update(category_id=[1]), r"known category_id, got \[1\]"),
        (lambda c: c["images"][0].update(id=2**63), r"images\[0\]: expected an int id of its own, got 92"),
        (lambda c: c["images"].append(c["images"][0]), r"images\[9\]: expected an int id of its own, got 100"),
        (lambda c: c["images"][0].update(height=0), r"images\[0\]: expected height and width"),
        (lambda c: c["images"][0].update(file_name=3), "file_name as text"),
        (lambda c: c["annotations"][1].update(keypoints=[1, 2]), "keypoints of finite numbers, three per point"),
        (lambda c: c["annotations"][1].pop("keypoints"), "annotations without keypoints"),
    ],
)
def test_damaged_annotations_name_file_and_entry(coco, change, message):
    root, path, content = coco
    content = copy.deepcopy(content)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"instances.json: .*{message}"):
        CocoDetection(root / "images", path, keypoints=True)


def test_damaged_json_masks_and_missing_images(coco):
    root, path, content = coco
    whole = path.read_text()
    for text in ("", whole[: len(whole) // 2], "[1]", "[" * 100000):
        path.write_text(text)
        with pytest.raises(ValueError, match="instances.json"):
            CocoDetection(root / "images", path)
    for segmentation, message in (
        ([[1, 2, 3, 4]], "at least 3 points"),
        ([["a"] * 6], "at least 3 points"),
        ([[10**400] * 6], "at least 3 points"),
        (None, "polygons or run lengths, got NoneType"),
        ({"size": [1, 1], "counts": [1]}, r"size \[1, 1\]"),
        ({"size": None, "counts": [3, -1]}, "size None"),
    ):
        changed = copy.deepcopy(content)
        changed["annotations"][0]["segmentation"] = segmentation
        path.write_text(json.dumps(changed))
        with pytest.raises(SampleError, match=rf"annotations\[0\]: .*{message}"):
            list(DataLoader(CocoDetection(root / "images", path, masks=True), 3))
    wraps = [2**62] * 4 + [6]  # 6 in 64 bits, and a write out of bounds
    for counts, message in (
        ([3, -1], "at least 0"), ([5], "sum to"), ("\x7f", "none of run"), ("o", "ends within"),
        (wraps, "2 x 3, got 18446744073709551622"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            segmentation_mask({"size": [2, 3], "counts": counts}, (2, 3))
    path.write_text(whole)
    (root / "images" / "004.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 9 images .*004.png; pass skip_missing"):
        CocoDetection(root / "images", path)
    assert len(CocoDetection(root / "images", path, skip_missing=True)) == 8
    with pytest.raises(FileNotFoundError, match="folder of images"):
        CocoDetection(root / "none", path)


def test_an_image_of_another_size_than_annotated_is_an_error_and_exif_is_no_reason_for_one(coco):
    root, path, content = coco
    info = content["images"][1]
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((info["height"], info["width"], 3), np.uint8)
    Image.fromarray(pixels).save(root / "images" / info["file_name"], exif=exif)
    ds = CocoDetection(root / "images", path)
    assert ds[len(ds) - 2][0].shape == (3, info["height"], info["width"])
    Image.fromarray(pixels[1:]).save(root / "images" / info["file_name"])
    with pytest.raises(ValueError, match="001.png: expected an image of"):
        ds[len(ds) - 2]
    skipping = CocoDetection(root / "images", path, on_error="skip")
    assert sum(len(targets) for _, targets in DataLoader(skipping, 4)) == 8


def test_targets_without_rows_and_targets_of_lists():
    steps = Compose([RandomResizedCrop(20), RandomHorizontalFlip()])

    class Own(ImageDataset):
        target_type = "detection"
        targets = (
            {"boxes": [[2, 2, 30, 30]], "labels": [1], "area": [784], "keypoints": np.zeros((1, 0, 3)), "image_id": 4},
            {"boxes": [], "labels": [], "area": [], "masks": np.zeros((0, 32, 32), bool), "keypoints": []},
        )

        def __len__(self):
            return 2

        def raw(self, index):
            return np.zeros((32, 32, 3), np.uint8), self.targets[index]

    images, (one, none) = next(iter(DataLoader(Own(), 2, transform=steps)))
    assert images.shape == (2, 3, 20, 20) and one["image_id"] == 4
    assert one["boxes"].shape == (1, 4) and one["labels"].tolist() == [1] and one["keypoints"].shape == (1, 0, 3)
    assert none["boxes"].shape == (0, 4) and none["masks"].shape == (0, 20, 20) and len(none["labels"]) == 0
    assert Own.targets[0]["boxes"] == [[2, 2, 30, 30]]  # the dataset's own is left as it was


# ---------------------------------------------------------------- VOC


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"2007_{i:06d}" for i in range(6)]
    for i, name in enumerate(names):
        h, w = int(rng.integers(40, 70)), int(rng.integers(40, 70))
        mask = np.zeros((h, w), np.uint8)
        mask[8:30, 5:33] = 1 + i
        mask[7:31, 4] = mask[7:31, 33] = 255
        pixels = np.where(mask[..., None] == 1 + i, 220, 20).astype(np.uint8) * np.ones(3, np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        image = Image.fromarray(mask)
        if i % 2:
            image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
        image.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[:4]) + "\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names[4:]) + "\n")
    return tmp_path, root


def test_voc_masks_are_ids_with_a_border_that_does_not_count(voc):
    base, root = voc
    for where in (base, base / "VOCdevkit", root):
        ds = VocSegmentation(where)
        assert len(ds) == 4 and len(ds.classes) == ds.num_classes == 21 and ds.ignore_index == 255
    for i in range(4):
        image, mask = ds[i]
        assert mask.shape == image.shape[1:] and set(np.unique(mask)) == {0, 1 + i, 255}
    small = VocSegmentation(root, "val", image_size=32)
    images, masks = next(iter(DataLoader(small, 2)))
    assert images.shape == (2, 3, 32, 32) and masks.shape == (2, 32, 32) and masks.dtype == np.int64
    bright = images.mean(1) > 0
    assert (bright == ((masks == 5) | (masks == 6)))[masks != 255].mean() > 0.95


def test_masks_move_with_their_images_and_the_outside_does_not_count(voc):
    _, root = voc
    steps = Compose([
        RandomAffine(20, translate=(0.3, 0.3)), RandomHorizontalFlip(), ColorJitter(0.1), RandomCrop(32, padding=4)
    ])  # fmt: skip
    for size in (None, 36):
        ds = VocSegmentation(root, image_size=size)
        runs = {w: list(DataLoader(ds, 3, shuffle=True, num_workers=w, transform=steps)) for w in (0, 1, 2, 4)}
        for images, masks in runs[0]:
            assert images.shape[2:] == masks.shape[1:] == (32, 32) and masks.dtype == np.int64
            object_, counts = (masks > 0) & (masks < 255), masks != 255
            assert ((images.mean(1) > 0) == object_)[counts].mean() > 0.93 and counts.mean() < 0.99
        for other in runs.values():
            for (a, b), (c, d) in zip(runs[0], other, strict=True):
                np.testing.assert_array_equal(a, c)
                np.testing.assert_array_equal(b, d)


def test_masks_of_an_array_dataset_move_too():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (5, 12, 12))
    images = (masks[..., None] * 100).astype(np.uint8)
    ds = ArrayDataset(images, masks, layout="NHWC", ignore_index=9)
    assert ds.target_type == "mask" and ArrayDataset(images, masks[:, 0, 0], layout="NHWC").target_type == "label"
    for options in ({}, {"collate_fn": lambda s: (np.stack([x for x, _ in s]), np.stack([y for _, y in s]))}):
        loader = DataLoader(Subset(ds, [4, 1, 2]), 3, transform=RandomCrop(12, padding=3, fill=77), **options)
        x, y = next(iter(loader))
        inside = y != 9
        np.testing.assert_array_equal(np.rint(x[:, 0] * 255)[inside], y[inside] * 100)
        assert (np.rint(x[:, 0] * 255)[~inside] == 77).all() and (~inside).any()


def test_voc_bad_input(voc):
    base, root = voc
    with pytest.raises(FileNotFoundError, match=r"\(train, val\), got 'test'"):
        VocSegmentation(base, "test")
    with pytest.raises(FileNotFoundError, match="JPEGImages"):
        VocSegmentation(root / "ImageSets")
    mask = root / "SegmentationClass" / "2007_000001.png"
    for image, message in (
        (Image.fromarray(np.zeros((9, 9), np.uint8)), r"mask of \(\d+, \d+\) as its image, got \(9, 9\)"),
        (Image.fromarray(np.zeros((9, 9, 3), np.uint8)), "mode P or L, got RGB"),
    ):
        image.save(mask)
        with pytest.raises(SampleError, match=f"sample 1 .*2007_000001.png: .*{message}"):
            list(DataLoader(VocSegmentation(root), 1))
    ids = np.full(np.asarray(Image.open(root / "JPEGImages" / "2007_000001.jpg")).shape[:2], 21, np.uint8)
    Image.fromarray(ids).save(mask)
    with pytest.raises(DamagedImage, match="class ids 0 to 20 or 255, got 21"):
        VocSegmentation(root)[1]
    assert VocSegmentation(root, classes=range(22))[1][1].max() == 21
    mask.unlink()
    with pytest.raises(FileNotFoundError, match="1 files are missing.*2007_000001.png"):
        VocSegmentation(root)


def test_a_mask_of_another_size_is_noticed_before_both_are_resized(voc):
    _, root = voc
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(root / "SegmentationClass" / "2007_000001.png")
    ds = VocSegmentation(root, image_size=16)
    with pytest.raises(DamagedImage, match=r"2007_000001.png: expected a mask of \(\d+, \d+\) .*, got \(20, 20\)"):
        ds[1]
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image = Image.fromarray(np.zeros((24, 40, 3), np.uint8))
    image.save(root / "JPEGImages" / "2007_000001.jpg", exif=exif)
    Image.fromarray(np.zeros((40, 24), np.uint8)).save(root / "SegmentationClass" / "2007_000001.png")
    assert ds[1][1].shape == (16, 16)


def test_voc_and_coco_check_mean_and_std(voc, coco):
    assert VocSegmentation(voc[1], mean=np.full(3, 0.5)).mean == (0.5,) * 3
    with pytest.raises(ValueError, match="VocSegmentation: expected std > 0"):
        VocSegmentation(voc[1], std=(0, 1, 1))
    with pytest.raises(ValueError, match="CocoDetection: expected mean of 1 or 3"):
        CocoDetection(coco[0] / "images", coco[1], mean=(1, 2))
