"""Learning-rate schedules against torch.optim.lr_scheduler, step by step; states; bad options."""

import math

import fastcnn as fc
import pytest
from fastcnn.optim import lr_scheduler as S

torch = pytest.importorskip("torch")
T = torch.optim.lr_scheduler


class Groups:
    """What a schedule sees of an optimizer."""

    def __init__(self, *groups):
        self.param_groups = [dict(g) for g in groups]


def pair(*groups):
    ours = Groups(*groups)
    sets = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": g["lr"]} for g in groups]
    make = torch.optim.Adam if "betas" in groups[0] else torch.optim.SGD
    options = {"betas": groups[0]["betas"]} if "betas" in groups[0] else {"momentum": 0.9}
    return ours, make(sets, lr=0.1, **options)


SGD = {"lr": 0.1, "momentum": 0.9}
CASES = {
    "linear": (lambda m, o: m.LinearLR(o, start_factor=0.2, end_factor=0.9, total_iters=7), 12),
    "constant": (lambda m, o: m.ConstantLR(o, factor=0.25, total_iters=4), 9),
    "polynomial": (lambda m, o: m.PolynomialLR(o, total_iters=9, power=0.9), 12),
    "restarts": (lambda m, o: m.CosineAnnealingWarmRestarts(o, 5, T_mult=2, eta_min=0.001), 40),
    "even_restarts": (lambda m, o: m.CosineAnnealingWarmRestarts(o, 4), 14),
    "step": (lambda m, o: m.StepLR(o, 3, gamma=0.5), 20),
    "multistep": (lambda m, o: m.MultiStepLR(o, [2, 5, 5, 11], gamma=0.3), 20),
    "exponential": (lambda m, o: m.ExponentialLR(o, 0.9), 20),
    "cosine": (lambda m, o: m.CosineAnnealingLR(o, 7, eta_min=0.01), 30),
    "lambda": (lambda m, o: m.LambdaLR(o, lambda t: 0.95**t), 20),
    "onecycle": (lambda m, o: m.OneCycleLR(o, 0.4, total_steps=37), 37),
    "onecycle_linear": (
        lambda m, o: m.OneCycleLR(o, 0.4, total_steps=37, anneal_strategy="linear", pct_start=0.2),
        37,
    ),
    "onecycle_three": (lambda m, o: m.OneCycleLR(o, 0.4, total_steps=50, three_phase=True), 50),
    "onecycle_epochs": (lambda m, o: m.OneCycleLR(o, 0.4, epochs=4, steps_per_epoch=5, div_factor=10), 20),
    "onecycle_constant_momentum": (
        lambda m, o: m.OneCycleLR(o, 0.4, total_steps=20, cycle_momentum=False),
        20,
    ),
    "warmup": (
        lambda m, o: (m.LinearWarmup if m is S else m.LinearLR)(o, start_factor=0.1, total_iters=6),
        12,
    ),
    "sequential": (
        lambda m, o: m.SequentialLR(
            o,
            [
                (m.LinearWarmup if m is S else m.LinearLR)(o, start_factor=0.25, total_iters=4),
                m.CosineAnnealingLR(o, 10),
                m.StepLR(o, 2),
            ],
            [4, 9],
        ),
        16,
    ),
}


@pytest.mark.smoke
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("groups", [(SGD,), (SGD, {**SGD, "lr": 0.02}), ({"lr": 0.1, "betas": (0.9, 0.99)},)])
def test_same_sequence_as_torch(name, groups):
    make, steps = CASES[name]
    ours, theirs = pair(*groups)
    a, b = make(S, ours), make(T, theirs)
    for t in range(steps):
        want = [g["lr"] for g in theirs.param_groups]
        assert [g["lr"] for g in ours.param_groups] == pytest.approx(want, rel=1e-9, abs=1e-12), t
        assert a.get_last_lr() == pytest.approx(b.get_last_lr(), rel=1e-9, abs=1e-12)
        if "betas" in groups[0]:
            want = [g["betas"][0] for g in theirs.param_groups]
            assert [g["betas"][0] for g in ours.param_groups] == pytest.approx(want, rel=1e-9)
        else:
            want = [g["momentum"] for g in theirs.param_groups]
            assert [g["momentum"] for g in ours.param_groups] == pytest.approx(want, rel=1e-9)
        theirs.step()
        if t + 1 < steps:
            a.step()
            b.step()


@pytest.mark.parametrize("name", CASES)
def test_state_continues_the_sequence(name):
    make, steps = CASES[name]
    whole, _ = pair(SGD, {**SGD, "lr": 0.03})
    a = make(S, whole)
    seen = []
    for _ in range(steps - 1):
        a.step()
        seen.append((a.get_last_lr(), [g["momentum"] for g in whole.param_groups]))
    first, _ = pair(SGD, {**SGD, "lr": 0.03})
    b = make(S, first)
    for _ in range(steps // 2):
        b.step()
    second, _ = pair(SGD, {**SGD, "lr": 0.03})
    c = make(S, second)
    c.load_state_dict(b.state_dict())
    assert c.get_last_lr() == b.get_last_lr()
    for t in range(steps // 2, steps - 1):
        c.step()
        assert (c.get_last_lr(), [g["momentum"] for g in second.param_groups]) == seen[t]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 2])
def test_plateau_as_torch(mode, threshold_mode, cooldown):
    ours, theirs = pair(SGD, {**SGD, "lr": 0.02})
    options = {
        "mode": mode, "patience": 2, "factor": 0.3, "threshold": 0.05, "threshold_mode": threshold_mode,
        "cooldown": cooldown, "min_lr": [1e-3, 5e-3],
    }  # fmt: skip
    a, b = S.ReduceLROnPlateau(ours, **options), T.ReduceLROnPlateau(theirs, **options)
    for t in range(40):
        value = math.sin(t / 3) * 0.2 + 1 / (1 + t)
        a.step(value)
        b.step(value)
        assert a.get_last_lr() == pytest.approx([g["lr"] for g in theirs.param_groups], rel=1e-12), t
    again, _ = pair(SGD, {**SGD, "lr": 0.02})
    c = S.ReduceLROnPlateau(again, **options)
    c.load_state_dict(a.state_dict())
    assert (c.best, c.num_bad_epochs, c.get_last_lr()) == (a.best, a.num_bad_epochs, a.get_last_lr())


def test_bad_options():
    o = Groups(SGD)
    with pytest.raises(ValueError, match="StepLR: expected step_size"):
        S.StepLR(o, 0)
    with pytest.raises(ValueError, match="total_steps"):
        S.OneCycleLR(o, 0.1)
    with pytest.raises(ValueError, match="pct_start"):
        S.OneCycleLR(o, 0.1, total_steps=5, pct_start=2)
    with pytest.raises(ValueError, match="anneal_strategy"):
        S.OneCycleLR(o, 0.1, total_steps=5, anneal_strategy="cosine")
    with pytest.raises(ValueError, match="milestone"):
        S.SequentialLR(o, [S.StepLR(o, 1)], [3])
    with pytest.raises(TypeError, match="ReduceLROnPlateau"):
        S.SequentialLR(o, [S.ReduceLROnPlateau(o), S.StepLR(o, 1)], [3])
    with pytest.raises(ValueError, match="another optimizer"):
        S.SequentialLR(o, [S.StepLR(Groups(SGD), 1), S.StepLR(o, 1)], [3])
    with pytest.raises(ValueError, match="mode"):
        S.ReduceLROnPlateau(o, mode="best")
    with pytest.raises(TypeError, match="optimizer"):
        S.StepLR(3, 1)
    one = S.OneCycleLR(o, 0.1, total_steps=2)
    one.step()
    one.step()
    with pytest.raises(ValueError, match="step 3 of a schedule of 2"):
        one.step()
    with pytest.raises(ValueError, match="parameter groups"):
        S.StepLR(o, 1).load_state_dict({"last_epoch": 1, "base_lrs": [1, 2]})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda m, o: [m.LinearLR(o, 0.1, total_iters=5), m.ExponentialLR(o, 0.9)],
        lambda m, o: [m.ConstantLR(o, 0.5, total_iters=3), m.MultiStepLR(o, [4, 9], 0.3), m.PolynomialLR(o, 30)],
        lambda m, o: [m.LinearLR(o, 0.2, total_iters=4), m.ReduceLROnPlateau(o, patience=1, factor=0.5)],
        lambda m, o: [m.CosineAnnealingLR(o, 30, eta_min=0.01), m.ReduceLROnPlateau(o, patience=2, factor=0.3)],
        lambda m, o: [
            m.SequentialLR(o, [m.LinearLR(o, 0.1, total_iters=3), m.StepLR(o, 4)], [3]),
            m.ReduceLROnPlateau(o, patience=1, factor=0.5),
        ],
    ],
)
def test_schedules_go_on_from_rates_that_others_have_set(make):
    ours, theirs = pair(SGD, {**SGD, "lr": 0.02})
    a, b = make(S, ours), make(T, theirs)
    for t in range(16):
        if t == 7:  # by hand
            for o in (ours, theirs):
                o.param_groups[0]["lr"] *= 0.7
        if t == 9:  # states say where the others have left the rate, in whatever order they are loaded
            states, rates = [s.state_dict() for s in a], [g["lr"] for g in ours.param_groups]
            ours, _ = pair(SGD, {**SGD, "lr": 0.02})
            a = make(S, ours)
            for s, state in reversed(list(zip(a, states, strict=True))):
                s.load_state_dict(state)
                assert s.get_last_lr() == pytest.approx(rates, rel=1e-12)
        theirs.step()
        for schedules in (a, b):
            for s in schedules:
                s.step(1.0) if hasattr(s, "num_bad_epochs") else s.step()
        want = [g["lr"] for g in theirs.param_groups]
        assert [g["lr"] for g in ours.param_groups] == pytest.approx(want, rel=1e-9), t


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["linear", "constant", "polynomial", "step", "multistep", "exponential", "cosine"])
def test_groups_that_come_later_are_scheduled(name):
    make, steps = CASES[name]
    ours, theirs = pair(SGD)
    a, b = make(S, ours), make(T, theirs)
    for t in range(min(steps, 7) - 1):  # the cosine stands at its end after that
        if t == 2:
            ours.param_groups.append({"lr": 0.5})
            theirs.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})
        theirs.step()
        a.step()
        b.step()
        want = [g["lr"] for g in theirs.param_groups]
        assert [g["lr"] for g in ours.param_groups] == pytest.approx(want, rel=1e-9), t
    assert len(a.state_dict()["base_lrs"]) == 2
    plateau = S.ReduceLROnPlateau(ours, patience=0)
    ours.param_groups.append({"lr": 0.2})
    for _ in range(2):
        plateau.step(1.0)
    assert ours.param_groups[2]["lr"] == pytest.approx(0.02)


@pytest.mark.parametrize("name", ["lambda", "onecycle", "restarts"])
def test_groups_that_a_schedule_cannot_know_are_told(name):
    ours, _ = pair(SGD)
    schedule = CASES[name][0](S, ours)
    ours.param_groups.append({**SGD, "lr": 0.5})
    with pytest.raises(ValueError, match="made for 1 parameter groups, the optimizer has 2 now"):
        schedule.step()


def test_a_sequence_resumes_with_a_group_that_came_later():
    def built(groups):
        parameters = [fc.nn.Parameter(fc.zeros(2)) for _ in range(groups)]
        optimizer = fc.optim.SGD([parameters[0]], 0.1)
        sequence = S.SequentialLR(
            optimizer, [S.LinearLR(optimizer, 0.1, total_iters=3), S.StepLR(optimizer, 2)], [3]
        )
        for p in parameters[1:]:
            optimizer.add_param_group({"params": [p], "lr": 0.5})
        return optimizer, sequence

    optimizer, sequence = built(2)
    sequence.step()
    state = sequence.state_dict()
    again, resumed = built(2)
    resumed.load_state_dict(state)
    for _ in range(6):
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        assert again.param_groups[1]["lr"] == optimizer.param_groups[1]["lr"]
        sequence.step(), resumed.step()
