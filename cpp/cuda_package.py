"""Writes the sources of the wheel `fastcnn-cuda`: this tree under another name, with the CUDA backend on and nvcc among
what the build needs, so that a machine without a CUDA toolkit builds it.

    python cpp/cuda_package.py FOLDER        then `pip wheel FOLDER`, or `cibuildwheel FOLDER`

FOLDER must not exist. The package imports as `fastcnn`; install one of the two.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "cpp", "docs", "python", "tests")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "*.so.*", "build*", ".ruff_cache", ".pytest_cache")

# NVIDIA's packages of the compiler, its headers and libcudart_static.a; CMakeLists.txt finds nvcc in them.
TOOLKIT = [f'"nvidia-{part}==13.0.*"' for part in ("cuda-nvcc", "cuda-crt", "cuda-runtime", "cuda-cccl", "nvvm")]

# (what stands in pyproject.toml, what the CUDA package has there)
CHANGES = (
    ('name = "fastcnn"\n', 'name = "fastcnn-cuda"\n'),
    ('"ninja>=1.10"]\n', f'"ninja>=1.10", {", ".join(TOOLKIT)}]\n'),
    ('FASTCNN_PYTHON = "ON"\n', 'FASTCNN_PYTHON = "ON"\nFASTCNN_CUDA = "ON"\n'),
    ('networks, fast, in Python and C++"\n', 'networks, fast, in Python and C++, on CUDA too"\n'),
)


def settings(text):
    """pyproject.toml of the CUDA package from that of the CPU one."""
    for old, new in CHANGES:
        if text.count(old) != 1:
            raise SystemExit(f"cuda_package: expected {old!r} once in pyproject.toml, got it {text.count(old)} times")
        text = text.replace(old, new)
    return text


def write(folder):
    """The tree, complete or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, part / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(source, part / name)
    toml = part / "pyproject.toml"
    toml.write_text(settings(toml.read_text(encoding="utf-8")), encoding="utf-8")
    part.rename(folder)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    if args.folder.exists():
        raise SystemExit(f"cuda_package: {args.folder} is there already")
    write(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
