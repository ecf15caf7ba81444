"""MultiheadAttention against PyTorch's: outputs, weights, gradients of inputs and parameters, plans, ONNX, messages."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn
from nn_check import array, assert_close, randn, tensor, torch

L, S, N, E, H = 5, 7, 3, 12, 4


def pair(**kwargs):
    fc.ops.manual_seed(0)
    ours = nn.MultiheadAttention(E, H, **kwargs)
    for i, p in enumerate(ours.parameters()):
        p.detach().copy_(tensor(randn(p.shape, i) * 0.5, "float32"))
    theirs = torch.nn.MultiheadAttention(E, H, **kwargs)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    return ours, theirs


def inputs(*shapes):
    arrays = [randn(s, i) for i, s in enumerate(shapes)]
    ours = [tensor(a, "float32", True) for a in arrays]
    return ours, [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in arrays]


def masks(ours, name, mask):
    if mask is None:
        return {}
    return {name: fc.tensor(mask) if ours else torch.tensor(mask)}


def check(ours, theirs, x, tx, mine=None, yours=None):
    y, w = ours(*x, **(mine or {}))
    ty, tw = theirs(*tx, **(yours or {}))
    assert (w is None) == (tw is None)
    assert_close(array(y), ty.detach().numpy(), 2e-5, "output")
    loss, tloss = (y * y).sum(), (ty * ty).sum()
    if w is not None:
        assert_close(array(w), tw.detach().numpy(), 2e-5, "weights")
        loss, tloss = loss + (w**2).sum(), tloss + (tw**2).sum()
    loss.backward()
    tloss.backward()
    for a, b in zip(x, tx, strict=True):
        assert_close(array(a.grad), b.grad.numpy(), 1e-4, "gradient of an input")
    for (key, p), (tkey, tp) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert key == tkey
        assert_close(array(p.grad), tp.grad.numpy(), 1e-4, key)


RNG = np.random.default_rng(0)
LATER = np.triu(np.ones((L, S), bool), 3)
SOME = RNG.random((N * H, L, S)) < 0.3
PADDING = np.arange(S)[None] >= np.array([7, 4, 2])[:, None]
CASES = {
    "plain": ({}, None, None, {}),
    "no_bias": (dict(bias=False), None, None, dict(average_attn_weights=False)),
    "kdim_vdim": (dict(kdim=6, vdim=10), None, None, dict(need_weights=False)),
    "bool_mask": ({}, LATER, None, {}),
    "float_mask": ({}, randn((L, S), 5).astype(np.float32), None, {}),
    "mask_of_heads": ({}, SOME, None, dict(average_attn_weights=False)),
    "padding": ({}, None, PADDING, {}),
    "both": ({}, LATER, PADDING, dict(need_weights=False)),
    "float_both": ({}, randn((L, S), 5).astype(np.float32), randn((N, S), 6).astype(np.float32), {}),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_cross_attention_is_torchs(name, batch_first):
    kwargs, attn, padding, call = CASES[name]
    ours, theirs = pair(**kwargs, batch_first=batch_first)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    kdim, vdim = kwargs.get("kdim", E), kwargs.get("vdim", E)
    shapes = [(N, L, E), (N, S, kdim), (N, S, vdim)] if batch_first else [(L, N, E), (S, N, kdim), (S, N, vdim)]
    x, tx = inputs(*shapes)
    both = [
        {**call, **masks(mine, "attn_mask", attn), **masks(mine, "key_padding_mask", padding)} for mine in (True, False)
    ]
    check(ours, theirs, x, tx, *both)


@pytest.mark.parametrize("batch_first", [False, True])
def test_self_attention_and_one_sequence(batch_first):
    ours, theirs = pair(batch_first=batch_first)
    for shape in ((N, L, E), (L, E)):
        (x,), (tx,) = inputs(shape)
        y, w = ours(x, x, x)
        ty, tw = theirs(tx, tx, tx)
        assert_close(array(y), ty.detach().numpy(), 2e-5, "output")
        assert_close(array(w), tw.detach().numpy(), 2e-5, "weights")
        (y * y).sum().backward()
        (ty * ty).sum().backward()
        assert_close(array(x.grad), tx.grad.numpy(), 1e-4, "gradient")
        assert_close(array(ours.in_proj_weight.grad), theirs.in_proj_weight.grad.numpy(), 1e-4, "weight's gradient")
    x, tx = inputs((L, E), (S, E), (S, E))
    ours.zero_grad()
    theirs.zero_grad()
    check(ours, theirs, x, tx, *(masks(mine, "key_padding_mask", PADDING[1]) for mine in (True, False)))


def test_causal_needs_no_mask():
    ours, theirs = pair(batch_first=True)
    (x,), (tx,) = inputs((N, L, E))
    later = np.triu(np.ones((L, L), bool), 1)
    y, _ = ours(x, x, x, is_causal=True, need_weights=False)
    want, _ = theirs(tx, tx, tx, attn_mask=torch.tensor(later), need_weights=False)
    assert_close(array(y), want.detach().numpy(), 2e-5, "output")


def test_compiled_step_and_bfloat16():
    net, _ = pair(batch_first=True)
    x = tensor(randn((N, L, E)), "float32")

    def step(x):
        y, w = net(x, x, x, key_padding_mask=fc.tensor(PADDING[:, :L]))
        (y * y).sum().backward()
        return y, w

    want = [array(t) for t in step(x)]
    grads = [array(p.grad) for p in net.parameters()]
    net.zero_grad()
    for got, w in zip(fc.compile(step)(x), want, strict=True):
        assert_close(array(got), w, 1e-6, "result")
    for p, g in zip(net.parameters(), grads, strict=True):
        assert_close(array(p.grad), g, 1e-5, "gradient")
    half = net.to(fc.bfloat16)
    y, w = half(*[x.to("bfloat16")] * 3, key_padding_mask=fc.tensor(PADDING[:, :L]))
    assert y.dtype == w.dtype == fc.bfloat16
    assert_close(array(y), want[0], 4e-2, "bfloat16")


def test_dropout_of_weights_in_training_only():
    net, _ = pair(dropout=0.5, batch_first=True)
    x = tensor(randn((N, L, E)), "float32")
    _, w = net(x, x, x, average_attn_weights=False)
    assert 0.3 < (array(w) == 0).mean() < 0.7
    _, w = net.eval()(x, x, x)
    assert_close(array(w).sum(-1), np.ones((N, L)), 1e-5, "sums of weights")


def test_onnx(tmp_path):
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    attention, _ = pair(batch_first=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x)[0]

    net, x = Net().eval(), randn((2, L, E)).astype(np.float32)
    fc.onnx.export(net, tmp_path / "net.onnx", x)
    session = ort.InferenceSession(tmp_path / "net.onnx")
    x = randn((4, L, E)).astype(np.float32)
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    assert_close(got, array(net(fc.tensor(x))), 2e-5, "onnxruntime")


X = fc.ones((L, N, E))
BAD = [
    (lambda: nn.MultiheadAttention(10, 4), ValueError, "embed_dim >= 1 divisible by num_heads >= 1, got 10 and 4"),
    (lambda: nn.MultiheadAttention(12, 4, dropout=2), ValueError, "dropout between 0 and 1"),
    (lambda: nn.MultiheadAttention(12, 4, add_zero_attn=True), ValueError, "add_zero_attn is not supported"),
    (lambda: nn.MultiheadAttention(12, 4)(X, X, X[:, :, :6]), ValueError, r"expected value \(L, N, C\) with C = 12"),
    (lambda: nn.MultiheadAttention(12, 4)(X, X[:4], X), ValueError, "key and value of one length"),
    (lambda: nn.MultiheadAttention(12, 4)(X, X[:, :2], X[:, :2]), ValueError, "one batch size"),
    (lambda: nn.MultiheadAttention(12, 4)(X[0], X, X), ValueError, "MultiheadAttention: expected key"),
    (lambda: nn.MultiheadAttention(12, 4)(X, X, X, attn_mask=X[:, 0]), ValueError, r"attn_mask of shape \(5, 5\)"),
    (lambda: nn.MultiheadAttention(12, 4)(X, X, X, X[0]), ValueError, r"key_padding_mask of shape \(3, 5\)"),
    (
        lambda: nn.MultiheadAttention(12, 4)(X, X, X, attn_mask=fc.ones((5, 5), dtype="int64")),
        TypeError,
        "attn_mask of bool or a floating dtype, got int64",
    ),
    (lambda: nn.MultiheadAttention(12, 4)(X, X, X, PADDING), TypeError, "key_padding_mask as a tensor, got ndarray"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
