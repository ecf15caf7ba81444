"""GANTrainer: losses and penalties are PyTorch's, plans equal eager, resume is exact, it learns, reports and files."""

import math
import os
import signal

import numpy as np
import pytest
from fastcnn import GANTrainer, _core, callbacks, checkpoints, gan, models, nn
from fastcnn._core import ops
from fastcnn.data import ArrayDataset, DataLoader
from fastcnn.gan.losses import get_gan_loss

SIZE = 16


def dataset(n=96, seed=0, classes=2):
    """Discs: class 0 left and bright, class 1 right and darker; the places vary a little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.arange(n) % classes
    images = np.zeros((n, SIZE, SIZE), np.uint8)
    for image, k in zip(images, labels):
        cy, cx = 8 + rng.uniform(-1, 1), (4 if k == 0 else 11) + rng.uniform(-1, 1)
        image[(y - cy) ** 2 + (x - cx) ** 2 < 12] = 255 if k == 0 else 160
    return ArrayDataset(images, labels)


def pair(name="dcgan", seed=1, width=4, **options):
    ops.manual_seed(seed)
    return models.create_model(name, 2, 1, image_size=SIZE, width=width, latent_dim=8, **options)


def trainer(nets=None, **options):
    options = {"batch_size": 16, "progress": False, "grid": 0, **options}
    return GANTrainer(*(nets or pair()), **options)


def weights(net):
    return {k: np.array(v.numpy()) for k, v in net.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert np.array_equal(a[k], b[k]), k


# ---------------------------------------------------------------- losses


def test_losses_are_those_of_the_papers():
    rng = np.random.default_rng(0)
    real, fake = (rng.standard_normal(7).astype(np.float32) for _ in range(2))

    def softplus(v):
        return np.log1p(np.exp(v))

    want = {
        "bce": (softplus(-real).mean() * 0.9 + softplus(real).mean() * 0.1 + softplus(fake).mean(), softplus(-fake)),
        "lsgan": (0.5 * ((real - 0.9) ** 2).mean() + 0.5 * (fake**2).mean(), 0.5 * (fake - 1) ** 2),
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake),
        "wgan-gp": (fake.mean() - real.mean(), -fake),
    }
    for name, (d, g) in want.items():
        loss = get_gan_loss(name)
        r, f = _core.tensor(real), _core.tensor(fake)
        assert loss.discriminator(r, f, 0.9).item() == pytest.approx(d, rel=1e-5), name
        assert loss.generator(f).item() == pytest.approx(g.mean(), rel=1e-5), name


@pytest.mark.parametrize("norm", ["layer", None])
def test_penalties_and_their_gradients_are_torchs(norm):
    """Double backward through convolutions, layer norm and leaky ReLU, against torch.autograd."""
    torch = pytest.importorskip("torch")
    critic = models.gan.DCGANDiscriminator(1, SIZE, 4, norm=norm)
    parts = []
    for m in critic:
        if isinstance(m, nn.Conv2d):
            new = torch.nn.Conv2d(
                m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, bias=m.bias is not None
            )
        elif isinstance(m, nn.GroupNorm):
            new = torch.nn.GroupNorm(1, m.weight.shape[0])
        else:
            new = torch.nn.LeakyReLU(0.2)
        parts.append(new)
    theirs = torch.nn.Sequential(*parts)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in critic.state_dict().items()})
    x = np.random.default_rng(3).standard_normal((3, 1, SIZE, SIZE)).astype(np.float32)
    mine, r1_mine = _core.tensor(x), _core.tensor(x)
    r1_mine.requires_grad_()
    penalty = gan.gradient_penalty(critic, mine, mine) + gan.r1_penalty(critic(r1_mine), r1_mine)
    leaf = torch.tensor(x, requires_grad=True)
    (g,) = torch.autograd.grad(theirs(leaf).sum(), leaf, create_graph=True)
    squares = (g**2).sum((1, 2, 3))
    want = ((squares.sqrt() - 1) ** 2).mean() + squares.mean()
    assert penalty.item() == pytest.approx(want.item(), rel=1e-4)
    penalty.backward()
    want.backward()
    for (name, p), q in zip(critic.named_parameters(), theirs.parameters()):
        if p.grad is None:  # the second derivative of leaky ReLU is 0: torch writes it out
            assert q.grad is None or not q.grad.abs().max() > 0, name
            continue
        scale = float(q.grad.abs().max()) + 1e-3
        np.testing.assert_allclose(p.grad.numpy() / scale, q.grad.numpy() / scale, atol=1e-3, err_msg=name)


# ---------------------------------------------------------------- training

KINDS = {
    "bce": {"loss": "bce", "label_smoothing": 0.1, "instance_noise": 0.1},
    "wgan-gp": {"loss": "wgan-gp", "n_critic": 2, "model": "wgan_gp"},
    "hinge": {"loss": "hinge", "model": "sngan", "r1_gamma": 0.5, "r1_every": 2},
    "conditional": {"loss": "lsgan", "model": "cgan", "ema_decay": None},
}


def made(kind, **options):
    chosen = {**KINDS[kind], **options}
    return trainer(pair(chosen.pop("model", "dcgan")), **chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_equals_eager(kind):
    """Four steps; the same random numbers are drawn in the same order."""
    runs = []
    for compile in (True, False):
        t = made(kind, compile=compile)
        history = t.fit(dataset(64), max_epochs=1)
        runs.append((history, weights(t.generator), t.sample(3)))
    (a, wa, sa), (b, wb, sb) = runs
    for name in ("d_loss", "g_loss", "d_real", "d_fake", *(("penalty",) if "penalty" in b else ())):
        assert a[name][0] == pytest.approx(b[name][0], rel=2e-3, abs=2e-4), name
    for k in wa:
        np.testing.assert_allclose(wa[k], wb[k], atol=2e-3, err_msg=k)
    np.testing.assert_allclose(sa, sb, atol=5e-3)


@pytest.mark.parametrize("kind", ["bce", "wgan-gp", "hinge"])
def test_bf16_mixed_is_near_float32(kind):
    runs = [made(kind, precision=p).fit(dataset(64), max_epochs=1) for p in ("32-true", "bf16-mixed")]
    for name in ("d_loss", "g_loss"):
        assert runs[1][name][0] == pytest.approx(runs[0][name][0], rel=0.1, abs=0.05), name
        assert runs[1][name][0] != runs[0][name][0]


def test_the_generator_steps_once_in_n_critic_steps():
    t = made("wgan-gp", n_critic=3)
    seen = []

    class Watch(callbacks.Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
            seen.append(weights(trainer.generator)["0.weight"])

    t.callbacks.append(Watch())
    t.fit(dataset(96), max_epochs=1)
    moved = [not np.array_equal(a, b) for a, b in zip(seen, seen[1:])]
    assert moved == [False, True, False, False, True]


def test_r1_and_noise_are_there_when_asked_for():
    t = made("hinge", ema_decay=None)
    x = _core.tensor(np.zeros((4, 1, SIZE, SIZE), np.float32))
    std = _core.tensor(np.float32(0))
    assert "penalty" in t._steps.both(x, (), std, True) and "penalty" not in t._steps.both(x, (), std, False)
    noisy = made("bce")._steps._noisy(ops.zeros((64, 1, 8, 8)), _core.tensor(np.float32(0.3)))
    assert noisy.numpy().std() == pytest.approx(0.3, rel=0.1)
    t = made("bce", noise_steps=4)
    t.fit(dataset(96), max_epochs=1)
    assert t.global_step == 6


class Interrupt(callbacks.Callback):
    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


class Ends(callbacks.Callback):
    def __init__(self, seen):
        self.seen = seen

    def on_train_epoch_end(self, trainer):
        self.seen.append(trainer.current_epoch)


@pytest.mark.parametrize("kind, at", [("bce", (0, 1)), ("wgan-gp", (1, 0)), ("hinge", (0, 2)), ("conditional", (1, 1))])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, kind, at):
    whole = made(kind)
    want = whole.fit(dataset(48), max_epochs=2)
    ends = []
    first = made(kind, log_dir=tmp_path, callbacks=[Interrupt(*at), Ends(ends)])
    stopped = first.fit(dataset(48), max_epochs=2)
    assert stopped.interrupted == "SIGINT" and len(stopped) < 2
    again = made(kind, log_dir=tmp_path, callbacks=[Ends(ends)])
    for p in (*again.generator.parameters(), *again.discriminator.parameters()):
        with_noise = p.detach()
        with_noise.copy_(with_noise + 1.0)  # nothing of the new nets must be left
    got = again.fit(dataset(48), max_epochs=2, resume="last")
    assert ends == [0, 1]  # each once, also where the signal came in an epoch's last batch
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        assert got[name] == want[name], name
    assert_same(weights(again.generator), weights(whole.generator))
    assert_same(weights(again.discriminator), weights(whole.discriminator))
    assert np.array_equal(again.sample(5), whole.sample(5))


def brightness(images):
    """Four means of columns: enough to see where the discs are."""
    return np.asarray(images)[:, 0].reshape(len(images), SIZE, 4, SIZE // 4).mean((1, 3)).astype(np.float64)


def sides(images):
    left, right = brightness(images)[:, :2].sum(1), brightness(images)[:, 2:].sum(1)
    return 20 * np.stack([left, right], 1)


def test_learns_two_modes_and_reports(tmp_path):
    t = trainer(
        pair(width=8), log_dir=tmp_path, fid=brightness, classifier=sides, report_samples=128, fid_samples=128, grid=16,
        ema_decay=0.9, lr=2e-3, callbacks=[callbacks.Timer()],
    )  # fmt: skip
    history = t.fit(dataset(512), max_epochs=5)
    assert history["fid"][-1] < 0.3 * history["fid"][0]
    assert history["modes"][-1] == 2 and history["confidence"][-1] > 0.8
    report = t.coverage(names=("left", "right"))
    assert report.covered == 2 and report.histogram.sum() == 128 and "left" in str(report)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 6 and {"d_loss", "g_loss", "fid", "confidence", "modes"} <= set(rows[0].split(","))
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [f"epoch-{k:03d}.png" for k in range(1, 6)]
    for name in ("curves.png", "samples/epoch-005.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not [p for p in tmp_path.rglob("*.tmp")]
    # The checkpoint is also a file of weights: the averaged generator.
    fresh = trainer(pair(width=8, seed=9))
    fresh.load(tmp_path / "last.safetensors")
    assert np.array_equal(fresh.sample(4), t.sample(4))
    t.save(tmp_path / "pair.safetensors")
    built = models.create_model(
        "dcgan", in_channels=1, image_size=SIZE, width=8, latent_dim=8, pretrained=tmp_path / "pair.safetensors"
    )
    assert_same(weights(built.generator), weights(t.sampled_generator))


# ---------------------------------------------------------------- samples and reports


def test_samples_are_of_their_seed_and_leave_training_alone():
    t = trainer()
    state = np.array(_core.ops.random_state().numpy())
    a, b = t.sample(21, seed=3), t.sample(21, seed=3)
    assert a.shape == (21, 1, SIZE, SIZE) and a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1
    assert np.array_equal(a, b) and not np.array_equal(a, t.sample(21, seed=4))
    np.testing.assert_allclose(t.sample(5, seed=3), a[:5], atol=1e-6)
    assert np.array_equal(_core.ops.random_state().numpy(), state)
    walk = t.interpolate(rows=2, columns=5, seed=1)
    ends = np.random.default_rng(1).standard_normal((2, 2, 8)).reshape(4, 8)
    np.testing.assert_allclose(walk[[0, 4, 5, 9]], t.generate(ends), atol=1e-5)
    assert t.generator.training


def test_slerp_keeps_lengths_and_goes_round():
    a, b = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    path = gan.slerp(a, b, np.linspace(0, 1, 5))
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 2.0)
    np.testing.assert_allclose(path[2], [math.sqrt(2), math.sqrt(2)])
    np.testing.assert_allclose(gan.slerp(a, 2 * a, np.array([0.5])), [[3.0, 0.0]])
    with pytest.raises(ValueError, match="two vectors of one length"):
        gan.slerp(a, b[:1], np.array([0.5]))


def test_mode_coverage_counts():
    logits = np.log(np.array([[0.8, 0.1, 0.1]] * 9 + [[0.1, 0.6, 0.3]]))
    report = gan.mode_coverage(np.zeros((10, 1, 2, 2)), lambda x: logits[: len(x)], ("a", "b", "c"), batch_size=10)
    assert report.histogram.tolist() == [9, 1, 0] and report.covered == 2
    assert report.confidence == pytest.approx(0.78) and math.isnan(report.by_class[2])
    assert report.entropy == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    with pytest.raises(ValueError, match=r"expected logits \(10, K\), got \(10,\)"):
        gan.mode_coverage(np.zeros((10, 1, 2, 2)), lambda x: np.zeros(10))


def test_conditional_samples_are_of_their_class():
    t = made("conditional")
    images = t.sample(6, labels=np.array([0, 0, 1, 1, 0, 1]))
    z = t.latents(6)
    assert np.array_equal(images, t.generate(z, [0, 0, 1, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"class ids \(2,\) of 0 to 1, got 0 to 2"):
        t.sample(2, labels=[0, 2])
    with pytest.raises(ValueError, match=r"class ids \(2,\) of 0 to 1, got float64"):
        t.sample(2, labels=[0, 0.5])
    with pytest.raises(ValueError, match="this one takes none"):
        trainer().sample(2, labels=[0, 1])
    for data in (dataset(classes=3), [(np.zeros((4, 1, SIZE, SIZE), np.float32), np.array([0, 1, 2, 1]))]):
        with pytest.raises(ValueError, match=r"class ids .* of 0 to 1, got 0 to 2; the nets have num_classes=2"):
            made("conditional").fit(data, max_epochs=1)


# ---------------------------------------------------------------- images and bad input


def test_images_are_centred_and_bordered():
    data = gan.CentredImages(dataset(4), 18)
    image, label = data[0]
    assert image.shape == (1, 18, 18) and (image[0, 0] == -1).all() and label == 0
    np.testing.assert_allclose(image[0, 1:-1, 1:-1], dataset(4).images[0, ..., 0] / 127.5 - 1, atol=1e-6)
    assert data.unit_pixels(np.arange(2)).max() == 1.0
    for size in (15, 20):
        with pytest.raises(ValueError, match="or a little less"):
            gan.CentredImages(dataset(4), size)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "wasserstein"}, "expected loss 'bce', 'lsgan', 'hinge', 'wgan-gp' or a GANLoss, got 'wasserstein'"),
        ({"n_critic": 0}, "expected n_critic an int of at least 1, got 0"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing goes with loss 'bce' or 'lsgan'"),
        ({"ema_decay": 1.5}, "expected ema_decay None or between 0 and 1, got 1.5"),
        ({"r1_gamma": -1}, "expected r1_gamma >= 0, got -1"),
        ({"precision": "16-mixed"}, "expected precision '32-true' or 'bf16-mixed'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)


def test_bad_data_and_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="batch_size must not exceed the number of images"):
        trainer().fit(dataset(8), max_epochs=1)
    with pytest.raises(ValueError, match=r"expected images in \[-1, 1\].*0 to 255"):
        raw = [np.full((4, 1, SIZE, SIZE), v, np.float32) for v in (255,)]
        raw[0][0] = 0
        trainer().fit(raw, max_epochs=1)
    with pytest.raises(TypeError, match="expected an ImageDataset or a loader, got int"):
        trainer().fit(3)
    with pytest.raises(TypeError, match=r"got 'fashion_mini'; fc.data.load\('fashion_mini'\) gives one"):
        trainer().fit("fashion_mini")
    with pytest.warns(UserWarning, match="first images are of 0 to 0.5, the generator's of -1 to 1.* 2 \\* x - 1"):
        trainer(fast_dev_run=1).fit([np.linspace(0, 0.5, 4 * SIZE**2, dtype=np.float32).reshape(4, 1, SIZE, SIZE)])
    with pytest.raises(ValueError, match="expected an? .*class ids|batches \\(images, class ids\\)"):
        made("conditional").fit([np.zeros((4, 1, SIZE, SIZE), np.float32)], max_epochs=1)
    with pytest.raises(ValueError, match="fid needs the dataset"):
        trainer(fid=brightness).fit([np.zeros((4, 1, SIZE, SIZE), np.float32)], max_epochs=1)
    path = tmp_path / "weights.safetensors"
    checkpoints.save_checkpoint(path, trainer()._weights())
    with pytest.raises(ValueError, match="holds weights only"):
        trainer().fit(dataset(), max_epochs=1, resume=path)
    checkpoints.save_checkpoint(path, trainer()._weights(), {}, {"run": {}})  # as another trainer leaves it
    with pytest.raises(ValueError, match="no state of a GANTrainer"):
        trainer().fit(dataset(), max_epochs=1, resume=path)
    t = trainer(log_dir=tmp_path)
    t.fit(dataset(), max_epochs=1)
    with pytest.raises(ValueError, match=r"cannot resume from it: .*averaged weights"):
        trainer(ema_decay=None).fit(dataset(), max_epochs=2, resume=tmp_path)
    with pytest.raises(ValueError, match="cannot resume from it"):
        trainer(pair(width=8)).fit(dataset(), max_epochs=2, resume=tmp_path)


def test_a_pair_is_one_argument_too_and_labels_are_named():
    nets = pair("cgan")
    both = GANTrainer(nets, progress=False, ema_decay=None)
    assert (both.generator, both.discriminator) == tuple(nets)
    with pytest.raises(TypeError, match="expected a discriminator as a Module, got NoneType; GANTrainer.gen"):
        GANTrainer(nets.generator)
    with pytest.raises(ValueError, match=r"generate: expected class ids \(2,\) of 0 to 1, got -1 to 0"):
        both.sample(2, labels=[-1, 0])
    with pytest.raises(ValueError, match=r"interpolate: expected class ids \(2,\) of 0 to 1, got shape \(1,\)"):
        both.interpolate(2, 3, labels=[0])
    assert both.interpolate(2, 3, labels=[0, 1]).shape == (6, 1, SIZE, SIZE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_parts_of_a_generator_that_take_no_part_stay_as_they_are(compiled, tmp_path):
    def made():
        nets = pair()
        nets.generator.spare = nn.Identity()  # in the chain, with a weight that nothing reads
        nets.generator.spare.weight = nn.Parameter(np.ones(3, np.float32))
        return trainer(nets, compile=compiled, log_dir=tmp_path)

    first = made()
    first.fit(dataset(32), max_epochs=1)
    assert np.array_equal(first.generator.spare.weight.numpy(), np.ones(3))
    assert not np.array_equal(first.generator[0].weight.numpy(), made().generator[0].weight.numpy())
    assert len(made().fit(dataset(32), max_epochs=2, resume="last")["g_loss"]) == 2


def test_callbacks_that_cannot_work_are_refused():
    for made in (callbacks.Mixup(), callbacks.CutMix(), callbacks.FreezeBackbone()):
        with pytest.raises(ValueError, match=f"GANTrainer: {type(made).__name__} goes with Trainer"):
            trainer(callbacks=[made])
    with pytest.raises(TypeError, match="GANTrainer: expected callbacks with hooks such as on_epoch_end, got int 3"):
        trainer(callbacks=[3])
    with pytest.raises(TypeError, match="got the class Timer"):
        trainer(callbacks=[callbacks.Timer])


def test_nan_stops_and_is_named():
    nets = pair()
    nets.generator[0].weight.detach().copy_(nets.generator[0].weight.detach() * float("nan"))
    with pytest.raises(FloatingPointError, match="is nan in epoch 1, step 1"):
        trainer(nets).fit(dataset(), max_epochs=1)


def test_loaders_of_images_alone_and_a_dry_run(tmp_path):
    loader = DataLoader(gan.CentredImages(dataset(40)), 8, shuffle=True, drop_last=True, seed=1)
    t = trainer(log_dir=tmp_path / "run", fast_dev_run=2)
    history = t.fit(loader, max_epochs=5)
    assert len(history) == 1 and t.global_step == 2 and not (tmp_path / "run").exists()
    images = [np.random.default_rng(k).uniform(-1, 1, (8, 1, SIZE, SIZE)).astype(np.float32) for k in range(3)]
    t = trainer()
    t.fit(images, max_epochs=2)
    assert t.global_step == 6
