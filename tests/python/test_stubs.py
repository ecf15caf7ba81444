"""python/fastcnn/_core.pyi against the built extension: the same names, the same parameters in the same order.

Annotations are not compared: how pybind11 writes a type differs between its versions.
"""

import ast
import pathlib
import runpy

import fastcnn
import fastcnn._core as core
import pytest

SOURCE = pathlib.Path(__file__).parents[2] / "cpp" / "bindings" / "make_stubs.py"
STUB = pathlib.Path(fastcnn.__file__).parent / "_core.pyi"


def outline(text):
    """{dotted name: [parameter lists]} of a stub."""
    found = {}

    def visit(nodes, prefix):
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = "class"
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                for part in ast.walk(node.args):
                    if isinstance(part, ast.arg):
                        part.annotation = None
                found.setdefault(prefix + node.name, []).append(ast.unparse(node.args))
            elif isinstance(node, ast.AnnAssign):
                found[prefix + node.target.id] = "value"

    visit(ast.parse(text).body, "")
    return found


@pytest.fixture(scope="module")
def built():
    return outline(runpy.run_path(str(SOURCE))["generate"](core))


@pytest.mark.smoke
def test_stub_in_the_package_fits_the_extension(built):
    stub = outline(STUB.read_text(encoding="utf-8"))
    wrong = {name for name in stub.keys() | built.keys() if stub.get(name) != built.get(name)}
    assert not wrong, f"run cpp/bindings/make_stubs.py: {sorted(wrong)}"


def test_outline_covers_the_module(built):
    # The generator itself could forget names; the module is asked directly.
    names = {n for n in vars(core) if not n.startswith("__")}
    names |= {f"ops.{n}" for n in vars(core.ops) if not n.startswith("__")}
    names |= {f"Tensor.{n}" for n in vars(core.Tensor) if not n.startswith("_")}
    assert names <= built.keys(), names - built.keys()
    assert built["ops.relu"] == ["x"] and built["ops.linear"] == ["x, w, b=None"]
    assert built["ops.conv2d"][0].startswith("x, w, b=None, stride=1, padding=0, dilation=1, groups=1, padding_mode=")
