"""load_torch: what torch.save writes comes back; code, bombs and damage are refused and nothing of a file runs."""

import argparse
import collections
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _torch_pickle

FORMATS = {"zip": True, "old": False}
both = pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def save(torch, value, path, zipped=True, **options):
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def values(t):
    return t.detach().to("float32").numpy() if str(t.dtype) == "bfloat16" else t.detach().numpy()


def assert_same(got, want):
    assert str(got.dtype) == str(want.dtype).removeprefix("torch.") and tuple(got.shape) == tuple(want.shape)
    want = want.float() if "bfloat16" in str(want.dtype) else want
    np.testing.assert_array_equal(values(got), want.detach().numpy())


# ---------------------------------------------------------------- what it reads


@both
def test_every_dtype_shape_and_stride_comes_back(torch, tmp_path, zipped):
    base = torch.arange(24.0).reshape(2, 3, 4)
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    saved = {
        **{d: torch.tensor([[1.5, -2, 3], [0, 7, 9]]).to(getattr(torch, d))
           for d in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8")},
        "uint8": torch.tensor([0, 255], dtype=torch.uint8), "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.25), "empty": torch.empty(0, 4), "transposed": base.transpose(0, 2),
        "slice": base[:, 1:, ::2], "shared": base, "channels_last": image, "expanded": torch.ones(3, 1).expand(3, 4),
        "parameter": torch.nn.Parameter(torch.randn(3)), "nan": torch.tensor([float("nan"), float("inf")]),
    }  # fmt: skip
    read = fc.load_torch(save(torch, saved, tmp_path / "t.pt", zipped))
    assert list(read) == list(saved)
    for key, want in saved.items():
        assert_same(read[key], want)


@both
def test_checkpoints_come_back_as_they_were_saved(torch, tmp_path, zipped):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.125)
    net(torch.randn(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    saved = {
        "state_dict": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7, "best": 0.5,
        "name": "netz \u00e4",
        "args": {"lr": [0.1, None, True], "size": net[0].weight.shape, "dtype": torch.float16, "big": 1 << 80},
    }  # fmt: skip
    read = fc.load_torch(save(torch, saved, tmp_path / "c.pth", zipped))
    assert {k: read[k] for k in ("epoch", "best", "name")} == {"epoch": 7, "best": 0.5, "name": "netz \u00e4"}
    assert read["args"] == {"lr": [0.1, None, True], "size": (4, 3, 3, 3), "dtype": "float16", "big": 1 << 80}
    assert list(read["state_dict"]) == list(saved["state_dict"])
    for key, want in saved["state_dict"].items():
        assert_same(read["state_dict"][key], want)
    moments = saved["optimizer"]["state"]
    assert_same(read["optimizer"]["state"][0]["exp_avg"], moments[0]["exp_avg"])
    assert read["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)


@both
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(torch, tmp_path, zipped, protocol):
    saved = collections.OrderedDict(a=torch.arange(3), b=[torch.ones(2), (1, 2, 3, 4)], c=set(), d={"x"}, e={})
    read = fc.load_torch(save(torch, saved, tmp_path / "p.pt", zipped, pickle_protocol=protocol))
    assert_same(read["a"], saved["a"])
    assert_same(read["b"][0], saved["b"][0])
    assert (read["b"][1], read["c"], read["d"], read["e"]) == ((1, 2, 3, 4), set(), {"x"}, {})


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_weights_only_reads_is_read(torch, tmp_path, protocol):
    z = torch.complex(torch.arange(3.0), torch.arange(3.0))
    saved = {
        "negative": z.conj().imag, "int16": torch.tensor([-7, 300], dtype=torch.int16),
        "uint16": torch.tensor([65535, 1], dtype=torch.uint16), "uint32": torch.tensor([1 << 31], dtype=torch.uint32),
        "expanded": torch.ones(1).expand(3000, 3000), "bytes": b"ab\xff", "none": b"",
        "counts": collections.Counter("aab"), "dtypes": [torch.int16, torch.complex64, torch.float8_e4m3fn],
    }  # fmt: skip
    read = fc.load_torch(save(torch, saved, tmp_path / "w.pt", pickle_protocol=protocol))
    assert read["negative"].tolist() == saved["negative"].tolist() == [0, -1, -2]
    for name, dtype in (("int16", "int32"), ("uint16", "int32"), ("uint32", "int64")):
        assert str(read[name].dtype) == dtype and read[name].tolist() == saved[name].tolist()
    assert read["expanded"].shape == (3000, 3000) and read["expanded"][2999, 2999].item() == 1
    assert (read["bytes"], read["none"]) == (b"ab\xff", b"")
    assert read["counts"] == saved["counts"] and type(read["counts"]) is collections.Counter
    assert read["dtypes"] == ["int16", "complex64", "float8_e4m3fn"]


@both
def test_unknown_objects_are_skipped_where_that_is_asked_for(torch, tmp_path, zipped):
    ran = tmp_path / "ran"
    saved = {
        "model": {"w": torch.arange(3.0)}, "args": argparse.Namespace(lr=0.1, w=torch.ones(2)), "best": np.float64(0.5),
        "call": [Call(os.system, f"touch {ran}")], "path": Path("x"), "later": torch.ones(2),
    }  # fmt: skip
    path = save(torch, saved, tmp_path / "s.pt", zipped)
    with pytest.raises(ValueError, match=r"refused argparse.Namespace.*skip_unknown=True"):
        fc.load_torch(path)
    read = fc.load_torch(path, skip_unknown=True)
    assert read["model"]["w"].tolist() == [0, 1, 2] and read["later"].tolist() == [1, 1]
    assert read["args"] == fc.torch_files.Skipped("argparse.Namespace") and "system" in read["call"][0].name
    assert all(type(read[k]) is fc.torch_files.Skipped for k in ("best", "path")) and not ran.exists()
    with pytest.raises(ValueError, match="one object of argparse.Namespace and no tensors"):
        fc.load_torch(save(torch, saved["args"], path, zipped), skip_unknown=True)


def test_the_number_of_an_open_file_is_no_path(tmp_path):
    with open(tmp_path / "open", "wb") as file:
        for load in (fc.load_torch, fc.load, fc.load_state, fc.safetensors.load_metadata):
            with pytest.raises(TypeError):
                load(file.fileno())
            os.fstat(file.fileno())  # still open


# ---------------------------------------------------------------- what it refuses


def zip_of(pickled, storages=None, root="archive"):
    """A file as torch.save writes it, around any bytes as its data.pkl."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/byteorder", b"little")
        for key, data in (storages or {}).items():
            archive.writestr(f"{root}/data/{key}", data)
        archive.writestr(f"{root}/version", b"3\n")
    return file.getvalue()


def refused(tmp_path, data, match):
    path = tmp_path / "bad.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as e:
        fc.load_torch(path)
    assert "bad.pt" in str(e.value)
    return str(e.value)


class Call:
    """Pickles as a call of function(*args)."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Owned:
    """Pickles as an object of this class with attributes."""

    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_code_runs(tmp_path, protocol):
    ran = tmp_path / "ran"
    bad = {
        "system": Call(os.system, f"touch {ran}"),
        "eval": Call(eval, f"open({str(ran)!r}, 'w')"),
        "exec": Call(exec, f"open({str(ran)!r}, 'w')"),
        "open": Call(open, str(ran), "w"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "loads": Call(pickle.loads, b"."),
        "object": Owned(),
    }
    for value in bad.values():
        for whole in (value, {"state_dict": [value]}, (value,)):
            pickled = pickle.dumps(whole, protocol)
            refused(tmp_path, zip_of(pickled), "refused")
            old = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
            refused(tmp_path, old + pickled, "refused")
            refused(tmp_path, pickled, "refused")  # where the magic number is expected
    assert not ran.exists()


HAND_WRITTEN = {
    "global": (b"cos\nsystem\n(S'true'\ntR.", "refused os.system"),
    "chain": (b"c__builtin__\ngetattr\n(c__builtin__\nobject\nS'__subclasses__'\ntR.", "refused __builtin__.getattr"),
    "inside torch": (b"ctorch.hub\nload\n(S'x'\ntR.", "refused torch.hub.load"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x14serialization.os.sys\x93.", "refused torch.serialization.os.sys"),
    "call of text": (b"\x80\x02X\x01\x00\x00\x00x)R.", "refused a call of x"),
    "call of a dict": (b"\x80\x02})R.", "refused a call of a dict"),
    "newobj": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "refused the pickle opcode NEWOBJ"),
    "inst": (b"(ios\nsystem\n.", "refused the pickle opcode INST"),
    "obj": (b"(ccollections\nOrderedDict\no.", "refused the pickle opcode OBJ"),
    "extension": (b"\x80\x02\x82\x01.", "refused the pickle opcode EXT1"),
    "build on a tuple": (b"\x80\x02)}b.", "refused to set attributes of a tuple"),
    "build on a dict": (b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.", "refused to set attributes of a dict"),
    "name as value": (b"\x80\x02ccollections\nOrderedDict\n.", "holds collections.OrderedDict itself"),
    "key of tuples": (b"\x80\x02}))\x86K\x01s.", "a key of a dict is a tuple"),
    "text persistent id": (b"P0\n.", "refused the pickle opcode PERSID"),
    "persistent id of no storage": (b"\x80\x02K\x01Q.", "persistent id"),
    "no storage type": (
        b"\x80\x02(X\x07\x00\x00\x00storageK\x01X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.", "has type 1",
    ),
    "empty": (b"", "damaged|empty"),
    "no end": (b"\x80\x02K\x01", "damaged"),
    "two values": (b"\x80\x02K\x01K\x02.", "one value"),
    "pop of nothing": (b"\x80\x020.", "stack is empty"),
    "no mark": (b"\x80\x02t.", "mark is missing"),
    "memo": (b"\x80\x02h\x05.", "memo 5 is read before"),
    "append to a dict": (b"\x80\x02}K\x01a.", "appended to a dict"),
    "odd items": (b"\x80\x02}(K\x01u.", "key without a value"),
    "quantised": (b"ctorch\nQInt8Storage\n.", "QInt8Storage are not supported"),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_odd_pickles_are_named(tmp_path, name):
    pickled, match = HAND_WRITTEN[name]
    refused(tmp_path, zip_of(pickled), match)


def tensor_pickle(numel=4, offset=0, shape=(4,), strides=(1,), key="0", kind="FloatStorage", marks=None):
    """A pickle of one tensor, written by hand."""

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def number(n):
        return b"\x8a" + bytes([len(pickle.encode_long(n))]) + pickle.encode_long(n)

    def numbers(v):
        return b"(" + b"".join(number(n) for n in v) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"
    args = storage + number(offset) + numbers(shape) + numbers(strides)
    rest = b"\x89ccollections\nOrderedDict\n)R" + (b"" if marks is None else b"}" + marks + b"s")
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + args + rest + b"tR."


def test_tensors_must_lie_in_their_storage(tmp_path):
    four = np.arange(4, dtype="<f4").tobytes()
    path = tmp_path / "good.pt"
    path.write_bytes(zip_of(tensor_pickle(), {"0": four}))
    assert fc.load_torch(path).tolist() == [0, 1, 2, 3]
    for options, match in (
        (dict(offset=1), "ends at element 4"),
        (dict(strides=(2,)), "ends at element 6"),
        (dict(shape=(1 << 40,)), "ends at element"),
        (dict(shape=(1 << 40,), strides=(0,)), "more than 16 times"),
        (dict(shape=(1 << 30, 1 << 30), strides=(0, 0)), "more than 16 times"),
        (dict(shape=(-1,)), "has size"),
        (dict(strides=(-1,)), "has stride"),
        (dict(offset=-1), "no shape"),
        (dict(strides=(1, 1)), "no shape"),
        (dict(numel=-4), "elements"),
        (dict(numel=1 << 61, shape=(1 << 61,)), "more than 16 times"),
        (dict(numel=5), "expected 20"),
        (dict(key="1"), "storage '1' is missing"),
        (dict(key="../0"), "missing"),
        (dict(kind="ComplexFloatStorage"), "not supported"),
        (dict(marks=b"X\x03\x00\x00\x00neg\x88", kind="IntStorage"), "int32 is marked neg"),
        (dict(marks=b"X\x04\x00\x00\x00conj\x88"), "float32 is marked conj"),
        (dict(kind="BoolStorage", numel=16), "bool bytes"),
    ):
        refused(tmp_path, zip_of(tensor_pickle(**options), {"0": four}), match)


def test_small_files_cannot_ask_for_much_memory(tmp_path, request):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/data/0", b"\0" * 40_000_000)
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    refused(tmp_path, zip_of(b"\x80\x02K\x01r\xff\xff\xff\xff0."), "one value")  # memo 4294967295
    refused(tmp_path, zip_of(b"\x80\x02B\xff\xff\xff\x7fab."), "damaged")
    refused(tmp_path, zip_of(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00ab."), "damaged")
    refused(tmp_path, zip_of(b"I" + b"9" * 20_000 + b"\n."), "damaged|refused")
    twice = b"\x80\x02)" + b"2\x86" * 200 + b"."
    refused(tmp_path, zip_of(twice), "DUP")
    doubled = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"q\x00}h\x00K\x01s."
    refused(tmp_path, zip_of(doubled), "key of a dict is a tuple")  # to hash it would take 2**60 steps
    deep = b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."
    path = tmp_path / "deep.pt"
    path.write_bytes(zip_of(deep))
    assert isinstance(fc.load_torch(path), list)
    refused(tmp_path, bomb.getvalue(), "compressed")
    refused(tmp_path, zip_of(b"\x80\x02N.").replace(b"data.pkl", b"date.pkl"), "without data.pkl")
    assert tracemalloc.get_traced_memory()[1] < 30_000_000


def test_other_files_are_told_apart(torch, tmp_path):
    scripted = tmp_path / "bad.pt"
    with zipfile.ZipFile(scripted, "w") as archive:
        archive.writestr("bad/data.pkl", b"\x80\x02N.")
        archive.writestr("bad/constants.pkl", b"\x80\x02).")
    with pytest.raises(ValueError, match="TorchScript"):
        fc.load_torch(scripted)
    for data in (b"", b"P", b"PK\x03\x04", b"hello", bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(64)):
        refused(tmp_path, data, "load_torch: ")
    with pytest.raises(FileNotFoundError):
        fc.load_torch(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"refused torch.nn.modules.linear.Linear.*state_dict"):
        fc.load_torch(save(torch, torch.nn.Linear(2, 2), tmp_path / "whole.pt"))
    with pytest.raises(ValueError, match="ComplexFloatStorage are not supported"):
        fc.load_torch(save(torch, torch.ones(2, dtype=torch.complex64), tmp_path / "complex.pt", False))


@both
def test_cut_files_are_refused_at_every_length(torch, tmp_path, zipped):
    saved = {"a": torch.arange(30.0), "b": torch.ones(2, dtype=torch.bfloat16), "n": 3}
    data = save(torch, saved, tmp_path / "t.pt", zipped).read_bytes()
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cut.pt"):
            fc.load_torch(path)
    path.write_bytes(data + b"xxxxxxxx")
    if not zipped:
        with pytest.raises(ValueError, match="8 bytes after"):
            fc.load_torch(path)


@both
def test_flipped_bits_give_a_value_error_or_a_whole_result(torch, tmp_path, zipped):
    """Of the old format values may change, which has no checksum; the zip's values may not."""
    saved = {"a": torch.arange(30.0), "b": torch.ones(2, dtype=torch.bfloat16), "n": 3}
    data = save(torch, saved, tmp_path / "t.pt", zipped).read_bytes()
    rng, path, errors = random.Random(0), tmp_path / "flip.pt", 0
    for _ in range(400):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            read = fc.load_torch(path)
        except ValueError as e:
            errors += "flip.pt" in str(e)
            continue
        if zipped:
            assert read["n"] == 3
            assert_same(read["a"], saved["a"])
            assert_same(read["b"], saved["b"])
    assert errors > 50


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools
def test_changed_pickles_give_a_value_error_or_a_result(torch, tmp_path):
    """Bytes changed, cut out and repeated behind an intact zip file, whose checksum would else catch them."""
    path = save(torch, {"a": torch.arange(6.0).reshape(2, 3), "s": [1, (2.5, None), {"x"}]}, tmp_path / "t.pt")
    with zipfile.ZipFile(path) as archive:
        names = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    storages = {n.removeprefix("data/"): data for n, data in names.items() if n.startswith("data/")}
    rng, errors = random.Random(0), 0
    for _ in range(400):
        changed = bytearray(names["data.pkl"])
        at, length = rng.randrange(len(changed)), rng.randrange(1, 20)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            del changed[at : at + length]
        else:
            other = rng.randrange(len(changed))
            changed[at:at] = changed[other : other + length]
        path.write_bytes(zip_of(bytes(changed), storages))
        try:
            fc.load_torch(path)
        except ValueError as e:
            errors += "t.pt" in str(e)
    assert errors > 200


def test_the_machine_knows_no_python_object():
    known = [*_torch_pickle._CALLS.values()]
    assert all(f.__module__ == _torch_pickle.__name__ for f in known)
    assert {n.module.split(".")[0] for n in _torch_pickle._KNOWN} <= {
        "torch", "collections", "builtins", "__builtin__", "_codecs",
    }  # fmt: skip
    assert not {n.name for n in _torch_pickle._KNOWN if "torch" not in n.module} - {
        "set", "bytes", "encode", "Counter", "OrderedDict",
    }  # fmt: skip
