"""The machine under a benchmark: its name, versions and limits."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
import time

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


class Others:
    """How much of the cores that we use others took since the start: 0 on a quiet machine, above 1 when we waited.

    Times of a disturbed minute say nothing about either side, so rows carry this share and tables point at it.
    """

    def __init__(self):
        self._start = self._read()

    @staticmethod
    def _read():
        own = os.times()
        try:
            with open("/proc/stat", encoding="utf-8") as file:
                ticks = [int(v) for v in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        # user nice system idle iowait irq softirq steal: all but idle and iowait
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, own.user + own.system

    def share(self):
        """CPU seconds of other processes per second and thread, or None where the system does not tell."""
        now_, start = self._read(), self._start
        if now_ is None or start is None:
            return None
        seconds, busy, own = (a - b for a, b in zip(now_, start, strict=True))
        return max(0.0, busy - own) / max(seconds, 1e-6) / _core.get_num_threads()


def higher(a, b):
    """The better of two measurements, limit by limit: disturbances only ever lower them."""
    return {k: max(v, b[k]) if isinstance(v, float) else v for k, v in a.items()}
