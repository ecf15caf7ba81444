"""What more threads give: a step with all threads against the same step with one, in turns in one process.

What it is not: a comparison with others. Memory does not double with the threads, and cores that share no cache take
long to exchange what they make: rows carry the way of a cache line there and back (`peak["round_trip_ns"]`).
"""

from __future__ import annotations

from .. import _core
from . import layers, machine, nets, pairing


def run(tasks, effort, progress=None):
    """Yields one result row per task; `ratio` is the time of one thread over that of all."""
    n = _core.get_num_threads()
    for task in tasks:
        if progress:
            progress(f"threads of {task.name}")
        step = (nets.training_step if task.what == "train" else nets.inference)(task, nets.arrays_of(task))

        def with_threads(count, step=step):
            def call():
                before = _core.get_num_threads()
                _core.set_num_threads(count)
                try:
                    step()
                finally:
                    _core.set_num_threads(before)

            return call

        for count in (1, n, n):  # a thread that just woke may share the core of the one that woke it
            with_threads(count)()
        others, peak = machine.Others(), machine.measure_peak(0.4)
        pairs = pairing.time_pairs(with_threads(n), with_threads(1), effort)
        row = {"kind": "threads", "name": task.name, "peak": machine.higher(peak, machine.measure_peak(0.2))}
        row["ms"] = 1e3 * layers.add_pairs(row, pairs, "one thread", {})
        row.update(others=others.share(), date=machine.now())
        yield row
