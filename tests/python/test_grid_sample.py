"""grid_sample against torch: modes, borders, gradients of any order, points at infinity, plans, files, bad input."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn, ops
from nn_check import check_finite_differences, each_isa, use_isa

torch = pytest.importorskip("torch")
sample = torch.nn.functional.grid_sample

MODES = ["bilinear", "nearest", "bicubic"]
PADDINGS = ["zeros", "border", "reflection"]


def operands(n=2, c=3, h=5, w=7, oh=6, ow=4, reach=1.7, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, c, h, w)).astype(dtype)
    return x, rng.uniform(-reach, reach, (n, oh, ow, 2)).astype(dtype)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_equal_torch(mode, padding, align):
    for seed, reach in enumerate((0.9, 1.7, 9.0)):
        x, grid = operands(reach=reach, seed=seed)
        tx, tg = (torch.tensor(a, requires_grad=True) for a in (x, grid))
        want = sample(tx, tg, mode=mode, padding_mode=padding, align_corners=align)
        fx, fg = (fc.tensor(a, requires_grad=True) for a in (x, grid))
        got = ops.grid_sample(fx, fg, mode, padding, align)
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-10, atol=1e-11)
        dy = np.random.default_rng(9).standard_normal(want.shape)
        want.backward(torch.from_numpy(dy))
        got.backward(fc.tensor(dy))
        np.testing.assert_allclose(fx.grad.numpy(), tx.grad.numpy(), rtol=1e-9, atol=1e-10)
        if mode != "nearest":
            np.testing.assert_allclose(fg.grad.numpy(), tg.grad.numpy(), rtol=1e-9, atol=1e-9)


@each_isa
@pytest.mark.parametrize("mode", MODES)
def test_float32_equals_torch_for_any_number_of_channels(mode, isa):
    for seed, c in enumerate((1, 2, 3, 4, 5, 19)):
        for padding in PADDINGS:
            x, grid = operands(c=c, h=9, w=8, oh=13, ow=11, reach=1.3, seed=seed, dtype=np.float32)
            tx, tg = (torch.tensor(a, requires_grad=True) for a in (x, grid))
            want = sample(tx, tg, mode=mode, padding_mode=padding, align_corners=False)
            dy = np.random.default_rng(9).standard_normal(want.shape).astype(np.float32)
            want.backward(torch.from_numpy(dy))
            with use_isa(isa):
                fx, fg = (fc.tensor(a, requires_grad=True) for a in (x, grid))
                got = ops.grid_sample(fx, fg, mode, padding)
                got.backward(fc.tensor(dy))
            np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(fx.grad.numpy(), tx.grad.numpy(), rtol=1e-4, atol=2e-5)
            if mode != "nearest":
                np.testing.assert_allclose(fg.grad.numpy(), tg.grad.numpy(), rtol=1e-4, atol=2e-4)


@each_isa
def test_points_between_two_pixels_go_where_torch_sends_them(isa):
    """Half the size takes the nearest of two pixels that are equally far, everywhere."""
    for n in (6, 10, 22, 48, 224):
        x = np.arange(n * n, dtype=np.float32).reshape(1, 1, n, n)
        at = (np.arange(n // 2, dtype=np.float32) * 2 + 1) / np.float32(n // 2) - 1
        grid = np.stack(np.meshgrid(at, at), -1)[None].astype(np.float32)
        want = sample(torch.from_numpy(x), torch.from_numpy(grid), mode="nearest", align_corners=False).numpy()
        with use_isa(isa):
            np.testing.assert_array_equal(ops.grid_sample(fc.tensor(x), fc.tensor(grid), "nearest").numpy(), want)


def test_only_the_gradients_asked_for():
    x, grid = map(fc.tensor, operands())
    for which in ((True, False), (False, True), (True, True)):
        leaves = [t.detach().requires_grad_(w) for t, w in zip((x, grid), which, strict=True)]
        ops.grid_sample(*leaves).sum().backward()
        assert [t.grad is not None for t in leaves] == list(which)
    both = [t.detach().requires_grad_() for t in (x, grid)]
    y = ops.grid_sample(*both, "nearest")
    y.sum().backward()
    assert both[0].grad is not None and both[1].grad is None  # steps have no slope
    assert not ops.grid_sample(x, grid.detach().requires_grad_(), "nearest").requires_grad


def gradients(x, grid, dy, *options, wanted=(0, 1)):
    """Both gradients as one vector that can be differentiated again."""
    leaves = [t if t.requires_grad else t.detach().requires_grad_() for t in (x, grid)]
    made = fc.grad([ops.grid_sample(*leaves, *options)], [leaves[i] for i in wanted], [dy], create_graph=True)
    return fc.cat([(g * g).reshape(-1) for g in made])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_derivatives_of_higher_order_by_finite_differences(mode, padding):
    x, grid = operands(n=1, c=2, h=4, w=4, oh=3, ow=2, reach=0.7, seed=4)
    dy = np.random.default_rng(5).standard_normal((1, 2, 3, 2))
    for align in (False, True):
        options = (mode, padding, align)
        check_finite_differences(lambda x, g: ops.grid_sample(x, g, *options), [x, grid])
        for wanted in ((1,), (0, 1)):
            check_finite_differences(lambda x, g, d: gradients(x, g, d, *options, wanted=wanted), [x, grid, dy])
        image = fc.tensor(x)  # its gradient does not depend on it
        check_finite_differences(lambda g, d: gradients(image, g, d, *options, wanted=(0,)), [grid, dy])

    def third(x, g, d):
        leaves = [t if t.requires_grad else t.detach().requires_grad_() for t in (x, g, d)]
        made = fc.grad([gradients(*leaves, mode, padding).sum()], leaves, create_graph=True)
        return fc.cat([(m * m).reshape(-1) for m in made])

    check_finite_differences(third, [x, grid, dy], tolerance=1e-5)


def test_gradients_of_the_nearest_pixel_are_differentiated_again():
    x, grid = operands(n=1, c=2, oh=3, ow=3, reach=1.2)
    dy = np.random.default_rng(5).standard_normal((1, 2, 3, 3))
    g = fc.tensor(grid)
    check_finite_differences(lambda d: gradients(fc.tensor(x), g, d, "nearest", wanted=(0,)), [dy])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_narrower_images(dtype, tolerance):
    x, grid = operands(dtype=np.float32)
    got = ops.grid_sample(fc.tensor(x).to(getattr(fc, dtype)), fc.tensor(grid))
    assert got.dtype == getattr(fc, dtype)
    want = sample(torch.from_numpy(x), torch.from_numpy(grid), align_corners=False).numpy()
    np.testing.assert_allclose(got.to(fc.float32).numpy(), want, rtol=tolerance, atol=tolerance)


def test_compiled_equals_eager_and_one_pixel_images():
    x, grid = operands(dtype=np.float32)
    tensors = [*map(fc.tensor, (x, grid))]

    def f(x, grid):
        return ops.grid_sample(x, grid, "bicubic", "reflection")

    compiled = fc.compile(f)
    for _ in range(2):
        np.testing.assert_array_equal(compiled(*tensors).numpy(), f(*tensors).numpy())
    one = operands(h=1, w=1)
    for padding in PADDINGS:
        for align in (False, True):
            want = sample(*map(torch.from_numpy, one), padding_mode=padding, align_corners=align).numpy()
            got = ops.grid_sample(*map(fc.tensor, one), "bilinear", padding, align).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_points_nowhere_do_no_harm(mode, padding):
    x = fc.tensor(np.ones((1, 2, 4, 4), np.float32))

    def at(points):
        grid = np.zeros((1, len(points), 2, 2), np.float32)
        grid[0, :, 0, 0] = grid[0, :, 1, 1] = points  # one coordinate of each point is that, the other 0
        return ops.grid_sample(x, fc.tensor(grid), mode, padding).numpy()[0]

    far, nowhere = at([1e30, -1e30, 3e9]), at([np.nan, np.inf, -np.inf])
    outside = 0 if padding == "zeros" else 1
    np.testing.assert_allclose(far, outside, rtol=1e-6)
    if padding == "zeros":
        assert (nowhere == 0).all()
    np.testing.assert_allclose(at([0.0]), 1, rtol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_gradients_at_points_nowhere_are_numbers(mode, padding):
    for dtype in (np.float32, np.float64):
        x, grid = operands(dtype=dtype)
        grid.reshape(-1)[::5] = np.resize([np.nan, np.inf, -np.inf, 1e30, -1e30], grid.reshape(-1)[::5].shape)
        fx, fg = (fc.tensor(a, requires_grad=True) for a in (x, grid))
        y = ops.grid_sample(fx, fg, mode, padding)
        y.sum().backward()
        for t in (y, fx.grad, fg.grad):
            assert t is None or np.isfinite(t.detach().numpy()).all()


def test_pixels_outside_are_not_read():
    x, grid = np.full((1, 3, 3, 3), np.nan, np.float32), np.full((1, 1, 4, 2), 3, np.float32)
    fx, fg = (fc.tensor(a, requires_grad=True) for a in (x, grid))
    for mode in MODES:
        y = ops.grid_sample(fx, fg, mode)
        assert (y.detach().numpy() == 0).all()
        y.sum().backward()
        assert (fx.grad.numpy() == 0).all() and (fg.grad is None or (fg.grad.numpy() == 0).all())


def test_views_of_images_and_points():
    rng = np.random.default_rng(1)
    x, grid = rng.standard_normal((5, 2, 7, 3)), rng.uniform(-1, 1, (2, 2, 9, 4))
    dy = rng.standard_normal((2, 5, 4, 3))

    def image_and_points(a, b):  # NHWC-like images of other order, every third point of a transposed grid
        return a.permute(1, 0, 3, 2), b.permute(1, 3, 2, 0)[:, :, ::3]

    fx, fg = (fc.tensor(a, requires_grad=True) for a in (x, grid))
    tx, tg = (torch.tensor(a, requires_grad=True) for a in (x, grid))
    got, want = ops.grid_sample(*image_and_points(fx, fg)), sample(*image_and_points(tx, tg), align_corners=False)
    got.backward(fc.tensor(dy)), want.backward(torch.from_numpy(dy))
    for a, b in ((got, want), (fx.grad, tx.grad), (fg.grad, tg.grad)):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-10)
    one = fc.tensor(grid[:1, :1, :, :2].copy().transpose(0, 2, 1, 3).copy())  # one grid for all images
    many = one.expand(2, 9, 1, 2)
    np.testing.assert_array_equal(
        ops.grid_sample(image_and_points(fx, fg)[0], many).detach().numpy(),
        ops.grid_sample(image_and_points(fx, fg)[0], many.contiguous()).detach().numpy(),
    )


@pytest.mark.parametrize(
    "shape, points", [((0, 3, 4, 5), (0, 2, 2)), ((2, 0, 4, 5), (2, 2, 2)), ((2, 3, 4, 5), (2, 0, 7))]
)
def test_nothing_to_sample(shape, points):
    for mode in MODES:
        x, grid = (fc.zeros(*s, requires_grad=True) for s in (shape, (*points, 2)))
        y = ops.grid_sample(x, grid, mode)
        assert y.shape == (shape[0], shape[1], *points[1:])
        y.sum().backward()
        assert (x.grad.numpy() == 0).all() and (grid.grad is None or (grid.grad.numpy() == 0).all())


class Transformer(nn.Module):
    """Samples an image at points that a small net moves (Jaderberg et al. 2015)."""

    def __init__(self, mode="bilinear", padding="border"):
        super().__init__()
        self.moves = nn.Linear(3, 2 * 5 * 6)
        self.last = nn.Linear(3, 4)
        self.options = mode, padding

    def forward(self, x):
        grid = ops.tanh(self.moves(x.mean((2, 3)))).reshape(-1, 5, 6, 2)
        return self.last(ops.grid_sample(x, grid, *self.options).mean((2, 3)))


def training(net):
    optimizer = fc.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(x, y):
        loss = ops.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_files_predict_and_train_what_compiled_and_eager_do(mode, tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((4, 3, 9, 7)).astype(np.float32), rng.integers(0, 4, 4)

    def start():
        fc.manual_seed(3)
        return Transformer(mode, "reflection" if mode == "bicubic" else "border")

    fc.export(start(), tmp_path / "net.fcnn", x)
    np.testing.assert_array_equal(
        fc.load(tmp_path / "net.fcnn").predict(x[:3]), start()(fc.tensor(x[:3])).detach().numpy()
    )
    eager, compiled, written = training(start()), fc.compile(training(start())), start()
    fc.export(training(written), tmp_path / "train.fcnn", (x, y), predict=written)
    session = fc.load(tmp_path / "train.fcnn")
    for _ in range(3):
        want = float(eager(fc.tensor(x), fc.tensor(y)))
        assert float(compiled(fc.tensor(x), fc.tensor(y))) == pytest.approx(want, rel=1e-6)
        assert float(session.step(x, y)) == pytest.approx(want, rel=1e-6)


def test_changed_files_are_refused(tmp_path):
    from test_session_files import build, parts, refused

    net, x = Transformer(), np.zeros((2, 3, 9, 7), np.float32)
    fc.export(training(net), tmp_path / "train.fcnn", (x, np.array([0, 1])), predict=net)
    data = (tmp_path / "train.fcnn").read_bytes()
    for op, changes in {
        "grid_sample": [{"H": 10}, {"H": 0}, {"oH": 6}, {"oH": 1 << 31, "oW": 1 << 31}, {"mode": "nearest_exact"},
                        {"align_corners": 2}, {"padding": "mirror"}, {"C": 4}],
        "grid_sample_bwd": [{"has_dgrid": 0}, {"has_dx": 1}, {"W": 8}, {"oW": 30, "oH": 2}],
    }.items():  # fmt: skip
        for change in changes:
            header, graph, body = parts(data)
            next(n for n in graph["graphs"]["step"]["nodes"] if n["op"] == op)["params"].update(change)
            refused(build(header, graph, body))


BAD = [
    (lambda x, g: ops.grid_sample(x, g[:1]), ValueError, r"grid_sample: expected grid of shape \(2, h, w, 2\)"),
    (lambda x, g: ops.grid_sample(x[0], g), ValueError, "expected x of shape"),
    (lambda x, g: ops.grid_sample(x, g, "cubic"), ValueError, "mode bilinear, nearest or bicubic, got 'cubic'"),
    (lambda x, g: ops.grid_sample(x, g, "nearest", "edge"), ValueError, "padding_mode zeros, border or reflection"),
    (lambda x, g: ops.grid_sample(x.to(fc.int64), g), TypeError, "expected x of a floating dtype"),
    (lambda x, g: ops.grid_sample(x[:, :, :0], g), ValueError, "at least 1x1"),
    (lambda x, g: ops.grid_sample(x, g[:, :, :, :1]), ValueError, r"expected grid of shape \(2, h, w, 2\)"),
    (lambda x, g: ops.grid_sample(x, g.to(fc.int32)), TypeError, "expected grid of a floating dtype"),
    (lambda x, g: ops.grid_sample(x, g[:, :1, :1].expand(2, 1 << 24, 1 << 24, 2)), MemoryError, "bytes"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(*map(fc.tensor, operands()))
