"""Kills `fastcnn train` with SIGKILL at random moments, goes on with --resume, and compares the end, bit for bit, with
that of a run which nobody killed: weights, averages, optimizer, schedule, history, random state, place in the data.

    python tests/kill_runs.py --kills 100 --seed 1

Every second kill waits until a checkpoint is being written. The test-suite does a few kills (test_survival.py). Not a
test of lost power: what the system has buffered survives the death of a process.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fastcnn import safetensors
from fastcnn.checkpoints import load_checkpoint

TIMES = {"seconds", "images_per_second", "memory_MB"}  # of the history, and of no other use
# Every part of a run's state, and a checkpoint after each step of the optimizer.
OPTIONS = (
    "--model=resnet8 --data=fashion_mini --limit=160 --batch-size=16 --optimizer=adamw --scheduler=onecycle "
    "--ema-decay=0.9 --clip=1 --accumulate=2 --label-smoothing=0.1 --augment=crop-flip --workers=2 "
    "--checkpoint-every=0 --no-report --quiet"
).split()


def start(out, name, seed, epochs, resume=False):
    """The process of a run out/name, new or resumed; what it says goes to out/name.log."""
    argv = [sys.executable, "-m", "fastcnn", "train"]
    argv += ["--resume", str(out / name), "--checkpoint-every=0", "--no-report", "--quiet"] if resume else [
        *OPTIONS, f"--seed={seed}", f"--epochs={epochs}", "--out", str(out), "--name", name,
    ]  # fmt: skip
    with open(out / f"{name}.log", "ab") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "OMP_WAIT_POLICY": "passive"})


def without_times(value):
    """JSON values without those that measure time or memory."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def content(path):
    """All that a checkpoint holds, comparable."""
    found = load_checkpoint(path)
    bits = {
        f"{kind} {name}": (str(t.dtype), t.shape, safetensors.bits_of(t).tobytes())
        for kind, tensors in (("weight", found.weights), ("state", found.tensors))
        for name, t in tensors.items()
    }
    return bits, without_times(found.state), without_times(found.metadata)


def differences(run, whole):
    """What differs between the files of two runs that have ended; texts."""
    wrong = []
    for name in ("last", "best"):
        a, b = (content(folder / f"{name}.safetensors") for folder in (run, whole))
        wrong += [f"{name}: {key}" for key in sorted(a[0].keys() | b[0].keys()) if a[0].get(key) != b[0].get(key)]
        wrong += [f"{name}: {part}" for part, x, y in zip(("state", "metadata"), a[1:], b[1:]) if x != y]
    tables = [np.genfromtxt(f / "metrics.csv", delimiter=",", names=True, encoding="utf-8") for f in (run, whole)]
    wrong += [
        f"metrics.csv: {column}"
        for column in tables[1].dtype.names
        if column not in TIMES and not np.array_equal(tables[0][column], tables[1][column])
    ]
    return wrong + [f"left behind: {p.name}" for p in run.glob(".*.tmp")]


def wait_for_write(process, folder, count):
    """Until the process has begun to write a checkpoint `count` times; at most 10 seconds, or its end."""
    seen, end = set(), time.monotonic() + 10
    while len(seen) < count and time.monotonic() < end and process.poll() is None:
        try:
            with os.scandir(folder) as entries:
                seen |= {e.name for e in entries if f".{process.pid}." in e.name and e.name.startswith(".last")}
        except FileNotFoundError:
            time.sleep(0.01)


def kill_runs(out, kills, seed, epochs=8, longest=2.5, say=print):
    """Runs, kills and resumes until `kills` processes are dead and the last run has ended; gives the number of runs.

    Raises: AssertionError where a file is damaged, a resumed run fails, or its end differs from the whole run's.
    """
    rng = random.Random(seed)
    dead = number = while_writing = 0
    while dead < kills or number == 0:
        number += 1
        whole, name = f"whole{number}", f"killed{number}"
        assert start(out, whole, number, epochs).wait() == 0, (out / f"{whole}.log").read_text()
        resume, deaths, beginning = False, 0, dead
        while True:
            process = start(out, name, number, epochs, resume)
            if dead < kills:
                writes = rng.randint(1, 25) if rng.random() < 0.5 else 0
                if writes:
                    wait_for_write(process, out / name, writes)
                else:
                    time.sleep(rng.uniform(0, longest))
            else:
                process.wait()
            ended = process.poll()
            if ended is not None:
                break
            process.kill()
            process.wait()
            dead, deaths, while_writing = dead + 1, deaths + 1, while_writing + bool(writes)
            last = out / name / "last.safetensors"
            for path in (last, last.with_stem("last-1"), last.with_stem("best")):
                if path.exists():
                    load_checkpoint(path)  # raises where it is damaged
            resume = (out / name / "config.json").exists()
            if not resume and (out / name).exists():  # killed before its options were on disk: begins anew
                (out / name).rename(out / f"{name}.{dead}")
        assert ended == 0, (out / f"{name}.log").read_text()
        wrong = differences(out / name, out / whole)
        assert not wrong, wrong
        say(f"run {number}: killed {dead - beginning} times, ends as the run that was not killed", flush=True)
    say(f"{dead} kills, {while_writing} of them while a checkpoint was written; {number} runs, no difference")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill_runs(Path(folder), args.kills, args.seed, args.epochs)


if __name__ == "__main__":
    main()
