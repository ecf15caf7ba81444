"""Ops that are made of others, and their layers, against PyTorch: values, gradients, compiled, bad input."""

import fastcnn as fc
import numpy as np
import pytest
import torch
from fastcnn import nn, ops
from nn_check import check_finite_differences
from torch_compare import rand, same

F = torch.nn.functional


def compare(f, reference, *arrays, rtol=1e-9):
    """Values and gradients of all arrays in float64, and the compiled function in float32."""
    got_in = [fc.tensor(a, requires_grad=True) for a in arrays]
    want_in = [torch.tensor(a, requires_grad=True) for a in arrays]
    got, want = f(*got_in), reference(*want_in)
    same(got, want, rtol, 1e-11)
    dy = rand(*want.shape, seed=9)
    got.backward(fc.tensor(dy))
    want.backward(torch.tensor(dy))
    for a, b in zip(got_in, want_in, strict=True):
        same(a.grad, b.grad, rtol, 1e-11)
    narrow = [fc.tensor(a.astype(np.float32)) for a in arrays]
    with fc.no_grad():
        same(fc.compile(f)(*narrow), f(*narrow), 1e-6, 1e-6)


@pytest.mark.parametrize("dim, keepdim", [(1, False), (-1, True), ((0, 2), False), ((0, 1, 2), True)])
def test_logsumexp(dim, keepdim):
    compare(
        lambda x: ops.logsumexp(x, dim, keepdim), lambda x: torch.logsumexp(x, dim, keepdim), rand(3, 4, 5) * 100
    )


def test_logsumexp_of_infinities_and_nothing():
    x = np.array([[np.inf, 1.0], [-np.inf, -np.inf], [np.inf, -np.inf], [np.nan, 1.0], [1e4, 1e4]])
    same(ops.logsumexp(fc.tensor(x), 1), torch.logsumexp(torch.tensor(x), 1), 1e-12, 0)
    assert ops.logsumexp(fc.zeros((2, 0)), 1).tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_normalize(p, dim):
    x = rand(3, 4, 5, 2)
    compare(lambda x: ops.normalize(x, p, dim), lambda x: F.normalize(x, p, dim), x)
    x[:, :, :, 0] = 0  # lengths below eps
    got = ops.normalize(fc.tensor(x), p, dim, eps=0.5)
    same(got, F.normalize(torch.tensor(x), p, dim, eps=0.5), 1e-12, 1e-12)


ROLLS = [((1,), (0,)), ((-2, 7), (3, 1)), ((5, 5), (2, 2)), ((0,), (1,)), ((13,), None), ((-1,), None)]


@pytest.mark.parametrize("shifts, dims", ROLLS)
def test_roll(shifts, dims):
    compare(lambda x: ops.roll(x, shifts, dims), lambda x: torch.roll(x, shifts, dims), rand(2, 3, 4, 5))
    one = shifts[0], None if dims is None else dims[0]
    x = np.arange(24).reshape(2, 3, 1, 4)
    assert ops.roll(fc.tensor(x), *one).tolist() == torch.roll(torch.tensor(x), *one).tolist()


@pytest.mark.parametrize("shape, groups", [((2, 6, 3, 4), 2), ((2, 6, 3, 4), 3), ((1, 8, 5), 4), ((2, 4, 2, 3, 2), 2)])
def test_channel_shuffle(shape, groups):
    compare(
        lambda x: ops.channel_shuffle(x, groups), lambda x: F.channel_shuffle(x, groups), rand(*shape)
    )
    x = fc.tensor(rand(*shape))
    same(nn.ChannelShuffle(groups)(x), ops.channel_shuffle(x, groups), 0, 0)


@pytest.mark.filterwarnings("ignore:Since version 1.3.0")
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (2, 1, 1, 4), (2, 2, 1, 1)])
def test_affine_grid(size, align):
    compare(
        lambda t: ops.affine_grid(t, size, align), lambda t: F.affine_grid(t, size, align_corners=align), rand(2, 2, 3)
    )


def test_a_spatial_transformer_learns_where_to_look():
    """affine_grid and grid_sample, whose gradients move theta onto the part of the image that is wanted."""
    image = np.zeros((1, 1, 16, 16), np.float32)
    image[0, 0, 4:12, 2:10] = np.add.outer(np.arange(8), np.arange(8)) / 14 + 0.5
    x = fc.tensor(image)
    with fc.no_grad():
        want = ops.grid_sample(x, ops.affine_grid(fc.tensor([[[0.5, 0, -0.25], [0, 0.5, 0.0]]]), (1, 1, 8, 8)))
    theta = nn.Parameter(fc.tensor([[[0.6, 0.05, -0.1], [0.0, 0.6, 0.1]]]))
    optimizer = fc.optim.Adam([theta], lr=0.02)

    @fc.compile
    def step():
        loss = ops.mse_loss(ops.grid_sample(x, ops.affine_grid(theta, (1, 1, 8, 8))), want)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = [step().item() for _ in range(150)]
    assert losses[-1] < losses[0] / 50, losses[::30]


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_rms_norm(shape, eps):
    compare(lambda x, w: ops.rms_norm(x, shape, w, eps), lambda x, w: F.rms_norm(x, shape, w, eps),
            rand(3, 4, 5, 6), rand(*shape, seed=1), rtol=1e-8)  # fmt: skip
    for dtype in ("float32", "bfloat16"):
        x = rand(2, 3, 5, 6)
        layer, peer = nn.RMSNorm(shape, eps, dtype=dtype), torch.nn.RMSNorm(shape, eps, dtype=getattr(torch, dtype))
        got = layer(fc.tensor(x).to(dtype))
        assert str(got.dtype) == str(layer.weight.dtype)
        same(got, peer(torch.tensor(x).to(getattr(torch, dtype))), 1e-5 if dtype == "float32" else 1e-2, 1e-6)
    assert nn.RMSNorm(6, elementwise_affine=False).weight is None


ATTENTION = [((2, 5, 4), (2, 6, 4), (2, 6, 3)), ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)), ((5, 4), (6, 4), (6, 2))]


@pytest.mark.parametrize("q, k, v", ATTENTION)
@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal", "scale"])
def test_scaled_dot_product_attention(q, k, v, kind):
    mask = {"bool": np.random.default_rng(0).random((q[-2], k[-2])) < 0.6, "float": rand(q[-2], k[-2])}.get(kind)
    if kind == "bool":
        mask[:, 0] = True
    more = {"is_causal": kind == "causal", "scale": 0.3 if kind == "scale" else None}

    def call(f, tensor):
        return lambda *x: f(*x, attn_mask=None if mask is None else tensor(mask), **more)

    compare(
        call(ops.scaled_dot_product_attention, fc.tensor), call(F.scaled_dot_product_attention, torch.tensor),
        rand(*q), rand(*k, seed=1), rand(*v, seed=2),
    )  # fmt: skip


def test_attention_that_sees_nothing_is_zero_and_its_gradients_are():
    q, k, v = (fc.tensor(rand(1, 2, 3, seed=i), requires_grad=True) for i in range(3))
    y = ops.scaled_dot_product_attention(q, k, v, fc.tensor([[True, True], [False, False]]))
    assert y.detach().numpy()[0, 1].tolist() == [0, 0, 0]
    y.sum().backward()
    assert np.isfinite(q.grad.numpy()).all()
    assert q.grad.numpy()[0, 1].tolist() == [0, 0, 0]


def test_attention_drops_weights():
    fc.manual_seed(0)
    q = fc.ones((1, 64, 8))
    y = ops.scaled_dot_product_attention(q, q, q, dropout_p=0.5).numpy()
    assert y.std() > 0.05
    assert abs(y.mean() - 1) < 0.1


def test_bmm_and_upsampling_layers():
    compare(ops.bmm, torch.bmm, rand(3, 4, 5), rand(3, 5, 2, seed=1))
    x = rand(2, 3, 4, 5)
    for name in ("UpsamplingNearest2d", "UpsamplingBilinear2d"):
        for options in ({"scale_factor": 2}, {"size": (6, 9)}):
            got = getattr(nn, name)(**options)(fc.tensor(x))
            same(got, getattr(torch.nn, name)(**options)(torch.tensor(x)), 1e-12, 1e-12)


def test_second_derivatives():
    x = rand(2, 3, 2)
    for f in (lambda x: ops.logsumexp(x, 1), lambda x: ops.normalize(x), lambda x: ops.rms_norm(x, (2,))):
        check_finite_differences(f, [x])


BAD = [
    (lambda x: ops.normalize(x, dim=4), IndexError, "normalize: expected a dim in"),
    (lambda x: ops.logsumexp(x.to("int64"), 0), TypeError, "logsumexp: expected x of a floating dtype"),
    (lambda x: ops.roll(x, (1, 2), (0,)), ValueError, "roll: expected a dim for each of 2 shifts, got 1"),
    (lambda x: ops.roll(x, (1, 2)), ValueError, "roll: expected one shift without dims, got 2"),
    (lambda x: ops.channel_shuffle(x, 2), ValueError, "groups that divide 3 channels, got 2"),
    (lambda x: ops.channel_shuffle(x[0, 0], 1), ValueError, r"expected x of shape \(N, C"),
    (lambda x: ops.affine_grid(x, (2, 3, 4, 5)), ValueError, r"expected theta of shape \(2, 2, 3\)"),
    (lambda x: ops.affine_grid(x, (2, 3, 4)), ValueError, r"expected size \(N, C, H, W\)"),
    (lambda x: ops.rms_norm(x, (4,)), ValueError, r"last dimensions are normalized_shape \(4,?\)"),
    (lambda x: ops.rms_norm(x, (5,), x), ValueError, "expected weight of shape"),
    (lambda x: ops.scaled_dot_product_attention(x, x, x[:1]), ValueError, r"expected query \(…, L, E\)"),
    (lambda x: ops.scaled_dot_product_attention(x, x, x, x, is_causal=True), ValueError, "got both"),
    (lambda x: ops.bmm(x, x), ValueError, r"expected \(B, M, K\) and \(B, K, N\)"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(fc.tensor(rand(2, 3, 4, 5)))
