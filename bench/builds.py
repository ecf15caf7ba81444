"""Builds of fastcnn against each other: one process for each, in turns on the same rows.

    python bench/builds.py OLD NEW [NEW+FASTCNN_ISA=avx2 ...] --rows ROW [ROW ...] [--rounds N] [--threads N]

What it is: OLD and NEW are folders that hold a package fastcnn with its _core; after + may stand variables of its
environment. For each row every side's process prepares its call, then they take turns, in the one order and in the
other; printed are each side's median and the median of the first side's time over its own, round by round, with its
interval. What it is not: a comparison with others (see python -m bench).

Rows: "train f32 resnet50 b8", "infer f32 resnet18 b1" as in fastcnn.bench.nets, "NAME PASS" of a layer of
fastcnn.bench.layers, or a convolution "PASS 3x3 n8 64>128@56 [s2] [p1] [g1]" of fwd, bwd_data, bwd_weights or infer:
forward with weights that a plan keeps, of four such layers in turns, since those of a net leave the caches too.
"""

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path


def call_of(row):
    """A row's call, in a worker."""
    import fastcnn as fc
    import numpy as np
    from fastcnn.bench import layers, nets

    words = row.split()
    if words[0] in ("train", "infer") and "x" not in words[1]:
        what, precision, name, batch = words
        task = nets.Task(next(n for n in nets.NETS if n.name == name), what, int(batch[1:]), precision)
        return (nets.training_step if what == "train" else nets.inference)(task, nets.arrays_of(task))
    if words[0] not in (*layers.PASSES, "infer"):
        layer = next(x for x in layers.load() if x.name == " ".join(words[:-1]))
        return layers.Fastcnn(layers.Operands(layer)).call(words[-1])
    kernel, channels = words[1], re.fullmatch(r"(\d+)>(\d+)@(\d+)", words[3])
    n, (c, o, side) = int(words[2][1:]), map(int, channels.groups())
    k = tuple(map(int, kernel.split("x")))
    more = {w[0]: int(w[1:]) for w in words[4:]}
    groups = more.get("g", 1)
    layer = layers.Layer(
        row, (n, c, side, side), (o, c // groups, *k), "", more.get("s", 1), more.get("p", k[0] // 2), groups
    )
    if words[0] != "infer":
        return layers.Fastcnn(layers.Operands(layer)).call(words[0])
    calls = []
    for seed in range(4):
        data = layers.Operands(layer, seed)
        model = fc.nn.Conv2d(c, o, k, stride=layer.stride, padding=layer.padding, groups=groups, bias=False).eval()
        model.load_state_dict({"weight": data.w})
        calls.append((fc.compile(model), fc.tensor(np.ascontiguousarray(data.x)).contiguous()))

    def run():
        with fc.no_grad():
            for plan, x in calls:
                y = plan(x)
        return y

    return run


def work():
    """A worker: reads a row or an empty line for each turn, answers with seconds."""
    from fastcnn.bench import pairing

    effort, call = pairing.Effort(block=0.08, warm=0.02), None
    for line in sys.stdin:
        row = line.strip()
        if row:
            call = None
            call = call_of(row)
            for _ in range(3):
                call()
        print(pairing.time_block(call, effort), flush=True)


class Side:
    """One build's process."""

    def __init__(self, text, threads):
        folder, *variables = text.split("+")
        env = dict(os.environ, PYTHONPATH=str(Path(folder).resolve()))
        env.update(v.split("=", 1) for v in variables)
        if threads:
            env["FASTCNN_NUM_THREADS"] = str(threads)
        self.name = text
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def turn(self, row=""):
        self.process.stdin.write(row + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench: {self.name} ended")
        return float(answer)


def main():
    if sys.argv[1:] == ["--work"]:
        return work()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sides", nargs="+", help="folders with a package fastcnn")
    p.add_argument("--rows", nargs="+", required=True)
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--threads", type=int, default=0)
    a = p.parse_args()
    from fastcnn.bench import pairing

    sides = [Side(s, a.threads) for s in a.sides]
    logs = [[] for _ in sides]
    for row in a.rows:
        for side in sides:
            side.turn(row)
        times = [[] for _ in sides]
        for i in range(a.rounds):
            for j in range(len(sides)) if i % 2 == 0 else reversed(range(len(sides))):
                times[j].append(sides[j].turn())
        text = f"{row:36} {1e3 * statistics.median(times[0]):9.3f} ms"
        for j in range(1, len(sides)):
            ratio = pairing.ratio_interval(zip(times[j], times[0], strict=True))
            logs[j].append(math.log(ratio.median))
            text += f" | {1e3 * statistics.median(times[j]):9.3f}"
            text += f" {ratio.median:5.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        print(text, flush=True)
    if len(a.rows) > 1:
        print(f"{'geometric mean':36} {'':12}" + "".join(f" | {math.exp(statistics.mean(v)):15.3f}" for v in logs[1:]))


if __name__ == "__main__":
    main()
