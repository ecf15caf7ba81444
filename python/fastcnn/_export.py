"""fc.export: a model or training step, its weights and what it needs beside as one .fcnn file (docs/embed.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from . import _core
from ._graph import trace


def export(model_or_step, path, example, *, predict=None, dynamic_batch=True, preprocess=None, class_names=None):
    """Writes a file that ``fc.load``, ``fastcnn::Session`` and the C API run without the code that made it.

    Args: model_or_step: a Module (as it is in eval mode), a function, or a compiled or plain training step with
    everything in it: forward, loss, ``zero_grad``, ``backward``, ``optimizer.step``. path: of the .fcnn file, a
    safetensors file that any reader opens; the old one stays whole until the new one is on the disk. example: an array
    or tensor, or a tuple of them, one for each argument; shapes and dtypes matter, values do not.
    predict: with a training step: the Module that its file shall predict with, on the first input.
    dynamic_batch: dim 0 of the inputs is a batch size that users choose; False: the example's.
    preprocess: {"resize": shorter side or (height, width), "interpolation": "bilinear" or "bicubic", "crop": side or
    (height, width), "mean": [...], "std": [...]}: how an image of bytes becomes the input; pixels are 0 to 1 before
    mean and std. class_names: of the scores, which are logits unless the model ends in softmax or sigmoid.
    Raises: ValueError for preprocessing and names that do not fit the model, where the graph depends on the batch size
    in a way that is no straight line (dynamic_batch=False helps), on gradients from the step before, or on host work
    that no file holds; TypeError for arguments of another kind.
    """
    traced = trace(model_or_step, example, dynamic_batch=dynamic_batch)
    graphs = [(_kind(traced.graph), traced)]
    if predict is not None:
        if graphs[0][0] != "step":
            raise ValueError("export: predict= is for training steps; this function changes no state")
        first = example[0] if isinstance(example, (tuple, list)) else example
        graphs.append(("predict", trace(predict, first, dynamic_batch=dynamic_batch)))
        if _kind(graphs[1][1].graph) != "predict":
            raise ValueError("export: the function given as predict= changes state")
    extra = {}
    if preprocess is not None:
        extra["preprocess"] = _preprocess_form(preprocess)
    if class_names is not None:
        if isinstance(class_names, (str, bytes)) or not isinstance(class_names, Iterable):
            raise TypeError(f"export: expected class_names as a list of names, got {class_names!r:.80}")
        extra["class_names"] = [str(n) for n in class_names]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _core.write_session(
        os.fsencode(path),  # a name may hold what is no UTF-8
        [(name, t.text, t.tensors, t.host_work, json.dumps(t.updates)) for name, t in graphs],
        json.dumps(extra),
    )


def _preprocess_form(preprocess):
    """As JSON holds it; what it lacks or has too much, the core says."""
    if not isinstance(preprocess, Mapping):
        raise TypeError(
            f"export: expected preprocess as a dict of resize, crop, mean and std, got {preprocess!r:.80}"
        )
    form = {}
    for key, value in preprocess.items():
        kinds = {"resize": "iu", "crop": "iu", "mean": "iuf", "std": "iuf"}.get(key)
        if kinds:
            numbers = np.asarray(value)
            if numbers.dtype.kind not in kinds or not np.isfinite(numbers).all():
                what = "numbers" if "f" in kinds else "a size or (height, width)"
                raise ValueError(f"export: expected {key} of preprocess as {what}, got {value!r:.80}")
            value = (np.atleast_1d(numbers) if "f" in kinds else numbers).tolist()
        form[str(key)] = value if kinds else str(value)
    return form


def _kind(graph):
    """What the graph is for: "step" if a node writes to state, else "predict"."""
    inside = {o["name"] for n in graph["nodes"] for o in n["out"] if "shape" in o}
    written = {o["name"] for n in graph["nodes"] for o in n["out"] if "shape" not in o}
    return "step" if written - inside else "predict"
