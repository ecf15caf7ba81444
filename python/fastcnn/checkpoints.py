"""Checkpoints: weights and the whole state of a training run in one safetensors file, with a checksum.

Weights lie under their own names, so that any safetensors reader finds them; everything else (optimizer, averages,
random state) under names that begin with "__state__.", numbers as JSON in the metadata. Written to a temporary
name, fsynced and renamed. What a trainer puts in is the trainer's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from . import _core, safetensors
from ._files import fsync_dir

STATE_PREFIX = "__state__."
_FORMAT, _VERSION = "fastcnn-checkpoint", 1


class Checkpoint(NamedTuple):
    """weights: {name: Tensor}; tensors: the same for state; state: JSON values or None; metadata: JSON values."""

    weights: dict
    tensors: dict
    state: dict | None
    metadata: dict


def _digest(arrays, texts):
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    for name in sorted(arrays):
        array, dtype = arrays[name]
        digest.update(f"{len(name)}:{name} {dtype} {tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view("u1").data)
    return digest.hexdigest()


def _with_bits(tensors):
    return {name: (safetensors.bits_of(t), str(t.dtype)) for name, t in tensors.items()}


def save_checkpoint(path, weights, tensors=None, state=None, metadata=None, keep_previous=False):
    """Writes a checkpoint.

    Args: weights: {name: Tensor}. tensors: {name: Tensor} of other state. state, metadata: JSON values; state
    None marks a file of weights alone. keep_previous: the file that `path` replaces stays as "<stem>-1".
    Raises: ValueError for a weight name that begins like state, OSError where the disk refuses.
    """
    path = Path(path)
    taken = [name for name in weights if name.startswith(STATE_PREFIX)]
    if taken:
        raise ValueError(f"save_checkpoint: names of weights cannot begin with {STATE_PREFIX!r}, got {taken[0]!r}")
    everything = dict(weights)
    everything.update({STATE_PREFIX + name: t for name, t in (tensors or {}).items()})
    arrays = _with_bits(everything)
    texts = [json.dumps(state), json.dumps(metadata or {})]
    header = {
        "format": _FORMAT, "version": str(_VERSION), "state": texts[0], "metadata": texts[1],
        "checksum": _digest(arrays, texts),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    if keep_previous and path.is_file():
        _keep(path)
    # What was hashed is what is written, whatever happens to the tensors meanwhile.
    frozen = {name: safetensors.from_bits(bits, dtype) for name, (bits, dtype) in arrays.items()}
    safetensors.save_file(frozen, path, header)


def previous_path(path):
    """Where save_checkpoint(keep_previous=True) leaves the file before `path`."""
    path = Path(path)
    return path.with_name(f"{path.stem}-1{path.suffix}")


def _keep(path):
    """A second name for the file, so that `path` itself is never absent."""
    tmp = path.with_name(f".{path.stem}-1.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        tmp.unlink()
    try:
        os.link(os.path.realpath(path), tmp)
    except OSError:  # no hard links here: the rename of the new file is atomic all the same
        return
    os.replace(tmp, previous_path(path))
    fsync_dir(path.parent)


def load_checkpoint(path):
    """The Checkpoint in a file, whose checksum is verified; plain safetensors files give weights alone.

    Raises: FileNotFoundError; ValueError naming the file if it is damaged, cut short or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        header, everything = safetensors.load_metadata(path), safetensors.load_file(path)
    except ValueError as error:
        raise ValueError(_damaged(path, error)) from None
    weights = {k: t for k, t in everything.items() if not k.startswith(STATE_PREFIX)}
    if header.get("format") != _FORMAT:
        return Checkpoint(weights, {}, None, {})
    if header.get("version") != str(_VERSION):
        raise ValueError(
            f"{path}: checkpoint of version {header.get('version')}, this fastcnn reads version {_VERSION}"
        )
    texts = [header.get("state", ""), header.get("metadata", "")]
    if _digest(_with_bits(everything), texts) != header.get("checksum"):
        raise ValueError(_damaged(path, "its checksum does not fit its content"))
    state, metadata = (json.loads(text) for text in texts)
    tensors = {k.removeprefix(STATE_PREFIX): t for k, t in everything.items() if k.startswith(STATE_PREFIX)}
    return Checkpoint(weights, tensors, state, metadata)


def _damaged(path, why):
    message = f"{path}: damaged checkpoint: {str(why).removeprefix(f'{path}: ')}"
    previous = previous_path(path)
    return f"{message}; the one before it is {previous}" if previous.is_file() else message


def load_weights(path):
    """{name: Tensor} of a checkpoint or of a plain safetensors file, without the state of training."""
    return load_checkpoint(path).weights


def pack_optimizer(optimizer):
    """(tensors, JSON values) of an optimizer's state_dict, with the name of its class."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, _core.Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
            else:
                numbers.setdefault(str(number), {})[name] = value
    return tensors, {"name": type(optimizer).__name__, "state": numbers, "param_groups": state["param_groups"]}


def unpack_optimizer(tensors, packed, optimizer=None):
    """A state_dict of what pack_optimizer gave. Raises: ValueError where `optimizer`, if given, is of another class."""
    saved, own = packed.get("name"), type(optimizer).__name__  # files of before name no class
    if optimizer is not None and saved not in (None, own):
        raise ValueError(f"it holds the state of {saved}, the optimizer is {own}")
    state = {int(number): dict(values) for number, values in packed["state"].items()}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = tensor
    return {"state": state, "param_groups": packed["param_groups"]}
