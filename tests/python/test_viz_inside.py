"""Pictures of what a model sees and finds: Grad-CAM, feature maps, receptive fields, boxes, masks, augmentation."""

import fastcnn as fc
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from fastcnn import augment, models, nn, viz
from test_pretrained import imagenet_file, photograph  # noqa: F401 (a fixture)
from test_viz import check_inside, texts


@pytest.fixture
def small():
    fc.manual_seed(1)
    return models.create_model("resnet8", num_classes=10)


def test_grad_cam_is_the_papers_formula(small):
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    heat, target, layer = viz.cam(small, x, target=[3, 7])
    assert layer == "layer3" and heat.shape == (2, 32, 32) and target.tolist() == [3, 7]
    # The head is a mean over pixels and a Linear layer, so d score / d A is the weight over the number of pixels.
    small.eval()
    maps = models.feature_extractor(small, ["layer3"])(fc.tensor(x))["layer3"].detach().numpy()
    weight = small.fc.weight.numpy()[[3, 7]] / maps[0, 0].size
    want = np.maximum(np.einsum("nchw,nc->nhw", maps, weight), 0)
    low = fc.ops.interpolate(fc.tensor(want[:, None]), size=(32, 32), mode="bilinear").numpy()[:, 0]
    np.testing.assert_allclose(heat, low / low.max((1, 2), keepdims=True), atol=1e-4)


def test_grad_cam_leaves_the_model_as_it_was(small):
    small.train().freeze()
    state = {k: np.array(v.numpy()) for k, v in small.state_dict().items()}
    viz.cam(small, np.ones((3, 32, 32), np.float32))
    assert small.training and small.layer1.training and all(not m._forward_hooks for m in small.modules())
    assert all(p.grad is None and not p.requires_grad for p in small.parameters())
    assert all(np.array_equal(v.numpy(), state[k]) for k, v in small.state_dict().items())


def test_grad_cam_looks_at_the_cat(imagenet_file, tmp_path):  # noqa: F811
    net = models.create_model("efficientnet_lite0", pretrained=imagenet_file)
    both = np.zeros((1, 3, 224, 448), np.float32)  # the cat on the left, a cup of espresso on the right
    both[..., :224], both[..., 224:] = photograph("chelsea").numpy(), photograph("coffee").numpy()
    for target, where in ((285, np.s_[:, :224]), (967, np.s_[:, 224:])):
        heat, (found,), layer = viz.cam(net, both, target)
        assert (found, layer) == (target, "act")
        assert heat[0][where].sum() > 0.8 * heat.sum(), target
    # Of the cat alone it looks at the face, not at the background in the corners.
    (heat,), (found,), _ = viz.cam(net, photograph("chelsea").numpy())
    assert found in (281, 282, 285)
    assert heat[40:, 40:184].sum() > 0.6 * heat.sum()
    assert max(heat[:40, -40:].mean(), heat[:40, :40].mean()) < 0.4 * heat[80:200, 40:184].mean()
    figure = viz.grad_cam(net, both, 285, classes=[str(i) for i in range(1000)], path=tmp_path / "cam.png")
    assert figure.axes[0].get_title() == "285" and (tmp_path / "cam.png").stat().st_size > 20_000
    check_inside(figure)


def test_grad_cam_of_segmentation_and_bad_input(small):
    fc.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    heat, target, layer = viz.cam(net, np.random.default_rng(0).random((2, 1, 8, 8), np.float32))
    assert heat.shape == (2, 8, 8) and target.shape == (2,) and layer == ""
    image = np.zeros((3, 32, 32), np.float32)
    for kwargs, match in (
        ({"target": 10}, "class ids 0 to 9"),
        ({"target": 1.5}, "class ids"),
        ({"layer": "layer9"}, "no layer 'layer9'; did you mean layer"),
        ({"layer": "fc"}, r"expected layer 'fc' to give maps \(N, C, H, W\), got \(1, 10\)"),
    ):
        with pytest.raises(ValueError, match=match):
            viz.cam(small, image, **kwargs)
    for bad, match in ((np.zeros((32, 32)), "expected images"), (np.zeros((3, 8, 8), np.uint8), "normalised float")):
        with pytest.raises(ValueError, match=match):
            viz.cam(small, bad)
    with pytest.raises(ValueError, match="no layer of the model gives maps"):
        viz.cam(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), image)


def test_feature_maps_draw_the_largest_first(small):
    x = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    figure = viz.feature_maps(small, x, "layer2", limit=6)
    small.eval()
    maps = models.feature_extractor(small, ["layer2"])(fc.tensor(x[None]))["layer2"].detach().numpy()[0]
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    assert np.nanmax(drawn) == pytest.approx(maps.max(), rel=1e-5)
    first = maps[np.abs(maps).mean((1, 2)).argmax()]
    zoom = 3
    np.testing.assert_allclose(drawn[: 16 * zoom : zoom, : 16 * zoom : zoom], first, rtol=1e-5, atol=1e-6)
    assert figure._supxlabel.get_text() == "6 of 32 maps 16x16, those of the largest mean magnitude first"
    check_inside(figure)
    with pytest.raises(ValueError, match="one image, got 2"):
        viz.feature_maps(small, np.stack([x, x]), "layer2")
    with pytest.raises(ValueError, match="expected layer 'fc' to give maps"):
        viz.feature_maps(small, x, "fc")


def test_receptive_field_of_convolutions_is_what_the_formula_says():
    fc.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
    )  # fmt: skip
    # 3, then +2, then +2 * 2: 9 pixels; the middle unit (8, 8) of 16x16 sees pixels 16 - 4 to 16 + 4.
    influence, name, area = viz.receptive_area(net, (2, 32, 32))
    assert (name, area) == ("", (12, 12, 21, 21))
    assert influence.sum() == pytest.approx(1) and influence[16, 16] > 5 * influence[12, 12]
    assert viz.receptive_area(net, (2, 32, 32), "0")[2] == (15, 15, 18, 18)
    algorithm = fc.get_conv_algorithm()
    resnet = models.create_model("resnet18")
    assert viz.receptive_area(resnet, (3, 160, 160), "layer2", samples=1)[2] == (31, 31, 130, 130)  # 99, as published
    assert fc.get_conv_algorithm() == algorithm
    figure = viz.receptive_field(net, (2, 32, 32))
    assert [t.get_text() for t in figure.legends[0].get_texts()][0] == "all: 9 x 9 px"
    check_inside(figure)
    squeezed = models.create_model("resnet8", attention="se")
    assert viz.receptive_area(squeezed, (3, 32, 32), "layer1", samples=1)[2] == (0, 0, 32, 32)
    with pytest.raises(ValueError, match=r"input_size \(C, H, W\)"):
        viz.receptive_field(net, (32, 32))


def test_detections_draw_boxes_names_and_scores():
    image = np.zeros((3, 40, 60), np.uint8)
    boxes = [[5, 10, 30, 35], [20, 1, 59, 20], [0, 0, 3, 3]]
    figure = viz.detections(image, boxes, [1, 0, 1], [0.4, 0.95, 0.01], classes=["dog", "cat"], threshold=0.05)
    (ax,) = figure.axes
    assert texts(ax) == ["cat 40 %", "dog 95 %"]  # the surest on top
    drawn = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]
    assert drawn == [(4.5, 9.5, 25, 25), (19.5, 0.5, 39, 19)]
    assert ax.patches[0].get_edgecolor() != ax.patches[1].get_edgecolor()
    assert not viz.detections(image, []).axes[0].patches
    for args, match in (
        (([[0, 0, 5]],), r"boxes \(N, 4\)"),
        (([[5, 5, 2, 9]],), "x1 <= x2"),
        (([[0, 0, 5, np.nan]],), "1 boxes with nan"),
        ((boxes, [0, 1]), "3 labels, one per box"),
        ((boxes, [0, 1, 2], [1, 1, 1], ["a", "b"]), "labels 0 to 1"),
        ((boxes, [0.5, 1, 2]), "class ids"),
    ):
        with pytest.raises(ValueError, match=match):
            viz.detections(image, *args)
    with pytest.raises(ValueError, match="one image, got 2"):
        viz.detections(np.zeros((2, 3, 8, 8)), boxes)


def test_masks_colour_their_pixels_and_nothing_else():
    image = np.full((3, 20, 30), 0.5, np.float32)
    ids = np.zeros((20, 30), np.uint8)
    ids[:5], ids[10:, 20:], ids[6, 6] = 2, 1, 255
    figure = viz.masks(image, ids, classes=["background", "cat", "dog"])
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    changed = np.abs(pixels[..., :3] - 0.5).max(2) > 0.02
    np.testing.assert_array_equal(changed, (ids == 1) | (ids == 2))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["cat", "dog"]
    many = viz.masks(image, np.stack([ids == 1, ids == 2]), labels=[1, 2], classes=["background", "cat", "dog"])
    np.testing.assert_array_equal(np.asarray(many.axes[0].images[0].get_array()), pixels)
    viz.masks(image, np.zeros((20, 30), int))  # nothing but background
    for bad, kwargs, match in (
        (ids[:10], {}, r"masks of the image's size \(20, 30\), got \(10, 30\)"),
        (ids, {"labels": [1]}, "labels go with masks"),
        (np.stack([ids == 1]), {"labels": [1, 2]}, "1 labels"),
        (ids.astype(np.float32)[None], {}, "class ids"),
        (ids, {"alpha": 0}, "alpha"),
        (ids, {"classes": ["a"]}, "labels 0 to 0"),
    ):
        with pytest.raises(ValueError, match=match):
            viz.masks(image, bad, **kwargs)


def test_augmented_draws_the_original_and_what_becomes_of_it():
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    flips = augment.RandomHorizontalFlip(0.5)
    figure = viz.augmented(image, flips, n=7, columns=4, seed=3)
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    want = np.concatenate([image[None], flips(np.stack([image] * 7), 3)])
    gap = (drawn.shape[1] - 64) // 3
    cells = [drawn[y * (16 + gap) :, x * (16 + gap) :][:16, :16, :3] for y in range(2) for x in range(4)]
    np.testing.assert_allclose(np.stack(cells), want.transpose(0, 2, 3, 1) / 255, atol=1e-6)
    assert "1 image" not in str(figure._supxlabel) and len(viz.augmented(image, augment.CenterCrop(8), 3).axes) == 1
    with pytest.raises(ValueError, match="one image"):
        viz.augmented(np.zeros((2, 3, 8, 8)), flips)
    many = augment.Compose([flips, augment.RandomCrop(padding=2), augment.TrivialAugmentWide(), augment.Cutout(4)])
    figure = viz.augmented(image, many, n=3, columns=2)
    names = "RandomHorizontalFlip, RandomCrop, TrivialAugmentWide, Cutout"
    assert figure.get_suptitle().replace("\n", " ") == f"the original, then {names}"
    check_inside(figure)


def test_augmented_draws_an_original_that_is_normalised_as_the_rest():
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    steps = augment.Compose([augment.RandomHorizontalFlip(0.0), augment.Normalize(mean, std)])
    drawn = np.asarray(viz.augmented(image, steps, n=1, mean=mean, std=std).axes[0].images[0].get_array())
    for cell in (drawn[:16, :16, :3], drawn[:16, -16:, :3]):
        np.testing.assert_allclose(cell, image.transpose(1, 2, 0) / 255, atol=1e-5)


def test_summary_counts_flops_and_memory():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))
    found = fc.summary(net, (2, 3, 8, 8))
    assert found.total_macs == 2 * (8 * 64 * 27 + 512 * 10) and found.total_flops == 2 * found.total_macs
    assert [r.output_bytes for r in found.rows] == [4096, 4096, 4096, 80]
    assert found.output_bytes == sum(r.output_bytes for r in found.rows)
    assert found.as_dict()["layers"][0]["output_shape"] == (2, 8, 8, 8)
    assert fc.summary(net, (3, 8, 8)).as_dict() == fc.summary(net, (1, 3, 8, 8)).as_dict()
    lines = str(found).splitlines()
    assert lines[1].split() == ["layer", "output", "shape", "parameters", "MFLOPs", "output"]
    assert "4.1 KB" in lines[3] and "GFLOPs, outputs 12.4 KB" in lines[-1]


def test_summary_is_a_function_whatever_was_imported_before():
    assert callable(fc.summary) and viz.summary is fc.summary  # no module of that name may take its place


def test_a_layer_may_be_given_as_itself(small):
    x = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    for a, b in zip(viz.cam(small, x, layer=small.layer2), viz.cam(small, x, layer="layer2"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert viz.feature_maps(small, x, small.layer1).axes[1].get_title() == "layer1"
    with pytest.raises(ValueError, match="no layer 'Conv2d'"):
        viz.feature_maps(small, x, nn.Conv2d(3, 4, 3))


def test_too_few_class_names_and_sizes_that_are_none_are_told(small):
    with pytest.raises(ValueError, match="grad_cam: expected names of at least 8 classes, got 2"):
        viz.grad_cam(small, np.ones((3, 32, 32), np.float32), target=7, classes=["cat", "dog"])
    with pytest.raises(TypeError, match="summary: expected input_size .*got 28"):
        viz.summary(small, 28)
