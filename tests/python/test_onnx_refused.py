"""fc.onnx.load: unsupported nodes, options and damaged files are refused by name, within bounds; functions of files."""

import os
import random
import tracemalloc

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx_check import close, external, helper, model_of, numbers, refused, run_runtime, saved, small_net  # noqa: E402


def test_all_unsupported_nodes_are_listed_at_once(tmp_path):
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["l"], name="rnn", hidden_size=2),
        helper.make_node("NonMaxSuppression", ["l", "l"], ["n"], name="nms"),
        helper.make_node("FusedMatMul", ["l", "n"], ["f"], name="fused", domain="com.microsoft"),
        helper.make_node("Loop", ["l"], ["unused"], name="dead"),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    path = saved(model_of(nodes, {"w": numbers(1, 8, 3), "r": numbers(1, 8, 2)}), tmp_path / "net.onnx")
    with pytest.raises(ValueError) as e:
        fc.onnx.load(path)
    text = str(e.value)
    assert "net.onnx: 3 nodes are not supported" in text and "dead" not in text
    assert all(t in text for t in ("LSTM 'rnn'", "NonMaxSuppression 'nms'", "com.microsoft.FusedMatMul 'fused'"))


def of_constants():
    """Operators that have no kernel of fastcnn, each with constants: {name: (node, {name: array})}."""
    return {
        "NonZero": (["c"], {"c": np.float32([[1, 0], [2, 3]])}),
        "ConstantOfShape": (["c"], {"c": np.int64([2, 3])}),
        "Range": (["c", "e", "d"], {"c": np.float32(0), "e": np.float32(3), "d": np.float32(0.5)}),
    }


@pytest.mark.parametrize("op", of_constants())
def test_operators_of_constants_are_computed_of_constants_alone(tmp_path, op):
    names, constants = of_constants()[op]
    node = helper.make_node(op, names, ["k"], name="p")
    last = [helper.make_node("Cast", ["k"], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"])]
    path = saved(model_of([node, *last], constants), tmp_path / "m.onnx")
    np.testing.assert_allclose(fc.onnx.load(path)(fc.zeros(1)).numpy(), run_runtime(path, np.zeros(1, np.float32)))
    changed = [helper.make_node("Add", ["x", "c"], ["s"]), helper.make_node(op, ["s", *names[1:]], ["y"], name="p")]
    with pytest.raises(ValueError, match=f"1 nodes .*supported:\n.*{op} 'p': operand 0, 's', depends on the data"):
        fc.onnx.load(saved(model_of(changed, constants), tmp_path / "n.onnx"))


def test_positions_counted_on_a_mask_of_the_inputs_shape(tmp_path):
    """As timm's edgenext does: ones of the shape of x, counted along an axis, divided by a table, beside a weight."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["ones"], value=helper.make_tensor("v", 1, [1], [1])),
        helper.make_node("CumSum", ["ones", "axis"], ["at"]),
        helper.make_node("CumSum", ["table", "first"], ["steps"]),
        helper.make_node("Mul", ["x", "table"], ["t"]),
        helper.make_node("Div", ["at", "steps"], ["d"]),
        helper.make_node("Sin", ["d"], ["p"]),
        helper.make_node("Add", ["t", "p"], ["y"]),
    ]
    constants = {"axis": np.int64(3), "first": np.int64(0), "table": np.abs(numbers(5)) + 1}
    path = saved(model_of(nodes, constants), tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    for n in (1, 3):
        x = numbers(n, 2, 4, 5)
        close(net(fc.tensor(x)).numpy(), run_runtime(path, x))


def test_constants_of_the_inputs_shape_may_be_as_large_as_activations(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "nine"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["y"], value=helper.make_tensor("v", 9, [1], [0])),
    ]
    types = {"x": (onnx.TensorProto.FLOAT, ["n"]), "y": (onnx.TensorProto.BOOL, None)}
    net = fc.onnx.load(saved(model_of(nodes, {"nine": np.int64([9])}, types=types), tmp_path / "m.onnx"))
    assert net(fc.zeros(1 << 21)).shape == (9 << 21,)


OPTIONS = {
    "4-D convolution": (
        helper.make_node("Conv", ["x", "w"], ["y"]), {"w": numbers(2, 3, 3, 1, 1, 1)}, r"shape \[2, 3, 3, 1, 1, 1\]",
    ),
    "3-D norm pool": (helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2, 2]), {}, "3-D windows"),
    "4-D pool": (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2, 2]), {}, "4-D windows"),
    "padding mode": (helper.make_node("Pad", ["x", "p"], ["y"], mode="mirror"), {"p": np.int64([1] * 8)}, "'mirror'"),
    "resize rule": (
        helper.make_node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="tf_crop_and_resize"),
        {"s": np.float32([1, 1, 2, 2])}, "tf_crop_and_resize",
    ),
    "shape from data": (helper.make_node("Reshape", ["x", "x"], ["y"]), {}, "operand 1, 'x', depends on the data"),
    "indices": (helper.make_node("MaxPool", ["x"], ["m", "y"], kernel_shape=[2, 2]), {}, "the indices"),
    "auto_pad": (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="X"), {"w": numbers(2, 3, 1, 1)}, "auto_pad 'X'"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_unsupported_options_are_named_when_a_file_is_read(tmp_path, name):
    node, constants, match = OPTIONS[name]
    with pytest.raises(ValueError, match=f"{node.op_type}.*{match}"):
        fc.onnx.load(saved(model_of([node], constants), tmp_path / "m.onnx"))


def test_errors_of_a_run_name_the_node(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    types = {"x": (onnx.TensorProto.FLOAT, ["n", 3, 8, 8])}
    net = fc.onnx.load(saved(model_of([node], {"w": numbers(4, 3, 3, 3)}, types=types), tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match=r"OnnxModule: Conv 'first'.*\(1, 5, 8, 8\)"):
        net(fc.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match=r"input 'x' of shape \(any, 3, 8, 8\), got \(3, 8, 8\)"):
        net(fc.zeros(3, 8, 8))


def test_memory_that_a_run_lacks_is_said_with_the_node(tmp_path):
    nodes = [helper.make_node("Resize", ["x", "", "", "n"], ["y"], name="up")]
    net = fc.onnx.load(saved(model_of(nodes, {"n": np.int64([1, 1, 1 << 60, 1])}), tmp_path / "m.onnx"))
    with pytest.raises(MemoryError, match="Resize 'up'"):
        net(fc.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("size, kind", [(1 << 31, MemoryError), (0, ValueError), (-3, ValueError)])
def test_sizes_that_no_image_has_are_errors(tmp_path, size, kind):
    """Positions along a resized axis lie on the host, where a constant must not ask for gigabytes."""
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="nearest")
    net = fc.onnx.load(saved(model_of([node], {"s": np.int64([1, 1, size, 2])}), tmp_path / "m.onnx"))
    with pytest.raises(kind, match=str(size)):
        net(fc.zeros(1, 1, 3, 2))


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "bad.onnx"
    for data in (b"", b"hello", b"PK\x03\x04" + bytes(50), b"\x08\x07", b"\x3a\x00", os.urandom(64)):
        refused(path, data, "bad.onnx")
    relu = helper.make_node("Relu", ["x"], ["y"])
    for change, match in (
        (dict(opset=6), "opset 6; expected 7 to 25"), (dict(opset=27), "opset 27"), (dict(outputs=()), "no outputs"),
        (dict(outputs=("z",)), "'z' is made by no node"), (dict(inputs=()), "reads 'x', which nothing"),
        (dict(constants={"y": numbers(1)}), "'y' is made twice"),
    ):  # fmt: skip
        refused(path, model_of([relu], **change).SerializeToString(), match)
    with pytest.raises(FileNotFoundError):
        fc.onnx.load(tmp_path / "none.onnx")


def test_tensors_must_have_their_bytes(tmp_path):
    def changed(change):
        model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"w": numbers(3)})
        change(model.graph.initializer[0])
        return model.SerializeToString()

    for change, match in (
        (lambda t: t.dims.append(1 << 40), "needs 13194139533312 bytes, 12 are there"),
        (lambda t: t.dims.append(-1), r"has shape \[3, -1\]"),
        (lambda t: setattr(t, "raw_data", b"1234"), "needs 12 bytes, 4 are there"),
        (lambda t: setattr(t, "data_type", 8), "STRING"),
        (lambda t: setattr(t, "data_type", 99), "type 99"),
        (lambda t: t.ClearField("raw_data"), "has 0 values"),
    ):
        refused(tmp_path / "bad.onnx", changed(change), match)


def test_external_data_is_read_from_the_models_folder_alone(tmp_path):
    data = np.float32([7, 1, 2, 3]).tobytes()
    (tmp_path / "outside.bin").write_bytes(data)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "w.bin").write_bytes(data)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "outside.bin")
    net = fc.onnx.load(external(tmp_path, location="sub/w.bin", offset="4", length="12"))
    assert net(fc.zeros(3)).tolist() == [1, 2, 3]
    outside = ["../outside.bin", str(tmp_path / "outside.bin"), "sub/../../outside.bin", "link.bin", "..", "/"]
    for location in outside:
        with pytest.raises(ValueError, match="outside of the model's folder"):
            fc.onnx.load(external(tmp_path, location=location))
    for entries, match in (
        (dict(location="none.bin"), "is missing"),
        (dict(location="sub"), "is missing"),
        (dict(), "no name of a file"),
        (dict(location="a\0b"), "no name of a file"),
        (dict(location="sub/w.bin", offset="8"), "from byte 8 of 16"),
        (dict(location="sub/w.bin", offset="-4"), "from byte -4"),
        (dict(location="sub/w.bin", offset="x"), "no number"),
        (dict(location="sub/w.bin", length="99"), "names 99"),
    ):
        with pytest.raises(ValueError, match=match):
            fc.onnx.load(external(tmp_path, **entries))


def bombs():
    big = np.int64([1 << 20, 1 << 20])
    ones = {"s": big, "one": np.ones(1, np.float32), "i": np.int64([1])}
    yield [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])], ones
    yield [helper.make_node("Expand", ["one", "s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])], ones
    yield [helper.make_node("Tile", ["s", "r"], ["c"]), helper.make_node("Reshape", ["x", "c"], ["y"])], {
        "s": big, "r": np.int64([1 << 40]),
    }  # fmt: skip
    yield [helper.make_node("Range", ["a", "b", "d"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])], {
        "a": np.float32(0), "b": np.float32(1e30), "d": np.float32(1),
    }  # fmt: skip
    doubling = [helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(40)]
    yield [*doubling, helper.make_node("Reshape", ["x", "v40"], ["y"])], {"v0": np.ones(4, np.int64)}
    many = [helper.make_node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(100)]
    yield [*many, helper.make_node("Sum", ["x", *(f"c{i}" for i in range(100))], ["y"])], {"s": np.int64([1 << 22])}


def test_small_files_cannot_ask_for_much_memory(tmp_path, request):
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    for nodes, constants in bombs():
        refused(tmp_path / "bad.onnx", model_of(nodes, constants).SerializeToString(), "constant")
    assert tracemalloc.get_traced_memory()[1] < 300_000_000


def test_cut_and_flipped_files_are_errors_or_networks(tmp_path):
    data, path, rng = small_net(True).SerializeToString(), tmp_path / "m.onnx", random.Random(0)
    errors = 0
    for i in range(300):
        changed = bytearray(data)
        if i % 3 == 0:
            del changed[rng.randrange(len(data)) :]
        for _ in range(rng.choice((1, 3, 8)) if changed else 0):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            fc.onnx.load(path)
        except ValueError as e:
            errors += "m.onnx" in str(e)
    assert errors > 100


def called(name, nodes, opset=17, **more):
    """A local function of one operand; calls(name, x, y, ...) are nodes of it."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports, **more)


def with_functions(functions, nodes):
    model = model_of(nodes)
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_local_functions_have_their_defaults_and_their_opsets(tmp_path):
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    bent = called("Bent", [leaky], attribute_protos=[helper.make_attribute("slope", 0.5)])
    mean = called("Mean", [helper.make_node("ReduceMean", ["a"], ["b"], axes=[1])], opset=13)
    nodes = [
        helper.make_node("Bent", ["x"], ["t"], domain="local"),
        helper.make_node("Bent", ["t"], ["u"], domain="local", slope=0.25),
        helper.make_node("Mean", ["u"], ["y"], domain="local"),
    ]
    x = numbers(2, 3)
    net = fc.onnx.load(saved(with_functions([bent, mean], nodes), tmp_path / "m.onnx"))
    want = np.where(x < 0, x / 8, x).mean(1, keepdims=True)
    np.testing.assert_allclose(net(fc.tensor(x)).numpy(), want, rtol=1e-5)


def test_functions_cannot_grow_without_bounds(tmp_path):
    """Each calls the one before twice; the last calls itself."""
    twice = [
        called(f"F{i}", [helper.make_node(f"F{i - 1}", [a], [b], domain="local") for a, b in ("at", "tb")])
        for i in range(1, 40)
    ]
    first = called("F0", [helper.make_node("Relu", ["a"], ["b"])])
    call = helper.make_node("F39", ["x"], ["y"], domain="local")
    for functions in ([first, *twice], [called("F39", [helper.make_node("F39", ["a"], ["b"], domain="local")])]):
        refused(tmp_path / "bad.onnx", with_functions(functions, [call]).SerializeToString(), "call themselves")
