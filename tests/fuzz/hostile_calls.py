"""Calls public functions with arguments that do not fit: other types, shapes, dtypes, huge and negative numbers, NaN.

    python tests/fuzz/hostile_calls.py GROUP [--calls 20000] [--seed 1]

Groups: ops, tensor (methods of Tensor), layers (of fc.nn, made and called), top (fc.*), data, files. Whatever the
call, it returns or raises: of ops and tensors one of the promised exceptions, of what is written in Python any (kinds
that are not promised are shown); the process neither aborts nor asks for more than a GiB. The call in progress stands
in the file of --log, so that a crash names it. tests/python/test_hostile.py runs some of each.
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import inspect
import os
import random
import resource
import tempfile
import warnings
from pathlib import Path

import fastcnn as fc
import numpy as np

PROMISED = (ValueError, TypeError, IndexError, MemoryError, RuntimeError, OverflowError, BufferError, OSError, KeyError)
MEMORY = 1 << 30
SECONDS = 120  # for one call, on a machine that may be busy

# What changes the process for all later calls, waits for a device, reads a terminal or downloads; and what opens files,
# which has a group of its own: a number would be a file that is open here.
LEFT_OUT = {
    "set_num_threads",
    "set_memory_budget",
    "set_isa",
    "set_conv_algorithm",
    "set_grad_enabled",
    "enable_grad",
    "no_grad",
    "use_deterministic_algorithms",
    "set_autocast_dtype",
    "autocast",
    "data_ptr",
    "save_state",
    "load_state",
    "load_torch",
    "export",
    "read_idx",
    "write_idx",
    "download",
    "fetch",
    "load",
    "cuda",
    "show_config",
    "compile",
    "checkpoint",
    "clear_autocast",
    "release_cached",
}


def tensors(rng):
    """Tensors of all kinds, small."""
    dtype = rng.choice(
        ["float32", "float32", "float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "int8", "bool"]
    )
    shape = rng.choice(
        [
            (),
            (0,),
            (1,),
            (3,),
            (4, 3),
            (2, 3, 8, 8),
            (2, 3, 8, 8),
            (1, 4, 5, 7),
            (4, 3, 3, 3),
            (0, 3, 4, 4),
            (2, 0, 3, 3),
            (2, 3, 0, 4),
            (1, 1, 1, 1),
            (2, 3, 4, 5, 6),
            (5, 4),
            (7, 5),
            (2, 2, 2, 2, 2, 2),
        ]
    )
    t = fc.zeros(*shape) if shape else fc.tensor(1.5)
    if rng.random() < 0.3:
        t = t + rng.choice([1.0, -1.0, float("nan"), float("inf"), 1e30, 2.0])
    t = t.to(dtype)
    kind = rng.random()
    if kind < 0.1 and t.ndim >= 2:
        t = t.transpose(0, 1)
    elif kind < 0.2 and t.ndim and t.shape[0] > 1:
        t = t[::2]
    elif kind < 0.25:
        t = t.reshape(1, *t.shape).expand(3, *t.shape) if t.ndim < 5 else t
    if rng.random() < 0.2 and t.dtype.is_floating_point:
        t.requires_grad_()
    return t


INTS = [
    0,
    1,
    2,
    3,
    4,
    -1,
    -2,
    5,
    8,
    255,
    1 << 20,
    1 << 31,
    (1 << 31) - 1,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
    1 << 64,
]
FLOATS = [0.0, 0.5, 1.0, 2.0, -1.0, 1e-40, 1e30, 1e300, float("nan"), float("inf"), float("-inf")]
WORDS = [
    "",
    "zeros",
    "reflect",
    "same",
    "valid",
    "mean",
    "sum",
    "none",
    "bilinear",
    "nearest",
    "float32",
    "int64",
    "cpu",
    "cuda",
    "constant",
    "x" * 1000,
    "\0",
    "é",
    "%s%n",
]


def lists(rng, depth=0):
    """Tuples and lists of anything."""
    make = rng.choice(
        [lambda: rng.choice(INTS[:9]), lambda: rng.choice(INTS), lambda: tensors(rng), lambda: anything(rng, depth + 1)]
    )
    items = [make() for _ in range(rng.choice([0, 1, 2, 2, 3, 4, 5, 9]))]
    return rng.choice([tuple, list])(items)


def anything(rng, depth=0):
    """A value of any type."""
    kinds = [
        lambda: tensors(rng),
        lambda: rng.choice(INTS),
        lambda: rng.choice(FLOATS),
        lambda: rng.choice(WORDS),
        lambda: None,
        lambda: rng.choice([True, False]),
        lambda: np.ones(rng.choice([(), (3,), (2, 3, 8, 8)]), rng.choice(["f4", "f8", "i8", "O", "U3"])),
        lambda: object(),
        lambda: {},
        lambda: slice(rng.choice(INTS), None, rng.choice(INTS)),
        lambda: ...,
        lambda: b"\xff",
        lambda: 1j,
    ]
    if depth < 2:
        kinds += [lambda: lists(rng, depth)] * 2
    return rng.choice(kinds)()


def argument(rng, hint):
    """A value for a parameter; four times in five of the type that its annotation names."""
    if rng.random() < 0.2:
        return anything(rng)
    hint = hint or ""
    options = []
    if "Tensor" in hint and "Sequence" not in hint and "list" not in hint:
        options.append(lambda: tensors(rng))
    if "Sequence" in hint or "list" in hint or "tuple" in hint:
        options.append(lambda: lists(rng))
    if "int" in hint:
        options.append(lambda: rng.choice(INTS[:9] if rng.random() < 0.6 else INTS))
    if "float" in hint:
        options.append(lambda: rng.choice(FLOATS))
    if "bool" in hint:
        options.append(lambda: rng.choice([True, False]))
    if "str" in hint:
        options.append(lambda: rng.choice(WORDS))
    if "None" in hint:
        options.append(lambda: None)
    if not options:
        options = [lambda: rng.choice(INTS[:9]), lambda: tensors(rng), lambda: lists(rng)]
    return rng.choice(options)()


def stubs(of):
    """{function: [[(parameter, annotation, has default)] of each overload]} of a class in _core.pyi."""
    tree = ast.parse(Path(fc._core.__file__).with_name("_core.pyi").read_text())
    found = {}
    for node in next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == of).body:
        if isinstance(node, ast.FunctionDef):
            a = node.args
            named = [(p.arg, ast.unparse(p.annotation) if p.annotation else "") for p in a.args if p.arg != "self"]
            has = [False] * (len(named) - len(a.defaults)) + [True] * min(len(a.defaults), len(named))
            rows = [(*p, d) for p, d in zip(named, has, strict=True)]
            rows += [(p.arg, ast.unparse(p.annotation) if p.annotation else "", True) for p in a.kwonlyargs]
            if a.vararg:
                rows += [(None, "int", False)] * 3
            found.setdefault(node.name, []).append(rows)
    return found


def arguments(rng, rows):
    """(args, kwargs) for a row of parameters."""
    args, kwargs = [], {}
    for name, hint, default in rows:
        if default and rng.random() < 0.5:
            continue
        value = argument(rng, hint)
        if name is None or (not kwargs and not default):
            args.append(value)
        else:
            kwargs[name] = value
    if rng.random() < 0.05:
        args.append(anything(rng))
    return args, kwargs


def signature_rows(function):
    """Parameters of a Python function, as stubs() gives them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [(None, "", False)] * 2
    guess = {
        "size": "int",
        "stride": "int",
        "padding": "int",
        "channels": "int",
        "features": "int",
        "groups": "int",
        "num": "int",
    }
    rows = []
    for p in parameters:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        hint = next((h for part, h in guess.items() if part in p.name), "")
        hint += {bool: "bool", int: "int", float: "float", str: "str"}.get(type(p.default), "")
        rows.append((p.name, hint, p.default is not p.empty))
    return rows


def public(module):
    """{name: callable} of what a module shows."""
    return {
        n: getattr(module, n)
        for n in dir(module)
        if not n.startswith("_") and n not in LEFT_OUT and callable(getattr(module, n))
    }


def calls_of_ops(rng):
    while True:
        name = rng.choice(OPS)
        args, kwargs = arguments(rng, rng.choice(OP_STUBS[name]))
        yield f"ops.{name}", getattr(fc.ops, name), args, kwargs


def calls_of_tensor(rng):
    table = {
        n: rows
        for n, rows in stubs("Tensor").items()
        if (not n.startswith("_") or n.startswith("__")) and n not in LEFT_OUT
    }
    for name in ("__init__", "__hash__", "__reduce__", "__dlpack__"):
        table.pop(name, None)
    table["__dlpack__"] = [
        [("stream", "int", True), ("max_version", "tuple", True), ("dl_device", "tuple", True), ("copy", "bool", True)]
    ]
    names = sorted(table)
    while True:
        name, target = rng.choice(names), tensors(rng)
        attribute = getattr(type(target), name)
        if callable(attribute):
            args, kwargs = arguments(rng, rng.choice(table[name]))
            yield f"{tuple(target.shape)} {target.dtype} .{name}", getattr(target, name), args, kwargs


def calls_of_layers(rng):
    classes = {n: c for n, c in public(fc.nn).items() if inspect.isclass(c) and issubclass(c, fc.nn.Module)}
    rows = {n: signature_rows(c) for n, c in classes.items()}
    names = sorted(classes)
    while True:
        name = rng.choice(names)
        args, kwargs = arguments(rng, rows[name])
        inputs = [tensors(rng) for _ in range(rng.choice([1, 1, 1, 2]))]

        def make_and_call(*args, of=classes[name], inputs=inputs, **kwargs):
            layer = of(*args, **kwargs)
            y = layer(*inputs)
            if isinstance(y, fc.Tensor) and y.requires_grad:
                y.sum().backward()

        yield f"nn.{name}", make_and_call, args, kwargs


def calls_of_top(rng):
    functions = {
        n: f for n, f in public(fc).items() if not inspect.isclass(f) and not inspect.ismodule(f) and n not in OP_STUBS
    }
    rows = {n: signature_rows(f) for n, f in functions.items()}
    names = sorted(functions)
    while True:
        name = rng.choice(names)
        args, kwargs = arguments(rng, rows[name])
        yield f"fc.{name}", functions[name], args, kwargs


def calls_of_data(rng):
    def first_batches(*args, **kwargs):
        loader = fc.data.DataLoader(fc.data.ArrayDataset(np.zeros((6, 4, 4), np.uint8), np.arange(6)), *args, **kwargs)
        for _, batch in zip(range(3), loader, strict=False):
            assert batch is not None

    def augmented(*args, of, **kwargs):
        of(*args, **kwargs)(np.zeros((5, 6, 3), np.uint8))

    functions = public(fc.data)
    transforms = {n: c for n, c in public(fc.augment).items() if inspect.isclass(c)}
    names, kinds = sorted(functions), sorted(transforms)
    loader_rows = signature_rows(fc.data.DataLoader)[1:]
    while True:
        draw = rng.random()
        if draw < 0.3:
            yield "DataLoader of six", first_batches, *arguments(rng, loader_rows)
        elif draw < 0.6 and kinds:
            name = rng.choice(kinds)
            args, kwargs = arguments(rng, signature_rows(transforms[name]))
            yield f"augment.{name}", augmented, args, {**kwargs, "of": transforms[name]}
        else:
            name = rng.choice(names)
            yield f"data.{name}", functions[name], *arguments(rng, signature_rows(functions[name]))


def calls_of_files(rng):
    net = fc.nn.Sequential(fc.nn.Conv2d(1, 2, 3), fc.nn.ReLU(), fc.nn.Flatten(), fc.nn.Linear(8, 3))
    fc.export(net, "net.fcnn", np.zeros((2, 1, 4, 4), np.float32), preprocess={"resize": 4})
    session = fc.load("net.fcnn")
    targets = {
        "session.predict": session.predict,
        "session.classify": session.classify,
        "session.save": session.save,
        "fc.load": fc.load,
        "fc.load_state": fc.load_state,
        "fc.load_torch": fc.load_torch,
        "fc.save_state": fc.save_state,
        "fc.export": fc.export,
        "onnx.load": fc.onnx.load,
        "onnx.export": fc.onnx.export,
        "checkpoints.save_checkpoint": fc.checkpoints.save_checkpoint,
        "data.read_idx": fc.data.read_idx,
    }
    names = sorted(targets)
    paths = ["net.fcnn", ".", "", "missing", "a/b/c", "\0", Path("net.fcnn"), 3.5, None, b"net.fcnn"]
    while True:
        name = rng.choice(names)
        rows = signature_rows(targets[name])
        args, kwargs = arguments(rng, rows)
        for i, row in enumerate(rows):
            if row[0] == "path" and i < len(args):
                args[i] = rng.choice(paths)
        if not any(
            isinstance(a, int) and not isinstance(a, bool) for a in [*args, *kwargs.values()]
        ):  # open(3) is a file
            yield name, targets[name], args, kwargs


OP_STUBS = stubs("ops")
OPS = sorted(n for n in OP_STUBS if not n.startswith("_") and n not in LEFT_OUT)
GROUPS = {
    "ops": calls_of_ops,
    "tensor": calls_of_tensor,
    "layers": calls_of_layers,
    "top": calls_of_top,
    "data": calls_of_data,
    "files": calls_of_files,
}


def shown(value):
    """A short text of an argument."""
    if isinstance(value, fc.Tensor):
        return f"<{tuple(value.shape)} {value.dtype}{' grad' if value.requires_grad else ''}>"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(shown, value))})"
    return repr(value)[:60]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", default="/dev/null")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    log = os.open(args.log, os.O_WRONLY | os.O_CREAT, 0o600)
    rng = random.Random(args.seed)
    returned = raised = 0
    others = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        calls = GROUPS[args.group](rng)
        next(calls)
        fc.ones(64, 64) @ fc.ones(
            64, 64
        )  # workers start before memory is limited: libgomp ends the process without them
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for _ in range(args.calls):
            name, function, positional, named = next(calls)
            text = f"{name}({', '.join([*map(shown, positional), *(f'{k}={shown(v)}' for k, v in named.items())])})"
            os.pwrite(log, text.encode("utf-8", "replace")[:4000].ljust(4000), 0)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                function(*positional, **named)
                returned += 1
            except PROMISED:
                raised += 1
            except Exception as error:
                if args.group in ("ops", "tensor"):
                    raise AssertionError(f"{text}: {type(error).__name__}: {error}") from error
                raised += 1
                others.setdefault(f"{name.split('(')[0]}: {type(error).__name__}: {error}"[:200], text)
            finally:
                faulthandler.cancel_dump_traceback_later()
        os.chdir("/")
    assert fc.ops.add(fc.ones(2), 1).tolist() == [2, 2]
    print(f"{args.group}: {returned} calls returned, {raised} raised")
    for error, call in others.items():
        print(f"  {error} of {call}"[:500])


if __name__ == "__main__":
    main()
