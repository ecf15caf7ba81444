"""The installed package: quick import, nothing heavy loaded, C++ consumers, no kernel symbol leaks between ISAs."""

import os
import pathlib
import shutil
import subprocess
import sys

import fastcnn
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = pathlib.Path(fastcnn.__file__).parent
INSTALLED = (PACKAGE / "lib" / "cmake").is_dir()
needs_install = pytest.mark.skipif(not INSTALLED, reason="fastcnn runs from a build tree, not from an installation")


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.smoke
def test_import_loads_nothing_heavy():
    code = (
        "import fastcnn, sys; print([m for m in ('torch', 'matplotlib', 'PIL', 'scipy', 'tqdm') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code).strip() == "[]"


@pytest.mark.smoke
def test_version_and_config_name_the_isa_in_use():
    text = fastcnn.show_config()
    assert fastcnn.__version__ in text and fastcnn.isa() in text and "threads" in text and "cuda" in text


def test_isa_can_be_lowered_by_environment_and_a_wrong_name_is_refused():
    code = "import fastcnn as fc; print(fc.isa(), fc.ones((3,)).sum().item())"
    for isa in fastcnn._core.available_isas():
        assert run(sys.executable, "-c", code, env={**os.environ, "FASTCNN_ISA": isa}).split() == [isa, "3.0"]
    bad = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FASTCNN_ISA": "mmx"}, capture_output=True, text=True
    )
    assert bad.returncode == 1 and "expected one of" in bad.stderr


@needs_install
def test_wheel_holds_library_headers_cmake_config_and_types():
    for name in (
        "include/fastcnn/fastcnn.h",
        "include/fastcnn/ops.h",
        "py.typed",
        "lib/cmake/fastcnn/fastcnn-config.cmake",
    ):
        assert (PACKAGE / name).is_file(), name
    assert list((PACKAGE / "lib").glob("libfastcnn.so*"))
    size = sum(f.stat().st_size for f in PACKAGE.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    assert size < 40e6, f"the installed package has {size} bytes; its wheel must stay under 20 MB"


@needs_install
@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("c++"), reason="needs cmake and a C++ compiler")
def test_cpp_program_builds_against_the_package_and_learns(tmp_path):
    prefix = run(sys.executable, "-m", "fastcnn", "--cmake-dir").strip()
    build = tmp_path / "build"
    run(
        "cmake",
        "-S",
        str(ROOT / "tests" / "cmake_consumer"),
        "-B",
        str(build),
        f"-Dfastcnn_DIR={prefix}",
        "-DCMAKE_BUILD_TYPE=Release",
    )
    run("cmake", "--build", str(build))
    from fastcnn.data import export_idx, load

    for split in ("train", "test"):
        export_idx(load("fashion_mini", split=split), tmp_path, split)
    lines = run(str(build / "train_lenet"), str(tmp_path), "2").splitlines()
    accuracy = [float(line.split("accuracy")[1].split("%")[0]) for line in lines if "accuracy" in line]
    assert len(accuracy) == 2 and accuracy[-1] > 70, lines


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
def test_library_exports_only_its_api():
    library = next(iter((PACKAGE / "lib").glob("libfastcnn.so*")), None)
    if library is None:
        pytest.skip("no installed library")
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", "-C", str(library)).splitlines()]
    leaked = [n for n in names if "avx512" in n or "avx2::" in n or "kernels" in n]
    assert not leaked, leaked[:5]


@pytest.mark.smoke
def test_numpy_and_dlpack_share_memory():
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    t = fastcnn.from_numpy(a)
    a[0, 0, 0] = 7
    assert t[0, 0, 0].item() == 7
    b = np.from_dlpack(t)
    b[1, 2, 3] = -1
    assert a[1, 2, 3] == -1
    back = fastcnn.from_dlpack(a[:, ::-1])
    assert np.array_equal(back.numpy(), a[:, ::-1]) and back.numpy().strides == a[:, ::-1].strides


def test_readonly_arrays_are_shared_but_not_written():
    a = np.zeros(3, dtype=np.float32)
    a.flags.writeable = False
    t = fastcnn.from_numpy(a)
    with pytest.raises(ValueError, match="read-only"):
        t.add_(fastcnn.ones((3,)))
    assert not a.any()
