"""Results: JSON on disk, a table on the terminal or in Markdown."""

from __future__ import annotations

import json
from pathlib import Path

from .._files import atomic_write
from . import pairing

SCHEMA = 1
DISTURBED = 0.05  # share of the cores that others took, from which on a row is not to be trusted
REQUIRED = {"layer": ("name", "pass", "ms", "gflops", "percent_of_peak", "peak", "date"),
            "net": ("name", "ms", "gflops", "peak", "date"),
            "op": ("name", "pass", "ms", "gbytes_per_s", "date"),
            "noise": ("name", "ratio", "ratio_low", "ratio_high"),
            "augment": ("name", "us_per_image", "date"),
            "loader": ("name", "workers", "loader_images_per_s", "step_images_per_s", "images_per_s", "date"),
            "memory": ("name", "peak_mbyte", "imports_mbyte"),
            "threads": ("name", "ms", "ratio", "ratio_low", "ratio_high", "peak", "date"),
            "peak": ("threads", "float32_gflops", "triad_gbytes")}  # fmt: skip


def key(row):
    """What makes a row the same measurement as another."""
    parts = ("kind", "name", "pass", "threads")
    return tuple(str(row.get(k, "")) for k in (*parts, "peer") if k in parts or row.get("kind") == "augment")


def new(about, settings):
    """An empty result."""
    return {"schema": SCHEMA, "about": about, "settings": settings, "rows": []}


def check(result):
    """Raises ValueError where a result does not have the form that plots and readers rely on."""
    if result.get("schema") != SCHEMA:
        raise ValueError(f"bench: expected a result of schema {SCHEMA}, got {result.get('schema')!r}")
    for row in result["rows"]:
        missing = [k for k in REQUIRED.get(row.get("kind"), ("kind",)) if k not in row]
        if missing:
            raise ValueError(f"bench: row {row.get('name')!r} lacks {missing}")
    return result


def load(path):
    """The checked result of a file."""
    return check(json.loads(Path(path).read_text(encoding="utf-8")))


def save(result, path):
    """Writes the result; rows of an existing file with other keys stay, so that a long run can be done in parts."""
    path = Path(path)
    if path.exists():
        old = load(path)
        fresh = {key(r) for r in result["rows"]}
        result = {**result, "rows": [r for r in old["rows"] if key(r) not in fresh] + result["rows"]}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(_rounded(check(result)), indent=1) + "\n")


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def _number(value, digits=3):
    if value is None:
        return ""
    if value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def _ratio(row):
    if "ratio" not in row:
        return ""
    mark = " !" if (row.get("others") or 0) > DISTURBED else ""
    return f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]{mark}"


def disturbed(result):
    """The rows during which other processes took too much of the cores."""
    return [r for r in result["rows"] if (r.get("others") or 0) > DISTURBED]


def _error(value):
    return "" if value is None else f"{value:.0e}"


_LAYER = (
    ("layer", lambda r: r["name"]), ("pass", lambda r: r["pass"]), ("kernel", lambda r: r.get("implementation", "")),
    ("ms", lambda r: _number(r["ms"])), ("GFLOP/s", lambda r: _number(r["gflops"])),
    ("% peak", lambda r: _number(r["percent_of_peak"], 2)), ("GB/s", lambda r: _number(r["gbytes_per_s"], 2)),
    ("error", lambda r: _error(r.get("error"))), ("peer ms", lambda r: _number(r.get("peer_ms"))),
    ("peer error", lambda r: _error(r.get("peer_error"))),
    ("peer mode", lambda r: r.get("peer", "").removeprefix("torch ")), ("ratio [95 % CI]", _ratio),
)  # fmt: skip
_NET = (
    ("step", lambda r: r["name"]), ("ms", lambda r: _number(r["ms"])),
    ("images/s", lambda r: _number(r.get("images_per_s"))), ("GFLOP/s", lambda r: _number(r["gflops"])),
    ("% peak", lambda r: _number(r.get("percent_of_peak"), 2)),
    ("peer ms", lambda r: _number(r.get("peer_ms"))),
    ("peer mode", lambda r: r.get("peer", "").removeprefix("torch ")), ("ratio [95 % CI]", _ratio),
    ("difference", lambda r: _error(r.get("difference"))),
)  # fmt: skip
_OP = (
    ("op", lambda r: r["name"]), ("pass", lambda r: r["pass"]), ("ms", lambda r: _number(r["ms"])),
    ("GB/s", lambda r: _number(r["gbytes_per_s"], 2)),
    ("% stream", lambda r: _number(r.get("percent_of_bandwidth"), 2)),
    ("peer ms", lambda r: _number(r.get("peer_ms"))),
    ("peer mode", lambda r: r.get("peer", "").removeprefix("torch ")), ("ratio [95 % CI]", _ratio),
)  # fmt: skip
_PEAK = (
    ("threads", lambda r: str(r["threads"])), ("isa", lambda r: r["isa"]),
    ("float32 GFLOP/s", lambda r: _number(r["float32_gflops"])),
    ("bfloat16 GFLOP/s", lambda r: _number(r["bfloat16_gflops"])),
    ("triad GB/s", lambda r: _number(r["triad_gbytes"])), ("copy GB/s", lambda r: _number(r["copy_gbytes"])),
    ("line there and back ns", lambda r: _number(r.get("round_trip_ns") or None)),
)  # fmt: skip
_NOISE = (("noise floor", lambda r: r["name"]), ("ms", lambda r: _number(r["ms"])), ("ratio [95 % CI]", _ratio))
_MEMORY = (
    ("peak memory of", lambda r: r["name"]), ("MB", lambda r: _number(r["peak_mbyte"])),
    ("of it imports", lambda r: _number(r["imports_mbyte"])), ("peer MB", lambda r: _number(r.get("peer_peak_mbyte"))),
    ("of it imports ", lambda r: _number(r.get("peer_imports_mbyte"))),
    ("peer mode", lambda r: r.get("peer", "").removeprefix("torch ")),
    ("fastcnn / peer", lambda r: _number(r.get("memory_ratio"), 2)),
)  # fmt: skip
_AUGMENT = (
    ("pipeline", lambda r: r["name"]), ("us/image", lambda r: _number(r["us_per_image"])),
    ("peer", lambda r: r.get("peer", "")), ("peer us/image", lambda r: _number(r.get("peer_us_per_image"))),
    ("ratio [95 % CI]", _ratio),
)  # fmt: skip
_LOADER = (
    ("loader", lambda r: r["name"]), ("alone images/s", lambda r: _number(r["loader_images_per_s"])),
    ("step images/s", lambda r: _number(r["step_images_per_s"])),
    ("together images/s", lambda r: _number(r["images_per_s"])),
    ("% hidden", lambda r: _number(100 * r["hidden"], 2)), ("% of limit", lambda r: _number(100 * r["of_limit"], 2)),
)  # fmt: skip
_THREADS = (
    ("threads", lambda r: r["name"]), ("ms", lambda r: _number(r["ms"])), ("one ms", lambda r: _number(r["peer_ms"])),
    ("line there and back ns", lambda r: _number(r["peak"].get("round_trip_ns"))), ("ratio [95 % CI]", _ratio),
)  # fmt: skip
COLUMNS = {"peak": _PEAK, "layer": _LAYER, "net": _NET, "op": _OP, "noise": _NOISE, "memory": _MEMORY,
           "augment": _AUGMENT, "loader": _LOADER, "threads": _THREADS}  # fmt: skip


def _cells(kind, rows):
    head = [name for name, _ in COLUMNS[kind]]
    cells = [[str(make(row)) for _, make in COLUMNS[kind]] for row in rows]
    keep = [i for i in range(len(head)) if any(c[i] for c in cells)]  # without a peer its columns are empty
    return [head[i] for i in keep], [[c[i] for i in keep] for c in cells]


def table(kind, rows, markdown=False):
    """The rows of one kind as lines of text."""
    head, cells = _cells(kind, rows)
    if markdown:
        lines = [head, ["---"] * len(head), *cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    left = [not any(c[i][:1].isdigit() for c in cells) or i == 0 for i in range(len(head))]

    def line(c):
        return "  ".join(v.ljust(w) if on else v.rjust(w) for v, w, on in zip(c, widths, left, strict=True)).rstrip()

    return "\n".join([line(head), "-" * (sum(widths) + 2 * len(widths) - 2), *map(line, cells)])


def text(result, markdown=False):
    """All tables of a result, with the geometric means of its ratios."""
    parts = []
    for kind in COLUMNS:
        rows = [r for r in result["rows"] if r["kind"] == kind]
        if not rows:
            continue
        parts.append(table(kind, rows, markdown))
        ratios = [r["ratio"] for r in rows if "ratio" in r]
        if kind in ("layer", "net", "op", "threads") and len(ratios) > 1:
            parts.append(f"geometric mean of {len(ratios)} ratios: {pairing.geometric_mean(ratios):.2f}")
    bad = disturbed(result)
    if bad:
        worst = max(r["others"] for r in bad)
        parts.append(
            f"DISTURBED: in {len(bad)} of {len(result['rows'])} rows other processes took up to {100 * worst:.0f} % of "
            "the cores; these rows (marked !) say nothing, measure them again on a quiet machine"
        )
    return "\n\n".join(parts)
