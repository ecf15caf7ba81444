"""fastcnn export: a checkpoint as a .fcnn file for C++, C and other programs. Options are defined in cli.py."""

from __future__ import annotations

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
    target = Path(args.out) if args.out else Path(path).with_suffix(".fcnn")
    export(model, target, example, preprocess=preprocess, class_names=about.get("classes"))
    print(f"{target}: {about['model']}, {target.stat().st_size / 1e6:.1f} MB")
    return 0
