"""Steps of AutoAugment, RandAugment and TrivialAugmentWide against torchvision; their policies; seeds; bad input."""

import fastcnn.augment as A
import numpy as np
import pytest
from fastcnn.augment import policies
from test_augment import photos, tv  # noqa: F401 (fixtures)

SIZES = {
    "Identity": 0.0, "ShearX": -0.3, "ShearY": 0.2, "TranslateX": 14.7, "TranslateY": -9.0, "Rotate": 21.0,
    "Brightness": 0.5, "Color": -0.6, "Contrast": 0.7, "Sharpness": 0.8, "Posterize": 3.0, "Solarize": 0.6,
    "AutoContrast": 0.0, "Equalize": 0.0, "Invert": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("step", SIZES)
def test_steps_equal_torchvision(step, photos, tv):  # noqa: F811
    import torch

    params = {"steps": np.array([[step]] * 3), "magnitudes": np.array([[SIZES[step]]] * 3)}
    images = (photos * 0.7).astype(np.uint8) + 10  # something for autocontrast to do
    got = A.RandAugment().apply(images, params)
    theirs = tv.RandAugment()._apply_image_or_video_transform(
        torch.from_numpy(np.ascontiguousarray(images)), step, SIZES[step], tv.InterpolationMode.BILINEAR, {}
    ).numpy() if step not in ("AutoContrast", "Equalize") else np.stack([
        tv.RandAugment()._apply_image_or_video_transform(
            torch.from_numpy(i.copy()), step, 0.0, tv.InterpolationMode.BILINEAR, {}).numpy() for i in images
    ])  # fmt: skip
    assert np.abs(got.astype(float) - theirs).mean((1, 2, 3)).max() < 1.5
    assert step == "Identity" or (got != images).any()


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_autoaugment_policies_are_those_of_torchvision(name, tv):  # noqa: F811
    theirs = tv.AutoAugment({p.value: p for p in tv.AutoAugmentPolicy}[name])._policies
    ours = A.AutoAugment(name).pairs
    assert len(ours) == 25
    for a, b in zip(ours, theirs, strict=True):
        assert a == [(step, p, m or 0) for step, p, m in b]


def test_magnitudes_equal_torchvision(tv):  # noqa: F811
    spaces = [
        (tv.RandAugment()._AUGMENTATION_SPACE, 31, {}),
        (tv.TrivialAugmentWide()._AUGMENTATION_SPACE, 31, {"shear": 0.99, "translate": 32.0, "rotate": 135.0,
         "factor": 0.99, "bits": 6}),
        (tv.AutoAugment()._AUGMENTATION_SPACE, 10, {}),
    ]  # fmt: skip
    for space, bins, options in spaces:
        ours = policies.magnitudes(bins, (98, 130), **options)
        for step, (values, signed) in space.items():
            expect = values(bins, 98, 130)
            np.testing.assert_allclose(ours[step], 0 if expect is None else expect.numpy(), atol=1e-5)
            assert signed == (step in policies._SIGNED)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize("make", [A.RandAugment, A.TrivialAugmentWide, A.AutoAugment])
def test_any_split_of_a_batch_gives_the_same(make, dtype, photos):  # noqa: F811
    images = np.concatenate([photos, photos[:, :, ::-1], photos[:, :, :, ::-1]])
    images = images if dtype == np.uint8 else images / 255 + 1e-9  # between two float32
    boxes = [[[20, 20, 70, 60]]] * 9
    whole = make()(images, A.SampleRng(5, 2, np.arange(9)), boxes=boxes)
    for split in ([4], [1, 2, 5]):
        for i in np.split(np.arange(9), split):
            part = make()(images[i], A.SampleRng(5, 2, i), boxes=[boxes[k] for k in i])
            np.testing.assert_array_equal(part["images"], whole["images"][i])
            for k, box in zip(i, part["boxes"], strict=True):
                np.testing.assert_array_equal(box, whole["boxes"][k])
    assert (whole["images"] != images).any((1, 2, 3)).sum() >= 5


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_any_split_of_a_batch_of_other_channels_gives_the_same(channels):
    """Steps of colours, which other images draw, must not change how an image is sampled."""
    images = np.random.default_rng(0).integers(0, 256, (40, channels, 24, 24)).astype(np.uint8)
    whole = A.RandAugment(3, 9)(images, A.SampleRng(1, 2, np.arange(40)))
    for i in range(40):
        part = A.RandAugment(3, 9)(images[i : i + 1], A.SampleRng(1, 2, np.array([i])))
        np.testing.assert_array_equal(part[0], whole[i])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: A.RandAugment(0), "RandAugment.*num_ops"),
        (lambda: A.RandAugment(2, 31), "RandAugment.*magnitude"),
        (lambda: A.TrivialAugmentWide(1), "TrivialAugmentWide.*bins"),
        (lambda: A.AutoAugment("coco"), "AutoAugment.*coco"),
        (lambda: A.RandAugment(interpolation="best"), "RandAugment.*interpolation"),
        (lambda: A.RandAugment()(np.zeros((1, 3, 8, 8), np.int64)), "RandAugment.*uint8 or floating"),
        (lambda: A.RandAugment()(np.full((1, 3, 8, 8), -2.0)), r"RandAugment.*\[0, 1\], not normalised, got -2 to -2"),
    ],
)
def test_bad_input_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("step", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_get_what_bytes_get(step, dtype, photos):  # noqa: F811
    params = {"steps": np.array([[step]] * 3), "magnitudes": np.array([[SIZES[step]]] * 3)}
    images = (photos * 0.7).astype(np.uint8) + 10
    expected = A.RandAugment().apply(images, params)
    got = A.RandAugment().apply((images / 255).astype(dtype), params)
    assert got.dtype == dtype and np.abs(got * 255 - expected).max() < 1.01


def test_policies_follow_a_float_dataset(photos):  # noqa: F811
    from fastcnn.data import ArrayDataset, DataLoader

    ds = ArrayDataset((photos / 255).astype(np.float32), np.arange(3))
    small = [A.Resize(32, interpolation="bicubic"), A.CenterCrop(32)]
    steps = A.Compose([*small, A.AutoAugment(), A.TrivialAugmentWide()])
    images, _ = next(iter(DataLoader(ds, 3, transform=steps)))
    assert images.shape == (3, 3, 32, 32) and -1 < images.min() and 0.5 < images.max() < 2
