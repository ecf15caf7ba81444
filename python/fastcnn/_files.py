"""Writing files so that a crash leaves the old file or the new one, never half of either.

Used by every part that writes a file. Not a file format and not a lock: two writers of one path race, the
last wins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

_TEMPORARY = re.compile(r"\..+?\.(\d+)(\.[0-9a-f]{8})?\.tmp")  # of any process: .NAME.PID.RANDOM.tmp
_DISK_ERRORS = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO") if hasattr(errno, name)}


def legible(name):
    """A name of the file system as text that can be stored and shown: bytes that are no UTF-8 are escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def fsync_dir(path):
    """Makes a rename inside `path` durable; a no-op where directories cannot be opened (Windows)."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def prepare_folder(folder):
    """Makes the folder if it is missing, writes a file in it for a moment, removes what killed writers have left there.

    Raises: OSError that names the folder.
    """
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder}: {error.strerror}") from error
    if os.name != "posix":  # os.kill means something else there
        return
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _is_running(int(found[1])):
            with contextlib.suppress(OSError):  # another process removes it too, or it is not ours to remove
                path.unlink()


def _resolve_target(path):
    """(where a link leads, mode of the file that is there or None).

    Raises: OSError for what is no file: a rename would put a file in the place of a device or pipe.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "cannot write: expected the path of a file, which this is not", os.fspath(path))
    return target, mode & 0o777


@contextlib.contextmanager
def sole_writer(folder):
    """Holds a folder that prepare_folder has made, or None, against other trainings that would write into it.

    The lock is the system's, so no file is left and one who is killed holds nothing. Raises: BlockingIOError.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        fcntl = None
    if folder is None or fcntl is None:
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{folder}: another training writes into this folder; wait for it, or give this one a folder of its own"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_write(path, mode="wb", **open_kwargs):
    """Opens a temporary file beside `path`; on success it is fsynced and renamed to `path`, on error removed.

    Args: path: the final file, or a link to it, which stays; its folder is made if missing. mode: "wb" or "w". Other
    arguments go to open(). A file that is there hands its mode on.
    Raises: OSError where `path` is a folder, device or pipe, and what the system says.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write: expected mode 'wb' or 'w', got {mode!r}")
    path, permissions = _resolve_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.parent / f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        if hasattr(os, "fchmod") and permissions is not None:
            os.fchmod(fd, permissions)
        with os.fdopen(fd, mode, **open_kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(tmp)
        if isinstance(error, OSError) and error.filename is None and error.errno in _DISK_ERRORS:
            error.filename = str(path)  # a write does not know the name
        raise
    fsync_dir(path.parent)
