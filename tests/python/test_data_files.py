"""IDX files, atomic writing, and downloading from a server on this machine."""

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fastcnn._files import atomic_write
from fastcnn.data import ChecksumError, DownloadError, cache_dir, download, load, read_idx, write_idx
from fastcnn.data.download import Resource, fetch, verify

# ---------------------------------------------------------------- IDX


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_idx_round_trip(tmp_path, dtype, suffix):
    a = (np.arange(24).reshape(2, 3, 4) * 7 - 20).astype(dtype)
    write_idx(tmp_path / f"a{suffix}", a)
    b = read_idx(tmp_path / f"a{suffix}", (None, 3, 4), dtype)
    assert b.dtype == np.dtype(dtype) and b.flags.writeable
    np.testing.assert_array_equal(a, b)


def test_idx_bytes_are_the_published_format(tmp_path):
    write_idx(tmp_path / "a", np.array([[1, 258]], np.int32))
    assert (tmp_path / "a").read_bytes() == bytes.fromhex("00000c02 00000001 00000002 00000001 00000102")


def test_idx_told_by_content_not_by_name(tmp_path):
    (tmp_path / "plain-name").write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 3) + b"abc"))
    assert read_idx(tmp_path / "plain-name").tolist() == [97, 98, 99]


def test_idx_empty_dimension(tmp_path):
    write_idx(tmp_path / "a", np.zeros((0, 28, 28), np.uint8))
    assert read_idx(tmp_path / "a").shape == (0, 28, 28)


HEADER = b"\0\0\x08\x02" + struct.pack(">II", 2, 3)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "4-byte magic"),
        (b"\0\0\x08", "4-byte magic"),
        (b"PK\x03\x04", "expected IDX magic"),
        (b"\0\0\x07\x01" + b"\0" * 4, "expected IDX magic"),
        (b"\0\0\x08\0", "expected IDX magic"),
        (HEADER[:9], "truncated IDX header: expected 12 bytes, got 9"),
        (HEADER + b"12345", "18 bytes.*got 17"),
        (HEADER + b"1234567", "18 bytes.*got 19"),
        (b"\0\0\x0e\xff" + b"\xff" * 1020, "got 1024"),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_idx_damaged(tmp_path, content, message, compress):
    path = tmp_path / "bad-idx"
    path.write_bytes(gzip.compress(content) if compress else content)
    if compress and "got" in message and "header" not in message:
        message = "bytes of data"  # the size of a compressed file says nothing
    with pytest.raises(ValueError, match=message) as info:
        read_idx(path)
    assert str(path) in str(info.value)


def test_idx_wrong_shape_or_dtype(tmp_path):
    write_idx(tmp_path / "a", np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected IDX shape \(None, 28, 28\).*got \(2, 3\)"):
        read_idx(tmp_path / "a", (None, 28, 28))
    with pytest.raises(ValueError, match="expected IDX dtype float32, got uint8"):
        read_idx(tmp_path / "a", dtype="float32")
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")
    with pytest.raises(ValueError, match="got int64"):
        write_idx(tmp_path / "b", np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="rank"):
        write_idx(tmp_path / "b", np.uint8(3))


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_idx_every_truncation_and_flip_of_a_compressed_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (4, 9), np.uint8))
    whole = path.read_bytes()
    good = read_idx(path)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_idx(path)
    for n in range(len(whole)):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 0x10]) + whole[n + 1 :])
        # A flip in the gzip header (time, system) is harmless; any other has to be noticed.
        with contextlib.suppress(ValueError):
            np.testing.assert_array_equal(read_idx(path), good)


def test_idx_never_allocates_what_the_header_claims(tmp_path):
    header = b"\0\0\x08\x03" + struct.pack(">III", 60000, 1000, 1000)  # 60 GB
    (tmp_path / "a").write_bytes(header + b"x" * 100)
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + b"x" * 100))
    tracemalloc.start()
    for name in ("a", "a.gz"):
        with pytest.raises(ValueError, match="60000000000|60000000016"):
            read_idx(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# ---------------------------------------------------------------- atomic writing


def test_atomic_write_keeps_the_old_file_on_error(tmp_path):
    path = tmp_path / "sub" / "f.txt"
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write("old")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["f.txt"]
    with pytest.raises(ValueError, match="mode"), atomic_write(path, "a"):
        pass


def test_a_write_that_finds_no_space_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    path, before = tmp_path / "big.bin", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        with pytest.raises(OSError, match="big.bin") as caught, atomic_write(path) as file:
            file.write(b"x" * (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError) as caught, atomic_write(path):  # another's error is left as it is
        raise OSError("of another kind")
    assert caught.value.filename is None


def test_atomic_write_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic_write(tmp_path / "new") as file:
        file.write(b"x")
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode
    plain.chmod(0o640)
    with atomic_write(plain) as file:
        file.write(b"x")
    assert plain.stat().st_mode & 0o777 == 0o640


# ---------------------------------------------------------------- download

BODY = bytes(range(256)) * 400
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        mode = server.script.pop(0) if server.script else server.mode
        body, start = server.files.get(self.path.rsplit("/", 1)[-1]), 0
        if body is None or mode == "404":
            return self.send_error(404)
        if mode == "503":
            return self.send_error(503)
        asked = self.headers.get("Range")
        if asked and mode != "norange":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        part = body[start:]
        self.wfile.write(part[: len(part) // 2] if mode == "truncate" else part)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_RETRY_PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.script, server.mode = {"f.bin": BODY}, [], [], "ok"
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("FASTCNN_DATA_MIRROR", server.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def resource(**checksums):
    return Resource("f.bin", (), checksums or {"sha256": SHA})


@pytest.mark.smoke
def test_fetch(server, tmp_path):
    path = fetch(resource(), tmp_path / "d", "set")
    assert path.read_bytes() == BODY and server.requests == [("/set/f.bin", None)]
    assert sorted(os.listdir(tmp_path / "d")) == ["f.bin", "f.bin.lock"]
    fetch(resource(), tmp_path / "d", "set")
    assert len(server.requests) == 1


def test_fetch_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(DownloadError, match=f"expected sha256 {'0' * 64}, got {SHA}"):
        fetch(resource(sha256="0" * 64), tmp_path, "set")
    assert os.listdir(tmp_path) == ["f.bin.lock"]


def test_fetch_resumes_a_truncated_body(server, tmp_path):
    server.script = ["truncate", "truncate", "ok"]
    assert fetch(resource(), tmp_path, "set").read_bytes() == BODY
    ranges = [r for _, r in server.requests]
    assert ranges == [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-"]


def test_fetch_always_truncated_then_resumed_later(server, tmp_path):
    server.mode = "truncate"
    with pytest.raises(DownloadError, match=f"truncated: expected {len(BODY)} bytes"):
        fetch(resource(), tmp_path, "set")
    assert not (tmp_path / "f.bin").exists() and (tmp_path / "f.bin.part").stat().st_size > 0
    server.mode = "ok"
    server.requests.clear()
    assert fetch(resource(), tmp_path, "set").read_bytes() == BODY
    assert server.requests[0][1] is not None


@pytest.mark.parametrize("mode", ["ok", "norange"])
def test_fetch_part_of_another_file(server, tmp_path, mode):
    server.mode = mode
    (tmp_path / "f.bin.part").write_bytes(b"rubbish")
    assert fetch(resource(), tmp_path, "set").read_bytes() == BODY


def test_fetch_complete_part(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(BODY)
    assert fetch(resource(), tmp_path, "set").read_bytes() == BODY  # the server answers 416


def test_fetch_too_long_part(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(BODY + b"more")
    assert fetch(resource(), tmp_path, "set").read_bytes() == BODY


def test_fetch_404_says_where_to_put_the_file(server, tmp_path):
    server.mode = "404"
    with pytest.raises(DownloadError) as info:
        fetch(resource(), tmp_path, "set")
    text = str(info.value)
    assert "404" in text and str(tmp_path) in text and "f.bin" in text and "FASTCNN_DATA_MIRROR" in text
    assert len(server.requests) == 1  # asking again would not help


def test_fetch_retries_a_busy_server(server, tmp_path):
    server.script = ["503", "503", "ok"]
    assert fetch(resource(), tmp_path, "set").read_bytes() == BODY


def test_fetch_offline(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCNN_DATA_MIRROR", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DownloadError, match="could not download f.bin"):
        fetch(resource(), tmp_path, "set")
    monkeypatch.setenv("FASTCNN_DATA_MIRROR", "gopher://x")
    with pytest.raises(ValueError, match="gopher"):
        fetch(resource(), tmp_path, "set")


def test_fetch_into_a_folder_that_cannot_be_written_says_where_to_put_the_file(server, tmp_path):
    (tmp_path / "f.bin.lock").mkdir()  # as unwritable as a read-only folder, for root too
    with pytest.raises(DownloadError, match="cannot write into the folder.*\n.*put f.bin into"):
        fetch(resource(), tmp_path, "set")
    assert server.requests == []


def test_fetch_second_address(server, tmp_path, monkeypatch):
    monkeypatch.delenv("FASTCNN_DATA_MIRROR")
    urls = (server.url + "/gone/none.bin", server.url + "/f.bin")
    assert fetch(Resource("f.bin", urls, {"sha256": SHA}), tmp_path, "set").read_bytes() == BODY


def test_fetch_goes_through_the_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCNN_DATA_MIRROR", "http://data.invalid")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    fetch(resource(), tmp_path, "set")
    assert server.requests == [("http://data.invalid/set/f.bin", None)]


def test_fetch_from_file_address(tmp_path, monkeypatch):
    (tmp_path / "m" / "set").mkdir(parents=True)
    (tmp_path / "m" / "set" / "f.bin").write_bytes(BODY)
    monkeypatch.setenv("FASTCNN_DATA_MIRROR", (tmp_path / "m").as_uri())
    assert fetch(resource(), tmp_path / "d", "set").read_bytes() == BODY


def test_fetch_by_several_at_once_downloads_once(server, tmp_path):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(resource(), tmp_path, "s"))) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(paths) == 4 and len(server.requests) == 1 and paths[0].read_bytes() == BODY


def test_verify_content_survives_recompression(tmp_path):
    content = hashlib.sha256(b"pixels").hexdigest()
    for level in (1, 9):
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"pixels", level))
        verify(tmp_path / "a.gz", {"md5": "0" * 32, "content_sha256": content})
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"pixelz"))
    with pytest.raises(ChecksumError, match="got .*; content_sha256"):
        verify(tmp_path / "a.gz", {"md5": "0" * 32, "content_sha256": content})
    (tmp_path / "a.gz").write_bytes(b"not gzip")
    with pytest.raises(ChecksumError, match="damaged gzip"):
        verify(tmp_path / "a.gz", {"content_sha256": content})
    with pytest.raises(ValueError, match="crc"):
        verify(tmp_path / "a.gz", {"crc": "1"})


def test_load_downloads_mnist(server, tmp_path, monkeypatch):
    """The whole path of load(): download to root, verify, read, and no download the second time."""
    from fastcnn.data import datasets

    rng = np.random.default_rng(0)
    sums = {}
    for name, array in (
        ("train-images-idx3-ubyte", rng.integers(0, 256, (50, 28, 28), np.uint8)),
        ("train-labels-idx1-ubyte", rng.integers(0, 10, 50).astype(np.uint8)),
    ):
        write_idx(tmp_path / "serve" / f"{name}.gz", array)
        server.files[f"{name}.gz"] = (tmp_path / "serve" / f"{name}.gz").read_bytes()
        sums[name] = {"sha256": hashlib.sha256(server.files[f"{name}.gz"]).hexdigest()}
    monkeypatch.setitem(datasets._IDX_SOURCES, "mnist", (("http://data.invalid/",), "mnist", sums))
    monkeypatch.setattr(datasets, "SYSTEM_DIR", tmp_path / "nothing")
    root = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match=re.escape(str(root / "mnist"))):
        load("mnist", root=root, download=False)
    ds = load("mnist", root=root)
    assert len(ds) == 50 and ds.num_classes == 10 and len(server.requests) == 2
    assert len(load("mnist", root=root, download=False)) == 50
    monkeypatch.setenv("FASTCNN_HOME", str(tmp_path / "cache"))
    assert len(load("mnist")) == 50 and (tmp_path / "cache" / "mnist").is_dir()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_load_downloads_cifar(server, tmp_path, monkeypatch, name):
    """A tarball in the published form, cut off on the way and resumed; then another one under its name."""
    from fastcnn.data import datasets

    info = datasets._CIFAR[name]
    rng, classes = np.random.default_rng(0), int(name.removeprefix("cifar"))
    rows, buffer = {}, io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file in ("batches.meta.txt", *info["train"], *info["test"]):
            row = rng.integers(0, 256, (4, info["label_bytes"] + 3072)).astype(np.uint8)
            row[:, : info["label_bytes"]] = rng.integers(0, 10 if classes == 10 else 20, (4, info["label_bytes"]))
            rows[file] = row
            member = tarfile.TarInfo(f"{info['folder']}/{file}")
            member.size = row.size
            tar.addfile(member, io.BytesIO(row.tobytes()))
    archive, body = info["resource"].name, buffer.getvalue()
    server.files[archive] = body
    published = Resource(archive, ("http://data.invalid/",), {"md5": hashlib.md5(body).hexdigest()})
    monkeypatch.setitem(datasets._CIFAR, name, {**info, "resource": published})
    monkeypatch.setattr(datasets, "SYSTEM_DIR", tmp_path / "nothing")
    server.script = ["truncate", "ok"]
    train = load(name, root=tmp_path)
    assert [r for _, r in server.requests] == [None, f"bytes={len(body) // 2}-"]
    test = load(name, "test", root=tmp_path, download=False)
    assert len(train) == 4 * len(info["train"]) and len(test) == 4 and train.num_classes == classes
    last = rows[info["test"][0]]
    assert test.labels.tolist() == last[:, info["label_bytes"] - 1].tolist()
    np.testing.assert_array_equal(test.images.transpose(0, 3, 1, 2).reshape(4, -1), last[:, info["label_bytes"] :])
    server.files[archive] = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(DownloadError, match="expected md5"):
        load(name, root=tmp_path / "other")
    assert os.listdir(tmp_path / "other" / name) == [f"{archive}.lock"]


def test_published_checksums_are_the_ones_of_the_debian_package(tmp_path):
    from fastcnn.data.datasets import _IDX_SOURCES, SYSTEM_DIR

    folder = SYSTEM_DIR / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    for name, sums in _IDX_SOURCES["fashion_mnist"][2].items():
        verify(folder / f"{name}.gz", {"content_sha256": sums["content_sha256"]})


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("FASTCNN_HOME", "/h")
    assert cache_dir() == Path("/h")
    monkeypatch.delenv("FASTCNN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/fastcnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "fastcnn"


def test_import_is_light():
    code = (
        "import sys, fastcnn.data, fastcnn.augment, fastcnn.metrics, fastcnn.viz;"
        "bad = {'torch', 'matplotlib', 'PIL', 'tqdm', 'urllib.request'} & set(sys.modules); assert not bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
