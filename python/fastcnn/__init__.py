"""fastcnn: train and run convolutional networks, from Python and from C++.

The names of PyTorch where it has one: tensors and eager ops here, layers in ``fc.nn``, networks in ``fc.models``,
``fc.compile`` for whole training steps, ``fc.Trainer`` for whole trainings. Submodules load when they are first used,
so that ``import fastcnn`` stays quick; nothing here imports PyTorch, matplotlib or Pillow.
"""

from __future__ import annotations

import importlib
import logging

from . import _core
from ._core import (
    Tensor,
    bfloat16,
    bool,
    cuda_build,
    device,
    dtype,
    empty,
    float16,
    float32,
    float64,
    from_dlpack,
    from_numpy,
    get_conv_algorithm,
    get_float32_matmul_precision,
    get_num_threads,
    grad,
    int8,
    int32,
    int64,
    is_grad_enabled,
    isa,
    memory_info,
    ops,
    set_conv_algorithm,
    set_float32_matmul_precision,
    set_memory_budget,
    set_num_threads,
    show_config,
    tensor,
    uint8,
)
from ._modes import autocast, enable_grad, no_grad, set_grad_enabled, use_deterministic_algorithms

__version__ = _core.version()

logging.getLogger(__name__).addHandler(logging.NullHandler())

# Functions of fc.ops that are at home at the top level as well, as in PyTorch.
_OPS = (
    "abs add all any arange argmax argmin atan cat ceil clamp cos div eq erf exp flatten floor full gather ge gt "
    "le log lt manual_seed matmul maximum mean minimum mul ne neg ones permute pow prod rand randint randn relu "
    "reshape round rsqrt sigmoid sign sin softmax split sqrt square squeeze stack sub sum tanh transpose "
    "unsqueeze var where zeros isnan isinf isfinite std amax amin norm zeros_like ones_like full_like "
    "empty_like rand_like randn_like log_softmax logical_and logical_or logical_xor logical_not remainder "
    "argsort sort topk cumsum tril triu repeat_interleave tile outer isclose allclose nonzero meshgrid einsum "
    "linspace eye logsumexp bmm roll floor_divide reciprocal log2 narrow log1p expm1 one_hot masked_fill index_select "
    "flip unflatten bernoulli randperm unique masked_select scatter_add"
).split()
globals().update({name: getattr(ops, name) for name in _OPS if hasattr(ops, name)})

_SUBMODULES = {
    "nn", "models", "optim", "data", "augment", "metrics", "viz", "callbacks", "checkpoints", "cuda", "distributed",
    "gan", "onnx", "quantization",
}  # fmt: skip
# name: (module, attribute); loaded at first use.
_LAZY = {
    "compile": ("_compile", "compile"),
    "export": ("_export", "export"),
    "load": ("_session", "load"),
    "quantize": ("quantization", "quantize"),
    "Trainer": ("trainer", "Trainer"),
    "GANTrainer": ("gan.trainer", "GANTrainer"),
    "GradScaler": ("_grad_scaler", "GradScaler"),
    "checkpoint": ("_checkpoint", "checkpoint"),
    "summary": ("_summary", "summary"),
    "load_state": ("checkpoints", "load_weights"),
    "save_state": ("safetensors", "save_file"),
    "load_torch": ("torch_files", "load_torch"),
}


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY:
        module, attribute = _LAZY[name]
        value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastcnn' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES, *_LAZY} - {"importlib", "logging", "annotations"})


__all__ = [  # noqa: PLE0604 (the names of _OPS are computed)
    "GANTrainer", "GradScaler", "Tensor", "Trainer", "autocast", "bfloat16", "bool", "checkpoint", "compile",
    "cuda_build", "device", "dtype", "empty", "enable_grad", "export", "float16", "float32", "float64",
    "from_dlpack", "from_numpy", "get_conv_algorithm", "get_float32_matmul_precision", "get_num_threads", "grad",
    "int32", "int64", "int8", "is_grad_enabled", "isa", "load", "load_state", "load_torch", "memory_info", "no_grad",
    "ops", "quantize", "save_state", "set_conv_algorithm", "set_float32_matmul_precision", "set_grad_enabled",
    "set_memory_budget", "set_num_threads", "show_config", "summary", "tensor", "uint8",
    "use_deterministic_algorithms",
]  # fmt: skip
