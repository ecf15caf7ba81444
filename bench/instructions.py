"""Instruction counts of the main kernels on the AVX2 build: a regression gate that noise cannot trip.

    python bench/instructions.py            compares with bench/instructions.json; exit code 1 if one grew
    python bench/instructions.py --update   measures and writes that file

Counted by valgrind --tool=callgrind on one thread: the instructions of a process with a hundred calls more less
those of one without, so that loading, tracing and planning cancel out; two processes start some 200,000 apart.
A count that grew by more than the tolerance fails; one that shrank is reported, to be stored with --update.
Counts depend on the compiler; the file says which one wrote it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

STORED = Path(__file__).resolve().with_suffix(".json")
TOLERANCE = 0.03
CALLS = 100
# name -> statements that define run(); small enough for callgrind, large enough for the kernel to dominate
CASES = {
    "conv2d 3x3 fwd": "layer('fwd', [1, 64, 14, 14], [64, 64, 3, 3], 1, 1)",
    "conv2d 3x3 bwd_data": "layer('bwd_data', [1, 64, 14, 14], [64, 64, 3, 3], 1, 1)",
    "conv2d 3x3 bwd_weights": "layer('bwd_weights', [1, 64, 14, 14], [64, 64, 3, 3], 1, 1)",
    "conv2d 1x1 fwd": "layer('fwd', [1, 128, 14, 14], [64, 128, 1, 1], 1, 0)",
    "conv2d 3x3/2 fwd": "layer('fwd', [4, 64, 28, 28], [64, 64, 3, 3], 2, 1)",
    "conv2d groups of 4 fwd": "layer('fwd', [1, 64, 28, 28], [64, 4, 3, 3], 1, 1, 16)",
    "conv2d 7x7/2 first fwd": "layer('fwd', [1, 3, 56, 56], [32, 3, 7, 7], 2, 3)",
    "conv2d depthwise fwd": "layer('fwd', [1, 96, 28, 28], [96, 1, 3, 3], 1, 1, 96)",
    "conv2d depthwise bwd_data": "layer('bwd_data', [1, 96, 28, 28], [96, 1, 3, 3], 1, 1, 96)",
    "conv2d depthwise bwd_weights": "layer('bwd_weights', [1, 96, 28, 28], [96, 1, 3, 3], 1, 1, 96)",
    "linear": "op(lambda x, w: ops.linear(x, w), (32, 256), (256, 256))",
    "batch_norm train": "op(lambda x, w: ops.batch_norm(x, None, None, w, w, training=True), (4, 64, 28, 28), (64,))",
    "max_pool2d": "op(lambda x: ops.max_pool2d(x, 3, 2, 1), (4, 64, 28, 28))",
    "relu": "op(lambda x: ops.relu(x), (4, 64, 28, 28))",
    "cross_entropy": "op(lambda x, y: ops.cross_entropy(x, y.argmax(dim=1)), (64, 1000), (64, 1000))",
}
CHILD = """
import gc
import sys
import numpy as np
import fastcnn as fc
from fastcnn.bench import layers
ops = fc.ops

def layer(name, x, w, stride, padding, groups=1):
    return layers.Fastcnn(layers.Operands(layers.Layer("", tuple(x), tuple(w), "", stride, padding, groups))).call(name)

def op(function, *shapes):
    rng = np.random.default_rng(0)
    operands = [fc.tensor(rng.standard_normal(s, dtype=np.float32)).contiguous() for s in shapes]
    plan = fc.compile(function)
    return lambda: plan(*operands)

run = {case}
run()
gc.disable()  # it would run in some processes between the calls and not in others
for _ in range(int(sys.argv[1])):
    run()
"""


def count(case, calls):
    """Instructions of a process that does `calls` calls."""
    env = {**os.environ, "FASTCNN_ISA": "avx2", "FASTCNN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
           "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "child.py"
        script.write_text(CHILD.replace("{case}", CASES[case]))
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, str(script)]
        done = subprocess.run([*command, str(calls)], env=env, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"{case}: {done.stderr[-800:]}")
    return int(found[1])


def measure(case):
    """Instructions of one call."""
    return (count(case, 10 + CALLS) - count(case, 10)) // CALLS


def compare(stored, found, tolerance=TOLERANCE):
    """[(name, stored, found, "grew" | "shrank" | "new" | "same")]."""
    rows = []
    for name, value in found.items():
        old = stored.get(name)
        change = 0 if old is None else value / old - 1
        state = "new" if old is None else "grew" if change > tolerance else "shrank" if change < -tolerance else "same"
        rows.append((name, old, value, state))
    return rows


def main(argv=None):
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the counts")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only cases whose name holds TEXT")
    args = parser.parse_args(argv)
    if not shutil.which("valgrind"):
        print("instructions: error: valgrind is not installed", file=sys.stderr)
        return 2
    from fastcnn import _core

    stored = json.loads(STORED.read_text()) if STORED.exists() else {"counts": {}}
    found = {}
    for name in CASES:
        if args.filter in name:
            found[name] = measure(name)
            name, old, new, state = compare(stored["counts"], {name: found[name]})[0]
            change = "" if old is None else f"{100 * (new / old - 1):+.2f} %"
            print(f"{name:<30} {new:>14,} {change:>9}  {state}", flush=True)
    if args.update:
        compiler = next(x for x in _core.show_config().splitlines() if "compiler" in x).split(":", 1)[1].strip()
        counts = {**stored["counts"], **found}
        text = json.dumps({"isa": "avx2", "compiler": compiler, "tolerance": TOLERANCE, "counts": counts}, indent=1)
        STORED.write_text(text + "\n")
    return int(any(state == "grew" for *_, state in compare(stored["counts"], found)) and not args.update)


if __name__ == "__main__":
    sys.exit(main())
