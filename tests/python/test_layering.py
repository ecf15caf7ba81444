"""Dependencies point one way: reads the includes of cpp/ and the imports of python/ and compares them with the plan."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CPP = ROOT / "cpp"
pytestmark = pytest.mark.smoke

# folder of the including file -> what it may include (prefixes, "fastcnn/" is the public headers)
MAY = {
    "include/fastcnn": ("fastcnn/",),
    "src/core": ("fastcnn/", "core/", "backend/backend.h", "graph/tape.h"),  # tape.h: a tensor owns its history
    "src/graph": ("fastcnn/", "core/", "graph/", "backend/backend.h"),
    "src/graph/passes": ("fastcnn/", "core/", "graph/", "backend/backend.h"),
    "src/ops": ("fastcnn/", "core/", "graph/", "ops/", "backend/backend.h"),
    "src/session": ("fastcnn/", "core/", "graph/", "backend/backend.h", "session/"),
    "src/backend": ("fastcnn/", "core/", "graph/select.h", "backend/"),
    "src/backend/no_cuda": ("fastcnn/", "core/", "backend/backend.h"),
    "src/backend/cpu": (
        "fastcnn/",
        "core/allocator.h",
        "core/cgroup.h",
        "core/communicator.h",
        "core/philox.h",
        "graph/op_kinds.h",
        "backend/backend.h",
        "backend/cpu/",
    ),
    "src/backend/cpu/ref": ("fastcnn/", "core/philox.h", "graph/op_kinds.h", "backend/backend.h", "backend/cpu/"),
    "src/backend/cpu/kernels": ("fastcnn/dtype.h", "fastcnn/params.h", "core/philox.h", "backend/cpu/kernels/"),
    # Plain functions of sizes and memory order, shared with the CPU: loop nests, pooling windows, padding, Philox.
    "src/backend/cuda": (
        "fastcnn/",
        "core/philox.h",
        "graph/op_kinds.h",
        "backend/backend.h",
        "backend/cuda/",
        "backend/cpu/loop_plan.h",
        "cuda_host/executor.h",
    ),
    "src/backend/cuda/kernels": (
        "fastcnn/dtype.h",
        "fastcnn/params.h",
        "core/philox.h",
        "graph/op_kinds.h",
        "backend/cuda/",
        "backend/cpu/kernels/eltwise_args.h",
        "backend/cpu/kernels/windows.h",
        "backend/cpu/pad_index.h",
        "backend/cpu/interp_axis.h",
        "backend/cpu/grid_taps.h",
        "backend/cpu/roi_bins.h",
        "backend/cpu/sample_axis.h",
        "backend/cpu/sort_key.h",
        "backend/cpu/step_numbers.h",
    ),
    "bindings": ("fastcnn/", "bindings.h", "arrays.h", "dlpack.h", "args.h"),
}


def sources():
    return [p for p in CPP.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]


def test_cpp_includes_point_one_way():
    wrong = []
    for path in sources():
        folder = path.parent.relative_to(CPP).as_posix()
        assert folder in MAY, f"{path}: a new folder needs a line in this test"
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            if not name.startswith(MAY[folder]):
                wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not wrong, "\n".join(wrong)


def test_kernels_use_c_headers_only():
    wrong = []
    for path in (CPP / "src/backend/cpu/kernels").iterdir():
        for name in re.findall(r"^#include <([^>]+)>", path.read_text(), re.M):
            if not name.endswith(".h"):
                wrong.append(f"{path.name} includes <{name}>")
    assert not wrong, wrong


def test_only_their_folder_sees_openmp_pybind11_and_cuda():
    for path in sources():
        text, folder = path.read_text(), path.parent.relative_to(CPP).as_posix()
        if "#include <cuda" in text:
            assert folder == "src/backend/cuda", path
        if "#include <omp.h>" in text or "#pragma omp" in text:
            assert folder == "src/backend/cpu", path
        if "#include <pybind11" in text:
            assert folder == "bindings", path


# package -> lower layers it must not import
ABOVE = {
    "nn": ("models", "data", "metrics", "viz", "trainer", "gan", "cli", "callbacks"),
    "optim": ("models", "data", "metrics", "viz", "trainer", "gan", "cli", "callbacks", "nn"),
    "models": ("data", "metrics", "viz", "trainer", "gan", "cli", "callbacks"),
    "data": ("nn", "models", "trainer", "gan", "cli", "optim"),
    "augment": ("nn", "models", "trainer", "gan", "cli", "optim"),
    "metrics": ("nn", "models", "trainer", "gan", "cli", "optim"),
    "viz": ("trainer", "gan", "cli", "optim", "data"),
    "onnx": ("trainer", "gan", "cli", "optim", "data", "metrics", "viz", "models"),
}


def test_python_imports_point_one_way():
    wrong = []
    package = ROOT / "python/fastcnn"
    for layer, forbidden in ABOVE.items():
        for path in (package / layer).rglob("*.py"):
            depth = len(path.relative_to(package).parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level == depth:
                    names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
                    wrong += [f"{path.relative_to(ROOT)} imports {n}" for n in names if n in forbidden]
    assert not wrong, "\n".join(wrong)


def test_files_stay_short_enough_to_read():
    long = []
    for path in [
        *sources(),
        *(ROOT / "python").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "tests/cpp").glob("*.cpp"),
    ]:
        lines = path.read_text().count("\n")
        if lines > 650:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
    assert not long, long
