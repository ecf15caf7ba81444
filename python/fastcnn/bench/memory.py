"""Peak memory of a training step or an inference: of a child process of its own, so that nobody else's memory counts.

``python -m fastcnn.bench.memory fastcnn "train f32 resnet18 b16"`` prints JSON; so does ``torch`` with a mode.
"""

from __future__ import annotations

import json
import subprocess
import sys

from . import machine


def _status(field):
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"bench: no {field} in /proc/self/status")


def _child(side, name, mode):
    """Three steps; what the process grew to, and what it was after its imports."""
    from . import nets

    task = next(t for t in nets.tasks(bf16=True) if t.name == name)
    arrays = nets.arrays_of(task)
    if side == "torch":
        from . import torch_peer

        before = _status("VmRSS")
        state = torch_peer.new_state(task.net, nets.calibration(task.net))
        make = torch_peer.training_step if task.what == "train" else torch_peer.inference
        call = make(task.net, state, arrays, mode, task.precision)
    else:
        before = _status("VmRSS")
        call = (nets.training_step if task.what == "train" else nets.inference)(task, arrays)
    for _ in range(3):
        call()
    return {"peak_mbyte": _status("VmHWM") / 1e6, "imports_mbyte": before / 1e6}


def measure(task, side="fastcnn", mode=""):
    """{"peak_mbyte": of the process, "imports_mbyte": before the model was built}, from a child process."""
    command = [sys.executable, "-m", "fastcnn.bench.memory", side, task.name, mode]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bench: memory of {task.name} ({side}): {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def run(tasks, peer=None, progress=None):
    """Yields one result row per task; PyTorch's is the layout that needs less."""
    for task in tasks:
        if progress:
            progress(f"memory of {task.name}")
        row = {"kind": "memory", "name": task.name, **measure(task), "date": machine.now()}
        if peer:
            found = {mode: measure(task, "torch", mode) for mode in peer.LAYOUTS}
            best = min(found, key=lambda mode: found[mode]["peak_mbyte"])
            row.update({f"peer_{k}": v for k, v in found[best].items()}, peer=best)
            row["memory_ratio"] = row["peak_mbyte"] / row["peer_peak_mbyte"]
        yield row


if __name__ == "__main__":
    print(json.dumps(_child(*sys.argv[1:4])))
