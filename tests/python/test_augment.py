"""Transforms against torchvision v2 on photographs, with the parameters fixed; targets; seeds; bad input."""

import fastcnn.augment as A
import numpy as np
import pytest
from fastcnn.augment import geometric
from fastcnn.bench.augment import import_torchvision

LIMIT = 1.5  # grey levels, mean


@pytest.fixture(scope="module")
def photos():
    data = pytest.importorskip("skimage.data")
    Image = pytest.importorskip("PIL.Image")
    found = [data.astronaut(), data.coffee(), data.chelsea()]
    small = [np.asarray(Image.fromarray(p).resize((130, 98), Image.Resampling.BILINEAR)) for p in found]
    return np.stack(small).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def tv():
    """torchvision's transforms."""
    pytest.importorskip("torch")
    try:
        return import_torchvision("torchvision.transforms.v2")
    except ImportError as error:
        pytest.skip(f"torchvision is not installed: {error}")


BIL = "bilinear"
STILL = {"translate": (0, 0), "scale": 1.0, "shear": (0.0, 0.0)}
GEOMETRY = {
    "rotation 25": (lambda: A.RandomRotation(30), {"angle": 25.0, **STILL},
                    lambda f, x, I: f.rotate(x, 25.0, I[BIL])),
    "rotation -90": (lambda: A.RandomRotation(90), {"angle": -90.0, **STILL},
                     lambda f, x, I: f.rotate(x, -90.0, I[BIL])),
    "affine": (
        lambda: A.RandomAffine(20, (0.1, 0.1), (0.5, 2), 10), {"angle": 12.0, "translate": (7, -5), "scale": 1.2,
        "shear": (8.0, -4.0)}, lambda f, x, I: f.affine(x, 12.0, [7, -5], 1.2, [8.0, -4.0], I[BIL]),
    ),
    "affine fill": (
        lambda: A.RandomAffine(20, fill=[255, 0, 80]), {"angle": -40.0, "translate": (0, 0), "scale": 0.7,
        "shear": (0.0, 0.0)}, lambda f, x, I: f.affine(x, -40.0, [0, 0], 0.7, [0.0, 0.0], I[BIL], fill=[255, 0, 80]),
    ),
    "zoom": (
        lambda: A.RandomZoom(), {"angle": 0.0, "translate": (0, 0), "scale": 1.3, "shear": (0.0, 0.0)},
        lambda f, x, I: f.affine(x, 0.0, [0, 0], 1.3, [0.0, 0.0], I[BIL]),
    ),
    "translate": (
        lambda: A.RandomTranslate((0.2, 0.2)), {"angle": 0.0, "translate": (11, 6), "scale": 1.0, "shear": (0.0, 0.0)},
        lambda f, x, I: f.affine(x, 0.0, [11, 6], 1.0, [0.0, 0.0]),
    ),
    "crop": (lambda: A.RandomCrop((40, 50), 6), {"top": 3, "left": 60},
             lambda f, x, I: f.crop(f.pad(x, [6]), 3, 60, 40, 50)),
    "resized crop down": (
        lambda: A.RandomResizedCrop(32), {"top": 5, "left": 9, "height": 80, "width": 90},
        lambda f, x, I: f.resized_crop(x, 5, 9, 80, 90, [32, 32], I[BIL], antialias=True),
    ),
    "resized crop up": (
        lambda: A.RandomResizedCrop((96, 80)), {"top": 50, "left": 70, "height": 40, "width": 50},
        lambda f, x, I: f.resized_crop(x, 50, 70, 40, 50, [96, 80], I[BIL], antialias=True),
    ),
    "resized crop bicubic": (
        lambda: A.RandomResizedCrop(48, interpolation="bicubic"), {"top": 5, "left": 9, "height": 80, "width": 90},
        lambda f, x, I: f.resized_crop(x, 5, 9, 80, 90, [48, 48], I["bicubic"], antialias=True),
    ),
    "resize": (lambda: A.Resize((37, 61)), {}, lambda f, x, I: f.resize(x, [37, 61], antialias=True)),
    "resize shorter edge": (lambda: A.Resize(50), {}, lambda f, x, I: f.resize(x, [50], antialias=True)),
    "center crop": (lambda: A.CenterCrop((41, 60)), {}, lambda f, x, I: f.center_crop(x, [41, 60])),
    "center crop larger": (lambda: A.CenterCrop(120), {}, lambda f, x, I: f.center_crop(x, [120, 120])),
    "pad reflect": (lambda: A.Pad((3, 9), padding_mode="reflect"), {},
                    lambda f, x, I: f.pad(x, [3, 9], padding_mode="reflect")),
    "pad edge": (lambda: A.Pad((1, 2, 3, 4), padding_mode="edge"), {},
                 lambda f, x, I: f.pad(x, [1, 2, 3, 4], padding_mode="edge")),
    "flip": (lambda: A.RandomHorizontalFlip(), {"flip": True}, lambda f, x, I: f.horizontal_flip(x)),
    "vertical flip": (lambda: A.RandomVerticalFlip(), {"flip": True}, lambda f, x, I: f.vertical_flip(x)),
    "perspective": (
        lambda: A.RandomPerspective(), {"end": ((9, 4), (120, 10), (110, 90), (3, 80))},
        lambda f, x, I: f.perspective(
            x, [[0, 0], [129, 0], [129, 97], [0, 97]], [[9, 4], [120, 10], [110, 90], [3, 80]], I[BIL]
        ),
    ),
    "blur": (lambda: A.GaussianBlur((5, 9)), {"sigma": 1.7}, lambda f, x, I: f.gaussian_blur(x, [9, 5], [1.7, 1.7])),
    "brightness": (None, {"brightness": 1.6}, lambda f, x, I: f.adjust_brightness(x, 1.6)),
    "contrast up": (None, {"contrast": 1.7}, lambda f, x, I: f.adjust_contrast(x, 1.7)),
    "contrast down": (None, {"contrast": 0.4}, lambda f, x, I: f.adjust_contrast(x, 0.4)),
    "saturation": (None, {"saturation": 1.9}, lambda f, x, I: f.adjust_saturation(x, 1.9)),
    "hue": (None, {"hue": 0.23}, lambda f, x, I: f.adjust_hue(x, 0.23)),
    "hue back": (None, {"hue": -0.4}, lambda f, x, I: f.adjust_hue(x, -0.4)),
    "grayscale": (lambda: A.Grayscale(3), {}, lambda f, x, I: f.rgb_to_grayscale(x, 3)),
    "grayscale 1": (lambda: A.Grayscale(), {}, lambda f, x, I: f.rgb_to_grayscale(x, 1)),
}  # fmt: skip


def fixed(make, values):
    """The transform and its parameters for a batch of 3."""
    if make is None:
        base = {"order": (0, 1, 2, 3), "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
        return A.ColorJitter(1, 1, 1, 0.5), {k: np.array([v] * 3) for k, v in {**base, **values}.items()}
    return make(), {k: np.array([v] * 3) for k, v in values.items()}


# A fill is in the images' own units: with bytes alone.
@pytest.mark.parametrize(
    "dtype, name", [(t, n) for t in (np.uint8, np.float32) for n in GEOMETRY if t == np.uint8 or "fill" not in n]
)
def test_equals_torchvision(name, dtype, photos, tv):
    import torch

    make, values, theirs = GEOMETRY[name]
    images = photos if dtype == np.uint8 else (photos / 255).astype(np.float32)
    t, params = fixed(make, values)
    before = images.copy()
    got = t.apply(images, params)
    np.testing.assert_array_equal(images, before)
    modes = {m.value: m for m in tv.InterpolationMode}
    expect = theirs(tv.functional, torch.from_numpy(np.ascontiguousarray(images)), modes).numpy()
    assert got.shape == expect.shape and got.dtype == expect.dtype == dtype
    scale = 1 if dtype == np.uint8 else 255
    difference = np.abs(got.astype(np.float64) - expect.astype(np.float64)).mean((1, 2, 3)) * scale
    assert difference.max() < LIMIT, difference
    assert np.abs(got.astype(np.float64) - images.mean()).mean() > 0  # not constant


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 16), (6, 13), (3, 4), (9, 5)], ids=str)
def test_resize_without_antialias_goes_on_beyond_the_edge(mode, size, tv):
    import torch

    image = np.random.default_rng(0).random((2, 3, 6, 8), dtype=np.float32)
    how = tv.InterpolationMode(mode)
    expect = tv.functional.resize(torch.from_numpy(image), list(size), how, antialias=False).numpy()
    np.testing.assert_allclose(A.Resize(size, mode, antialias=False)(image, 0), expect, atol=2e-6)
    whole = A.RandomResizedCrop(size, (1, 1), (4 / 3, 4 / 3), mode, antialias=False)
    np.testing.assert_allclose(whole(image, 0), expect, atol=2e-6)
    white = A.Compose([A.Resize(size, mode, antialias=False), A.RandomHorizontalFlip()])(np.ones_like(image), 1)
    np.testing.assert_allclose(white, 1, atol=1e-6)


def test_normalize_and_crop_in_one_pass(photos):
    steps = A.Compose([A.RandomCrop(64), A.RandomHorizontalFlip(1.0), A.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])])
    got = steps(photos, 3)
    plain = A.Compose(steps.transforms[:2])(photos, 3)
    mean, std = np.float32([0.5, 0.4, 0.3])[:, None, None], np.float32([0.2, 0.3, 0.4])[:, None, None]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (plain / 255 - mean) / std, atol=1e-5)


def test_elastic_moves_pixels_as_torchvision(photos, tv):
    import torch

    t = A.ElasticTransform(alpha=40.0, sigma=4.0)
    params = t.draw(A.SampleRng(0, 0, np.arange(3)), photos.shape[2:])
    d = params["displacement"]
    assert 1 < np.abs(d).max() < 40
    got = t.apply(photos, params)
    for k in range(3):
        # Theirs counts in halves of the picture.
        field = torch.from_numpy((d[k] * np.array([2 / 130, 2 / 98])[:, None, None]).transpose(1, 2, 0)[None])
        expect = tv.functional.elastic(torch.from_numpy(photos[k].copy()), field.float(), fill=0).numpy()
        assert np.abs(got[k].astype(float) - expect).mean() < LIMIT


def everything():
    return A.Compose(
        [
            A.RandomResizedCrop(64), A.RandomHorizontalFlip(), A.RandomRotation(20), A.RandomPerspective(0.3),
            A.ColorJitter(0.4, 0.4, 0.4, 0.1), A.RandomGrayscale(0.2), A.GaussianBlur(3), A.ElasticTransform(8.0, 3.0),
            A.RandomErasing(), A.Cutout(9),
        ]
    )  # fmt: skip


def test_any_split_of_a_batch_gives_the_same(photos):
    images = np.concatenate([photos, photos[:, :, ::-1]])
    whole = everything()(images, A.SampleRng(5, 2, np.arange(6)))
    assert np.unique(whole.reshape(6, -1), axis=0).shape[0] == 6
    for split in ([3], [1, 2], [1, 2, 3, 4, 5]):
        parts = [everything()(images[i], A.SampleRng(5, 2, i)) for i in np.split(np.arange(6), split)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    other = everything()(images, A.SampleRng(5, 3, np.arange(6)))
    assert (other != whole).any((1, 2, 3)).all()


def spots(n=4, h=90, w=110):
    """Images with one bright rectangle each, their boxes, masks and corners."""
    images = np.zeros((n, h, w, 3), np.uint8).transpose(0, 3, 1, 2)
    boxes, masks = [], np.zeros((n, h, w), np.int64)
    for k in range(n):
        x0, y0, x1, y1 = 30 + 3 * k, 25 + 2 * k, 62 + k, 50 + 3 * k
        images[k, :, y0:y1, x0:x1] = 255
        masks[k, y0:y1, x0:x1] = 1000 + k
        boxes.append(np.float32([[x0, y0, x1, y1]]))
    return images, boxes, masks


MOVES = {
    "flips": lambda: A.Compose([A.RandomHorizontalFlip(1.0), A.RandomVerticalFlip(1.0)]),
    "crop": lambda: A.RandomCrop((80, 100), 4),
    "resize": lambda: A.Resize((45, 70)),
    "resized crop": lambda: A.RandomResizedCrop(72, scale=(0.7, 1.0)),
    "affine": lambda: A.RandomAffine(0, (0.1, 0.1), (0.8, 1.1)),
    "rotation 90": lambda: A.RandomRotation((90, 90)),
    "perspective": lambda: A.RandomPerspective(0.3, 1.0),
    "elastic": lambda: A.ElasticTransform(20.0, 6.0),
    "all": lambda: A.Compose([A.Pad(5), A.RandomHorizontalFlip(), A.RandomZoom((0.9, 1.1)), A.Resize(80)]),
}


@pytest.mark.parametrize("name", MOVES)
def test_targets_move_with_the_picture(name):
    images, boxes, masks = spots()
    corners = [b.reshape(2, 2) for b in boxes]
    out = MOVES[name]()(images, A.SampleRng(1, 0, np.arange(4)), boxes=boxes, masks=masks, keypoints=corners)
    slack = 2.5 if name in ("perspective", "elastic") else 1.01
    for k in range(4):
        bright = out["images"][k, 0] >= 128
        assert bright.any()
        ys, xs = np.nonzero(bright)
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert len(out["boxes"][k]) == 1
        assert np.abs(out["boxes"][k][0] - seen).max() <= slack, (out["boxes"][k], seen)
        mask = out["masks"][k] == 1000 + k
        assert (mask ^ bright).mean() < 0.02 and set(np.unique(out["masks"][k])) <= {0, 1000 + k}
        if name not in ("perspective", "elastic"):
            points = out["keypoints"][k]
            box = np.concatenate([points.min(0), points.max(0)])
            h, w = out["images"].shape[2:]
            assert np.abs(np.clip(box, 0, [w, h, w, h]) - out["boxes"][k][0]).max() < 1e-3
    assert out["masks"].dtype == masks.dtype and out["boxes"][0].dtype == np.float32


def test_keypoints_of_a_strong_elastic_field_lie_where_the_picture_shows_them():
    from fastcnn.augment.targets import _field_at

    size, far = (60, 80), []
    t = A.ElasticTransform(120.0, 6.0)  # folds the picture in places
    for seed in range(10):
        field = t.draw(A.SampleRng(seed, 0, np.arange(1)), size)["displacement"][0]
        points = np.random.default_rng(seed).uniform((10, 10), (70, 50), (8, 2))
        moved = t(np.zeros((1, 1, *size), np.uint8), A.SampleRng(seed, 0, np.arange(1)), keypoints=[points])
        found = moved["keypoints"][0]
        far.append(np.abs(found + _field_at(field, found) - points).max(1))
    assert np.median(far) < 0.01 and np.mean(np.array(far) > 0.5) < 0.02


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)], ids=str)
def test_perspective_leaves_a_line_of_pixels_alone(size):
    images = np.full((2, 3, *size), 100, np.uint8)
    np.testing.assert_array_equal(A.RandomPerspective(0.5, 1.0)(images, 3), images)


def test_resize_of_a_long_line_keeps_a_pixel():
    line = np.full((1, 1, 2, 300), 9, np.uint8)
    assert A.Resize(10, max_size=12)(line).shape == (1, 1, 1, 12)


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("size", [(4, 4), (6, 7), (2, 9)], ids=str)
def test_perspective_with_corners_in_a_line_leaves_the_image_alone(size, scale):
    """Of small images three moved corners may lie in a line: no matrix takes the picture there."""
    images = np.random.default_rng(0).integers(0, 256, (200, 1, *size)).astype(np.uint8)
    t, rng = A.RandomPerspective(scale, 1.0), A.SampleRng(0, 0, np.arange(200))
    end = t.draw(A.SampleRng(0, 0, np.arange(200)), size)["end"]
    (x, y), (u, v) = (np.moveaxis(np.roll(end, -k - 1, 1) - np.roll(end, -k, 1), 2, 0) for k in (0, 1))
    flat = (x * v == y * u).any(1)
    out = t(images, rng, keypoints=np.ones((200, 1, 2)))
    assert flat.any() or (scale == 0.5 and size != (4, 4))
    np.testing.assert_array_equal(out["images"][flat], images[flat])
    assert np.isfinite(out["keypoints"]).all()


def test_box_formats_clipping_and_visibility():
    image = np.zeros((3, 40, 60), np.uint8)
    boxes = np.array([[0, 0, 20, 20], [35, 10, 65.0000006, 30], [59, 39, 60, 40], [10, 10, 10, 10], [-5, -5, 70, 50]])
    crop = A.CenterCrop((40, 40))  # shows x from 10 to 50
    out = crop(image, 0, boxes=boxes, labels=list("abcde"))
    np.testing.assert_allclose(out["boxes"], [[0, 0, 10, 20], [25, 10, 40, 30], [0, 0, 40, 40]])
    assert list(out["labels"]) == ["a", "b", "e"] and list(out["box_index"]) == [0, 1, 4]
    assert list(crop(image, 0, boxes=boxes, min_visibility=0.5)["box_index"]) == [0, 1]
    for box_format in ("xywh", "cxcywh"):
        size = boxes[:, 2:] - boxes[:, :2]
        first = boxes[:, :2] if box_format == "xywh" else boxes[:, :2] + size / 2
        got = crop(image, 0, boxes=np.concatenate([first, size], 1), box_format=box_format)["boxes"]
        start = got[:, :2] if box_format == "xywh" else got[:, :2] - got[:, 2:] / 2
        np.testing.assert_allclose(np.concatenate([start, start + got[:, 2:]], 1), out["boxes"])
    # Rounding over the edge of a normalised box is clipped, an empty list stays empty.
    full = A.RandomHorizontalFlip(1.0)(image, 0, boxes=[[0, 0, 60 * 1.0000006, 40 * 1.0000006]])
    assert full["boxes"].max() <= 60 and full["boxes"].min() >= 0 and len(full["boxes"]) == 1
    assert A.RandomCrop(8)(image, 0, boxes=[], labels=[])["boxes"].shape == (0, 4)


@pytest.mark.parametrize("between", [None, A.ColorJitter(0.2), A.GaussianBlur(3)], ids=["fused", "colour", "blur"])
def test_what_a_crop_cut_off_does_not_come_back_with_a_border(between):
    """Boxes and keypoints are where the masks are: pixels outside an earlier frame are gone."""
    image, masks = np.zeros((3, 20, 20), np.uint8), np.zeros((2, 20, 20), np.uint8)
    boxes = np.array([[0.0, 0.0, 20.0, 9.0], [0.0, 0.0, 4.0, 4.0]])
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = 1
    points = [[1.0, 1.0], [7.0, 7.0]]
    steps = [A.CenterCrop(10), *([] if between is None else [between]), A.Pad(5)]
    out = A.Compose(steps)(image, 0, boxes=boxes, masks=masks, keypoints=points)
    ys, xs = np.nonzero(out["masks"][0])
    assert not out["masks"][1].any() and list(out["box_index"]) == [0]
    np.testing.assert_allclose(out["boxes"], [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])
    np.testing.assert_allclose(out["boxes"], [[5, 5, 15, 9]])
    assert list(out["keypoints_inside"]) == [False, True]
    # 40 of its 180 pixels are left: what counts is the share of the box as it was given.
    for least, kept in ((0.2, [0]), (0.25, [])):
        assert list(A.Compose(steps)(image, 0, boxes=boxes, min_visibility=least)["box_index"]) == kept


def test_boxes_over_the_edge_do_not_move_into_the_image():
    right = A.RandomAffine(0)
    right.draw = lambda rng, size: {
        "angle": np.zeros(1), "translate": np.array([[8.0, 0.0]]), "scale": np.ones(1), "shear": np.zeros((1, 2))
    }  # fmt: skip
    out = right(np.zeros((3, 20, 20), np.uint8), 0, boxes=[[-6, 2, 5, 8], [-7, 2, -1, 8]], keypoints=[[-1.0, 3.0]])
    np.testing.assert_allclose(out["boxes"], [[8, 2, 13, 8]])
    assert list(out["box_index"]) == [0] and list(out["keypoints_inside"]) == [False]


def test_instance_masks_and_keypoints_outside():
    image = np.zeros((3, 20, 20), np.uint8)
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :5], masks[1, :, 15:] = True, True
    out = A.RandomHorizontalFlip(1.0)(image, 0, masks=masks, keypoints=[[1.0, 2.0, 7.0], [19.0, 3.0, 8.0]])
    np.testing.assert_array_equal(out["masks"], masks[:, :, ::-1])
    np.testing.assert_allclose(out["keypoints"], [[19, 2, 7], [1, 3, 8]])
    out = A.CenterCrop(10)(image, 0, keypoints=[[1.0, 2.0], [10.0, 10.0]])
    assert list(out["keypoints_inside"]) == [False, True]


def test_paired_keypoints_change_places_in_mirrored_images():
    """Left and right stay left and right of the picture: as albumentations and COCO's evaluation mean it."""
    image, pairs = np.zeros((3, 20, 20), np.uint8), [(0, 1)]
    eyes = [[4.0, 5.0, 1.0], [14.0, 6.0, 2.0], [9.0, 9.0, 3.0]]

    def after(*steps):
        return A.Compose(steps)(image, 0, keypoints=eyes, keypoint_pairs=pairs)["keypoints"]

    np.testing.assert_allclose(after(A.RandomHorizontalFlip(1.0)), [[6, 6, 2], [16, 5, 1], [11, 9, 3]])
    np.testing.assert_allclose(after(A.RandomVerticalFlip(1.0)), [[14, 14, 2], [4, 15, 1], [9, 11, 3]])
    np.testing.assert_allclose(
        after(A.RandomHorizontalFlip(1.0), A.RandomVerticalFlip(1.0)), [[16, 15, 1], [6, 14, 2], [11, 11, 3]]
    )  # turned by half a circle, not mirrored
    flipped = A.RandomHorizontalFlip(1.0)
    colour = A.ColorJitter(0.4, hue=0.1)  # in between pixels are made: two moves, each with its own matrix
    np.testing.assert_allclose(after(flipped, colour, flipped), eyes)
    np.testing.assert_allclose(after(A.RandomRotation((0, 0))), eyes)


def test_fused_equals_one_after_another(photos):
    steps = [A.RandomCrop(80, 6), A.RandomHorizontalFlip(), A.CenterCrop(70), A.RandomVerticalFlip(), A.Pad(3)]
    rng = A.SampleRng(2, 0, np.arange(3))
    fused = A.Compose(steps)(photos, A.SampleRng(2, 0, np.arange(3)))
    images = photos
    for step in steps:
        images = step(images, rng)
    np.testing.assert_array_equal(fused, images)
    # A border shows its fill, though the crop before it has cut picture away there.
    assert (fused[:, :, :3] == 0).all()
    # Colour before a geometric step is done before it: the border keeps its fill.
    bright = A.Compose([A.ColorJitter(brightness=(0.5, 0.5)), A.Pad(4, fill=200)])(photos, 0)
    assert (bright[:, :, :4] == 200).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.uint16, np.float16])
def test_other_dtypes_keep_values_and_dtype(dtype):
    images = np.random.default_rng(0).integers(0, 250, (2, 3, 12, 14)).astype(dtype)
    out = A.Compose([A.RandomHorizontalFlip(1.0), A.RandomCrop(10)])(images, 0)
    assert out.dtype == dtype and set(np.unique(out)) <= set(np.unique(images))
    turned = A.RandomRotation((180, 180))(images, 0)
    np.testing.assert_allclose(turned.astype(float), images[:, :, ::-1, ::-1].astype(float), atol=0.3)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64", "uint32", "int8"])
def test_colours_and_bicubic_of_other_integers_stay_in_range(dtype):
    """Colours reach to the largest value of the dtype, and what sampling overshoots does not wrap around."""
    top = np.iinfo(dtype).max
    small = np.random.default_rng(0).integers(0, 50, (2, 3, 12, 14))
    images = (small * (top // 100)).astype(dtype) if top < 2**20 else small.astype(dtype)
    twice = A.ColorJitter((2.0, 2.0))(images, 0)
    np.testing.assert_allclose(twice.astype(float), 2.0 * images, atol=1, rtol=1e-6)
    gray = A.Grayscale()(images, 0)[:, 0].astype(float)
    np.testing.assert_allclose(gray, np.einsum("nchw,c->nhw", images, [0.2989, 0.587, 0.114]), atol=1, rtol=1e-5)
    edge = np.zeros((1, 1, 8, 8), dtype)
    edge[..., 4:] = min(top, 2**24)
    wide, limits = A.Resize(16, "bicubic")(edge, 0).astype(float), np.iinfo(dtype)
    smooth = A.Resize(16, "bicubic")(edge.astype(np.float64), 0)
    np.testing.assert_allclose(wide, np.clip(smooth, limits.min, limits.max), rtol=1e-6, atol=1)
    for fill in (-(2.0**70), 2.0**70):
        padded = A.Pad(1, fill=fill)(edge, 0)
        np.testing.assert_allclose(padded[0, 0, 0, 0].astype(float), limits.min if fill < 0 else limits.max)
    assert A.RandomErasing(1.0, (0.3, 0.3), value="random")(edge * 0, 0).min() >= 0


@pytest.mark.parametrize("step", [A.ColorJitter(0.2), A.RandomGrayscale(0.0), A.RandomApply(A.ColorJitter(0.2), 0.0)])
def test_colours_refuse_normalised_images_instead_of_limiting_them(step):
    images = np.random.default_rng(0).random((2, 3, 12, 14), np.float32)
    step(images, 0)
    with pytest.raises(ValueError, match=r"Colours: expected floats in \[0, 1\], not normalised"):
        A.Compose([A.Normalize([0.5] * 3, [0.2] * 3), step])(images, 0)


def test_erasing_and_cutout():
    images = np.full((400, 3, 24, 30), 9, np.uint8)
    out = A.RandomErasing(0.5, value=(1, 2, 3))(images, 0)
    hit = (out != 9).any((1, 2, 3))
    assert 150 < hit.sum() < 250
    area = (out[hit][:, 0] == 1).mean((1, 2))
    assert area.min() > 0.01 and area.max() < 0.36 and (out[hit] == 3).any((2, 3))[:, 2].all()
    noise = A.RandomErasing(1.0, value="random")(images[:5], 0)
    assert len(np.unique(noise)) > 100
    holes = A.Cutout(8)(images, 1)
    count = (holes[:, 0] == 0).sum((1, 2))
    assert count.max() == 64 and count.min() >= 16
    assert (A.Cutout(4, n_holes=0)(images[:2], 1) == 9).all()


def test_erased_parts_take_the_nearest_value_that_the_dtype_holds():
    """As a border of Pad does; NumPy would wrap 300 around to 44."""
    images = np.full((1, 2, 8, 8), 100, np.uint8)
    for t in (A.RandomErasing(1.0, (0.2, 0.3), value=(300, -1)), A.Cutout(4, fill=(300, -1))):
        out = t(images, 1)
        assert set(np.unique(out[0, 0])) == {100, 255} and set(np.unique(out[0, 1])) == {0, 100}


def test_mixup_and_cutmix():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 20, 20)).astype(np.uint8)
    ids = np.array([0, 1, 2, 3, 0, 1])
    x, y = A.MixUp(0.4, num_classes=4)(images, ids, 3)
    weight = y[0, 0]
    np.testing.assert_allclose(x, weight * images + (1 - weight) * np.roll(images, 1, 0).astype(np.float32), atol=1e-3)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    assert 0 < weight < 1 and y[0, 1] == pytest.approx(1 - weight)
    x, y = A.CutMix(num_classes=4)(images, ids, 5)
    same = (x == images).all(1).mean((1, 2))
    assert x.dtype == np.uint8 and abs(y[2, 2] - same[2]) < 0.02 and 0 < same[2] < 1
    again, _ = A.CutMix(num_classes=4)(images, ids, 5)
    np.testing.assert_array_equal(again, x)
    soft = np.full((6, 2), 0.5, np.float32)
    assert A.MixUp()(images, soft, A.SampleRng(0, 1, np.arange(6)))[1].shape == (6, 2)


X = np.zeros((2, 3, 16, 16), np.uint8)
BAD = {
    "center crop": (lambda: A.CenterCrop(0), "CenterCrop.*size"),
    "resize": (lambda: A.Resize(-3), "Resize.*size"),
    "interpolation": (lambda: A.Resize(4, interpolation="best"), "Resize.*interpolation.*best"),
    "scale": (lambda: A.RandomResizedCrop(8, scale=(1.0, 0.5)), "RandomResizedCrop.*scale"),
    "ratio": (lambda: A.RandomResizedCrop(8, ratio=0.5), "RandomResizedCrop.*ratio"),
    "fill mode": (lambda: A.RandomRotation(5, fill_mode="wrap"), "RandomRotation.*fill_mode.*wrap"),
    "translate": (lambda: A.RandomTranslate((2.0, 0)), "RandomTranslate.*translate"),
    "zoom": (lambda: A.RandomZoom((0, 1)), "RandomZoom.*scale"),
    "distortion": (lambda: A.RandomPerspective(2.0), "RandomPerspective.*distortion_scale"),
    "sigma": (lambda: A.ElasticTransform(sigma=0), "ElasticTransform.*sigma"),
    "jitter": (lambda: A.ColorJitter(brightness=-1), "ColorJitter.*brightness"),
    "hue": (lambda: A.ColorJitter(hue=0.7), "ColorJitter.*hue"),
    "gray": (lambda: A.Grayscale(2), "Grayscale.*1 or 3"),
    "normalize": (lambda: A.Normalize(0.5, 0.0), "Normalize.*std"),
    "normalize nan": (lambda: A.Normalize(float("nan"), 1.0), "Normalize.*finite mean"),
    "degrees inf": (lambda: A.RandomRotation((0, float("inf"))), r"RandomRotation.*degrees as finite \(low, high\)"),
    "normalize channels": (lambda: A.Normalize([0.1, 0.2], 1)(X), "Normalize.*3 channels, got 2"),
    "blur": (lambda: A.GaussianBlur(4), "GaussianBlur.*kernel_size"),
    "blur size": (lambda: A.GaussianBlur(65)(X), "GaussianBlur.*larger"),
    "erasing": (lambda: A.RandomErasing(value="red"), "RandomErasing.*value"),
    "mixup alpha": (lambda: A.MixUp(0), "MixUp.*alpha"),
    "mixup masks": (lambda: A.CutMix(num_classes=2)(X, np.zeros((2, 16, 16), int)), r"CutMix.*\(2, 16, 16\) of int64"),
    "mixup column": (lambda: A.MixUp(num_classes=4)(X, np.array([[1], [3]])), r"MixUp.*\(2, 1\) of int64"),
    "mixup floats": (lambda: A.MixUp(num_classes=4)(X, np.array([1.0, 3.0])), r"MixUp.*\(2,\) of float64"),
    "mixup empty": (lambda: A.MixUp(num_classes=4)(X[:0], np.zeros(0, int)), "MixUp.*at least one image"),
    "mixup classes": (lambda: A.MixUp()(X, np.array([0, 1])), "MixUp.*num_classes"),
    "mixup ids": (lambda: A.MixUp(num_classes=2)(X, np.array([0, 2])), r"MixUp.*\[0, 2\)"),
    "channels last": (
        lambda: A.RandomHorizontalFlip(1.0)(np.zeros((40, 60, 3), np.uint8)), r"\(40, 60, 3\).*transpose\(2, 0, 1\)"
    ),
    "channels last batch": (lambda: A.Compose([])(X.transpose(0, 2, 3, 1)), r"\(2, 16, 16, 3\).*channels seem"),
    "no image": (lambda: A.ColorJitter(0.4)(X[:0]), "ColorJitter.*at least one image"),
    "erasing value": (lambda: A.RandomErasing(1.0, value=(1, 2))(X), "RandomErasing.*value of 1 or 3 channels, got 2"),
    "cutout fill": (lambda: A.Cutout(2, fill=(1, 2))(X), "Cutout.*fill of 1 or 3 channels, got 2"),
    "expand": (lambda: A.RandomRotation(10, "bilinear", True), "RandomRotation.*expand=False"),
    "apply p": (lambda: A.RandomApply([], 2.0), r"RandomApply.*p in \[0, 1\]"),
    "apply size": (lambda: A.RandomApply(A.CenterCrop(8))(X), r"RandomApply.*keep the size \(16, 16\), got \(8, 8\)"),
    "apply channels": (lambda: A.RandomApply([A.Grayscale()])(X), "RandomApply.*keep the images"),
    "apply normalize": (lambda: A.RandomApply([A.Normalize(0, 1)])(X), "RandomApply.*other than Normalize"),
    "mask fill": (
        lambda: A.CenterCrop(8)(X[0], masks=X[0, 0], mask_fill=300), "CenterCrop.*mask_fill that uint8.*got 300"
    ),
    "masks of several sizes": (
        lambda: A.CenterCrop(8)(X, masks=[X[0], X[0, :, 1:]]), r"CenterCrop.*\(3, 15, 16\), \(3, 16, 16\)\] of single"
    ),
    "function that resizes": (
        lambda: A.Compose([lambda x, rng: x[:, :, ::2]])(X[0], masks=X[0, 0]), r"no Transform.*, got \(8, 16\)"
    ),
    "box count": (lambda: A.CenterCrop(8)(X, boxes=[[[0, 0, 1, 1]]]), "CenterCrop.*boxes of 2 images, got 1"),
    "box shape": (lambda: A.CenterCrop(8)(X[0], boxes=[[0, 0, 1]]), r"boxes \(n, 4\).*\(1, 3\)"),
    "box nan": (lambda: A.CenterCrop(8)(X[0], boxes=[[0, 0, np.nan, 1]]), "finite"),
    "box inverted": (lambda: A.CenterCrop(8)(X[0], boxes=[[5, 0, 1, 1]]), "positive size"),
    "box format": (lambda: A.CenterCrop(8)(X[0], boxes=[[0, 0, 1, 1]], box_format="yxyx"), "box_format"),
    "labels": (lambda: A.CenterCrop(8)(X[0], boxes=[[0, 0, 1, 1]], labels=[1, 2]), "1 labels"),
    "mask size": (lambda: A.CenterCrop(8)(X[0], masks=np.zeros((8, 8))), r"masks.*\(16, 16\)"),
    "keypoints": (lambda: A.CenterCrop(8)(X[0], keypoints=[[1.0]]), "keypoints"),
    "pairs": (
        lambda: A.CenterCrop(8)(X[0], keypoints=[[1.0, 2.0]], keypoint_pairs=[(0, 1)]), "keypoint_pairs of rows below 1"
    ),
    "pairs twice": (
        lambda: A.CenterCrop(8)(X[0], keypoints=np.ones((3, 2)), keypoint_pairs=[(0, 1), (1, 2)]), "at most once"
    ),
    "pairs alone": (lambda: A.CenterCrop(8)(X[0], keypoint_pairs=[(0, 1)]), "got no keypoints"),
    "visibility": (lambda: A.CenterCrop(8)(X[0], boxes=[[0, 0, 1, 1]], min_visibility=2), "min_visibility"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_was_expected(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_perspective_matrix_takes_corners_to_corners():
    start, end = [[0, 0], [9, 0], [9, 9], [0, 9]], [[1, 2], [8, 1], [9, 8], [0, 7]]
    m = geometric.perspective(start, end)
    for (x, y), (u, v) in zip(end, start, strict=True):
        p = m @ [x, y, 1]
        np.testing.assert_allclose(p[:2] / p[2], [u, v], atol=1e-9)


def test_mixing_is_no_step_of_a_pipeline():
    for name, make in (("Mixup", A.MixUp), ("CutMix", A.CutMix)):
        with pytest.raises(TypeError, match=f"callback fastcnn.callbacks.{name}$"):
            A.Compose([make()])(X, 0)


def test_arguments_in_the_order_of_torchvision():
    crop = A.RandomCrop(32, 4, True)
    assert crop.pad_if_needed and crop.fill == 0
    turn = A.RandomRotation(10, "bilinear", False, (4, 5), 7)
    assert turn.center == (4, 5) and turn.fill == 7
    with pytest.raises(TypeError, match="RandomCrop: expected pad_if_needed as a bool, got 7"):
        A.RandomCrop(32, 4, 7)
    with pytest.raises(TypeError, match=r"RandomRotation: expected expand as a bool, got \(8, 8\)"):
        A.RandomRotation(10, "bilinear", (8, 8))


def test_crop_pads_small_images_if_needed():
    x = np.full((50, 3, 10, 30), 9, np.uint8)
    out = A.RandomCrop((16, 20), pad_if_needed=True, fill=5)(x, 0)
    assert out.shape == (50, 3, 16, 20)
    rows = (out[:, 0] == 9).any(2)
    assert (rows.sum(1) == 10).all() and rows[:, 0].any() and rows[:, -1].any()  # all of it, at every height
    assert set(np.unique(out)) == {5, 9}
    with pytest.raises(ValueError, match="RandomCrop"):
        A.RandomCrop((16, 20))(x)


def test_random_apply_changes_some_images_and_their_targets(photos):
    images = np.concatenate([photos] * 6)
    steps = [A.ColorJitter(0.5, 0.5, 0.5, 0.2), A.RandomRotation((20, 40)), A.GaussianBlur(3), A.Cutout(9)]
    masks, boxes = images[:, 0], [[[20, 20, 70, 60]]] * 18
    rng = A.SampleRng(3, 1, np.arange(18))
    out = A.RandomApply(steps, 0.5)(images, rng, masks=masks, boxes=boxes)
    on = (out["images"] != images).any((1, 2, 3))
    assert 4 <= on.sum() <= 14
    np.testing.assert_array_equal((out["masks"] != masks).any((1, 2)), on)
    np.testing.assert_array_equal([(b != [[20, 20, 70, 60]]).any() for b in out["boxes"]], on)
    rng = A.SampleRng(3, 1, np.arange(18))
    rng.uniform()  # the draw that decides
    everywhere = A.Compose(steps)(images, rng)
    np.testing.assert_array_equal(out["images"][on], everywhere[on])
    part = A.RandomApply(steps, 0.5)(images[4:9], A.SampleRng(3, 1, np.arange(4, 9)))
    np.testing.assert_array_equal(part, out["images"][4:9])
    for p, expected in ((0.0, images), (1.0, A.RandomVerticalFlip(1.0)(images))):
        once = A.RandomApply(A.RandomVerticalFlip(1.0), p)
        np.testing.assert_array_equal(once(images, 0), expected)
        np.testing.assert_array_equal(A.Compose([once, once])(images, 0), images)
    moved = A.RandomApply([A.ElasticTransform(20.0, 6.0), lambda x, rng: 255 - x], 0.5)(images, 0)
    still = [np.array_equal(a, b) for a, b in zip(moved, images, strict=True)]
    assert 4 <= sum(still) <= 14


def test_any_number_of_instance_masks():
    image = np.zeros((3, 20, 24), np.uint8)
    flip, crop = A.RandomHorizontalFlip(1.0), A.CenterCrop((10, 12))
    assert crop(image, 0, masks=np.zeros((0, 20, 24), bool))["masks"].shape == (0, 10, 12)
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 9, (k, 20, 24)).astype(np.uint8) for k in (2, 0, 1)]
    out = A.Compose([flip, crop])(np.stack([image] * 3), 0, masks=masks)["masks"]
    for before, after in zip(masks, out, strict=True):
        np.testing.assert_array_equal(after, before[:, 5:15, ::-1][:, :, 6:18])
