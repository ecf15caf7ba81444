"""Pictures made of pictures: a grid of a batch, what augmentation makes of an image, the filters of a convolution.

All draw one mosaic, so a hundred images cost no more than one axes.
"""

from __future__ import annotations

import textwrap

import numpy as np

from ._figure import finish, new_figure

_TITLE_IN = 0.24  # inches above an image that carries a title


def to_nhwc(op, batch):
    """Images (N, H, W, 1 or 3) of a batch or one image, channels first or last. ValueError."""
    try:
        batch = np.asarray(batch)
    except ValueError:  # arrays of several shapes
        raise ValueError(
            f"{op}: expected one array of images, got a {type(batch).__name__} of several shapes; of a loader's batch "
            "(images, labels) pass batch[0]"
        ) from None
    if batch.dtype.name == "bfloat16":
        batch = batch.astype(np.float32)
    if batch.dtype.kind not in "fiub":
        raise ValueError(f"{op}: expected numbers, got {batch.dtype}")
    if batch.ndim == 2 or (batch.ndim == 3 and batch.shape[0] in (1, 3)):
        batch = batch[None]  # one image (H, W) or (C, H, W)
    elif batch.ndim == 3 and batch.shape[2] in (1, 3):
        batch = batch[None]  # one image (H, W, C)
    if batch.ndim == 3:
        batch = batch[:, None]
    if batch.ndim == 4 and batch.shape[1] in (1, 3):
        batch = batch.transpose(0, 2, 3, 1)
    elif batch.ndim != 4 or batch.shape[3] not in (1, 3):
        raise ValueError(f"{op}: expected images (N, C, H, W) with 1 or 3 channels, got shape {batch.shape}")
    if batch.size == 0:
        raise ValueError(f"{op}: expected at least one image, got shape {batch.shape}")
    return batch


def to_unit(op, images, mean, std):
    """Pixels in [0, 1], and a note if values had to be scaled to get there."""
    if images.dtype == np.uint8:
        return images / np.float32(255), ""
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise ValueError(
            f"{op}: got {int((~np.isfinite(images)).sum())} nan or inf among {images.size} pixels"
        )
    if mean is not None or std is not None:
        images = images * (1 if std is None else np.asarray(std, np.float32))
        images = images + (0 if mean is None else np.asarray(mean, np.float32))
        return np.clip(images, 0, 1), ""
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= 1:
        return images, ""
    return (images - low) / ((high - low) or 1.0), f"values {low:.3g} to {high:.3g} drawn as black to white"


def mosaic(ax, cells, columns, gap, top, **kwargs):
    """Draws (N, H, W, ...) cells `gap` pixels apart, `top` free above each; gives image and corners."""
    n, h, w = cells.shape[:3]
    rows = -(-n // columns)
    pitch_y, pitch_x = h + top + gap, w + gap
    canvas = np.full((rows * pitch_y - gap, columns * pitch_x - gap, *cells.shape[3:]), np.nan, np.float32)
    corners = []
    for k, cell in enumerate(cells):
        y, x = k // columns * pitch_y + top, k % columns * pitch_x
        canvas[y : y + h, x : x + w] = cell
        corners.append((y, x))
    if canvas.ndim == 3:  # RGB knows no nan: transparency instead
        alpha = np.isfinite(canvas[..., :1]).astype(np.float32)
        canvas = np.concatenate([np.nan_to_num(canvas), alpha], axis=2)
    image = ax.imshow(canvas, interpolation="nearest", **kwargs)
    ax.set_axis_off()
    return image, corners


def columns_for(n, columns):
    """Columns of a grid of n pictures: `columns`, or where None what leaves it near 8:5 and its last row fullest."""
    if columns is None:
        wide = np.sqrt(n * 1.6)  # near it, the width that leaves the last row fullest
        choices = range(max(1, int(0.7 * wide)), int(1.3 * wide) + 2)
        return min(n, min(choices, key=lambda c: (-n % c, abs(c - wide))))
    if int(columns) != columns or columns < 1:
        raise ValueError(f"viz: expected columns >= 1, got {columns}")
    return min(int(columns), n)


def image_grid(batch, titles=None, columns=None, mean=None, std=None, limit=64, title=None, path=None):
    """The images of a batch in a grid.

    Args: batch: (N, C, H, W), C = 1 or 3, (N, H, W, C), (N, H, W), or one image (C, H, W), (H, W, C), (H, W); uint8, or
    float in [0, 1]; other ranges are scaled, which is written below. titles: one text (or label) per image. mean, std:
    undo a normalisation. limit: draw at most so many. title: above all.
    Returns the Figure, saved to `path` if given.
    """
    images = to_nhwc("image_grid", batch)
    n = len(images)
    if titles is not None and len(titles) != n:
        raise ValueError(f"image_grid: expected {n} titles for {n} images, got {len(titles)}")
    shown = min(n, int(limit))
    images, note = to_unit("image_grid", images[:shown], mean, std)
    if shown < n:
        note = f"{shown} of {n} images" + (f"; {note}" if note else "")
    columns = columns_for(shown, columns)
    rows = -(-shown // columns)
    h, w = images.shape[1:3]
    texts = None if titles is None else [str(t) for t in titles[:shown]]
    # Inches per cell: room for the titles, at most 14 inches in all.
    cell = max(0.85, min(w / 120, 1.7))  # large images are not shrunk to stamps
    cell = cell if texts is None else max(cell, 0.078 * max(map(len, texts)))
    cell = min(max(cell, 2.2 / columns), 14.0 / columns)
    pixel = cell / w
    gap = max(1, round(0.06 / pixel))
    top = 0 if texts is None else max(1, round(_TITLE_IN / pixel))
    width = columns * (w + gap) * pixel + 0.15
    lines = textwrap.wrap(title, max(8, int(9.5 * width))) if title else []  # characters of 12 points per inch
    height = (rows * (h + top + gap) - gap) * pixel + (0.25 if note else 0) + 0.2 * bool(lines) + 0.2 * len(lines)
    figure = new_figure(width, height + 0.15)
    ax = figure.add_subplot()
    grey = images.shape[3] == 1
    kwargs = {"cmap": "gray", "vmin": 0, "vmax": 1} if grey else {}
    _, corners = mosaic(ax, images[..., 0] if grey else images, columns, gap, top, **kwargs)
    for text, (y, x) in zip(texts or [], corners, strict=False):
        fit = cell / (0.0085 * max(len(text), 1))
        ax.text(
            x + w / 2 - 0.5, y - 0.05 / pixel, text, ha="center", va="bottom", fontsize=max(4, min(9, fit))
        )
    if lines:
        figure.suptitle("\n".join(lines))
    if note:
        figure.supxlabel(note, fontsize=8, color="0.35")
    return finish(figure, path)


def augmented(image, transform, n=15, seed=0, columns=None, mean=None, std=None, path=None):
    """An image, and n versions that a transform of fastcnn.augment makes of it: what the model will be shown.

    Args: image: (C, H, W) or (1, C, H, W), uint8 or float, as the transform takes it. seed: of the draws. columns,
    mean, std: as image_grid. Returns the Figure, saved to `path` if given.
    """
    image = np.asarray(image)
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim != 3:
        raise ValueError(f"augmented: expected one image (C, H, W), got shape {image.shape}")
    if int(n) != n or n < 1:
        raise ValueError(f"augmented: expected n >= 1, got {n}")
    versions = np.asarray(transform(np.stack([image] * int(n)), seed))
    if versions.shape[:2] != (n, image.shape[0]):
        want = f"({n}, {image.shape[0]}, H, W)"
        raise ValueError(f"augmented: expected transform to give images {want}, got {versions.shape}")
    steps = getattr(transform, "transforms", [transform])
    title = ", ".join(type(step).__name__ for step in steps)
    if versions.shape[1:] == image.shape:  # a grid has cells of one size
        for step in steps:
            if getattr(step, "normalizes", False) and not hasattr(step, "transforms"):
                image = step(image)  # of the range of the others
        versions = np.concatenate([image[None].astype(versions.dtype), versions])
        title = f"the original, then {title}"
    return image_grid(versions, None, columns, mean, std, limit=len(versions), title=title, path=path)


def filters(weights, columns=None, limit=64, title=None, path=None):
    """Filters of a convolution: the layer, or its weights (O, I, kH, kW).

    With three input channels in colour, each filter scaled to its own range; otherwise one square per filter
    and input channel, blue negative, red positive, one scale for all.

    Args: limit: draw at most so many filters; with several input channels (not 3) 16 x 16, a row
    per filter.
    Returns the Figure, saved to `path` if given.
    """
    weights = getattr(weights, "weight", weights)
    w = np.asarray(weights.detach().to("cpu").numpy() if hasattr(weights, "detach") else weights)
    if w.ndim != 4 or w.size == 0 or w.dtype.kind not in "fiu":
        raise ValueError(f"filters: expected weights (O, I, kH, kW), got shape {w.shape} of {w.dtype}")
    w = w.astype(np.float32)
    if not np.isfinite(w).all():
        raise ValueError(f"filters: got {int((~np.isfinite(w)).sum())} nan or inf among {w.size} weights")
    out, inner, kh, kw = w.shape
    kwargs = {}
    if inner == 3:
        shown = w[:limit].transpose(0, 2, 3, 1)
        low, high = shown.min((1, 2, 3), keepdims=True), shown.max((1, 2, 3), keepdims=True)
        cells = (shown - low) / np.where(high > low, high - low, 1)
        note = f"{len(cells)} of {out} filters {kh}x{kw}, in colour, each scaled to its own range"
    else:
        if inner == 1:
            cells = w[:limit, 0]
            note = f"{len(cells)} of {out} filters {kh}x{kw}"
        else:
            part = w[:16, :16]
            cells, columns = part.reshape(-1, kh, kw), part.shape[1]
            note = (
                f"rows: {len(part)} of {out} filters {kh}x{kw}; columns: {columns} of {inner} input channels"
            )
        scale = float(np.abs(cells).max()) or 1.0
        kwargs = {"cmap": "RdBu_r", "vmin": -scale, "vmax": scale}
    columns = columns_for(len(cells), columns)
    rows = -(-len(cells) // columns)
    cell = min(0.6, 11.0 / columns)
    width = max(columns * cell + (1.3 if kwargs else 0.3), 4.6)
    figure = new_figure(width, max(rows * cell * kh / kw, 1.2) + 0.7)
    ax = figure.add_subplot()
    # Weights are few pixels: repeat each so that the gap between filters can be narrower than a pixel.
    zoom = 4
    cells = cells.repeat(zoom, axis=1).repeat(zoom, axis=2)
    image, _ = mosaic(ax, cells, columns, max(1, kw * zoom // 12), 0, **kwargs)
    if kwargs:
        figure.colorbar(image, ax=ax, label="weight", fraction=0.05, pad=0.02)
    if title:
        ax.set_title(title)
    figure.supxlabel(note, fontsize=8, color="0.35")
    return finish(figure, path)
