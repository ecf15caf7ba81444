"""fc.onnx.load, operator by operator: the cases of the ONNX standard, and random options against ONNX Runtime."""

import importlib

import fastcnn as fc
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from fastcnn.onnx import OnnxModule, load  # noqa: E402
from fastcnn.onnx._file import read_graph  # noqa: E402
from fastcnn.onnx._registry import HANDLERS  # noqa: E402
from onnx_check import array_of, helper, model_of, run_runtime, saved  # noqa: E402

# ---------------------------------------------------------------- the standard's own cases

MODULES = """abs add and_ argmax argmin atan averagepool ceil celu clip concat constant conv convtranspose cos
dequantizelinear depthtospace div dropout einsum elu equal erf exp expand flatten floor gather gatherelements gathernd
gelu gemm gridsample globalaveragepool globalmaxpool greater groupnormalization hardmax hardsigmoid hardswish identity
isinf isnan layernormalization leakyrelu less log logsoftmax lpnormalization lppool lrn matmul max maxpool mean
meanvariancenormalization min mish mod mul neg not_ onehot pad pow prelu quantizelinear reciprocal reducel1 reducel2
reduce_log_sum reduce_log_sum_exp reducemax reducemean reducemin reduceprod reducesum reducesumsquare relu reshape
resize scatternd selu shrink sigmoid sign sin slice softmax softplus softsign spacetodepth split sqrt squeeze sub sum
tanh thresholdedrelu tile topk transpose trilu unsqueeze upsample where xor""".split()

# Names that contain these are outside of what is read, each for one reason that the error or the docstring tells.
OUTSIDE = {
    "lppool_3d": "three spatial axes", "training": "outputs of training",
    "_mask": "the mask of dropout", "with_argmax": "indices of a pool",
    "blocked": "scales per block", "tf_crop": "regions", "sequence": "", "_opt": "",
    "empty_set": "extremes of nothing", "spacetodepth_crd": "of opset 27", "string": "text",
    "batch_dim": "axes of batches", "scatternd_add": "reductions", "scatternd_m": "reductions",
    "volumetric": "three spatial axes",
    # Sizes that are no whole multiple: as ONNX Runtime does, by the size that comes out.
    "downsample_scales_linear_align_corners": "", "downsample_scales_cubic_align_corners": "",
}  # fmt: skip
SMALL_TYPES = ("float8", "e4m3", "e5m2", "e2m1", "int4", "int2", "bfloat16")


def standard_cases():
    from onnx.backend.test.case import node

    for name in MODULES:  # collect_testcases would make them for every operator, which takes long
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    for case in node._NodeTestCases:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in HANDLERS or nodes[0].domain:
            continue
        if any(t in case.name.lower() for t in SMALL_TYPES):
            continue
        if any(o in case.name for o in OUTSIDE):
            continue
        yield case


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the cases, which divide by zero
def test_operators_give_what_the_standard_says(tmp_path):
    wrong, right = [], 0
    for case in standard_cases():
        for imported in case.model.opset_import:
            imported.version = min(imported.version, 25) if not imported.domain else imported.version
        if case.model.opset_import[0].version < 7:
            continue
        path = saved(case.model, tmp_path / "m.onnx")
        for given, expected in case.data_sets or []:
            graph = read_graph(path)
            values = {i.name: np.asarray(v) for i, v in zip(case.model.graph.input, given, strict=True)}
            for slot in HANDLERS[graph.nodes[0].op].host:  # shapes and limits are constants in real files
                if slot < len(graph.nodes[0].inputs) and graph.nodes[0].inputs[slot] in graph.inputs:
                    name = graph.nodes[0].inputs[slot]
                    graph.constants[name] = values.pop(name)
                    del graph.inputs[name]
            try:
                with fc.no_grad():
                    got = OnnxModule(graph).eval()(**values)
                for g, want in zip(got if isinstance(got, tuple) else (got,), expected, strict=False):
                    assert tuple(g.shape) == want.shape
                    np.testing.assert_allclose(array_of(g), want.astype(np.float64), rtol=2e-3, atol=1e-5)
                right += 1
            except (AssertionError, TypeError, ValueError) as e:
                wrong.append(f"{case.name}: {type(e).__name__} {e}")
    assert not wrong, "\n".join(wrong)
    assert right > 350


# ---------------------------------------------------------------- random options against ONNX Runtime


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def window(rng, image=(9, 11), auto=True):
    kernel, stride = rng.integers(1, 5, 2).tolist(), rng.integers(1, 3, 2).tolist()
    options = {"kernel_shape": kernel, "strides": stride}
    mode = rng.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]) if auto else "NOTSET"
    if mode == "NOTSET":
        options["pads"] = [min(int(p), kernel[i % 2] - 1) for i, p in enumerate(rng.integers(0, 3, 4))]
    else:  # with longer strides than windows ONNX Runtime cuts images off, the standard does not
        options.update(auto_pad=str(mode), strides=[min(s, k) for s, k in zip(stride, kernel, strict=True)])
    return options


def conv(rng):
    options, groups = window(rng), int(rng.choice([1, 2]))
    if "auto_pad" not in options:
        options["dilations"] = rng.integers(1, 3, 2).tolist()
    weights = {"w": numbers(rng, 4, 4 // groups, *options["kernel_shape"]), "b": numbers(rng, 4)}
    return helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **options), weights, numbers(rng, 2, 4, 9, 11)


def conv_transpose(rng):
    options, groups = window(rng), int(rng.choice([1, 2]))
    if "auto_pad" not in options:
        options["output_padding"] = [int(rng.integers(0, s)) for s in options["strides"]]
        if rng.random() < 0.3:
            options.pop("pads")
            options["output_shape"] = [n * s - 1 for n, s in zip((9, 11), options["strides"], strict=True)]
    weights = {"w": numbers(rng, 4, 4 // groups, *options["kernel_shape"]), "b": numbers(rng, 4)}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=groups, **options)
    return node, weights, numbers(rng, 2, 4, 9, 11)


def max_pool(rng):
    options = window(rng)
    if "auto_pad" not in options:
        options.update(ceil_mode=int(rng.integers(2)), dilations=rng.integers(1, 3, 2).tolist())
    return helper.make_node("MaxPool", ["x"], ["y"], **options), {}, numbers(rng, 2, 4, 9, 11)


def average_pool(rng):
    options = window(rng)
    if "auto_pad" not in options:
        options.update(ceil_mode=int(rng.integers(2)), dilations=rng.integers(1, 3, 2).tolist())
    node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=int(rng.integers(2)), **options)
    return node, {}, numbers(rng, 2, 4, 9, 11)


def lp_pool(rng):
    options = window(rng)
    if "auto_pad" not in options:
        options.update(ceil_mode=int(rng.integers(2)), dilations=rng.integers(1, 3, 2).tolist())
    node = helper.make_node("LpPool", ["x"], ["y"], p=int(rng.integers(1, 4)), **options)
    return node, {}, numbers(rng, 2, 4, 9, 11)


def along_one_axis(rng):
    """Every window over sequences (N, C, L)."""
    kernel, stride, groups = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.choice([1, 2]))
    pads = [min(int(p), kernel - 1) for p in rng.integers(0, 3, 2)]
    options, constants = {"kernel_shape": [kernel], "strides": [stride], "pads": pads}, {}
    op = str(rng.choice(["Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"]))
    if op.startswith("Conv"):
        options.update(group=groups, dilations=[int(rng.integers(1, 3))])
        shape = (4, 4 // groups) if op == "Conv" else (4, 2)
        constants = {"w": numbers(rng, *shape, kernel), "b": numbers(rng, 4 if op == "Conv" else 2 * groups)}
    else:
        options["ceil_mode"] = int(rng.integers(2))
    if op == "ConvTranspose":
        options["output_padding"] = [int(rng.integers(0, stride))]
    return helper.make_node(op, ["x", *constants], ["y"], **options), constants, numbers(rng, 2, 4, 13)


def flat_volume(rng):
    """Pools of volumes whose windows are single pixels along one axis or two."""
    idle, op = int(rng.integers(3)), str(rng.choice(["MaxPool", "AveragePool", "LpPool"]))
    kernel, stride = rng.integers(1, 4, 3), rng.integers(1, 3, 3)
    kernel[idle] = stride[idle] = 1
    options = {"kernel_shape": kernel.tolist(), "strides": stride.tolist()}
    if rng.integers(2):
        options["pads"] = [int(rng.integers(k)) for k in (*kernel, *kernel)]
    return helper.make_node(op, ["x"], ["y"], **options), {}, numbers(rng, 2, 3, 5, 4, 6)


def volume(rng):
    """Windows over three axes."""
    op = str(rng.choice(["Conv", "ConvTranspose", "MaxPool", "AveragePool"]))
    kernel, stride = rng.integers(1, 4, 3).tolist(), rng.integers(1, 3, 3).tolist()
    options, constants, groups = {"kernel_shape": kernel, "strides": stride}, {}, int(rng.choice([1, 2, 4]))
    if rng.integers(4):
        options["pads"] = [int(rng.integers(k)) for k in (*kernel, *kernel)]
    elif op != "ConvTranspose" and all(s <= k for s, k in zip(stride, kernel)):  # others are ONNX Runtime's own rules
        options["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    if op.startswith("Conv"):
        options["group"] = groups
        if "auto_pad" not in options:  # ONNX Runtime takes them one at a time
            options["dilations"] = rng.integers(1, 3, 3).tolist()
        shape = (4, 4 // groups) if op == "Conv" else (4, 2)
        constants = {"w": numbers(rng, *shape, *kernel), "b": numbers(rng, 4 if op == "Conv" else 2 * groups)}
    else:
        options["ceil_mode"] = 0 if "auto_pad" in options else int(rng.integers(2))
    if op == "AveragePool":
        options["count_include_pad"] = int(rng.integers(2))
    if op == "ConvTranspose":
        options["output_padding"] = [int(rng.integers(s)) for s in stride]
    return helper.make_node(op, ["x", *constants], ["y"], **options), constants, numbers(rng, 2, 4, 7, 6, 8)


def lrn(rng):
    node = helper.make_node("LRN", ["x"], ["y"], size=int(rng.choice([1, 3, 5])), alpha=0.3, beta=0.6, bias=1.5)
    return node, {}, numbers(rng, 2, 7, 3, 4)


def slice_(rng):
    starts, ends = rng.integers(-12, 12, 2), rng.integers(-14, 14, 2)
    constants = {"s": starts, "e": ends, "a": rng.permutation([-4, 1, 2, 3])[:2], "p": rng.choice([1, 2, -1, -2, 3], 2)}
    return helper.make_node("Slice", ["x", "s", "e", "a", "p"], ["y"]), constants, numbers(rng, 3, 4, 9, 11)


def pad(rng):
    mode = str(rng.choice(["constant", "reflect", "edge"]))
    constants = {"p": rng.integers(-1, 3, 8), "v": np.float32(1.5)}
    return helper.make_node("Pad", ["x", "p", "v"], ["y"], mode=mode), constants, numbers(rng, 4, 5, 6, 7)


def gemm(rng):
    a, b = int(rng.integers(2)), int(rng.integers(2))
    shapes = [(5,), (3, 5), (1,), (3, 1), ()]
    constants = {"b": numbers(rng, *((5, 4) if b else (4, 5))), "c": numbers(rng, *shapes[rng.integers(5)])}
    options = {"transA": a, "transB": b, "alpha": float(rng.choice([1, 0.5])), "beta": float(rng.choice([1, 2]))}
    node = helper.make_node("Gemm", ["x", "b", "c"], ["y"], **options)
    return node, constants, numbers(rng, *((4, 3) if a else (3, 4)))


def prelu(rng):
    shapes = [(1,), (5, 1, 1), (1, 5, 1, 1), (5,), (5, 6, 5), (1, 1, 5)]
    constants = {"s": numbers(rng, *shapes[rng.integers(6)])}
    return helper.make_node("PRelu", ["x", "s"], ["y"]), constants, numbers(rng, 2, 5, 6, 5)


def softmax(rng):
    op, axis = str(rng.choice(["Softmax", "LogSoftmax"])), int(rng.integers(-4, 4))
    return helper.make_node(op, ["x"], ["y"], axis=axis), {}, numbers(rng, 2, 3, 4, 5)


def resize(rng, modes=("nearest", "linear", "cubic"), **more):
    rules = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    options = {
        "mode": str(rng.choice(modes)),
        "coordinate_transformation_mode": str(rng.choice(rules)),
        "nearest_mode": str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])),
        "cubic_coeff_a": float(rng.choice([-0.75, -0.5])),
        **more,
    }
    options["exclude_outside"] = int(options["mode"] == "cubic" and rng.integers(2))
    if rng.integers(2):
        scales = np.float32([1, 1, *rng.choice([2, 0.6, 1.7, 0.5, 3], 2)])
        return helper.make_node("Resize", ["x", "", "s"], ["y"], **options), {"s": scales}, numbers(rng, 1, 2, 7, 9)
    sizes = np.int64([1, 2, *rng.integers(1, 20, 2)])
    return helper.make_node("Resize", ["x", "", "", "s"], ["y"], **options), {"s": sizes}, numbers(rng, 1, 2, 7, 9)


def antialiased(rng):
    return resize(rng, ("linear", "cubic"), antialias=1)


def quantized(rng):
    axis = [None, 1, 3][rng.integers(3)]
    shape, options = {None: (), 1: (3,), 3: (5,)}[axis], {} if axis is None else {"axis": axis}
    constants = {
        "s": np.asarray(rng.random(shape) * 0.1 + 0.02, np.float32),
        "z": np.asarray(rng.integers(0, 9, shape), rng.choice(["u1", "i1"])),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **options),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **options),
    ]
    return nodes, constants, 4 * numbers(rng, 2, 3, 4, 5)


def group_norm(rng):
    nodes = helper.make_node("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2)
    return nodes, {"w": numbers(rng, 6), "b": numbers(rng, 6)}, numbers(rng, 2, 6, 4, 5)


def grid_sample(rng):
    options = {
        "mode": str(rng.choice(["linear", "nearest", "cubic"])), "align_corners": int(rng.integers(2)),
        "padding_mode": str(rng.choice(["zeros", "border", "reflection"])),
    }  # fmt: skip
    grid = rng.uniform(-1.3, 1.3, (2, 4, 5, 2)).astype(np.float32)
    return helper.make_node("GridSample", ["x", "g"], ["y"], **options), {"g": grid}, numbers(rng, 2, 3, 7, 9)


def cumulative(rng):
    options = {"exclusive": int(rng.integers(2)), "reverse": int(rng.integers(2))}
    node = helper.make_node("CumSum", ["x", "a"], ["y"], **options)
    return node, {"a": rng.integers(-3, 3)}, numbers(rng, 2, 3, 4)


def scattered(rng):
    axis = int(rng.integers(-3, 3))
    places = np.argsort(rng.random((2, 3, 4)), axis=axis).take(range(2), axis=axis)
    places = places - (2, 3, 4)[axis] * rng.integers(2)
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=axis)
    return node, {"i": places, "u": numbers(rng, *places.shape)}, numbers(rng, 2, 3, 4)


def swish(rng):
    options = {"alpha": float(rng.choice([0.5, 1, 1.7]))} if rng.integers(2) else {}
    return helper.make_node("Swish", ["x"], ["y"], **options), {}, numbers(rng, 2, 3, 4)


def rms_norm(rng):
    axis = int(rng.integers(-3, 3))
    node = helper.make_node("RMSNormalization", ["x", "g"], ["y"], axis=axis, epsilon=1e-3)
    return node, {"g": numbers(rng, *(2, 3, 4)[axis:])}, numbers(rng, 2, 3, 4)


def einsum(rng):
    equations = ["abcd,abed->abce", "abcd,ce->abed", "abcd,ed", "abcd,bd->ac", "abcd->db", "abcd,c,af->fcb", "abcd->"]
    equation, sizes = equations[rng.integers(len(equations))], {c: i + 2 for i, c in enumerate("abcdef")}
    others = equation.split("->")[0].split(",")[1:]
    constants = {f"c{i}": numbers(rng, *(sizes[c] for c in t)) for i, t in enumerate(others)}
    return helper.make_node("Einsum", ["x", *constants], ["y"], equation=equation), constants, numbers(rng, 2, 3, 4, 5)


def picked(rng):
    """GatherND and ScatterND at constant places."""
    axes = int(rng.integers(1, 4))
    places = np.stack([rng.permutation(n)[:2] for n in (2, 3, 4)[:axes]], -1) - rng.choice([0, 2])
    if rng.integers(2):
        return helper.make_node("GatherND", ["x", "i"], ["y"]), {"i": places}, numbers(rng, 2, 3, 4)
    constants = {"i": places, "u": numbers(rng, 2, *(2, 3, 4)[axes:])}
    return helper.make_node("ScatterND", ["x", *constants], ["y"]), constants, numbers(rng, 2, 3, 4)


RANDOM = {
    conv: 11, conv_transpose: 11, max_pool: 12, average_pool: 19, lp_pool: 18, along_one_axis: 18, flat_volume: 18,
    volume: 18, lrn: 13, slice_: 13, pad: 13, gemm: 13, prelu: 13, softmax: 11, resize: 13, antialiased: 18,
    quantized: 13, group_norm: 21, grid_sample: 20, einsum: 12, picked: 13, cumulative: 14, scattered: 13, swish: 24,
    rms_norm: 23,
}  # fmt: skip


@pytest.mark.parametrize("make", RANDOM, ids=lambda f: f.__name__.strip("_"))
def test_random_options_give_what_onnx_runtime_gives(tmp_path, make):
    if RANDOM[make] > onnx.defs.onnx_opset_version():
        pytest.skip(f"this onnx knows no opset {RANDOM[make]}")
    rng, compared = np.random.default_rng(7), 0
    for _ in range(25):
        nodes, constants, x = make(rng)
        nodes = nodes if isinstance(nodes, list) else [nodes]
        ir = 8 if RANDOM[make] < 22 else 11
        path = saved(model_of(nodes, constants, RANDOM[make], ir_version=ir), tmp_path / "m.onnx")
        want = run_runtime(path, x)
        got = load(path)(fc.tensor(x)).numpy()
        assert got.shape == want.shape, nodes
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=str(nodes))
        compared += 1
    assert compared == 25


def test_old_operators_keep_their_old_meaning(tmp_path):
    """Attributes that later became operands, softmax over all later axes, Upsample."""
    x = numbers(np.random.default_rng(0), 2, 3, 4, 5)
    nodes = [
        helper.make_node("Slice", ["x"], ["s"], axes=[2, 3], starts=[1, 0], ends=[100, -1]),
        helper.make_node("Pad", ["s"], ["p"], pads=[0, 0, 1, 0, 0, 0, 0, 2], mode="constant", value=0.5),
        helper.make_node("Clip", ["p"], ["c"], min=-0.5, max=1.0),
        helper.make_node("Upsample", ["c", "k"], ["u"], mode="linear"),
        helper.make_node("Unsqueeze", ["u"], ["v"], axes=[0]),
        helper.make_node("Squeeze", ["v"], ["w"], axes=[0]),
        helper.make_node("ReduceSum", ["w"], ["r"], axes=[2], keepdims=0),
        helper.make_node("Dropout", ["r"], ["d"], ratio=0.3),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    path = saved(model_of(nodes, {"k": np.float32([1, 1, 2, 1.5])}, 9, ir_version=4), tmp_path / "m.onnx")
    np.testing.assert_allclose(load(path)(fc.tensor(x)).numpy(), run_runtime(path, x), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- corners, against ONNX Runtime

X = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)
X10 = np.random.default_rng(4).standard_normal((1, 2, 10, 10)).astype(np.float32)
INTS = np.int32([[-3, -2, 0], [5, 2, 1]])
BYTES = np.arange(98).reshape(1, 2, 7, 7) * 37 % 251
CORNERS = {
    "clip of integers": ("Clip", INTS, {"l": np.int32(0), "h": np.int32(6)}, 17, {}),
    "mod of a constant": ("Mod", X, {"c": np.float32(5)}, 17, {"fmod": 1}),
    "one pixel": ("InstanceNormalization", X[:, :, :1, None], {"w": X[0, :, 0], "b": X[0, :, 1]}, 17, {}),
    "sums of infinities": ("ReduceLogSumExp", np.float32([[0, np.inf], [-np.inf, -np.inf]]), {}, 13, {"axes": [1]}),
    "no beta": ("Gemm", X[0], {"b": X[0].T, "c": np.float32([np.nan])}, 17, {"beta": 0.0}),
    **{f"pool of {t}": ("MaxPool", BYTES.astype(t), {}, 17, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": p})
       for t, p in (("uint8", [1] * 4), ("int8", [0, 0, 1, 1]))},
    **{f"{r} of integers": (f"Reduce{r}", INTS, {}, 13, {"axes": [1]})
       for r in ("Prod", "Mean", "Max", "L1", "L2", "SumSquare", "LogSumExp")},
    "resize of bytes": ("Resize", BYTES.astype("u1"), {"r": np.float32([]), "s": np.float32([1, 1, 2, 1.5])}, 13,
                        {"mode": "linear"}),
    "resize by a float32 below 0.7": ("Resize", X10, {"r": np.float32([]), "s": np.float32([1, 1, 0.7, 0.9])}, 13,
                                      {"mode": "linear"}),
    "resize of rows alone": ("Resize", X10[..., :2], {"r": np.float32([]), "s": np.float32([1, 1, 3, 1.4])},
                             13, {"mode": "linear"}),
    "Sum of integers": ("ReduceSum", INTS, {"a": np.int64([1])}, 13, {}),
    **{f"{r} of no axes": (f"Reduce{r}", abs(X), {}, 18, {"noop_with_empty_axes": 1})
       for r in ("Sum", "Mean", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")},
    "norm of small numbers": ("MeanVarianceNormalization", 1e-3 * X10, {}, 13, {}),
    **{f"exclusive sums, reverse {r}": ("CumSum", np.float32([[3, 1, 1e8, 2, np.inf, 1]]), {"a": np.int64(1)}, 14,
                                        {"exclusive": 1, "reverse": r}) for r in (0, 1)},
    "power of integers": ("Pow", abs(INTS), {"e": np.float32(1.5)}, 15, {}),
    "power of an integer": ("Pow", np.int64([[1, 2, 3]]), {"b": np.int32(2)}, 15, {}),
    "triangle of bools": ("Trilu", X > 0, {}, 14, {}),
    **{f"ties of {m}": (
           "Resize", np.arange(n, dtype=np.float32)[None, None, None],
           {"r": np.float32([]), "e": np.float32([]), "s": np.int64([1, 1, 1, 4 if n == 7 else 14])}, 13,
           {"coordinate_transformation_mode": "asymmetric", "nearest_mode": m})
       for m, n in (("round_prefer_ceil", 7), ("round_prefer_floor", 23))},
}  # fmt: skip


@pytest.mark.parametrize("name", CORNERS)
def test_corners_give_what_onnx_runtime_gives(tmp_path, name):
    op, x, constants, opset, options = CORNERS[name]
    first = op == "Mod" or "b" in constants and op == "Pow"
    operands = [*constants, "x"] if first else ["x", *constants]
    types = {"x": (helper.np_dtype_to_tensor_dtype(x.dtype), None)}
    types["y"] = (helper.np_dtype_to_tensor_dtype(constants["b"].dtype), None) if first and op == "Pow" else types["x"]
    model = model_of([helper.make_node(op, operands, ["y"], **options)], constants, opset, types=types)
    path = saved(model, tmp_path / "m.onnx")
    want, got = run_runtime(path, x), load(path)(fc.tensor(x)).numpy()
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("back", [False, True], ids=["integers", "floats"])
def test_quantised_integers_are_of_the_type_that_an_attribute_names(tmp_path, back):
    """Without a zero point, which names it elsewhere."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=onnx.TensorProto.INT8)]
    if back:
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s"], ["y"]))
    out = "y" if back else "q"
    kind = onnx.TensorProto.FLOAT if back else onnx.TensorProto.INT8
    model = model_of(nodes, {"s": np.float32(0.01)}, 21, outputs=(out,), types={out: (kind, None)}, ir_version=10)
    path = saved(model, tmp_path / "m.onnx")
    want, got = run_runtime(path, X), load(path)(fc.tensor(X)).numpy()
    assert got.dtype == want.dtype and want.min() < 0
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("largest", [0, 1])
def test_topk_picks_no_element_twice(tmp_path, largest):
    """Infinities are elements like others, also where only they are left."""
    x = np.float32([[1, -np.inf, 3, -np.inf, np.inf, 0, np.inf]])
    nodes = [helper.make_node("TopK", ["x", "k"], ["v", "y"], largest=largest)]
    types = {"x": (onnx.TensorProto.FLOAT, None), "y": (onnx.TensorProto.INT64, None)}
    path = saved(model_of(nodes, {"k": np.int64([7])}, types=types), tmp_path / "m.onnx")
    np.testing.assert_array_equal(load(path)(fc.tensor(x)).numpy(), run_runtime(path, x))


def test_constants_follow_a_network_to_another_type(tmp_path):
    """Tables of the data's shape, which are no weights."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["o"], value=onnx.numpy_helper.from_array(np.float32([2]))),
        helper.make_node("Add", ["x", "o"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    net = load(saved(model_of(nodes, {"w": np.ones((4, 2), np.float32)}), tmp_path / "m.onnx"))
    want = net(fc.tensor(X)).numpy()
    got = net.to("bfloat16")(fc.tensor(X).to("bfloat16"))
    assert str(got.dtype) == "bfloat16"
    np.testing.assert_allclose(array_of(got), want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
def test_constants_may_stand_first(tmp_path, op):
    path = saved(model_of([helper.make_node(op, ["a", "b", "x"], ["y"])], {"a": np.float32(1), "b": np.float32(0.5)}),
                 tmp_path / "m.onnx")  # fmt: skip
    np.testing.assert_allclose(load(path)(fc.tensor(X)).numpy(), run_runtime(path, X), rtol=1e-6)


def test_clip_takes_bounds_from_the_data(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0), helper.make_node("Clip", ["x", "m"], ["y"])]
    path = saved(model_of(nodes), tmp_path / "m.onnx")
    np.testing.assert_allclose(load(path)(fc.tensor(X)).numpy(), run_runtime(path, X), rtol=1e-6)


def test_batch_norm_in_training_mode_takes_the_statistics_of_the_batch(tmp_path):
    """As the file says, in evaluation too; running statistics move in training alone."""
    rng = np.random.default_rng(0)
    w, b, m = (numbers(rng, 3) for _ in range(3))
    node = helper.make_node("BatchNormalization", ["x", "w", "b", "m", "v"], ["y", "m2", "v2"], training_mode=1)
    net = load(saved(model_of([node], {"w": w, "b": b, "m": m, "v": m**2 + 1}), tmp_path / "m.onnx"))
    x = 2 * numbers(rng, 4, 3, 5, 5) + 1
    centred = x - x.mean((0, 2, 3), keepdims=True)
    shape = (1, 3, 1, 1)
    want = centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-5) * w.reshape(shape) + b.reshape(shape)
    np.testing.assert_allclose(net(fc.tensor(x)).numpy(), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(net.m.numpy(), m)
    np.testing.assert_allclose(net.train()(fc.tensor(x)).numpy(), want, rtol=1e-4, atol=1e-4)
    assert np.abs(net.m.numpy() - m).max() > 0.01


def test_places_outside_of_the_data_are_errors(tmp_path):
    for op, constants in (("GatherND", {}), ("ScatterND", {"u": np.zeros(1, np.float32)})):
        for places, match in (([[2, 0, 0]], "indices 0 to 2 of 3 axes"), ([[0] * 4], "expected indices of 1 to 3")):
            given = {"i": np.int64(places), **constants}
            net = load(saved(model_of([helper.make_node(op, ["x", *given], ["y"])], given), tmp_path / "m.onnx"))
            with pytest.raises(ValueError, match=f"{op} 'y': {match}"):
                net(fc.tensor(X))
