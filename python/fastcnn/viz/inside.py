"""What happens inside a model, as pictures: feature maps, Grad-CAM, receptive field. They run the model eagerly.

Modes, statistics and gradients of the model are as before afterwards; nothing here trains.
"""

from __future__ import annotations

import contextlib
import difflib

import numpy as np

from .. import _core
from .._modes import enable_grad, to_evaluation
from ..nn import Module
from ._figure import finish, new_figure
from .images import columns_for, mosaic, to_nhwc, to_unit


@contextlib.contextmanager
def _watched(model, layer=None):
    """Scope in evaluation mode; gives the growing list of (name, output) of modules, of `layer` alone if given."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(layer, Module):
        layer = next((name for name, m in modules.items() if m is layer), type(layer).__name__)
    if layer is not None and layer not in modules:
        near = difflib.get_close_matches(str(layer), modules, n=4, cutoff=0.5) or list(modules)[1:5]
        raise ValueError(f"viz: {type(model).__name__} has no layer {layer!r}; did you mean {', '.join(near)}?")
    seen = []
    watched = modules if layer is None else {layer: modules[layer]}
    handles = []
    restore = to_evaluation(model)
    try:
        for name, module in watched.items():
            handles.append(module.register_forward_hook(lambda m, args, out, n=name: seen.append((n, out))))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        restore()


def _as_input(op, model, image):
    """Images (N, C, H, W), or one (C, H, W), as a tensor of the model's dtype and device."""
    array = np.asarray(image.to("cpu").numpy() if isinstance(image, _core.Tensor) else image)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.size == 0 or array.dtype.kind not in "fiu":
        raise ValueError(f"{op}: expected images (N, C, H, W) or one (C, H, W), got {array.shape} {array.dtype}")
    if array.dtype.kind != "f":
        raise ValueError(f"{op}: expected the normalised float image that the model takes, got {array.dtype}")
    x = _core.tensor(np.ascontiguousarray(array, np.float32))
    first = next((p for p in model.parameters()), None)
    return x if first is None else x.to(first.dtype).to(first.device)


def _maps_of(op, seen, layer):
    """The last output (N, C, H, W) of what was seen: that of `layer`, or of the deepest layer with spatial extent."""
    for name, out in reversed(seen):
        if isinstance(out, _core.Tensor) and out.ndim == 4 and (layer is not None or min(out.shape[2:]) > 1):
            return name, out
    if layer is None:
        raise ValueError(f"{op}: no layer of the model gives maps (N, C, H, W) larger than 1x1")
    got = [tuple(o.shape) if isinstance(o, _core.Tensor) else type(o).__name__ for _, o in seen[:1]]
    raise ValueError(f"{op}: expected layer {layer!r} to give maps (N, C, H, W), got {got[0] if got else 'no call'}")


def feature_maps(model, image, layer, limit=64, columns=None, mean=None, std=None, path=None):
    """The input and the maps that a layer makes of it, those of the largest mean magnitude first.

    Args: image: (C, H, W) or (1, C, H, W), normalised as the model takes it. layer: a module of the model, or its
    dotted name, whose output is (N, C, H, W). limit: draw at most so many maps. mean, std: undo a normalisation for the
    picture.
    One scale for all maps: white is zero, red positive, blue negative. Returns the Figure, saved to `path` if given.
    """
    x = _as_input("feature_maps", model, image)
    if x.shape[0] != 1:
        raise ValueError(f"feature_maps: expected one image, got {x.shape[0]}")
    with _watched(model, layer) as seen, enable_grad():
        model(x)
    name, out = _maps_of("feature_maps", seen, layer)
    maps = out.detach().to("float32").to("cpu").numpy()[0]
    total = len(maps)
    order = np.argsort(-np.abs(maps).mean((1, 2)), kind="stable")[:limit]
    maps = maps[order]
    h, w = maps.shape[1:]
    columns = columns_for(len(maps), columns)
    rows = -(-len(maps) // columns)
    cell = min(max(0.55, 2.5 / columns), 10.0 / columns)
    wide = columns * cell
    high = max(rows * cell * h / w, 1.6)
    figure = new_figure(2.4 + wide + 0.9, high + 0.75)
    left, right = figure.subplots(1, 2, width_ratios=[2.2, wide])
    _draw_input(left, "feature_maps", x, mean, std)
    left.set_title("input", fontsize=10)
    zoom = max(1, round(48 / max(h, w)))  # the gap between small maps is narrower than a pixel of theirs
    scale = float(np.abs(maps).max()) or 1.0
    cells = maps.repeat(zoom, 1).repeat(zoom, 2)
    drawn, _ = mosaic(right, cells, columns, max(1, w * zoom // 16), 0, cmap="RdBu_r", vmin=-scale, vmax=scale)
    right.set_title(name, fontsize=10)
    figure.colorbar(drawn, ax=right, label="activation", fraction=0.04, pad=0.02)
    note = "" if len(maps) == total else "those of the largest mean magnitude first"
    figure.supxlabel(f"{len(maps)} of {total} maps {h}x{w}{', ' + note if note else ''}", fontsize=8, color="0.35")
    return finish(figure, path)


def _draw_input(ax, op, x, mean, std):
    images, _ = to_unit(op, to_nhwc(op, _drawable(x)), mean, std)
    grey = images.shape[3] == 1
    ax.imshow(images[0, ..., 0] if grey else images[0], **({"cmap": "gray", "vmin": 0, "vmax": 1} if grey else {}))
    ax.set_axis_off()


def _drawable(x):
    """Images as an array with 1 or 3 channels: of others the mean over channels."""
    array = x.detach().to("float32").to("cpu").numpy()
    return array if array.shape[1] in (1, 3) else array.mean(1, keepdims=True)


def _picked(op, output, target):
    if not isinstance(output, _core.Tensor) or output.ndim < 2:
        got = tuple(output.shape) if isinstance(output, _core.Tensor) else type(output).__name__
        raise ValueError(f"{op}: expected scores (N, C) or (N, C, H, W) as the model's output, got {got}")
    scores = output.detach().to("float32").to("cpu").numpy()
    n, classes = scores.shape[:2]
    if target is None:
        target = scores.reshape(n, classes, -1).mean(2).argmax(1)
    target = np.broadcast_to(np.asarray(target), (n,))
    if target.dtype.kind not in "iu" or target.min() < 0 or target.max() >= classes:
        raise ValueError(f"{op}: expected target as class ids 0 to {classes - 1}, one or {n}, got {target.tolist()}")
    return target


def cam(model, images, target=None, layer=None):
    """Grad-CAM (Selvaraju et al. 2017) as numbers: where in the images the evidence for a class lies.

    The maps A of a layer are added up, each weighed by the mean over its pixels of d score / d A; what is negative is
    cut off. Of several images at once, each on its own.

    Args: images: (N, C, H, W) or (C, H, W), normalised as the model takes them. target: class id, or one per image;
    default the class of the highest score. layer: a module that gives (N, C, H, W), or its dotted name; default
    the last one with maps larger than 1x1, which in nets with a pooled head is what goes into the pooling.
    Returns (heat (N, H, W) float32 in [0, 1], bilinear at the size of the images, each image scaled to its own maximum;
    target ids (N,) ; name of the layer). An image without evidence is all zeros.
    """
    op = "grad_cam"
    x = _as_input(op, model, images)
    with enable_grad(), _watched(model, layer) as seen:
        x = x.detach()
        x.requires_grad = True  # a tape also where all parameters are frozen
        output = model(x)
        name, maps = _maps_of(op, seen, layer)
        target = _picked(op, output, target)
        scores = output if output.ndim == 2 else output.flatten(2).mean(2)
        chosen = np.zeros(tuple(scores.shape), np.float32)
        chosen[np.arange(len(target)), target] = 1
        total = (scores.to("float32") * _core.tensor(chosen).to(x.device)).sum()
        (slopes,) = _core.grad(total, [maps])
    a = maps.detach().to("float32").to("cpu").numpy()
    weights = slopes.detach().to("float32").to("cpu").numpy().mean((2, 3), keepdims=True)
    heat = np.maximum((a * weights).sum(1, keepdims=True), 0)
    heat = _core.ops.interpolate(_core.tensor(heat), size=tuple(x.shape[2:]), mode="bilinear").numpy()[:, 0]
    peak = heat.max((1, 2), keepdims=True)
    return np.divide(heat, peak, out=np.zeros_like(heat), where=peak > 0), target, name


def grad_cam(model, image, target=None, layer=None, classes=None, mean=None, std=None, path=None):
    """Pictures of Grad-CAM: each image beside itself under the heat of `cam`, whose arguments these are.

    Args: classes: names of all classes, for the titles. mean, std: undo a normalisation for the picture.
    Returns the Figure, saved to `path` if given.
    """
    x = _as_input("grad_cam", model, image)
    heat, target, name = cam(model, x, target, layer)
    if classes is not None and len(classes) <= max(target):
        raise ValueError(f"grad_cam: expected names of at least {max(target) + 1} classes, got {len(classes)}")
    shown, _ = to_unit("grad_cam", to_nhwc("grad_cam", _drawable(x)), mean, std)
    n = len(shown)
    columns = min(n, 4)
    rows = -(-n // columns)
    ratio = shown.shape[1] / shown.shape[2]
    figure = new_figure(columns * 4.2 + 0.7, rows * (2.05 * ratio + 0.35) + 0.35)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for k, ax in enumerate(axes[:n]):
        plain = np.repeat(shown[k], 3, 2) if shown.shape[3] == 1 else shown[k]
        gap = np.ones((plain.shape[0], max(1, plain.shape[1] // 32), 3), np.float32)
        ax.imshow(np.concatenate([plain, gap, overlay_heat(plain, heat[k])], 1), interpolation="nearest")
        ax.set_title(str(target[k]) if classes is None else str(classes[int(target[k])]), fontsize=9)
    from matplotlib.cm import ScalarMappable

    bar = ScalarMappable(cmap="inferno")
    bar.set_clim(0, 1)
    figure.colorbar(bar, ax=list(axes), label="evidence, relative", fraction=0.03, pad=0.01)
    figure.supxlabel(f"Grad-CAM at {name}", fontsize=8, color="0.35")
    return finish(figure, path)


def overlay_heat(image, heat, alpha=0.55):
    """RGB image (H, W, 3) in [0, 1] under heat (H, W) in [0, 1]: colour where there is heat, grey elsewhere."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](heat)[..., :3].astype(np.float32)
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    share = (alpha * np.sqrt(heat))[..., None]
    return np.clip(grey * (1 - share) + colours * share, 0, 1).astype(np.float32)


@contextlib.contextmanager
def _exact_zeros():
    """Convolutions without Winograd, whose rounding spreads tiny values over a whole tile."""
    before = _core.get_conv_algorithm()
    _core.set_conv_algorithm("direct")
    try:
        yield
    finally:
        _core.set_conv_algorithm(before)


def receptive_area(model, input_size, layer=None, samples=8, seed=0):
    """Receptive field measured with gradients (Luo et al. 2016), as numbers.

    The gradient of the middle unit of a layer, summed over its channels with random signs, with respect to random
    images; magnitudes are averaged over samples and input channels. Layers that see the whole image (global pooling,
    squeeze and excitation, attention) make the field the whole image.

    Args: input_size: (C, H, W) or (1, C, H, W). layer, default: as of `cam`. samples: images drawn.
    Returns (influence (H, W) that sums to 1; name of the layer; (top, left, bottom, right) of the pixels with any
    influence, the last two exclusive).
    """
    size = tuple(int(v) for v in input_size)
    if len(size) == 4 and size[0] == 1:
        size = size[1:]
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"receptive_field: expected input_size (C, H, W), got {tuple(input_size)}")
    if samples < 1:
        raise ValueError(f"receptive_field: expected samples >= 1, got {samples}")
    rng = np.random.default_rng(seed)
    total = np.zeros(size[1:], np.float64)
    for _ in range(samples):
        image = rng.standard_normal((1, *size)).astype(np.float32)
        x = _as_input("receptive_field", model, image).detach()
        x.requires_grad = True
        with enable_grad(), _watched(model, layer) as seen:
            model(x)
            name, maps = _maps_of("receptive_field", seen, layer)
            signs = np.zeros(tuple(maps.shape), np.float32)
            signs[0, :, maps.shape[2] // 2, maps.shape[3] // 2] = rng.choice([-1, 1], maps.shape[1])
            with _exact_zeros():
                (slope,) = _core.grad((maps.to("float32") * _core.tensor(signs).to(x.device)).sum(), [x])
        total += np.abs(slope.detach().to("float32").to("cpu").numpy()[0]).mean(0)
    rows, columns = np.flatnonzero(total.any(1)), np.flatnonzero(total.any(0))
    if rows.size == 0:
        raise ValueError(f"receptive_field: no gradient from layer {name!r} arrives at the input")
    area = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return total / total.sum(), name, area


def _half_square(influence):
    """Side of the smallest square around the centre of influence that holds half of it."""
    h, w = influence.shape
    y = round(float((influence.sum(1) * np.arange(h)).sum()))
    x = round(float((influence.sum(0) * np.arange(w)).sum()))
    for r in range(max(h, w)):
        part = influence[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        if part.sum() >= 0.5:
            return y, x, r
    return y, x, max(h, w)


def receptive_field(model, input_size, layer=None, samples=8, seed=0, path=None):
    """Which pixels the middle unit of a layer sees, and how much: the field measured by `receptive_area`.

    Arguments as there. The solid frame holds every pixel with any influence, the dashed one is the smallest square that
    holds half of it (the effective field). Returns the Figure, saved to `path` if given.
    """
    influence, name, (top, left, bottom, right) = receptive_area(model, input_size, layer, samples, seed)
    y, x, r = _half_square(influence)
    h, w = influence.shape
    figure = new_figure(7.0, min(max(1.5, 4.8 * h / w), 8.0) + 1.1)
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    ax = figure.subplots()
    high = influence.max()
    ax.set_facecolor("black")
    image = ax.imshow(np.ma.masked_equal(influence, 0), norm=LogNorm(high * 1e-4, high, clip=True), cmap="inferno")
    frame = {"fill": False, "linewidth": 1.6}
    for corner, high_px, wide_px, what, style in (
        ((left, top), bottom - top, right - left, "all", {"edgecolor": "#56B4E9"}),
        ((x - r, y - r), 2 * r + 1, 2 * r + 1, "half of the influence", {"edgecolor": "#009E73", "ls": "--"}),
    ):
        at = (corner[0] - 0.5, corner[1] - 0.5)
        ax.add_patch(Rectangle(at, wide_px, high_px, label=f"{what}: {high_px} x {wide_px} px", **frame, **style))
    ax.set_xlim(-0.5, w - 0.5)
    ax.set_ylim(h - 0.5, -0.5)
    ax.set_xlabel("x (pixels)")
    ax.set_ylabel("y (pixels)")
    ax.set_title(f"{type(model).__name__}, middle unit of {name}, input {h} x {w}", fontsize=10)
    figure.colorbar(image, ax=ax, label="share of the influence per pixel", fraction=0.045, pad=0.02)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", edgecolor="none")
    return finish(figure, path)
