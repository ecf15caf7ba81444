"""Hostile .fcnn files: whatever the bytes are, a session is refused with an exception or works; nothing is trusted."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn

load = fc._core.Session.load_memory
ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small training step and net with most kinds of state."""
    fc.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )
    optimizer = fc.optim.Adam(net.parameters(), lr=0.01)

    def step(x, y):
        loss = fc.ops.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    path = tmp_path_factory.mktemp("fcnn") / "t.fcnn"
    fc.export(step, path, (X, np.array([0, 1])), predict=net)
    return path.read_bytes()


def parts(data):
    """(header as dict, graph as dict, bytes of tensors)."""
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    return header, json.loads(header["__metadata__"]["fastcnn"]), data[8 + n :]


def build(header, graph, body):
    """A file whose checksums are right, so that what is behind them has to hold."""
    text = json.dumps(graph)
    header["__metadata__"] = {"fastcnn": text, "fastcnn_crc32": f"{zlib.crc32(text.encode()):08x}"}
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def refused(data, match=None):
    with pytest.raises((ValueError, TypeError, IndexError), match=match):
        load(bytes(data))


def test_the_checksums_are_those_of_zlib_and_any_reader_reads_the_tensors(whole, tmp_path):
    header, graph, body = parts(whole)
    assert load(build(header, graph, body)).can_step()
    for name, info in header.items():
        if name != "__metadata__":
            a, b = info["data_offsets"]
            assert f"{zlib.crc32(body[a:b]):08x}" == graph["crc32"][name], name
    (tmp_path / "t.safetensors").write_bytes(whole)
    tensors = fc.load_state(tmp_path / "t.safetensors")
    assert tensors["0.weight"].shape == (3, 2, 3, 3)
    a, b = header["0.weight"]["data_offsets"]
    np.testing.assert_array_equal(np.frombuffer(body[a:b], "<f4").reshape(3, 2, 3, 3), np.asarray(tensors["0.weight"]))


def test_every_truncation_is_refused(whole):
    n = int.from_bytes(whole[:8], "little")
    for size in [*range(0, 64), *range(64, 8 + n, 97), *range(8 + n, len(whole), 31), len(whole) - 1]:
        refused(whole[:size])
    refused(whole + b"\0")


def test_every_flipped_bit_of_the_small_header_is_seen(whole):
    header, graph, body = parts(whole)
    small = {"format": 1, "producer": "x", "crc32": {"w": f"{zlib.crc32(bytes(8)):08x}"}, "graphs": {"predict": {
        "batch": None, "inputs": [{"name": "x", "dtype": "float32", "shape": [2]}],
        "outputs": [{"name": "y", "tensor": "%0", "dtype": "float32", "shape": [2]}],
        "nodes": [{"op": "binary", "in": ["x", "w"], "out": [{"name": "%0", "dtype": "float32", "shape": [2]}],
                   "params": {"op": "mul"}}], "updates": []}}}  # fmt: skip
    data = bytearray(build({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, small, bytes(8)))
    x = fc.tensor(np.float32([1, 2]))
    wanted = np.asarray(load(bytes(data)).predict([x])[0])
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            try:
                session = load(bytes(data))
            except (ValueError, TypeError, IndexError):
                pass
            else:  # nothing that matters may have changed: a blank between values, at most
                assert np.array_equal(np.asarray(session.predict([x])[0]), wanted), (at, bit)
            data[at] ^= 1 << bit


def test_flipped_bits_anywhere_are_seen(whole):
    rng = np.random.default_rng(0)
    data = bytearray(whole)
    seen = 0
    for _ in range(300):
        at, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[at] ^= 1 << bit
        try:
            load(bytes(data))
        except (ValueError, TypeError, IndexError):
            seen += 1
        data[at] ^= 1 << bit
    assert seen > 290  # the rest are blanks


def test_a_short_file_cannot_ask_for_gigabytes():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for length in (100, 99_999_999, 100_000_001, 1 << 40, (1 << 64) - 1):
        refused(length.to_bytes(8, "little") + b"{}", "header")
    for shape, offsets in (
        ([1 << 40], [0, 4 << 40]), ([1 << 62, 4], [0, 0]), ([1 << 62, 1 << 62], [0, 0]), ([-1], [0, 4]), ([2], [0, 4]),
        ([1], [4, 0]), ([1], [-4, 0]), ([1] * 9, [0, 4]), ([1.5], [0, 4]), ([True], [0, 4]), ("4", [0, 4]), ([1], [0]),
        ([1 << 64], [0, 4]), ([0, 1 << 62, 1 << 62], [0, 0]),
    ):  # fmt: skip
        refused(build({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}, {"format": 1}, bytes(4)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_overlaps_holes_and_double_names_are_refused():
    def entry(begin, end, dtype="F32", shape=None):
        return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}

    graph = {"format": 1}
    refused(build({"a": entry(0, 8), "b": entry(4, 12)}, graph, bytes(12)), "overlaps")
    refused(build({"a": entry(0, 4), "b": entry(8, 12)}, graph, bytes(12)), "hole")
    refused(build({"a": entry(0, 4)}, graph, bytes(8)), "belong to no tensor")
    refused(build({"a": entry(0, 4, "F8_E4M3")}, graph, bytes(4)), "dtype")
    head = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    refused(len(head).to_bytes(8, "little") + head + b"\0", "twice")
    for text in (b"[]", b"{", b'{"a":}', b'{"a":1,}', b"{'a':1}", b'{"a":01}', b'{"a":1e999}', b'"\xff"', b"[" * 5000,
                 b"nul", b'{"\\ud800":1}', b'{"a":1}x', b"{\"a\":\"\n\"}", b'{"a":"\xc0\x80"}'):  # fmt: skip
        refused(len(text).to_bytes(8, "little") + text)


def graph_changes():
    """(name, change of the whole file's graph, what the refusal says)."""

    def node(g, op, which="step"):
        return next(n for n in g["graphs"][which]["nodes"] if n["op"] == op)

    def params(op, **values):
        return lambda g: node(g, op)["params"].update(values)

    def drop(key):
        return lambda g: g["graphs"]["step"].pop(key)

    def read(op, i, of):
        return lambda g: node(g, op)["in"].__setitem__(i, of(g))

    big = 1 << 40
    return {
        "conv of a larger image": params("conv2d", H=100, oH=98),
        "conv of more channels": params("conv2d", C=64),
        "conv of more filters": params("conv2d_bwd_weights", O=64),
        "conv without stride": params("conv2d", sH=0),
        "conv of negative padding": params("conv2d", pT=-5),
        "conv of huge padding": params("conv2d", pT=big),
        "conv of groups": params("conv2d", groups=0),
        "conv of fewer rows": params("conv2d", oH=2),
        "pool of a larger image": params("max_pool2d", H=big),
        "pool without window": params("max_pool2d", kH=0),
        "pool that goes back elsewhere": params("max_pool2d_bwd", kH=1),
        "norm of more rows": params("batch_norm", rows=big),
        "norm of more channels": params("bn_update_running", C=1000),
        "matmul of more rows": params("matmul", M=1000),
        "matmul of a large batch": params("matmul", batch=big),
        "classes": params("cross_entropy", C=1000),
        "weights that are not there": params("cross_entropy", has_weight=1),
        "an act of no name": params("activation", act="swirl"),
        "an option of the future": params("conv2d", winograd=1),
        "an op of the future": lambda g: node(g, "conv2d").update(op="conv3d"),
        "an op of plans": lambda g: node(g, "conv2d").update(op="conv2d_bwd"),
        "a number out of range": params("conv2d", H=1 << 60),
        "a number that is a fraction": params("conv2d", H=6.0),
        "no such tensor": read("conv2d", 1, lambda g: "nobody"),
        "a tensor from later": read("conv2d", 0, lambda g: node(g, "activation")["out"][0]["name"]),
        "too few inputs": lambda g: node(g, "conv2d")["in"].pop(),
        "too many inputs": lambda g: node(g, "conv2d")["in"].append("0.bias"),
        "too few outputs": lambda g: node(g, "batch_norm")["out"].pop(),
        "another shape": lambda g: node(g, "conv2d")["out"][0].update(shape=["N", 3, 5, 4]),
        "a huge shape": lambda g: node(g, "conv2d")["out"][0].update(shape=["N", big, big, big]),
        "another dtype": lambda g: node(g, "conv2d")["out"][0].update(dtype="float64"),
        "places of nobody": read("max_pool2d_bwd", 1, lambda g: node(g, "max_pool2d")["out"][0]["name"]),
        "a name twice": lambda g: node(g, "conv2d")["out"][0].update(name="0.weight"),
        "a new tensor in place": lambda g: node(g, "conv2d")["out"].__setitem__(0, {"name": "0.weight"}),
        "an input that is written": lambda g: node(g, "adam_step")["out"].__setitem__(0, {"name": "x"}),
        "a view of another size": lambda g: node(g, "reshape")["out"][0].update(shape=["N", 7]),
        "no nodes": drop("nodes"), "no inputs": drop("inputs"), "no outputs": drop("outputs"),
        "no batch": drop("batch"), "no updates": drop("updates"),
        "an update of a weight": lambda g: g["graphs"]["step"]["updates"][0].update(tensor="0.weight"),
        "terms that are too many": lambda g: g["graphs"]["step"]["updates"][0]["terms"].append(1.0),
        "another format": lambda g: g.update(format=2),
        "another graph": lambda g: g["graphs"].update(extra=g["graphs"]["step"]),
        "a tensor too few": lambda g: g["crc32"].pop("0.weight"),
    }  # fmt: skip


@pytest.mark.parametrize("name", graph_changes())
def test_graphs_that_would_reach_outside_of_memory_are_refused(whole, name):
    header, graph, body = parts(whole)
    graph_changes()[name](graph)
    refused(build(header, graph, body))


def test_places_that_values_are_put_to_are_checked(tmp_path):
    def unpooled(x):
        return fc.ops.max_unpool2d(*fc.ops.max_pool2d(x, 2, return_indices=True), 2)

    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    fc.export(unpooled, tmp_path / "net.fcnn", x)
    np.testing.assert_array_equal(fc.load(tmp_path / "net.fcnn").predict(x), unpooled(fc.tensor(x)).numpy())
    for change in (
        lambda node: node["params"].update(size=1 << 30),
        lambda node: node["params"].update(dim=1),
        lambda node: node["in"].__setitem__(1, node["in"][2]),
        lambda node: node["in"].__setitem__(2, node["in"][0]),
        lambda node: node["out"][0].update(shape=[1 << 30]),
    ):
        header, graph, body = parts((tmp_path / "net.fcnn").read_bytes())
        change(next(n for n in graph["graphs"]["predict"]["nodes"] if n["op"] == "index_put"))
        refused(build(header, graph, body))


def test_random_changes_of_the_graph_never_reach_a_kernel_unchecked(whole):
    header, graph, body = parts(whole)
    rng = np.random.default_rng(1)
    text = json.dumps(graph)
    loaded = 0
    for _ in range(200):
        g = json.loads(text)
        nodes = g["graphs"]["step"]["nodes"]
        for _ in range(int(rng.integers(1, 3))):
            n = nodes[rng.integers(len(nodes))]
            p = n["params"]
            kind = rng.integers(4)
            if kind == 0 and p:
                key = list(p)[rng.integers(len(p))]
                p[key] = [0, 1, 2, 3, 7, -1, 1 << 31, "N", "2*N", 0.5][rng.integers(10)]
            elif kind == 1 and n["in"] and (m := nodes[rng.integers(len(nodes))])["in"]:
                n["in"][rng.integers(len(n["in"]))] = m["in"][rng.integers(len(m["in"]))]
            elif kind == 2 and "shape" in n["out"][0] and n["out"][0]["shape"]:
                shape = n["out"][0]["shape"]
                shape[rng.integers(len(shape))] = int(rng.integers(0, 9))
            else:
                nodes.remove(n)
        try:
            session = load(build(header, g, body))
            session.step([fc.tensor(X), fc.tensor(np.array([0, 1]))])
            loaded += 1
        except (ValueError, TypeError, IndexError):
            pass
    assert loaded > 0  # some changes are harmless, and then the step runs


def test_members_of_the_file_that_are_not_known_are_named(whole):
    header, graph, body = parts(whole)
    refused(build(header, {**graph, "postprocess": {"top": 5}}, body), "got 'postprocess'")


def test_a_failed_save_leaves_the_old_file_and_no_other(whole, tmp_path):
    (tmp_path / "t.fcnn").write_bytes(whole)
    session = fc.load(tmp_path / "t.fcnn")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match="t.fcnn: cannot write"):
            session.save(tmp_path / "t.fcnn")
        tmp_path.chmod(0o700)
    with pytest.raises(FileNotFoundError, match="nowhere/t.fcnn: cannot write"):
        session.save(tmp_path / "nowhere" / "t.fcnn")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder: cannot write"):
        session.save(tmp_path / "folder")
    assert {p.name for p in tmp_path.iterdir()} == {"t.fcnn", "folder"} and (tmp_path / "t.fcnn").read_bytes() == whole


def writers(whole, folder):
    """Of each kind of file one function that writes it to a path."""
    (folder / "whole.fcnn").write_bytes(whole)
    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    return {
        "session.save": fc.load(folder / "whole.fcnn").save,
        "export": lambda path: fc.export(net, path, X),
        "save_state": lambda path: fc.save_state(net.state_dict(), path),
        "onnx": lambda path: fc.onnx.export(net, path, X),
        "checkpoint": lambda path: fc.checkpoints.save_checkpoint(path, net.state_dict(), keep_previous=True),
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_paths_may_hold_bytes_that_are_no_utf8(whole, tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b"caf\xe9.fcnn"))
    Path(path).write_bytes(whole)
    session = fc.load(path)
    session.save(path)
    assert Path(path).stat().st_size > 0
    folder = os.path.join(tmp_path, os.fsdecode(b"\xe9"))
    os.mkdir(folder)
    with pytest.raises(IsADirectoryError, match=r"\\xe9: cannot write"):
        session.save(folder)
    Path(path).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"caf\\xe9.fcnn: not a whole"):
        fc.load(path)


def test_writers_leave_pipes_and_devices_alone(whole, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, write in writers(whole, tmp_path).items():
        for path in ("pipe", "link"):
            with pytest.raises(OSError, match="expected the path of a file"):
                write(tmp_path / path)
            assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink(), name
    assert {p.name for p in tmp_path.iterdir()} == {"pipe", "link", "whole.fcnn"}


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="needs POSIX")
def test_writers_follow_links_and_keep_the_mode_of_a_file(whole, tmp_path):
    (tmp_path / "far").mkdir()
    for name, write in writers(whole, tmp_path).items():
        file, link = tmp_path / "far" / name, tmp_path / name
        link.symlink_to(f"far/{name}")
        write(link)  # to a file that is not there yet
        file.chmod(0o600)
        write(link)
        assert link.is_symlink() and file.stat().st_size > 0 and file.stat().st_mode & 0o777 == 0o600, name


def library():
    """The shared library that the extension in use is linked to."""
    lines = subprocess.run(["ldd", fc._core.__file__], capture_output=True, text=True, check=True).stdout.splitlines()
    return next(line.split("=>")[1].split()[0] for line in lines if "libfastcnn" in line)


@pytest.mark.skipif(not shutil.which("ldd"), reason="needs ldd")
def test_plain_python_predicts_through_the_c_api_without_the_package(whole, tmp_path):
    (tmp_path / "t.fcnn").write_bytes(whole)
    script = ROOT / "examples" / "ctypes_predict.py"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-I", str(script), library()]
    done = subprocess.run([*command, str(tmp_path / "t.fcnn")], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    got = [float.fromhex(line) for line in done.stdout.split()]
    wanted = np.asarray(load(whole).predict([fc.tensor(X[:1] * 0)])[0]).ravel()
    assert np.array_equal(np.float32(got), wanted)
    (tmp_path / "bad.fcnn").write_bytes(whole[:-1])
    done = subprocess.run([*command, str(tmp_path / "bad.fcnn")], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 1 and "not a whole safetensors file" in done.stderr


@pytest.mark.skipif(not shutil.which("ldd"), reason="needs ldd")
def test_the_c_api_tells_and_sets_the_rate_and_bounds_the_plans(whole, tmp_path):
    class Options(ctypes.Structure):
        _fields_ = [
            ("threads", ctypes.c_int32), ("plans", ctypes.c_int32),
            ("plan_bytes", ctypes.c_int64), ("concurrent", ctypes.c_int32),
        ]  # fmt: skip

    (tmp_path / "t.fcnn").write_bytes(whole)
    lib, session, lr = ctypes.CDLL(library()), ctypes.c_void_p(), ctypes.c_double()
    options = Options(1, 2, 1 << 20, 2)
    assert lib.fastcnn_load_with(os.fsencode(tmp_path / "t.fcnn"), ctypes.byref(options), ctypes.byref(session)) == 0
    assert lib.fastcnn_lr(session, ctypes.byref(lr)) == 0 and lr.value == 0.01
    assert lib.fastcnn_set_lr(session, ctypes.c_double(0.5)) == 0
    assert lib.fastcnn_lr(session, ctypes.byref(lr)) == 0 and lr.value == 0.5
    lib.fastcnn_free(session)


@pytest.mark.skipif(not shutil.which("ldd") or not shutil.which("nm"), reason="needs ldd and nm")
def test_the_library_shows_its_api_and_nothing_else():
    lines = subprocess.run(
        ["nm", "-DC", "--defined-only", library()], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split(" ", 2)[2] for line in lines.splitlines()]
    assert {"fastcnn_load", "fastcnn_predict", "fastcnn_step", "fastcnn_save", "fastcnn_last_error"} <= set(names)
    # Inline functions and typeinfo of the standard library have the linker's leave to be there.
    foreign = [n for n in names if "fastcnn" not in n and "std::" not in n and "__gnu_cxx::" not in n]
    assert not foreign, foreign[:10]
    inner = [n for n in names if "fastcnn::cpu" in n or "backend" in n]
    assert not inner, inner[:10]
