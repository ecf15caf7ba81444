"""Optimizers against torch.optim, eager and compiled; groups, state, bad options."""

import copy

import fastcnn as fc
import numpy as np
import pytest

torch = pytest.importorskip("torch")

SHAPES = [(4, 3, 3, 3), (5,), (2, 3), ()]
CASES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov_decay": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "sgd_dampening": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "sgd_maximize": ("SGD", {"lr": 0.1, "momentum": 0.8, "maximize": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam_decay": ("Adam", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adam_amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw_maximize": ("AdamW", {"lr": 0.01, "weight_decay": 0.2, "maximize": True}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop_momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}),
    "rmsprop_centered": ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True, "alpha": 0.9}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad_decay": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
}


def values(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in SHAPES]


def both(name, options, lr=None):
    ours = [fc.tensor(v, requires_grad=True) for v in values()]
    theirs = [torch.tensor(v, requires_grad=True) for v in values()]
    return ours, theirs, getattr(fc.optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)


def check(ours, theirs, rtol=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=rtol, atol=2e-7)


@pytest.mark.smoke
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_as_torch(case):
    ours, theirs, a, b = both(*CASES[case])
    for t in range(20):
        for p, q, g in zip(ours, theirs, values(100 + t), strict=True):
            p.grad, q.grad = fc.tensor(g), torch.tensor(g)
        if t == 10:  # rates may change on the way
            a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.5 * CASES[case][1]["lr"]
        a.step()
        b.step()
        check(ours, theirs, rtol=2e-6)


@pytest.mark.parametrize("case", ["sgd_nesterov_decay", "sgd_dampening", "adamw", "rmsprop_centered", "adagrad_decay"])
def test_compiled_step_as_torch(case):
    ours, theirs, a, b = both(*CASES[case])

    def step(x):
        loss = sum(((p * x).sin().sum() for p in ours), fc.tensor(0.0))
        loss.backward()
        a.step()
        a.zero_grad()
        return loss

    compiled = fc.compile(step)
    for t in range(20):
        x = 1 + 0.1 * t
        a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = CASES[case][1]["lr"] / (1 + t)
        loss = compiled(fc.tensor(np.float32(x)))
        b.zero_grad()
        want = sum((p * np.float32(x)).sin().sum() for p in theirs)
        want.backward()
        b.step()
        assert loss.item() == pytest.approx(want.item(), rel=2e-5)
        check(ours, theirs, rtol=2e-5)
    assert a.state[ours[0]]["step"] == 20
    assert all(p.grad is None for p in ours)


def test_parameters_without_gradient_stay_and_count_their_own_steps():
    ours, theirs, a, b = both("Adam", {"lr": 0.01})
    for t in range(9):
        active = range(len(ours)) if t % 3 else (0, 2)
        a.zero_grad()
        b.zero_grad()
        for i, g in enumerate(values(t)):
            if i in active:
                ours[i].grad, theirs[i].grad = fc.tensor(g), torch.tensor(g)
        a.step()
        b.step()
        check(ours, theirs, rtol=2e-6)
    assert [a.state[p]["step"] for p in ours] == [9, 6, 9, 6]


def test_groups_with_options_of_their_own():
    ours = [fc.tensor(v, requires_grad=True) for v in values()]
    theirs = [torch.tensor(v, requires_grad=True) for v in values()]

    def groups(p):
        return [{"params": p[:2], "lr": 0.5}, {"params": p[2:3], "weight_decay": 0.3, "momentum": 0.0}]

    a = fc.optim.SGD(groups(ours), lr=0.1, momentum=0.9)
    b = torch.optim.SGD(groups(theirs), lr=0.1, momentum=0.9)
    a.add_param_group({"params": ours[3]})
    b.add_param_group({"params": theirs[3]})
    for t in range(4):
        for p, q, g in zip(ours, theirs, values(t), strict=True):
            p.grad, q.grad = fc.tensor(g), torch.tensor(g)
        a.step()
        b.step()
    check(ours, theirs)


@pytest.mark.parametrize("case", ["sgd_momentum", "adam_amsgrad", "rmsprop_centered", "adagrad_decay"])
def test_state_continues(case):
    name, options = CASES[case]
    ours, _, a, _ = both(name, options)

    def steps(params, optimizer, which):
        for t in which:
            for p, g in zip(params, values(t), strict=True):
                p.grad = fc.tensor(g)
            optimizer.step()

    steps(ours, a, range(5))
    again = [fc.tensor(p.detach().numpy(), requires_grad=True) for p in ours]
    b = getattr(fc.optim, name)(again, **{**options, "lr": 77.0})
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    assert b.param_groups[0]["lr"] == options["lr"]
    steps(ours, a, range(5, 10))
    steps(again, b, range(5, 10))
    for p, q in zip(ours, again, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", ["sgd_momentum", "adam", "rmsprop_centered"])
def test_cleared_states_and_replaced_groups_count(case, compiled):
    name, options = CASES[case]
    ours, theirs, a, b = both(name, options)
    step = fc.compile(a.step) if compiled else a.step
    for t in range(6):
        if t == 2:
            a.state.clear()
            b.state.clear()
        if t == 4:
            for o in (a, b):
                o.param_groups = [{**o.param_groups[0], "lr": 0.5}]
        for p, q, g in zip(ours, theirs, values(t), strict=True):
            q.grad = torch.tensor(g)
            if t:
                p.grad.copy_(g)  # in place: a new tensor would make a new plan
            else:
                p.grad = fc.tensor(g)
        step()
        b.step()
        check(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_states_of_torch_go_on(case):
    name, options = CASES[case]
    ours, theirs, a, b = both(name, options)
    for t in range(6):
        if t == 3:
            a = getattr(fc.optim, name)(ours, **options)
            state = {
                n: {k: fc.tensor(v.numpy()) if isinstance(v, torch.Tensor) else v for k, v in s.items()}
                for n, s in b.state_dict()["state"].items()
            }
            a.load_state_dict({"state": state, "param_groups": b.state_dict()["param_groups"]})
        for p, q, g in zip(ours, theirs, values(t), strict=True):
            p.grad, q.grad = fc.tensor(g), torch.tensor(g)
        a.step()
        b.step()
        check(ours, theirs, rtol=2e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad", "Lion", "LAMB", "LARS", "Muon"])
def test_parameters_that_are_views_step_in_their_place(name, compiled):
    w = values()[0]
    shared, wide = w.copy(), fc.tensor(np.concatenate([w, w], 1))
    views = [fc.from_numpy(shared), wide[:, 3:], fc.tensor(w.transpose(1, 0, 2, 3)).transpose(0, 1)]
    params = [fc.nn.Parameter(v) for v in [fc.tensor(w), *views]]
    assert [p.is_contiguous() for p in params] == [True, False, False, False]
    optimizer = getattr(fc.optim, name)(params, lr=0.1)
    scaler = fc.GradScaler(init_scale=4.0)

    def step():
        scaler.scale(sum((p * p).sum() for p in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    run = fc.compile(step) if compiled else step
    for _ in range(3):
        run()
    want = params[0].detach().numpy()
    assert np.abs(want - w).max() > 1e-4
    for got in (*params[1:], fc.tensor(shared), wide[:, 3:]):
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(wide[:, :3].numpy(), w)


@pytest.mark.parametrize("compiled", [False, True])
def test_momentum_may_begin_and_end_between_steps(compiled):
    ours, theirs, a, b = both("SGD", {"lr": 0.05})
    for p, g in zip(ours, values(1), strict=True):
        p.grad = fc.tensor(g)
    step = fc.compile(a.step) if compiled else a.step
    for t in range(9):
        for o in (a, b):
            o.param_groups[0]["momentum"] = 0.9 if 3 <= t < 6 else 0.0
        for p, q, g in zip(ours, theirs, values(t), strict=True):
            p.grad.copy_(g)
            q.grad = torch.tensor(g)
        step()
        b.step()
        check(ours, theirs, rtol=1e-5)


def test_state_is_loaded_in_place():
    ours, _, a, _ = both("SGD", {"lr": 0.1, "momentum": 0.9})
    for p, g in zip(ours, values(1), strict=True):
        p.grad = fc.tensor(g)
    a.step()
    before = [a.state[p]["momentum_buffer"].data_ptr() for p in ours]
    saved = copy.deepcopy(a.state_dict())
    a.step()
    a.load_state_dict(saved)
    assert [a.state[p]["momentum_buffer"].data_ptr() for p in ours] == before
    np.testing.assert_array_equal(a.state[ours[0]]["momentum_buffer"].numpy(), values(1)[0])


def test_a_state_that_is_refused_changes_nothing():
    p, q = (fc.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    optimizer = fc.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.3}], lr=0.1, momentum=0.9)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"], state["param_groups"][1]["momentum"] = 0.2, -1.0
    with pytest.raises(ValueError, match="SGD: expected momentum >= 0, got -1.0"):
        optimizer.load_state_dict(state)
    assert [(g["lr"], g["momentum"]) for g in optimizer.param_groups] == [(0.1, 0.9), (0.3, 0.9)]


def test_zero_grad_and_closure():
    p = fc.tensor([2.0], requires_grad=True)
    o = fc.optim.SGD([p], lr=0.5)

    def closure():
        o.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert o.step(closure).item() == 4.0
    assert p.item() == 0.0
    o.zero_grad(set_to_none=False)
    assert p.grad.item() == 0.0
    o.zero_grad()
    assert p.grad is None


def test_bad_options():
    p = fc.tensor([1.0], requires_grad=True)
    for make, message in [
        (lambda: fc.optim.SGD([p], lr=-1), "SGD: expected lr >= 0"),
        (lambda: fc.optim.SGD([p], lr=float("nan")), "SGD: expected lr"),
        (lambda: fc.optim.SGD([p], lr=1, nesterov=True), "nesterov needs momentum"),
        (lambda: fc.optim.Adam([p], betas=(0.9, 1.0)), r"betas\[1\] >= 0 and < 1"),
        (lambda: fc.optim.AdamW([p], eps=-1), "AdamW: expected eps"),
        (lambda: fc.optim.RMSprop([p], alpha=1.5), "alpha"),
        (lambda: fc.optim.SGD([], lr=1), "at least one parameter"),
        (lambda: fc.optim.SGD([p, p], lr=1), "more than one place"),
        (lambda: fc.optim.SGD([p * 2], lr=1), "not a leaf"),
        (lambda: fc.optim.get_optimizer("adamm"), "did you mean 'adam'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="expected an iterable"):
        fc.optim.SGD(p, lr=1)
    with pytest.raises(TypeError, match="expected tensors"):
        fc.optim.SGD([3], lr=1)
    o, q = fc.optim.SGD([p], lr=1, momentum=0.9), fc.tensor([1.0, 2.0], requires_grad=True)
    q.grad = fc.tensor([1.0, 1.0])
    other = fc.optim.SGD([q], lr=0.3, momentum=0.9)
    other.step()
    with pytest.raises(ValueError, match="momentum_buffer of shape"):
        o.load_state_dict(other.state_dict())
    assert o.param_groups[0]["lr"] == 1
    with pytest.raises(ValueError, match="1 parameters in group 0, got 2"):
        o.load_state_dict(fc.optim.SGD([fc.tensor([1.0]), fc.tensor([2.0])], lr=1).state_dict())
