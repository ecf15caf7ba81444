"""Event files that TensorBoard reads: scalars as TFRecords of Event messages, written without TensorBoard.

Formats: tensorflow/core/lib/io/record_writer (length, checksum, data, checksum) and protobuf's wire format. A file only
grows; a record that a crash has cut off is left out by readers. What is not here: images and histograms.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from pathlib import Path

_CASTAGNOLI = 0x82F63B78


def _table():
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        rows.append(value)
    return rows


_TABLE = _table()


def masked_crc32c(data):
    """CRC-32C of bytes, rotated and offset as TFRecords want it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes_field(number, data):
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _float32(value):
    """The four bytes of a number; infinite where it is beyond their range."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _event(wall_time, step=0, payload=b""):
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + payload


class EventWriter:
    """Appends scalars to a new events.out.tfevents file in a folder, which is made if missing.

    first_step: where there are files already, their points from this step on are void to readers (SessionLog.START).
    """

    def __init__(self, folder, first_step=None):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        before = first_step is not None and any(folder.glob("events.out.tfevents.*"))
        host = socket.gethostname() or "localhost"
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{host}.{os.getpid()}"
        self._file = open(self.path, "xb")  # noqa: SIM115 - lives as long as the writer
        self._record(_event(time.time(), payload=_bytes_field(3, b"brain.Event:2")))
        if before:
            self._record(_event(time.time(), first_step, _bytes_field(7, b"\x08\x01")))

    def scalars(self, values, step):
        """values: {tag: number}, all of one step, an int of at least 0. Written to the file before it returns."""
        summary = b"".join(
            _bytes_field(1, _bytes_field(1, tag.encode()) + b"\x15" + _float32(value))
            for tag, value in values.items()
        )
        self._record(_event(time.time(), int(step), _bytes_field(5, summary)))

    def _record(self, data):
        head = struct.pack("<Q", len(data))
        crc = struct.pack("<I", masked_crc32c(head)), struct.pack("<I", masked_crc32c(data))
        self._file.write(head + crc[0] + data + crc[1])
        self._file.flush()

    def close(self):
        """Ends the file."""
        self._file.close()
