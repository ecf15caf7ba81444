"""Compiles every CUDA source for sm_80, sm_90a and PTX, and says what ptxas gave each kernel: registers, spills.

    python tests/check_cuda_compile.py [--log FILE] [SOURCE ...]

Needs nvcc, no GPU; with ccache it compiles what has changed. Fails on errors, and on spilled registers in kernels
outside SPILLS_ALLOWED.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "cpp/src/backend/cuda"
TARGETS = ("arch=compute_80,code=[compute_80,sm_80]", "arch=compute_90a,code=sm_90a")
LONG = ("conv2d", "conv2d_boxes", "conv2d_depthwise", "matmul", "batch_norm")  # first: minutes each
SPILLS_ALLOWED: tuple[str, ...] = ()  # parts of kernel names

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def compile_one(nvcc: str, source: pathlib.Path, out: pathlib.Path) -> str:
    """What nvcc printed; RuntimeError with it where it failed."""
    ccache = shutil.which("ccache")  # gives back what ptxas said, too
    command = [ccache] if ccache else []
    command += [nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-DFASTCNN_HAS_SM90A"]
    command += [f"-I{ROOT}/cpp/include", f"-I{ROOT}/cpp/src", "-c", "-o", str(out), str(source)]
    for target in TARGETS:
        command += ["-gencode", target]
    done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"{source.name}:\n{text}")
    return text


def kernels(text: str) -> list[dict]:
    """One row per kernel and architecture of a log: name, arch, registers, stack, stores, loads (bytes)."""
    rows: list[dict] = []
    for line in text.splitlines():
        if m := ENTRY.search(line):
            rows.append({"name": m[1], "arch": m[2]})
        elif rows and (m := SPILL.search(line)):
            rows[-1].update(stack=int(m[1]), stores=int(m[2]), loads=int(m[3]))
        elif rows and (m := REGISTERS.search(line)):
            rows[-1]["registers"] = int(m[1])
    return rows


def spilled(rows: list[dict]) -> list[dict]:
    return [r for r in rows if r["stores"] + r["loads"] and not any(a in r["name"] for a in SPILLS_ALLOWED)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=pathlib.Path, help="where the table goes")
    parser.add_argument("source", nargs="*", type=pathlib.Path, help="default: every .cu of the backend")
    args = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if not nvcc:
        print("check_cuda_compile: nvcc is not on PATH")
        return 77  # what ctest takes as skipped
    rows: list[dict] = []
    sources = args.source or sorted(FOLDER.glob("*.cu"), key=lambda p: (p.stem not in LONG, -p.stat().st_size))
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        outputs = (pathlib.Path(folder) / (source.stem + ".o") for source in sources)
        for text in pool.map(compile_one, [nvcc] * len(sources), sources, outputs):
            rows += kernels(text)
    if args.log:
        row = "{arch:8} {registers:4} registers {stack:5} stack {stores:5} spilled  {name}\n"
        args.log.write_text("".join(row.format(**r) for r in rows))
    bad = spilled(rows)
    print(f"{len(rows)} kernels compiled, at most {max(r['registers'] for r in rows)} registers, {len(bad)} spill")
    for r in bad:
        print(f"  {r['arch']} {r['stores']} + {r['loads']} bytes: {r['name']}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
