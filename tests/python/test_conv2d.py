"""conv2d, conv_transpose2d: PyTorch and finite differences, every option, dtype and ISA, to second order."""

import json
import pathlib

import numpy as np
import pytest
from nn_check import (
    array,
    assert_close,
    check_against_torch,
    check_finite_differences,
    core,
    each_backend,
    each_isa,
    ops,
    randn,
    tensor,
    torch,
    use_isa,
)

F = torch.nn.functional

SHAPES = json.loads((pathlib.Path(__file__).parents[1] / "shapes" / "conv2d.json").read_text())
each_shape = pytest.mark.parametrize("s", SHAPES, ids=[s["name"] for s in SHAPES])


def options(s):
    o = {k: v for k, v in s.items() if k not in ("name", "x", "w")}
    for k, v in o.items():
        if isinstance(v, list):
            o[k] = tuple(tuple(i) if isinstance(i, list) else i for i in v)
    return o


def torch_conv(x, w, b=None, padding=0, **kwargs):
    if isinstance(padding, tuple) and isinstance(padding[0], tuple):
        (top, bottom), (left, right) = padding
        x, padding = F.pad(x, (left, right, top, bottom)), 0
    return F.conv2d(x, w, b, padding=padding, **kwargs)


def operands(s, bias=True):
    x, w = randn(s["x"], 1), randn(s["w"], 2) / np.sqrt(np.prod(s["w"][1:]))
    return [x, w, randn([s["w"][0]], 3)] if bias else [x, w]


@each_backend
@each_shape
def test_conv2d(s, dtype, isa):
    o = options(s)
    check_against_torch(
        lambda x, w, b: ops.conv2d(x, w, b, **o),
        lambda x, w, b: torch_conv(x, w, b, **o),
        operands(s),
        dtype,
        isa,
        tolerance={"float32": 1e-4}.get(dtype),
    )


@each_shape
def test_conv2d_without_bias_and_finite_differences(s):
    o = options(s)
    check_against_torch(
        lambda x, w: ops.conv2d(x, w, **o), lambda x, w: torch_conv(x, w, **o), operands(s, bias=False)
    )
    check_finite_differences(lambda x, w, b: ops.conv2d(x, w, b, **o), operands(s))


@each_isa
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode, isa):
    def want(x, w, b):
        return F.conv2d(F.pad(x, (1, 1, 2, 2), mode=mode), w, b, stride=2)

    check_against_torch(
        lambda x, w, b: ops.conv2d(x, w, b, stride=2, padding=(2, 1), padding_mode=mode),
        want,
        [randn((2, 3, 7, 6)), randn((4, 3, 3, 3)), randn((4,))],
        "float32",
        isa,
        tolerance=1e-4,
    )


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("kernel, dilation", [((3, 3), 1), ((2, 4), 1), ((3, 2), 2)])
def test_same_padding_of_stride_1_is_torch_same(kernel, dilation, mode):
    conv = torch.nn.Conv2d(3, 4, kernel, padding="same", dilation=dilation, padding_mode=mode).double()
    x = randn((2, 3, 8, 9))
    got = ops.conv2d(
        tensor(x),
        tensor(conv.weight.detach().numpy()),
        tensor(conv.bias.detach().numpy()),
        padding="same",
        dilation=dilation,
        padding_mode=mode,
    )
    assert_close(array(got), conv(torch.tensor(x)).detach().numpy(), 1e-12, "same")


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 8])
@pytest.mark.parametrize(
    "kernel, stride, dilation", [(3, 2, 1), (2, 2, 1), (1, 2, 1), (5, 3, 1), (3, 2, 2), (4, 3, 1)]
)
def test_same_padding_with_stride_is_ceil_with_the_odd_pixel_last(size, kernel, stride, dilation):
    x, w = randn((1, 2, size, size)), randn((3, 2, kernel, kernel))
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - size)
    before, after = total // 2, total - total // 2
    want = F.conv2d(
        F.pad(torch.tensor(x), (before, after, before, after)),
        torch.tensor(w),
        stride=stride,
        dilation=dilation,
    )
    got = ops.conv2d(tensor(x), tensor(w), stride=stride, dilation=dilation, padding="same")
    assert got.shape == (1, 3, out, out)
    assert_close(array(got), want.numpy(), 1e-12, "same")


# x, w, groups, stride, padding: as many results in a row as the image has pixels, or an image of one row.
NO_ROW_OF_PIXELS = [
    ((1, 3, 1, 15), (128, 3, 1, 1), 1, 1, ((1, 0), (0, 2))),
    ((1, 16, 1, 15), (16, 1, 1, 1), 16, 1, 1),
    ((1, 16, 1, 1), (16, 1, 1, 1), 16, 1, 1),
    ((1, 16, 1, 1), (16, 1, 3, 3), 16, 3, 3),
    ((1, 16, 2, 4), (16, 1, 1, 1), 16, (2, 1), (0, 2)),
    ((1, 64, 2, 4), (1, 64, 1, 1), 1, (2, 1), (0, 2)),
]


@each_backend
@pytest.mark.parametrize("x, w, groups, stride, padding", NO_ROW_OF_PIXELS)
def test_windows_of_one_tap_that_leave_an_image_of_few_rows(x, w, groups, stride, padding, dtype, isa):
    o = {"groups": groups, "stride": stride, "padding": padding}
    check_against_torch(
        lambda x, w: ops.conv2d(x, w, **o),
        lambda x, w: torch_conv(x, w, **o),
        [randn(x, 1), randn(w, 2)],
        dtype,
        isa,
        tolerance={"float32": 1e-4}.get(dtype),
    )


def test_valid_padding_is_none():
    x, w = tensor(randn((1, 2, 5, 5))), tensor(randn((3, 2, 3, 3)))
    assert_close(array(ops.conv2d(x, w, padding="valid")), array(ops.conv2d(x, w)), 0, "valid")


@each_isa
def test_unbatched_and_empty_batch(isa):
    x, w, b = randn((3, 6, 5)), randn((4, 3, 3, 3)), randn((4,))
    check_against_torch(
        lambda *a: ops.conv2d(*a, padding=1),
        lambda *a: F.conv2d(*a, padding=1),
        [x, w, b],
        "float32",
        isa,
        tolerance=1e-4,
    )
    check_against_torch(
        ops.conv_transpose2d, F.conv_transpose2d, [x, randn((3, 4, 2, 2)), b], "float32", isa, tolerance=1e-4
    )
    with use_isa(isa):
        empty = tensor(np.zeros((0, 3, 6, 5)), "float32", True)
        weight = tensor(w, "float32", True)
        y = ops.conv2d(empty, weight, padding=1)
        assert y.shape == (0, 4, 6, 5)
        dx, dw = core.grad([y], [empty, weight], [y.detach()])
        assert dx.shape == (0, 3, 6, 5) and not array(dw).any()


def test_strided_operands_are_accepted():
    x, w = randn((2, 6, 5, 3)), randn((3, 3, 3, 4))
    got = ops.conv2d(tensor(x).permute([0, 3, 1, 2]), tensor(w).permute([3, 2, 0, 1]))
    want = F.conv2d(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(w).permute(3, 2, 0, 1))
    assert_close(array(got), want.numpy(), 1e-12, "strided")


@pytest.mark.parametrize("frozen", [0, 1, 2, (0, 1), (1, 2), (0, 2)])
def test_only_the_gradients_that_are_needed(frozen):
    frozen = (frozen,) if isinstance(frozen, int) else frozen
    needs = [i not in frozen for i in range(3)]
    arrays = [randn((2, 3, 5, 5)), randn((4, 3, 3, 3)), randn((4,))]
    check_against_torch(ops.conv2d, F.conv2d, arrays, needs_grad=needs)
    arrays[1] = randn((3, 4, 3, 3))
    check_against_torch(ops.conv_transpose2d, F.conv_transpose2d, arrays, needs_grad=needs)


TRANSPOSED = [
    ("2x2 stride 2", (2, 5, 4, 3), (5, 4, 2, 2), {"stride": 2}),
    ("4x4 stride 2 as in DCGAN", (2, 6, 5, 5), (6, 3, 4, 4), {"stride": 2, "padding": 1}),
    ("3x3", (2, 5, 4, 3), (5, 4, 3, 3), {"padding": 1}),
    (
        "output padding",
        (1, 3, 4, 5),
        (3, 2, 3, 3),
        {"stride": (3, 2), "padding": 1, "output_padding": (2, 1)},
    ),
    ("output padding by the dilation of one tap", (1, 3, 4, 5), (3, 2, 1, 1), {"dilation": 2, "output_padding": 1}),
    ("one tap in a row, dilated", (1, 3, 6, 5), (3, 2, 1, 3), {"dilation": (3, 2), "stride": 2}),
    ("output padding by dilation", (1, 3, 4, 5), (3, 2, 3, 3), {"dilation": 2, "output_padding": 1}),
    ("groups", (2, 6, 4, 4), (6, 2, 3, 3), {"stride": 2, "groups": 3}),
    ("depthwise", (2, 8, 4, 4), (8, 1, 4, 4), {"stride": 2, "padding": 1, "groups": 8}),
    ("dilation", (1, 4, 5, 6), (4, 3, 3, 2), {"stride": 2, "dilation": (2, 3), "padding": (1, 2)}),
    ("gaps", (1, 2, 3, 3), (2, 3, 1, 1), {"stride": 3}),
    ("1x1 image", (3, 17, 1, 1), (17, 9, 4, 4), {}),
]


@each_backend
@pytest.mark.parametrize("x, w, o", [t[1:] for t in TRANSPOSED], ids=[t[0] for t in TRANSPOSED])
def test_conv_transpose2d(x, w, o, dtype, isa):
    arrays = [randn(x, 1), randn(w, 2) / np.sqrt(w[0] * w[2]), randn((w[1] * o.get("groups", 1),), 3)]
    check_against_torch(
        lambda *a: ops.conv_transpose2d(*a, **o),
        lambda *a: F.conv_transpose2d(*a, **o),
        arrays,
        dtype,
        isa,
        tolerance={"float32": 1e-4}.get(dtype),
    )
    if dtype == "float64":
        check_finite_differences(lambda *a: ops.conv_transpose2d(*a, **o), arrays)


def test_conv_transpose2d_with_asymmetric_padding_crops():
    x, w = tensor(randn((1, 2, 4, 4))), tensor(randn((2, 3, 3, 3)))
    whole = array(ops.conv_transpose2d(x, w, stride=2))
    got = array(ops.conv_transpose2d(x, w, stride=2, padding=((0, 2), (1, 3))))
    assert_close(got, whole[:, :, 0:-2, 1:-3], 1e-12, "crop")


def test_third_gradient():
    """Each pass is bilinear, so any order works: compare with torch's third derivative."""
    arrays = [randn((1, 2, 4, 4)), randn((2, 2, 3, 3))]

    def ours():
        x, w = (tensor(a, "float64", True) for a in arrays)
        y = ops.conv2d(x, w)
        g = core.grad([y * y * y], [x], [tensor(np.ones(y.shape))], create_graph=True)[0]
        g = core.grad([g * g], [w], [tensor(np.ones(g.shape))], create_graph=True)[0]
        return array(core.grad([g * g], [x], [tensor(np.ones(g.shape))])[0])

    def theirs():
        x, w = (torch.tensor(a, requires_grad=True) for a in arrays)
        y = F.conv2d(x, w)
        (g,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        (g,) = torch.autograd.grad((g**2).sum(), w, create_graph=True)
        return torch.autograd.grad((g**2).sum(), x)[0].numpy()

    assert_close(ours(), theirs(), 1e-10, "third gradient")


def T(*shape, dtype="float32"):
    return tensor(np.zeros(shape), dtype)


BAD = [
    (
        lambda: ops.conv2d(T(8, 32, 56, 56), T(128, 64, 3, 3)),
        ValueError,
        r"conv2d: expected x with 64 channels \(w is \(128, 64, 3, 3\), groups=1\), "
        r"got x of shape \(8, 32, 56, 56\)",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3, dtype="float64")),
        TypeError,
        r"conv2d: expected w of dtype float32 like x, got float64",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), T(4, dtype="bfloat16")),
        TypeError,
        r"expected bias of dtype float32",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), T(3)),
        ValueError,
        r"expected bias of shape \(4,\).*got \(3,\)",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8, dtype="int64"), T(4, 3, 3, 3)),
        TypeError,
        r"expected x of a floating dtype, got int64",
    ),
    (
        lambda: ops.conv2d(T(8, 8), T(4, 3, 3, 3)),
        ValueError,
        r"expected x of shape \(N, C, H, W\) or \(C, H, W\), got x of shape \(8, 8\)",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3)),
        ValueError,
        r"expected w with 4 dimensions.*got w of shape \(4, 3, 3\)",
    ),
    (lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 0, 3)), ValueError, r"expected sizes >= 1 in w"),
    (
        lambda: ops.conv2d(T(1, 6, 8, 8), T(4, 2, 3, 3), groups=3),
        ValueError,
        r"expected groups to divide the 4 filters.*groups=3",
    ),
    (lambda: ops.conv2d(T(1, 6, 8, 8), T(4, 2, 3, 3), groups=0), ValueError, r"expected groups >= 1, got 0"),
    (
        lambda: ops.conv2d(T(1, 3, 2, 8), T(4, 3, 3, 3)),
        ValueError,
        r"kernel covers \(3, 3\) pixels, more than the padded image of \(2, 8\)",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), stride=0),
        ValueError,
        r"expected stride >= 1, got \(0, 0\)",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), padding=-1),
        ValueError,
        r"expected padding .*>= 0, got \(-1, -1\)",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), dilation=(1, 0)),
        ValueError,
        r"expected dilation >= 1, got \(1, 0\)",
    ),
    (lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), padding=1 << 62), ValueError, r"expected padding"),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), padding="full"),
        ValueError,
        r"'same' or 'valid', got 'full'",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), padding=1, padding_mode="mirror"),
        ValueError,
        r"padding_mode .*got 'mirror'",
    ),
    (
        lambda: ops.conv2d(T(1, 3, 8, 8), T(4, 3, 3, 3), stride=(1, 2, 3)),
        TypeError,
        r"conv2d: expected stride as an int or a pair",
    ),
    (
        lambda: ops.conv_transpose2d(T(1, 3, 8, 8), T(4, 3, 3, 3)),
        ValueError,
        r"expected x with 4 channels .*got x of shape \(1, 3, 8, 8\)",
    ),
    (
        lambda: ops.conv_transpose2d(T(1, 3, 8, 8), T(3, 2, 3, 3), stride=2, output_padding=2),
        ValueError,
        r"output_padding smaller than stride or dilation",
    ),
    (
        lambda: ops.conv_transpose2d(T(1, 3, 1, 1), T(3, 2, 3, 3), padding=2),
        ValueError,
        r"padding leaves an image of \(-1, -1\)",
    ),
    (
        lambda: ops.conv_transpose2d(T(1, 3, 8, 8), T(3, 2, 3, 3), T(3)),
        ValueError,
        r"expected bias of shape \(2,\)",
    ),
    (lambda: ops.conv_transpose2d(T(1, 3, 8, 8), T(3, 2, 3, 3), padding="same"), ValueError, r"got 'same'"),
    (
        lambda: ops.conv2d(T(1, 1, 4, 4), T(1, 1, 1, 1), padding=1 << 30),
        (ValueError, MemoryError),
        r"conv2d|memory",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@each_isa
def test_autocast(isa):
    with use_isa(isa):
        x, w = tensor(randn((2, 3, 6, 6)), "float32", True), tensor(randn((4, 3, 3, 3)), "float32", True)
        want = array(ops.conv2d(x, w))
        before = ops.set_autocast_dtype("bfloat16")
        try:
            y = ops.conv2d(x, w)
        finally:
            ops.set_autocast_dtype(before)
        assert y.dtype == core.bfloat16 and ops.get_autocast_dtype() is None
        assert_close(array(y), want, 4e-2, "autocast")
        dx, dw = core.grad([y], [x, w], [y.detach()])
        assert dx.dtype == core.float32 and dw.dtype == core.float32
    with pytest.raises(ValueError, match="autocast: expected bfloat16 or float16, got int64"):
        ops.set_autocast_dtype("int64")
