"""What plans compute ahead: folded batch norms, packed weights, constants. They must be seen to happen, give the
numbers of eager mode, and follow every way in which a weight can change between two calls."""

from __future__ import annotations

import fastcnn as fc
import numpy as np
import pytest

ops, nn = fc.ops, fc.nn


def rand(*shape, seed=0):
    return fc.tensor(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


def randomise(model, seed=1):
    rng = np.random.default_rng(seed)
    for name, t in model.state_dict().items():
        if t.dtype == fc.float32:
            low = 0.5 if "var" in name else -0.5
            t.copy_(fc.tensor(rng.uniform(low, 1.5, size=t.shape).astype(np.float32) * (0.3 if t.ndim > 1 else 1)))
    return model.eval()


def inference(model):
    @fc.compile
    def run(x):
        with fc.no_grad():
            return model(x)

    return run


def eager(model, x):
    with fc.no_grad():
        return model(x).numpy()


def kinds(f):
    return [s["op"] for s in f._core.steps()]


def check(model, x, steps=None, tol=1e-5):
    f = inference(model)
    for _ in range(2):
        want = eager(model, x)
        np.testing.assert_allclose(f(x).numpy(), want, rtol=tol, atol=tol * max(1, np.abs(want).max()))
    if steps is not None:
        assert kinds(f) == steps, f.describe()
    return f


@pytest.fixture(params=fc._core.available_isas())
def isa(request):
    before = fc.isa()
    fc._core.set_isa(request.param)
    yield request.param
    fc._core.set_isa(before)


CONVOLUTIONS = {
    "3x3": lambda b: nn.Conv2d(6, 10, 3, padding=1, bias=b),
    "1x1/2": lambda b: nn.Conv2d(6, 10, 1, stride=2, bias=b),
    "groups": lambda b: nn.Conv2d(6, 12, 3, groups=3, bias=b),
    "depthwise": lambda b: nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=b),
    "transpose": lambda b: nn.ConvTranspose2d(6, 10, 4, stride=2, padding=1, bias=b),
    "transpose-groups": lambda b: nn.ConvTranspose2d(6, 9, 3, groups=3, bias=b),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_batch_norm_folds_into_convolutions(conv, bias, isa):
    c = conv(bias)
    model = randomise(nn.Sequential(c, nn.BatchNorm2d(c.out_channels)))
    f = check(model, rand(2, 6, 9, 8))
    kind = "conv2d_bwd_data" if "Transpose" in type(c).__name__ else "conv2d"
    assert kinds(f) == [kind]
    assert f.info()["prepared_nodes"] == 1


@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_batch_norm_folds_into_bfloat16_convolutions(conv, bias, kind, isa):
    """Weights that autocast rounds are folded as float32 and rounded once; the result is as near as eager's."""
    c = conv(bias)
    model, x = randomise(nn.Sequential(c, nn.BatchNorm2d(c.out_channels), nn.ReLU())), rand(2, 6, 9, 8)
    exact = eager(model, x)
    if kind == "bfloat16":
        model, x = model.to(fc.bfloat16), x.to(fc.bfloat16)
    f = inference(model)
    with fc.autocast(fc.bfloat16, enabled=kind == "autocast"):
        got, unfused = f(x), fc.tensor(eager(model, x))
    assert got.dtype == fc.bfloat16 and not {"batch_norm_infer", "unary"} & set(kinds(f)[1:]), f.describe()
    scale = np.abs(exact).max()
    errors = [np.abs(y.to(fc.float32).numpy() - exact).max() / scale for y in (got, unfused)]
    assert errors[0] < max(1.5 * errors[1], 2**-7), errors


@pytest.mark.parametrize("layer", [*CONVOLUTIONS, "linear"])
def test_packed_bfloat16_weights_give_the_bits_of_eager(layer, isa):
    c = nn.Linear(6, 21) if layer == "linear" else CONVOLUTIONS[layer](True)
    model = randomise(nn.Sequential(c)).to(fc.bfloat16)
    x = (rand(13, 6) if layer == "linear" else rand(2, 6, 9, 8)).to(fc.bfloat16)
    f, threads = inference(model), fc.get_num_threads()
    with fc.no_grad():
        want = model(x).to(fc.float32).numpy()
    try:
        for n in (1, 2, 3):
            fc.set_num_threads(n)
            np.testing.assert_array_equal(f(x).to(fc.float32).numpy(), want)
    finally:
        fc.set_num_threads(threads)
    step = f._core.steps()[0]
    if step["implementation"] == "pairs":
        assert f.info()["prepared_operands"] == 1
    else:
        assert isa == "ref" or "depthwise" in layer or layer == "transpose-groups", step


def test_batch_norm_folds_into_linear(isa):
    model = randomise(nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU()))
    steps = ["matmul", "activation"] if isa == "ref" else ["matmul"]
    check(model, rand(5, 7), steps)


def test_residual_block_is_two_steps():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.b1 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
            self.c2, self.b2 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)

        def forward(self, x):
            return ops.relu(self.b2(self.c2(ops.relu(self.b1(self.c1(x))))) + x)

    check(randomise(Block()), rand(2, 32, 7, 6), ["conv2d", "conv2d"])


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "mobilenet_v2"])
def test_models(name):
    fc.manual_seed(0)
    model = fc.models.create_model(name, num_classes=10)
    size = 32 if name == "resnet20" else 64
    for _ in range(3):  # statistics that fit the weights
        model(rand(4, 3, size, size))
    f = check(model.eval(), rand(2, 3, size, size))
    left = set(kinds(f)) & {"batch_norm_infer", "binary", "activation"}
    assert not left, f.describe()
    assert f.info()["prepared_operands"] > 15


@pytest.mark.parametrize(
    ("channels", "size", "window"),
    [(64, 28, 3), (128, 14, 3), (256, 14, 3), (177, 14, 3), (64, 14, 5), (160, 9, 5), (180, 9, 5)],
)
def test_transformed_weights_of_winograd(isa, channels, size, window):
    """Few are kept transformed, many as they are, in the order of their transform; both for any number of threads."""
    model = randomise(nn.Sequential(nn.Conv2d(channels, channels, window, padding=window // 2), nn.ReLU()))
    f, x = inference(model), rand(2, channels, size, size)
    threads = fc.get_num_threads()
    results = []
    try:
        for n in (1, 3, 2, 4):
            fc.set_num_threads(n)
            results.append(f(x).numpy().copy())
    finally:
        fc.set_num_threads(threads)
    step = f._core.steps()[0]
    if step["implementation"] == "winograd":
        assert f.info()["prepared_operands"] == 1
    else:
        assert isa in ("ref", "portable"), step
    assert all(np.array_equal(results[0], r) for r in results)
    np.testing.assert_array_equal(results[0], eager(model, x))
    with fc.no_grad():
        model[0].weight.mul_(2.0)
    np.testing.assert_array_equal(f(x).numpy(), eager(model, x))


def test_a_lowered_isa_makes_a_new_plan():
    model = randomise(nn.Sequential(nn.Conv2d(17, 33, 3, padding=1), nn.ReLU()))
    f, x = inference(model), rand(2, 17, 9, 9)
    before = fc.isa()
    try:
        for isa in fc._core.available_isas():
            fc._core.set_isa(isa)
            np.testing.assert_allclose(f(x).numpy(), eager(model, x), rtol=1e-5, atol=1e-5)
        assert f._core.cache_info()["plans"] == len(fc._core.available_isas())
    finally:
        fc._core.set_isa(before)


def test_every_way_to_change_a_weight_is_seen():
    model = randomise(nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()))
    f, x = inference(model), rand(2, 4, 6, 6)
    traced = f._core.cache_info()["misses"]
    before = f(x).numpy().copy()

    def changed():
        nonlocal before
        got = f(x).numpy().copy()
        np.testing.assert_allclose(got, eager(model, x), rtol=1e-5, atol=1e-5)
        assert np.abs(got - before).max() > 1e-3
        before = got

    conv, bn = model[0], model[1]
    with fc.no_grad():
        conv.weight.mul_(1.5)
    changed()
    bn.running_mean.add_(0.25)
    changed()
    model.load_state_dict({k: v * 0.5 if v.dtype == fc.float32 else v for k, v in model.state_dict().items()})
    changed()
    view = conv.weight.numpy()
    view *= 2
    changed()
    view *= 0.5  # a view that was there before the last call
    changed()
    del view
    np.asarray(bn.weight)[...] += 1  # and one that is gone before the next
    changed()
    np.from_dlpack(conv.weight.detach())[...] *= 1.25
    changed()
    opt = fc.optim.SGD(model.parameters(), lr=0.05)
    model(x).sum().backward()
    opt.step()
    changed()
    assert f._core.cache_info()["misses"] == traced + 1  # all of it without a new trace


def test_weights_over_foreign_memory():
    memory = np.ones((3, 4), np.float32)
    w = fc.from_numpy(memory)
    f = fc.compile(lambda x: ops.linear(x, w))
    x = rand(2, 4)
    f(x)
    memory *= 3
    np.testing.assert_allclose(f(x).numpy(), x.numpy() @ memory.T, rtol=1e-5)


def test_no_fold_where_the_convolution_is_read_twice():
    model = randomise(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)))

    def fn(x):
        with fc.no_grad():
            y = model[0](x)
            return model[1](y), y * 2

    f, x = fc.compile(fn), rand(2, 4, 6, 6)
    for got, want in zip(f(x), fn(x), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-5)
    assert kinds(f).count("batch_norm_infer") == 1


def test_no_fold_where_the_step_writes_the_weights():
    """Frozen statistics, trained weights: the plan reads what it has just written."""
    model = randomise(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten()))
    twin = randomise(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten()))
    x = rand(2, 4, 6, 6)

    def stepper(m):
        opt = fc.optim.SGD(m.parameters(), lr=1e-3)

        def step(x):
            loss = (m(x) ** 2).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        return step

    compiled, plain = fc.compile(stepper(model)), stepper(twin)
    for _ in range(3):
        np.testing.assert_allclose(compiled(x).item(), plain(x).item(), rtol=1e-5)
    assert "batch_norm_infer" in kinds(compiled)
    assert compiled.info()["prepared_operands"] == 0


def test_no_fold_under_an_in_place_change_of_the_weight():
    w, x = rand(8, 4, 3, 3), rand(2, 4, 6, 6)
    bn = randomise(nn.BatchNorm2d(8))

    def fn(x):
        with fc.no_grad():
            y = bn(ops.conv2d(x, w))
            w.mul_(1.5)
            return y

    f = fc.compile(fn)
    want = []
    saved = w.clone()
    for _ in range(3):
        want.append(fn(x).numpy())
    w.copy_(saved)
    for k in range(3):
        np.testing.assert_allclose(f(x).numpy(), want[k], rtol=1e-5, atol=1e-5)
    assert f.info()["prepared_operands"] == 0


def test_double_backward_through_constant_weights():
    w, x = rand(5, 4), rand(3, 4)

    def fn(x):
        x = x * 1
        y = ops.tanh(ops.linear(x, w))
        (g,) = fc.grad(y.sum(), [x], create_graph=True)
        return fc.grad((g * g).sum(), [x])[0]

    x.requires_grad_()
    f = fc.compile(fn)
    np.testing.assert_allclose(f(x).numpy(), fn(x).numpy(), rtol=1e-5, atol=1e-6)
    w.mul_(0.5)
    np.testing.assert_allclose(f(x).numpy(), fn(x).numpy(), rtol=1e-5, atol=1e-6)


def test_constants_are_computed_once_and_stay_out_of_results():
    c = rand(4)

    def fn(x):
        scale = ops.exp(c) * 2 + 1
        return x * scale, scale, ops.ones(3)

    f = fc.compile(fn)
    x = rand(2, 4)
    first = f(x)
    assert f.info()["prepared_nodes"] >= 1
    first[1].zero_()  # results are the caller's own
    first[2].zero_()
    for got, want in zip(f(x), fn(x), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)
    c.add_(1)
    np.testing.assert_allclose(f(x)[0].numpy(), fn(x)[0].numpy(), rtol=1e-6)


def test_flags_are_seen_at_the_next_call():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    f = inference(model)
    x = rand(2, 3, 4, 4)
    f(x)
    misses = f.cache_info()["misses"]
    f(x)
    assert f.cache_info()["misses"] == misses
    model.eval()
    f(x)
    assert f.cache_info()["misses"] == misses + 1
    model[1].training = True
    f(x)
    assert f.cache_info()["misses"] == misses + 2
    model[1].training = False
    f(x)
    assert f.cache_info()["misses"] == misses + 2
    model[0].weight.requires_grad_(False)
    f(x)
    assert f.cache_info()["misses"] == misses + 3


def test_norms_are_not_folded_in_the_narrow_type_of_weights_that_a_cast_widens():
    """A convolution of float32 stays one: folded weights are not rounded to the 16 bits that these came in."""
    x, w = rand(2, 8, 5, 5), rand(16, 8, 3, 3).to("bfloat16")
    gamma, beta, mean, var = rand(16, seed=3), rand(16, seed=4), rand(16, seed=5), abs(rand(16, seed=6)) + 0.5

    def net(x):
        return ops.batch_norm(ops.conv2d(x, w.to("float32")), mean, var, gamma, beta)

    with fc.no_grad():
        want, f = net(x).numpy(), fc.compile(net)
        np.testing.assert_allclose(f(x).numpy(), want, rtol=1e-4, atol=1e-4)
    assert "batch_norm" not in f.describe()
