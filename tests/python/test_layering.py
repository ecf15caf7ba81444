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
        "backend/cpu/roi_bins.h",
        "backend/cpu/sample_axis.h",
        "backend/cpu/step_numbers.h",
    ),
    "bindings": ("fastcnn/", "bindings.h", "dlpack.h", "args.h"),
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


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def behind(text, at, pair="()"):
    """Where the pair that opens at or after ``at`` is closed, plus one."""
    at, depth = text.index(pair[0], at), 0
    for i in range(at, len(text)):
        depth += (text[i] == pair[0]) - (text[i] == pair[1])
        if not depth:
            return i + 1
    raise AssertionError(f"not closed: {text[at : at + 80]!r}")


def kernels_of(text):
    """(name, body) of each kernel of a CUDA source without comments."""
    for macro in re.finditer(r"^(?!\s*#)[^\n]*?\bFASTCNN_KERNEL(_BOUNDS)?\b", text, re.M):
        head = behind(text, macro.end()) if macro[1] else macro.end()
        name = re.compile(r"\s*(\w+)\s*(?=\()").match(text, head)
        assert name, text[macro.start() : head + 80]
        end = behind(text, name.end())
        if text[end:].lstrip().startswith(";"):
            continue  # a declaration
        assert text[end:].lstrip().startswith("{"), name[1]
        start = text.index("{", end)
        yield name[1], text[start + 1 : behind(text, start, "{}") - 1]


# Kernels that prepare numbers and barriers of their block before they wait for the kernel before them.
WAIT_LATER = {"gemm_tma_kernel", "gemm_wgmma_kernel"}


def begins_well(name, body):
    """Does a kernel wait for the one before it, first of all or, where that was read with care, for all threads?"""
    if name not in WAIT_LATER:
        return body.split(";")[0].strip() == "follow_previous()"
    before, _, after = body.partition("await_previous();")
    return (
        before.split(";")[0].strip() == "let_next_start()"
        and before.count("{") == before.count("}")
        and "await_previous" not in after
        and bool(after)
    )


def test_kernels_wait_for_the_kernel_before_them():
    found = []
    for path in sources():
        text = without_comments(path.read_text())
        if path.name != "device.cuh":
            assert "__global__" not in text, f"{path}: kernels are declared by FASTCNN_KERNEL (device.cuh)"
            found += [(path.name, name, body) for name, body in kernels_of(text)]
    assert len(found) > 80 and WAIT_LATER < {name for _, name, _ in found}
    wrong = [f"{file}: {name}" for file, name, body in found if not begins_well(name, body)]
    assert not wrong, "these race with the kernel before them (device.cuh: follow_previous):\n" + "\n".join(wrong)


def test_a_kernel_that_does_not_wait_is_found():
    text = """
template <class T>
FASTCNN_KERNEL good(Box<T> b, const T* x) {
  follow_previous();
  if (b.empty()) return;
}
FASTCNN_KERNEL_BOUNDS(256, (A<B>::c))
late(int n, const float* x) {
  const float v = x[n];
  follow_previous();
}
inline FASTCNN_KERNEL never(float* y) { *y = 0; }
FASTCNN_KERNEL gemm_tma_kernel(float* y) {
  let_next_start();
  if (threadIdx.x == 0) { await_previous(); }
}
"""
    assert [name for name, body in kernels_of(text) if not begins_well(name, body)] == [
        "late",
        "never",
        "gemm_tma_kernel",
    ]


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
