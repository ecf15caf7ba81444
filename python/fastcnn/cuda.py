"""fc.cuda: what this build and machine have of CUDA."""

from __future__ import annotations

from . import _core


def is_available() -> bool:
    """Can tensors be put on a CUDA device here? Never raises; ``unavailable_reason()`` says why not."""
    return device_count() > 0


def device_count() -> int:
    """0, or 1: the first visible device (``CUDA_VISIBLE_DEVICES``) is the one in use."""
    return _core.cuda_device_count()


def unavailable_reason() -> str:
    """Why there is no device: built without CUDA, no driver, a driver or device too old. "" where there is one."""
    return _core.cuda_unavailable_reason()


def synchronize() -> None:
    """Waits for all work on the device, and raises what its kernels found. ValueError where there is none."""
    _core.cuda_synchronize()


def memory_allocated() -> int:
    """Bytes of tensors and plans on the device; 0 where there is none."""
    return _core.cuda_memory_allocated()
