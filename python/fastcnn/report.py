"""index.html of a run of fastcnn train: one self-contained page that opens from disk without a network.

It reads the run's folder, runs the best weights over the test images once and draws what they say. It trains nothing
and changes nothing but the page.
"""

from __future__ import annotations

import csv
import json
import platform
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from . import _core, _html
from ._files import atomic_write

_MOST_IMAGES = 10_000  # evenly spaced ones of larger test sets
_MISTAKES, _CAMS = 24, 8


def missing_parts():
    """What has to be installed before a report can be written, as a sentence; "" if nothing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "it needs matplotlib: pip install matplotlib"
    return ""


class Findings:
    """What a model says about test images: labels, probabilities (N, C), per image the loss and what was predicted."""

    def __init__(self, labels, scores):
        self.labels = labels
        scores = scores - scores.max(1, keepdims=True)
        log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        self.probabilities = np.exp(log_p)
        self.predicted = scores.argmax(1)
        self.losses = -log_p[np.arange(len(labels)), labels]
        self.right = self.predicted == labels
        n = scores.shape[1]
        self.confusion = np.bincount(labels * n + self.predicted, minlength=n * n).reshape(n, n)

    def worst(self, count):
        """Numbers of the wrong images of the highest loss."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")][:count]

    def typical(self, count):
        """Numbers of images that are right, the surest of each class in turn."""
        picked = []
        for c in range(self.probabilities.shape[1]):
            own = np.flatnonzero(self.right & (self.labels == c))
            if own.size:
                picked.append(own[self.losses[own].argmin()])
        return np.array(picked[:: max(1, len(picked) // count)][:count], np.int64)


def write_report(run, limit=None, root=None, download=True, out=None, device="auto"):
    """Writes the report of a run.

    Args: run: folder that fastcnn train wrote. limit: the first so many test images; default all, of more than 10,000
    evenly spaced ones. root, download: of the dataset, default as the run had them. out: default index.html in run.
    Returns the Path. Raises: FileNotFoundError, ValueError for what is no run; ImportError without matplotlib.
    """
    if missing := missing_parts():
        raise ImportError(f"report: {missing}")
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"report: expected the folder of a run, got {run}")
    config, rows = _config(run), _rows(run)
    model, about, checkpoint, data = _load(run, config, limit, root, download, device)
    found = _look(model, data, about, device)
    names = [str(n) for n in about.get("classes") or range(about["num_classes"])]
    body = "\n".join(
        [
            _header(run, about, config, rows, found, model, checkpoint),
            _curves(rows),
            _classes(found, names),
            _mistakes(found, data, names),
            _cams(model, found, data, names),
            _facts(config, rows, model, about),
        ]
    )
    path = run / "index.html" if out is None else Path(out)
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(_html.page(f"{run.resolve().name} · fastcnn", body))
    return path


# ---------------------------------------------------------------- reading


def _config(run):
    path = run / "config.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def _rows(run):
    path = run / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"report: no {path}; expected the folder of a run of fastcnn train")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: holds no epoch yet")
    return rows


def _load(run, config, limit, root, download, device):
    """(model, about, path of the checkpoint, test data)."""
    from ._commands import _load_data, _read_model, _test_split
    from .data import Subset

    model, about, checkpoint = _read_model(Namespace(checkpoint=run, model=None))
    name = config.get("data") or about.get("data")
    if name is None:
        raise ValueError(f"report: {checkpoint} does not say what it was trained on")
    folder = name.startswith("imagefolder:")
    options = Namespace(
        data=name, root=root or config.get("root"), no_download=not download, limit=limit or config.get("limit"),
        image_size=(about.get("image_size") or [None])[0] if folder else None, val_fraction=about.get("val_fraction"),
    )  # fmt: skip
    data = _load_data(options, _test_split(name), about.get("classes"))
    if limit is None and len(data) > _MOST_IMAGES:
        data = Subset(data, np.linspace(0, len(data) - 1, _MOST_IMAGES).astype(np.int64))
    return model, about, checkpoint, data


def _look(model, data, about, device):
    from ._commands import logits
    from .data import DataLoader
    from .trainer import Trainer

    trainer = Trainer(model, "sgd", device=device, progress=False)
    scores, labels = [], []
    for x, y in DataLoader(data, 256):
        scores.append(trainer.predict(x))
        labels.append(np.asarray(y))
    model.to("cpu")
    labels, scores = np.concatenate(labels), np.concatenate(scores)
    if labels.ndim != 1 or scores.ndim != 2:
        raise ValueError(f"report: expected class ids (N,) and scores (N, C), got {labels.shape} and {scores.shape}")
    return Findings(labels, logits(scores.astype(np.float64), about))


# ---------------------------------------------------------------- writing


def _number(row, name):
    try:
        return float(row.get(name, ""))
    except (TypeError, ValueError):
        return float("nan")


def _header(run, about, config, rows, found, model, checkpoint):
    seconds = np.nansum([_number(r, "seconds") for r in rows])
    rates = [v for v in (_number(r, "images_per_second") for r in rows) if np.isfinite(v)]
    count = sum(p.numel() for p in model.parameters())
    numbers = {
        "test accuracy": f"{100 * found.right.mean():.2f} %",
        "test loss": f"{found.losses.mean():.4f}",
        "test images": f"{len(found.labels):,}",
        "parameters": f"{count:,}",
        "epochs": len(rows),
        "training time": f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s",
        "images per second": f"{np.mean(rates):,.0f}" if rates else "–",
    }
    what = f"{about['model']} on {config.get('data') or about.get('data')}"
    links = ("curves", "classes", "mistakes", "cams", "facts")
    nav = "".join(f'<a href="#{k}">{k.replace("cams", "Grad-CAM")}</a>' for k in links)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(checkpoint.stat().st_mtime))
    note = f"weights of {checkpoint.name}, {when}"
    return (
        f'<h1>{_html.text(run.resolve().name)}</h1>\n<p class="soft">{_html.text(what)} · {_html.text(note)}</p>\n'
        f"<nav>{nav}</nav>\n{_html.cards(numbers)}"
    )


def _curves(rows):
    from .viz import curves

    shown = [{k: v for k, v in r.items() if k not in ("seconds", "memory_MB", "images_per_second")} for r in rows]
    for row in shown:
        row["epoch"] = int(row.get("epoch") or 0) + 1
    return _html.section("curves", "Training curves", _html.drawing(curves(shown), "curves of training and validation"))


def _classes(found, names):
    from .viz import confusion

    n = len(names)
    hit, predicted, actual = np.diag(found.confusion), found.confusion.sum(0), found.confusion.sum(1)

    def share(a, b):
        return f"{100 * a / b:.1f} %" if b else "–"

    lines = []
    for k in np.argsort(hit / np.maximum(actual, 1), kind="stable"):
        row = found.confusion[k].copy()
        row[k] = 0
        other = f"{names[row.argmax()]} ({row.max()})" if row.max() else "–"
        lines.append((names[k], actual[k], share(hit[k], actual[k]), share(hit[k], predicted[k]), other))
    inner = _html.table(("class", "images", "recall", "precision", "most often taken for"), lines)
    return _html.section(
        "classes", "Classes, the hardest first", inner if n <= 30 else _html.details(f"{n} classes", inner),
        _html.drawing(confusion(found.confusion, names), "confusion matrix of the test images"),
    )  # fmt: skip


def _pixels(data, indices):
    """Images (N, H, W, C) in [0, 1] with one or three channels."""
    pixels, _ = data.raw_batch(np.asarray(indices))
    pixels = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return pixels if pixels.shape[3] in (1, 3) else pixels.mean(3, keepdims=True)


def _caption(found, names, i):
    said, true = int(found.predicted[i]), int(found.labels[i])
    sure = [f"{100 * found.probabilities[i, k]:.1f}\u00a0%" for k in (said, true)]  # no break before the sign
    if said == true:
        return [f"{names[true]}, {sure[0]}"]
    return [names[true], f"taken for {names[said]}", f"{sure[0]} against {sure[1]}"]


def _mistakes(found, data, names):
    worst = found.worst(_MISTAKES)
    total = int((~found.right).sum())
    if not total:
        return _html.section("mistakes", "Worst mistakes", "<p>None: every test image is right.</p>")
    tiles = [
        _html.figure(_html.image(image, f"test image {i}"), [*_caption(found, names, i), f"image {i}"])
        for image, i in zip(_pixels(data, worst), worst, strict=True)
    ]
    note = f"{total:,} of {len(found.labels):,} test images are wrong; these {len(worst)} have the highest loss."
    grid = f'<div class="tiles">{"".join(tiles)}</div>'
    return _html.section("mistakes", "Worst mistakes", f'<p class="soft">{note}</p>', grid)


def _cams(model, found, data, names):
    from .viz import cam
    from .viz.inside import overlay_heat

    wrong = found.worst(_CAMS // 2)
    picked = np.concatenate([found.typical(_CAMS - len(wrong)), wrong]).astype(np.int64)
    if not picked.size or found.probabilities.shape[1] < 2:
        return ""
    raw, _ = data.raw_batch(picked)
    x = data.normalize(raw).transpose(0, 3, 1, 2)
    try:
        heat, _, layer = cam(model, x, found.predicted[picked])
    except ValueError as error:  # a net whose layers give no maps
        return _html.section("cams", "Grad-CAM", f"<p>{_html.text(error)}</p>")
    tiles = []
    for image, warm, i in zip(_pixels(data, picked), heat, picked, strict=True):
        rgb = np.repeat(image, 3, 2) if image.shape[2] == 1 else image
        both = _html.image(image, f"test image {i}") + _html.image(overlay_heat(rgb, warm), f"evidence in image {i}")
        tiles.append(_html.figure(f'<div class="pair">{both}</div>', _caption(found, names, i)))
    note = f"What speaks for the predicted class, at layer {layer}: images that are right, then the worst mistakes."
    return _html.section(
        "cams", "Where the model looks (Grad-CAM)", f'<p class="soft">{_html.text(note)}</p>',
        f'<div class="pairs">{"".join(tiles)}</div>',
    )  # fmt: skip


def _short(value):
    try:
        return f"{float(value):.5g}"
    except (TypeError, ValueError):
        return value


def _facts(config, rows, model, about):
    from ._summary import summary

    head = list(rows[0])
    epochs = [[int(r["epoch"]) + 1 if k == "epoch" and r[k] else _short(r[k]) for k in head] for r in rows]
    options = [(k, v) for k, v in sorted(config.items()) if v is not None]
    size = (1, about["in_channels"], *(about.get("image_size") or (32, 32)))
    versions = [("Python", sys.version.split()[0]), ("NumPy", np.__version__), ("system", platform.platform())]
    versions = _html.table(("", ""), versions, words=True) + f"<pre>{_html.text(_core.show_config())}</pre>"
    return _html.section(
        "facts", "Facts",
        _html.details("Options", _html.table(("option", "value"), options, words=True)) if options else "",
        _html.details(f"Epochs ({len(rows)})", _html.table(head, epochs)),
        _html.details("Layers", f"<pre>{_html.text(summary(model, size))}</pre>"),
        _html.details("Versions", versions),
    )  # fmt: skip
