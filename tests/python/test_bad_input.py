"""Bad input: a clear exception that names the op, for every family; afterwards the library works as before."""

from __future__ import annotations

import pickle

import fastcnn as fc
import numpy as np
import pytest

ops = fc.ops
z = fc.zeros
X, W = z(2, 3, 8, 8), z(4, 3, 3, 3)
IDS = fc.tensor([0, 1])
HUGE = 1 << 40
ERRORS = (ValueError, TypeError, IndexError, RuntimeError, MemoryError, BufferError)

# name -> (part of the message, call)
CASES = {
    "conv channels": ("conv2d", lambda: ops.conv2d(z(2, 5, 8, 8), W)),
    "conv rank of x": ("conv2d", lambda: ops.conv2d(z(8, 8), W)),
    "conv rank of weight": ("conv2d", lambda: ops.conv2d(X, z(4, 3))),
    "conv bias": ("conv2d", lambda: ops.conv2d(X, W, z(5))),
    "conv kernel too large": ("conv2d", lambda: ops.conv2d(X, z(4, 3, 9, 9))),
    "conv groups": ("conv2d", lambda: ops.conv2d(X, W, groups=2)),
    "conv groups 0": ("conv2d", lambda: ops.conv2d(X, W, groups=0)),
    "conv stride 0": ("conv2d", lambda: ops.conv2d(X, W, stride=0)),
    "conv dilation": ("conv2d", lambda: ops.conv2d(X, W, dilation=-1)),
    "conv padding": ("conv2d", lambda: ops.conv2d(X, W, padding=-1)),
    "conv padding word": ("conv2d", lambda: ops.conv2d(X, W, padding="sane")),
    "conv padding mode": ("conv2d", lambda: ops.conv2d(X, W, padding=1, padding_mode="mirror")),
    "conv dtype": ("conv2d", lambda: ops.conv2d(X, W.long())),
    "transposed channels": ("conv_transpose2d", lambda: ops.conv_transpose2d(X, W)),
    "transposed stride": ("conv_transpose2d", lambda: ops.conv_transpose2d(X, z(3, 4, 2, 2), stride=0)),
    "transposed output padding": (
        "conv_transpose2d",
        lambda: ops.conv_transpose2d(X, z(3, 4, 2, 2), stride=2, output_padding=3),
    ),
    "linear features": ("linear", lambda: ops.linear(z(2, 3), z(4, 5))),
    "linear bias": ("linear", lambda: ops.linear(z(2, 3), z(4, 3), z(3))),
    "matmul inner": ("matmul", lambda: ops.matmul(z(2, 3), z(4, 5))),
    "matmul scalar": ("matmul", lambda: ops.matmul(z(()), z(2))),
    "matmul batch": ("matmul", lambda: ops.matmul(z(2, 3, 4), z(3, 4, 5))),
    "max_pool kernel": ("max_pool2d", lambda: ops.max_pool2d(X, 0)),
    "max_pool padding": ("max_pool2d", lambda: ops.max_pool2d(X, 2, padding=2)),
    "max_pool too large": ("max_pool2d", lambda: ops.max_pool2d(X, 9)),
    "max_pool rank": ("max_pool2d", lambda: ops.max_pool2d(z(3), 2)),
    "avg_pool too large": ("avg_pool2d", lambda: ops.avg_pool2d(X, 9)),
    "avg_pool stride": ("avg_pool2d", lambda: ops.avg_pool2d(X, 2, 0)),
    "adaptive_pool size": ("adaptive_avg_pool2d", lambda: ops.adaptive_avg_pool2d(X, (0, -1))),
    "batch_norm channels": ("batch_norm", lambda: ops.batch_norm(X, z(4), z(4))),
    "batch_norm one value": ("batch_norm", lambda: ops.batch_norm(z(1, 3), z(3), z(3), training=True)),
    "group_norm groups": ("group_norm", lambda: ops.group_norm(X, 2)),
    "layer_norm shape": ("layer_norm", lambda: ops.layer_norm(X, [7])),
    "softmax dim": ("softmax", lambda: ops.softmax(X, 4)),
    "dropout p": ("dropout", lambda: ops.dropout(X, 1.5)),
    "dropout nan": ("dropout", lambda: ops.dropout(X, float("nan"))),
    "cross_entropy class": ("cross_entropy", lambda: ops.cross_entropy(z(2, 3), fc.tensor([0, 3]))),
    "cross_entropy negative": ("cross_entropy", lambda: ops.cross_entropy(z(2, 3), fc.tensor([0, -1]))),
    "cross_entropy rows": ("cross_entropy", lambda: ops.cross_entropy(z(3, 3), IDS)),
    "cross_entropy soft shape": ("cross_entropy", lambda: ops.cross_entropy(z(2, 3), z(2, 4))),
    "cross_entropy weight": ("cross_entropy", lambda: ops.cross_entropy(z(2, 3), IDS, z(4))),
    "cross_entropy smoothing": ("cross_entropy", lambda: ops.cross_entropy(z(2, 3), IDS, label_smoothing=2)),
    "cross_entropy reduction": ("cross_entropy", lambda: ops.cross_entropy(z(2, 3), IDS, reduction="avg")),
    "nll class": ("nll_loss", lambda: ops.nll_loss(z(2, 3), fc.tensor([0, 9]))),
    "mse shapes": ("mse_loss|broadcast", lambda: ops.mse_loss(z(2, 3), z(2, 4))),
    "huber delta": ("huber_loss", lambda: ops.huber_loss(z(2), z(2), delta=0)),
    "add shapes": ("add", lambda: z(2, 3) + z(4)),
    "in-place shape": ("add_", lambda: z(3).add_(z(2, 3))),
    "in-place dtype": ("add_", lambda: fc.tensor([1]).add_(0.5)),
    "in-place leaf": ("mul_", lambda: z(2).requires_grad_().mul_(2)),
    "sum dim": ("sum", lambda: X.sum(4)),
    "sum dim twice": ("sum", lambda: X.sum((1, 1))),
    "mean of ints": ("mean", lambda: fc.tensor([1, 2]).mean()),
    "max of nothing": ("max", lambda: z(0).max()),
    "argmax of nothing": ("argmax", lambda: z(0).argmax()),
    "reshape": ("reshape|view", lambda: z(6).reshape(4)),
    "reshape twice unknown": ("reshape|view", lambda: z(6).reshape(-1, -1)),
    "view": ("view|reshape", lambda: z(2, 3).view(5)),
    "permute": ("permute", lambda: z(2, 3).permute(0, 0)),
    "transpose": ("transpose", lambda: z(2, 3).transpose(0, 2)),
    "expand": ("expand", lambda: z(2, 3).expand(4, 3)),
    "squeeze": ("squeeze", lambda: z(2, 1).squeeze(5)),
    "unsqueeze": ("unsqueeze", lambda: z(2).unsqueeze(3)),
    "cat shapes": ("cat", lambda: ops.cat([z(2, 3), z(2, 4)], 0)),
    "cat nothing": ("cat", lambda: ops.cat([], 0)),
    "stack shapes": ("stack", lambda: ops.stack([z(2), z(3)])),
    "split": ("split", lambda: ops.split(z(4), 0)),
    "pad odd": ("pad", lambda: ops.pad(X, (1,))),
    "pad reflect": ("pad", lambda: ops.pad(X, (8, 0), "reflect")),
    "pad mode": ("pad", lambda: ops.pad(X, (1, 1), "mirror")),
    "interpolate both": ("interpolate", lambda: ops.interpolate(X, (4, 4), 2.0)),
    "interpolate none": ("interpolate", lambda: ops.interpolate(X)),
    "interpolate mode": ("interpolate", lambda: ops.interpolate(X, (4, 4), mode="best")),
    "pixel_shuffle": ("pixel_shuffle", lambda: ops.pixel_shuffle(X, 2)),
    "gather index": ("gather", lambda: ops.gather(z(3), 0, fc.tensor([3]))),
    "gather float": ("gather", lambda: ops.gather(z(3), 0, z(2))),
    "index out": ("index", lambda: z(3)[3]),
    "index many": ("ind(ex|ices)", lambda: z(3)[0, 0]),
    "index tensor": ("index", lambda: z(3)[fc.tensor([5])]),
    "index shapes": ("ind(ex|ices)", lambda: z(3, 3)[fc.tensor([0, 1]), fc.tensor([0, 1, 2])]),
    "one_hot": ("one_hot", lambda: ops.one_hot(fc.tensor([3]), 2)),
    "item of many": ("item", lambda: z(2).item()),
    "bool of many": ("bool", lambda: bool(z(2))),
    "huge": ("", lambda: z(HUGE, HUGE)),
    "huge reshape": ("", lambda: z(1).expand(HUGE, HUGE)),
    "negative shape": ("", lambda: z(-1)),
    "dtype word": ("dtype", lambda: z(2, dtype="float31")),
    "device word": ("device", lambda: z(2, device="tpu")),
    "ragged": ("tensor", lambda: fc.tensor([[1, 2], [3]])),
    "tensor of words": ("tensor", lambda: fc.tensor("abc")),
    "numpy of words": ("", lambda: fc.from_numpy(np.array(["a"]))),
    "dlpack of nothing": ("dlpack", lambda: fc.from_dlpack(object())),
    "backward without graph": ("backward", lambda: z(()).backward()),
    "backward of many": ("backward", lambda: (z(2).requires_grad_() * 2).backward()),
    "grad of ints": ("requires_grad", lambda: fc.tensor([1]).requires_grad_()),
    "format of many": ("format", lambda: f"{z(2):.2f}"),
    "arange step": ("arange", lambda: ops.arange(0, 5, 0)),
    "randint": ("randint", lambda: ops.randint(3, 3, (2,))),
    "read-only": (
        "read-only",
        lambda: fc.from_numpy(np.frombuffer(b"\0" * 8, np.float32)).add_(1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name):
    word, call = CASES[name]
    with pytest.raises(ERRORS, match=f"(?i){word}"):
        call()
    assert ops.add(fc.ones(2), 1).tolist() == [2, 2]


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c[0]])
def test_compiled_refuses_too_and_stays_usable(name):
    """The same calls while a function is traced."""
    call, bad = CASES[name][1], True
    step = fc.compile(lambda x: call() if bad else x + 1)
    with pytest.raises(ERRORS):
        step(fc.ones(2))
    bad = False
    assert step(fc.ones(2)).tolist() == [2, 2]


def test_empty_batches_where_they_make_sense():
    x = z(0, 3, 8, 8).requires_grad_()
    w = W.detach().requires_grad_()
    y = ops.linear(ops.max_pool2d(ops.relu(ops.conv2d(x, w)), 2).flatten(1), z(5, 36))
    assert y.shape == (0, 5)
    y.sum().backward()
    assert x.grad.shape == x.shape and w.grad.abs().sum().item() == 0


def test_nan_goes_through():
    bad = fc.tensor([[float("nan"), 1.0]])
    assert np.isnan(ops.relu(bad).numpy()[0, 0]) and np.isnan(bad.max().item()) and np.isnan(bad.sum().item())
    assert np.isnan(ops.mse_loss(z(1, 2), bad.requires_grad_()).item())  # the other side of a loss, no data


TARGET_LOSSES = {
    "cross_entropy": lambda x, t: ops.cross_entropy(x, t),
    "binary_cross_entropy_with_logits": lambda x, t: ops.binary_cross_entropy_with_logits(x, t),
    "mse_loss": lambda x, t: ops.mse_loss(x, t),
    "l1_loss": lambda x, t: ops.l1_loss(x, t),
    "smooth_l1_loss": lambda x, t: ops.smooth_l1_loss(x, t),
    "huber_loss": lambda x, t: ops.huber_loss(x, t),
    "smooth_l1_loss beta 0": lambda x, t: ops.smooth_l1_loss(x, t, beta=0),
    "kl_div": lambda x, t: ops.kl_div(x, t),
    "binary_cross_entropy": lambda x, t: ops.binary_cross_entropy(x, t),
    "soft_margin_loss": lambda x, t: ops.soft_margin_loss(x, t),
    "multilabel_soft_margin_loss": lambda x, t: ops.multilabel_soft_margin_loss(x, t),
    "hinge_embedding_loss": lambda x, t: ops.hinge_embedding_loss(x, t),
    "poisson_nll_loss": lambda x, t: ops.poisson_nll_loss(x, t),
    "gaussian_nll_loss": lambda x, t: ops.gaussian_nll_loss(x, t, 1.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("op", TARGET_LOSSES)
def test_nan_target(op, dtype):
    loss = TARGET_LOSSES[op]
    values = np.full((2, 3, 4, 5), 0.25, np.float32)
    good = fc.tensor(values).to(dtype)
    values[1, 2, 0, 3] = np.nan
    bad, x = fc.tensor(values).to(dtype), z(2, 3, 4, 5, dtype=dtype)
    message = rf"^{op.split()[0]}: expected a target without NaN, got NaN at position \(1, 2, 0, 3\)"
    step = fc.compile(loss)
    expected = loss(x, good).item()
    assert step(x, good).item() == pytest.approx(expected, rel=1e-5)
    for call in (loss, step):
        with pytest.raises(ValueError, match=message):
            call(x, bad)
    assert step(x, good).item() == pytest.approx(expected, rel=1e-5)


def test_lists_of_ints_may_be_arrays():
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    x = fc.tensor(a)
    np.testing.assert_array_equal(fc.ops.sum(x, dim=np.array([0, 2])).numpy(), a.sum((0, 2)))
    assert fc.ops.reshape(x, np.array([4, 6])).shape == (4, 6)
    with pytest.raises(TypeError, match="amin: expected an int, got"):
        fc.ops.amin(x, dim=np.array([1.0, 1.0]))


@pytest.mark.parametrize("call, error, words", [
    (lambda: fc.tensor([300], dtype=fc.int8), ValueError, "tensor: the value 300 does not fit into int8"),
    (lambda: fc.tensor([[0, -1]], dtype="uint8"), ValueError, "tensor: the value -1 does not fit into uint8"),
    (lambda: fc.zeros(2, dtype=fc.uint8).fill_(300), ValueError, "fill_: the value 300 does not fit into uint8"),
    (lambda: fc.zeros(2, dtype=fc.int64).fill_(float("nan")), ValueError, "fill_: the value nan"),
    (lambda: fc.arange(0, 300, dtype=fc.int8), ValueError, "arange: the numbers from 0 to 299 do not fit into int8"),
    (lambda: fc.arange(0, 1e30), ValueError, "arange: expected fewer"),
    (lambda: fc.ones(2, 3).permute(2**32, 1), IndexError, "permute: expected dims"),
    (lambda: fc.ones(2, 3).flip(2**32 + 1), IndexError, "flip: expected dims"),
    (lambda: fc.ones(3)[fc.tensor([1, 0, 1], dtype="uint8")], IndexError, r"uint8.*\.bool\(\) or \.long\(\)"),
    (lambda: ops.conv2d(fc.ones(1, 1, 3, 3), fc.ones(1, 1, 1, 1), stride=2**31), ValueError, "stride <= 107"),
])  # fmt: skip
def test_numbers_beyond_what_they_are_for_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_arrays_are_cast_as_numpy_does_and_nan_bounds_are_nan():
    assert fc.tensor(np.array([300, -1]), dtype=fc.uint8).tolist() == [44, 255]
    assert fc.tensor([255, 0], dtype=fc.uint8).tolist() == [255, 0]
    assert fc.arange(0, 128, dtype=fc.int8).tolist()[-1] == 127
    assert np.isnan(fc.tensor([1.0, 2.0]).clamp(max=float("nan")).numpy()).all()


def test_devices_are_pickled():
    device = fc.ones(1).device
    assert pickle.loads(pickle.dumps(device)) == device
