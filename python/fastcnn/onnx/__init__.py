"""ONNX files: read convolutional networks into modules that predict and train, and write traced ones.

Needs the package onnx (``pip install "fastcnn[onnx]"``), which reads and checks the protocol buffers; ONNX Runtime is
not needed. Not a general ONNX engine: recurrent layers, loops and sequences are refused by name.
"""

from __future__ import annotations

try:
    import onnx as _  # noqa: F401
except ImportError as error:
    raise ImportError('fastcnn.onnx needs the package onnx: pip install "fastcnn[onnx]"') from error

from ._export import export
from ._module import OnnxModule, load

__all__ = ["OnnxModule", "export", "load"]
