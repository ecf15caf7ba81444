"""Plots of a saved result, as SVG: ratios with their intervals, and the roofline. It measures nothing."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from fastcnn.bench import report

OURS, PEER, MUTED = "#1f5fa8", "#c46210", "#666666"
MARKS = {"fwd": "o", "bwd_data": "s", "bwd_weights": "^"}


def draw(result, folder):
    """Writes the plots that the rows of result allow into folder; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastcnn"  # the same numbers give the same file
    import matplotlib.pyplot as plt

    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    paths = []
    for kind, make in (("net", _ratios), ("layer", _ratios), ("layer", _roofline)):
        rows = [r for r in result["rows"] if r["kind"] == kind and r not in report.disturbed(result)]
        if make is _ratios:
            rows = [r for r in rows if "ratio" in r]
        if not rows:
            continue
        figure = make(plt, kind, rows, _caption(result))
        name = "roofline" if make is _roofline else f"{kind}s"
        paths.append(folder / f"performance-{name}.svg")
        figure.savefig(paths[-1], metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
    return paths


def _caption(result):
    about = result["about"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if k in ("fastcnn", "torch"))
    return f"{about['cpu']}, {about['threads']} threads, {about['isa']}; {versions}; {about['date'][:10]}"


def _ratios(plt, kind, rows, caption):
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.2 * len(rows)))
    names = [r["name"] if kind == "net" else f"{r['name']}  {r['pass']}" for r in rows]
    values = [r["ratio"] for r in rows]
    errors = [[r["ratio"] - r["ratio_low"] for r in rows], [r["ratio_high"] - r["ratio"] for r in rows]]
    colors = [OURS if v >= 1 else PEER for v in values]
    axes.barh(range(len(rows)), values, xerr=errors, color=colors, ecolor=MUTED, height=0.72)
    for i, v in enumerate(values):
        axes.text(0.03, i, f"{v:.2f}", va="center", color="white", fontsize=7)
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"time of PyTorch's best mode / time of fastcnn\n{caption}", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _roofline(plt, kind, rows, caption):
    figure, axes = plt.subplots(figsize=(8, 5))
    flops = median(r["peak"]["float32_gflops"] for r in rows)
    stream = median(max(r["peak"]["triad_gbytes"], r["peak"]["copy_gbytes"]) for r in rows)
    x = [0.5, flops / stream, 1000]
    axes.plot(x, [min(flops, stream * v) for v in x], color=MUTED, linewidth=1.5)
    axes.annotate(f"{flops:.0f} GFLOP/s", (400, flops), color=MUTED, fontsize=8, va="bottom")
    axes.annotate(f"{stream:.0f} GB/s", (0.7, 0.7 * stream), color=MUTED, fontsize=8, va="bottom", rotation=35)
    for name, mark in MARKS.items():
        some = [r for r in rows if r["pass"] == name]
        at = [r["gflop"] / r["gbyte"] for r in some]
        axes.scatter(at, [r["gflops"] for r in some], s=18, marker=mark, color=OURS, label=f"fastcnn {name}")
        peers = [(a, r["gflop"] / r["peer_ms"] * 1e3) for a, r in zip(at, some, strict=True) if "peer_ms" in r]
        if peers:
            axes.scatter(*zip(*peers, strict=True), s=18, marker=mark, facecolors="none", edgecolors=PEER,
                         label=f"PyTorch {name}")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"FLOPs of the direct algorithm per byte of operands\n{caption}", fontsize=8)
    axes.set_ylabel("GFLOP/s")
    axes.legend(fontsize=7, frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
