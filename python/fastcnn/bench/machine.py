"""The machine under a benchmark: its name, versions and limits."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys

from .. import _core


def cpu_name():
    """The processor as the system names it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe():
    """What a result must say about where it comes from; versions of what is loaded."""
    versions = {"fastcnn": _core.version(), "python": platform.python_version()}
    for name in ("numpy", "torch", "onnxruntime", "openvino"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    return {
        "cpu": cpu_name(), "threads": _core.get_num_threads(), "isa": _core.isa(),
        "system": f"{platform.system()} {platform.machine()}", "versions": versions, "date": now(),
    }  # fmt: skip


def now():
    """UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def measure_peak(seconds=0.4, threads=None):
    """The limits with `threads` (default: those in use): see _core.measure_peak."""
    before = _core.get_num_threads()
    if threads is not None:
        _core.set_num_threads(threads)
    try:
        return _core.measure_peak(seconds)
    finally:
        _core.set_num_threads(before)


def higher(a, b):
    """The better of two measurements, limit by limit: disturbances only ever lower them."""
    return {k: max(v, b[k]) if isinstance(v, float) else v for k, v in a.items()}
