"""spectral_norm and weight_norm: PyTorch's numbers and gradients, plans equal to eager, copies, removal, bad input."""

import copy
import pickle

import numpy as np
import pytest
from fastcnn import _core, nn, optim
from fastcnn._compile import compile as compile_function
from fastcnn._core import ops
from fastcnn.nn import utils

torch = pytest.importorskip("torch")


def layer_of(kind, lib):
    if kind == "conv":
        return lib.Conv2d(3, 6, 3, padding=1)
    return lib.ConvTranspose2d(3, 6, 4, 2, 1) if kind == "transposed" else lib.Linear(5, 4)


def input_of(kind):
    return np.random.default_rng(0).standard_normal((2, 5) if kind == "linear" else (2, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm"])
@pytest.mark.parametrize("kind", ["conv", "transposed", "linear"])
def test_values_gradients_and_state_are_torchs(kind, norm):
    torch.manual_seed(0)
    theirs = getattr(torch.nn.utils, norm)(layer_of(kind, torch.nn))
    mine = getattr(utils, norm)(layer_of(kind, nn))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict({k: v.clone() for k, v in theirs.state_dict().items()})
    x = input_of(kind)
    for _ in range(3):
        theirs.zero_grad()
        mine.zero_grad()
        want, got = theirs(torch.tensor(x)), mine(_core.tensor(x))
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), atol=1e-5)
        (want**2).sum().backward()
        (got * got).sum().backward()
        grads = dict(theirs.named_parameters())
        for name, p in mine.named_parameters():
            np.testing.assert_allclose(p.grad.numpy(), grads[name].grad.numpy(), atol=2e-4, err_msg=name)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name].numpy(), value.numpy(), atol=1e-5, err_msg=name)
    theirs.eval(), mine.eval()
    before = {k: np.array(v.numpy()) for k, v in mine.state_dict().items()}
    np.testing.assert_allclose(
        mine(_core.tensor(x)).detach().numpy(), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5
    )
    for name, value in mine.state_dict().items():
        assert np.array_equal(value.numpy(), before[name]), "evaluation moves nothing"


def test_the_largest_singular_value_becomes_one():
    layer = utils.spectral_norm(nn.Conv2d(4, 8, 3))
    with _no_grad():
        for _ in range(50):
            layer(ops.ones((1, 4, 5, 5)))
    values = np.linalg.svd(layer.weight.detach().numpy().reshape(8, -1), compute_uv=False)
    assert values[0] == pytest.approx(1, abs=1e-4) and values[1] < 1


class _no_grad:
    def __enter__(self):
        self.was = _core.set_grad_enabled(False)

    def __exit__(self, *exc):
        _core.set_grad_enabled(self.was)


def _net(norm):
    _core.ops.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(32, 1)
    )
    for m in net:
        if hasattr(m, "weight"):
            norm(m)
    return net


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm"])
def test_layers_of_other_dtypes_stay_what_they_are(norm, dtype):
    mine = getattr(utils, norm)(nn.Linear(3, 4).to(dtype))
    assert {str(t.dtype).split(".")[-1] for t in mine.state_dict().values()} == {dtype}
    mine(ops.ones((2, 3), dtype=dtype)).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in mine.parameters())


def test_weight_norm_of_a_vector_has_a_length_for_each_value():
    theirs = torch.nn.utils.weight_norm(torch.nn.BatchNorm2d(3).eval())
    mine = utils.weight_norm(nn.BatchNorm2d(3).eval())
    values = np.array([1.0, -2.0, 3.0], np.float32)
    for m, tensor in ((theirs, torch.tensor), (mine, _core.tensor)):
        m.load_state_dict({**m.state_dict(), "weight_v": tensor(values), "weight_g": tensor(np.abs(values))})
        m(tensor(np.ones((2, 3, 1, 1), np.float32))).sum().backward()
    for name in ("weight_g", "weight_v"):
        np.testing.assert_allclose(getattr(mine, name).grad.numpy(), getattr(theirs, name).grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("norm", [utils.spectral_norm, utils.weight_norm])
def test_compiled_steps_with_two_forwards_and_a_penalty_equal_eager(norm):
    """The state of the first forward must reach its gradient, though the second moves it on."""
    x, y = (np.random.default_rng(i).standard_normal((4, 3, 8, 8)).astype(np.float32) for i in (1, 2))
    nets = [_net(norm), _net(norm)]
    results = []
    for net, wrap in zip(nets, (lambda f: f, compile_function)):
        optimizer = optim.SGD(net.parameters(), lr=0.05)

        def step(a, b):
            a = a.detach()
            a.requires_grad_()
            score = net(a)
            (g,) = _core.grad([score], [a], [ops.ones(score.shape)], create_graph=True)
            loss = (net(b) - score).mean() + (g * g).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        step = wrap(step)
        results.append([step(_core.tensor(x), _core.tensor(y)).item() for _ in range(4)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values()):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_of_the_same_kind_and_their_own(copied):
    layer = utils.spectral_norm(nn.Conv2d(2, 4, 3))
    twin = copied(layer)
    assert isinstance(twin, nn.Conv2d) and list(twin.state_dict()) == list(layer.state_dict())
    twin(ops.ones((1, 2, 4, 4)))
    before = np.array(twin.weight_u.numpy())
    layer(ops.ones((1, 2, 4, 4)))
    assert np.array_equal(twin.weight_u.numpy(), before) and "spectral_norm" in repr(twin)


def test_removal_keeps_the_weight():
    for put, remove in (
        (utils.spectral_norm, utils.remove_spectral_norm),
        (utils.weight_norm, utils.remove_weight_norm),
    ):
        layer = put(nn.Linear(4, 3))
        weight = np.array(layer.weight.detach().numpy())
        remove(layer)
        assert type(layer) is nn.Linear and sorted(layer.state_dict()) == ["bias", "weight"]
        assert np.array_equal(layer.weight.detach().numpy(), weight)
        with pytest.raises(ValueError, match="has no 'weight' of that kind"):
            remove(layer)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="ReLU has no parameter 'weight'"):
        utils.spectral_norm(nn.ReLU())
    with pytest.raises(ValueError, match="computed already"):
        utils.weight_norm(utils.spectral_norm(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="expected a Module, got str"):
        utils.spectral_norm("conv")
    with pytest.raises(ValueError, match=r"expected dim of a weight of shape \(2, 2\), got 2"):
        utils.weight_norm(nn.Linear(2, 2), dim=2)
    with pytest.raises(ValueError, match="n_power_iterations >= 0"):
        utils.spectral_norm(nn.Linear(2, 2), n_power_iterations=-1)
