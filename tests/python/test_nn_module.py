"""Module: registration, state, modes, freezing, hooks, moving, copying, text; containers; EMA, clipping."""

import copy
import inspect
import pickle

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _core, models, nn
from fastcnn._core import ops
from fastcnn._graph import trace
from fastcnn.nn import init, utils
from fastcnn.nn.module import set_call_observer


def rand(*shape):
    return ops.randn(shape)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
        self.scale = nn.Parameter(np.ones(1, np.float32))
        self.register_buffer("steps", _core.tensor(np.zeros((), np.int64)))
        self.register_buffer("scratch", _core.tensor(np.zeros(2, np.float32)), persistent=False)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.body(self.conv(x)).mean(dim=(2, 3))) * self.scale


KEYS = [
    "scale", "steps", "conv.weight", "conv.bias", "body.0.weight", "body.0.bias", "body.0.running_mean",
    "body.0.running_var", "body.0.num_batches_tracked", "fc.weight", "fc.bias",
]  # fmt: skip


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k].numpy(), b[k].numpy()) for k in a)


def test_walking():
    net = Net()
    assert list(net.state_dict()) == KEYS
    assert [n for n, _ in net.named_parameters()] == [
        k for k in KEYS if "running" not in k and "num" not in k and k != "steps"
    ]
    assert [n for n, _ in net.named_buffers()] == [
        "steps",
        "scratch",
        *(k for k in KEYS if "running" in k or "num" in k),
    ]
    assert [n for n, _ in net.named_modules()] == ["", "conv", "body", "body.0", "body.1", "body.2", "fc"]
    assert [n for n, _ in net.named_children()] == ["conv", "body", "fc"]
    assert (
        len(list(net.parameters())) == 7 and len(list(net.modules())) == 7 and len(list(net.children())) == 3
    )
    assert net.get_submodule("body.0") is net.body[0] and net.get_submodule("") is net
    with pytest.raises(AttributeError, match=r"body\.9"):
        net.get_submodule("body.9")
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Sequential", "Linear", "Net"]


def test_keys_match_torch():
    torch = pytest.importorskip("torch")

    def build(nn):
        norm = nn.InstanceNorm2d(4, affine=True)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Linear(2, 2), norm)

    ours, theirs = build(nn).state_dict(), build(torch.nn).state_dict()
    assert {k: tuple(v.shape) for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}
    assert list(ours) == list(theirs)


def test_shared_members_once():
    a = nn.Linear(2, 2)
    net = nn.Sequential(a, nn.ReLU(), a)
    assert len(list(net.parameters())) == 2 and len(list(net.modules())) == 3
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    b = nn.Linear(2, 2)
    b.weight = a.weight
    assert len(list(nn.Sequential(a, b).parameters())) == 3
    twin = copy.deepcopy(nn.Sequential(a, b))
    assert twin[0].weight is twin[1].weight


def test_registration_rules():
    m = nn.Module()
    with pytest.raises(ValueError, match="dots"):
        m.register_buffer("a.b", None)
    with pytest.raises(ValueError, match="exists"):
        m.add_module("forward", nn.ReLU())
    with pytest.raises(TypeError, match="expected a Tensor"):
        m.register_buffer("b", 3)
    with pytest.raises(TypeError, match="expected a Parameter"):
        m.register_parameter("p", rand(2))
    m.p = nn.Parameter(rand(2))
    with pytest.raises(TypeError, match="expected a Parameter or None"):
        m.p = rand(2)
    m.p = None
    assert list(m.parameters()) == [] and m.p is None
    m.p = nn.Parameter(rand(3))
    m.child = nn.ReLU()
    with pytest.raises(TypeError, match="expected a Module or None"):
        m.child = 3
    del m.child
    assert list(m.children()) == [] and not hasattr(m, "child")
    m.child = 3
    m.register_buffer("b", rand(2))
    m.b = rand(5)
    assert [n for n, _ in m.named_buffers()] == ["b"] and m.b.shape == (5,)
    with pytest.raises(TypeError, match="expected a Tensor or None"):
        m.b = "text"
    with pytest.raises(NotImplementedError, match="forward"):
        m()

    class Forgetful(nn.Module):
        def __init__(self):  # no super().__init__()
            self.fc = nn.Linear(2, 2)

    assert len(list(Forgetful().parameters())) == 2


def test_parameter():
    data = rand(2, 3)
    p = nn.Parameter(data)
    assert isinstance(p, _core.Tensor) and p.requires_grad and not data.requires_grad
    assert p.requires_grad_(False) is p and not p.requires_grad
    assert not nn.Parameter(np.ones(2, np.float32), requires_grad=False).requires_grad
    p = nn.Parameter(data)
    (p * p).sum().backward()
    np.testing.assert_allclose(p.grad.numpy(), 2 * data.numpy(), rtol=1e-6)
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(twin) is nn.Parameter and twin.requires_grad and np.array_equal(twin.numpy(), p.numpy())
    half = pickle.loads(pickle.dumps(nn.Parameter(data.to("bfloat16"))))
    assert np.array_equal(half.detach().to("float32").numpy(), data.to("bfloat16").to("float32").numpy())
    assert repr(p).startswith("Parameter containing:\n")
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        nn.Parameter(np.ones(2, np.int64))


# ---------------------------------------------------------------- state


def test_state_round_trip(tmp_path):
    a, b = Net(), Net()
    a(rand(4, 3, 5, 5))
    assert not same(a.state_dict(), b.state_dict())
    result = b.load_state_dict(a.state_dict())
    assert result == ([], [], []) and same(a.state_dict(), b.state_dict())
    c = Net()
    a.save(tmp_path / "net.safetensors", {"epoch": "1"})
    c.load(tmp_path / "net.safetensors")
    assert same(a.state_dict(), c.state_dict())
    d = Net()
    d.load_state_dict({k: v.numpy() for k, v in a.state_dict().items()})
    assert same(a.state_dict(), d.state_dict())
    x = rand(2, 3, 5, 5)
    np.testing.assert_array_equal(a.eval()(x).numpy(), d.eval()(x).numpy())


def test_strict_loading_names_all_and_changes_nothing():
    net = Net()
    state = {k: v.clone() for k, v in Net().state_dict().items()}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    del state["conv.bias"]
    state["extra"], state["fc.weight"] = rand(1), rand(3, 4)
    with pytest.raises(ValueError) as e:
        net.load_state_dict(state)
    for part in (
        "missing key 'conv.bias'",
        "unexpected key 'extra'",
        "'fc.weight': expected shape (2, 4), got (3, 4)",
    ):
        assert part in str(e.value)
    assert same(net.state_dict(), before)
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["conv.bias"] and result.unexpected_keys == ["extra"]
    assert result.mismatched_keys == [("fc.weight", (2, 4), (3, 4))]
    after = net.state_dict()
    assert np.array_equal(after["conv.weight"].numpy(), state["conv.weight"].numpy())
    assert np.array_equal(after["fc.weight"].numpy(), before["fc.weight"].numpy())
    with pytest.raises(TypeError, match=r"fc\.weight"):
        net.load_state_dict({**before, "fc.weight": "text"})


def test_old_files_lack_num_batches_tracked():
    state = Net().state_dict()
    del state["body.0.num_batches_tracked"]
    assert Net().load_state_dict(state) == ([], [], [])


def test_loading_keeps_objects_and_casts():
    net = nn.Linear(2, 2)
    weight = net.weight
    net.load_state_dict({"weight": np.eye(2), "bias": np.ones(2, np.float16)})
    assert net.weight is weight and str(weight.dtype) == "float32" and weight.requires_grad
    np.testing.assert_array_equal(weight.numpy(), np.eye(2))


def test_loading_torch_state():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2)
    ours.load_state_dict(dict(theirs.named_parameters()))
    np.testing.assert_array_equal(ours.weight.numpy(), theirs.weight.detach().numpy())
    ours.load_state_dict(theirs.bfloat16().state_dict())
    np.testing.assert_array_equal(ours.bias.numpy(), theirs.bias.detach().float().numpy())


def test_a_copied_tensor_has_its_own_gradient():
    x = _core.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    twin = copy.deepcopy(x)
    x.grad = None
    assert twin.requires_grad and twin.grad.numpy().tolist() == [2, 4]
    assert copy.deepcopy(x).grad is None and not copy.deepcopy(x.detach()).requires_grad


def test_pickle_and_deepcopy():
    net = Net().eval()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same(net.state_dict(), twin.state_dict()) and not twin.training
        x = rand(2, 3, 5, 5)
        np.testing.assert_array_equal(net(x).numpy(), twin(x).numpy())
        init.zeros_(twin.conv.weight)
        assert net.conv.weight.numpy().any()


# ---------------------------------------------------------------- modes


def test_train_eval_and_zero_grad():
    net = Net()
    assert net.training and net.train() is net
    assert not any(m.training for m in net.eval().modules())
    net.train()
    net(rand(2, 3, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert not any(p.grad.numpy().any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())


def test_freeze():
    net = Net().freeze().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert net.training and net.body[2].training and not net.body[0].training
    net(rand(4, 3, 5, 5))
    assert same(net.state_dict(), before)
    assert not any(p.requires_grad for p in net.parameters())
    net.freeze()  # twice is once
    net.unfreeze()
    assert net.body[0].training and all(p.requires_grad for p in net.parameters())
    net(rand(4, 3, 5, 5))
    assert net.body[0].num_batches_tracked.item() == 1
    net.eval().freeze().unfreeze()
    assert not net.body[0].training
    net.freeze().train().eval().unfreeze()
    assert not net.body[0].training


def gan_sample(generator, images):
    discriminator = models.create_model("dcgan", in_channels=1, image_size=16, width=4).discriminator
    fc.GANTrainer(generator, discriminator, ema_decay=None, progress=False).sample(2)


EVALUATIONS = {
    "export": ("resnet8", trace),
    "feature_maps": ("resnet8", lambda net, x: fc.viz.feature_maps(net, x[0], "conv1")),
    "summary": ("resnet8", lambda net, x: fc.viz.summary(net, (3, 32, 32))),
    "FID": ("resnet8", lambda net, x: fc.metrics.FID(net).update(x, real=True)),
    "Trainer.predict": ("resnet8", lambda net, x: fc.Trainer(net, progress=False).predict(x)),
    "Detector.predict": ("retinanet_small", lambda net, x: net.predict(x)),
    "Detector.encode": ("retinanet_small", lambda net, x: net.encode([{"boxes": [], "labels": []}], x.shape[2:])),
    "GANTrainer.sample": ("dcgan", gan_sample),
}  # fmt: skip


@pytest.mark.parametrize("name", EVALUATIONS)
def test_what_evaluates_for_a_while_leaves_each_module_the_mode_that_it_had(name):
    model, run = EVALUATIONS[name]
    images = np.random.default_rng(0).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)

    def made():
        if model == "dcgan":
            return models.create_model(model, in_channels=1, image_size=16, width=4).generator.train()
        return models.create_model(model, 2).train()

    net = made()
    next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eval()  # keeps its statistics
    modes = {n: m.training for n, m in net.named_modules()}
    run(net, images)
    assert {n: m.training for n, m in net.named_modules()} == modes
    net = made().freeze()
    run(net, images)
    assert all(m.training for m in net.unfreeze().modules())  # frozen norms go on where they were


def test_unfreeze_leaves_what_never_trained_as_it_was():
    net = models.airbench94(10)
    fixed = {k for k, p in net.named_parameters() if not p.requires_grad}
    assert len(fixed) == 7
    for _ in range(2):
        net.freeze().freeze().unfreeze()
        net.groups.unfreeze()  # twice is once
        assert {k for k, p in net.named_parameters() if not p.requires_grad} == fixed
    plain = Net().requires_grad_(False).unfreeze()
    assert all(p.requires_grad for p in plain.parameters())


def test_unfreeze_trains_shared_parameters_again():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    net[1].weight = net[0].weight
    net[2].bias = nn.Parameter(rand(2), requires_grad=False)
    want = [p.requires_grad for p in net.parameters()]
    assert want == [True, True, True, False, False]
    net.freeze()
    assert not any(p.requires_grad for p in net.parameters())
    assert [p.requires_grad for p in net.unfreeze().parameters()] == want
    net[1].freeze()  # a part, then all
    assert [p.requires_grad for p in net.freeze().unfreeze().parameters()] == want


def test_freeze_leaves_batch_norm_on_wish():
    net = Net().freeze(train_bn=True)
    trained = [n for n, p in net.named_parameters() if p.requires_grad]
    assert trained == ["body.0.weight", "body.0.bias"] and net.body[0].training
    net(rand(4, 3, 5, 5)).sum().backward()
    assert net.body[0].weight.grad is not None and net.conv.weight.grad is None
    assert net.body[0].running_mean.numpy().any()


def test_freezing_a_part():
    net = Net()
    net.body.freeze()
    net.train()
    assert net.conv.weight.requires_grad and not net.body[0].weight.requires_grad and not net.body[0].training
    net(rand(2, 3, 4, 4)).sum().backward()
    assert net.conv.weight.grad.numpy().any()


# ---------------------------------------------------------------- hooks


def test_hooks():
    m, log = nn.ReLU(), []
    a = m.register_forward_pre_hook(lambda mod, args: log.append(("pre", mod is m, len(args))))
    b = m.register_forward_hook(lambda mod, args, out: log.append(("post", out.shape)))
    m(rand(2))
    assert log == [("pre", True, 1), ("post", (2,))]
    a.remove()
    a.remove()
    with b:
        m(rand(2))
    m(rand(2))
    assert log[2:] == [("post", (2,))]
    with (
        m.register_forward_pre_hook(lambda mod, args: -args[0]),
        m.register_forward_hook(lambda mod, args, out: out + 1),
    ):
        np.testing.assert_array_equal(m(_core.tensor([-2.0, 3.0])).numpy(), [3, 1])
    with pytest.raises(TypeError, match="callable"):
        m.register_forward_hook(3)


def test_call_observer_sees_modules_and_modes():
    net, seen = Net(), []
    net.body.eval()
    before = set_call_observer(lambda m: seen.append((type(m).__name__, m.training)))
    try:
        net(rand(2, 3, 4, 4))
    finally:
        set_call_observer(before)
    assert seen[0] == ("Net", True) and ("BatchNorm2d", False) in seen and len(seen) == 7
    net(rand(2, 3, 4, 4))
    assert len(seen) == 7


# ---------------------------------------------------------------- moving


def test_to():
    net = Net()
    params = list(net.parameters())
    net(rand(2, 3, 4, 4)).sum().backward()
    assert net.to("float64") is net
    assert all(
        str(p.dtype) == "float64" and p.requires_grad and str(p.grad.dtype) == "float64" for p in params
    )
    assert [id(p) for p in net.parameters()] == [id(p) for p in params]
    assert str(net.body[0].running_mean.dtype) == "float64" and str(net.steps.dtype) == "int64"
    net.float().to("cpu")
    assert str(net.scale.dtype) == "float32"
    assert str(net.bfloat16().scale.dtype) == "bfloat16" and str(net.half().scale.dtype) == "float16"
    with pytest.raises(TypeError, match="floating"):
        net.to("int64")
    with pytest.raises(TypeError, match="speed"):
        net.to(speed=3)
    shared = nn.Linear(2, 2)
    both = nn.Sequential(shared, shared).double()
    assert both[0].weight is both[1].weight and str(both[0].weight.dtype) == "float64"


def test_moved_parameters_still_train():
    m = nn.Linear(2, 2).double()
    m(ops.ones((1, 2)).to("float64")).sum().backward()
    np.testing.assert_allclose(m.weight.grad.numpy(), np.ones((2, 2)))


# ---------------------------------------------------------------- text and containers


def test_repr():
    assert (
        repr(Net())
        == """Net(
  (conv): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
  (body): Sequential(
    (0): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (1): ReLU()
    (2): Dropout(p=0.1)
  )
  (fc): Linear(in_features=4, out_features=2, bias=True)
)"""
    )


def test_sequential():
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
    net = nn.Sequential(a, b, c)
    assert len(net) == 3 and net[0] is a and net[-1] is c and list(net) == [a, b, c] and b in net
    assert net(rand(5, 2)).shape == (5, 1)
    head = net[1:]
    assert isinstance(head, nn.Sequential) and list(dict(head.named_children())) == ["1", "2"]
    net[1] = nn.Tanh()
    assert isinstance(net[1], nn.Tanh)
    del net[1]
    assert [n for n, _ in net.named_children()] == ["0", "1"] and net[1] is c
    assert net.append(b).extend([b]) is net and len(net) == 4
    assert net.insert(0, b)[0] is b
    named = nn.Sequential({"first": a, "second": c})
    assert named.first is a and list(named.state_dict())[0] == "first.weight"
    for i in (9, -9):
        with pytest.raises(IndexError, match="out of range"):
            net[i]
    with pytest.raises(TypeError):
        nn.Sequential(a, None)
    with pytest.raises(TypeError):
        nn.Sequential(a, 3)


def test_lists_and_dicts():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert len(layers) == 3 and len(layers[1:]) == 2 and len(list(layers.parameters())) == 6
    layers.append(nn.ReLU()).insert(0, nn.Tanh())
    assert list(layers.state_dict())[0] == "1.weight" and isinstance(layers[0], nn.Tanh)
    d = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 1)})
    assert "a" in d and "c" not in d and list(d) == ["a", "b"] and len(d) == 2 and d["b"].in_features == 1
    assert [k for k, _ in d.items()] == d.keys() and isinstance(d.pop("a"), nn.ReLU) and len(d.values()) == 1
    with pytest.raises(KeyError):
        d["a"]
    ps = nn.ParameterList([np.ones(2, np.float32), nn.Parameter(rand(3))])
    assert len(ps) == 2 and ps[0].requires_grad and list(ps.state_dict()) == ["0", "1"] and "(3,)" in repr(ps)
    assert nn.Identity(3, some="thing")(rand(2)).shape == (2,)


def test_declared_layers_have_real_signatures():
    assert str(inspect.signature(nn.MaxPool2d)).startswith("(kernel_size, stride=None, padding=0")
    assert list(inspect.signature(nn.LeakyReLU.forward).parameters) == ["self", "x"]
    assert nn.LeakyReLU(0.3).negative_slope == nn.LeakyReLU(negative_slope=0.3).negative_slope == 0.3
    with pytest.raises(TypeError):
        nn.MaxPool2d()
    with pytest.raises(TypeError):
        nn.ReLU(slope=3)
    assert pickle.loads(pickle.dumps(nn.LeakyReLU(0.3))).negative_slope == 0.3
    settings = "kernel_size=3, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False"
    assert repr(nn.MaxPool2d(3)) == f"MaxPool2d({settings})"
    undocumented = [n for n in nn.__all__ if not getattr(nn, n).__doc__]
    assert undocumented == []


# ---------------------------------------------------------------- utils


def grads(*arrays):
    params = []
    for a in arrays:
        p = nn.Parameter(np.zeros_like(a, dtype=np.float32))
        p.grad = _core.tensor(np.asarray(a, np.float32))
        params.append(p)
    return params


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_clip_grad_norm(p):
    a, b = np.array([3.0, -4.0]), np.array([[12.0]])
    params = [*grads(a, b), nn.Parameter(rand(2))]
    expected = np.linalg.norm([3, -4, 12], p)
    total = utils.clip_grad_norm_(params, 1.0, p)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(params[0].grad.numpy(), a / expected, rtol=1e-4)
    np.testing.assert_allclose(params[1].grad.numpy(), b / expected, rtol=1e-4)
    small = grads(a)
    utils.clip_grad_norm_(small, 1e6, p)
    np.testing.assert_array_equal(small[0].grad.numpy(), a)
    assert utils.clip_grad_norm_([nn.Parameter(rand(2))], 1.0).item() == 0


def test_clip_grad_norm_of_float64():
    p = nn.Parameter(_core.tensor(np.zeros(2)))
    p.grad = _core.tensor(np.array([3e60, 4e60]))
    assert utils.clip_grad_norm_([p], 1.0).item() == pytest.approx(5e60)  # no float32
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-12)


def test_clip_others():
    bad = grads(np.array([np.nan, 1]))
    with pytest.raises(RuntimeError, match="nan"):
        utils.clip_grad_norm_(bad, 1.0, error_if_nonfinite=True)
    params = grads(np.array([-3.0, 0.5, 3.0]))
    utils.clip_grad_value_(params, 1.0)
    np.testing.assert_array_equal(params[0].grad.numpy(), [-1, 0.5, 1])
    with pytest.raises(ValueError, match="norm_type"):
        utils.clip_grad_norm_(params, 1.0, 0)


def test_parameters_as_vector():
    net = nn.Linear(3, 2)
    v = utils.parameters_to_vector(net.parameters())
    assert v.shape == (8,)
    utils.vector_to_parameters(v.detach() * 2, net.parameters())
    np.testing.assert_allclose(net.weight.numpy().ravel(), 2 * v.detach().numpy()[:6], rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(8,\)"):
        utils.vector_to_parameters(rand(5), net.parameters())


def test_ema():
    net = Net()
    ema = utils.EMA(net, decay=0.75)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())
    init.constant_(net.scale, 5.0)
    init.constant_(net.steps, 3)
    ema.update()
    assert ema.module.scale.item() == pytest.approx(2.0) and ema.module.steps.item() == 3
    with ema.average_parameters() as averaged:
        assert averaged is net and net.scale.item() == pytest.approx(2.0)
    assert net.scale.item() == 5
    assert np.array_equal(ema.module.conv.weight.numpy(), start["conv.weight"].numpy())
    other = utils.EMA(Net(), 0.75)
    other.load_state_dict(ema.state_dict())
    assert same(other.state_dict(), ema.state_dict())
    with pytest.raises(ValueError, match="decay"):
        utils.EMA(net, 1.5)


@pytest.mark.parametrize("compiled", [False, True])
def test_ema_moves_shared_tensors_once(compiled):
    norm = nn.BatchNorm2d(1)
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), norm, norm)
    net[1].weight = net[0].weight
    init.constant_(net[0].weight, 0.0)
    ema = utils.EMA(net, decay=0.75)
    init.constant_(net[0].weight, 4.0)
    init.constant_(norm.running_mean, 8.0)
    (fc.compile(ema.update) if compiled else ema.update)()
    np.testing.assert_allclose(ema.module[1].weight.numpy(), 1.0)
    assert ema.module[3].running_mean.item() == pytest.approx(2.0)


def test_ema_warmup():
    m = nn.PReLU(init=0.0)
    ema = utils.EMA(m, decay=0.9, warmup=True)
    init.constant_(m.weight, 1.0)
    expected = 0.0
    for n in range(1, 200):
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay)
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-4)
