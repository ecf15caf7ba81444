"""load_torch: the tensors of PyTorch's .pt and .pth files, read without PyTorch and without running code of the file.

Two formats: the zip file that torch.save writes since version 1.6 and the row of pickles of before. Every pickle goes
through the machine of _torch_pickle.py. Not a reader of TorchScript archives, of whole modules, or of the tar files
from before PyTorch 0.1.10.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib

import numpy as np

from . import _core, _torch_pickle
from ._torch_pickle import Skipped
from .safetensors import MAX_HEADER, from_bits

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the old format
_SLACK = 1 << 26  # bytes


class _Budget:
    """Makes tensors and remembers what is to be filled in; many views of few bytes cannot ask for all memory."""

    def __init__(self, file_size):
        self.left, self.views = 16 * file_size + _SLACK, []

    def make(self, view):
        """An empty tensor for the view."""
        numel = 1
        for n in view.shape:
            numel *= n
        self.left -= numel * _core.dtype(view.storage.dtype).itemsize
        if self.left < 0:
            raise ValueError(
                f"a tensor of shape {view.shape} makes the tensors more than 16 times as large as the file: refused"
            )
        tensor = _core.empty(view.shape, dtype=view.storage.dtype)
        self.views.append((tensor, view))
        return tensor

    def fill(self, read_storage):
        """read_storage(Storage) -> its bytes, for each storage once."""
        by_key = {}
        for tensor, view in self.views:
            same = by_key.setdefault(view.storage.key, (view.storage, []))
            if same[0] != view.storage:
                raise ValueError(f"storage {view.storage.key!r} is described in two ways")
            same[1].append((tensor, view))
        for storage, members in by_key.values():
            elements = np.frombuffer(read_storage(storage), storage.raw)
            if storage.dtype == "bool" and (elements.view(np.uint8) > 1).any():
                raise ValueError(f"storage {storage.key!r} has bool bytes other than 0 and 1")
            for tensor, view in members:
                if tensor.numel() == 0:
                    continue
                strides = tuple(s * elements.itemsize for s in view.strides)
                values = np.lib.stride_tricks.as_strided(elements[view.offset :], view.shape, strides, writeable=False)
                values = np.ascontiguousarray(values).reshape(view.shape)
                if storage.dtype != "bfloat16":  # 16-bit integers come as int32
                    values = values.astype(storage.dtype, copy=False)
                tensor.copy_(from_bits(-values if view.negative else values, storage.dtype))


def _read_zip(file, size, skip_unknown):
    with zipfile.ZipFile(file) as archive:
        names = {}
        for info in archive.infolist():
            if info.filename in names:
                raise ValueError(f"{info.filename!r} stands in the zip file twice")
            names[info.filename] = info
        pickles = [n for n in names if n.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ValueError("a zip file without data.pkl: not written by torch.save")
        root = pickles[0].split("/")[0]
        if f"{root}/constants.pkl" in names:
            raise ValueError("a TorchScript archive, which holds code; torch.save(model.state_dict(), path) instead")
        for info in names.values():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError(f"{info.filename!r} is compressed, which PyTorch's files are not")
        order = archive.read(f"{root}/byteorder") if f"{root}/byteorder" in names else b"little"
        if order != b"little":
            raise ValueError(f"written with byte order {order[:10]!r}, expected little")
        budget = _Budget(size)
        value = _torch_pickle.read(io.BytesIO(archive.read(pickles[0])), budget.make, skip_unknown)

        def storage_bytes(storage):
            name = f"{root}/data/{storage.key}"
            if name not in names:
                raise ValueError(f"storage {storage.key!r} is missing")
            need = storage.numel * storage.raw.itemsize
            if names[name].file_size != need:
                raise ValueError(f"storage {storage.key!r} has {names[name].file_size} bytes, expected {need}")
            return archive.read(name)

        budget.fill(storage_bytes)
    return value


def _no_tensor(view):
    raise ValueError("a tensor stands where the header of the file is expected")


def _read_old(file, size, skip_unknown):
    if _torch_pickle.read(file, _no_tensor) != MAGIC:
        raise ValueError("the first pickle is not PyTorch's magic number: not written by torch.save")
    version = _torch_pickle.read(file, _no_tensor)
    if version != PROTOCOL:
        raise ValueError(f"version {str(version)[:20]} of the old format, expected {PROTOCOL}")
    system = _torch_pickle.read(file, _no_tensor)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    budget = _Budget(size)
    value = _torch_pickle.read(file, budget.make, skip_unknown)
    keys = _torch_pickle.read(file, _no_tensor)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(set(keys)) != len(keys):
        raise ValueError("the list of storages is damaged")
    known = {view.storage.key: view.storage for _, view in budget.views}
    places = {}
    for key in keys:
        head = file.read(8)
        if len(head) != 8:
            raise ValueError(f"storage {key!r} is cut short")
        if key not in known:  # its type stands nowhere, and with it where the next one begins
            raise ValueError(f"storage {key!r} belongs to no tensor")
        (numel,) = struct.unpack("<q", head)
        if numel != known[key].numel:
            raise ValueError(f"storage {key!r} has {numel} elements, expected {known[key].numel}")
        places[key] = file.tell()
        if places[key] + numel * known[key].raw.itemsize > size:
            raise ValueError(f"storage {key!r} is cut short")
        file.seek(numel * known[key].raw.itemsize, os.SEEK_CUR)
    if file.tell() != size:
        raise ValueError(f"{size - file.tell()} bytes after the last storage")

    def storage_bytes(storage):
        if storage.key not in places:
            raise ValueError(f"storage {storage.key!r} is missing")
        file.seek(places[storage.key])
        return file.read(storage.numel * storage.raw.itemsize)

    budget.fill(storage_bytes)
    return value


def kind_of_file(path):
    """"torch" or "safetensors" by what a file begins with, whatever its name; None where that tells nothing.

    Raises: ValueError for what stands in the place of weights when a download went wrong.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER:  # first: its length is any bytes
        return "safetensors"
    again = "download the file again"
    if not start:
        raise ValueError(f"an empty file; {again}")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("a Git LFS pointer, not the file that it stands for; get that with git lfs pull")
    if start.lstrip().startswith(b"<"):
        raise ValueError(f"a web page (it begins with {start.lstrip()[:15]!r}), not weights; {again}")
    return "torch" if start[:2] == b"PK" or start[:1] == b"\x80" else None  # a zip file, a pickle


def load_torch(path, *, skip_unknown=False):
    """What torch.save wrote to a .pt or .pth file: tensors on the CPU in the dicts, lists and numbers around them.

    A state_dict comes as {key: Tensor}, a checkpoint as the dict that was saved; keys are as they stand in the file.
    Nothing of the file is run: tensors, plain containers, torch.Size, dtypes (as names) and devices (as text) are read,
    every other object is refused by name. Tensors that shared memory do not here. Dtypes: float64, float32, float16,
    bfloat16, int64, int32, int8, uint8, bool; int16 and uint16 come as int32, uint32 as int64.
    skip_unknown: an object that would be refused (an argparse.Namespace, a number of NumPy) becomes a ``Skipped`` with
    the name of its class and nothing of its content, and the rest is read.
    Raises: ValueError for a damaged file, for objects that are refused and for tensors that exceed the file by far;
    FileNotFoundError and other OSErrors of the disk.
    """
    with open(os.fspath(path), "rb") as file:  # not the number of an open file
        size = os.fstat(file.fileno()).st_size
        start = file.read(4)
        file.seek(0)
        is_zip = start[:2] == b"PK"
        try:
            if kind_of_file(path) == "safetensors":
                raise ValueError("a safetensors file; fc.load_state reads it")
            if is_zip and not zipfile.is_zipfile(file):  # its directory is at the end
                raise ValueError("a zip file without its end: cut short, download it again")
            file.seek(0)
            value = (_read_zip if is_zip else _read_old)(file, size, skip_unknown)
            if isinstance(value, Skipped):
                raise ValueError(f"holds one object of {value.name} and no tensors beside it")
            return value
        except (
            ValueError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, EOFError,
            struct.error, OverflowError, MemoryError,
        ) as e:  # what zipfile raises for damaged archives among them  # fmt: skip
            raise ValueError(f"load_torch: {os.fspath(path)}: {e}") from None
        except OSError as e:  # a damaged zip file points before its beginning
            if e.errno != errno.EINVAL:
                raise
            raise ValueError(f"load_torch: {os.fspath(path)}: the zip file is damaged") from None
