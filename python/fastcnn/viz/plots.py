"""Line and table pictures: curves of a training run, confusion matrix, gradient norms by depth.

They draw plain numbers, and of a model what it holds already; nothing here runs one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from ._figure import COLORS, finish, new_figure, tidy

_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_SPLIT_COLORS = {"train": COLORS[0], "validation": COLORS[1], "test": COLORS[2], "": COLORS[6]}
_X_NAMES = ("epoch", "step", "iteration")
_SHARE = re.compile(r"accuracy|acc|top\d+")  # of samples, drawn in per cent
_LOWER_IS_BETTER = re.compile(r"loss|error|fid|mse|mae")


def _columns(history):
    """dict of lists, or list of dict rows (values may be missing, or text), to {name: float array}."""
    if isinstance(history, Mapping):
        columns = {
            str(k): list(v) if hasattr(v, "__len__") and not isinstance(v, str) else [v]
            for k, v in history.items()
        }
    else:
        rows = list(history)
        if not all(isinstance(row, Mapping) for row in rows):
            raise TypeError("curves: expected a dict of lists or a list of dicts")
        names = dict.fromkeys(str(k) for row in rows for k in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    numbers = {}
    for name, values in columns.items():
        try:
            numbers[name] = np.array([math.nan if v is None or v == "" else float(v) for v in values])
        except (TypeError, ValueError):
            continue  # a column of text or arrays is no curve
    lengths = {len(v) for v in numbers.values()}
    if len(lengths) > 1:
        raise ValueError(
            f"curves: expected columns of one length, got { {k: len(v) for k, v in numbers.items()} }"
        )
    return numbers


def _split_name(name):
    """'val_loss' or 'val/loss' -> ('validation', 'loss'); 'loss' -> ('', 'loss')."""
    match = re.fullmatch(r"(train|val|valid|validation|test)[_/](.+)", name)
    return (_SPLITS[match[1]], match[2]) if match else ("", name)


def _with_unit(quantity):
    """'epoch_time_s' -> 'epoch time (s)'; 'images_per_s' -> 'images/s'."""
    if quantity == "lr":
        return "learning rate"
    text = re.sub(r"_per_(\w+)$", r"/\1", quantity)
    return re.sub(r"_(s|ms|MB|GB)$", r" (\1)", text).replace("_", " ")


def curves(history, path=None):
    """Training curves: a panel per quantity with train, validation and test together, the best in the legend.

    Args: history: dict of lists, or list of dicts (rows of a CSV file). "epoch" or "step" is the x axis;
    names such as train_loss, val_loss, val/accuracy share a panel, and so do val_iou_0, val_iou_1 ... of all classes;
    missing values and nan are left out.
    Returns the Figure, saved to `path` if given. Raises: ValueError when there is no number to draw.
    """
    columns = _columns(history)
    x_name = next((n for n in _X_NAMES if n in columns), None)
    panels = {}
    for name, values in columns.items():
        split, quantity = _split_name(name)
        if name not in _X_NAMES and np.isfinite(values).any():
            panels.setdefault(quantity, {})[split] = values
    if not panels:
        raise ValueError(
            f"curves: expected at least one column with a finite number, got columns {sorted(columns)}"
        )
    for lines in panels.values():  # 'loss' beside 'val_loss' is the train loss
        if "" in lines and len(lines) > 1 and "train" not in lines:
            lines["train"] = lines.pop("")
    panels = _with_classes_together(panels)
    order = sorted(panels, key=lambda q: 0 if "loss" in q else 2 if q in ("lr", "learning_rate") else 1)
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure = new_figure(1.0 + 4.2 * wide, 0.6 + 2.9 * high)
    for k, quantity in enumerate(order):
        ax = figure.add_subplot(high, wide, k + 1)
        _curve_panel(ax, quantity, panels[quantity], columns.get(x_name), x_name or "epoch")
    return finish(figure, path)


def _with_classes_together(panels):
    """Panels iou_0, iou_1 ... of every class (as metrics without average give) as one: "iou per class"."""
    found = {}
    for quantity, lines in panels.items():
        match = re.fullmatch(r"(.+)_(\d+)", quantity)
        if match and list(lines) == ["validation"]:
            found.setdefault(match[1], {})[int(match[2])] = lines["validation"]
    for base, classes in found.items():
        # Classes that never occur are missing; map_50 and map_75, mar_1, mar_10 and mar_100 are no classes.
        if len(classes) > 1 and max(classes) < 2 * len(classes):
            for k in classes:
                del panels[f"{base}_{k}"]
            panels[f"{base} per class"] = {f"class {k}": classes[k] for k in sorted(classes)}
    return panels


def _curve_panel(ax, quantity, lines, x, x_name):
    values = np.concatenate(list(lines.values()))
    values = values[np.isfinite(values)]
    percent = _SHARE.fullmatch(quantity) is not None and values.min() >= 0 and values.max() <= 1
    pick = np.argmin if _LOWER_IS_BETTER.search(quantity) else np.argmax
    positive = values.min() > 0
    rate = quantity in ("lr", "learning_rate")
    if positive and values.max() / values.min() > (10 if rate else 100):
        ax.set_yscale("log")
    if quantity.endswith(" per class"):
        return _class_panel(ax, quantity, lines, x, x_name)
    for split in sorted(lines, key=["train", "validation", "test", ""].index):
        y = lines[split] * (100 if percent else 1)
        at = np.arange(1, len(y) + 1) if x is None else x
        keep = np.isfinite(y) & np.isfinite(at)
        label = split or ("all" if len(lines) > 1 else None)  # a lone unnamed line needs no legend
        if split in ("validation", "test") and keep.any():
            best = np.flatnonzero(keep)[pick(y[keep])]
            label = f"{split}, best {y[best]:.4g}{' %' if percent else ''} ({x_name} {at[best]:g})"
        marker = "o" if keep.sum() <= 30 else None
        ax.plot(
            at[keep], y[keep], color=_SPLIT_COLORS[split], label=label, marker=marker, markersize=3.5, lw=1.6
        )
    _curve_axes(ax, _with_unit(quantity) + (" (%)" if percent else ""), x_name)


def _class_panel(ax, quantity, lines, x, x_name):
    """A thin line per class; those that end best and worst are named, of up to six all."""
    last = {name: y[np.isfinite(y)][-1] for name, y in lines.items() if np.isfinite(y).any()}
    order = sorted(last, key=last.get, reverse=True)
    named = order if len(order) <= 6 else [*order[:3], *order[-3:]]
    for name, y in lines.items():
        at = np.arange(1, len(y) + 1) if x is None else x
        keep = np.isfinite(y) & np.isfinite(at)
        color = COLORS[named.index(name)] if name in named else "0.8"
        marker = "o" if keep.sum() == 1 else None
        label = f"{name}, last {last[name]:.4g}" if name in named else None
        ax.plot(at[keep], y[keep], color=color, lw=1.2, marker=marker, label=label, zorder=3 if name in named else 2)
    _curve_axes(ax, quantity.replace("_", " "), x_name)
    handles, labels = ax.get_legend_handles_labels()
    places = [labels.index(f"{name}, last {last[name]:.4g}") for name in named]
    ax.legend([handles[k] for k in places], [labels[k] for k in places], fontsize=8, frameon=False)


def _curve_axes(ax, label, x_name):
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(x_name)
    ax.set_ylabel(label)
    left, right = ax.get_xlim()
    if right - left < 1:  # one epoch: no ticks between whole numbers
        ax.set_xlim((left + right) / 2 - 1, (left + right) / 2 + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    tidy(ax)


def confusion(cm, classes=None, path=None):
    """Confusion matrix: colour is the share of each true class (row), numbers are counts (up to 20 classes).

    Args: cm: (C, C) counts or shares, row = target, column = prediction, as metrics.ConfusionMatrix gives.
    classes: C names, default 0 to C-1. Returns the Figure, saved to `path` if given.
    """
    cm = np.asarray(cm)
    if cm.ndim != 2 or cm.shape[0] != cm.shape[1] or cm.size == 0 or cm.dtype.kind not in "iuf":
        raise ValueError(f"confusion: expected counts (C, C), got shape {cm.shape} of {cm.dtype}")
    if np.nanmin(cm, initial=0) < 0 or np.isinf(cm).any():
        raise ValueError("confusion: expected finite counts >= 0")
    n = len(cm)
    names = [str(c) for c in (range(n) if classes is None else classes)]
    if len(names) != n:
        raise ValueError(f"confusion: expected {n} class names for shape {cm.shape}, got {len(names)}")
    total = np.nansum(cm, axis=1, keepdims=True)
    shares = np.divide(cm, total, out=np.zeros(cm.shape), where=total > 0)
    longest = max(map(len, names))
    square = max(1.8, 0.55 * n) if n <= 20 else min(max(6.0, 0.11 * n), 20.0)
    labels = (0.11 if n <= 20 else 0.07) * min(longest, 24)
    figure = new_figure(square * 1.06 + labels + 2.0, square + labels * 0.75 + 1.0)
    ax = figure.add_subplot()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right = np.trace(np.nan_to_num(cm)) / max(np.nansum(cm), 1e-300)
    ax.set_title(f"{_diagonal_of(cm)} {100 * right:.4g} %")
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    step = 1 if n <= 60 else -(-n // 40)
    ticks, small = np.arange(0, n, step), "medium" if n <= 20 else 6
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 2 else {}
    ax.set_xticks(ticks, names[::step], fontsize=small, **slant)
    ax.set_yticks(ticks, names[::step], fontsize=small)
    if n <= 20:
        whole = cm.dtype.kind in "iu" or (np.nan_to_num(cm) == np.round(np.nan_to_num(cm))).all()
        for i in range(n):
            for j in range(n):
                if np.isfinite(cm[i, j]) and cm[i, j] != 0:
                    text = f"{int(cm[i, j])}" if whole else f"{cm[i, j]:.2f}"
                    color = "white" if shares[i, j] > 0.55 else "0.15"
                    ax.text(
                        j,
                        i,
                        text,
                        ha="center",
                        va="center",
                        color=color,
                        fontsize=8 if len(text) < 5 else 6.5,
                    )
    figure.colorbar(image, ax=ax, label="share of the true class", fraction=0.045, pad=0.03)
    return finish(figure, path)


def _diagonal_of(cm):
    """What the share on the diagonal of a confusion matrix is called: of shares of each class it weighs all alike."""
    if cm.dtype.kind == "f":
        cm = np.nan_to_num(cm)
        for axis, name in ((1, "mean recall"), (0, "mean precision")):
            total = cm.sum(axis)
            if (total > 0).sum() > 1 and np.isclose(total[total > 0], 1).all():
                return name
    return "accuracy"


def gradient_flow(norms, path=None, ylabel="gradient norm (L2)"):
    """Gradient norm by depth, log scale: where gradients vanish or explode, and what shortcuts change.

    Args: norms: a Module after backward(), of which the weights with two dimensions or more are drawn, or
    {layer: norm} in order of depth; to compare several nets {name: either} or a list of (name, either). Zeros are
    triangles on the lower edge, nan and inf crosses on the upper edge.
    Returns the Figure, saved to `path` if given.
    """
    series = _series(norms)
    longest = max(series.values(), key=len)
    named = len(longest) <= 30 and all(list(s) == list(longest)[: len(s)] for s in series.values())
    figure = new_figure(max(7.0, min(13.0, 2.5 + 0.3 * len(longest))), 4.4 if not named else 5.2)
    ax = figure.add_subplot()
    ax.set_yscale("log")
    arrays = [np.array([float(v) for v in s.values()]) for s in series.values()]
    drawn = np.concatenate([a[np.isfinite(a) & (a > 0)] for a in arrays])
    low, high = (drawn.min(), drawn.max()) if drawn.size else (1e-3, 1.0)
    low, high = 10.0 ** math.floor(math.log10(low) - 0.15), 10.0 ** math.ceil(math.log10(high) + 0.15)
    ax.set_ylim(low, high)
    for k, (name, values) in enumerate(zip(series, arrays, strict=True)):
        depth = np.arange(1, len(values) + 1)
        color = COLORS[k % len(COLORS)]
        good = np.isfinite(values) & (values > 0)
        ax.plot(depth, np.where(good, values, np.nan), color=color, label=name or None, lw=1.4,
                marker="o", markersize=4 if len(values) <= 40 else 2.5)  # fmt: skip
        zero, broken = values == 0, ~np.isfinite(values)
        for mask, y, marker, what in ((zero, low, "v", "zero"), (broken, high, "x", "nan or inf")):
            if mask.any():
                label = f"{name + ': ' if name else ''}{what}"
                ax.plot(depth[mask], np.full(mask.sum(), y), color=color, marker=marker, ls="", clip_on=False,
                        label=label, markersize=6)  # fmt: skip
    ax.set_ylabel(ylabel)
    if named:
        ax.set_xticks(range(1, len(longest) + 1), list(longest), rotation=90, fontsize="small")
        ax.set_xlabel("layer, input to output")
    else:
        ax.set_xlabel("layer number, input to output")
    ax.set_xlim(0.5, len(longest) + 0.5)
    tidy(ax)
    return finish(figure, path)


def _gradient_norms(model, name=""):
    """{layer: L2 norm of the gradient of its weight}; biases and norms are left out, they hide the depth."""
    weights = {k: p for k, p in model.named_parameters() if p.ndim >= 2 and p.requires_grad}
    without = [k for k, p in weights.items() if p.grad is None]
    if without:
        where = f"{name}: " if name else ""
        raise ValueError(f"gradient_flow: {where}no gradient in {without[0]} ({len(without)} of {len(weights)} "
                         "weights); expected a model after loss.backward()")  # fmt: skip
    grads = {k: p.grad.detach().to("float32").to("cpu").numpy().astype(np.float64) for k, p in weights.items()}
    return {k.removesuffix(".weight"): np.linalg.norm(g) for k, g in grads.items()}


def _series(norms):
    if hasattr(norms, "named_parameters"):
        norms = _gradient_norms(norms)
    elif isinstance(norms, Mapping):
        norms = {k: _gradient_norms(v, k) if hasattr(v, "named_parameters") else v for k, v in norms.items()}
    else:
        norms = [(p[0], _gradient_norms(p[1], p[0])) if isinstance(p, (tuple, list)) and len(p) == 2
                 and hasattr(p[1], "named_parameters") else p for p in norms]  # fmt: skip
    if isinstance(norms, Mapping):
        nested = [isinstance(v, Mapping) for v in norms.values()]
        if any(nested) and not all(nested):
            raise ValueError("gradient_flow: expected {layer: norm} or {name: {layer: norm}}, got a mixture")
        series = dict(norms) if nested and all(nested) else {"": norms}
    else:
        pairs = list(norms)
        if not all(isinstance(p, (tuple, list)) and len(p) == 2 and isinstance(p[1], Mapping) for p in pairs):
            raise TypeError("gradient_flow: expected a mapping, or a list of (name, {layer: norm})")
        series = dict(pairs)
    if not series or not all(series.values()):
        raise ValueError("gradient_flow: expected at least one layer, got none")
    for name, layers in series.items():
        for layer, value in layers.items():
            if np.size(value) != 1 or float(np.asarray(value).item()) < 0:
                where = f"{name}: " if name else ""
                raise ValueError(f"gradient_flow: expected one number >= 0 for {where}{layer}, got {value}")
    return {str(k): {str(n): float(np.asarray(v).item()) for n, v in s.items()} for k, s in series.items()}


def lr_curve(found, path=None):
    """Loss over learning rate of a range test, with the suggested rate. found: what Trainer.lr_find gives."""
    if not found.lrs:
        raise ValueError("lr_curve: expected a range test of at least one step")
    figure = new_figure(6, 4)
    ax = figure.subplots()
    ax.plot(found.lrs, found.losses, color=COLORS[6], alpha=0.4, linewidth=1, label="loss of a step")
    ax.plot(found.lrs, found.smoothed, color=COLORS[0], label="smoothed")
    rate = found.suggestion()
    if rate is not None:
        ax.axvline(rate, color=COLORS[1], linestyle="--", label=f"suggestion {rate:.2g}")
    ax.set_xscale("log")
    low, first = min(found.smoothed), found.smoothed[0]
    span = abs(first - low) or 1.0
    ax.set_ylim(low - 0.2 * span, first + span)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.set_title("learning-rate range test")
    tidy(ax)
    return finish(figure, path)
