"""fc.cuda: what this build and machine have of CUDA."""

from __future__ import annotations

from . import _core


def is_available() -> bool:
    """Can tensors be put on a CUDA device here?"""
    return device_count() > 0


def device_count() -> int:
    return _core.cuda_device_count()


def _need_device(what: str) -> None:
    if not is_available():
        raise ValueError(f"cuda.{what}: no CUDA device is available here (CUDA in this build: {_core.cuda_build()})")


def synchronize() -> None:
    """Waits for all work on the device. ValueError where there is none."""
    _need_device("synchronize")


def memory_allocated() -> int:
    """Bytes of tensors on the device; 0 where there is none."""
    return 0
