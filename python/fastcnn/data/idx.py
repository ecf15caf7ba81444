"""IDX files (the MNIST family's format): read plain, .gz or .xz, and write.

Every damaged file is a ValueError that names the path, what was expected and what was found. Memory follows
the bytes that are really there, never the sizes the header claims. Not a dataset: see datasets.py.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from .._files import atomic_write

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(d).newbyteorder("="): code for code, d in _DTYPES.items()}
_CHUNK = 1 << 20


def _open(file, path):
    magic = file.read(6)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if magic == b"\xfd7zXZ\x00":
        try:
            import lzma
        except ImportError as error:
            raise ValueError(
                f"{path}: xz-compressed, but this Python was built without the lzma module"
            ) from error
        return lzma.LZMAFile(file)
    return file


def _read_header(stream, path):
    head = stream.read(4)
    if len(head) < 4:
        raise ValueError(f"{path}: expected an IDX file (4-byte magic), got {len(head)} bytes")
    if head[0] != 0 or head[1] != 0 or head[2] not in _DTYPES or head[3] == 0:
        codes = "/".join(f"{c:02x}" for c in _DTYPES)
        raise ValueError(f"{path}: expected IDX magic 00 00 ({codes}) (rank > 0), got {head.hex(' ')}")
    rank = head[3]
    dims = stream.read(4 * rank)
    if len(dims) < 4 * rank:
        raise ValueError(f"{path}: truncated IDX header: expected {4 + 4 * rank} bytes, got {4 + len(dims)}")
    shape = tuple(int(d) for d in np.frombuffer(dims, ">u4"))
    return np.dtype(_DTYPES[head[2]]), shape


def _read_payload(stream, nbytes):
    """At most nbytes + 1 bytes, in chunks: a header that promises 4 GB allocates nothing by itself."""
    payload = bytearray()
    while len(payload) <= nbytes:
        chunk = stream.read(min(_CHUNK, nbytes + 1 - len(payload)))
        if not chunk:
            break
        payload += chunk
    return payload


def read_idx(path, shape=None, dtype=None):
    """Reads one IDX file and returns a writable array in native byte order.

    Args: path: plain, gzip or xz, told by content. shape: expected shape, None in it matches any size, e.g.
    (None, 28, 28). dtype: expected dtype.
    Raises: FileNotFoundError; ValueError for a damaged file or one of another shape or dtype.
    """
    path = Path(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        stream = _open(file, path)
        try:
            found, dims = _read_header(stream, path)
            nbytes = math.prod(dims) * found.itemsize
            if stream is file and 4 + 4 * len(dims) + nbytes != size:
                raise ValueError(
                    f"{path}: expected {4 + 4 * len(dims) + nbytes} bytes for the IDX shape {dims} of "
                    f"its header, got {size}"
                )
            payload = _read_payload(stream, nbytes)
        except ValueError:
            raise
        except MemoryError:
            raise MemoryError(f"{path}: no memory for the IDX shape {dims} ({nbytes} bytes)") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged or truncated gzip file: {error}") from error
        except OSError:
            raise
        except Exception as error:  # lzma.LZMAError, named without importing lzma
            if type(error).__name__ != "LZMAError":
                raise
            raise ValueError(f"{path}: damaged or truncated xz file: {error}") from error
    if len(payload) != nbytes:
        got = f"only {len(payload)}" if len(payload) < nbytes else "more"
        raise ValueError(f"{path}: expected {nbytes} bytes of data for the IDX shape {dims}, got {got}")
    if shape is not None and (
        len(shape) != len(dims) or any(e is not None and e != g for e, g in zip(shape, dims, strict=True))
    ):
        raise ValueError(f"{path}: expected IDX shape {tuple(shape)} (None = any), got {dims}")
    if dtype is not None and np.dtype(dtype) != found.newbyteorder("="):
        raise ValueError(f"{path}: expected IDX dtype {np.dtype(dtype)}, got {found.newbyteorder('=')}")
    try:
        array = np.frombuffer(payload, found).reshape(dims)
    except ValueError as error:  # a zero among sizes whose product overflows
        raise ValueError(f"{path}: IDX shape {dims} is not a possible array: {error}") from error
    return array.astype(found.newbyteorder("="), copy=False)


def write_idx(path, array):
    """Writes an array as IDX, atomically; compressed if the name ends in .gz or .xz.

    dtypes: uint8 int8 int16 int32 float32 float64; rank 1 to 255; each size below 2**32. Else a ValueError.
    """
    array = np.asarray(array)
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        names = " ".join(str(d) for d in _CODES)
        raise ValueError(f"write_idx: expected a dtype of {names}, got {array.dtype}")
    if not 1 <= array.ndim <= 255 or any(n >= 1 << 32 for n in array.shape):
        raise ValueError(f"write_idx: expected rank 1 to 255 and sizes below 2**32, got shape {array.shape}")
    header = bytes((0, 0, code, array.ndim)) + np.asarray(array.shape, ">u4").tobytes()
    data = header + array.astype(_DTYPES[code], copy=False).tobytes()
    suffix = Path(path).suffix
    if suffix == ".gz":
        data = gzip.compress(data, 9, mtime=0)
    elif suffix == ".xz":
        import lzma

        data = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    with atomic_write(path) as file:
        file.write(data)
