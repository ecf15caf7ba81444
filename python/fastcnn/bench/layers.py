"""Convolution layers of common nets, three passes each: time, share of the machine's limits, error, PyTorch's time.

The shapes are data: conv2d.json beside this file. FLOPs are those of the direct algorithm (two per multiply-add), so
an algorithm that needs fewer (Winograd) can exceed 100 % of the peak. Bytes are each operand once, which no pass can
avoid.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import _core
from .._compile import compile as compile_function
from .._modes import no_grad
from . import machine, pairing

PASSES = ("fwd", "bwd_data", "bwd_weights")
SHAPES = Path(__file__).with_name("conv2d.json")


@dataclass(frozen=True)
class Layer:
    """One convolution: shapes of x (N, C, H, W) and w (O, C / groups, kH, kW); first: its input needs no gradient."""

    name: str
    x: tuple
    w: tuple
    family: str
    stride: int = 1
    padding: int = 0
    groups: int = 1
    first: bool = False
    quick: bool = False

    @property
    def y(self):
        """Shape of the output."""
        sides = ((i + 2 * self.padding - k) // self.stride + 1 for i, k in zip(self.x[2:], self.w[2:], strict=True))
        return (self.x[0], self.w[0], *sides)

    @property
    def passes(self):
        """The passes that a training step needs."""
        return tuple(p for p in PASSES if not (self.first and p == "bwd_data"))

    @property
    def gflop(self):
        """Of each pass."""
        return 2e-9 * math.prod(self.y) * math.prod(self.w[1:])

    @property
    def gbyte(self):
        """Each of the three operands once, in float32."""
        return 4e-9 * (math.prod(self.x) + math.prod(self.w) + math.prod(self.y))


def load(path=SHAPES):
    """[Layer] of a JSON file."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    return [Layer(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows]


@dataclass
class Operands:
    """The float32 numbers that both sides work on."""

    layer: Layer
    seed: int = 0
    x: np.ndarray = field(init=False)
    w: np.ndarray = field(init=False)
    dy: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        layer = self.layer
        self.x = rng.standard_normal(layer.x, dtype=np.float32)
        self.w = rng.standard_normal(layer.w, dtype=np.float32) / math.sqrt(math.prod(layer.w[1:]))
        self.dy = rng.standard_normal(layer.y, dtype=np.float32)


class Fastcnn:
    """The passes of a layer as compiled functions of one op each."""

    def __init__(self, operands):
        layer = operands.layer
        self._x, self._w, self._dy = (_core.tensor(a).contiguous() for a in (operands.x, operands.w, operands.dy))

        def forward(x, w):
            return _core.ops.conv2d(x, w, None, layer.stride, layer.padding, 1, layer.groups)

        def gradient(which, x, w, dy):
            leaf = (x, w)[which].detach().requires_grad_()
            y = forward(leaf, w) if which == 0 else forward(x, leaf)
            return _core.grad(y, [leaf], dy)[0]  # y itself is dead code: the plan holds the gradient alone

        self._plans = {
            "fwd": compile_function(forward),
            "bwd_data": compile_function(lambda x, w, dy: gradient(0, x, w, dy)),
            "bwd_weights": compile_function(lambda x, w, dy: gradient(1, x, w, dy)),
        }

    def call(self, name):
        """The pass as a function without arguments; its result is a Tensor."""
        plan = self._plans[name]
        if name == "fwd":
            x, w = self._x, self._w

            def run():
                with no_grad():
                    return plan(x, w)
        else:
            x, w, dy = self._x, self._w, self._dy

            def run():
                return plan(x, w, dy)

        run()
        steps = [line for line in plan.describe().splitlines()[1:] if line]
        kind = {"fwd": "conv2d"}.get(name, f"conv2d_{name}")
        if len(steps) != 1 or steps[0].split()[1] != kind:
            raise RuntimeError(f"bench: expected a plan of one {kind}, got\n{plan.describe()}")
        run.implementation = steps[0].split("[")[1].split("]")[0]
        return run


def relative_error(got, want):
    """Largest difference over the largest wanted value."""
    return float(np.abs(np.asarray(got, dtype=np.float64) - want).max() / np.abs(want).max())


def run(layers, effort, peer=None, progress=None):
    """Yields one result row per layer and pass.

    peer: torch_peer, or None for fastcnn alone. progress(name) is called before each.
    """
    for layer in layers:
        operands = Operands(layer)
        ours = Fastcnn(operands)
        theirs = peer.Conv(operands) if peer else None
        for name in layer.passes:
            if progress:
                progress(f"{layer.name} {name}")
            yield _row(layer, name, ours.call(name), theirs, effort)


def _row(layer, name, ours, theirs, effort):
    row = {
        "kind": "layer", "name": layer.name, "pass": name, "family": layer.family, "gflop": layer.gflop,
        "gbyte": layer.gbyte, "implementation": ours.implementation,
    }  # fmt: skip
    calls = None
    if theirs:
        want = theirs.float64(name)
        row["error"] = relative_error(ours().numpy(), want)
        calls = theirs.calls(name)
        row["peer_error"] = max(relative_error(call().numpy(), want) for call in calls.values())
    seconds = time_row(row, ours, calls, effort)
    row["gflops"] = layer.gflop / seconds
    row["percent_of_peak"] = 100 * row["gflops"] / row["peak"]["float32_gflops"]
    return row


def time_row(row, ours, calls, effort):
    """Times ours, in pairs with the fastest of calls where there are any, between two looks at the machine's limits.

    Writes times, ratio, shares and limits into row (which holds its gbyte); returns the median seconds of our side.
    """
    others = machine.Others()
    peak = machine.measure_peak(0.08)
    if calls is None:
        times = [pairing.time_block(ours, effort) for _ in range(effort.pairs)]
        seconds = pairing.median_interval(times).median
    else:
        modes = pairing.fastest(calls, effort)
        best = min(modes, key=modes.get)
        seconds = add_pairs(row, pairing.time_pairs(ours, calls[best], effort), best, modes)
    peak = machine.higher(peak, machine.measure_peak(0.08))
    row.update(
        ms=1e3 * seconds, gbytes_per_s=row["gbyte"] / seconds,
        percent_of_bandwidth=100 * row["gbyte"] / seconds / bandwidth(peak), peak=peak, date=machine.now(),
        others=others.share(),
    )  # fmt: skip
    return seconds


def bandwidth(peak):
    """GB/s of the better stream."""
    return max(peak["triad_gbytes"], peak["copy_gbytes"])


def add_pairs(row, pairs, best, modes):
    """Writes what the pairs say into row; returns the median seconds of our side."""
    ratio = pairing.ratio_interval(pairs)
    row.update(
        ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high, pairs=len(pairs), peer=best,
        peer_ms=1e3 * float(np.median([b for _, b in pairs])),
        peer_modes_ms={k: 1e3 * v for k, v in modes.items()},
    )  # fmt: skip
    return float(np.median([a for a, _ in pairs]))


def noise_floor(layer, effort):
    """One side against itself: the ratio that chance alone gives."""
    call = Fastcnn(Operands(layer)).call("fwd")
    others = machine.Others()
    pairs = pairing.time_pairs(call, call, effort)
    row = {"kind": "noise", "name": f"A/A {layer.name}", "pass": "fwd"}
    row["ms"] = 1e3 * add_pairs(row, pairs, "fastcnn itself", {})
    row.update(others=others.share(), date=machine.now())
    return row
