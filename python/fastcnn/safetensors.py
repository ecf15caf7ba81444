"""Reading and writing safetensors files: named tensors in one flat file that can hold no code.

The format (huggingface.co/docs/safetensors): header length as a little-endian u64, a JSON header {name:
{dtype, shape, data_offsets}}, then the bytes of all tensors without holes. Values are row-major in logical
order, so 4-D weights lie as O,I,kH,kW whatever the layout in memory. Not a reader of sharded or quantised
sub-byte files.
"""

from __future__ import annotations

import json
import math
import os
import sys

import numpy as np

from . import _core
from ._files import atomic_write

MAX_HEADER = 100_000_000  # bytes; the limit of the format's own reader

# name in the file -> (dtype of fastcnn, NumPy dtype of the bytes)
_DTYPES = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"),
    "I32": ("int32", "<i4"),
    "I8": ("int8", "i1"),
    "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"),
}
_NAMES = {ours: name for name, (ours, _) in _DTYPES.items()}


def bits_of(tensor):
    """A row-major little-endian NumPy array with the bytes of a tensor; bfloat16 comes as uint16."""
    tensor = tensor.detach().to("cpu")
    if str(tensor.dtype) == "bfloat16":
        wide = np.ascontiguousarray(tensor.to("float32").numpy())
        return (wide.view(np.uint32) >> np.uint32(16)).astype("<u2").reshape(tensor.shape)
    a = tensor.numpy()
    return np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C")


def from_bits(array, dtype):
    """The tensor whose bytes are `array` (see bits_of); dtype is the name of fastcnn's dtype."""
    if dtype == "bfloat16":
        wide = (np.asarray(array, dtype=np.uint32) << np.uint32(16)).view(np.float32)
        return _core.tensor(wide, dtype="bfloat16")
    return _core.tensor(np.asarray(array, dtype=array.dtype.newbyteorder("=")))


def save_file(tensors, path, metadata=None):
    """Writes {name: Tensor} to `path`; the old file stays whole until the new one is on disk.

    metadata: {str: str} kept in the header. Raises TypeError for values that are no tensors or metadata
    that is not text.
    """
    if not isinstance(tensors, dict):
        raise TypeError(f"save_file: expected a dict of names and tensors, got {type(tensors).__name__}")
    metadata = dict(metadata or {})
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"save_file: expected metadata of str to str, got {key!r}: {type(value).__name__}"
            )
    header = {"__metadata__": metadata} if metadata else {}
    sizes = {}
    for name, t in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"save_file: expected names of tensors as str (not '__metadata__'), got {name!r}")
        if not isinstance(t, _core.Tensor):
            raise TypeError(f"save_file: expected a Tensor for {name!r}, got {type(t).__name__}")
        kind = _NAMES[str(t.dtype)]
        header[name] = {"dtype": kind, "shape": list(t.shape)}
        sizes[name] = np.dtype(_DTYPES[kind][1]).itemsize
    # Wide elements first: every tensor is then aligned for readers that map the file.
    order = sorted(sizes, key=lambda name: -sizes[name])
    offset = 0
    for name in order:
        size = math.prod(header[name]["shape"]) * sizes[name]
        header[name]["data_offsets"] = [offset, offset + size]
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"save_file: header of {len(text)} bytes is over the format's limit of {MAX_HEADER}")
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(bits_of(tensors[name]).data)


def _unique(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _is_size(v):
    return isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62


def _read_header(file, path):
    """(header without metadata, metadata, start of the data, bytes of data); every bound is checked."""

    def damaged(why):
        return ValueError(f"{os.fspath(path)}: not a whole safetensors file: {why}")

    total = os.fstat(file.fileno()).st_size
    head = file.read(8)
    if len(head) < 8:
        raise damaged(f"expected 8 bytes of header length, got {len(head)}")
    length = int.from_bytes(head, "little")
    if length > MAX_HEADER:
        raise damaged(f"header length {length} is over the format's limit of {MAX_HEADER}")
    if length > total - 8:
        raise damaged(f"header of {length} bytes, but only {total - 8} follow")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise damaged(f"header is not JSON ({e})") from None
    if not isinstance(header, dict):
        raise damaged(f"header is a JSON {type(header).__name__}, expected an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged("metadata is not an object of strings")
    size = total - 8 - length
    spans = []
    for name, info in header.items():
        if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= info.keys():
            raise damaged(f"entry {name!r} lacks dtype, shape or data_offsets")
        kind, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        if not isinstance(kind, str) or kind not in _DTYPES:
            raise ValueError(
                f"{os.fspath(path)}: tensor {name!r} has dtype {kind!r}; expected one of {', '.join(_DTYPES)}"
            )
        if not isinstance(shape, list) or not all(map(_is_size, shape)):
            raise damaged(f"tensor {name!r} has shape {shape!r}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
            raise damaged(f"tensor {name!r} has data_offsets {offsets!r}")
        begin, end = offsets
        need = math.prod(shape) * np.dtype(_DTYPES[kind][1]).itemsize
        if end - begin != need:
            raise damaged(
                f"tensor {name!r} {kind} {tuple(shape)} needs {need} bytes, its offsets give {end - begin}"
            )
        if end > size:
            raise damaged(f"tensor {name!r} ends at byte {end} of {size}: the file is cut short")
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise damaged(
                f"tensor {name!r} begins at byte {begin}, expected {at}: tensors overlap or leave a hole"
            )
        at = end
    if at != size:
        raise damaged(f"{size - at} bytes after the last tensor")
    return header, metadata, 8 + length


def load_file(path):
    """{name: Tensor} of a safetensors file, on the CPU; ValueError says what is wrong with a damaged one."""
    tensors = {}
    with open(os.fspath(path), "rb") as file:
        header, _, start = _read_header(file, path)
        for name, info in header.items():
            dtype, raw = _DTYPES[info["dtype"]]
            begin, end = info["data_offsets"]
            file.seek(start + begin)
            array = np.empty(end - begin, np.uint8)
            if file.readinto(array.data) != end - begin:
                raise ValueError(f"{os.fspath(path)}: tensor {name!r} is cut short")
            if raw == "?" and (array > 1).any():
                raise ValueError(f"{os.fspath(path)}: tensor {name!r} has BOOL bytes other than 0 and 1")
            tensors[name] = from_bits(array.view(raw).reshape(info["shape"]), dtype)
    return tensors


def load_metadata(path):
    """{str: str} from the header of a safetensors file; no tensor is read."""
    with open(os.fspath(path), "rb") as file:
        return _read_header(file, path)[1]


def load_state(path):
    """{name: Tensor} of a checkpoint written by Module.save or any safetensors writer."""
    return load_file(path)


if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("fastcnn.safetensors: big-endian machines are not supported")
