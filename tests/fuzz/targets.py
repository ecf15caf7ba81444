"""What is fuzzed: one function per file format, which reads a file and may raise what its docstring promises.

fuzz.py runs them under atheris, tests/python/test_fuzz_corpus.py on what was found before. Not a fuzzer itself.
"""

import io
import json
import pickle
import re
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import fastcnn as fc
import numpy as np

CORPUS = Path(__file__).parent / "corpus"


def read_safetensors(path):
    """Header, offsets and values of a safetensors file."""
    fc.save_state(fc.load_state(path), path.with_suffix(".out"))


def read_torch(path):
    """Zip files and pickles of PyTorch."""
    fc.load_torch(path)


def read_onnx(path):
    """Protocol buffers, constants and shape arithmetic of an ONNX file; a small input goes through what was read."""
    net = fc.onnx.load(path)
    sizes = [net._input_shapes[name] for name in net.input_names]
    if all(s is not None and np.prod([n or 4 for n in s]) < 10_000 for s in sizes):
        try:
            with fc.no_grad():
                net(*(fc.zeros(*(n or 4 for n in s)) for s in sizes))
        except (TypeError, IndexError, MemoryError):  # of ops that take no such operands
            pass


def read_session(path):
    """A model with its graph as .fcnn; what loads also runs."""
    session = fc.load(path)
    shapes = [[n or 2 for n in i.shape] for i in session.inputs]
    if all(np.prod(s) < 10_000 for s in shapes):
        try:
            session.predict(*(np.zeros(s, i.dtype.name) for s, i in zip(shapes, session.inputs, strict=True)))
        except (TypeError, MemoryError):
            pass


def read_idx(path):
    """IDX files, plain or compressed."""
    fc.data.read_idx(path)


def read_image(path):
    """An image of a folder, decoded and resized."""
    folder = path.parent / "images" / "class"
    folder.mkdir(parents=True, exist_ok=True)
    path.replace(folder / "image.png")
    fc.data.ImageFolder(folder.parent, image_size=16).raw(0)


# ---------------------------------------------------------------- where the fuzzers begin


def _written(write):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        write(path)
        return path.read_bytes()


def _safetensors_seeds():
    tensors = {"a": fc.ones(2, 3), "b": fc.tensor([1, 2], dtype="int64"), "c.d": fc.zeros(1, 2, 2, 1).to("bfloat16")}
    yield _written(lambda p: fc.save_state(tensors, p, {"format": "pt"}))


def _torch_seeds():
    plain = pickle.dumps({"epoch": 3, "list": [1, (2.5, None)], "name": "x"}, 2)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", plain)
        archive.writestr("a/version", "3\n")
    yield file.getvalue()
    head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    yield head + plain + pickle.dumps([], 2)
    try:
        import torch
    except ImportError:
        return
    for zipped in (True, False):
        file = io.BytesIO()
        value = {"w": torch.ones(2, 3), "h": torch.zeros(2, dtype=torch.bfloat16), "n": 1}
        torch.save(value, file, _use_new_zipfile_serialization=zipped)
        yield file.getvalue()


def _onnx_seeds():
    from onnx import TensorProto, helper, numpy_helper

    def model(nodes, constants, opset=17):
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2, 6, 6]), ("y", None))]
        weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
        graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()

    yield model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
            helper.make_node("Resize", ["c", "", "s"], ["d"], mode="linear"), helper.make_node("Flatten", ["d"], ["y"]),
        ],
        {"w": np.ones((3, 2, 3, 3), np.float32), "s": np.float32([1, 1, 2, 2])},
    )  # fmt: skip
    yield model(
        [
            helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "i"], ["g"]),
            helper.make_node("Concat", ["g", "m"], ["t"], axis=0), helper.make_node("Reshape", ["x", "t"], ["r"]),
            helper.make_node("QuantizeLinear", ["r", "k", "z"], ["q"]),
            helper.make_node("Slice", ["q", "i", "m"], ["l"]),
            helper.make_node("DequantizeLinear", ["l", "k", "z"], ["y"]),
        ],
        {"i": np.int64([0]), "m": np.int64([-1]), "k": np.float32(0.1), "z": np.uint8(3)},
        13,
    )  # fmt: skip


def _session_seeds():
    net = fc.nn.Sequential(
        fc.nn.Conv2d(1, 2, 3, padding=1), fc.nn.BatchNorm2d(2), fc.nn.ReLU(), fc.nn.MaxPool2d(2), fc.nn.Flatten(),
        fc.nn.Linear(8, 3), fc.nn.Softmax(1),
    )  # fmt: skip
    image = np.zeros((2, 1, 4, 4), np.float32)
    yield _written(lambda p: fc.export(net, p, image, preprocess={"resize": 4, "mean": [0.5], "std": [0.5]}))
    yield _written(lambda p: fc.export(lambda x: x.reshape(x.shape[0], 16)[:, 2:9:3] * 2 + x.mean(), p, image))


def _idx_seeds():
    array = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    for suffix in ("", ".gz", ".xz"):

        def write(path, suffix=suffix):
            fc.data.write_idx(path.with_suffix(suffix), array)
            path.with_suffix(suffix).replace(path)

        yield _written(write)
    yield struct.pack(">4B2I", 0, 0, 0x0D, 2, 1, 2) + bytes(8)


def _image_seeds():
    from PIL import Image

    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        picture.save(file, kind)
        yield file.getvalue()


# ---------------------------------------------------------------- changes that keep a file's outer form


def _change_torch(data, rng, change):
    """The pickle inside a zip file changed, its checksum made anew; other files changed anywhere."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {n: archive.read(n) for n in archive.namelist() if len(archive.read(n)) < 1 << 16}
    except Exception:  # whatever zipfile says of it
        return change(data)
    if not members:
        return change(data)
    name = next((n for n in members if n.endswith("data.pkl") and rng.random() < 0.8), rng.choice(list(members)))
    members[name] = change(members[name])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for n, content in members.items():
            archive.writestr(n, content)
    return file.getvalue()


def _change_session(data, rng, change):
    """The JSON of the graph or a number in it changed, its checksum made anew."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        text = header["__metadata__"]["fastcnn"]
    except (ValueError, KeyError, TypeError):
        return change(data)
    numbers = list(re.finditer(r"-?\d+|\"[A-Za-z_]+\"", text)) if isinstance(text, str) else []
    if numbers and rng.random() < 0.8:
        place = rng.choice(numbers)
        new = str(rng.choice((-1, 0, 1, 2, 5, 255, 1 << 31, 1 << 53, "N", "64*N", rng.choice(numbers)[0])))
        text = text[: place.start()] + (new if new[:1] in '-0123456789"' else f'"{new}"') + text[place.end() :]
    else:
        text = change(str(text).encode()).decode("utf-8", "replace")
    header["__metadata__"].update(fastcnn=text, fastcnn_crc32=f"{zlib.crc32(text.encode()):08x}")
    new = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    new += b" " * (-len(new) % 8)
    return len(new).to_bytes(8, "little") + new + data[8 + length :]


def _change_onnx(data, rng, change):
    """One field of the graph changed: an operator, its names, a number, a shape, the bytes of a tensor."""
    import onnx
    from fastcnn.onnx._host import FOLDABLE
    from fastcnn.onnx._registry import HANDLERS

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # whatever protobuf says of it
        return change(data)
    graph, numbers = model.graph, (-1, 0, 1, 2, 3, 7, 255, 1 << 20, 1 << 33, -(1 << 62), (1 << 63) - 1)
    names = [n for node in graph.node for n in (*node.input, *node.output)] + [t.name for t in graph.initializer]
    names = [n for n in names if isinstance(n, str)]
    kind = rng.randrange(7)
    if kind == 0 and graph.node:
        rng.choice(graph.node).op_type = rng.choice(sorted({*HANDLERS, *FOLDABLE, "Shape", "Size", "If", "Constant"}))
    elif kind == 1 and graph.node and names:
        inputs = rng.choice(graph.node).input
        if inputs and rng.random() < 0.7:
            inputs[rng.randrange(len(inputs))] = rng.choice(names)
        else:
            inputs.append(rng.choice(names))
    elif kind == 2 and graph.node:
        node = rng.choice(graph.node)
        names = "axis axes pads kernel_shape strides dilations group to perm block_size blocksize ceil_mode size p"
        value = rng.choice([rng.choice(numbers), [rng.choice(numbers) for _ in range(rng.randrange(1, 5))], 0.5, "x"])
        node.attribute.append(onnx.helper.make_attribute(rng.choice(names.split()), value))
    elif kind == 3 and graph.initializer:
        t = rng.choice(graph.initializer)
        t.dims[:] = [rng.choice(numbers) for _ in range(rng.randrange(4))]
    elif kind == 4 and graph.initializer:
        t = rng.choice(graph.initializer)
        t.raw_data = change(t.raw_data)
    elif kind == 5 and graph.initializer:
        rng.choice(graph.initializer).data_type = rng.randrange(25)
    else:
        return change(data)
    return model.SerializeToString()


class Target(NamedTuple):
    """read(path); promised: what it may raise; seeds(): files; suffix of a file's name; change(data, rng, change of
    bytes) -> data, None where any byte may change."""

    read: object
    promised: tuple
    seeds: object
    suffix: str
    change: object = None


TARGETS = {
    "safetensors": Target(read_safetensors, (ValueError,), _safetensors_seeds, ".safetensors"),
    "torch": Target(read_torch, (ValueError,), _torch_seeds, ".pt", _change_torch),
    "onnx": Target(read_onnx, (ValueError,), _onnx_seeds, ".onnx", _change_onnx),
    "session": Target(read_session, (ValueError,), _session_seeds, ".fcnn", _change_session),
    "idx": Target(read_idx, (ValueError,), _idx_seeds, ""),
    "images": Target(read_image, (ValueError,), _image_seeds, ".png"),
}


def run(name, data, folder):
    """Reads `data` as a file of that format in a folder; everything but the promised exceptions comes out."""
    target = TARGETS[name]
    path = Path(folder) / f"input{target.suffix}"
    path.write_bytes(data)
    try:
        target.read(path)
    except target.promised:
        pass
