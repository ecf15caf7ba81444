"""fc.export: a model or training step, its weights and what it needs beside as one .fcnn file (docs/embed.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
    preprocess: {"resize": shorter side or (height, width), "crop": side or (height, width), "mean": [...], "std":
    [...]}: how an image of bytes becomes the input; pixels are 0 to 1 before mean and std. class_names: of the scores.
    Raises: ValueError where the graph depends on the batch size in a way that is no straight line (dynamic_batch=False
    helps), on gradients from the step before, or on host work that no file holds.
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
        extra["preprocess"] = {k: list(v) if isinstance(v, tuple) else v for k, v in dict(preprocess).items()}
    if class_names is not None:
        extra["class_names"] = [str(n) for n in class_names]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _core.write_session(
        os.fspath(path),
        [(name, t.text, t.tensors, t.host_work, json.dumps(t.updates)) for name, t in graphs],
        json.dumps(extra),
    )


def _kind(graph):
    """What the graph is for: "step" if a node writes to state, else "predict"."""
    inside = {o["name"] for n in graph["nodes"] for o in n["out"] if "shape" in o}
    written = {o["name"] for n in graph["nodes"] for o in n["out"] if "shape" not in o}
    return "step" if written - inside else "predict"
