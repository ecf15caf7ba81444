"""Checkpoint files: round trip, checksum, damage of every kind, the file before."""

import json
import os

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import checkpoints as ck
from fastcnn import safetensors


def tensors():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": fc.tensor(rng.standard_normal((4, 3, 3, 3)).astype(np.float32)),
        "bn.num_batches_tracked": fc.tensor(np.int64(7)),
        "half": fc.tensor(rng.standard_normal(5).astype(np.float32)).to(fc.bfloat16),
    }


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(safetensors.bits_of(a[name]), safetensors.bits_of(b[name]))


@pytest.mark.smoke
def test_round_trip(tmp_path):
    path = tmp_path / "a" / "c.safetensors"
    state = {"epoch": 3, "loss": 0.1 + 0.2, "best": float("inf"), "rows": [None, 1.5]}
    ck.save_checkpoint(path, tensors(), {"random": fc.tensor(np.array([1, 2]))}, state, {"model": "x"})
    found = ck.load_checkpoint(path)
    same(found.weights, tensors())
    assert found.tensors["random"].tolist() == [1, 2]
    assert found.state == state
    assert found.metadata == {"model": "x"}
    same(ck.load_weights(path), tensors())
    same(fc.load_state(path), tensors())  # state of training is no weight
    assert os.listdir(path.parent) == ["c.safetensors"]


def test_plain_files_are_weights(tmp_path):
    path = tmp_path / "plain.safetensors"
    safetensors.save_file(tensors(), path)
    found = ck.load_checkpoint(path)
    same(found.weights, tensors())
    assert found.state is None
    assert found.metadata == {}


def test_readable_by_the_reference_reader(tmp_path):
    reader = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "c.safetensors"
    weights = {k: v for k, v in tensors().items() if k != "half"}
    ck.save_checkpoint(path, weights, {"random": fc.tensor(np.array([1, 2]))}, {})
    found = reader.load_file(str(path))
    np.testing.assert_array_equal(found["conv.weight"], weights["conv.weight"].numpy())
    assert set(found) == {*weights, "__state__.random"}


def test_every_cut_and_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "c.safetensors"
    ck.save_checkpoint(path, tensors(), {}, {"epoch": 3}, {"model": "x"})
    whole = path.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for cut in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        bad.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="bad.safetensors"):
            ck.load_checkpoint(bad)
    rng = np.random.default_rng(0)
    padding = whole.index(b"}", 8 + int.from_bytes(whole[:8], "little") - 9)
    for at in rng.choice(len(whole), 300, replace=False):
        if padding < at < 8 + int.from_bytes(whole[:8], "little"):
            continue  # spaces after the header mean nothing
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        bad.write_bytes(damaged)
        try:
            found = ck.load_checkpoint(bad)
        except (ValueError, UnicodeDecodeError) as error:
            assert "bad.safetensors" in str(error)
        else:  # only the mark "format" can be hit so that the file reads as a plain one: then it has no state
            assert found.state is None
    bad.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match=r"bad.safetensors: damaged checkpoint"):
        ck.load_checkpoint(bad)


def test_newer_versions_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors: no such checkpoint"):
        ck.load_checkpoint(tmp_path / "none.safetensors")
    path = tmp_path / "c.safetensors"
    header = {"format": "fastcnn-checkpoint", "version": "2", "state": "null", "metadata": "{}", "checksum": ""}
    safetensors.save_file(tensors(), path, header)
    with pytest.raises(ValueError, match="of version 2, this fastcnn reads version 1"):
        ck.load_checkpoint(path)
    with pytest.raises(ValueError, match="cannot begin with"):
        ck.save_checkpoint(path, {"__state__.x": fc.tensor(1.0)})


def test_previous_file_is_kept_and_named(tmp_path):
    path = tmp_path / "last.safetensors"
    for epoch in range(3):
        ck.save_checkpoint(path, tensors(), {}, {"epoch": epoch}, keep_previous=True)
    assert ck.load_checkpoint(path).state == {"epoch": 2}
    assert ck.load_checkpoint(tmp_path / "last-1.safetensors").state == {"epoch": 1}
    assert sorted(os.listdir(tmp_path)) == ["last-1.safetensors", "last.safetensors"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"last.safetensors: damaged.*the one before it is .*last-1"):
        ck.load_checkpoint(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    ck.save_checkpoint(path, tensors(), {}, {"epoch": 0}, keep_previous=True)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        ck.save_checkpoint(path, tensors(), {}, {"epoch": 1}, keep_previous=True)
    monkeypatch.undo()
    assert ck.load_checkpoint(path).state == {"epoch": 0}
    assert not [p for p in os.listdir(tmp_path) if p.endswith(".tmp")]


def test_optimizer_state_round_trip(tmp_path):
    def run(optimizer, params, which):
        for t in which:
            for i, p in enumerate(params):
                p.grad = fc.tensor(np.full(3, t + i, np.float32))
            optimizer.step()

    def make():
        params = [fc.tensor(np.arange(3.0, dtype=np.float32) + i, requires_grad=True) for i in range(2)]
        return params, fc.optim.Adam(params, lr=0.1, betas=(0.8, 0.9))

    params, a = make()
    run(a, params, range(3))
    packed, numbers = ck.pack_optimizer(a)
    path = tmp_path / "c.safetensors"
    ck.save_checkpoint(path, {str(i): p for i, p in enumerate(params)}, packed, json.loads(json.dumps(numbers)))
    found = ck.load_checkpoint(path)
    again, b = make()
    for i, p in enumerate(again):
        with fc.no_grad():
            p.copy_(found.weights[str(i)])
    b.load_state_dict(ck.unpack_optimizer(found.tensors, found.state))
    run(a, params, range(3, 6))
    run(b, again, range(3, 6))
    for p, q in zip(params, again, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    assert b.param_groups[0]["betas"] == (0.8, 0.9)
