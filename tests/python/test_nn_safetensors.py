"""Own safetensors files: round trips, the official reader and writer, and damaged files."""

import json
import math
import os

import numpy as np
import pytest
from fastcnn import _core, safetensors


def tensors():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": _core.tensor(rng.standard_normal((4, 3, 2, 5)).astype(np.float32)),
        "scalar": _core.tensor(np.int64(7)),
        "flags": _core.tensor(np.array([True, False, True])),
        "half": _core.tensor(rng.standard_normal((2, 3)).astype(np.float16)),
        "double": _core.tensor(rng.standard_normal((3,))),
        "bf16": _core.tensor(rng.standard_normal((3, 2, 2, 2)).astype(np.float32)).to("bfloat16"),
        "bytes": _core.tensor(np.arange(5, dtype=np.uint8)),
        "int8": _core.tensor(np.arange(-2, 3, dtype=np.int8)),
        "int32": _core.tensor(np.arange(4, dtype=np.int32).reshape(2, 2)),
        "none": _core.tensor(np.zeros((0, 3), np.float32)),
    }


def values(t):
    return t.to("float32").numpy() if str(t.dtype) == "bfloat16" else t.numpy()


def test_round_trip(tmp_path):
    path, before = tmp_path / "a.safetensors", tensors()
    safetensors.save_file(before, path, {"epoch": "3", "naïve": "é"})
    after = safetensors.load_file(path)
    assert list(after) == list(before)
    for name, t in before.items():
        assert after[name].dtype == t.dtype and after[name].shape == t.shape
        np.testing.assert_array_equal(values(after[name]), values(t))
    assert safetensors.load_metadata(path) == {"epoch": "3", "naïve": "é"}
    assert safetensors.load_state(path).keys() == before.keys()
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_empty_file_round_trip(tmp_path):
    safetensors.save_file({}, tmp_path / "a")
    assert safetensors.load_file(tmp_path / "a") == {}


def test_official_package_reads_ours(tmp_path):
    official = pytest.importorskip("safetensors.numpy")
    path, before = tmp_path / "a", tensors()
    bf16 = before.pop("bf16")
    safetensors.save_file(before, path)
    after = official.load_file(path)
    assert after.keys() == before.keys()
    for name, t in before.items():
        np.testing.assert_array_equal(after[name], t.numpy())
    torch, official = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    safetensors.save_file({"bf16": bf16}, path)
    back = official.load_file(path)["bf16"]
    assert back.dtype == torch.bfloat16
    np.testing.assert_array_equal(back.float().numpy(), values(bf16))


def test_we_read_the_official_package(tmp_path):
    torch, official = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    x = {"w": torch.randn(4, 3, 2, 2), "b": torch.randn(5).bfloat16(), "n": torch.tensor(3)}
    official.save_file(x, tmp_path / "a", {"k": "v"})
    ours = safetensors.load_file(tmp_path / "a")
    assert ours.keys() == x.keys() and safetensors.load_metadata(tmp_path / "a") == {"k": "v"}
    for name, t in x.items():
        np.testing.assert_array_equal(values(ours[name]), t.float().numpy() if name == "b" else t.numpy())


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def f32(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "no length": (None, b"\x01\x02", "8 bytes"),
    "empty file": (None, b"", "8 bytes"),
    "length beyond the file": (None, (1000).to_bytes(8, "little") + b"{}", "only 2 follow"),
    "length beyond all": (None, (2**63).to_bytes(8, "little") + b"{}", "limit"),
    "no JSON": (b"{nope", b"", "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not JSON"),
    "deep JSON": (b"[" * 200_000, b"", "not JSON"),
    "a list": ([], b"", "list"),
    "a name twice": (b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{}}', bytes(4), "twice"),
    "entry is a number": ({"a": 3}, b"", "lacks"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, b"", "lacks"),
    "unknown dtype": ({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, bytes(4), "F4"),
    "negative size": ({"a": f32([-1], 0, 4)}, bytes(4), "shape"),
    "fractional size": ({"a": f32([1.5], 0, 4)}, bytes(4), "shape"),
    "offsets swapped": ({"a": f32([1], 4, 0)}, bytes(4), "offsets"),
    "too few bytes": ({"a": f32([3], 0, 8)}, bytes(8), "needs 12 bytes"),
    "huge shape": ({"a": f32([2**40, 2**40], 0, 4)}, bytes(4), "needs"),
    "cut short": ({"a": f32([4], 0, 16)}, bytes(12), "cut short"),
    "overlap": ({"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, bytes(12), "overlap"),
    "hole": ({"a": f32([1], 0, 4), "b": f32([1], 8, 12)}, bytes(12), "hole"),
    "bytes left over": ({"a": f32([1], 0, 4)}, bytes(9), "5 bytes after"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "metadata"),
    "bool of 2": ({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\x02", "BOOL"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(tmp_path, case):
    header, data, message = DAMAGED[case]
    path = tmp_path / "bad.safetensors"
    if header is None:
        path.write_bytes(data)
    else:
        write(path, header, data)
    with pytest.raises(ValueError, match=message) as e:
        safetensors.load_file(path)
    assert "bad.safetensors" in str(e.value)


def test_every_truncation_is_noticed(tmp_path):
    safetensors.save_file({"a": _core.tensor(np.arange(6, dtype=np.float32))}, tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for n in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="safetensors"):
            safetensors.load_file(tmp_path / "b")


def test_random_damage_never_crashes(tmp_path):
    safetensors.save_file(tensors(), tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(header)] = rng.integers(256)
        (tmp_path / "b").write_bytes(damaged)
        try:
            safetensors.load_file(tmp_path / "b")
            outcomes.add("read")  # the byte was part of a name
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    safetensors.save_file({"a": _core.tensor(np.ones(3, np.float32))}, path)
    old = path.read_bytes()
    with pytest.raises(TypeError, match="'b'"):
        safetensors.save_file({"b": [1, 2]}, path)
    with pytest.raises(TypeError, match="metadata"):
        safetensors.save_file({}, path, {"a": 1})
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["a"]


def test_data_is_row_major_and_aligned(tmp_path):
    a = np.arange(math.prod((2, 3, 4, 5)), dtype=np.float32).reshape(2, 3, 4, 5)
    safetensors.save_file({"flag": _core.tensor(np.array([True])), "w": _core.tensor(a)}, tmp_path / "a")
    raw = (tmp_path / "a").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8:start])["w"]["data_offsets"]
    assert (start + begin) % 8 == 0
    np.testing.assert_array_equal(np.frombuffer(raw[start + begin : start + end], np.float32), a.ravel())
