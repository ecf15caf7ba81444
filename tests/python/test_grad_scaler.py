"""GradScaler and precision="16-mixed" on the CPU: the factor's course as torch's, steps that are left out leave
everything as it was, eagerly and compiled, for fused and composed rules, across checkpoints."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn.data import ArrayDataset

torch = pytest.importorskip("torch")

MAKE = {
    "SGD": lambda p: fc.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: fc.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: fc.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adagrad": lambda p: fc.optim.Adagrad(p, lr=0.1),
    "Lion": lambda p: fc.optim.Lion(p, lr=0.01),
    "Muon": lambda p: fc.optim.Muon([q for q in p if q.ndim > 1], lr=0.01),
    "LARS": lambda p: fc.optim.LARS(p, lr=0.1),
    "LAMB": lambda p: fc.optim.LAMB(p, lr=0.01),
}


def linear(seed=0):
    fc.manual_seed(seed)
    return fc.nn.Linear(3, 4)


def stepper(model, optimizer, scaler, compiled, clip=False):
    def step(x, y):
        loss = fc.ops.mse_loss(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            fc.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return fc.compile(step) if compiled else step


def batches(bad=()):
    rng = np.random.default_rng(0)
    for i in range(8):
        x, y = rng.standard_normal((5, 3)).astype("float32"), rng.standard_normal((5, 4)).astype("float32")
        if i in bad:
            x[0, 0] = np.inf
        yield x, y


def everything(model, optimizer):
    state = optimizer.state_dict()["state"]
    tensors = [*model.parameters(), *(t for s in state.values() for t in s.values() if isinstance(t, fc.Tensor))]
    return [t.detach().numpy().copy() for t in tensors]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_a_step_with_bad_gradients_changes_nothing_and_the_next_goes_on(name, compiled):
    model = linear()
    optimizer = MAKE[name](list(model.parameters()))
    scaler = fc.GradScaler(init_scale=1024.0)
    step = stepper(model, optimizer, scaler, compiled)
    for i, (x, y) in enumerate(batches(bad=(2,))):
        before = everything(model, optimizer)
        step(fc.tensor(x), fc.tensor(y))
        after = everything(model, optimizer)
        if len(before) == len(after):  # states come with the first step
            assert all(map(np.array_equal, before, after)) == (i == 2), (name, i)
        assert all(np.isfinite(a).all() for a in after)
    assert scaler.get_scale() == 512.0
    assert scaler.state_dict()["_growth_tracker"] == 5 and scaler.state_dict()["skipped"] == [1.0]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LAMB", "Muon"])
def test_without_bad_steps_it_trains_as_without_a_scaler(name):
    results = []
    for scale in (1.0, 4096.0):
        model = linear()
        optimizer = MAKE[name](list(model.parameters()))
        step = stepper(model, optimizer, fc.GradScaler(init_scale=scale), True)
        for x, y in batches():
            step(fc.tensor(x), fc.tensor(y))
        plain = linear()
        reference = MAKE[name](list(plain.parameters()))
        for x, y in batches():
            reference.zero_grad()
            fc.ops.mse_loss(plain(fc.tensor(x)), fc.tensor(y)).backward()
            reference.step()
        results += [everything(model, optimizer), everything(plain, reference)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_factor_and_weights_take_the_course_of_torch_s(compiled, clip):
    options = dict(init_scale=64.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=2)
    model, theirs = linear(), torch.nn.Linear(3, 4)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(model.weight.detach().numpy()))
        theirs.bias.copy_(torch.from_numpy(model.bias.detach().numpy()))
    optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    scaler, their_scaler = fc.GradScaler(**options), torch.amp.GradScaler("cpu", **options)
    step = stepper(model, optimizer, scaler, compiled, clip)
    for x, y in batches(bad=(0, 4, 5)):
        step(fc.tensor(x), fc.tensor(y))
        their_optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        their_scaler.scale(loss).backward()
        if clip:
            their_scaler.unscale_(their_optimizer)
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        their_scaler.step(their_optimizer)
        their_scaler.update()
        assert scaler.get_scale() == their_scaler.get_scale()
        np.testing.assert_allclose(model.weight.detach().numpy(), theirs.weight.detach().numpy(), rtol=1e-4, atol=1e-6)
    assert scaler.state_dict()["_growth_tracker"] == their_scaler.state_dict()["_growth_tracker"]
    again = fc.GradScaler()
    again.load_state_dict(their_scaler.state_dict())
    assert again.get_scale() == scaler.get_scale()


def test_a_bad_first_step_of_adam_leaves_the_step_after_it_a_first_one():
    results = []
    for bad in ((), (0,)):
        model = linear()
        optimizer = fc.optim.AdamW(model.parameters(), lr=0.01)
        step = stepper(model, optimizer, fc.GradScaler(), True)
        data = list(batches(bad))
        for x, y in data[1:4] if not bad else data[:4]:
            step(fc.tensor(x), fc.tensor(y))
        results.append(everything(model, optimizer))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bad_use_and_options_are_errors():
    for options, expected in (
        ({"init_scale": 0}, "init_scale > 0, got 0"),
        ({"growth_factor": 1.0}, "growth_factor > 1"),
        ({"backoff_factor": 1.0}, "backoff_factor in"),
        ({"growth_interval": 0}, "growth_interval >= 1"),
    ):
        with pytest.raises(ValueError, match=expected):
            fc.GradScaler(**options)
    model = linear()
    optimizer, scaler = fc.optim.SGD(model.parameters(), lr=0.1), fc.GradScaler()
    with pytest.raises(ValueError, match="expected SGD to have gradients, got none"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"expected step\(\) before it"):
        scaler.update()
    model(fc.zeros(1, 3)).sum().backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="have been unscaled"):
        scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match="expected a state with"):
        scaler.load_state_dict({"scale": 1.0})
    with pytest.raises(ValueError, match=r"sgd_step_: expected scale of shape \(3,\) and float32, got \(2,\)"):
        optimizer.step(scale=fc.zeros(2))
    off = fc.GradScaler(enabled=False)
    loss = fc.zeros(())
    assert off.scale(loss) is loss and off.get_scale() == 1.0 and off.state_dict() == {}


# ---------------------------------------------------------------- Trainer


def images(n=64, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    x = rng.standard_normal((n, 1, 8, 8)).astype("float32") * 0.3
    for i, label in enumerate(labels):
        x[i, 0, 2 * label : 2 * label + 2] += 1
    return ArrayDataset(x, labels)


def net():
    fc.manual_seed(1)
    n = fc.nn
    return n.Sequential(
        n.Conv2d(1, 8, 3, padding=1, bias=False), n.BatchNorm2d(8), n.ReLU(), n.MaxPool2d(2), n.Flatten(),
        n.Linear(128, 3),
    )  # fmt: skip


def trainer(**options):
    return fc.Trainer(net(), "sgd", 0.05, batch_size=16, progress=False, device="cpu", **options)


@pytest.mark.parametrize("compile", [True, False])
def test_16_mixed_computes_in_float16_and_learns_with_float32_weights(compile):
    t = trainer(precision="16-mixed", compile=compile, gradient_clip_val=5.0)
    seen = []
    t.model[0].register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    history = t.fit(images(), images(48, 1), max_epochs=6)
    assert seen and set(seen) == {fc.float16}
    assert history["val_accuracy"][-1] > 0.9
    assert {p.dtype for p in t.model.parameters()} == {fc.float32}
    assert t.predict(np.zeros((2, 1, 8, 8), np.float32)).dtype == np.float32


def test_16_mixed_backs_off_where_the_factor_is_too_large_and_goes_on():
    t = trainer(precision="16-mixed")
    t.scaler.load_state_dict({**t.scaler.state_dict(), "scale": 2.0**40})
    before = [p.detach().numpy().copy() for p in t.model.parameters()]
    t.fit(images(), max_epochs=1)
    assert all(np.array_equal(a, p.detach().numpy()) for a, p in zip(before, t.model.parameters(), strict=True))
    assert t.scaler.get_scale() == 2.0**36  # four steps, all left out
    history = t.fit(images(), max_epochs=12)
    assert t.scaler.get_scale() < 2.0**30
    assert history["train_loss"][-1] < 0.6 * history["train_loss"][0]


def test_the_scaler_s_state_is_in_checkpoints_and_a_resumed_run_is_the_same(tmp_path):
    whole = trainer(precision="16-mixed", log_dir=tmp_path / "whole")
    whole.scaler.load_state_dict({**whole.scaler.state_dict(), "scale": 2.0**28})
    whole.fit(images(), max_epochs=4)
    first = trainer(precision="16-mixed", log_dir=tmp_path / "parts")
    first.scaler.load_state_dict({**first.scaler.state_dict(), "scale": 2.0**28})
    first.fit(images(), max_epochs=2)
    second = trainer(precision="16-mixed", log_dir=tmp_path / "parts")
    second.fit(images(), max_epochs=4, resume="last")
    assert second.scaler.state_dict() == whole.scaler.state_dict() != fc.GradScaler().state_dict()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())
