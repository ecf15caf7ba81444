"""Profile: where the time of a compiled function goes, step by step: a table, plain data, a Chrome trace.

``CompiledFunction.profile`` makes one. It measures nothing itself and knows no op: times come from the replayed plan,
FLOPs and bytes from the core's model. FLOPs are those of the direct algorithm, so a Winograd step may pass the roof.
"""

from __future__ import annotations

import json


class Profile:
    """The steps of one plan with their times.

    steps: one dict per step in the order of execution: index, op, implementation, shapes, bytes, flops, ms (median over
    the runs), gflops (GFLOP/s), gbs (GB/s), share (of the sum of all ms) and, where peaks were given, roof: the time
    that the machine needs at least, max(flops / peak_gflops, bytes / peak_gbs), over the measured time.
    """

    def __init__(self, steps, runs, peak_gflops=None, peak_gbs=None):
        self.runs, self.peak_gflops, self.peak_gbs = runs, peak_gflops, peak_gbs
        self.ms = sum(s["ms"] for s in steps)
        self.steps = [self._rates({"index": i, **s}) for i, s in enumerate(steps)]

    def _rates(self, s):
        ms = max(s["ms"], 1e-9)
        s["gflops"], s["gbs"] = s["flops"] / ms / 1e6, s["bytes"] / ms / 1e6
        s["share"] = s["ms"] / self.ms if self.ms else 0.0
        if self.peak_gflops or self.peak_gbs:
            parts = [s["gflops"] / self.peak_gflops] if self.peak_gflops else []
            s["roof"] = max([*parts, s["gbs"] / self.peak_gbs] if self.peak_gbs else parts)
        return s

    def by_op(self):
        """The sums over all steps of one op and implementation, largest time first: dicts as in steps, with count."""
        groups = {}
        for s in self.steps:
            g = groups.setdefault(
                (s["op"], s["implementation"]),
                {"op": s["op"], "implementation": s["implementation"], "count": 0, "bytes": 0, "flops": 0, "ms": 0.0},
            )
            g["count"] += 1
            for key in ("bytes", "flops", "ms"):
                g[key] += s[key]
        return sorted((self._rates(g) for g in groups.values()), key=lambda g: -g["ms"])

    def table(self, limit=None) -> str:
        """The steps sorted by time, after the sums per op."""
        roof = "  roof" if self.peak_gflops or self.peak_gbs else ""
        numbers = f"{'ms':>9} {'share':>6} {'GFLOP/s':>8} {'GB/s':>7}{roof}"

        def row(s):
            r = f" {s['roof']:5.0%}" if roof else ""
            return f"{s['ms']:9.3f} {s['share']:6.1%} {s['gflops']:8.1f} {s['gbs']:7.1f}{r}"

        lines = [f"{self.ms:.2f} ms in {len(self.steps)} steps, median of {self.runs} runs", f"{numbers}  count  op"]
        lines += [f"{row(g)}  {g['count']:5}  {g['op']} [{g['implementation']}]" for g in self.by_op()]
        lines += ["", f"{numbers}   step  op"]
        order = sorted(self.steps, key=lambda s: -s["ms"])
        for s in order[:limit]:
            lines.append(f"{row(s)}  {s['index']:5}  {s['op']} [{s['implementation']}] {s['shapes']}")
        if limit is not None and len(order) > limit:
            rest = sum(s["ms"] for s in order[limit:])
            lines.append(f"{rest:9.3f}  in {len(order) - limit} more steps")
        return "\n".join(lines)

    __str__ = table

    def __repr__(self):
        return f"<Profile: {self.ms:.2f} ms in {len(self.steps)} steps, {self.runs} runs>"

    def trace(self, path) -> None:
        """Writes the last recorded run as a Chrome trace (JSON), for chrome://tracing or ui.perfetto.dev."""
        events = [
            {
                "name": s["op"],
                "cat": s["implementation"],
                "ph": "X",
                "pid": 0,
                "tid": 0,
                "ts": s["last_start_ms"] * 1e3,
                "dur": s["last_ms"] * 1e3,
                "args": {k: s[k] for k in ("index", "implementation", "shapes", "bytes", "flops", "gflops", "gbs")},
            }
            for s in self.steps
        ]
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, f)
