"""Photographs with boxes, masks and keypoints, transforms of fixed parameters: as albumentations and torchvision.

What it is not: images alone, of every transform (test_augment.py).
"""

import os
import warnings

import fastcnn.augment as A
import numpy as np
import pytest
from test_augment import LIMIT, STILL, fixed, photos, tv  # noqa: F401

H, W = 98, 130
BOXES = np.array([[10, 20, 50, 60], [70, 5, 125, 40], [0, 70, 30, 98], [60, 50, 61, 90]], np.float64)
LABELS = np.array([3, 1, 2, 7])
POINTS = np.array([[4.0, 7.0], [100.0, 90.0], [64.0, 48.0]])


@pytest.fixture(scope="module")
def peer():
    """albumentations, kept from asking for its newest version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("albumentations")


def masks():
    """(3, H, W) of three classes: ellipses."""
    y, x = np.mgrid[:H, :W]
    shape = [((x - a) / 40) ** 2 + ((y - b) / 25) ** 2 < 1 for a, b in ((40, 40), (90, 60), (65, 49))]
    return np.stack([m.astype(np.uint8) * (k + 1) for k, m in enumerate(shape)])


def ours(make, values, images):
    """The dict of a transform that draws these parameters."""
    t, params = fixed(make, values)
    t.draw = lambda rng, size: params
    n = len(images)
    return t(images, 0, boxes=[BOXES] * n, labels=[LABELS] * n, masks=masks(), keypoints=[POINTS] * n)


def compare(got, k, image, mask, boxes, labels, edge):
    """Of image k: pixels within the limit on average, all masks but a share `edge`, boxes within half a pixel."""
    assert got["images"][k].shape == image.shape
    assert np.abs(got["images"][k].astype(float) - image).mean() < LIMIT
    assert (got["masks"][k] != mask).mean() <= edge
    assert list(got["labels"][k]) == list(labels)
    np.testing.assert_allclose(got["boxes"][k], boxes, atol=0.5)


def linear(peer, name, **options):
    import cv2

    return getattr(peer, name)(interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST, p=1, **options)


CROP = {"top": 3, "left": 60}
WINDOW = {"top": 20, "left": 30, "height": 40, "width": 50}
JITTER = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0), "p": 1}
# name: our transform, its parameters, theirs, share of mask pixels that may differ (those that lie on an edge)
CASES = {
    "flip": (lambda: A.RandomHorizontalFlip(), {"flip": True}, lambda P: P.HorizontalFlip(p=1), 0),
    "vertical flip": (lambda: A.RandomVerticalFlip(), {"flip": True}, lambda P: P.VerticalFlip(p=1), 0),
    "crop": (lambda: A.RandomCrop((60, 50)), CROP, lambda P: P.Crop(60, 3, 110, 63), 0),
    "center crop": (lambda: A.CenterCrop((42, 60)), {}, lambda P: P.CenterCrop(42, 60), 0),
    "rotation": (lambda: A.RandomRotation(30), {"angle": 25.0, **STILL},
                 lambda P: linear(P, "Rotate", limit=(25, 25), border_mode=0), 0.01),
    "affine": (
        lambda: A.RandomAffine(30), {"angle": -12.0, "translate": (7, -5), "scale": 1.2, "shear": (0.0, 0.0)},
        lambda P: linear(
            P, "Affine", rotate=(12, 12), translate_px={"x": (7, 7), "y": (-5, -5)}, scale=(1.2, 1.2)
        ), 0.01,
    ),
    "resize up": (lambda: A.Resize((160, 200)), {}, lambda P: linear(P, "Resize", height=160, width=200), 0.01),
    "resized crop": (
        lambda: A.RandomResizedCrop((96, 80)), WINDOW,
        lambda P: P.Compose([P.Crop(30, 20, 80, 60), linear(P, "Resize", height=96, width=80)]), 0.02,
    ),
    "brightness": (None, {"brightness": 1.4}, lambda P: P.ColorJitter(**{**JITTER, "brightness": (1.4, 1.4)}), 0),
    "contrast": (None, {"contrast": 0.6}, lambda P: P.ColorJitter(**{**JITTER, "contrast": (0.6, 0.6)}), 0),
    "saturation": (None, {"saturation": 1.5}, lambda P: P.ColorJitter(**{**JITTER, "saturation": (1.5, 1.5)}), 0),
    "hue": (None, {"hue": 0.1}, lambda P: P.ColorJitter(**{**JITTER, "hue": (0.1, 0.1)}), 0),
    "grayscale": (lambda: A.Grayscale(3), {}, lambda P: P.ToGray(p=1), 0),
    "blur": (lambda: A.GaussianBlur(5), {"sigma": 1.7},
             lambda P: P.GaussianBlur(blur_limit=(5, 5), sigma_limit=(1.7, 1.7), p=1), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_equals_albumentations(name, photos, peer):  # noqa: F811
    make, values, theirs, edge = CASES[name]
    got = ours(make, values, photos)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = peer.Compose(
            [theirs(peer)], bbox_params=peer.BboxParams("pascal_voc", label_fields=["labels"], clip=True),
            keypoint_params=peer.KeypointParams("xy", remove_invisible=False),
        )  # fmt: skip
        for k, (photo, mask) in enumerate(zip(photos, masks(), strict=True)):
            # Their keypoints count from the centre of a pixel, ours from its corner.
            found = pipeline(
                image=np.ascontiguousarray(photo.transpose(1, 2, 0)), mask=mask, bboxes=BOXES, labels=LABELS,
                keypoints=POINTS - 0.5,
            )  # fmt: skip
            image = found["image"].transpose(2, 0, 1)
            compare(got, k, image, found["mask"], found["bboxes"], found["labels"], edge)
            np.testing.assert_allclose(got["keypoints"][k], np.array(found["keypoints"]) + 0.5, atol=0.75)


def _tv_cases():
    def rotate(f, x, I):
        return f.rotate(x, 25.0, I)

    def affine(f, x, I):
        return f.affine(x, 12.0, [7, -5], 1.2, [8.0, -4.0], I)

    def perspective(f, x, I):
        start, end = [[0, 0], [129, 0], [129, 97], [0, 97]], [[9, 4], [120, 10], [110, 90], [3, 80]]
        return f.perspective(x, start, end, I)

    turned = {"angle": 12.0, "translate": (7, -5), "scale": 1.2, "shear": (8.0, -4.0)}
    corners = {"end": ((9, 4), (120, 10), (110, 90), (3, 80))}
    return {
        "flip": (CASES["flip"][0], {"flip": True}, lambda f, x, I: f.horizontal_flip(x), 0),
        "vertical flip": (CASES["vertical flip"][0], {"flip": True}, lambda f, x, I: f.vertical_flip(x), 0),
        "crop": (lambda: A.RandomCrop((60, 50)), CROP, lambda f, x, I: f.crop(x, 3, 60, 60, 50), 0),
        "pad": (lambda: A.Pad((3, 9)), {}, lambda f, x, I: f.pad(x, [3, 9]), 0),
        "rotation": (CASES["rotation"][0], {"angle": 25.0, **STILL}, rotate, 0.01),
        "affine": (lambda: A.RandomAffine(20), turned, affine, 0.01),
        "perspective": (lambda: A.RandomPerspective(), corners, perspective, 0.01),
        "resize": (lambda: A.Resize((37, 61)), {}, lambda f, x, I: f.resize(x, [37, 61], I, antialias=True), 0.03),
        "resized crop": (
            lambda: A.RandomResizedCrop((96, 80)), WINDOW,
            lambda f, x, I: f.resized_crop(x, 20, 30, 40, 50, [96, 80], I, antialias=True), 0.02,
        ),
    }  # fmt: skip


TV = _tv_cases()


@pytest.mark.parametrize("name", TV)
def test_equals_torchvision_with_boxes_and_masks(name, photos, tv):  # noqa: F811
    import torch
    from torchvision import tv_tensors

    make, values, theirs, edge = TV[name]
    got = ours(make, values, photos)
    f, mode = tv.functional, tv.InterpolationMode.BILINEAR
    for k, (photo, mask) in enumerate(zip(photos, masks(), strict=True)):
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(H, W))
        image = theirs(f, torch.from_numpy(np.ascontiguousarray(photo)), mode).numpy()
        moved = tv.ClampBoundingBoxes()(theirs(f, boxes, mode)).numpy()
        keep = ((moved[:, 2:] - moved[:, :2]) > 0).all(1)
        found = theirs(f, tv_tensors.Mask(torch.from_numpy(mask)), mode).numpy()
        compare(got, k, image, found, moved[keep], LABELS[keep], edge)
