"""Callbacks of the Trainer: their order, early stopping, checkpoints and their names, metrics.csv, states on resume."""

import csv
import os

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import callbacks as cb
from test_trainer import assert_same, dataset, trainer, weights


def test_callbacks_are_called_in_order():
    calls = []

    class Log(cb.Callback):
        pass

    for name in [n for n in vars(cb.Callback) if n.startswith("on_")]:
        setattr(Log, name, lambda self, *a, _n=name: calls.append(_n))
    trainer(callbacks=[Log()]).fit(dataset(32), dataset(16, 1), max_epochs=1)
    assert calls == [
        "on_fit_start", "on_train_epoch_start", *["on_train_batch_start", "on_train_batch_end"] * 2,
        "on_train_epoch_end", "on_validation_start", "on_validation_end", "on_epoch_end", "on_fit_end",
    ]  # fmt: skip


def test_early_stopping_and_top_k(tmp_path):
    class Fake(cb.Callback):
        values = [0.5, 0.4, 0.6, 0.3, 0.35, 0.36, 0.2]

        def on_validation_end(self, trainer):
            trainer.log("score", self.values[trainer.current_epoch])

    keep = cb.ModelCheckpoint(tmp_path / "top", monitor="score", mode="min", save_top_k=2)
    stop = cb.EarlyStopping("score", mode="min", patience=2, verbose=False)
    t = trainer(callbacks=[Fake(), keep, stop, cb.LearningRateMonitor()])
    history = t.fit(dataset(32), dataset(16, 1), max_epochs=7)
    assert history["score"] == [0.5, 0.4, 0.6, 0.3, 0.35, 0.36]
    assert history.stopped
    assert sorted(os.listdir(tmp_path / "top")) == [
        "epoch=3-score=0.3000.safetensors", "epoch=4-score=0.3500.safetensors",
    ]  # fmt: skip
    assert keep.best_model_path.endswith("epoch=3-score=0.3000.safetensors")
    assert history["lr_group0"] == [0.05] * 6
    with pytest.raises(ValueError, match="no metric 'val_los'; this run has train_loss"):
        trainer(callbacks=[cb.EarlyStopping("val_los")]).fit(dataset(32), max_epochs=1)


def test_best_and_last_are_the_right_epochs(tmp_path):
    seen = []

    class Fake(cb.Callback):
        def on_validation_end(self, trainer):
            trainer.log("val_loss", [0.5, 0.3, 0.4, 0.6][trainer.current_epoch])
            seen.append(weights(trainer.model))

    t = trainer(callbacks=[Fake()], monitor="val_loss", log_dir=tmp_path)
    t.fit(dataset(32), dataset(16, 1), max_epochs=4)
    assert (t.best_epoch, t.best_score) == (1, 0.3)
    for name, epoch in (("best", 1), ("last", 3)):
        saved = fc.load_state(tmp_path / f"{name}.safetensors")
        assert_same({k: v.numpy() for k, v in saved.items()}, seen[epoch])
    about = fc.checkpoints.load_checkpoint(tmp_path / "best.safetensors").metadata
    assert about["epoch"] == 1 and about["metrics"]["val_loss"] == 0.3


@pytest.mark.parametrize("keep", [2, -1])
def test_files_of_one_name_do_not_replace_better_ones(keep, tmp_path):
    scores = [0.9, 0.5, 0.7, 0.2]

    class Fake(cb.Callback):
        def on_train_epoch_end(self, trainer):
            trainer.log("score", scores[trainer.current_epoch])

    files = cb.ModelCheckpoint(tmp_path, "best", "score", save_top_k=keep)
    trainer(callbacks=[Fake(), files]).fit(dataset(16), max_epochs=4)
    kept = sorted(scores, reverse=True)[:2] if keep == 2 else scores
    assert sorted(files.best_k_models.values()) == sorted(kept)
    assert sorted(files.best_k_models) == sorted(map(str, tmp_path.glob("*.safetensors")))
    for path, score in files.best_k_models.items():
        assert fc.checkpoints.load_checkpoint(path).metadata["metrics"]["score"] == score
    assert files.best_k_models[files.best_model_path] == files.best_model_score == 0.9


def test_model_checkpoints_leave_the_files_of_others_alone(tmp_path):
    """Two that keep files of one name in one folder, and one whose name is the trainer's own."""
    latest = cb.ModelCheckpoint(monitor=None)
    second = cb.ModelCheckpoint(monitor=None, save_top_k=-1, every_n_epochs=2)
    best = cb.ModelCheckpoint(filename="best", monitor="train_loss", mode="max", save_top_k=2)
    t = trainer(callbacks=[latest, second, best], log_dir=tmp_path, monitor="train_loss")
    t.fit(dataset(32), max_epochs=5)
    kept = [*latest.best_k_models, *second.best_k_models, *best.best_k_models]
    assert len(kept) == len(set(kept)) == 1 + 2 + 2
    for files in (latest, second, best):
        for path, score in files.best_k_models.items():
            about = fc.checkpoints.load_checkpoint(path).metadata
            assert score == (about["metrics"]["train_loss"] if files is best else about["epoch"])
    about = fc.checkpoints.load_checkpoint(tmp_path / "best.safetensors").metadata
    assert (about["epoch"], about["metrics"]["train_loss"]) == (t.best_epoch, t.best_score)


def test_metrics_csv_has_what_later_callbacks_log(tmp_path):
    class Late(cb.Callback):
        def on_epoch_end(self, trainer):
            trainer.log("late", trainer.current_epoch)

    trainer(callbacks=[cb.CSVLogger(), Late()], log_dir=tmp_path).fit(dataset(16), max_epochs=3)
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [(row["epoch"], row["late"]) for row in csv.DictReader(file)] == [("0", "0"), ("1", "1"), ("2", "2")]


def test_states_of_callbacks_go_to_those_of_their_monitor_and_place(tmp_path):
    class Note(cb.Callback):
        def __init__(self, text=None):
            self.text = text

        def state_dict(self):
            return {"text": self.text} if self.text else {}

        def load_state_dict(self, state):
            self.text = state["text"]

    stops = [cb.EarlyStopping(monitor, patience=9) for monitor in ("val_loss", "train_loss")]
    first = [Note(), Note("second"), *stops]
    trainer(callbacks=first, log_dir=tmp_path).fit(dataset(32), dataset(16, 1), max_epochs=2)
    other = cb.EarlyStopping("val_accuracy", patience=9)
    again = [Note(), Note(), cb.EarlyStopping("train_loss", patience=9), other]
    t = trainer(callbacks=again, log_dir=tmp_path)
    t.fit(dataset(32), dataset(16, 1), max_epochs=2, resume="last")
    assert [note.text for note in again[:2]] == [None, "second"]
    assert again[2].best == first[3].best
    assert other.best is None


def test_a_metric_says_which_way_is_better(tmp_path):
    class Falling(fc.metrics.Accuracy):
        name, higher_is_better = "wrong", False
        values = iter([0.5, 0.3, 0.4, 0.6])

        def compute(self):
            return next(self.values)

    stop, keep = cb.EarlyStopping("val_wrong", patience=2, verbose=False), cb.ModelCheckpoint(monitor="val_wrong")
    t = trainer(metrics=[Falling()], monitor="val_wrong", callbacks=[stop, keep], log_dir=tmp_path)
    t.num_sanity_val_steps = 0
    history = t.fit(dataset(32), dataset(16, 1), max_epochs=np.int64(6))
    assert (t.best_epoch, stop.best, keep.best_model_score, len(history)) == (1, 0.3, 0.3, 4)
    ways = {"val_wrong": "max", "val_l1_distance": "min", "train_perplexity": "min", "val_map": "max"}
    ways |= {"val_ece": "min", "val_huber": "min", "val_brier_score": "min", "val_recall": "max"}
    assert {name: cb.monitor_mode(name) for name in ways} == ways
