"""Pictures: what is drawn, that it is saved whole, that nothing overlaps, and that bad input is told."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
import fastcnn as fc
from fastcnn import viz


def texts(ax):
    return [t.get_text() for t in ax.texts]


def history():
    e = np.arange(1, 11)
    return {
        "epoch": e.tolist(),
        "train_loss": (2 / e).tolist(),
        "val_loss": [*(2.2 / e[:9]), 0.9],
        "train_accuracy": (1 - 0.5 / e).tolist(),
        "val_accuracy": (0.9 - 0.5 / e).tolist(),
        "lr": (0.1 * 0.5**e).tolist(),
    }


def check_inside(figure):
    """Every visible axis label, title, tick label and legend lies within the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    width, height = figure.bbox.width, figure.bbox.height
    if figure._suptitle is not None:
        box = figure._suptitle.get_window_extent()
        assert box.x0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, figure._suptitle
        assert box.y0 > max(ax.get_position().y1 for ax in figure.axes) * height, "the title lies on a picture"
    for ax in figure.axes:
        items = [ax.xaxis.label, ax.yaxis.label, ax.title, *ax.texts]
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            low, high = sorted(axis.get_view_interval())
            items += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        items += [ax.get_legend()] if ax.get_legend() else []
        for item in items:
            if item.get_visible() and (not hasattr(item, "get_text") or item.get_text()):
                box = item.get_window_extent()
                assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, item


@pytest.mark.smoke
def test_curves_panels_and_values(tmp_path):
    figure = viz.curves(history(), path=tmp_path / "runs" / "curves.png")
    assert (tmp_path / "runs" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    loss, accuracy, rate = figure.axes
    assert [a.get_ylabel() for a in figure.axes] == ["loss", "accuracy (%)", "learning rate"]
    assert {a.get_xlabel() for a in figure.axes} == {"epoch"}
    np.testing.assert_allclose(loss.lines[0].get_ydata(), history()["train_loss"])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), 100 * np.array(history()["val_accuracy"]))
    legend = [t.get_text() for t in loss.get_legend().get_texts()]
    assert legend == ["train", "validation, best 0.2444 (epoch 9)"]
    assert accuracy.get_legend().get_texts()[1].get_text() == "validation, best 85 % (epoch 10)"
    assert rate.get_yscale() == "log" and rate.get_legend() is None and loss.get_yscale() == "linear"
    check_inside(figure)


def test_curves_of_classes_share_a_panel():
    epochs = np.linspace(0, 1, 12)
    rows = {"val_loss": 1 - epochs, "val_map_50": epochs, "val_map_75": epochs / 2}
    rows |= {f"val_mean_iou_{k}": epochs * (k + 1) / 21 for k in range(21)}
    rows["val_mean_iou_7"][:] = np.nan  # a class that never occurs
    rows |= {f"val_mar_{k}": epochs for k in (1, 10, 100)}
    figure = viz.curves({k: list(v) for k, v in rows.items()})
    assert [a.get_ylabel() for a in figure.axes] == [
        "loss", "map 50", "map 75", "mar 1", "mar 10", "mar 100", "mean iou per class"
    ]  # fmt: skip
    classes = figure.axes[-1]
    assert len(classes.lines) == 20
    names = [t.get_text() for t in classes.get_legend().get_texts()]
    assert [n.split(",")[0] for n in names] == [f"class {k}" for k in (20, 19, 18, 2, 1, 0)]
    np.testing.assert_allclose(classes.lines[3].get_ydata(), rows["val_mean_iou_3"])
    check_inside(figure)


def test_curves_from_csv_rows_with_gaps():
    rows = [
        {"step": "10", "loss": "2.0", "val_loss": "", "note": "x", "images_per_s": 5},
        {"step": "20", "loss": float("nan"), "val_loss": None},
        {"step": "30", "loss": 1.0, "val_loss": 1.5, "images_per_s": 7},
    ]
    loss, rate = viz.curves(rows).axes
    train, val = loss.lines
    assert train.get_xdata().tolist() == [10, 30] and val.get_xdata().tolist() == [30]
    assert loss.get_xlabel() == "step" and rate.get_ylabel() == "images/s"


@pytest.mark.parametrize("epochs", [1, 500])
def test_curves_of_few_or_many_epochs(epochs):
    figure = viz.curves({"loss": np.linspace(1000, 1, epochs)})
    (ax,) = figure.axes
    assert len(ax.lines[0].get_xdata()) == epochs
    assert all(t == round(t) for t in ax.get_xticks())
    check_inside(figure)


def test_curves_bad_input():
    with pytest.raises(ValueError, match=r"finite number, got columns \['epoch', 'loss'\]"):
        viz.curves({"epoch": [1, 2], "loss": [float("nan"), None]})
    with pytest.raises(ValueError, match="one length, got"):
        viz.curves({"epoch": [1, 2], "loss": [1.0]})
    with pytest.raises(TypeError, match="list of dicts"):
        viz.curves([[1, 2]])


def test_confusion():
    cm = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    figure = viz.confusion(cm, ["cat", "a very long class name", "dog"])
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.8, 0.2, 0], [0.1, 0.9, 0], [0, 0, 0]])
    assert sorted(texts(ax)) == ["1", "2", "8", "9"] and ax.get_title() == "accuracy 85 %"
    assert ax.get_xlabel() == "predicted class" and ax.get_ylabel() == "true class"
    check_inside(figure)
    big = viz.confusion(np.eye(100, dtype=int)).axes[0]
    assert not texts(big) and len(big.get_xticks()) <= 60
    for bad in (np.zeros((2, 3)), np.zeros((0, 0)), np.array([[1, -1], [0, 0]]), np.full((2, 2), "a")):
        with pytest.raises(ValueError, match="expected"):
            viz.confusion(bad)
    with pytest.raises(ValueError, match="3 class names"):
        viz.confusion(cm, ["a"])


def test_confusion_of_shares_is_no_accuracy():
    cm = np.array([[90, 10], [1, 1]])
    shares = {"mean recall 70 %": (1,), "mean precision": (0,), "accuracy 89.22 %": None}
    for title, axis in shares.items():
        drawn = viz.confusion(cm / cm.sum(axis, keepdims=True)).axes[0].get_title()
        assert drawn.startswith(title), drawn


def test_image_grid_takes_bfloat16():
    drawn = [viz.image_grid(fc.tensor(np.full((1, 3, 4, 4), 0.5, np.float32)).to(t)) for t in ("bfloat16", "float32")]
    np.testing.assert_array_equal(*(np.asarray(f.axes[0].images[0].get_array()) for f in drawn))


def test_gradient_flow_overlay():
    deep = {f"layer{i}": 10.0 ** -(i / 10) for i in range(110)}
    figure = viz.gradient_flow({"ResNet-110": deep, "plain-110": {k: v**2 for k, v in deep.items()}})
    (ax,) = figure.axes
    assert ax.get_yscale() == "log" and [t.get_text() for t in ax.get_legend().get_texts()] == [
        "ResNet-110",
        "plain-110",
    ]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [v**2 for v in deep.values()])
    low, high = ax.get_ylim()
    assert low < 10**-21.8 and high > 1
    check_inside(figure)


def test_gradient_flow_of_a_110_layer_net_and_its_plain_twin():
    import fastcnn as fc

    x, ids = fc.ops.randn((8, 3, 16, 16)), fc.tensor(np.arange(8) % 4)
    nets = {}
    for name in ("resnet110", "plain110"):
        fc.manual_seed(0)
        nets[name] = fc.models.create_model(name, num_classes=4)
        fc.ops.cross_entropy(nets[name](x), ids).backward()
    figure = viz.gradient_flow(nets)
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(nets)
    lines = [np.asarray(line.get_ydata()) for line in ax.lines]
    assert [len(y) for y in lines] == [110, 110]  # 109 convolutions and the last Linear
    first = nets["plain110"].conv1.weight.grad.numpy()
    assert lines[1][0] == pytest.approx(np.sqrt((first.astype(np.float64) ** 2).sum()), rel=1e-6)
    # What the shortcut buys: from the last block to the first the plain net's gradient changes far more.
    spread = [np.log10(y[:-1].max() / y[:-1].min()) for y in lines]
    assert spread[1] > spread[0] + 0.5, spread
    check_inside(figure)
    with pytest.raises(ValueError, match="no gradient in conv1.weight"):
        viz.gradient_flow(fc.models.resnet8())


def test_gradient_flow_names_zeros_and_nan():
    norms = {"conv1": 0.0, "conv2": 1e-3, "conv3": float("nan"), "fc": np.float32(2)}
    figure = viz.gradient_flow(norms)
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_xticklabels()] == list(norms)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["zero", "nan or inf"]
    assert ax.lines[1].get_xdata().tolist() == [1] and ax.lines[2].get_xdata().tolist() == [3]
    check_inside(figure)
    assert len(viz.gradient_flow([("a", norms), ("b", {"other": 1.0})]).axes[0].lines) == 4
    viz.gradient_flow({"dead": 0.0})
    for bad in ({}, {"a": {}}, {"a": {"x": 1.0}, "b": 1.0}, {"a": -1.0}, {"a": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="gradient_flow"):
            viz.gradient_flow(bad)
    with pytest.raises(TypeError, match="name"):
        viz.gradient_flow([norms])


def test_image_grid_draws_the_pixels():
    batch = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), np.uint8)
    figure = viz.image_grid(batch, titles=range(6), columns=3, title="six")
    ax = figure.axes[0]
    canvas = np.asarray(ax.images[0].get_array())
    assert texts(ax) == [str(i) for i in range(6)]
    opaque = canvas[canvas[..., 3] == 1][:, :3]
    assert len(opaque) == 6 * 64
    np.testing.assert_allclose(np.sort(opaque.ravel()), np.sort(batch.ravel() / 255), atol=1e-6)
    check_inside(figure)


def test_image_grid_ranges_and_layouts():
    rng = np.random.default_rng(0)
    unit = rng.random((4, 1, 5, 6), np.float32)
    same = viz.image_grid((unit - 0.3) / 0.2, mean=0.3, std=0.2).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.nanmax(same), unit.max(), atol=1e-5)
    scaled = viz.image_grid(unit * 4 - 2)
    assert scaled._supxlabel.get_text().startswith("values -")
    assert viz.image_grid(unit)._supxlabel is None
    assert viz.image_grid(np.zeros((100, 3, 4, 4)), limit=9)._supxlabel.get_text() == "9 of 100 images"
    for shape in ((2, 3, 8, 8), (2, 8, 8, 3), (2, 8, 8), (8, 8), (3, 8, 8), (1, 1, 8, 8)):
        viz.image_grid(np.zeros(shape))
    for bad in (np.zeros((2, 5, 8, 8)), np.zeros((0, 3, 8, 8)), np.full((1, 1, 2, 2), np.nan), np.zeros(3)):
        with pytest.raises(ValueError, match="image_grid"):
            viz.image_grid(bad)
    with pytest.raises(ValueError, match="4 titles for 4 images, got 1"):
        viz.image_grid(unit, titles=["a"])
    with pytest.raises(ValueError, match="columns"):
        viz.image_grid(unit, columns=0)


@pytest.mark.parametrize("shape", [(64, 3, 7, 7), (32, 1, 5, 5), (64, 32, 3, 3), (1, 1, 1, 1), (4, 3, 1, 1)])
def test_filters(shape):
    figure = viz.filters(np.random.default_rng(0).normal(size=shape), title="conv1")
    out, inner, *_ = shape
    assert figure._supxlabel.get_text().startswith(f"{out} of {out}" if inner in (1, 3) else "rows: 16 of 64")
    assert len(figure.axes) == (1 if inner == 3 else 2)  # a colour bar where colour is a number
    check_inside(figure)


def test_filters_of_a_layer_are_its_weights():
    import fastcnn as fc

    layer = fc.nn.Conv2d(1, 4, 3)
    a, b = (viz.filters(f).axes[0].images[0].get_array() for f in (layer, layer.weight.detach().numpy()))
    np.testing.assert_array_equal(a, b)


def test_filters_bad_input():
    viz.filters(np.zeros((2, 3, 3, 3)))
    for bad in (np.zeros((3, 3)), np.zeros((0, 3, 3, 3)), np.full((1, 1, 2, 2), np.inf)):
        with pytest.raises(ValueError, match="filters"):
            viz.filters(bad)


def test_save_is_atomic_and_knows_formats(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="path ending in"):
        viz.curves(history(), path=tmp_path / "a.xyz")
    for name, magic in (("a.png", b"\x89PNG"), ("b.pdf", b"%PDF"), ("c.svg", b"<?xml")):
        viz.confusion(np.eye(2, dtype=int), path=tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.pdf", "c.svg"]


def test_dollar_signs_of_names_are_no_formulas(tmp_path):
    names = ["$\\frac{$", "US$5 to $9"]
    figure = viz.confusion(np.eye(2, dtype=int), names, path=tmp_path / "a.svg")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == names
    assert not any(t.get_parse_math() for t in figure.axes[0].get_xticklabels())
    viz.image_grid(np.zeros((2, 1, 8, 8), np.float32), names, path=tmp_path / "b.png")


def test_no_pyplot_and_lazy_import():
    code = (
        "import sys, fastcnn.viz as v; assert 'matplotlib' not in sys.modules;"
        "import io; v.curves({'loss': [2.0, 1.0]}).savefig(io.BytesIO());"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "TkAgg"})


def test_every_picture_says_what_to_install():
    code = """if True:
        import sys
        sys.modules["matplotlib"] = None
        import numpy as np, fastcnn as fc
        net = fc.nn.Sequential(fc.nn.Conv2d(1, 2, 3), fc.nn.Flatten(), fc.nn.Linear(72, 2))
        x = np.zeros((1, 8, 8), np.float32)
        pictures = [
            lambda v: v.curves({"loss": [1.0]}), lambda v: v.confusion(np.eye(2)), lambda v: v.filters(net[0]),
            lambda v: v.feature_maps(net, x, "0"), lambda v: v.grad_cam(net, x), lambda v: v.image_grid(x),
            lambda v: v.receptive_field(net, (1, 8, 8)), lambda v: v.detections(x, [[0, 0, 3, 3]]),
            lambda v: v.masks(x, np.ones((8, 8), int)), lambda v: v.gradient_flow({"a": 1.0}),
        ]
        for picture in pictures:
            try:
                picture(fc.viz)
            except ImportError as error:
                assert "pip install matplotlib" in str(error), error
            else:
                raise AssertionError("drawn")
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_image_with_channels_last_is_one_picture():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    grids = [viz.image_grid(x).axes[0].images[0].get_array() for x in (image, image.transpose(2, 0, 1))]
    np.testing.assert_array_equal(*grids)
    figure = viz.detections(image, [[5, 6, 30, 20]], [1])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), image / 255, atol=1e-6)


def test_an_image_without_objects_is_a_picture_too():
    image = np.zeros((3, 20, 30), np.uint8)
    for boxes, labels in (([], []), (np.zeros((0, 4)), np.zeros(0))):
        assert not viz.detections(image, boxes, labels, scores=[]).axes[0].patches
    with pytest.raises(ValueError, match="expected labels as class ids of at least 0, got float64"):
        viz.detections(image, [[5, 6, 30, 20]], [1.0])


def test_a_loaders_batch_is_no_array_of_images():
    batch = (np.zeros((4, 1, 8, 8), np.float32), np.arange(4))
    with pytest.raises(ValueError, match=r"image_grid: expected one array of images.*batch\[0\]"):
        viz.image_grid(batch)
