"""Trainer: learning, options, resume bit for bit, Ctrl-C, bad input. Callbacks: test_trainer_callbacks.py, kill -9:
test_survival.py."""

import csv
import io
import os
import signal
import subprocess
import sys
import textwrap

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import callbacks as cb
from fastcnn.augment import RandomCrop
from fastcnn.data import ArrayDataset, DataLoader


def dataset(n=96, seed=0, classes=3, size=8):
    """Bright squares in different corners: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (n, size, size), dtype=np.uint8)
    labels = rng.integers(0, classes, n)
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        image[half * (label % 2) :, half * (label // 2) :][:half, :half] += 120
    return ArrayDataset(images, labels, num_classes=classes, mean=0.3, std=0.3)


def net(dropout=0.0, seed=1):
    fc.manual_seed(seed)
    return fc.nn.Sequential(
        fc.nn.Conv2d(1, 8, 3, padding=1), fc.nn.BatchNorm2d(8), fc.nn.ReLU(), fc.nn.MaxPool2d(2),
        fc.nn.Dropout(dropout), fc.nn.Flatten(), fc.nn.Linear(128, 3),
    )  # fmt: skip


def trainer(model=None, **options):
    options = {"optimizer": "sgd", "lr": 0.05, "batch_size": 16, "progress": False, **options}
    return fc.Trainer(model or net(), **options)


def weights(model):
    return {k: np.array(v.numpy()) for k, v in model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.smoke
def test_learns_and_reports(tmp_path):
    t = trainer(log_dir=tmp_path, scheduler="onecycle", metrics=["accuracy", "f1"])
    history = t.fit(dataset(), dataset(48, 1), max_epochs=4)
    assert len(history) == 4
    expected = "train_loss train_accuracy val_loss val_accuracy val_f1 lr images_per_second seconds"
    assert set(expected.split()) <= set(history)
    assert history["val_accuracy"][-1] > 0.9
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert history.interrupted is None
    found = t.evaluate(dataset(48, 1))
    assert found["accuracy"] == history["val_accuracy"][-1]
    assert found["loss"] == pytest.approx(history["val_loss"][-1])
    logits = t.predict(dataset(48, 1))
    assert logits.shape == (48, 3)
    assert (logits.argmax(1) == dataset(48, 1).labels).mean() == found["accuracy"]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(r["val_loss"]) for r in rows] == history["val_loss"]
    assert [int(r["epoch"]) for r in rows] == [0, 1, 2, 3]
    names = {"best.safetensors", "last.safetensors", "last-1.safetensors", "metrics.csv"}
    assert names <= set(os.listdir(tmp_path)) <= names | {"curves.png"}
    other = net(seed=5)
    other.load_state_dict(fc.load_state(tmp_path / "best.safetensors"))
    other.load_state_dict(fc.load_state(tmp_path / "last.safetensors"))
    assert_same(weights(other), weights(t.model))


def test_compiled_equals_eager():
    results = []
    for compile in (True, False):
        t = trainer(net(dropout=0.3), compile=compile, gradient_clip_val=0.5, ema_decay=0.9, scheduler="cosine")
        t.fit(dataset(40), max_epochs=2)  # the last batch is a smaller one
        results.append((weights(t.model), weights(t.ema.module)))
    for a, b in zip(*results, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_bf16_mixed_learns_like_float32(tmp_path):
    train, val = (fc.data.load("fashion_mini", split=split) for split in ("train", "test"))
    train = fc.data.Subset(train, np.arange(3000))
    final = {}
    for precision in ("32-true", "bf16-mixed"):
        fc.manual_seed(0)
        model = fc.models.create_model("resnet8", num_classes=10, in_channels=1)
        t = fc.Trainer(
            model, "sgd", 0.05, precision=precision, batch_size=64, seed=0, progress=False, scheduler="onecycle",
            log_dir=tmp_path / precision,
        )  # fmt: skip
        final[precision] = t.fit(train, val, max_epochs=2)["val_accuracy"][-1]
        assert t.predict(np.zeros((2, 1, 28, 28), np.float32)).dtype == np.float32
    assert final["bf16-mixed"] > max(0.5, final["32-true"] - 0.06), final
    saved = fc.load_state(tmp_path / "bf16-mixed" / "last.safetensors")
    assert {v.dtype for k, v in saved.items() if "num_batches" not in k} == {fc.float32}


def test_bf16_mixed_compiled_equals_eager():
    one, two = (trainer(precision="bf16-mixed", compile=c) for c in (True, False))
    a, b = (t.fit(dataset(), max_epochs=2) for t in (one, two))
    np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=0.05)


def test_accumulated_batches_equal_one_large():
    def model():
        fc.manual_seed(1)
        return fc.nn.Sequential(fc.nn.Flatten(), fc.nn.Linear(64, 3))

    a = trainer(model(), batch_size=32)
    b = trainer(model(), batch_size=8, accumulate_grad_batches=4)
    for t in (a, b):
        t.fit(DataLoader(dataset(96), t.batch_size), max_epochs=2)
    assert a.global_step == b.global_step == 6
    for name, value in weights(a.model).items():
        np.testing.assert_allclose(value, weights(b.model)[name], rtol=1e-4, atol=1e-6)
    c = trainer(model(), batch_size=8, accumulate_grad_batches=5)
    c.fit(dataset(96), max_epochs=1)
    assert c.global_step == 3  # 12 batches: 5 + 5 + 2


def test_clipping_bounds_the_gradient():
    model = net()
    before = weights(model)
    t = trainer(model, lr=1.0, momentum=0.0, gradient_clip_val=1e-3, weight_decay=0.0)
    t.fit(dataset(16), max_epochs=1)
    moved = np.sqrt(sum(((weights(model)[n] - before[n]) ** 2).sum() for n, _ in model.named_parameters()))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_ema_is_what_is_evaluated_and_saved(tmp_path):
    t = trainer(ema_decay=0.8, log_dir=tmp_path)
    t.fit(dataset(), dataset(48, 1), max_epochs=2)
    raw, averaged = weights(t.model), weights(t.ema.module)
    assert any((raw[k] != averaged[k]).any() for k in raw)
    saved = {k: v.numpy() for k, v in fc.load_state(tmp_path / "last.safetensors").items()}
    assert_same(saved, averaged)
    scores = t.predict(dataset(48, 1))
    assert t.evaluate(dataset(48, 1))["accuracy"] == (scores.argmax(1) == dataset(48, 1).labels).mean()


OPTIONS = {
    "plain": {},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "scheduler": "cosine"},
    "everything": {
        "scheduler": "onecycle", "ema_decay": 0.9, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0,
        "label_smoothing": 0.1,
    },
}  # fmt: skip


def make(log_dir, options, stop=None, seed=1, workers=0):
    callbacks = [stop] if stop else []
    loader = DataLoader(
        dataset(), 16, shuffle=True, seed=4, transform=RandomCrop(padding=1), num_workers=workers
    )
    return trainer(net(0.2, seed), log_dir=log_dir, callbacks=callbacks, seed=3, **options), loader


class StopAt(cb.Callback):
    """Ends the run as a signal would, after a number of batches."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("at", [(1, 5), (1, 1), (2, 3), (0, 3)], ids=str)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, options, at):
    options = OPTIONS[options]
    whole, loader = make(None, options)
    want = whole.fit(loader, dataset(32, 1), max_epochs=4)
    first, loader = make(tmp_path, options, StopAt(*at), workers=2)
    history = first.fit(loader, dataset(32, 1), max_epochs=4)
    assert history.interrupted == "SIGINT"
    assert len(history) == at[0]
    # Another process would start from other values: nothing but the checkpoint may matter.
    second, loader = make(tmp_path, options, seed=9)
    got = second.fit(loader, dataset(32, 1), max_epochs=4, resume="last")
    assert_same(weights(second.model), weights(whole.model))
    if whole.ema:
        assert_same(weights(second.ema.module), weights(whole.ema.module))
    for name in want:
        if name not in ("seconds", "images_per_second", "memory_MB"):
            assert got[name] == want[name], name
    assert second.global_step == whole.global_step


class Shuffled:
    """Batches whose order set_epoch() decides, of a loader that keeps no place within the epoch."""

    epoch = 0

    def __len__(self):
        return 6

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        data = dataset()
        order = np.random.default_rng(self.epoch).permutation(96)
        for k in range(0, 96, 16):
            yield data.normalize(data.images[order[k : k + 16]]).transpose(0, 3, 1, 2), data.labels[order[k : k + 16]]


@pytest.mark.parametrize("at", [(1, 2), (1, 5), (2, 0)], ids=str)
def test_rates_and_order_of_an_epoch_that_was_interrupted(tmp_path, at):
    def run(resume=None, *callbacks):
        t = trainer(
            scheduler="cosine", scheduler_interval="step", log_dir=tmp_path / ("b" if callbacks or resume else "a"),
            callbacks=[cb.LearningRateMonitor(log_momentum=True), Ends(), *callbacks],
        )  # fmt: skip
        return t.fit(Shuffled(), max_epochs=3, resume=resume), weights(t.model)

    class Ends(cb.Callback):
        def on_train_epoch_end(self, trainer):
            trainer.log("end", trainer.global_step)

    want, whole = run()
    assert run(None, StopAt(*at))[0].interrupted == "SIGINT"
    got, resumed = run("last")
    for name in ("lr_group0", "momentum_group0", "end", "train_loss", "lr"):
        assert got[name] == want[name], name
    assert_same(resumed, whole)


def test_looking_at_the_training_data_within_an_epoch_leaves_its_place_alone(tmp_path):
    class Look(cb.Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
            if batch_idx == 1:
                trainer.evaluate(trainer.train_loader)
                trainer.predict(trainer.train_loader)

    def run(resume=None, *callbacks):
        t = trainer(log_dir=tmp_path / ("b" if callbacks or resume else "a"), callbacks=[Look(), *callbacks])
        t.fit(DataLoader(dataset(), 16, shuffle=True, seed=3), max_epochs=3, resume=resume)
        return weights(t.model)

    whole = run()
    run(None, StopAt(1, 3))
    assert_same(run("last"), whole)


def test_the_bar_knows_how_many_images_a_sampler_gives():
    seen = []

    class Watch(cb.Callback):
        def on_train_epoch_end(self, trainer):
            seen.append((trainer.images_in_epoch, trainer.images_per_epoch))

    loader = DataLoader(dataset(), 16, sampler=list(range(40)))
    trainer(callbacks=[Watch()]).fit(loader, max_epochs=1)
    assert seen == [(40, 40)]


def test_more_epochs_after_the_end(tmp_path):
    whole, loader = make(None, {})
    whole.fit(loader, max_epochs=3)
    first, loader = make(tmp_path, {})
    first.fit(loader, max_epochs=1)
    second, loader = make(tmp_path, {}, seed=8)
    history = second.fit(loader, max_epochs=3, resume=str(tmp_path))
    assert len(history) == 3
    assert_same(weights(second.model), weights(whole.model))
    third, loader = make(tmp_path, {}, seed=7)
    assert len(third.fit(loader, max_epochs=3, resume="last")) == 3  # nothing left: the history of before
    assert_same(weights(third.model), weights(whole.model))


SCRIPT = """
import sys
import time
sys.path.insert(0, {here!r})
from test_trainer import *

class Slow(cb.Callback):
    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        print("step", trainer.global_step, flush=True)
        time.sleep({pause})

t, loader = make({out!r}, OPTIONS["everything"], Slow(), seed={seed})
t.checkpoint_every_n_steps = 1
t.fit(loader, dataset(32, 1), max_epochs=4, resume={resume!r})
"""


def start(tmp_path, resume, seed, pause=0.05):
    here = os.path.dirname(os.path.abspath(__file__))
    code = SCRIPT.format(here=here, out=str(tmp_path), resume=resume, seed=seed, pause=pause)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process, line):
    for text in process.stdout:
        if text.strip() == line:
            return
    raise AssertionError(process.stderr.read())


def test_sigterm_saves_and_exits(tmp_path):
    process = start(tmp_path, None, 1)
    wait_for(process, "step 2")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    found = fc.checkpoints.load_checkpoint(tmp_path / "last.safetensors")
    assert found.state["run"]["global_step"] >= 2


def test_signal_handlers_are_back_after_fit():
    class Look(cb.Callback):
        def __init__(self, fail=False):
            self.fail, self.during = fail, None

        def on_train_epoch_start(self, trainer):
            self.during = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
            if self.fail:
                raise RuntimeError("stop here")

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for look in (Look(), Look(fail=True)):
        t = trainer(callbacks=[look])
        if look.fail:
            with pytest.raises(RuntimeError, match="stop here"):
                t.fit(dataset(32), max_epochs=1)
        else:
            t.fit(dataset(32), max_epochs=1)
        assert look.during[0] is not before[0] and look.during[1] is not before[1]
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_message_says_how_to_resume(tmp_path):
    stream = io.StringIO()
    t, loader = make(tmp_path, {}, StopAt(0, 1))
    t.callbacks.append(fc.callbacks.ProgressBar(stream=stream))
    t.fit(loader, max_epochs=2)
    assert "stopped by SIGINT in epoch 1 after step 2" in stream.getvalue()
    assert "resume='last'" in stream.getvalue()


def test_resume_refuses_what_does_not_fit(tmp_path):
    t, loader = make(tmp_path, {"scheduler": "cosine"}, StopAt(0, 2))
    t.fit(loader, max_epochs=2)
    last = tmp_path / "last.safetensors"
    other, loader = make(tmp_path, {})
    with pytest.raises(ValueError, match=r"last.safetensors: cannot resume from it: .*scheduler"):
        other.fit(loader, max_epochs=2, resume="last")
    other, _ = make(tmp_path, {"scheduler": "cosine"})
    with pytest.raises(ValueError, match="batches of 16, the loader's have 8"):
        other.fit(DataLoader(dataset(), 8, shuffle=True, seed=4), max_epochs=2, resume="last")
    with pytest.raises(ValueError, match="averaged weights"):
        make(tmp_path, {"scheduler": "cosine", "ema_decay": 0.9})[0].fit(loader, max_epochs=2, resume=last)
    t.save(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="weights only"):
        other.fit(loader, resume=tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        other.fit(loader, resume=tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="needs a Trainer with log_dir"):
        make(None, {})[0].fit(loader, resume="last")
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.raises(ValueError, match="last.safetensors: damaged checkpoint"):
        other.fit(loader, resume="last")


def test_nan_loss_stops():
    t = trainer(lr=1e20)
    with pytest.raises(FloatingPointError, match="the loss is (nan|inf)"):
        t.fit(dataset(), max_epochs=5)
    t = trainer(lr=1e20, detect_nan=False)
    assert not np.isfinite(t.fit(dataset(), max_epochs=2)["train_loss"][-1])


def test_timer_stops_in_the_middle(tmp_path):
    t = trainer(callbacks=[cb.Timer(1e-6)], log_dir=tmp_path)
    history = t.fit(dataset(), max_epochs=50)
    assert history.stopped
    assert t.global_step == 1
    assert fc.checkpoints.load_checkpoint(tmp_path / "last.safetensors").state["run"]["batch"] == 1
    assert cb.Timer("00:01:00:30").duration == 3630


def test_progress_lines():
    stream = io.StringIO()
    t = trainer(callbacks=[fc.callbacks.ProgressBar(stream=stream)])
    t.fit(dataset(32), dataset(16, 1), max_epochs=2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2: loss ")
    assert "val accuracy" in lines[0]
    assert "images/s" in lines[0] and "more" not in lines[0]
    per_class = [m(average=None) for m in (fc.metrics.F1, fc.metrics.Precision, fc.metrics.Recall)]
    t = trainer(metrics=per_class, callbacks=t.callbacks)
    t.fit(dataset(32), dataset(16, 1), max_epochs=1)
    line = stream.getvalue().splitlines()[2]
    assert "f1_2" in line and "precision_2" in line and " and 3 more, lr " in line and "recall" not in line
    assert t.history["val_recall_2"][0] >= 0


def test_progress_bar_on_a_terminal():
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    t = trainer(callbacks=[fc.callbacks.ProgressBar(stream=stream)])
    t.fit(dataset(64), max_epochs=1)
    assert "epoch 1/1:" in stream.getvalue()
    assert "img/s" in stream.getvalue()


def test_plateau_scheduler_and_functions():
    t = trainer(
        optimizer=lambda params: fc.optim.SGD(params, lr=0.1),
        lr=None,
        loss=lambda out, target: fc.ops.cross_entropy(out, target) * 0.0 + 1.0,
        metrics="accuracy",
        scheduler=lambda o, steps: fc.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5, mode="max"),
        monitor="train_accuracy",
    )
    history = t.fit(dataset(32), max_epochs=3)
    assert history["lr"] == [0.1, 0.1, 0.05]
    assert "train_accuracy" in history


def test_regression_and_iterables():
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((8, 4)).astype(np.float32),) * 2 for _ in range(5)]
    t = fc.Trainer(fc.nn.Linear(4, 4), "adam", 0.05, loss="mse", progress=False)
    history = t.fit(batches, batches, max_epochs=20)
    assert set(history) == {"train_loss", "val_loss", "lr", "images_per_second", "seconds", "memory_MB"}
    assert history["val_loss"][-1] < 0.2 * history["val_loss"][0]
    fit = t.fit((b for b in batches), max_epochs=1)
    assert len(fit) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "8-mixed"}, "expected precision 32-true, bf16-mixed, 16-mixed, got '8-mixed'"),
        ({"precision": "8"}, "expected precision 32-true"),
        ({"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"label_smoothing": 1.5}, "label_smoothing in"),
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing goes with"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches"),
        ({"gradient_clip_val": 0}, "gradient_clip_val > 0"),
        ({"ema_decay": 1.0}, "ema_decay between"),
        ({"lr": -1}, "expected lr >= 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)


def test_bad_data():
    with pytest.raises(ValueError, match="scheduler None, 'onecycle'"):
        trainer(scheduler="one").fit(dataset(16), max_epochs=1)
    with pytest.raises(ValueError, match=r"expected batches \(images, targets\)"):
        trainer().fit([np.zeros((2, 1, 8, 8), np.float32)], max_epochs=1)
    with pytest.raises(ValueError, match="gave no batch"):
        trainer().fit([], max_epochs=1)
    with pytest.raises(ValueError, match="max_epochs as an int of at least 1"):
        trainer().fit(dataset(16), max_epochs=0)
    with pytest.raises(TypeError, match="expected a dataset or a loader, got int"):
        trainer().fit(3)
    with pytest.raises(ValueError, match="at least one image"):
        trainer().evaluate([])
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\)"):
        trainer().predict(np.zeros((8, 8), np.float32))
    wrong = [(np.zeros((2, 1, 8, 8), np.float32), np.array([0, 7]))]
    with pytest.raises((ValueError, IndexError), match="cross_entropy"):
        trainer().fit(wrong, max_epochs=1)
