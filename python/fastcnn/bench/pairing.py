"""Paired timing: two sides in turns in one process, ratios of neighbours, medians with bootstrap intervals.

The clock of a shared machine drifts by more than the differences that matter. Neighbours in time see the same machine,
so each pair of blocks gives one ratio, the order within pairs alternates (A B, B A, ...), and the median over the pairs
counts. What it is not: it knows nothing of what is timed.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Effort:
    """How long to measure: number of pairs, seconds per block, seconds of untimed calls before each block.

    ``pause``: seconds of nothing before each side's turn, where threads of the other would still spin for work.
    """

    pairs: int = 12
    block: float = 0.04
    warm: float = 0.01
    pause: float = 0.0


QUICK = Effort(pairs=4, block=0.02, warm=0.005)


@dataclass(frozen=True)
class Interval:
    """A median and its confidence interval."""

    median: float
    low: float
    high: float


def time_block(call, effort):
    """Seconds of one call: the median over a block of calls, after calls that warm caches and threads.

    A call that takes longer than some blocks is its own block: the other side's traces in the caches are lost in it.
    """
    if effort.pause:
        time.sleep(effort.pause)
    begin = time.perf_counter()
    call()
    first = time.perf_counter() - begin
    if first > 3 * effort.block:
        return first
    while time.perf_counter() - begin < effort.warm:
        call()
    times = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        times.append(now - start)
        if now - begin >= effort.block:
            return statistics.median(times)


def time_pairs(ours, theirs, effort):
    """[(seconds of ours, seconds of theirs)] from blocks in the order A B, B A, A B, ..."""
    pairs = []
    for i in range(effort.pairs):
        if i % 2 == 0:
            a = time_block(ours, effort)
            b = time_block(theirs, effort)
        else:
            b = time_block(theirs, effort)
            a = time_block(ours, effort)
        pairs.append((a, b))
    return pairs


def fastest(calls, effort, rounds=3):
    """{name: seconds}, medians over `rounds` turns through all calls: to choose a peer's best mode."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(time_block(call, effort))
    return {name: statistics.median(t) for name, t in times.items()}


def median_interval(values, confidence=0.95, resamples=4000, seed=0):
    """The median of values with its bootstrap percentile interval; the same for the same values."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"median_interval: expected a list of numbers, got shape {values.shape}")
    draws = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    medians = np.median(values[draws], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Interval(float(np.median(values)), float(low), float(high))


def ratio_interval(pairs, **options):
    """How many times faster ours is: theirs / ours of each pair, its median and interval."""
    return median_interval([b / a for a, b in pairs], **options)


def geometric_mean(values):
    """exp of the mean of logs."""
    values = np.asarray(list(values), dtype=np.float64)
    return float(np.exp(np.log(values).mean())) if values.size else float("nan")
