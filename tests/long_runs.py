"""Long runs: memory over 10,000 steps and over 1,000 input shapes, eager and compiled.

    python tests/long_runs.py

test_compile_state.py and test_process.py do the same for some hundreds; this takes some minutes.
"""

from __future__ import annotations

import os
import sys

import fastcnn as fc
import numpy as np

MOST = 8 << 20  # bytes that may come between the first tenth and the end


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def training():
    """A step of a small net that takes images of any size."""
    net = fc.nn.Sequential(
        fc.nn.Conv2d(3, 8, 3, padding=1),
        fc.nn.BatchNorm2d(8),
        fc.nn.ReLU(),
        fc.nn.MaxPool2d(2),
        fc.nn.AdaptiveAvgPool2d(1),
        fc.nn.Flatten(),
        fc.nn.Dropout(0.1),
        fc.nn.Linear(8, 4),
    )
    opt = fc.optim.AdamW(net.parameters(), lr=1e-3)

    def step(x, y):
        loss = fc.ops.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.detach()

    return step


def grown(name, step, sizes):
    """Runs a step for each (h, w) and tells how much memory came after the first tenth; True if it is too much."""
    y, rng, losses = fc.tensor(np.arange(4)), np.random.default_rng(0), []
    for i, (h, w) in enumerate(sizes):
        if i == len(sizes) // 10:
            before = resident()
        losses.append(step(fc.tensor(rng.random((4, 3, h, w), np.float32)), y).item())
    after = resident()
    assert np.isfinite(losses).all()
    print(
        f"{name}: {before / 1e6:.1f} MB after {len(sizes) // 10}, {after / 1e6:.1f} MB after {len(sizes)}", flush=True
    )
    return after - before > MOST


def main():
    """Exit code: 1 where memory grew."""
    shapes = [(8 + i % 37, 8 + i // 5 % 41) for i in range(1000)]
    shapes[0] = (45, 49)  # the largest first: it sizes the memory that all share
    bad = False
    for compiled in (True, False):
        step = training()
        word = "compiled" if compiled else "eager"
        bad |= grown(f"{word}, one shape", fc.compile(step) if compiled else step, [(12, 12)] * 10_000)
        bad |= grown(f"{word}, many shapes", fc.compile(step) if compiled else step, shapes)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
