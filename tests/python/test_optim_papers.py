"""Lion, LARS, LAMB and Muon: twenty steps, eager and compiled, against their papers' formulas in NumPy's float64."""

import copy

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import callbacks
from test_trainer import assert_same, dataset, trainer, weights

SHAPES = [(4, 3, 3, 3), (5,), (6, 2), (2, 7)]
LR = 0.05


def ratio(of, to):
    return of / to if of > 0 and to > 0 else 1.0


def lion(p, g, s, t, lr, betas=(0.9, 0.99), weight_decay=0.0):
    m = s.setdefault("m", np.zeros_like(p))
    p = p * (1 - lr * weight_decay) - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return p


def lars(p, g, s, t, lr, momentum=0.9, weight_decay=0.0, trust_coefficient=0.001, nesterov=False, always_adapt=False):
    d = g + weight_decay * p
    if p.ndim > 1 and (weight_decay or always_adapt):
        size = np.linalg.norm(p)
        d = d * ratio(trust_coefficient * size, np.linalg.norm(g) + weight_decay * size + 1e-8)
    s["m"] = momentum * s.get("m", 0) + d
    return p - lr * (d + momentum * s["m"] if nesterov else s["m"])


def lamb(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01):
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g * g
    u = s["m"] / (1 - betas[0] ** t) / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps) + weight_decay * p
    return p - lr * ratio(np.linalg.norm(p), np.linalg.norm(u)) * u


def muon(p, g, s, t, lr, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original"):
    s["m"] = momentum * s.get("m", 0) + (1 - momentum) * g
    x = ((1 - momentum) * g + momentum * s["m"] if nesterov else s["m"]).reshape(len(p), -1)
    rows, columns = x.shape
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    scale = max(1, rows / columns) ** 0.5 if adjust_lr_fn == "original" else 0.2 * max(rows, columns) ** 0.5
    return p * (1 - lr * weight_decay) - lr * scale * x.reshape(p.shape)


CASES = {
    "lion": ("Lion", lion, {}),
    "lion_decay": ("Lion", lion, {"betas": (0.8, 0.9), "weight_decay": 0.3}),
    "lars": ("LARS", lars, {"weight_decay": 0.01}),
    "lars_nesterov": ("LARS", lars, {"nesterov": True, "always_adapt": True, "trust_coefficient": 0.1}),
    "lamb": ("LAMB", lamb, {}),
    "lamb_decay": ("LAMB", lamb, {"weight_decay": 0.3, "betas": (0.8, 0.95)}),
    "muon": ("Muon", muon, {}),
    "muon_rms": ("Muon", muon, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0}),
}


def values(seed, name):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in SHAPES if name != "Muon" or len(s) > 1]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_as_the_paper(case, compiled):
    name, rule, options = CASES[case]
    ours = [fc.tensor(v, requires_grad=True) for v in values(0, name)]
    want = [v.astype(np.float64) for v in values(0, name)]
    optimizer = getattr(fc.optim, name)(ours, lr=LR, **options)
    states = [{} for _ in ours]

    def step(*gradients):
        for p, g in zip(ours, gradients, strict=True):
            (p * g).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    run = fc.compile(step) if compiled else step
    for t in range(1, 21):
        lr = optimizer.param_groups[0]["lr"] = LR / (1 + 0.1 * t)  # schedules reach compiled steps too
        g = values(100 + t, name)
        run(*map(fc.tensor, g))
        want = [rule(p, d, s, t, lr, **options) for p, d, s in zip(want, g, states, strict=True)]
        for a, b in zip(ours, want, strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b, rtol=2e-4, atol=2e-5)


def test_lion_keeps_values_without_gradient_or_momentum():
    p = fc.tensor([1.0, -2.0], requires_grad=True)
    p.grad = fc.tensor([0.0, 3.0])
    fc.optim.Lion([p], lr=0.5).step()
    assert p.tolist() == [1.0, -2.5]


@pytest.mark.parametrize("name", ["LARS", "LAMB"])
def test_layerwise_rates_of_zero_weights_and_zero_gradients_are_finite(name):
    p, q = fc.zeros(3, 2, requires_grad=True), fc.tensor(np.ones((3, 2), np.float32), requires_grad=True)
    p.grad, q.grad = fc.ones(3, 2), fc.zeros(3, 2)
    getattr(fc.optim, name)([p, q], lr=0.1, weight_decay=0.1).step()
    assert np.isfinite(p.numpy()).all() and (p.numpy() < 0).all()
    assert np.isfinite(q.numpy()).all() and (q.numpy() < 1).all()


def test_muon_steps_are_orthogonal_and_refuse_vectors():
    from fastcnn.optim.muon import orthogonalize

    for shape in ((8, 30), (30, 8), (5, 5)):
        g = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        singular = np.linalg.svd(orthogonalize(fc.tensor(g)).numpy(), compute_uv=False)
        assert 0.6 < singular.min() and singular.max() < 1.3
    with pytest.raises(ValueError, match=r"two dimensions or more, got shape \(3,\) as parameter 1"):
        fc.optim.Muon([fc.ones(2, 2, requires_grad=True), fc.ones(3, requires_grad=True)])
    with pytest.raises(ValueError, match="expected a matrix"):
        orthogonalize(fc.ones(3))


def test_muon_leaves_a_group_to_adamw_bit_for_bit():
    def steps(make):
        p, q = (fc.tensor(v, requires_grad=True) for v in values(0, "")[:2])
        optimizer = make(p, q)
        run = fc.compile(lambda: optimizer.step())
        for t in range(5):
            p.grad, q.grad = map(fc.tensor, values(10 + t, "")[:2])
            run()
        return p.numpy(), q.numpy(), optimizer

    shared = {"lr": 0.01, "weight_decay": 0.2, "eps": 1e-8}
    p, q, muon = steps(lambda p, q: fc.optim.Muon([p, q], use_muon=False, **shared))
    want = steps(lambda p, q: fc.optim.AdamW([p, q], **shared))
    np.testing.assert_array_equal(p, want[0])
    np.testing.assert_array_equal(q, want[1])
    assert muon._terms(muon.param_groups[0]) == want[2]._terms(want[2].param_groups[0])


class Net(fc.nn.Module):
    def __init__(self):
        super().__init__()
        fc.manual_seed(0)
        self.conv, self.norm = fc.nn.Conv2d(1, 8, 3, padding=1), fc.nn.BatchNorm2d(8)
        self.scale = fc.nn.Parameter(fc.ones((8, 1, 1)))
        self.names, self.hidden, self.fc = fc.nn.Embedding(4, 8), fc.nn.Linear(128, 16), fc.nn.Linear(16, 3)

    def forward(self, x):
        y = fc.ops.relu(self.norm(self.conv(x))) * self.scale + self.names(fc.tensor([1])).reshape((1, 8, 1, 1))
        return self.fc(self.hidden(fc.ops.max_pool2d(y, 2).flatten(1)))


def test_muon_by_name_trains_any_net_and_resumes(tmp_path):
    def fit(epochs, folder=None, resume=None, **options):
        t = trainer(Net(), optimizer="muon", lr=5e-3, scheduler="onecycle", log_dir=folder, **options)
        return t, t.fit(dataset(), dataset(48, 1), max_epochs=epochs, resume=resume)

    t, history = fit(6)
    assert history["val_accuracy"][-1] > 0.9
    names = {id(p): name for name, p in t.model.named_parameters()}
    groups = [(g["use_muon"], g["weight_decay"], {names[id(p)] for p in g["params"]}) for g in t.optimizer.param_groups]
    assert {name for muon, _, own in groups if muon for name in own} == {"conv.weight", "hidden.weight"}
    still = {name for _, decay, own in groups if decay == 0 for name in own}
    assert {"fc.weight", "names.weight"} == set(names.values()) - still - {"conv.weight", "hidden.weight"}

    class Stop(callbacks.Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 15

    fit(6, tmp_path, callbacks=[Stop()])
    again, _ = fit(6, tmp_path, "last")
    assert_same(weights(again.model), weights(t.model))
    fit(1, precision="16-mixed", param_rules={"fc.*": {"use_muon": False, "lr_scale": 0.5}}, layer_decay=0.9)


@pytest.mark.parametrize("name", ["Adagrad", "Lion", "LARS", "LAMB", "Muon"])
def test_state_continues_and_the_trainer_knows_the_name(name):
    def steps(p, o, seeds):
        for seed in seeds:
            p.grad = fc.tensor(np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32))
            o.step()

    make = getattr(fc.optim, name)
    p = fc.ones(3, 4, requires_grad=True)
    o = make([p])
    steps(p, o, range(3))
    q = fc.tensor(p.detach().numpy(), requires_grad=True)
    r = make([q], lr=7.0)
    r.load_state_dict(copy.deepcopy(o.state_dict()))
    steps(p, o, range(3, 6))
    steps(q, r, range(3, 6))
    np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    assert fc.optim.get_optimizer(name.lower()) is make


def test_bad_options():
    p = fc.ones(2, 2, requires_grad=True)
    for make, message in [
        (lambda: fc.optim.Adagrad([p], lr_decay=-1), "Adagrad: expected lr_decay >= 0"),
        (lambda: fc.optim.Lion([p], betas=(0.9, 1.0)), r"Lion: expected betas\[1\]"),
        (lambda: fc.optim.LARS([p], momentum=0, nesterov=True), "LARS: nesterov needs momentum"),
        (lambda: fc.optim.LAMB([p], eps=-1), "LAMB: expected eps"),
        (lambda: fc.optim.Muon([p], momentum=1.0), "Muon: expected momentum"),
        (lambda: fc.optim.Muon([p], adjust_lr_fn="x"), "expected adjust_lr_fn"),
        (lambda: fc.optim.Muon([p], adam_betas=(0.9, 1.0)), r"Muon: expected adam_betas\[1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
