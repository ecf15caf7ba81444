"""Sessions: a file gives the numbers of the compiled model and step bit for bit, at any batch size, in any thread."""

import threading

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn
from fastcnn._graph import trace_graph

# Residual, depthwise with squeeze and excite, channel shuffle, concatenation, and what no small net of the zoo has.
NETS = {
    "lenet5": (1, 28), "resnet8": (3, 32), "mobilenet_v3_small": (3, 32), "shufflenet_v2_x1_0": (3, 32),
    "squeezenet1_1": (3, 32), "others": (3, 8),
}  # fmt: skip


class Others(nn.Module):
    """Transposed and padded convolutions, other norms and pools, resampling, attention, in a few small layers."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.norms = nn.Sequential(nn.GroupNorm(2, 8), nn.GELU(), nn.InstanceNorm2d(8, affine=True), nn.SiLU())
        self.mix = nn.SelfAttention2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2), nn.PixelShuffle(2))
        self.layer_norm = nn.LayerNorm(16)

    def forward(self, x):
        y = self.last(self.up(self.mix(self.norms(self.down(x)))))
        y = fc.cat([y, fc.ops.pad(x, (4, 4, 4, 4), mode="circular")], 1)
        return self.layer_norm(y).softmax(1), y.var(dim=(2, 3)), y.argmax(dim=1)


@pytest.fixture(autouse=True)
def one_thread():  # small nets; the tests of threads ask for theirs
    before = fc.get_num_threads()
    fc.set_num_threads(1)
    yield
    fc.set_num_threads(before)


def batch(n, channels=3, size=32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, channels, size, size)).astype(np.float32)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def small_net():
    fc.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip


def training(net, *optimizers, loss="cross_entropy"):
    def step(x, y):
        value = getattr(fc.ops, loss)(net(x), y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        return value

    return step


def labels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 5, n)


@pytest.mark.parametrize("name", NETS)
def test_a_file_predicts_the_bits_of_the_compiled_model_at_every_batch_size(name, tmp_path):
    channels, size = NETS[name]
    fc.manual_seed(1)
    net = (Others() if name == "others" else fc.models.create_model(name, in_channels=channels)).train()
    fc.export(net, tmp_path / "net.fcnn", batch(2, channels, size))
    assert all(m.training for m in net.modules())  # export looks at it in eval mode and puts that back
    session = fc.load(tmp_path / "net.fcnn")
    assert session.inputs[0].shape == (None, channels, size, size)
    compiled = fc.compile(net.eval())
    for n in (1, 3):
        x = batch(n, channels, size, seed=n)
        with fc.no_grad():
            wanted = compiled(x)
        wanted = wanted.values() if isinstance(wanted, dict) else wanted if isinstance(wanted, tuple) else [wanted]
        got = session.predict(x)
        got = got if isinstance(got, tuple) else [got]
        assert all(same(a, b) for a, b in zip(wanted, got, strict=True))


OPTIMIZERS = {
    "sgd": lambda p: fc.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=1e-3),
    "adamw": lambda p: fc.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: fc.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: fc.optim.Adagrad(p, lr=0.01, lr_decay=0.1),
    "lion": lambda p: fc.optim.Lion(p, lr=1e-3),
    "lamb": lambda p: fc.optim.LAMB(p, lr=0.01),
    "muon": lambda p: fc.optim.Muon([q for q in p if q.ndim > 1], lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_file_goes_on_with_a_training_bit_for_bit(name, tmp_path):
    net = small_net()
    optimizer = OPTIMIZERS[name](list(net.parameters()))
    rest = [p for p in net.parameters() if not any(p is q for g in optimizer.param_groups for q in g["params"])]
    optimizers = [optimizer, *([fc.optim.SGD(rest, lr=0.1)] if rest else [])]
    step = fc.compile(training(net, *optimizers))
    for i in range(2):  # the file is written in the middle of a training
        step(batch(6, seed=i), labels(6, i))
    fc.export(step, tmp_path / "train.fcnn", (batch(6), labels(6)), predict=net)
    session = fc.load(tmp_path / "train.fcnn")
    assert "random_state" in session.state_dict()  # of the dropout
    for i, n in enumerate((6, 6, 4, 6)):
        x, y = batch(n, seed=10 + i), labels(n, i)
        if i == 2:  # a new learning rate, and through a file once more
            session.lr = 0.02
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = 0.02
            session.save(tmp_path / "again.fcnn")
            session = fc.load(tmp_path / "again.fcnn")
            assert session.lr == 0.02
        assert same(step(x, y), session.step(x, y)), i
    state = session.state_dict()
    assert all(same(v, state[k]) for k, v in net.state_dict().items() if k in state)
    assert {"0.weight", "1.running_mean", "10.bias"} <= state.keys()
    with fc.no_grad():
        assert same(fc.compile(net.eval())(x), session.predict(x))


@pytest.mark.parametrize("how", ["session", "compiled"])
def test_a_step_that_raises_does_not_count(how, tmp_path):
    def losses(wrong):
        fc.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        step = fc.compile(training(net, fc.optim.AdamW(net.parameters(), lr=0.1)))
        if how == "session":
            fc.export(step, tmp_path / "t.fcnn", (batch(4), labels(4)))
            step = fc.load(tmp_path / "t.fcnn").step
        got = [step(batch(4), labels(4)).item()]
        for _ in range(wrong):
            with pytest.raises(IndexError):
                step(batch(4), np.full(4, 9))
        return got + [step(batch(4), labels(4)).item() for _ in range(3)]

    assert losses(0) == losses(2)


@pytest.mark.parametrize("loss", ["mse_loss", "kl_div"])
def test_means_over_the_batch_are_functions_of_the_batch(loss, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    step = fc.compile(training(net, fc.optim.SGD(net.parameters(), lr=0.1), loss=loss))
    fc.export(step, tmp_path / "t.fcnn", (batch(3, 3, 2), np.zeros((3, 4), np.float32)))
    session = fc.load(tmp_path / "t.fcnn")
    for n in (1, 2, 7):
        x, y = batch(n, 3, 2, n), np.random.default_rng(n).random((n, 4)).astype(np.float32)
        assert same(step(x, y), session.step(x, y)), n


def test_bfloat16_and_views_survive_a_file(tmp_path):
    w = fc.tensor(batch(1, 4, 6)[0])

    def net(x):
        with fc.autocast(dtype=fc.bfloat16):
            y = fc.ops.conv2d(x, w.reshape((4, 3, 4, 3)).permute(0, 1, 3, 2))
        y = y.to(fc.float32)[:, 1:, ::2].flip((3,)) + w[0, 0, 0]
        return y.transpose(1, 2).reshape((y.shape[0], -1)), y.expand((2, *y.shape)).sum(dim=0)

    fc.export(net, tmp_path / "n.fcnn", batch(2, size=9))
    session = fc.load(tmp_path / "n.fcnn")
    for n in (1, 4):
        x = batch(n, size=9, seed=n)
        assert all(same(a, b) for a, b in zip(fc.compile(net)(x), session.predict(x), strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_16_bit_model_with_16_bit_running_statistics_predicts_and_trains_from_a_file(dtype, tmp_path):
    half = getattr(fc, dtype)

    def made():
        net = small_net().to(half)
        assert net[1].running_var.dtype == half
        optimizer = fc.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        return net, training(lambda x: net(x.to(half)).float(), optimizer)

    net, step = made()
    fc.export(step, tmp_path / "t.fcnn", (batch(4), labels(4)))
    session, plan = fc.load(tmp_path / "t.fcnn"), fc.compile(step)
    for seed in range(3):
        x, y = batch(4, seed=seed), labels(4, seed)
        assert same(plan(x, y), session.step(x, y)), seed

    def predict(x):
        return net(x.to(half)).float()

    net.eval()
    fc.export(predict, tmp_path / "p.fcnn", batch(2))
    with fc.no_grad():
        assert same(fc.compile(predict)(batch(3)), fc.load(tmp_path / "p.fcnn").predict(batch(3)))


def test_the_graph_names_parameters_and_tells_what_depends_on_the_batch():
    net = small_net()
    g = trace_graph(net, batch(4))
    conv = g["nodes"][0]
    assert conv["op"] == "conv2d" and conv["in"][1:] == ["0.weight", "0.bias"]
    assert conv["out"][0]["shape"] == ["N", 8, 32, 32] and conv["params"]["N"] == "N"
    assert same(g["tensors"]["0.weight"], net[0].weight)
    assert g["outputs"][0]["shape"] == ["N", 5] and g["updates"] == []
    static = trace_graph(net, batch(4), dynamic_batch=False)
    assert static["batch"] is None and static["nodes"][0]["out"][0]["shape"] == [4, 8, 32, 32]


def test_what_no_file_can_hold_is_refused_with_its_reason(tmp_path):
    net = small_net()
    optimizer = fc.optim.SGD(net.parameters(), lr=0.1)
    path = tmp_path / "x.fcnn"

    def keeps(x, y):
        fc.ops.cross_entropy(net(x), y).backward()
        optimizer.step()

    with pytest.raises(ValueError, match="zero_grad"):
        fc.export(keeps, path, (batch(2), labels(2)))
    with pytest.raises(ValueError, match="straight line"):
        fc.export(lambda x: x.reshape((-1,)).expand((x.shape[0] ** 2, x.numel())), path, batch(2, 1, 1))
    with pytest.raises(ValueError, match="host work"):
        fc.export(lambda x: (fc._core.on_each_run(lambda: None), x + 1)[1], path, batch(2))
    scheduler = fc.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def schedules(x, y):
        training(net, optimizer)(x, y)
        scheduler.step()

    def changes(x, y):
        training(net, optimizer)(x, y)
        optimizer.param_groups[0]["lr"] *= 0.5

    for fn, why in ((schedules, "steps StepLR, which no file holds"), (changes, "changes lr of SGD")):
        with pytest.raises(ValueError, match=why):
            fc.export(fn, path, (batch(2), labels(2)))
        assert optimizer.param_groups[0]["lr"] == 0.1 and scheduler.last_epoch == 0
    with pytest.raises(ValueError, match="changes its input"):
        fc.export(lambda x: x.add_(fc.ones((1,))), path, batch(2))
    with pytest.raises(ValueError, match="preprocess"):
        fc.export(net, path, batch(2), preprocess={"rotate": 3})
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_inputs_that_do_not_fit_are_refused(tmp_path):
    fc.export(small_net(), tmp_path / "n.fcnn", batch(2))
    session = fc.load(tmp_path / "n.fcnn")
    for bad in (batch(2, 4), batch(2, size=31), batch(0), batch(2)[0]):
        with pytest.raises(ValueError, match="session: expected"):
            session.predict(bad)
    with pytest.raises(TypeError, match="float32"):
        session.predict(batch(2).astype(np.float64))
    with pytest.raises(ValueError, match="expected 1 inputs, got 2"):
        session.predict(batch(2), batch(2))
    with pytest.raises(ValueError, match="no training step"):
        session.step(batch(2))
    with pytest.raises(FileNotFoundError):
        fc.load(tmp_path / "none.fcnn")


def test_a_static_batch_stays_what_it_was(tmp_path):
    fc.export(small_net(), tmp_path / "n.fcnn", batch(2), dynamic_batch=False)
    session = fc.load(tmp_path / "n.fcnn")
    assert session.inputs[0].shape == (2, 3, 32, 32) and session.predict(batch(2)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\)"):
        session.predict(batch(3))


def test_threads_predict_at_once_while_another_trains(tmp_path):
    net = small_net()
    step = training(net, fc.optim.SGD(net.parameters(), lr=0.0))  # statistics move, weights do not
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.Dropout)):
            m.eval()
    fc.export(step, tmp_path / "t.fcnn", (batch(2), labels(2)), predict=net)
    session = fc.load(tmp_path / "t.fcnn", threads=2)
    inputs = [batch(1 + i % 3, seed=i) for i in range(6)]
    wanted = [np.asarray(session.predict(x)) for x in inputs]
    wrong, errors = [], []

    def work(k):
        try:
            for _ in range(8):
                if not same(session.predict(inputs[k]), wanted[k]):
                    wrong.append(k)
                if k == 0:
                    session.step(batch(2), labels(2))
        except Exception as e:  # noqa: BLE001 - told by the main thread
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and not errors


def test_plans_are_bounded_and_threads_are_the_session_s_own(tmp_path):
    fc.export(small_net(), tmp_path / "n.fcnn", batch(2))
    session = fc.load(tmp_path / "n.fcnn", threads=1, plans=2)
    before = fc.get_num_threads()
    results = [session.predict(batch(n)) for n in (1, 2, 3, 1)]
    info = session.cache_info()
    assert info["plans"] == 2 and info["evictions"] == 2 and info["misses"] == 4
    assert fc.get_num_threads() == before and same(results[0], results[3])


def test_images_are_prepared_and_named_as_the_file_says(tmp_path):
    net = small_net().eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    fc.export(net, tmp_path / "n.fcnn", batch(1), preprocess={"resize": 36, "crop": (32, 32), "mean": mean, "std": std},
              class_names=list("abcde"))  # fmt: skip
    session = fc.load(tmp_path / "n.fcnn")
    image = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    x = fc.tensor(image.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    x = fc.ops.interpolate(x, size=(36, 54), mode="bilinear", antialias=True)[:, :, 2:34, 11:43]
    x = (x - fc.tensor(np.float32(mean)).reshape((1, 3, 1, 1))) / fc.tensor(np.float32(std)).reshape((1, 3, 1, 1))
    np.testing.assert_allclose(np.asarray(session.preprocess(image)), np.asarray(x), rtol=1e-5, atol=1e-5)
    guesses = session.classify(image, k=3)
    p = np.asarray(fc.ops.softmax(session.predict(session.preprocess(image)), 1))[0]
    assert [g.index for g in guesses] == list(np.argsort(-p, kind="stable")[:3])
    assert [g.name for g in guesses] == ["abcde"[g.index] for g in guesses] and session.class_names == list("abcde")
    session.save(tmp_path / "again.fcnn")
    assert same(fc.load(tmp_path / "again.fcnn").preprocess(image), session.preprocess(image))
    with pytest.raises(ValueError, match="channels"):
        session.preprocess(image[:, :, :1])


def test_bicubic_images_are_those_of_interpolate_without_its_overshoot(tmp_path):
    fc.export(nn.Conv2d(3, 2, 3), tmp_path / "n.fcnn", batch(1, size=20),
              preprocess={"resize": 20, "interpolation": "bicubic"})  # fmt: skip
    image = np.random.default_rng(0).integers(0, 2, (30, 30, 3), dtype=np.uint8) * 255
    x = fc.tensor(image.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    x = fc.ops.interpolate(x, size=(20, 20), mode="bicubic", antialias=True)
    got = np.asarray(fc.load(tmp_path / "n.fcnn").preprocess(image))
    np.testing.assert_allclose(got, np.asarray(x).clip(0, 1), rtol=1e-5, atol=1e-5)
    assert np.asarray(x).max() > 1 and got.max() <= 1


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
def test_classify_takes_probabilities_as_they_are(last, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), last)
    fc.export(net, tmp_path / "n.fcnn", batch(1, size=2), preprocess={"resize": (2, 2)}, class_names=("a", "b", "c"))
    session = fc.load(tmp_path / "n.fcnn")
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    wanted = sorted(session.predict(session.preprocess(image)).tolist()[0], reverse=True)
    assert [g.probability for g in session.classify(image)] == wanted


def test_preprocessing_and_names_must_fit_the_model(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    path = tmp_path / "n.fcnn"
    for preprocess, why in (
        ({"resize": [16, 16]}, "expected images of the input's size, 8 x 8, got 16 x 16"),
        ({"resize": 16}, "shorter side of 8, that of the input, got 16 and no crop"),
        ({"resize": 16, "crop": (8, 9)}, "8 x 8, got 8 x 9"),
        ({"mean": [0.5, 0.5]}, "expected 3 numbers in mean"),
        ({"std": 0.5}, "expected 3 numbers in std"),
        ({"mean": ["a", "b", "c"]}, "mean of preprocess as numbers"),
        ({"mean": [0, 0, float("nan")]}, "mean of preprocess as numbers"),
        ({"crop": 8.0}, r"crop of preprocess as a size or \(height, width\), got 8.0"),
        ({"interpolation": "nearest"}, "bilinear or bicubic, got 'nearest'"),
        ({"scale": object()}, "got 'scale'"),
    ):
        with pytest.raises(ValueError, match=why):
            fc.export(net, path, batch(1, size=8), preprocess=preprocess)
    for names, error in ((["a"], ValueError), ("abc", TypeError), (3, TypeError)):
        with pytest.raises(error, match="class_names"):
            fc.export(net, path, batch(1, size=8), class_names=names)
    with pytest.raises(TypeError, match="expected preprocess as a dict"):
        fc.export(net, path, batch(1, size=8), preprocess="imagenet")
    assert not path.exists()
    mean = np.float32([0.5, 0.25, 0.125])
    fc.export(net, path, batch(1, size=8), preprocess={"resize": np.int64(16), "crop": 8, "mean": mean, "std": mean})
    assert fc.load(path).preprocess(np.zeros((20, 30, 3), np.uint8)).tolist()[0][2][0][0] == -1
    wrong = ({"threads": "2"}, TypeError), ({"plans": 0}, ValueError), ({"plan_bytes": 1e9}, TypeError)
    for options, error in (*wrong, ({"concurrent": 0}, ValueError)):
        with pytest.raises(error, match=f"load: expected {next(iter(options))}"):
            fc.load(path, **options)


def test_the_command_line_exports_a_checkpoint(tmp_path, capsys):
    from fastcnn.checkpoints import save_checkpoint
    from fastcnn.cli import main

    net = fc.models.create_model("resnet8", num_classes=3, in_channels=1)
    about = {
        "model": "resnet8", "num_classes": 3, "in_channels": 1, "image_size": [28, 28], "mean": [0.3], "std": [0.4],
        "classes": ["a", "b", "c"],
    }  # fmt: skip
    save_checkpoint(tmp_path / "best.safetensors", net.state_dict(), metadata=about)
    assert main(["export", "--checkpoint", str(tmp_path)]) == 0
    session = fc.load(tmp_path / "best.fcnn")
    assert session.class_names == ["a", "b", "c"] and session.inputs[0].shape == (None, 1, 28, 28)
    x = batch(2, 1, 28)
    with fc.no_grad():
        assert same(fc.compile(net.eval())(x), session.predict(x))


def test_update_terms_are_the_numbers_of_the_optimizers():
    def value(term, t):
        if not isinstance(term, dict):
            return term
        if "power" in term:
            return 1.0 - term["power"] ** t
        if "first" in term:
            return term["first"] if t == 1 else term["then"]
        return term["value"] / (1.0 + (t - 1) * term["decay"])

    for name, make in OPTIMIZERS.items():
        optimizer = make([fc.ones((2, 2), requires_grad=True)])
        group = optimizer.param_groups[0]
        terms = optimizer._terms(group)
        for t in (1, 2, 7, 1000):
            assert [value(x, t) for x in terms] == list(optimizer._hyper(group, t)), name


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 6])
def test_a_file_may_divide_by_the_batch_size_whatever_it_was(tmp_path, batch):
    net = fc.nn.Linear(3, 2)
    fc.export(lambda x: (net(x) ** 2).sum() / x.shape[0], str(tmp_path / "m.fcnn"), fc.ones(batch, 3))
    session = fc.load(str(tmp_path / "m.fcnn"))
    for n in (1, 2, 5, 8):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
        want = (net(fc.tensor(x)) ** 2).sum().item() / n
        np.testing.assert_allclose(session.predict(x), want, rtol=1e-5)


@pytest.mark.parametrize("shape, cut", [((3, 6, 0), lambda x: x[:, 1:]), ((3, 6, 5), lambda x: x[:, :, 0:0][:, 5:])])
def test_slices_of_nothing_can_be_written(tmp_path, shape, cut):
    """Strides of an empty tensor are zeros: a slice once divided by them, which ends a process."""
    x = np.zeros(shape, np.float32)
    fc.export(cut, tmp_path / "nothing.fcnn", x, dynamic_batch=False)
    assert fc.load(tmp_path / "nothing.fcnn").predict(x).shape == cut(x).shape
