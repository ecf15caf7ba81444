"""The fused optimizer steps of the core against torch.optim, every rule and option, on every ISA."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastcnn import _core as fc  # noqa: E402
from torch_compare import isa  # noqa: E402, F401

ops, optim = fc.ops, fc.optim
SHAPES = [(5,), (3, 4), (4, 3, 3, 3), (257,), ()]
STEPS = 5


def options(**choices):
    return [dict(zip(choices, v, strict=True)) for v in itertools.product(*choices.values())]


def problem(dtype, seed=0):
    rng = np.random.default_rng(seed)
    params = [rng.normal(size=s) for s in SHAPES]
    grads = [[rng.normal(size=s) for s in SHAPES] for _ in range(STEPS)]
    return params, grads


def run_torch(make, params, grads, dtype):
    p = [torch.tensor(a).to(getattr(torch, dtype)).requires_grad_() for a in params]
    o = make(p)
    for step in grads:
        for a, g in zip(p, step, strict=True):
            a.grad = torch.tensor(g).to(a.dtype)
        o.step()
    return [a.detach().double().numpy() for a in p]


def run_ours(step, buffers, params, grads, dtype):
    p = [fc.tensor(a).to(dtype).requires_grad_() for a in params]
    state = [[ops.zeros_like(a) for a in p] for _ in range(buffers)]
    hyper = ops.zeros(8)
    for t, step_grads in enumerate(grads, 1):
        g = [fc.tensor(a).to(dtype) for a in step_grads]
        step(p, g, state, hyper, t)
    assert all(a.requires_grad and a.is_leaf for a in p)
    return [a.detach().to("float64").numpy() for a in p]


def check(make, step, buffers, dtype):
    params, grads = problem(dtype)
    want = run_torch(make, params, grads, dtype)
    got = run_ours(step, buffers, params, grads, dtype)
    tolerance = {"float32": 2e-5, "float64": 1e-5}[dtype]  # hyper is float32
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(want, params, strict=True))


def fill(hyper, *values):
    hyper.copy_(fc.tensor(np.array([*values, *[0.0] * (8 - len(values))], np.float32)))


SGD = [
    o
    for o in options(
        momentum=[0, 0.9],
        dampening=[0, 0.3],
        nesterov=[False, True],
        weight_decay=[0, 0.1],
        maximize=[False, True],
    )
    if not (o["nesterov"] and (o["momentum"] == 0 or o["dampening"]))
]


@pytest.mark.parametrize("o", SGD, ids=lambda o: "-".join(map(str, o.values())))
def test_sgd(isa, o):  # noqa: F811
    def step(p, g, state, hyper, t):
        fill(hyper, 0.05, o["weight_decay"], o["momentum"], 0, 0, 0, 0, o["dampening"])
        optim.sgd_step_(
            p,
            g,
            state[0] if o["momentum"] else [],
            hyper,
            nesterov=o["nesterov"],
            maximize=o["maximize"],
            first_step=t == 1,
        )

    for dtype in ("float32", "float64"):
        check(lambda p: torch.optim.SGD(p, lr=0.05, **o), step, 1, dtype)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(
    "o",
    options(
        amsgrad=[False, True], weight_decay=[0, 0.1], maximize=[False, True], betas=[(0.9, 0.999), (0.5, 0.9)]
    ),
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_adam(isa, o, decoupled):  # noqa: F811
    b1, b2 = o["betas"]

    def step(p, g, state, hyper, t):
        fill(hyper, 0.05, o["weight_decay"], b1, b2, 1e-8, 1 - b1**t, 1 - b2**t, 1 - b2)
        optim.adam_step_(
            p,
            g,
            state[0],
            state[1],
            hyper,
            state[2] if o["amsgrad"] else [],
            decoupled=decoupled,
            maximize=o["maximize"],
        )

    cls = torch.optim.AdamW if decoupled else torch.optim.Adam
    for dtype in ("float32", "float64"):
        check(lambda p: cls(p, lr=0.05, **o), step, 3, dtype)


@pytest.mark.parametrize(
    "o",
    options(momentum=[0, 0.9], centered=[False, True], weight_decay=[0, 0.1], maximize=[False, True]),
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_rmsprop(isa, o):  # noqa: F811
    def step(p, g, state, hyper, t):
        fill(hyper, 0.02, o["weight_decay"], 0.9, o["momentum"], 1e-8, 0, 0, 1 - 0.9)
        optim.rmsprop_step_(
            p,
            g,
            state[0],
            hyper,
            state[1] if o["momentum"] else [],
            state[2] if o["centered"] else [],
            maximize=o["maximize"],
        )

    for dtype in ("float32", "float64"):
        check(lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, **o), step, 3, dtype)


@pytest.mark.parametrize(
    "o", options(weight_decay=[0, 0.1], maximize=[False, True]), ids=lambda o: "-".join(map(str, o.values()))
)
def test_adagrad(isa, o):  # noqa: F811
    def step(p, g, state, hyper, t):
        fill(hyper, 0.05 / (1 + (t - 1) * 0.1), o["weight_decay"], 0, 0, 1e-10)
        optim.adagrad_step_(p, g, state[0], hyper, maximize=o["maximize"])

    for dtype in ("float32", "float64"):
        check(lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1, **o), step, 1, dtype)


@pytest.mark.parametrize("maximize", [False, True])
def test_lion(isa, maximize):  # noqa: F811
    def step(p, g, state, hyper, t):
        fill(hyper, 0.05, 0.1, 0.8, 0.9, 0, 0, 1 - 0.8, 1 - 0.9)
        optim.lion_step_(p, g, state[0], hyper, maximize=maximize)

    for dtype in ("float32", "float64"):
        params, grads = problem(dtype)
        got = run_ours(step, 1, params, grads, dtype)
        for i, (p, a) in enumerate(zip(params, got, strict=True)):
            m = np.zeros_like(p)
            for g in ([-g[i] for g in grads] if maximize else [g[i] for g in grads]):
                p, m = p * (1 - 0.05 * 0.1) - 0.05 * np.sign(0.8 * m + 0.2 * g), 0.9 * m + 0.1 * g
            np.testing.assert_allclose(a, p, rtol=2e-5, atol=2e-5)


def test_gradients_of_other_dtype_and_layout(isa):  # noqa: F811
    p, hyper = ops.ones(2, 3), ops.zeros(8)
    fill(hyper, 1.0)
    optim.sgd_step_([p], [ops.ones(3, 2).T.to("float64")], [], hyper)
    assert p.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_step_makes_old_graphs_stale():
    p, hyper = ops.ones(3, requires_grad=True), ops.zeros(8)
    loss = (p * p).sum()
    optim.sgd_step_([p], [ops.ones(3)], [], hyper)
    with pytest.raises(ValueError, match="changed in place"):
        loss.backward()


ONE = lambda *s: ops.ones(*s)  # noqa: E731
MESSAGES = [
    (
        lambda: optim.sgd_step_([ONE(3)], [ONE(2)], [], ONE(8)),
        r"sgd_step_: expected a gradient of shape \(3,\), got \(2,\)",
    ),
    (lambda: optim.sgd_step_([ONE(3)], [], [], ONE(8)), "expected 1 gradients, got 0"),
    (
        lambda: optim.sgd_step_([ONE(3)], [ONE(3)], [ONE(3)] * 2, ONE(8)),
        "expected 1 tensors in momentum_buffers, got 2",
    ),
    (
        lambda: optim.sgd_step_([ONE(3)], [ONE(3)], [ONE(4)], ONE(8)),
        r"expected momentum_buffer of shape \(3,\)",
    ),
    (lambda: optim.sgd_step_([ONE(3)], [ONE(3)], [], ONE(4)), r"expected hyper of shape \(8,\) and float32"),
    (lambda: optim.sgd_step_([ONE(3, 2).T], [ONE(2, 3)], [], ONE(8)), "expected a param in canonical layout"),
    (
        lambda: optim.adam_step_([ONE(3)], [ONE(3)], [], [], ONE(8)),
        r"adam_step_: expected exp_avg of shape \(3,\), got none",
    ),
    (
        lambda: optim.rmsprop_step_([ONE(3)], [ONE(3)], [ONE(3).to("float64")], ONE(8)),
        "square_avg.*float32.*float64",
    ),
]


@pytest.mark.parametrize("case", range(len(MESSAGES)))
def test_messages(case):
    fn, message = MESSAGES[case]
    with pytest.raises(ValueError, match=message):
        fn()
