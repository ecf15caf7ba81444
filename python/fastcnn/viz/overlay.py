"""Boxes and masks drawn over images. They draw what they are given; nothing is thresholded by default."""

from __future__ import annotations

import numpy as np

from ._figure import finish, new_figure
from .images import to_nhwc, to_unit

_SHOWN = 20  # classes that a legend can name


def _one_image(op, image, mean, std):
    """One image as RGB (H, W, 3) in [0, 1]."""
    batch = to_nhwc(op, image)
    if len(batch) != 1:
        raise ValueError(f"{op}: expected one image, got {len(batch)}")
    pixels, _ = to_unit(op, batch, mean, std)
    return np.repeat(pixels[0], 3, 2) if pixels.shape[3] == 1 else pixels[0]


def class_colours(n):
    """n RGB colours (n, 3) that are far apart in hue and lightness, the same for the same class each time."""
    from colorsys import hsv_to_rgb

    golden = 0.618033988749895  # steps of the golden ratio never come close to an earlier hue
    tones = ((0.9, 0.95), (0.65, 0.9), (0.8, 0.75))  # saturation and value
    return np.array([hsv_to_rgb((0.58 + k * golden) % 1.0, *tones[k % 3]) for k in range(n)], np.float32).reshape(n, 3)


def _canvas(op, image, mean, std, extra=0.0):
    pixels = _one_image(op, image, mean, std)
    h, w = pixels.shape[:2]
    scale = 6.5 / max(h, w)
    figure = new_figure(max(w * scale, 2.5) + extra + 0.1, max(h * scale, 1.5) + 0.1)
    ax = figure.subplots()
    ax.imshow(pixels, interpolation="nearest")
    ax.set_axis_off()
    return figure, ax, pixels


def _names(op, ids, classes):
    if classes is None:
        return [str(i) for i in ids]
    if len(ids) and max(ids) >= len(classes):
        raise ValueError(f"{op}: expected labels 0 to {len(classes) - 1}, as there are names, got {max(ids)}")
    return [str(classes[i]) for i in ids]


def detections(image, boxes, labels=None, scores=None, classes=None, threshold=0.0, mean=None, std=None, path=None):
    """Boxes on an image, one colour per class, with names and scores.

    Args: image: (C, H, W) or (H, W, C), as image_grid takes it. boxes: (N, 4) as x1, y1, x2, y2 in pixels. labels: N
    class ids. scores: N numbers, shown in per cent; boxes below threshold are left out. classes: names of class ids.
    Returns the Figure, saved to `path` if given.
    """
    op = "detections"
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{op}: expected boxes (N, 4) as x1, y1, x2, y2, got shape {boxes.shape}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{op}: got {int((~np.isfinite(boxes)).any(1).sum())} boxes with nan or inf")
    turned = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if turned.any():
        k = int(turned.argmax())
        raise ValueError(f"{op}: expected x1 <= x2 and y1 <= y2, got box {k} {boxes[k].tolist()}; boxes as x, y, w, h?")
    n = len(boxes)
    for what, values in (("labels", labels), ("scores", scores)):
        if values is not None and np.shape(values) != (n,):
            raise ValueError(f"{op}: expected {n} {what}, one per box, got shape {np.shape(values)}")
    ids = np.zeros(n, np.int64) if labels is None else np.asarray(labels)
    if n and (ids.dtype.kind not in "iu" or ids.min() < 0):
        raise ValueError(f"{op}: expected labels as class ids of at least 0, got {ids.dtype}")
    names = [""] * n if labels is None else _names(op, ids.tolist(), classes)
    figure, ax, pixels = _canvas(op, image, mean, std)
    h, w = pixels.shape[:2]
    colours = class_colours(int(ids.max(initial=0)) + 1)
    order = np.arange(n) if scores is None else np.argsort(np.asarray(scores, np.float64), kind="stable")
    for k in order:  # the surest lie on top
        if scores is not None and scores[k] < threshold:
            continue
        _draw_box(ax, boxes[k], colours[ids[k]], names[k], None if scores is None else float(scores[k]), h)
    ax.set_xlim(-0.5, w - 0.5)
    ax.set_ylim(h - 0.5, -0.5)
    return finish(figure, path)


def _draw_box(ax, box, colour, name, score, height):
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box
    ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.8))
    text = " ".join(t for t in (name, "" if score is None else f"{100 * score:.0f} %") if t)
    if text:
        ink = "white" if colour @ np.array([0.299, 0.587, 0.114]) < 0.55 else "black"
        inside = y1 < 0.05 * height  # no room above: the label goes into the box
        pad = 1.2
        label = ax.annotate(
            text, (max(x1, 0) - 0.5, (max(y1, 0) if inside else y1) - 0.5), xytext=(pad, -pad if inside else pad),
            textcoords="offset points", color=ink, fontsize=8, va="top" if inside else "bottom", ha="left",
            clip_on=True, annotation_clip=False, bbox={"facecolor": colour, "edgecolor": "none", "pad": pad},
        )  # fmt: skip
        label.set_in_layout(False)


def masks(image, masks, labels=None, classes=None, alpha=0.5, ignore_index=255, mean=None, std=None, path=None):
    """Masks in colour over an image, with a legend of the classes that occur.

    Args: image: as in detections. masks: class ids (H, W), of which 0 is background and not drawn, or N boolean masks
    (N, H, W), with labels, their N class ids (default 0 to N - 1). classes: names of class ids. alpha: opacity.
    ignore_index: pixels of class maps that are hatched grey. Returns the Figure, saved to `path` if given.
    """
    op = "masks"
    masks = np.asarray(masks)
    single = masks.ndim == 2 and masks.dtype.kind in "iu"
    if masks.ndim == 2 and not single:
        masks = masks[None]
    if not single and (masks.ndim != 3 or masks.dtype.kind not in "biu"):
        got = f"shape {masks.shape} of {masks.dtype}"
        raise ValueError(f"{op}: expected class ids (H, W) or masks (N, H, W), got {got}")
    if not 0 < alpha <= 1:
        raise ValueError(f"{op}: expected alpha in (0, 1], got {alpha}")
    pixels = _one_image(op, image, mean, std)
    if masks.shape[-2:] != pixels.shape[:2]:
        raise ValueError(f"{op}: expected masks of the image's size {pixels.shape[:2]}, got {masks.shape[-2:]}")
    if single:
        if labels is not None:
            raise ValueError(f"{op}: labels go with masks (N, H, W); class ids (H, W) are labels themselves")
        ids = [int(i) for i in np.unique(masks) if i not in (0, ignore_index)]
        parts = [(i, masks == i) for i in ids]
    else:
        ids = list(range(len(masks))) if labels is None else [int(i) for i in labels]
        if len(ids) != len(masks):
            raise ValueError(f"{op}: expected {len(masks)} labels, one per mask, got {len(ids)}")
        parts = list(zip(ids, masks.astype(bool), strict=True))
    if ids and min(ids) < 0:
        raise ValueError(f"{op}: expected class ids of at least 0, got {min(ids)}")
    kinds = sorted(set(ids))
    names = _names(op, kinds, classes)
    colours = class_colours(max(kinds, default=0) + 1)
    blended = pixels.copy()
    for i, part in parts:
        blended[part] = (1 - alpha) * blended[part] + alpha * colours[i]
    figure, ax, _ = _canvas(op, np.ascontiguousarray(blended.transpose(2, 0, 1)), None, None, extra=1.6)
    for i, part in parts:
        if part.any():
            ax.contour(part, levels=[0.5], colors=[colours[i]], linewidths=1.2)
    if single and (masks == ignore_index).any():
        ignored = masks == ignore_index
        ax.contourf(ignored, levels=[0.5, 1.5], colors="none", hatches=["////"])
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[i], label=name) for i, name in zip(kinds, names, strict=True)][:_SHOWN]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize="small", edgecolor="none")
    return finish(figure, path)
