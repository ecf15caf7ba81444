"""fastcnn export: a checkpoint as a .fcnn or ONNX file for other programs. Options are defined in cli.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ._commands import _read_model
from ._export import export
from .cli import UsageError


def run(args):
    """Writes the model of a checkpoint with its pre-processing and class names; prints where."""
    model, about, path = _read_model(args)
    size = args.image_size or about.get("image_size")
    if not size:
        raise UsageError(f"{path}: does not say the size of its images; pass --image-size H W")
    preprocess = {"resize": [int(v) for v in size]}
    for name in ("mean", "std"):
        if about.get(name) is not None:
            preprocess[name] = [float(v) for v in about[name]]
    example = np.zeros((2, about["in_channels"], *preprocess["resize"]), np.float32)
    kind = args.format or ("onnx" if args.out and Path(args.out).suffix == ".onnx" else "fcnn")
    target = Path(args.out) if args.out else Path(path).with_suffix(f".{kind}")
    classes = about.get("classes")
    if kind == "onnx":
        from .onnx import export as export_onnx

        metadata = {"preprocess": json.dumps(preprocess)}
        if classes is not None:
            metadata["class_names"] = json.dumps([str(c) for c in classes])
        export_onnx(model, target, example, metadata=metadata)
    else:
        export(model, target, example, preprocess=preprocess, class_names=classes)
    print(f"{target}: {about['model']}, {target.stat().st_size / 1e6:.1f} MB")
    return 0
