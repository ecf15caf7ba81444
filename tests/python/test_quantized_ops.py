"""The int8 ops: references against NumPy's whole numbers, and every ISA and thread count against the references."""

import json

import fastcnn as fc
import fastcnn._core as core
import numpy as np
import pytest

ops = fc.ops


def bytes_of(shape, seed, signed=False):
    g = np.random.default_rng([seed, *shape])
    low, high, dtype = (-127, 128, np.int8) if signed else (0, 256, np.uint8)
    return g.integers(low, high, shape).astype(dtype)


def floats_of(n, seed, scale):
    return (np.random.default_rng([seed, n]).uniform(0.2, 1, n) * scale).astype(np.float32)


def fused(a, b, c):
    """float32 a * b + c with one rounding; a product of two float32 is exact in float64."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32)


# name: x shape, (O, kH, kW), options
CASES = {
    "1x1": ((2, 64, 7, 7), (40, 1, 1), {}),
    "1x1 odd": ((1, 19, 5, 3), (21, 1, 1), {}),
    "3x3": ((1, 32, 9, 11), (80, 3, 3), {"padding": 1}),
    "3x3 stride": ((2, 16, 10, 7), (17, 3, 3), {"padding": 1, "stride": 2}),
    "1x1 stride": ((2, 24, 9, 11), (40, 1, 1), {"stride": 2}),
    "window smaller than stride": ((1, 12, 13, 14), (20, 2, 2), {"stride": 3, "padding": 1}),
    "dilated, stride": ((1, 6, 15, 16), (18, 3, 2), {"stride": 2, "dilation": 3, "padding": (3, 2)}),
    "long rows": ((1, 8, 3, 650), (17, 3, 3), {"padding": 1, "stride": (1, 2)}),
    "rows too long for winograd": ((1, 32, 3, 530), (33, 3, 3), {"padding": 1}),
    "first": ((1, 3, 20, 17), (32, 7, 7), {"padding": 3, "stride": 2}),
    "few channels, wide": ((2, 5, 6, 9), (66, 3, 5), {"padding": (1, 2)}),
    "dilated": ((1, 8, 12, 12), (9, 3, 3), {"padding": 2, "dilation": 2}),
    "dilated, odd channels": ((1, 6, 12, 10), (9, 3, 3), {"padding": 2, "dilation": 2}),
    "grouped": ((1, 24, 6, 6), (36, 3, 3), {"padding": 1, "groups": 3}),
    "grouped, odd": ((1, 9, 6, 6), (12, 3, 3), {"padding": 1, "groups": 3}),
    "depthwise": ((1, 70, 9, 8), (70, 3, 3), {"padding": 1, "groups": 70}),
    "depthwise stride": ((2, 144, 9, 8), (144, 5, 5), {"padding": 2, "stride": 2, "groups": 144}),
    "depthwise 1x1": ((1, 33, 4, 4), (33, 1, 1), {"groups": 33}),
    "depthwise pairs": ((2, 48, 7, 9), (48, 3, 3), {"padding": 1, "groups": 48}),
    "depthwise pairs, no padding": ((1, 64, 5, 6), (64, 3, 3), {"groups": 64}),
    "depthwise pairs, rows apart": ((1, 60, 9, 7), (60, 3, 3), {"padding": (2, 1), "dilation": (2, 1), "groups": 60}),
    "depthwise, one column": ((2, 48, 5, 1), (48, 3, 3), {"padding": 1, "groups": 48}),
    "depthwise, pixels together": ((2, 24, 9, 21), (24, 3, 3), {"padding": 1, "groups": 24}),
    "depthwise, pixels together, 5x5": ((1, 20, 11, 23), (20, 5, 5), {"padding": 4, "dilation": 2, "groups": 20}),
    "multiplier": ((1, 6, 8, 8), (12, 3, 3), {"padding": 1, "groups": 6}),
    "linear": ((3, 130, 1, 1), (70, 1, 1), {}),
    "winograd": ((2, 64, 9, 11), (80, 3, 3), {"padding": 1}),
    "winograd, odd": ((1, 34, 17, 12), (51, 3, 3), {"padding": (2, 0)}),
    "winograd, parts of images": ((2, 96, 33, 27), (136, 3, 3), {"padding": 1}),
    "more padding than window": ((1, 4, 2, 2), (5, 3, 3), {"padding": 4}),
}


def operands(name, residual):
    x_shape, (o, kh, kw), options = CASES[name]
    x = bytes_of(x_shape, 1)
    w = bytes_of((o, x_shape[1] // options.get("groups", 1), kh, kw), 2, signed=True)
    depth = w[0].size
    multiplier, offset = floats_of(o, 3, 0.02 / depth**0.5), floats_of(o, 4, 80)
    more = {"x_zero": 13, "low": 7, "high": 250}
    arrays = [x, w, multiplier, offset]
    if residual:
        shape = ops.quantized_conv2d(*map(fc.tensor, arrays), **options).shape
        more |= {"residual": bytes_of(shape, 5), "residual_multiplier": 0.37}
    return arrays, {**options, **more}


def run(arrays, options, **more):
    options = {**options, **more}
    if "residual" in options:
        options["residual"] = fc.tensor(options["residual"])
    return ops.quantized_conv2d(*map(fc.tensor, arrays), **options).numpy()


def exact_sums(x, w, options):
    """int64 sums of (x - x_zero) * w, by float64 convolution, in which they are exact."""
    x = x.astype(np.float64) - options["x_zero"]
    names = ("stride", "padding", "dilation", "groups")
    return ops.conv2d(
        fc.tensor(x), fc.tensor(w.astype(np.float64)), **{k: options[k] for k in names if k in options}
    ).numpy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
def test_reference_is_the_formula(name, residual):
    core.set_isa("ref")
    arrays, options = operands(name, residual)
    sums = exact_sums(*arrays[:2], options)
    assert (sums == np.rint(sums)).all()
    channel = (slice(None), None, None)
    v = fused(sums.astype(np.float32), arrays[2][channel], arrays[3][channel])
    if residual:
        v = fused(options["residual"].astype(np.float32), np.float32(0.37), v)
    np.testing.assert_array_equal(run(arrays, options, to_float=True), v)
    want = np.clip(np.rint(v), 7, 250).astype(np.uint8)
    np.testing.assert_array_equal(run(arrays, options), want)
    assert len(np.unique(want)) > 5  # not all at the limits


@pytest.mark.parametrize("name", CASES)
def test_every_isa_and_thread_count_gives_the_bits_of_the_reference(name, kernel_isa):
    threads = fc.get_num_threads()
    try:
        for residual in (False, True):
            arrays, options = operands(name, residual)
            for to_float in (False, True):
                core.set_isa("ref")
                want = run(arrays, options, to_float=to_float)
                core.set_isa(kernel_isa)
                for n in (1, 2, 3):
                    fc.set_num_threads(n)
                    np.testing.assert_array_equal(run(arrays, options, to_float=to_float), want)
    finally:
        fc.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "to_float", "taker"),
    [("winograd", False, "winograd"), ("winograd, odd", True, "winograd"), ("3x3", False, "dense"),
     ("depthwise", True, "depthwise"), ("depthwise pairs", False, "depthwise")],
)  # fmt: skip
def test_the_kernels_of_these_shapes_take_them(name, to_float, taker, kernel_isa):
    """So that the comparisons above are of what they seem to be."""
    core.set_isa(kernel_isa)
    arrays, options = operands(name, False)
    rest = [fc.tensor(a) for a in arrays[1:]]
    f = fc.compile(lambda x: ops.quantized_conv2d(x, *rest, **options, to_float=to_float))
    f(fc.tensor(arrays[0]))
    vnni = kernel_isa == "avx512bf16"  # multiplies bytes
    assert f"[{'dense' if vnni and taker == 'winograd' else taker}]" in f.describe()


def test_extreme_operands_neither_saturate_nor_wrap(kernel_isa):
    """Sums of 255 * 127 in pairs are more than int16 holds, and -128 has no positive twin."""
    for channels in (4, 64, 65792):
        x = np.full((1, channels, 1, 1), 255, np.uint8)
        w = np.stack([np.full((channels, 1, 1), v, np.int8) for v in (127, -128)])
        y = ops.quantized_conv2d(
            *map(fc.tensor, (x, w, np.ones(2, np.float32), np.zeros(2, np.float32))), to_float=True
        )
        assert y.numpy().ravel().tolist() == [np.float32(255 * v * channels) for v in (127, -128)]


def test_extreme_operands_of_winograd(kernel_isa):
    """Signs of x and w that make transformed values, their products and sums as large as they get."""
    n, c, o = 12, 512, 32
    for seed in range(4):
        g = np.random.default_rng(seed)
        x = g.choice(np.array([0, 255], np.uint8), (1, 1, n, n)).repeat(c, 1)
        w = g.choice(np.array([-128, 127], np.int8), (o, 1, 3, 3)).repeat(c, 1)
        if seed == 0:
            x[:], w[:16], w[16:] = 255, 127, -128
        arrays = [x, w, np.ones(o, np.float32), np.zeros(o, np.float32)]
        for x_zero in (0, 255):
            got = run(arrays, {"padding": 1, "x_zero": x_zero}, to_float=True)
            want = exact_sums(x, w, {"padding": 1, "x_zero": x_zero})
            np.testing.assert_array_equal(got, want.astype(np.float32))


def graph_of(op, inputs, shape, dtype, params):
    """One node as a function; how plans and files hold ops that fastcnn.ops lacks."""
    names = [f"x{i}" for i in range(len(inputs))]
    form = {
        "batch": None,
        "inputs": [
            {"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in zip(names, inputs, strict=True)
        ],
        "nodes": [{"op": op, "in": names, "out": [{"name": "y", "dtype": dtype, "shape": shape}], "params": params}],
        "outputs": [{"name": "out", "tensor": "y", "dtype": dtype, "shape": shape}],
    }
    function = core.GraphFunction(json.dumps(form), [])
    return lambda: function([fc.tensor(a) for a in inputs])[0].numpy()


def pool_params(shape, out, **more):
    n, c, h, w = shape
    return {"N": n, "C": c, "H": h, "W": w, "oH": out[0], "oW": out[1], **more}


WINDOW = {"kH": 3, "kW": 3, "sH": 2, "sW": 2, "pT": 1, "pB": 1, "pL": 1, "pR": 1}
OTHERS = {
    "quantize": ("quantize", [(3, 37)], "uint8", {"scale": 0.01, "zero": 100}),
    "dequantize": ("dequantize", [(3, 37)], "float32", {"scale": 0.03, "zero": 100}),
    "add": (
        "quantized_add",
        [(2, 5, 3, 3), (2, 5, 3, 3)],
        "uint8",
        {"a_multiplier": 0.7, "b_multiplier": 0.31, "offset": -9.25, "has_b": 1, "low": 3},
    ),
    "requantize": ("quantized_add", [(2, 21)], "uint8", {"a_multiplier": 1.7, "offset": -20.5, "high": 200}),
    "max": ("quantized_pool2d", [(2, 21, 9, 7)], "uint8", {"max": 1, **WINDOW}),
    "average": (
        "quantized_pool2d",
        [(2, 21, 9, 7)],
        "uint8",
        {"x_zero": 9, "multiplier": 0.8, "offset": 3.0, **WINDOW},
    ),
    "inner average": (
        "quantized_pool2d",
        [(1, 600, 5, 5)],
        "float32",
        {"x_zero": 9, "multiplier": 0.02, "count_include_pad": 0, **WINDOW},
    ),
    "global average": ("quantized_pool2d", [(2, 530, 7, 5)], "uint8", {"x_zero": 4, "multiplier": 1.3, "adaptive": 1}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_ops_give_the_bits_of_the_reference(name, kernel_isa):
    op, shapes, dtype, params = OTHERS[name]
    shape, inputs = list(shapes[0]), [bytes_of(s, 7 + i) for i, s in enumerate(shapes)]
    if op == "quantize":
        inputs = [((inputs[0] - 128.0) / 50).astype(np.float32)]
    if op == "quantized_pool2d":
        out = (1, 1) if params.get("adaptive") else tuple((n + 1) // 2 for n in shape[2:])
        params = pool_params(shape, out, **params)
        shape[2:] = out
    call = graph_of(op, inputs, shape, dtype, params)
    core.set_isa("ref")
    want = call()
    core.set_isa(kernel_isa)
    np.testing.assert_array_equal(call(), want)
    assert len(np.unique(want)) > 5


def test_references_of_other_ops_are_their_formulas():
    core.set_isa("ref")
    a, b = bytes_of((2, 5, 3, 3), 7), bytes_of((2, 5, 3, 3), 8)
    op, _, dtype, params = OTHERS["add"]
    v = fused(a.astype(np.float32), np.float32(0.7), fused(b.astype(np.float32), np.float32(0.31), np.float32(-9.25)))
    got = graph_of(op, [a, b], list(a.shape), dtype, params)()
    np.testing.assert_array_equal(got, np.clip(np.rint(v), 3, 255).astype(np.uint8))
    x = bytes_of((2, 21, 9, 7), 7)
    got = graph_of("quantized_pool2d", [x], [2, 21, 5, 4], "uint8", pool_params(x.shape, (5, 4), max=1, **WINDOW))()
    want, _ = ops.max_pool2d(fc.tensor(x.astype(np.float32)), 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(got, want.numpy())
    params = pool_params(x.shape, (5, 4), x_zero=9, multiplier=0.5, count_include_pad=0, **WINDOW)
    got = graph_of("quantized_pool2d", [x], [2, 21, 5, 4], "float32", params)()
    want = ops.avg_pool2d(fc.tensor((x - 9.0).astype(np.float32)), 3, 2, 1, count_include_pad=False).numpy() * 0.5
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_quantize_rounds_halves_to_even_and_clamps(kernel_isa):
    x = np.array([0.5, 1.5, 2.5, -0.5, 300, -1e30, np.inf, -np.inf, np.nan, 254.5], np.float32)
    assert ops.quantize(fc.tensor(x), 1.0, 0).numpy().tolist() == [0, 2, 2, 0, 255, 0, 255, 0, 0, 254]
    back = ops.dequantize(fc.tensor(np.arange(256, dtype=np.uint8)), 0.25, 128)
    assert back.numpy().tolist() == [(i - 128) * 0.25 for i in range(256)]
    np.testing.assert_array_equal(ops.quantize(back, 0.25, 128).numpy(), np.arange(256))


@pytest.mark.parametrize(
    "error, match, call",
    [
        (
            TypeError,
            "quantize: expected x of float32, got int32",
            lambda: ops.quantize(fc.tensor(np.zeros(2, np.int32)), 1.0, 0),
        ),
        (ValueError, "scale > 0, got 0", lambda: ops.quantize(fc.tensor(np.zeros(2, np.float32)), 0.0, 0)),
        (
            ValueError,
            r"zero in \[0, 255\], got 256",
            lambda: ops.quantize(fc.tensor(np.zeros(2, np.float32)), 1.0, 256),
        ),
        (
            TypeError,
            "expected x of uint8, got float32",
            lambda: ops.dequantize(fc.tensor(np.zeros(2, np.float32)), 1.0, 0),
        ),
    ],
)
def test_bad_input_is_told(error, match, call):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    "error, match, change",
    [
        (TypeError, "expected w of int8", {"w": np.zeros((4, 8, 1, 1), np.float32)}),
        (ValueError, r"w \(4, 7, 1, 1\)", {"w": np.zeros((4, 7, 1, 1), np.int8)}),
        (ValueError, "multiplier of shape", {"multiplier": np.zeros(3, np.float32)}),
        (ValueError, "low <= high, got 9 and 3", {"low": 9, "high": 3}),
        (ValueError, "expected residual of shape", {"residual": np.zeros((1, 4, 2, 3), np.uint8)}),
        (ValueError, "covers more pixels", {"w": np.zeros((4, 8, 3, 3), np.int8)}),
        (
            ValueError,
            "int32 holds",
            {"x": np.zeros((1, 70000, 1, 1), np.uint8), "w": np.zeros((4, 70000, 1, 1), np.int8)},
        ),
    ],
)
def test_bad_operands_of_convolutions_are_told(error, match, change):
    arguments = {
        "x": np.zeros((1, 8, 2, 2), np.uint8),
        "w": np.zeros((4, 8, 1, 1), np.int8),
        "multiplier": np.ones(4, np.float32),
        "offset": np.ones(4, np.float32),
        **change,
    }
    arguments = {k: fc.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    with pytest.raises(error, match=match):
        ops.quantized_conv2d(**arguments)


@pytest.mark.parametrize(
    "match, change",
    [
        (r"x_zero in \[0, 255\]", {"x_zero": 300}),
        ("0 <= low <= high <= 255", {"high": 400}),
        ("has_bias|no bias", {"has_bias": 1}),
        ("sums of at most", {"C": 70000}),
        ("expected input 0", {"H": 5, "oH": 5}),
    ],
)
def test_graphs_of_files_are_verified(match, change):
    params = {"N": 1, "C": 8, "H": 4, "W": 4, "O": 4, "kH": 1, "kW": 1, "oH": 4, "oW": 4, **change}
    arrays = [bytes_of((1, 8, 4, 4), 0), bytes_of((4, 8, 1, 1), 0, True), floats_of(4, 0, 1), floats_of(4, 0, 1)]
    with pytest.raises(ValueError, match=match):
        graph_of("quantized_conv2d", arrays, [1, 4, params["oH"], 4], "uint8", params)()
