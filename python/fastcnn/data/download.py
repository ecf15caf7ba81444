"""Downloading dataset files: checksum, resume, one writer at a time, a rename only when all is verified.

urllib only, so http_proxy / https_proxy / no_proxy are honoured. FASTCNN_DATA_MIRROR replaces every address
by `MIRROR/<dataset>/<file>` (http, https or file). It neither unpacks nor knows a file format: see datasets.py.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from .._files import fsync_dir

_log = logging.getLogger("fastcnn.data")
_CHUNK = 1 << 20
_RETRY_PAUSE_S = 1.0


class DownloadError(OSError):
    """No address gave the file; the message lists what was tried and where to put the file by hand."""


class ChecksumError(ValueError):
    """A file is not the one that was published."""


@dataclass(frozen=True)
class Resource:
    """A file to fetch. Any one checksum that matches is enough.

    name: file name. urls: where it was published, tried in order. checksums: hex digests by kind: "sha256"
    and "md5" of the file, "content_sha256" of what is inside the .gz, which stays when somebody re-compresses
    it.
    """

    name: str
    urls: tuple = ()
    checksums: dict = field(default_factory=dict)


def cache_dir():
    """$FASTCNN_HOME, else $XDG_CACHE_HOME/fastcnn, else ~/.cache/fastcnn."""
    if os.environ.get("FASTCNN_HOME"):
        return Path(os.environ["FASTCNN_HOME"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "fastcnn"
    return Path.home() / ".cache" / "fastcnn"


def verify(path, checksums):
    """Raises ChecksumError, naming expected and got, unless one of the checksums (see Resource) matches."""
    if not checksums:
        raise ValueError(f"verify: expected at least one checksum for {path}, got none")
    got = []
    for kind, expected in checksums.items():
        try:
            digest = _digest(path, kind)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            got.append(f"{kind} {expected}, got a damaged gzip file ({error})")
            continue
        if digest == expected.lower():
            return
        got.append(f"{kind} {expected}, got {digest}")
    raise ChecksumError(f"{path}: expected " + "; ".join(got))


def _digest(path, kind):
    if kind not in ("md5", "sha256", "content_sha256"):
        raise ValueError(f"verify: expected checksum kind md5, sha256 or content_sha256, got {kind!r}")
    # MD5 is what some publishers give; here it detects damage, it is no protection against forgery.
    digest = hashlib.md5(usedforsecurity=False) if kind == "md5" else hashlib.sha256()
    opener = gzip.open if kind == "content_sha256" else open
    with opener(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(resource, folder, dataset, *, timeout=30.0, attempts=3, progress=None):
    """Downloads a Resource into `folder` unless it is there, and returns its path.

    Args: dataset: its name, the folder under FASTCNN_DATA_MIRROR. timeout: seconds without a byte. attempts:
    per address; each resumes where the last one stopped. progress: show a bar; default: when stderr is a
    terminal.
    Raises: DownloadError (an OSError). A body with the wrong checksum is deleted, never renamed.
    """
    from http.client import HTTPException  # here and below: 20 ms that importing fastcnn does not pay

    folder = Path(folder)
    target = folder / resource.name
    if target.exists():
        return target
    mirror = os.environ.get("FASTCNN_DATA_MIRROR")
    urls = [f"{mirror.rstrip('/')}/{dataset}/{resource.name}"] if mirror else list(resource.urls)
    for url in urls:
        if not url.startswith(("http://", "https://", "file://")):
            raise ValueError(f"download: expected an http, https or file address, got {url!r}")
    if not resource.checksums:
        raise ValueError(f"download: expected a checksum for {resource.name}, got none")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            _advice(resource, folder, [f"cannot make the folder {folder}: {error}"])
        ) from error
    part = folder / (resource.name + ".part")
    failures = []
    with _lock(folder / (resource.name + ".lock"), resource):
        if target.exists():  # another process was faster
            return target
        for url in urls:
            try:
                _fetch_url(url, part, resource, timeout, attempts, progress)
            except (OSError, HTTPException, ChecksumError) as error:
                failures.append(f"{url}: {error}")
                _log.warning("download failed: %s", failures[-1])
                continue
            os.replace(part, target)
            fsync_dir(folder)
            return target
    raise DownloadError(_advice(resource, folder, failures))


def _advice(resource, folder, failures):
    tried = "".join(f"\n  {f}" for f in failures) or "\n  (no address known)"
    return (
        f"could not download {resource.name}:{tried}\n"
        f"Without a network, put {resource.name} into {folder}, or pass root= with the folder that has it, "
        f"or set FASTCNN_DATA_MIRROR to an address that serves <dataset>/<file>."
    )


def _fetch_url(url, part, resource, timeout, attempts, progress):
    from http.client import HTTPException
    from urllib.error import HTTPError

    for attempt in range(attempts):
        resumed = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, part, timeout, resource.name, progress)
        except HTTPError as error:
            if error.code == 416 and resumed:  # nothing after our last byte, or a part of another file
                pass
            elif error.code < 500 or attempt + 1 == attempts:  # below 500 asking again will not help
                raise
            else:
                time.sleep(_RETRY_PAUSE_S * 2**attempt)
                continue
        except (OSError, HTTPException):
            if attempt + 1 == attempts:
                raise
            time.sleep(_RETRY_PAUSE_S * 2**attempt)
            continue
        try:
            verify(part, resource.checksums)
        except ChecksumError:
            part.unlink()
            # The old part may have belonged to another file: one clean try.
            if resumed and attempt + 1 < attempts:
                continue
            raise
        return


def _transfer(url, part, timeout, name, progress):
    """Appends to `part` what it still lacks; raises when the body ends before its announced length."""
    import urllib.request

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "fastcnn", "Accept-Encoding": "identity"})
    if have and not url.startswith("file:"):
        request.add_header("Range", f"bytes={have}-")
    # Not urlopen(), which reads the proxy variables only once per process.
    with urllib.request.build_opener().open(request, timeout=timeout) as response:
        appending = response.status == 206 and _range_start(response) == have
        if response.status == 206 and not appending:
            part.unlink()
            raise OSError(
                f"asked for bytes from {have}, got Content-Range {response.headers.get('Content-Range')!r}"
            )
        length = response.headers.get("Content-Length")
        start = have if appending else 0
        total = start + int(length) if length and length.isdigit() else None
        got = start
        with open(part, "ab" if appending else "wb") as file, _bar(name, total, start, progress) as advance:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                got += len(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and got != total:
        raise OSError(f"truncated: expected {total} bytes, got {got}")


def _range_start(response):
    text = response.headers.get("Content-Range", "")
    digits = text.removeprefix("bytes ").split("-")[0]
    return int(digits) if digits.isdigit() else None


@contextlib.contextmanager
def _bar(name, total, start, progress):
    show = sys.stderr.isatty() if progress is None else progress
    if show:
        try:
            from tqdm import tqdm
        except ImportError:
            show = False
    if not show:
        yield lambda n: None
        return
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, file=sys.stderr) as bar:
        yield bar.update


@contextlib.contextmanager
def _lock(path, resource):
    """One process at a time per file (several ranks start together); without fcntl (Windows) no lock."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        file = open(path, "ab")  # noqa: SIM115
    except OSError as error:
        raise DownloadError(_advice(resource, path.parent, [f"cannot write into the folder: {error}"])) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    # Left in place: removing it would let a third process lock another inode of the same name.
