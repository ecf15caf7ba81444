"""Trainer's steps: own training and validation steps, clipping, groups, functions as metrics, where a NaN began."""

import collections
import errno
import os
import time

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import callbacks as cb
from fastcnn import metrics, nn, ops
from test_trainer import assert_same, dataset, net, trainer, weights


def plain_step(model, batch):
    x, y = batch
    return ops.cross_entropy(model(x), y)


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "ema_decay": 0.9, "gradient_clip_val": 0.5}])
def test_own_step_equals_the_usual_one(compile, options):
    usual = trainer(compile=compile, **options)
    own = trainer(compile=compile, training_step=plain_step, **options)
    a, b = (t.fit(dataset(), dataset(32, 1), max_epochs=2) for t in (usual, own))
    assert_same(weights(usual.model), weights(own.model))
    assert a["train_loss"] == b["train_loss"] and a["val_accuracy"] == b["val_accuracy"]
    assert "train_accuracy" in a and "train_accuracy" not in b  # what it predicts is not known


def test_own_steps_take_any_batch_and_report_what_they_return(tmp_path):
    data = dataset(48)
    images = data.normalize(data.images).transpose(0, 3, 1, 2)
    parts = [slice(i, i + 16) for i in (0, 16, 32)]
    batches = [{"image": images[p], "target": {"label": data.labels[p]}} for p in parts]

    def step(model, batch):
        scores = model(batch["image"])
        loss = ops.cross_entropy(scores, batch["target"]["label"])
        return {"loss": loss, "spread": scores.max() - scores.min(), "twice": 2 * loss}

    for compile in (True, False):
        t = trainer(training_step=step, validation_step=step, compile=compile, log_dir=tmp_path / str(compile))
        history = t.fit(batches, batches, max_epochs=3)
        np.testing.assert_allclose(history["train_twice"], 2 * np.array(history["train_loss"]), rtol=1e-6)
        np.testing.assert_allclose(history["val_twice"], 2 * np.array(history["val_loss"]), rtol=1e-6)
        assert history["val_loss"][-1] < history["val_loss"][0] and history["val_spread"][-1] > 0
        assert t.evaluate(batches) == {k.removeprefix("val_"): v[-1] for k, v in history.items() if k[:4] == "val_"}
        assert "train_spread" in (tmp_path / str(compile) / "metrics.csv").read_text()


def test_own_step_is_resumed_bit_for_bit(tmp_path):
    def step(model, batch):
        return {"loss": plain_step(model, batch), "count": fc.ones(())}

    def run(folder, epochs, resume=None):
        t = trainer(net(0.2), training_step=step, log_dir=folder, seed=3)
        return t.fit(dataset(), max_epochs=epochs, resume=resume), weights(t.model)

    whole, want = run(tmp_path / "a", 3)
    run(tmp_path / "b", 1)
    again, got = run(tmp_path / "b", 3, "last")
    assert_same(want, got)
    assert whole["train_count"] == again["train_count"] == [1.0] * 3


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda m, b: 3.0, "scalar loss, got float"),
        (lambda m, b: m(b[0]), r"scalar loss, got shape \(16, 3\)"),
        (lambda m, b: {"los": plain_step(m, b)}, r"dict with 'loss', got keys \['los'\]"),
        (lambda m, b: {"loss": plain_step(m, b), "x": 1}, "scalar tensors in the dict of training_step, got x=1"),
    ],
)
def test_what_own_steps_return_is_checked(step, message):
    with pytest.raises(ValueError, match=message):
        trainer(training_step=step).fit(dataset(16), max_epochs=1)


def test_options_that_do_not_go_together():
    with pytest.raises(TypeError, match="training_step as f"):
        trainer(training_step=3)
    with pytest.raises(ValueError, match="with validation_step return them in its dict"):
        trainer(validation_step=plain_step, metrics=["f1"])
    with pytest.raises(ValueError, match="'norm' or 'value', got 'size'"):
        trainer(gradient_clip_algorithm="size")
    with pytest.raises(ValueError, match="num_sanity_val_steps"):
        trainer(num_sanity_val_steps=-1)
    model = net()
    for optimizer in (fc.optim.SGD(model.parameters(), 0.1), lambda p: fc.optim.SGD(p, 0.1)):
        with pytest.raises(ValueError, match="param_rules"):
            fc.Trainer(model, optimizer, param_rules={"6.*": {"lr": 1}}, progress=False)


@pytest.mark.parametrize("compile", [True, False])
def test_clipping_by_value_bounds_each_gradient(compile):
    model = net()
    before = weights(model)
    options = dict(lr=1.0, momentum=0.0, weight_decay=0.0, gradient_clip_val=1e-3, compile=compile)
    trainer(model, gradient_clip_algorithm="value", **options).fit(dataset(16), max_epochs=1)
    moved = {n: np.abs(weights(model)[n] - before[n]) for n, _ in model.named_parameters()}
    assert max(m.max() for m in moved.values()) == pytest.approx(1e-3, rel=1e-3)
    assert sum((m > 0.9e-3).sum() for m in moved.values()) > 50  # by norm it would be a few at most


def test_groups_of_an_optimizer_by_name():
    t = trainer(lr=0.1, weight_decay=0.01, param_rules={"6.*": {"lr_scale": 5}, "*.bias": {"weight_decay": 0.0}})
    found = {(round(g["lr"], 6), g["weight_decay"], len(g["params"])) for g in t.optimizer.param_groups}
    assert found == {(0.1, 0.01, 2), (0.1, 0.0, 2), (0.5, 0.01, 1), (0.5, 0.0, 1)}
    decayed = fc.Trainer(net(), "adamw", layer_decay=0.5, progress=False)
    assert sorted(g["lr"] for g in decayed.optimizer.param_groups) == pytest.approx([2.5e-4, 5e-4, 1e-3])
    scheduled = trainer(layer_decay=0.5, scheduler="onecycle", callbacks=[cb.LearningRateMonitor()])
    history = scheduled.fit(dataset(), max_epochs=2)
    assert history["lr_group0"][0] / history["lr_group2"][0] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="no parameter of Sequential is named 'layer9'"):
        trainer(param_rules={"layer9": {}})


def test_functions_are_losses_and_metrics():
    def right(output, target):
        return (output.argmax(1) == target).mean()

    def squared(output, target):
        return ops.mse_loss(ops.softmax(output, 1), ops.one_hot(target, 3).to("float32"))

    t = trainer(loss=squared, metrics=["accuracy", right, "f1"], batch_size=20)
    history = t.fit(dataset(), dataset(50, 1), max_epochs=2)  # 20 + 20 + 10: the mean is over images
    assert history["val_right"] == pytest.approx(history["val_accuracy"])
    assert history["train_loss"][-1] < history["train_loss"][0]
    with pytest.raises(ValueError, match=r"metric column to return a number, got shape \(16, 3\)"):
        trainer(metrics=[right, column]).fit(dataset(16), dataset(16), max_epochs=1)


Pair = collections.namedtuple("Pair", "scores means")
FORMS = {
    "dict": lambda scores, means: {"scores": scores, "more": [means, None]},
    "tuple": lambda scores, means: (scores, means),
    "named tuple": Pair,
}


class Several(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.net, self.form = net(), form

    def forward(self, x):
        return self.form(self.net(x), x.mean((2, 3)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("form", FORMS)
def test_models_may_return_several_tensors(form, precision):
    def scores(output):
        return output["scores"] if form == "dict" else output[0]

    def right(output, target):
        return (scores(output).argmax(1) == target).mean()

    def loss(output, target):
        return ops.cross_entropy(scores(output), target)

    t = trainer(Several(FORMS[form]), loss=loss, metrics=[right], precision=precision)
    history = t.fit(dataset(40), dataset(40, 1), max_epochs=2)
    found = t.predict(dataset(40, 1))  # 16 + 16 + 8
    assert right(found, dataset(40, 1).labels) == pytest.approx(history["val_right"][-1])
    means = found["more"][0] if form == "dict" else found[1]
    assert scores(found).shape == (40, 3) and scores(found).dtype == means.dtype == np.float32
    assert type(found) is type(FORMS[form](0, 0)) and means.shape == (40, 1)
    assert form != "dict" or found["more"][1] is None


def test_what_a_loss_is_given_and_returns_is_checked():
    both = Several(FORMS["tuple"])
    for options, message in [
        ({}, r"loss='cross_entropy' expects one tensor from the model, got a tuple \(Tensor, Tensor\); pass loss=f"),
        ({"loss": "focal", "metrics": ()}, "loss='focal' expects one tensor"),
        ({"loss": lambda output, target: 3.0}, "expected loss to return a scalar loss, got float"),
        ({"loss": lambda output, target: output[1]}, r"expected loss to return a scalar loss, got shape \(16, 1\)"),
    ]:
        for call in ("fit", "evaluate"):
            with pytest.raises(ValueError, match=message):
                getattr(trainer(both, **options), call)(dataset(16))
    with pytest.raises(ValueError, match=r"got a dict \(scores, more\)"):
        trainer(Several(FORMS["dict"])).fit(dataset(16), max_epochs=1)


def column(output, target):
    return output


class BoxOfClass(metrics.MeanAveragePrecision):
    """Detections of one box per image, whose place is the class: what a net for boxes would give."""

    def update(self, pred, target):
        boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]], float)
        found = [{"boxes": boxes[[s.argmax()]], "scores": s.max(keepdims=True), "labels": [0]} for s in pred]
        super().update(found, [{"boxes": boxes[[t]], "labels": [0]} for t in target])


def test_metrics_of_several_numbers_have_a_column_for_each(tmp_path):
    per_class = metrics.MeanIoU(average=None)
    t = trainer(metrics=["accuracy", BoxOfClass(), per_class, "confusion_matrix"], log_dir=tmp_path)
    history = t.fit(dataset(), dataset(50, 1), max_epochs=3)
    assert history["val_map_50"][-1] == history["val_map_75"][-1] == history["val_map"][-1] > 0.9  # of all or nothing
    assert history["val_accuracy"][-1] > 0.9
    last = [history[f"val_mean_iou_{k}"][-1] for k in range(3)]
    np.testing.assert_allclose(last, per_class.compute())
    found = t.evaluate(dataset(50, 1))
    assert found["map_50"] == history["val_map_50"][-1] and [found[f"mean_iou_{k}"] for k in range(3)] == last
    assert "confusion_matrix" not in found  # a table
    both = trainer(t.model, metrics=[metrics.MeanIoU(), metrics.MeanIoU(average=None)]).evaluate(dataset(50, 1))
    assert both["mean_iou"] == pytest.approx(np.mean(last))
    with pytest.raises(ValueError, match="two of the metrics give mean_iou"):
        trainer(metrics=[metrics.MeanIoU(), "mean_iou"]).evaluate(dataset(16))
    columns = (tmp_path / "metrics.csv").read_text().split("\n")[0].split(",")
    assert {"val_map", "val_map_50", "val_mean_iou_2"} < set(columns)
    t = trainer(metrics=[BoxOfClass()], monitor="val_map_50")
    t.fit(dataset(), dataset(50, 1), max_epochs=2)
    assert t.best_score == max(t.history["val_map_50"])


def one_hot(data):
    """Targets of the shape of scores, as focal and the like take."""
    images = data.normalize(data.images).transpose(0, 3, 1, 2)
    target = np.eye(3, dtype=np.float32)[data.labels]
    return [(images[i : i + 16], target[i : i + 16]) for i in range(0, len(images), 16)]


@pytest.mark.parametrize("loss", ["focal", "bce", "bce_with_logits", "mse", "dice", "margin", "cross_entropy"])
def test_losses_by_name_train_a_net(loss):
    data = dataset() if loss in ("dice", "margin", "cross_entropy") else one_hot(dataset())
    t = trainer(loss=loss, optimizer="adamw", lr=3e-3, metrics=["accuracy"])
    history = t.fit(data, max_epochs=4)
    assert history["train_loss"][-1] < history["train_loss"][0] and history["train_accuracy"][-1] > 0.6


class Spoil(cb.Callback):
    """Changes the training at one step."""

    def __init__(self, step, change):
        self.step, self.change = step, change

    def on_train_batch_start(self, t, batch, batch_idx):
        if t.global_step == self.step:
            self.change(t.model, batch)


def overflow(model, batch):
    model[6].weight.detach().copy_(fc.full((3, 128), 3e38))


class Root(nn.Module):
    """The square root of what is below zero is NaN; at zero it has an infinite gradient."""

    def forward(self, x):
        return ops.sqrt(x)


@pytest.mark.parametrize("compile", [True, False])
def test_nan_guard_names_the_layer(compile):
    def fails(model, spoil, message, **options):
        t = trainer(model, callbacks=[spoil] if spoil else [], compile=compile, **options)
        with pytest.raises(FloatingPointError, match=message):
            t.fit(dataset(), max_epochs=3)

    fails(net(), Spoil(4, overflow), r"step 5: the first layer with NaN or infinity is 6 \(Linear\): \d+ of 48 values")
    inner = nn.Sequential(nn.Conv2d(4, 4, 3), Root())
    deep = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), inner, nn.Flatten(), nn.Linear(64, 3))
    fails(deep, None, r"step 1: the first layer with NaN or infinity is 2\.1 \(Root\)")
    # A gradient of infinity at zero: the loss is finite, the weights below are lost.
    zero = nn.Sequential(nn.Conv2d(1, 4, 3), Root(), nn.Flatten(), nn.Linear(144, 3))
    for p in zero[0].parameters():
        nn.init.zeros_(p)
    fails(zero, None, r"step 2: the step before made weights non-finite, in 2 tensors from 0\.weight to 0\.bias")
    fails(net(), Spoil(2, lambda m, b: b[0].__setitem__(3, np.nan)), r"the batch itself has 64 NaN .* in its images 3")


def test_nan_guard_costs_little_and_leaves_the_result_alone():
    guarded, plain = (trainer(net(), detect_nan=d) for d in (True, False))
    a, b = (t.fit(dataset(), max_epochs=3) for t in (guarded, plain))
    assert_same(weights(guarded.model), weights(plain.model))
    assert a["train_loss"] == b["train_loss"]


def test_a_loss_that_is_not_finite_by_itself_is_told_so():
    def log_of_zero(output, target):
        return ops.log(ops.relu(output).sum() * 0.0)

    with pytest.raises(FloatingPointError, match="all layers give finite values, the loss itself is not finite"):
        trainer(loss=log_of_zero).fit(dataset(16), max_epochs=1)


def test_validation_is_tried_before_training():
    calls = []

    class Watch(cb.Callback):
        def on_train_batch_start(self, t, batch, batch_idx):
            calls.append(batch_idx)

    wrong = dataset(32)
    with pytest.raises(ValueError, match="top5: expected at least 5 classes"):
        trainer(metrics=["top5"], callbacks=[Watch()]).fit(dataset(), wrong, max_epochs=1)
    assert not calls
    with pytest.raises(ValueError, match="top5"):
        trainer(metrics=["top5"], callbacks=[Watch()], num_sanity_val_steps=0).fit(dataset(), wrong, max_epochs=1)
    assert calls
    one, two = trainer(num_sanity_val_steps=2), trainer(num_sanity_val_steps=0)
    a, b = (t.fit(dataset(), dataset(48, 1), max_epochs=2) for t in (one, two))
    assert_same(weights(one.model), weights(two.model))
    assert a["val_loss"] == b["val_loss"]


def test_rows_tell_time_speed_and_memory(tmp_path):
    history = trainer(log_dir=tmp_path).fit(dataset(), max_epochs=2)
    assert all(v > 0 for name in ("seconds", "images_per_second", "memory_MB") for v in history[name])
    assert history["memory_MB"][0] <= history["memory_MB"][1] < 20_000
    columns = (tmp_path / "metrics.csv").read_text().split("\n")[0].split(",")
    assert {"seconds", "images_per_second", "memory_MB"} <= set(columns)


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    started = []

    class Watch(cb.Callback):
        def on_fit_start(self, t):
            started.append(True)

    with pytest.raises(OSError, match="cannot write to .*file/run"):
        trainer(log_dir=tmp_path / "file" / "run", callbacks=[Watch()]).fit(dataset(16), max_epochs=1)
    assert not started


def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    class Full(cb.Callback):
        def on_train_epoch_end(self, t):
            if t.current_epoch == 1:
                monkeypatch.setattr(os, "fsync", full)

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    t = trainer(log_dir=tmp_path, callbacks=[Full()])
    with pytest.raises(OSError, match="No space left"):
        t.fit(dataset(32), max_epochs=3)
    monkeypatch.undo()
    assert not [n for n in os.listdir(tmp_path) if n.endswith(".tmp")]
    assert fc.checkpoints.load_checkpoint(tmp_path / "last.safetensors").state["run"]["epoch"] == 1
    assert len(trainer(net(), log_dir=tmp_path).fit(dataset(32), max_epochs=2, resume="last")) == 2


def test_a_step_costs_less_than_a_millisecond_of_python():
    """CPU time of the loop with everything on, for a net whose plan takes some microseconds."""
    x, y = np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    t = trainer(model, scheduler="cosine", callbacks=[cb.LearningRateMonitor(), cb.Timer()])
    t.fit([(x, y)] * 20, max_epochs=1)
    best = 1.0
    for _ in range(3):
        began = time.thread_time()
        t.fit([(x, y)] * 300, max_epochs=1)
        best = min(best, (time.thread_time() - began) / 300)
    assert best < 1e-3


def test_accuracy_of_probabilities_counts_every_pixel():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (16, 8, 8))
    soft = np.eye(3, dtype=np.float32)[ids].transpose(0, 3, 1, 2)
    images = rng.random((16, 1, 8, 8), dtype=np.float32)
    rows = []
    for targets in (ids, soft):
        t = trainer(fc.nn.Conv2d(1, 3, 1), batch_size=8, lr=0.0)
        t.model.load_state_dict({"weight": fc.ones((3, 1, 1, 1)), "bias": fc.tensor(np.float32([0, 1, 0]))})
        history = t.fit([(images, targets)], [(images, targets)], max_epochs=1)
        rows.append((history["train_accuracy"], history["val_accuracy"]))
    share = [float((ids == 1).mean())]
    assert rows == [(share, share)] * 2


def test_one_logit_has_no_class_of_highest_score():
    data = dataset(32)
    data.labels = (data.labels > 0).astype(np.float32)[:, None]
    model = fc.nn.Sequential(fc.nn.Flatten(), fc.nn.Linear(64, 1))
    with pytest.raises(ValueError, match=r"accuracy: expected scores of two classes or more, got \(16, 1\)"):
        trainer(model, loss="bce", metrics=["accuracy"]).fit(data, max_epochs=1)
    for name in ("accuracy", "f1", "top1"):
        with pytest.raises(ValueError, match=r"expected scores of two classes or more, got pred \(4, 1\)"):
            metrics.get_metric(name).update(np.ones((4, 1)), np.ones((4, 1)))
    own = trainer(model, loss="bce", metrics=[lambda output, target: ((output > 0) == (target > 0.5)).mean()])
    assert own.fit(data, data, max_epochs=20)["val_lambda"][-1] > 0.9
    with pytest.raises(TypeError, match="got the class CrossEntropyLoss"):
        trainer(loss=fc.nn.CrossEntropyLoss)


def test_modes_of_single_layers_are_as_before():
    t = trainer(net(0.2))
    t.model[1].eval()  # a norm whose statistics are to stay
    modes = [m.training for m in t.model.modules()]
    t.evaluate(dataset(32))
    assert [m.training for m in t.model.modules()] == modes
    t.predict(np.zeros((2, 1, 8, 8), np.float32))
    t.lr_find(dataset(32), num_steps=10)
    assert [m.training for m in t.model.modules()] == modes


def test_logged_numbers_of_any_kind_go_into_all_files(tmp_path):
    class Log(cb.Callback):
        def on_train_epoch_end(self, t):
            for name, value in (("f", np.float32(1.5)), ("i", np.int64(3)), ("t", fc.tensor(2.5)), ("a", np.ones(1))):
                t.log(name, value)
            t.log("large", 1e300)

    t = trainer(log_dir=tmp_path, callbacks=[Log(), cb.TensorBoard()])
    history = t.fit(dataset(32), max_epochs=1)
    assert [history[k][0] for k in "fita"] == [1.5, 3, 2.5, 1.0]
    again = trainer(log_dir=tmp_path).fit(dataset(32), max_epochs=1, resume="last")
    assert {k: again[k] for k in (*"fita", "large")} == {k: history[k] for k in (*"fita", "large")}
    with pytest.raises(ValueError, match=r"log: expected x as one number, got shape \(2,\)"):
        t.log("x", np.ones(2))


def test_predict_takes_batches_as_dicts_and_volumes():
    images = dataset(8).raw_batch(np.arange(8))[0].astype(np.float32).transpose(0, 3, 1, 2)
    t = trainer()
    same = t.predict([{"image": images[:4], "label": np.zeros(4)}, {"image": images[4:], "label": np.zeros(4)}])
    np.testing.assert_array_equal(same, t.predict([images[:4], images[4:]]))
    volumes = np.random.default_rng(0).standard_normal((3, 1, 4, 4, 4)).astype(np.float32)
    net = fc.nn.Sequential(fc.nn.Conv3d(1, 2, 3), fc.nn.Flatten())
    found = fc.Trainer(net, progress=False, batch_size=2).predict(volumes)
    np.testing.assert_allclose(found, net(fc.tensor(volumes)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_accuracy_of_numbers_and_mixing_of_three_fields_say_what_they_expect():
    x, y = np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.float32)
    t = fc.Trainer(net(), "sgd", loss=lambda o, y: ((o[:, 0] - y) ** 2).mean(), metrics="accuracy", progress=False)
    with pytest.raises(ValueError, match=r"accuracy: expected class ids of shape \(4,\) .* got float32"):
        t.fit([(x, y)], max_epochs=1)
    with pytest.raises(ValueError, match=r"Mixup: expected batches \(images, targets\), got 3 fields"):
        trainer(callbacks=[cb.Mixup(num_classes=3)]).fit([(x, y, y)], max_epochs=1)
