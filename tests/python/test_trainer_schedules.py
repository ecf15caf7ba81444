"""Trainer: warm-up, plateaus, who counts steps; targets that do not count; states of callbacks; options told early."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import callbacks as cb
from fastcnn.data import ArrayDataset, DataLoader
from fastcnn.optim import lr_scheduler as S
from test_trainer import dataset, net, trainer, weights


class Rates(cb.Callback):
    """The rate of each optimizer step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, batch, batch_idx):
        self.seen.append(trainer.optimizer.param_groups[0]["lr"])


class StopAfter(cb.Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_end(self, trainer):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def rates(epochs=4, **options):
    watch = Rates()
    trainer(callbacks=[watch], **options).fit(dataset(), dataset(48, 1), max_epochs=epochs)
    return np.array(watch.seen) / 0.05


def test_warmup_rises_in_steps_and_the_schedule_follows():
    constant, cosine, steps = (rates(scheduler=s, warmup_steps=5) for s in (None, "cosine", "step"))
    rise = np.arange(1, 7) / 6
    for got in (constant, cosine, steps):
        np.testing.assert_allclose(got[:6], rise)
    assert (constant[5:] == 1).all()
    t = np.arange(19)
    np.testing.assert_allclose(cosine[5:], (1 + np.cos(np.pi * t / 19)) / 2)
    np.testing.assert_allclose(steps[5:], np.select([t < 7, t < 13], [1, 0.1], 0.01))


@pytest.mark.parametrize("scheduler", ["onecycle", "plateau", lambda o, n: S.StepLR(o, 3)])
def test_warmup_goes_with_schedules_that_begin_at_the_full_rate(scheduler):
    with pytest.raises(ValueError, match="warmup_steps goes with scheduler None, 'cosine' or 'step'"):
        rates(scheduler=scheduler, warmup_steps=3)
    with pytest.raises(ValueError, match=r"below the 24 steps of fit\(\), got 24"):
        rates(scheduler="cosine", warmup_steps=24)


def test_plateau_looks_at_what_its_mode_wants():
    for scheduler in ("plateau", lambda o, n: S.ReduceLROnPlateau(o, patience=1)):
        assert (rates(6, scheduler=scheduler) == 1).all()  # the loss falls while accuracy rises
    with pytest.raises(ValueError, match="monitor='val_accuracy' is to rise, and ReduceLROnPlateau has mode='min'"):
        rates(scheduler="plateau", monitor="val_accuracy")
    with pytest.raises(ValueError, match="expected scheduler_interval 'epoch' for ReduceLROnPlateau"):
        rates(scheduler="plateau", scheduler_interval="step")


def test_a_length_in_steps_that_is_counted_in_epochs_is_told():
    with pytest.warns(UserWarning, match="stepped once per epoch .4 epochs. and has a length of 24"):
        rates(scheduler=lambda o, n: S.CosineAnnealingLR(o, n))
    got = rates(scheduler=lambda o, n: S.CosineAnnealingLR(o, n), scheduler_interval="step")
    np.testing.assert_allclose(got, (1 + np.cos(np.pi * np.arange(24) / 24)) / 2)


SCHEDULES = {
    "step": lambda o: S.StepLR(o, 1, 0.5),
    "multistep": lambda o: S.MultiStepLR(o, [1, 2]),
    "exponential": lambda o: S.ExponentialLR(o, 0.5),
    "cosine": lambda o: S.CosineAnnealingLR(o, 4),
    "restarts": lambda o: S.CosineAnnealingWarmRestarts(o, 2),
    "warmup": lambda o: S.LinearWarmup(o, 4),
    "linear": lambda o: S.LinearLR(o),
    "constant": lambda o: S.ConstantLR(o, total_iters=2),
    "polynomial": lambda o: S.PolynomialLR(o, 4),
    "lambda": lambda o: S.LambdaLR(o, lambda t: 0.5**t),
    "onecycle": lambda o: S.OneCycleLR(o, 0.1, 12),
    "sequential": lambda o: S.SequentialLR(o, [S.LinearLR(o, total_iters=2), S.ExponentialLR(o, 0.5)], [2]),
    "plateau": lambda o: S.ReduceLROnPlateau(o, patience=0, factor=0.5, mode="max"),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_second_fit_begins_a_schedule_anew(kind, tmp_path):
    def make(folder=None):
        model, watch = net(), Rates()
        optimizer = fc.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        made = SCHEDULES[kind](optimizer)
        options = {"loss": lambda out, y: 0.0 * out.sum() + 1.0, "monitor": "train_accuracy", "log_dir": folder}
        options |= {"metrics": "accuracy", "lr": None, "callbacks": [watch], "batch_size": 32}
        return trainer(model, optimizer=optimizer, scheduler=made, **options), watch

    t, watch = make()
    for _ in range(2):
        t.fit(dataset(), max_epochs=4)
    once, again = np.array(watch.seen).reshape(2, -1)
    assert len(set(once)) > 1
    np.testing.assert_array_equal(once, again)
    # A resume is no beginning.
    first, _ = make(tmp_path)
    first.callbacks.append(StopAfter(2))
    first.fit(dataset(), max_epochs=4)
    second, watch = make(tmp_path)
    second.fit(dataset(), max_epochs=4, resume="last")
    np.testing.assert_array_equal(watch.seen, once[6:])
    watch.seen.clear()
    second.fit(dataset(), max_epochs=2)
    np.testing.assert_array_equal(watch.seen, once[:6])


# ---------------------------------------------------------------- targets that do not count


def masks(n=24, classes=3, seed=0, ignored=255):
    """Pictures of vertical bands whose masks say nothing about the upper half."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(rng.integers(0, classes, (n, 1, 4)), 8, 1).repeat(2, 2)
    images = (80 * ids).astype(np.uint8)
    ids = ids.astype(np.int64)
    ids[:, :4] = ignored
    return ArrayDataset(images, ids, num_classes=classes, ignore_index=ignored)


def painter(seed=1):
    fc.manual_seed(seed)
    return fc.nn.Sequential(fc.nn.Conv2d(1, 16, 1), fc.nn.ReLU(), fc.nn.Conv2d(16, 3, 1))


@pytest.mark.parametrize("loss", ["cross_entropy", "dice"])
def test_ids_that_the_dataset_ignores_count_nowhere(loss):
    t = trainer(painter(), loss=loss, optimizer="adam", lr=0.05, metrics=["accuracy", "mean_iou"])
    history = t.fit(masks(), masks(seed=1), max_epochs=30)
    assert t.ignore_index == 255
    assert history["val_accuracy"][-1] > 0.99 and history["train_accuracy"][-1] > 0.99
    assert history["val_mean_iou"][-1] > 0.98
    found = trainer(t.model, loss=loss, metrics=["accuracy"], ignore_index=255).evaluate(masks(seed=1))
    assert found["accuracy"] == pytest.approx(history["val_accuracy"][-1])
    assert found["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)


@pytest.mark.parametrize("loss", ["focal", "bce"])
def test_a_loss_that_would_count_ignored_ids_is_refused(loss):
    for call in ("fit", "evaluate"):
        t = trainer(painter(), loss=loss, metrics=())
        with pytest.raises(ValueError, match=f"ignore_index=255 goes with the losses cross_entropy, .* got '{loss}'"):
            getattr(t, call)(masks())
        assert t.ignore_index is None


def test_an_ignored_class_counts_nowhere_even_where_it_is_predicted():
    data = masks(ignored=1)
    t = trainer(painter(), metrics=["accuracy"], ignore_index=1)
    ids = np.stack([data[i][1] for i in range(len(data))])
    predicted = t.predict(np.stack([data[i][0] for i in range(len(data))])).argmax(1)
    counts = ids != 1
    want = (predicted == ids)[counts].mean()
    assert t.evaluate(data)["accuracy"] == pytest.approx(want)
    with pytest.raises(ValueError, match="ignore_index=1 goes with the losses cross_entropy, nll, dice"):
        trainer(painter(), loss="mse", ignore_index=1)


def test_focal_loss_takes_class_ids():
    history = trainer(loss="focal", metrics=["accuracy"]).fit(dataset(), dataset(48, 1), max_epochs=6)
    assert history["val_accuracy"][-1] > 0.9
    x, y = fc.randn((4, 3)), np.array([0, 2, 1, 1])
    ids = fc._steps.get_loss("focal")[0](x, fc.tensor(y)).item()
    whole = fc.ops.focal_loss(x, fc.tensor(np.eye(3, dtype=np.float32)[y])).item()
    assert ids == pytest.approx(3 * whole, rel=1e-6)


def test_two_accuracies_are_not_one():
    t = trainer(metrics=["accuracy", fc.metrics.Accuracy(ignore_index=2)])
    with pytest.raises(ValueError, match="two of the metrics give accuracy"):
        t.evaluate(dataset())


# ---------------------------------------------------------------- callbacks and options


def test_a_loader_that_ends_early_leaves_no_half_step():
    class Short:
        """Five batches where six were promised, as where damaged files are left out."""

        def __init__(self):
            self.batches = list(DataLoader(dataset(80), 16))

        def __len__(self):
            return 6

        def __iter__(self):
            return iter(self.batches)

    seen = []

    class Watch(cb.Callback):
        def on_epoch_end(self, t):
            seen.append(([p.grad is None or not np.any(p.grad.numpy()) for p in t.model.parameters()], t.global_step))

    trainer(accumulate_grad_batches=2, callbacks=[Watch()]).fit(Short(), max_epochs=2)
    assert [step for _, step in seen] == [2, 4] and all(all(clean) for clean, _ in seen)


def test_states_of_callbacks_find_their_own_kind(tmp_path, capsys):
    stop = cb.EarlyStopping("val_loss", patience=50)
    trainer(log_dir=tmp_path, callbacks=[stop]).fit(dataset(), dataset(48, 1), max_epochs=2)
    again, other = cb.EarlyStopping("val_loss", patience=50), cb.LearningRateMonitor()
    t = trainer(log_dir=tmp_path, callbacks=[cb.Timer(), other, again])
    t.fit(dataset(), dataset(48, 1), max_epochs=3, resume="last")
    assert again.best is not None and again.best <= stop.best
    trainer(log_dir=tmp_path, progress=True).fit(dataset(), dataset(48, 1), max_epochs=4, resume="last")
    assert "states of callbacks that are not there: Timer, EarlyStopping" in capsys.readouterr().err


def test_dry_runs_see_what_whole_runs_see():
    for options in ({"fast_dev_run": True}, {"overfit_batches": 2}):
        before = weights(net())
        t = trainer(callbacks=[cb.Mixup()], **options)  # learns the number of classes from the dataset
        t.fit(dataset(), dataset(48, 1), max_epochs=1)
        assert any((weights(t.model)[k] != v).any() for k, v in before.items())
    a, b = dataset(), dataset(48, 1)
    a.classes, b.classes = ["x", "y", "z"], ["x", "z", "y"]
    with pytest.raises(ValueError, match="another order"):
        trainer(fast_dev_run=True).fit(a, b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu"}, ValueError, "expected device auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"overfit_batches": 0.5}, ValueError, "expected overfit_batches as an int of at least 0, got 0.5"),
        ({"callbacks": cb.Timer()}, TypeError, "expected callbacks as a list, got Timer"),
        ({"param_rules": {"6.*": {"lrscale": 2}}}, ValueError, r"param_rules\['6.\*'\] sets lrscale; sgd has lr_scale"),
        ({"scheduler": "cosin"}, ValueError, "expected scheduler None, 'onecycle', 'cosine'"),
        ({"monitor": "val_acc"}, ValueError, "no metric 'val_acc' to monitor; did you mean 'val_accuracy'"),
    ],
)
def test_wrong_options_are_told_before_training(options, error, message):
    steps = Rates()
    with pytest.raises(error, match=message):
        t = trainer(**{"callbacks": [steps], **options})
        t.fit(dataset(), dataset(48, 1), max_epochs=2)
    assert not steps.seen
    with pytest.raises(TypeError, match="expected a Module as model, got NoneType"):
        fc.Trainer(None)
    with pytest.raises(ValueError, match="max_epochs as an int of at least 1, got '3'"):
        trainer().fit(dataset(), max_epochs="3")
