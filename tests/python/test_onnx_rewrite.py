"""fc.onnx.load: activations that exporters write as several nodes become one op, and only those."""

import copy
import pickle

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx_check import helper, model_of, run_runtime, saved  # noqa: E402

X, BELL = "x", [("Div", "x", "root", "d"), ("Erf", "d", "e")]
NUMBERS = {"half": 0.5, "one": 1, "three": 3, "zero": 0, "six": 6, "root": 2**0.5}
CONSTANTS = {name: np.float32(v) for name, v in NUMBERS.items()}
SPELLINGS = {
    "silu": ("(silu)", [("Sigmoid", X, "s"), ("Mul", "s", X, "y")]),
    "hardswish by a gate": ("(hardswish)", [("HardSigmoid", X, "s"), ("Mul", X, "s", "y")]),
    "hardswish, product first": (
        "(hardswish)",
        [("Add", "three", X, "a"), ("Clip", "a", "zero", "six", "c"), ("Mul", X, "c", "m"), ("Div", "m", "six", "y")],
    ),
    "hardswish, quotient first": (
        "(hardswish)",
        [("Add", X, "three", "a"), ("Clip", "a", "zero", "six", "c"), ("Div", "c", "six", "d"), ("Mul", "d", X, "y")],
    ),
    "mish": ("(mish)", [("Softplus", X, "p"), ("Tanh", "p", "t"), ("Mul", X, "t", "y")]),
    "gelu, half last": (
        "(gelu)",
        [*BELL, ("Add", "e", "one", "a"), ("Mul", X, "a", "m"), ("Mul", "m", "half", "y")],
    ),
    "gelu, half first": (
        "(gelu)",
        [*BELL, ("Add", "one", "e", "a"), ("Mul", "half", X, "m"), ("Mul", "m", "a", "y")],
    ),
    # What is near an activation but is none stays as it is.
    "other operand": (None, [("Sigmoid", X, "s"), ("Add", X, "one", "b"), ("Mul", "s", "b", "y")]),
    "read twice": (None, [("Sigmoid", X, "s"), ("Mul", "s", X, "m"), ("Add", "m", "s", "y")]),
    "limits of three": (
        None,
        [("Add", X, "three", "a"), ("Clip", "a", "zero", "three", "c"), ("Mul", X, "c", "m"), ("Div", "m", "six", "y")],
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_activations_of_several_nodes_become_one_op(tmp_path, name):
    op, steps = SPELLINGS[name]
    options = {"HardSigmoid": {"alpha": 1 / 6, "beta": 0.5}}
    nodes = [helper.make_node(k, [*names[:-1]], [names[-1]], **options.get(k, {})) for k, *names in steps]
    path = saved(model_of(nodes, CONSTANTS), tmp_path / "m.onnx")
    net = fc.onnx.load(path)
    assert [n.op for n in net._nodes] == ([op] if op else [k for k, *_ in steps])
    x = 4 * np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    want = run_runtime(path, x)
    for same in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_allclose(same(fc.tensor(x)).numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["hardswish, product first", "gelu, half last"])
def test_constants_of_more_axes_than_the_input_give_the_result_theirs(tmp_path, name):
    nodes = [helper.make_node(k, [*names[:-1]], [names[-1]]) for k, *names in SPELLINGS[name][1]]
    wide = {n: v if n in ("zero", "six") and "Clip" in str(nodes) else v.reshape(1, 1, 1) for n, v in CONSTANTS.items()}
    path = saved(model_of(nodes, wide), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    want, got = run_runtime(path, x), fc.onnx.load(path)(fc.tensor(x)).numpy()
    assert got.shape == want.shape == (1, 3, 5)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", ["product", "quotient"])
def test_integers_are_made_no_hardswish(tmp_path, last):
    """x * clip(x + 3, 0, 6) / 6 of integers cuts fractions off, where the division stands."""
    ends = [("Mul", "x", "c", "m"), ("Div", "m", "six", "y")]
    if last == "product":
        ends = [("Div", "c", "six", "m"), ("Mul", "x", "m", "y")]
    steps = [("Add", "x", "three", "a"), ("Clip", "a", "zero", "six", "c"), *ends]
    nodes = [helper.make_node(op, list(names[:-1]), [names[-1]]) for op, *names in steps]
    kind = onnx.TensorProto.INT32, None
    constants = {"three": np.int32(3), "zero": np.int32(0), "six": np.int32(6)}
    path = saved(model_of(nodes, constants, types={"x": kind, "y": kind}), tmp_path / "m.onnx")
    x = np.arange(-5, 9, dtype=np.int32)
    np.testing.assert_array_equal(fc.onnx.load(path)(fc.tensor(x)).numpy(), run_runtime(path, x))
