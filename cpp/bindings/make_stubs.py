"""Writes python/fastcnn/_core.pyi from the signatures that the built extension tells; no other source of truth.

    python cpp/bindings/make_stubs.py      after building, with the built package on PYTHONPATH; needs ruff

tests/python/test_stubs.py compares the file with the extension, so an op without its line there fails the tests.
The submodules ops and optim are written as classes of static methods: a stub file cannot hold modules.
"""

import ast
import inspect
import pathlib
import re
import subprocess
import types

STUB = pathlib.Path(__file__).parents[2] / "python" / "fastcnn" / "_core.pyi"

# Names of the module and of Tensor hide builtins, so annotations go through aliases.
HEADER = '''"""Types of the compiled core; written by cpp/bindings/make_stubs.py, do not edit."""

from builtins import bool as _bool
from builtins import bytes as _bytes
from builtins import float as _float
from builtins import int as _int
from builtins import str as _str
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as _numpy
'''
FOOTER = "\n_Dtype: TypeAlias = dtype\n_Device: TypeAlias = device\n"
NAMES = {"bool": "_bool", "bytes": "_bytes", "float": "_float", "int": "_int", "str": "_str", "object": "Any",
         "dtype": "_Dtype", "device": "_Device", "tuple": "tuple[Any, ...]", "dict": "dict[Any, Any]",
         "list": "list[Any]", "ndarray": "_numpy.ndarray"}  # fmt: skip
# pybind11 knows less than the binding.
RETURNS = {("Tensor", "shape"): "tuple[_int, ...]", ("Tensor", "strides"): "tuple[_int, ...]",
           ("Tensor", "dtype"): "_Dtype", ("Tensor", "device"): "_Device",
           ("Tensor", "numpy"): "_numpy.ndarray"}  # fmt: skip
_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor".split()
ARITHMETIC = {f"__{side}{op}__" for op in _OPERATORS for side in ("", "r", "i")}
ARITHMETIC |= {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "add", "sub", "mul", "div", "pow"}


def annotation(node):
    """A type as it stands in the stub, of the type as pybind11 writes it."""
    if node is None:
        return "Any"
    text = ast.unparse(node)
    for number in ("Float", "Int"):  # pybind11 >= 3 says what is accepted instead of what it becomes
        text = text.replace(f"typing.Supports{number} | typing.SupportsIndex", number.lower())
    text = re.sub(r"\b(fastcnn\._core|typing|collections\.abc|types|numpy)\.", "", text)
    text = re.sub(r"\b(Capsule\w*|CapsuleType|handle)\b", "Any", text)
    return re.sub(r"\b(\w+)\b(\[)?", lambda m: m[0] if m[2] else NAMES.get(m[1], m[1]), text)


def signatures(doc, name):
    """The ast.FunctionDefs in the docstring of a bound function; none if it does not begin with a signature."""
    lines = (doc or "").splitlines()
    found = [re.sub(r"^\d+\. ", "", line) for line in lines if re.match(r"^(\d+\. )?" + re.escape(name) + r"\(", line)]
    found = found if "Overloaded function." in (doc or "") else found[:1]
    result = []
    for line in found:
        line = re.sub(r"<[^<>]*>|[\w:]+::[\w:]+(<[^<>]*>)?", "...", line)  # C++ values and types
        result.append(ast.parse(f"def {line}: ...").body[0])
    return result


def parameters(args):
    """[(name with its stars, annotation, default or None)] of ast.arguments; "/" and "*" are entries too."""
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    rows = [(a.arg, annotation(a.annotation), d) for a, d in zip(plain, defaults, strict=True)]
    if args.posonlyargs:
        rows.insert(len(args.posonlyargs), ("/", "", None))
    if args.vararg:
        rows.append(("*" + args.vararg.arg, "Any", None))
    elif args.kwonlyargs:
        rows.append(("*", "", None))
    rows += [(a.arg, annotation(a.annotation), d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg:
        rows.append(("**" + args.kwarg.arg, "Any", None))
    return rows


def function_lines(owner, name, doc, kind, indent):
    """Lines of one function. kind: "function", "method" or "static"."""
    defs = signatures(doc, name)
    if not defs:
        raise ValueError(f"{owner}.{name}: no signature in its docstring")
    lines = []
    for d in defs:
        rows = parameters(d.args)
        if kind == "method":
            rows = [("self", "", None), *rows[1:]]
        shown = []
        for arg, kind_of, default in rows:
            text = arg if not kind_of or arg == "*" else f"{arg}: {kind_of}"
            if default is not None:
                text += " = " + (ast.unparse(default) if isinstance(default, (ast.Constant, ast.UnaryOp)) else "...")
            shown.append(text)
        returned = RETURNS.get((owner, name), annotation(d.returns))
        if name == "__reduce__":
            returned = "tuple[Any, ...]"
        elif owner == "Tensor" and returned == "Any" and (name in ARITHMETIC or re.fullmatch(r"[a-z]\w*_", name)):
            returned = "Tensor"  # object in the binding, because operators may answer NotImplemented
        if kind == "static":
            lines.append(f"{indent}@staticmethod")
        if len(defs) > 1:
            lines.append(f"{indent}@overload")
        # object's own == returns bool.
        ignore = "  # type: ignore[override]" if name in ("__eq__", "__ne__") else ""
        lines.append(f"{indent}def {name}({', '.join(shown)}) -> {returned}: ...{ignore}")
    return lines


def is_public(name):
    """Whether a name of a bound class or module belongs in the stub."""
    return name not in ("__module__", "__doc__", "__dict__", "__weakref__", "_pybind11_conduit_v1_", "__new__")


def class_lines(cls):
    """Lines of a bound class."""
    lines = []
    for name, value in sorted(vars(cls).items()):
        if not is_public(name) or (name == "__init__" and not signatures(value.__doc__, name)):  # nobody may call it
            continue
        if isinstance(value, property):
            returned = RETURNS.get((cls.__name__, name))
            if returned is None:
                doc = (value.fget.__doc__ or "").splitlines()
                found = re.match(r"^\(.*\) -> (.*)$", doc[0] if doc else "")
                returned = annotation(ast.parse(found[1], mode="eval").body) if found else "Any"
            lines += ["    @property", f"    def {name}(self) -> {returned}: ..."]
            if value.fset is not None:
                lines += [f"    @{name}.setter", f"    def {name}(self, value: {returned}) -> None: ..."]
        elif isinstance(value, staticmethod):
            lines += function_lines(cls.__name__, name, value.__func__.__doc__, "static", "    ")
        elif name == "__hash__" and value is None:
            lines.append("    __hash__: None  # type: ignore[assignment]")
        elif callable(value) or type(value).__name__ == "instancemethod":
            lines += function_lines(cls.__name__, name, value.__doc__, "method", "    ")
        else:
            lines.append(f"    {name}: {NAMES.get(type(value).__name__, 'Any')}")
    return lines or ["    ..."]


def generate(core):
    """The text of the stub of the extension module."""
    parts, constants, functions, classes = [], [], [], []
    for name, value in sorted(vars(core).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, types.ModuleType):
            lines = []
            for inner, function in sorted(vars(value).items()):
                if not inner.startswith("__"):
                    lines += function_lines(name, inner, function.__doc__, "static", "    ")
            classes.append("\n".join([f"class {name}:", *lines]))
        elif inspect.isclass(value):
            classes.append("\n".join([f"class {name}:", *class_lines(value)]))
        elif callable(value):
            functions += function_lines("_core", name, value.__doc__, "function", "")
        else:
            constants.append(f"{name}: {'_Dtype' if type(value).__name__ == 'dtype' else 'Any'}")
    parts = ["\n\n".join(classes), "\n".join(constants), "\n".join(functions)]
    text = HEADER + "\n" + "\n\n".join(parts) + "\n" + FOOTER
    return text.replace("import Any, TypeAlias", "import Any, TypeAlias, overload") if "@overload" in text else text


if __name__ == "__main__":
    import fastcnn._core

    STUB.write_text(generate(fastcnn._core), encoding="utf-8")
    subprocess.run(["ruff", "format", "--quiet", "--config", "line-length=120", str(STUB)], check=True)
    print(STUB)
