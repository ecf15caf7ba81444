"""device="cuda": training and plans against the CPU and against eager, on a GPU or on a build with FASTCNN_CUDA=HOST:
losses and weights, what a plan joins and fuses, statistics of norms, mixed precision. What it is not: single ops
(test_cuda.py)."""

import re

import fastcnn as fc
import numpy as np
import pytest
from fastcnn.bench import nets

device = pytest.mark.skipif(not fc.cuda.is_available(), reason=f"no CUDA device: {fc.cuda.unavailable_reason()}")


def training_step(model, optimizer, compiled, dtype=None):
    """A training step of x and classes, in autocast where a dtype is given."""

    def step(x, y):
        with fc.autocast(dtype, enabled=dtype is not None):
            loss = fc.ops.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return fc.compile(step) if compiled else step


@device
def test_16_mixed_trains_on_the_device_as_on_the_cpu_and_leaves_bad_steps_out():
    def run(where):
        model = net().to(where)
        optimizer = fc.optim.AdamW(model.parameters(), lr=1e-3)
        scaler = fc.GradScaler(where, init_scale=2.0**40)  # too large at first
        rng = np.random.default_rng(0)
        x = fc.tensor(rng.standard_normal((6, 3, 12, 12)).astype("float32"), device=where)
        y = fc.tensor(rng.integers(0, 5, 6), device=where)

        def step(x, y):
            with fc.autocast(dtype=fc.float16):
                loss = fc.ops.cross_entropy(model(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        run = fc.compile(step)
        return [run(x, y).item() for _ in range(4)], scaler.get_scale()

    (got, scale), (want, other) = run("cuda"), run("cpu")
    np.testing.assert_allclose(got, want, rtol=2e-2)
    assert scale == other < 2.0**40


@device
def test_optimizer_steps_of_a_plan_are_one_launch():
    model = net().to("cuda")
    optimizer = fc.optim.AdamW(model.parameters(), lr=1e-3)

    def step(x):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    run = fc.compile(step)
    run(fc.zeros((2, 3, 12, 12), device="cuda"))
    steps = len(list(model.parameters())) + 2 + 2  # counters and running statistics of the norms are a launch each
    assert f"{steps} steps share kernels" in run.describe(), run.describe()


def recorded(run):
    kernels, joined = re.search(r"recorded: (\d+) kernels.*; (\d+) steps share kernels", run.describe()).groups()
    return int(kernels), int(joined)


def deep(blocks, **norm):
    fc.manual_seed(3)
    n = fc.nn
    layers = [
        [n.Conv2d(8 if i else 3, 8, 3, padding=1, bias=False), n.BatchNorm2d(8, **norm), n.ReLU()]
        for i in range(blocks)
    ]
    return n.Sequential(*sum(layers, []), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(8, 5))


def state(model):
    return {k: v.cpu().numpy() for k, v in model.state_dict().items()}


@device
@pytest.mark.parametrize("norm", [{}, {"momentum": None}])
@pytest.mark.parametrize("dtype", [fc.bfloat16, fc.float16])
def test_casts_counters_and_running_statistics_of_a_plan_are_one_launch_each(norm, dtype):
    def train(compiled, blocks=4):
        model = deep(blocks, **norm).to("cuda")
        optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        rng = np.random.default_rng(0)
        x = fc.tensor(rng.standard_normal((4, 3, 8, 8)).astype("float32"), device="cuda")
        y = fc.tensor(rng.integers(0, 5, 4), device="cuda")
        run = training_step(model, optimizer, compiled, dtype)
        return [run(x, y).item() for _ in range(3)], state(model), run

    (got, after, run), (want, expect, _) = train(True), train(False)
    assert got == pytest.approx(want, rel=1e-2)
    for k in after:
        tolerance = 0 if "tracked" in k else 2e-2
        np.testing.assert_allclose(after[k], expect[k], rtol=tolerance, atol=tolerance, err_msg=k)
        assert "tracked" not in k or after[k] == 3
    # A block more is a convolution, a norm and an activation with their gradients, none of those small launches.
    few, more = recorded(run), recorded(train(True, 5)[2])
    assert more[1] - few[1] == 3 + 1 + 1 + 1, run.describe()  # of the optimizer, cast, counter, statistics
    kinds = [line.split()[1] for line in run.describe().splitlines() if " [" in line]
    updates = [i for i, k in enumerate(kinds) if k == "bn_update_running"]
    assert updates == list(range(updates[0], updates[0] + 4)), run.describe()


@device
def test_casts_stay_behind_changes_of_what_they_cast():
    w, v = (fc.tensor(np.arange(1, 9, dtype="float32") * k, device="cuda") for k in (1, 3))

    def step(x):
        a = w.to(fc.bfloat16) * x
        w.mul_(2)
        b = w.to(fc.bfloat16) * x
        c = v.to(fc.bfloat16) * x
        v.mul_(0.5)
        w.add_(v)
        return a, b, c, w.to(fc.bfloat16), v.to(fc.bfloat16)

    x = fc.tensor(np.ones(8, "float32"), device="cuda").to(fc.bfloat16)
    run, before = fc.compile(step), (w.cpu().numpy(), v.cpu().numpy())
    got = [[t.float().cpu().numpy() for t in run(x)] for _ in range(2)]
    with fc.no_grad():
        w.copy_(fc.tensor(before[0], device="cuda"))
        v.copy_(fc.tensor(before[1], device="cuda"))
    want = [[t.float().cpu().numpy() for t in step(x)] for _ in range(2)]
    np.testing.assert_array_equal(got, want)


@device
def test_running_statistics_are_read_and_updated_in_the_order_of_the_step():
    def train(compiled):
        model = deep(3).to("cuda")
        shadow = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
        rng = np.random.default_rng(0)
        x, z = (fc.tensor(rng.standard_normal((4, 3, 8, 8)).astype("float32"), device="cuda") for _ in range(2))

        @fc.no_grad()
        def step(x, z):
            model.train()
            model(x)
            model.eval()
            a = model(z)  # with statistics of x
            for k, v in model.state_dict().items():
                if k in shadow:
                    shadow[k].mul_(0.5).add_(v * 0.5)
            model.train()
            model(z)
            model(x)
            model.eval()
            return a, model(z)

        run = fc.compile(step) if compiled else step
        out = [t.cpu().numpy() for _ in range(2) for t in run(x, z)]
        return out, {**state(model), **{"shadow." + k: v.cpu().numpy() for k, v in shadow.items()}}

    (got, after), (want, expect) = train(True), train(False)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for k in after:
        np.testing.assert_allclose(after[k], expect[k], rtol=1e-5, atol=1e-6, err_msg=k)


def net():
    fc.manual_seed(3)
    n = fc.nn
    return n.Sequential(
        n.Conv2d(3, 8, 3, padding=1, bias=False), n.BatchNorm2d(8), n.ReLU(), n.MaxPool2d(2),
        n.Conv2d(8, 8, 3, padding=1, groups=8), n.BatchNorm2d(8), n.SiLU(), n.Conv2d(8, 12, 1, stride=2), n.ReLU(),
        n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(12, 5),
    )  # fmt: skip


def losses(where, compiled, make_optimizer, steps=4):
    model = net().to(where)
    optimizer = make_optimizer(model.parameters())
    rng = np.random.default_rng(0)
    x = fc.tensor(rng.standard_normal((6, 3, 12, 12)).astype("float32"), device=where)
    y = fc.tensor(rng.integers(0, 5, 6), device=where)
    run = training_step(model, optimizer, compiled)
    out = [run(x, y).item() for _ in range(steps)]
    return out, [p.cpu().detach().numpy().copy() for p in model.parameters()]


@device
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "RMSprop"])
def test_training_gives_the_losses_and_weights_of_the_cpu(compiled, optimizer):
    make = {
        "SGD": lambda p: fc.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-4),
        "AdamW": lambda p: fc.optim.AdamW(p, lr=1e-3),
        "RMSprop": lambda p: fc.optim.RMSprop(p, lr=1e-3),
    }[optimizer]
    want, weights = losses("cpu", False, make)
    got, moved = losses("cuda", compiled, make)
    np.testing.assert_allclose(got, want, rtol=2e-4)
    for a, b in zip(weights, moved, strict=True):
        # Adam's first steps divide by tiny second moments: rounding becomes a fraction of lr
        np.testing.assert_allclose(b, a, atol=1e-4 if optimizer == "SGD" else 4e-3)


@device
def test_a_recorded_step_equals_eager_bit_for_bit():
    make = lambda p: fc.optim.SGD(p, lr=0.05, momentum=0.9)  # noqa: E731
    assert losses("cuda", True, make)[0] == losses("cuda", False, make)[0]


@device
def test_plans_fuse_what_surrounds_a_convolution():
    model = net().to("cuda")
    x = fc.tensor(np.random.default_rng(1).standard_normal((4, 3, 12, 12)).astype("float32"), device="cuda")
    step = fc.compile(lambda x: model.train()(x).sum().backward())
    step(x)
    ops = [line.split()[1] for line in step.describe().splitlines() if line[:1].isdigit()]
    assert ops.count("batch_norm") == 2, step.describe()
    assert ops.count("batch_norm_bwd") == 2, step.describe()
    assert "activation" not in ops, step.describe()  # SiLU's gradient makes norm(x) again
    assert ops.count("activation_bwd") == 1, step.describe()  # ReLU's behind a convolution
    model.eval()
    infer = fc.compile(model)
    with fc.no_grad():
        got, want = infer(x).cpu().numpy(), model(x).cpu().numpy()
    ops = [line.split()[1] for line in infer.describe().splitlines() if line[:1].isdigit()]
    assert "batch_norm_infer" not in ops and "activation" not in ops, infer.describe()
    assert "prepared when weights change" in infer.describe()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@device
@pytest.mark.parametrize("compiled", [False, True])
def test_a_bfloat16_net_runs_on_tensor_cores_and_gives_the_cpu_s_losses(compiled):
    def losses_on(where):
        fc.manual_seed(4)
        n = fc.nn
        model = n.Sequential(
            n.Conv2d(3, 16, 3, padding=1), n.BatchNorm2d(16), n.ReLU(), n.Conv2d(16, 24, 3, stride=2, padding=1),
            n.BatchNorm2d(24), n.ReLU(), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(24, 8),
        ).to(where)  # fmt: skip
        optimizer = fc.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        rng = np.random.default_rng(0)
        x = fc.tensor(rng.standard_normal((4, 3, 10, 10)).astype("float32"), device=where)
        y = fc.tensor(rng.integers(0, 8, 4), device=where)

        def step(x, y):
            with fc.autocast(dtype=fc.bfloat16):
                out = model(x)
            loss = fc.ops.cross_entropy(out.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        run = fc.compile(step) if compiled else step
        out = [run(x, y).item() for _ in range(3)]
        if compiled and where == "cuda":
            for op in ("conv2d", "conv2d_bwd_weights"):  # by mma.sync, wgmma or the copy engine's boxes
                kinds = "tensor cores|wgmma|boxes|strips|halo|widened|space to depth"
                assert re.search(rf"{op} \[({kinds})\]", run.describe())
        return out

    np.testing.assert_allclose(losses_on("cuda"), losses_on("cpu"), rtol=2e-2)


@device
@pytest.mark.parametrize("width", [8, 64])
def test_convolutions_give_the_statistics_of_the_norm_behind_them(width):
    """Of channels that fill the copy engine's boxes, and of few; a second norm reads the same result, one has a bias
    before it."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((16, 3, 33, 30)).astype("float32")

    def run(compiled, given=True):
        fc.manual_seed(6)
        n, relu = fc.nn, fc.ops.relu
        convs = n.ModuleList([
            n.Conv2d(3, width, 5, stride=2, padding=2, bias=False), n.Conv2d(width, width, 3, padding=1, bias=False),
            n.Conv2d(width, 4 * width, 1, bias=False), n.Conv2d(4 * width, width, 1, bias=True),
        ])  # fmt: skip
        norms = n.ModuleList([n.BatchNorm2d(conv.out_channels) for conv in (*convs, convs[2])])
        model = n.ModuleList([convs, norms]).to("cuda").train()
        x = fc.tensor(data, device="cuda")

        def step(x):
            with fc.autocast(dtype=fc.bfloat16):
                h = relu(norms[0](convs[0](x)))
                h = relu(norms[1](convs[1](h)))
                y = convs[2](h)
                h = relu(norms[2](y)) + norms[4](y)
                h = norms[3](convs[3](h))
            loss = (h.float() * h.float().tanh()).mean()
            return [loss, *fc.grad(loss, list(model.parameters()))]

        fc._core.give_conv2d_moments(given)
        try:
            f = fc.compile(step) if compiled else step
            out = [[t.cpu().numpy() for t in f(x)] for _ in range(2)][-1]
        finally:
            fc._core.give_conv2d_moments(True)
        return out + [b.cpu().numpy() for b in model.buffers()], f

    got, f = run(True)
    plain, other = run(True, given=False)
    want, _ = run(False)

    def taking(f):  # a batch_norm reads moments behind its vectors
        norms = [s["shapes"].split("->")[0] for s in f._core.steps() if s["op"] == "batch_norm"]
        return sum(len(re.findall(r"\(2, \d+\)", s)) == 1 for s in norms)

    assert taking(other) == 0
    assert taking(f) == 4, f.describe()  # all but the one behind a bias
    top = max(np.abs(w).max() for w in want[1:])
    for numbers in (got, plain):
        np.testing.assert_allclose(numbers[0], want[0], rtol=1e-2)
        for a, b in zip(numbers, want, strict=True):
            assert np.abs(a - b).max() <= 2e-2 * top


@device
@pytest.mark.skipif("host executor" in fc.cuda_build(), reason="too many products for the executor")
@pytest.mark.parametrize("images", [3, 86, 128])
def test_statistics_of_many_channels_are_those_of_the_convolution_s_result(images):
    """More columns of tiles than a block stays in: warps leave the sums of each tile (128 images on 132 processors)."""
    fc.manual_seed(8)
    conv, norm = fc.nn.Conv2d(64, 2048, 1, bias=False).to("cuda"), fc.nn.BatchNorm2d(2048, momentum=1.0).to("cuda")
    x = fc.tensor(np.random.default_rng(1).standard_normal((images, 64, 7, 7)).astype("float32"), device="cuda")

    def step(x):
        with fc.autocast(dtype=fc.bfloat16):
            y = conv(x)
            loss = norm(y).float().sum()
        fc.grad(loss, [conv.weight])
        return y

    y = fc.compile(step)(x).float().cpu().numpy().astype("float64")
    np.testing.assert_allclose(norm.running_mean.cpu().numpy(), y.mean(axis=(0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(norm.running_var.cpu().numpy(), y.var(axis=(0, 2, 3), ddof=1), rtol=2e-3)


@device
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_16_bit_model_with_16_bit_running_statistics_trains_and_infers_as_on_the_cpu(dtype, compiled):
    def run_on(where):
        fc.manual_seed(4)
        n = fc.nn
        model = n.Sequential(
            n.Conv2d(3, 16, 3, padding=1), n.BatchNorm2d(16), n.ReLU(), n.BatchNorm2d(16), n.MaxPool2d(2),
            n.Conv2d(16, 5, 1), n.BatchNorm2d(5, momentum=None), n.AdaptiveAvgPool2d(1), n.Flatten(),
        ).to(where).to(getattr(fc, dtype))  # fmt: skip
        x = np.random.default_rng(0).standard_normal((8, 3, 10, 10)).astype("float32")
        x = fc.tensor(x, device=where).to(getattr(fc, dtype))

        def step(x):
            loss = (model(x).float() ** 2).mean()
            model.zero_grad()
            loss.backward()
            return loss

        run = fc.compile(step) if compiled else step
        for _ in range(3):
            run(x)
        out = [p.grad for p in model.parameters()]
        for norm in (m for m in model.modules() if isinstance(m, n.BatchNorm2d)):
            assert norm.running_var.dtype == getattr(fc, dtype)
            out += [norm.running_mean, norm.running_var]
        model.eval()
        with fc.no_grad():
            out.append((fc.compile(model) if compiled else model)(x))
        return [v.detach().float().cpu().numpy() for v in out]

    for got, want in zip(run_on("cuda"), run_on("cpu"), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-2 * abs(want).max() + 1e-4)


@device
@pytest.mark.parametrize("compiled", [False, True])
def test_averages_of_a_model_with_warmup(compiled):
    def average(where):
        model = net().to(where)
        ema = fc.nn.utils.EMA(model, 0.99, warmup=True)

        def step():
            with fc.no_grad():
                for p in model.parameters():
                    p.mul_(1.5)
            ema.update()

        run = fc.compile(step) if compiled else step
        for _ in range(3):
            run()
        saved = {k: v.cpu() for k, v in ema.state_dict().items()}
        ema.load_state_dict(saved)
        assert ema.updates.item() == 3
        return [v.numpy() for v in saved.values()]

    for got, want in zip(average("cuda"), average("cpu"), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@device
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_benchmark_s_step_of_a_gan_runs_where_the_model_is(precision):
    def losses_on(where):
        fc.manual_seed(5)
        n, relu = fc.nn, fc.nn.LeakyReLU
        generator = n.Sequential(
            n.ConvTranspose2d(7, 8, 4), n.BatchNorm2d(8), n.ReLU(), n.ConvTranspose2d(8, 3, 4, 2, 1)
        )
        discriminator = n.Sequential(n.Conv2d(3, 8, 4, 2, 1), n.BatchNorm2d(8), relu(0.2), n.Conv2d(8, 1, 4))
        pair = fc.models.gan.GANPair(generator, discriminator).to(where).train()
        task = nets.Task(nets.Net("dcgan", 3, (3, 8, 8)), "train", 3, precision)
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(shape).astype("float32") for shape in ((3, 3, 8, 8), (3, 7, 1, 1))]
        plan = fc.compile(nets.step_of(pair, task))
        return [plan(*(fc.tensor(a, device=where) for a in arrays)).item() for _ in range(3)]

    np.testing.assert_allclose(losses_on("cuda"), losses_on("cpu"), rtol=1e-4 if precision == "f32" else 2e-2)


@device
@pytest.mark.parametrize("dtype", [fc.bfloat16, fc.float16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("act", [fc.nn.ReLU6, fc.nn.ReLU])
def test_norms_around_a_depthwise_convolution_are_made_as_it_reads(act, stride, dtype):
    def train(compiled, on_load=True):
        fc.manual_seed(3)
        n = fc.nn
        model = n.Sequential(
            n.Conv2d(3, 16, 3, padding=1, bias=False), n.BatchNorm2d(16), act(),
            n.Conv2d(16, 16, 3, stride=stride, padding=1, groups=16, bias=False), n.BatchNorm2d(16), act(),
            n.Conv2d(16, 8, 1, bias=False), n.BatchNorm2d(8), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(8, 5),
        ).to("cuda")  # fmt: skip
        optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        rng = np.random.default_rng(0)
        x = fc.tensor(rng.standard_normal((6, 3, 11, 10)).astype("float32"), device="cuda")
        y = fc.tensor(rng.integers(0, 5, 6), device="cuda")
        run = training_step(model, optimizer, compiled, dtype)
        fc._core.apply_norms_on_load(on_load)
        try:
            return [run(x, y).item() for _ in range(4)], state(model), run
        finally:
            fc._core.apply_norms_on_load(True)

    (got, after, run), (stored, other, plain), (want, expect, _) = train(True), train(True, False), train(False)
    kinds, apart = ([line.split()[1] for line in f.describe().splitlines() if " [" in line] for f in (run, plain))
    assert (kinds.count("conv2d_bwd"), apart.count("conv2d_bwd")) == (1, 0), run.describe()
    assert got == pytest.approx(want, rel=2e-2) and stored == pytest.approx(want, rel=2e-2)
    for k in after:
        for a in (after[k], other[k]):
            np.testing.assert_allclose(a, expect[k], rtol=3e-2, atol=3e-2, err_msg=k)
