"""Capsules against torch (einsum), the loss by hand, CapsNet's size, its training on real digits and its pictures."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import models, nn
from fastcnn.nn.capsule import squash
from nn_check import array, assert_close, randn, tensor, torch
from zoo_check import count


def torch_squash(s):
    squared = (s * s).sum(-1, keepdim=True)
    return squared / (1 + squared) * s / (squared + 1e-8).sqrt()


def torch_routing(u, weight, iterations):
    """Procedure 1 of the paper, term by term."""
    votes = torch.einsum("ijdk,nik->nijd", weight, u)
    logits = torch.zeros(votes.shape[:3], dtype=u.dtype)
    for r in range(iterations):
        v = torch_squash(torch.einsum("nij,nijd->njd", logits.softmax(2), votes))
        if r < iterations - 1:
            logits = logits + torch.einsum("nijd,njd->nij", votes, v)
    return v


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_routing_equals_the_procedure_of_the_paper(iterations, compiled):
    layer = nn.RoutingCaps(7, 3, 4, 5, iterations)
    weight, u, dv = randn((7, 4, 5, 3)).astype(np.float32), randn((2, 7, 3), 1), randn((2, 4, 5), 2)
    layer.load_state_dict({"weight": weight})

    def step(u, dv):
        v = layer(u)
        return [v, *fc.grad((v * dv).sum(), [u, layer.weight])]

    got = (fc.compile(step) if compiled else step)(tensor(u, "float32", True), tensor(dv, "float32"))
    tu, tw = (torch.tensor(a.astype(float), requires_grad=True) for a in (u, weight))
    tv = torch_routing(tu, tw, iterations)
    want = [tv, *torch.autograd.grad((tv * torch.tensor(dv)).sum(), [tu, tw])]
    for g, w, what in zip(got, want, ("capsules", "gradient of u", "gradient of weight"), strict=True):
        assert_close(array(g), w.detach().numpy(), 3e-5, what)


def test_gradients_of_gradients_of_routing_equal_torch():
    u, w = randn((2, 4, 3)), randn((4, 2, 5, 3), 1)

    def penalty(u, w, routing, grad):
        (g,) = grad((routing(u, w, 3) ** 2).sum(), [u], create_graph=True)
        return grad((g * g).sum(), [u, w])

    got = penalty(tensor(u, "float64", True), tensor(w, "float64", True), fc.ops.capsule_routing, fc.grad)
    tu, tw = (torch.tensor(a, requires_grad=True) for a in (u, w))
    want = penalty(tu, tw, lambda u, w, r: torch_routing(u, w, r), torch.autograd.grad)
    for g, t in zip(got, want, strict=True):
        assert_close(array(g), t.numpy(), 1e-9, "second order")


def test_routing_under_autocast_and_of_no_samples():
    layer = nn.RoutingCaps(6, 4, 3, 5)
    u = randn((2, 6, 4))
    with fc.autocast(dtype=fc.bfloat16):
        half = layer(tensor(u, "bfloat16"))
    assert half.dtype == fc.bfloat16
    assert_close(array(half.to(fc.float32)), array(layer(tensor(u, "float32"))), 2e-2, "bfloat16")
    assert layer(tensor(np.zeros((0, 6, 4)), "float32")).shape == (0, 3, 5)


@pytest.mark.parametrize(
    ("shapes", "iterations", "message"),
    [
        (((2, 6, 4), (6, 3, 5)), 3, r"capsule_routing: expected weight of shape \(inputs"),
        (((2, 6, 4), (6, 3, 5, 3)), 3, r"capsule_routing: expected u of shape \(N, 6, 3\).*\(2, 6, 4\)"),
        (((2, 6, 4), (6, 3, 5, 4)), 0, r"capsule_routing: expected iterations in \[1, 100\], got 0"),
    ],
)
def test_routing_refuses(shapes, iterations, message):
    u, w = (fc.ops.ones(s) for s in shapes)
    with pytest.raises(ValueError, match=message):
        fc.ops.capsule_routing(u, w, iterations)


def test_primary_capsules_equal_torch():
    layer = nn.PrimaryCaps(3, capsules=2, dim=4, kernel_size=3, stride=2)
    a = randn((2, 3, 7, 9))
    w, b = (torch.tensor(array(p)) for p in (layer.conv.weight, layer.conv.bias))
    y = torch.nn.functional.conv2d(torch.tensor(a), w, b, stride=2)
    want = torch_squash(y.reshape(2, 2, 4, 3, 4).permute(0, 3, 4, 1, 2).reshape(2, -1, 4))
    assert_close(array(layer(tensor(a, "float32"))), want.numpy(), 3e-5, "capsules")


def test_squash_keeps_direction_and_has_a_gradient_at_zero():
    s = tensor([[3.0, 4.0], [0.0, 0.0]], "float64", True)
    v = squash(s)
    np.testing.assert_allclose(array(v), [[0.6 * 25 / 26, 0.8 * 25 / 26], [0, 0]], rtol=1e-8)
    (g,) = fc.grad(v.sum(), [s])
    assert np.isfinite(array(g)).all()


def test_margin_loss_by_hand():
    lengths = tensor([[0.95, 0.3, 0.05], [0.2, 0.5, 0.6]], "float64", True)
    want = (0.5 * 0.2**2 + (0.9 - 0.5) ** 2 + 0.5 * (0.1**2 + 0.5**2)) / 2
    loss = nn.MarginLoss()(lengths, fc.tensor(np.array([0, 1])))
    assert loss.item() == pytest.approx(want)
    assert nn.MarginLoss()(lengths, tensor([[1, 0, 0], [0, 1, 0]])).item() == pytest.approx(want)
    both = nn.MarginLoss()(lengths, tensor([[1, 0, 0], [0, 1, 1]])).item()  # two classes in one image
    assert both == pytest.approx((0.5 * 0.2**2 + 0.4**2 + 0.3**2 + 0.5 * 0.1**2) / 2)
    with pytest.raises(ValueError, match=r"margin_loss: expected lengths \(N, C\).*\(3"):
        nn.MarginLoss()(lengths, fc.tensor(np.array([0, 1, 2])))


def test_size_of_capsnet_is_the_papers():
    net = models.create_model("capsnet", 10, 1)
    assert count(net) == 8_215_568 and net.routing.in_capsules == 1152  # 8.2 million
    assert count(models.capsnet(decoder=())) == 6_804_224  # 6.8 million without reconstruction
    with pytest.raises(ValueError, match="image_size >= 2"):
        models.capsnet(image_size=16)
    with pytest.raises(ValueError, match="CapsNet: expected images of 28x28, got 32x32"):
        net(fc.ops.ones((1, 1, 32, 32)))
    with pytest.raises(ValueError, match=r"RoutingCaps: expected capsules \(N, 1152, 8\)"):
        net.routing(fc.ops.ones((1, 7, 8)))
    with pytest.raises(ValueError, match="without a decoder"):
        models.capsnet(decoder=()).reconstruct(fc.ops.ones((1, 10, 16)))


def test_capsnet_takes_no_images():
    net = models.create_model("capsnet", 3, 1, channels=8, primary=2, decoder=(8,))
    x, ids = fc.zeros((0, 1, 28, 28)), fc.zeros((0,), dtype="int64")
    loss, lengths = net.loss(x, ids)
    assert loss.shape == () and lengths.shape == net(x).shape == (0, 3)
    assert net.reconstruct(net.capsules(x)).shape == net.reconstruct(net.capsules(x), ids).shape == (0, 1, 28, 28)


@pytest.fixture
def one_thread():
    """Tiny operands: threads would only wait for each other."""
    before = fc.get_num_threads()
    fc.set_num_threads(1)
    yield
    fc.set_num_threads(before)


def test_capsnet_learns_real_digits_and_draws_them(one_thread):
    """scikit-learn's 8x8 digits: a small CapsNet names unseen ones, and its pictures are nearer than the mean image."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.target))
    x, y = (digits.images / 16).astype(np.float32)[order, None], digits.target.astype(np.int64)[order]
    train, test = slice(0, 1280), slice(1280, None)
    fc.manual_seed(0)
    net = models.capsnet(
        10, 1, image_size=8, channels=32, kernel_size=3, primary=8, primary_dim=8, dim=8, decoder=(64,)
    )
    opt = fc.optim.Adam(net.parameters(), lr=3e-3)

    @fc.compile
    def step(x, y):
        loss, _ = net.loss(x, y, reconstruction=0.02)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    for _ in range(12):
        for batch in rng.permutation(1280).reshape(-1, 64):
            step(fc.tensor(x[train][batch]), fc.tensor(y[train][batch]))
    net.eval()
    with fc.no_grad():
        capsules = net.capsules(fc.tensor(x[test]))
        lengths = net(fc.tensor(x[test])).numpy()
        drawn = net.reconstruct(capsules).numpy()
    assert (lengths.argmax(1) == y[test]).mean() >= 0.93
    error, mean_error = ((drawn - x[test]) ** 2).mean(), ((x[train].mean(0) - x[test]) ** 2).mean()
    assert error < 0.8 * mean_error
