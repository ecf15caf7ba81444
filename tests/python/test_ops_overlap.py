"""Operands that are other views of the memory that is written: what is read is what was there before."""

import fastcnn as fc
import numpy as np
import pytest

CHAINS = {
    "transposed": lambda y: y + y.transpose(2, 3),
    "first row": lambda y: y - y[:1],
    "one column": lambda y: y / y[:, :, 4:5],
    "one pixel": lambda y: y * y[:, :, :1, :1],
    "backwards": lambda y: y + y[..., ::-1],
    "chosen": lambda y: fc.where(y > 0, y, y.transpose(2, 3)),
    "second operand": lambda y: y.transpose(2, 3) - y,
    "after activation": lambda y: (y.relu() + 1) * y.relu().transpose(2, 3),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_plan_keeps_memory_that_is_read_in_another_order(name):
    x = fc.tensor(np.random.default_rng(0).standard_normal((3, 4, 6, 6)).astype(np.float32), requires_grad=True)

    def fn(x):
        y = CHAINS[name](x * 2)
        return y, *fc.grad((y * y).sum(), x)

    for got, want in zip(fc.compile(fn)(x), fn(x), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-5)


def test_a_session_keeps_it_too(tmp_path):
    def fn(x):
        y = x * 2
        return (y + y.T).relu()

    x = fc.arange(9.0).reshape(3, 3)
    fc.export(fn, str(tmp_path / "net.fcnn"), x, dynamic_batch=False)
    np.testing.assert_array_equal(fc.load(str(tmp_path / "net.fcnn")).predict(x.numpy()), fn(x).numpy())


def subtract_row(t):
    t -= t[0]


def add_transposed(t):
    t += t.T


def scale_by_column(t):
    t *= t[:, :1]


def shift(t):
    t[1:] = t[:-1]


def turn(t):
    t[:] = t[::-1] if isinstance(t, fc.Tensor) else t[::-1].copy()


@pytest.mark.parametrize("update", [subtract_row, add_transposed, scale_by_column, shift, turn])
@pytest.mark.parametrize("size", [3, 70])
def test_updates_read_before_they_write(update, size):
    a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    want = a.copy()
    if update is add_transposed:
        want += want.T.copy()
    else:
        update(want)

    def compiled(t):
        update(t)
        return t + 0

    t = fc.tensor(a)
    update(t)
    np.testing.assert_array_equal(t.numpy(), want)
    t = fc.tensor(a)
    np.testing.assert_array_equal(fc.compile(compiled)(t).numpy(), want)
    np.testing.assert_array_equal(t.numpy(), want)


def test_copies_between_parts_that_do_not_meet_need_no_memory():
    x = fc.arange(6.0)
    x[:3] = x[3:]
    assert x.tolist() == [3, 4, 5, 3, 4, 5]
    x.copy_(x)
    assert x.tolist() == [3, 4, 5, 3, 4, 5]


def test_what_flips_rolls_and_pads_by_nothing_is_a_tensor_of_its_own():
    x = fc.arange(16.0).reshape(1, 4, 2, 2)
    for y in (
        x.flip(0), x.flip(2), fc.flip(x, ()), fc.roll(x, 0, 1), fc.roll(x, 4, 1), fc.ops.pad(x, (0, 0)),
        fc.ops.pad(x, ()), fc.ops.pixel_shuffle(x, 1), fc.ops.pixel_unshuffle(x, 1),
    ):  # fmt: skip
        y *= 10
    assert x.flatten().tolist() == list(range(16))


def test_a_sum_in_place_with_history_is_seen_by_all_who_hold_the_tensor():
    w = fc.ones(2, requires_grad=True)
    h = w * 1
    k = h
    h *= 3
    assert k is h and k.tolist() == [3, 3]

    def add_to(t):
        t += w

    total = fc.zeros(2)
    add_to(total)
    assert total.tolist() == [1, 1] and total.requires_grad
    (total * k).sum().backward()
    assert w.grad.tolist() == [6, 6]
    narrow = fc.ones(2, dtype=fc.bfloat16) * 1
    narrow += w
    assert narrow.dtype == fc.bfloat16 and narrow.tolist() == [2, 2]
    part = fc.zeros(2, 2)[0]
    with pytest.raises(ValueError, match="part of another tensor"):
        part += w


@pytest.mark.parametrize("layer", [
    fc.nn.Conv2d(8, 8, 3, padding=1), fc.nn.Conv2d(8, 8, 1), fc.nn.BatchNorm2d(8), fc.nn.BatchNorm2d(8).eval(),
    fc.nn.Sequential(fc.nn.Conv2d(8, 8, 3, padding=1, groups=8), fc.nn.ReLU(), fc.nn.Conv2d(8, 32, 1),
                     fc.nn.Conv2d(32, 8, 1)),
], ids=["3x3", "1x1", "norm", "norm of a net in use", "depthwise"])  # fmt: skip
def test_what_a_layer_reads_is_not_updated_before(layer, tmp_path):
    @fc.no_grad()
    def own(x):
        s = x * 2
        s += layer(s)
        return s

    @fc.no_grad()
    def others(x):
        s = x * 2
        y = layer(x)
        q = s * 3
        s += y
        return s, q

    x = fc.tensor(np.random.default_rng(0).standard_normal((2, 8, 9, 9)).astype(np.float32))
    np.testing.assert_allclose(fc.compile(own)(x).numpy(), own(x).numpy(), rtol=1e-4, atol=1e-4)
    for got, want in zip(fc.compile(others)(x), others(x), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-4)
    if not layer.training or not isinstance(layer, fc.nn.BatchNorm2d):
        fc.export(own, str(tmp_path / "net.fcnn"), x)
        got = fc.load(str(tmp_path / "net.fcnn")).predict(x.numpy())
        np.testing.assert_allclose(got, own(x).numpy(), rtol=1e-4, atol=1e-4)


def test_arguments_that_share_memory_with_what_the_function_reads():
    t, x = fc.ones(1, 8, 5, 5), fc.tensor(np.random.default_rng(0).standard_normal((1, 8, 5, 5)).astype(np.float32))
    conv = fc.nn.Conv2d(8, 8, 3, padding=1)

    @fc.no_grad()
    def around(a, x):
        y = conv(x)
        a += 1
        return y + t

    @fc.no_grad()
    def twice(a, b, x):
        y = conv(x)
        a += 1
        return (y + b).relu()

    @fc.no_grad()
    def weights(w, x):
        w *= 2
        return conv(x)

    for fn, arguments in ((around, (t,)), (twice, (t, t)), (weights, (conv.weight.detach(),))):
        before = [a.clone() for a in arguments]
        planned = fc.compile(fn)
        for _ in range(2):
            want = fn(*arguments, x)
            for a, old in zip(arguments, before, strict=True):
                a.copy_(old)
            np.testing.assert_allclose(planned(*arguments, x).numpy(), want.numpy(), rtol=1e-4, atol=1e-4)
            for a, old in zip(arguments, before, strict=True):
                a.copy_(old)
        apart = [[a.clone() for a in arguments] for _ in range(2)]  # the same plan serves these
        assert planned.cache_info()["misses"] == 1
        want = fn(*apart[0], x)
        np.testing.assert_allclose(planned(*apart[1], x).numpy(), want.numpy(), rtol=1e-4, atol=1e-4)


def test_one_array_given_out_twice_is_one_memory():
    arr = np.ones(4, np.float32)

    @fc.no_grad()
    def step(x, s):
        y = x * 3
        s.add_(1.0)
        return x * 3 + y

    planned = fc.compile(step)
    t = fc.ones(4)
    for make in (
        lambda: (fc.from_numpy(arr), fc.from_numpy(arr)),
        lambda: (t, fc.from_dlpack(t)),
        lambda: (fc.from_numpy(t.numpy()), t),
    ):
        arr[:] = 1
        t.fill_(1)
        assert planned(*make()).tolist() == [9, 9, 9, 9]
    arr[:] = 1
    assert planned(fc.from_numpy(arr[:3]), fc.from_numpy(arr[1:])).tolist() == [6, 9, 9]
    assert planned(fc.ones(4), fc.ones(4)).tolist() == [6, 6, 6, 6]
    arr[:] = 1
    a, b = fc.from_numpy(arr), fc.from_numpy(arr)

    @fc.no_grad()
    def around(x):
        u = a * 3
        b.add_(x)
        return u + a * 3

    assert fc.compile(around)(fc.ones(4)).tolist() == [9, 9, 9, 9]


def test_a_buffer_is_no_sum_of_a_trace():
    class Net(fc.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = fc.nn.Parameter(fc.ones(3))
            self.register_buffer("b", fc.zeros(3))

        def forward(self, x):
            self.b += self.w * x
            return self.b.sum()

    net = Net()
    with pytest.raises(ValueError, match="cannot change a tensor from outside"):
        fc.compile(net)(fc.ones(3))
    assert net.b.tolist() == [0, 0, 0]


def test_leaves_that_are_given_one_gradient_keep_it_together():
    p, q = fc.ones(2).requires_grad_(), fc.ones(2).requires_grad_()

    def step(x):
        p.grad = None
        (p * x).sum().backward()
        q.grad = p.grad

    fc.compile(step)(fc.ones(2))
    p.grad.add_(1)
    assert q.grad.tolist() == [2, 2]


def test_updates_across_two_tensors_of_one_array_read_before_they_write():
    arr = np.arange(6, dtype=np.float32)
    fc.from_numpy(arr)[1:].copy_(fc.from_numpy(arr)[:-1])
    assert arr.tolist() == [0, 0, 1, 2, 3, 4]
    t = fc.from_numpy(arr)
    t += fc.from_numpy(arr[::-1])
    assert arr.tolist() == [4, 3, 3, 3, 3, 4]
