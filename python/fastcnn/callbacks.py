"""Callbacks: hooks of the training loop under Lightning's names, and the common ones.

A callback reads the trainer's public attributes and calls trainer.log() or sets trainer.should_stop. What it
keeps between epochs goes through state_dict() as JSON values and into the checkpoint. The bar is in progress.py.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import io
import math
import os
import time
from pathlib import Path

import numpy as np

from ._files import atomic_write


class Callback:
    """Base class; every hook does nothing. Hooks run at the borders of optimizer steps, in the order given.

    Attributes: writes_files: whether a fast_dev_run leaves it out. one_model: whether it needs one model and targets,
    which a GANTrainer does not have.
    """

    writes_files = one_model = False

    def on_fit_start(self, trainer):
        """Before the first epoch, after a checkpoint was restored."""

    def on_fit_end(self, trainer):
        """After the last epoch, also when stopped early or interrupted."""

    def on_train_epoch_start(self, trainer):
        """Before the batches of an epoch."""

    def on_train_batch_start(self, trainer, batch, batch_idx):
        """Before a batch; batch is (images, targets)."""

    def change_batch(self, trainer, batch, batch_idx):
        """The batch that is trained on instead, after on_train_batch_start; the default is the batch itself."""
        return batch

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        """After a batch; outputs["loss"] is a tensor, reading its value waits for the device."""

    def on_train_epoch_end(self, trainer):
        """After the batches of an epoch; trainer.epoch_metrics has the train_ values."""

    def on_validation_start(self, trainer):
        """Before validation, where there is any."""

    def on_validation_end(self, trainer):
        """After validation; trainer.epoch_metrics has the val_ values too."""

    def on_epoch_end(self, trainer):
        """After training, validation and the scheduler's step; before the checkpoint is written."""

    def on_exception(self, trainer, exception):
        """An error ends training."""

    def state_dict(self):
        """JSON values to keep in the checkpoint."""
        return {}

    def load_state_dict(self, state):
        """Takes over what state_dict gave."""


def monitor_mode(monitor, mode="auto"):
    """ "min" or "max" for the name of a metric; errors, losses and distances are to fall."""
    if mode in ("min", "max"):
        return mode
    if mode != "auto":
        raise ValueError(f"expected mode 'min', 'max' or 'auto', got {mode!r}")
    falling = ("loss", "error", "mse", "mae", "fid", "distance", "perplexity", "huber", "brier", "entropy")
    short = {"ece", "nll", "bce", "ce", "kl", "l1", "l2"}  # as words alone: "recall" is none of them
    falls = any(word in monitor for word in falling) or short & set(monitor.split("_"))
    return "min" if falls else "max"


def mode_of(trainer, monitor):
    """monitor_mode, and "min" too where a metric of the trainer says that lower is better."""
    lower = (m.name for m in getattr(trainer, "_metrics", ()) if not getattr(m, "higher_is_better", True))
    return "min" if monitor in [f"val_{name}" for name in lower] else monitor_mode(monitor)


def is_better(value, best, mode, min_delta=0.0):
    """Whether value beats best by more than min_delta; NaN never does, anything beats None."""
    if math.isnan(value):
        return False
    return best is None or (value < best - min_delta if mode == "min" else value > best + min_delta)


def _monitored(callback, trainer, monitor):
    row = trainer.epoch_metrics
    if monitor not in row:
        raise ValueError(f"{type(callback).__name__}: no metric {monitor!r}; this run has {', '.join(row)}")
    return float(row[monitor])


class EarlyStopping(Callback):
    """Stops when a metric has not improved for `patience` epochs.

    Args: monitor: column of the history, e.g. "val_loss". min_delta: what counts as an improvement. mode:
    "min", "max" or "auto" (by name). check_finite: a NaN or infinite value stops at once. stopping_threshold:
    good enough, stop. verbose: say why. A resume of a run that it ended trains no more, unless with more patience.
    """

    def __init__(
        self, monitor="val_loss", min_delta=0.0, patience=3, mode="auto", check_finite=True,
        stopping_threshold=None, verbose=True,
    ):  # fmt: skip
        if patience < 0:
            raise ValueError(f"EarlyStopping: expected patience >= 0, got {patience}")
        self.monitor, self.mode, self.min_delta = monitor, monitor_mode(monitor, mode), abs(min_delta)
        self._auto = mode == "auto"
        self.patience, self.check_finite, self.stopping_threshold = patience, check_finite, stopping_threshold
        self.verbose = verbose
        self.best, self.wait_count, self.stopped_epoch = None, 0, None

    def on_fit_start(self, trainer):
        """Which way is better may be known to a metric of the trainer."""
        if self._auto:
            self.mode = mode_of(trainer, self.monitor)
        if self.stopped_epoch is None or trainer.current_epoch != self.stopped_epoch + 1:
            return
        # The end of the run that is resumed: it stays one, unless there is more patience now or another threshold.
        value = trainer.history.get(self.monitor, [None])[-1]
        why = None if value is None else self._enough(value)
        if why is None and self.wait_count and self.wait_count >= self.patience:
            why = self._no_better()
        if why is not None:
            trainer.should_stop = True
            if self.verbose:
                trainer.message(f"early stopping has ended this run after epoch {trainer.current_epoch}: {why}")

    def on_epoch_end(self, trainer):
        """Looks at the metric of the epoch."""
        value = _monitored(self, trainer, self.monitor)
        why = self._enough(value)
        if why is None and is_better(value, self.best, self.mode, self.min_delta):
            self.best, self.wait_count = value, 0
        elif why is None:
            self.wait_count += 1
            why = self._no_better() if self.wait_count >= self.patience else None
        if why is not None:
            trainer.should_stop, self.stopped_epoch = True, trainer.current_epoch
            if self.verbose:
                trainer.message(f"early stopping after epoch {trainer.current_epoch + 1}: {why}")

    def _enough(self, value):
        """Why this value alone ends training, or None."""
        if self.check_finite and not math.isfinite(value):
            return f"{self.monitor} is {value}"
        threshold = self.stopping_threshold
        if threshold is not None and is_better(value, threshold, self.mode):
            return f"{self.monitor} {value:.4g} has passed {threshold}"
        return None

    def _no_better(self):
        return f"{self.monitor} did not improve on {self.best} for {self.wait_count} epochs"

    def state_dict(self):
        return {
            "monitor": self.monitor, "best": self.best, "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
        }  # fmt: skip

    def load_state_dict(self, state):
        self.best, self.wait_count = state["best"], state["wait_count"]
        self.stopped_epoch = state["stopped_epoch"]


class ModelCheckpoint(Callback):
    """Keeps the weights of the best epochs, besides the trainer's own best and last.

    Args: dirpath: default the trainer's log_dir. filename: with {epoch} and any metric in braces; a second file of the
    same name, or one of the trainer's or of another ModelCheckpoint, gets -v1, -v2 ... monitor, mode: as EarlyStopping;
    monitor None keeps the latest. save_top_k: how many files (-1: all). every_n_epochs.
    Attributes: best_model_path, best_model_score, best_k_models {path: score}.
    """

    writes_files = True

    def __init__(
        self, dirpath=None, filename=None, monitor="val_loss", mode="auto", save_top_k=1, every_n_epochs=1
    ):
        if save_top_k < -1 or every_n_epochs < 1:
            raise ValueError(
                f"ModelCheckpoint: expected save_top_k >= -1 and every_n_epochs >= 1, got {save_top_k} and "
                f"{every_n_epochs}"
            )
        self.dirpath, self.monitor, self.save_top_k = dirpath, monitor, save_top_k
        self.every_n_epochs = every_n_epochs
        self.mode, self._auto = "max" if monitor is None else monitor_mode(monitor, mode), mode == "auto"
        name = "epoch={epoch}" if monitor is None else "epoch={epoch}-" + monitor + "={" + monitor + ":.4f}"
        self.filename = name if filename is None else filename.removesuffix(".safetensors")
        self.best_k_models, self.best_model_path, self.best_model_score = {}, "", None

    def on_fit_start(self, trainer):
        """Where to write is known from here on."""
        if self.dirpath is None and trainer.log_dir is None:
            raise ValueError("ModelCheckpoint: expected dirpath, or a Trainer with log_dir")
        if self._auto and self.monitor is not None:
            self.mode = mode_of(trainer, self.monitor)

    def on_epoch_end(self, trainer):
        """Saves if the epoch is among the best, then drops what is not any more."""
        if self.save_top_k == 0 or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        epoch = trainer.current_epoch
        score = float(epoch) if self.monitor is None else _monitored(self, trainer, self.monitor)
        worst = None
        if 0 < self.save_top_k <= len(self.best_k_models):
            pick = max if self.mode == "min" else min
            worst = pick(self.best_k_models, key=self.best_k_models.get)
            if not is_better(score, self.best_k_models[worst], self.mode):
                return
        elif math.isnan(score):
            return
        folder = Path(trainer.log_dir if self.dirpath is None else self.dirpath)
        try:
            name = self.filename.format(**{**trainer.epoch_metrics, "epoch": epoch})
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"ModelCheckpoint: bad filename {self.filename!r}: {error!r}") from None
        path, version, others = str(folder / f"{name}.safetensors"), 1, self._files_of_others(trainer)
        # A filename without {epoch}, or that of others: no better file is lost, nor theirs.
        while (path in self.best_k_models and path != worst) or os.path.abspath(path) in others:
            path, version = str(folder / f"{name}-v{version}.safetensors"), version + 1
        trainer.save(path)
        self.best_k_models[path] = score
        if worst is not None and worst != path:
            self.best_k_models.pop(worst)
            if os.path.abspath(worst) not in others:
                Path(worst).unlink(missing_ok=True)
        if is_better(score, self.best_model_score, self.mode):
            self.best_model_path, self.best_model_score = path, score

    def _files_of_others(self, trainer):
        """Absolute paths that the trainer and its other ModelCheckpoints write."""
        others = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c is not self]
        paths = [path for other in others for path in other.best_k_models]
        if trainer.log_dir is not None:
            paths += [Path(trainer.log_dir, f"{name}.safetensors") for name in ("best", "last", "last-1")]
        return {os.path.abspath(p) for p in paths}

    def state_dict(self):
        return {
            "monitor": self.monitor, "best_k_models": self.best_k_models, "best_model_path": self.best_model_path,
            "best_model_score": self.best_model_score,
        }  # fmt: skip

    def load_state_dict(self, state):
        self.best_k_models = dict(state["best_k_models"])
        self.best_model_path, self.best_model_score = state["best_model_path"], state["best_model_score"]


class CSVLogger(Callback):
    """metrics.csv: one row per epoch; the file is replaced whole, so it is never half a row.

    Args: path: default metrics.csv in the trainer's log_dir.
    """

    writes_files = True

    def __init__(self, path=None):
        self.path = path

    def on_epoch_end(self, trainer):
        """Writes the history so far, this epoch included."""
        self._write(trainer, [*trainer.history.rows(), {"epoch": trainer.current_epoch, **trainer.epoch_metrics}])

    def on_fit_end(self, trainer):
        """Once more: callbacks after this one may have logged into the last row."""
        if trainer.history:
            self._write(trainer, trainer.history.rows())

    def _write(self, trainer, rows):
        if self.path is None and trainer.log_dir is None:
            raise ValueError("CSVLogger: expected path, or a Trainer with log_dir")
        path = Path(trainer.log_dir) / "metrics.csv" if self.path is None else self.path
        columns = list(dict.fromkeys(k for row in rows for k in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        with atomic_write(path, "w", encoding="utf-8") as file:
            file.write(text.getvalue())


class LearningRateMonitor(Callback):
    """Adds the rate of each parameter group (and its momentum) to the history: lr_group0, momentum_group0 ..."""

    def __init__(self, log_momentum=False):
        self.log_momentum, self._rows, self._resumed = log_momentum, {}, {}

    def on_train_epoch_start(self, trainer):
        """The rates an epoch starts with; of one that goes on after a resume they are known."""
        self._rows, self._resumed = self._resumed, {}
        if self._rows:
            return
        for i, group in enumerate(trainer.optimizer.param_groups):
            self._rows[f"lr_group{i}"] = float(group["lr"])
            if self.log_momentum:
                self._rows[f"momentum_group{i}"] = float(group.get("momentum", group.get("betas", (0.0,))[0]))

    def on_train_epoch_end(self, trainer):
        """Into the row of the epoch."""
        for name, value in self._rows.items():
            trainer.log(name, value)
        self._rows = {}

    def state_dict(self):
        return {"rows": self._rows} if self._rows else {}

    def load_state_dict(self, state):
        self._resumed = dict(state["rows"])


class Timer(Callback):
    """Counts training time, and stops training when `duration` is over.

    Args: duration: seconds, "DD:HH:MM:SS", or None. Time of runs before a resume counts.
    """

    def __init__(self, duration=None):
        if isinstance(duration, str):
            parts = duration.split(":")
            if len(parts) != 4 or not all(p.isdigit() for p in parts):
                raise ValueError(f"Timer: expected seconds or 'DD:HH:MM:SS', got {duration!r}")
            days, hours, minutes, seconds = map(int, parts)
            duration = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if duration is not None and not duration > 0:
            raise ValueError(f"Timer: expected a duration > 0, got {duration}")
        self.duration, self._before, self._start = duration, 0.0, None

    def time_elapsed(self):
        """Seconds in fit() so far."""
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)

    def time_remaining(self):
        """Seconds left, or None without a limit."""
        return None if self.duration is None else max(0.0, self.duration - self.time_elapsed())

    def on_fit_start(self, trainer):
        self._start = time.monotonic()

    def on_fit_end(self, trainer):
        self._before, self._start = self.time_elapsed(), None

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        """Stops in the middle of an epoch; the checkpoint continues there."""
        if self.duration is not None and not trainer.should_stop and self.time_elapsed() >= self.duration:
            trainer.should_stop = True
            trainer.message(f"stopping: the time of {self.duration:g} s is over")

    def state_dict(self):
        return {"elapsed": self.time_elapsed()}

    def load_state_dict(self, state):
        self._before = float(state["elapsed"])


class TensorBoard(Callback):
    """Scalars for TensorBoard: one point per epoch and column of the history, at the number of optimizer steps.

    Args: log_dir: folder of the event file, default the trainer's log_dir. every_n_steps: also the loss of every n-th
    step of training, as train_loss_step; reading it waits for the device. None: epochs alone. A run that begins anew or
    resumes in a folder tells TensorBoard to leave out the points of later steps that an earlier one has written there.
    """

    writes_files = True

    def __init__(self, log_dir=None, every_n_steps=None):
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"TensorBoard: expected every_n_steps >= 1 or None, got {every_n_steps}")
        self.log_dir, self.every_n_steps, self._writer = log_dir, every_n_steps, None
        self._last_step = 0

    def on_fit_start(self, trainer):
        from ._events import EventWriter

        folder = trainer.log_dir if self.log_dir is None else self.log_dir
        if folder is None:
            raise ValueError("TensorBoard: expected log_dir, or a Trainer with log_dir")
        self._last_step = trainer.global_step
        self._writer = EventWriter(folder, trainer.global_step + 1)

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        step = trainer.global_step
        if step == self._last_step:  # batches of one step, where several add up
            return
        self._last_step = step
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            self._writer.scalars({"train_loss_step": outputs["loss"].item()}, step)

    def on_epoch_end(self, trainer):
        """Writes the epoch's row."""
        row = {k: v for k, v in trainer.epoch_metrics.items() if isinstance(v, (int, float))}
        self._writer.scalars(row, trainer.global_step)

    def on_fit_end(self, trainer):
        self._close()

    def on_exception(self, trainer, exception):
        self._close()

    def _close(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Mixup(Callback):
    """Trains on mixed batches: images and targets blended with their neighbours' (augment.MixUp, Zhang et al. 2018).

    Args: alpha: of Beta(alpha, alpha), from which each batch draws its weight. num_classes: for class ids as targets;
    default that of the loader's dataset. p: share of the batches that are mixed. The draw depends on the trainer's
    seed, the epoch and the batch alone. Needs a loss that takes probabilities, such as cross_entropy.
    """

    one_model = True
    _stream = ()  # of random numbers; each kind has its own, so that one's draw says nothing of the other's

    def __init__(self, alpha=0.2, num_classes=None, p=1.0):
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: expected p in [0, 1], got {p}")
        self._mix, self.p = self._mixer()(alpha, num_classes), p

    @staticmethod
    def _mixer():
        from .augment import MixUp

        return MixUp

    def on_fit_start(self, trainer):
        if self._mix.num_classes is None:
            self._mix.num_classes = getattr(getattr(trainer.train_loader, "dataset", None), "num_classes", None)

    def change_batch(self, trainer, batch, batch_idx):
        """(mixed images, targets as probabilities)."""
        rng = np.random.default_rng([trainer.seed % 2**64, trainer.current_epoch, batch_idx, *self._stream])
        fields = list(batch.values() if isinstance(batch, dict) else batch)
        if len(fields) != 2:
            raise ValueError(f"{type(self).__name__}: expected batches (images, targets), got {len(fields)} fields")
        x, y = (np.asarray(field) for field in fields)
        if rng.random() < self.p:
            return self._mix(x, y, rng)
        return x, self._mix.probabilities(y)  # one kind of targets, so that one plan serves all batches


class CutMix(Mixup):
    """Trains on batches with rectangles of their neighbours (augment.CutMix, Yun et al. 2019); see Mixup."""

    _stream = (1,)

    def __init__(self, alpha=1.0, num_classes=None, p=0.5):
        super().__init__(alpha, num_classes, p)

    @staticmethod
    def _mixer():
        from .augment import CutMix

        return CutMix


class FreezeBackbone(Callback):
    """Trains the head alone at first, then unfreezes the rest, at once or part by part.

    Args: unfreeze_at: epoch (from 0) from which everything trains, {epoch: pattern or patterns} of submodule names
    that train from then on ("layer4", "features.1?"; "*": everything), or None: never. head: patterns of submodules
    that always train; default the last direct child with parameters. freeze_until: instead of head, the name of a
    submodule: what comes before it in named_modules() is frozen, itself and what follows train. train_bn: whether
    frozen batch norms go on training. A run that is resumed is frozen as its epoch wants it.
    Raises: ValueError for a pattern that no submodule has.
    """

    one_model = True

    def __init__(self, unfreeze_at=1, head=None, train_bn=False, freeze_until=None):
        if unfreeze_at is not None and not isinstance(unfreeze_at, (int, np.integer, dict)):
            raise TypeError(
                f"FreezeBackbone: expected unfreeze_at as an epoch, {{epoch: pattern}} or None, got {unfreeze_at!r}; "
                "names of layers go with head= and freeze_until="
            )
        stages = unfreeze_at if isinstance(unfreeze_at, dict) else {} if unfreeze_at is None else {unfreeze_at: "*"}
        self.stages = {int(e): [p] if isinstance(p, str) else list(p) for e, p in stages.items()}
        if min(self.stages, default=0) < 0 or (not self.stages and unfreeze_at is not None):
            raise ValueError(f"FreezeBackbone: expected epochs of at least 0 in unfreeze_at, got {unfreeze_at}")
        if head is not None and freeze_until is not None:
            raise ValueError("FreezeBackbone: expected head or freeze_until, got both")
        self.head = [head] if isinstance(head, str) else head
        self.train_bn, self.freeze_until = train_bn, freeze_until

    def check(self, model):
        """The modules that always train. Raises: ValueError for names and patterns that the model does not have."""
        for patterns in self.stages.values():
            self._matching(model, patterns)
        if self.freeze_until is not None:
            names = [name for name, _ in model.named_modules()]
            if self.freeze_until not in names[1:]:
                self._unknown(model, self.freeze_until)
            return [m for _, m in list(model.named_modules())[names.index(self.freeze_until) :]]
        if self.head is not None:
            return self._matching(model, self.head)
        last = [child for _, child in model.named_children() if next(child.parameters(), None) is not None]
        if len(last) < 2:
            raise ValueError(
                "FreezeBackbone: expected a model of two or more children with parameters, or head= with the names "
                "of what is to train"
            )
        return last[-1:]

    def on_fit_start(self, trainer):
        heads = self.check(trainer.model)
        trainer.model.freeze(self.train_bn)
        for m in heads:
            m.unfreeze()
        for epoch in sorted(e for e in self.stages if e <= trainer.current_epoch):
            self._unfreeze(trainer, epoch)
        trainer._step.prepare()

    def on_train_epoch_start(self, trainer):
        """Unfreezes what is due."""
        if trainer.current_epoch in self.stages:
            self._unfreeze(trainer, trainer.current_epoch)
            trainer._step.prepare()

    def _unfreeze(self, trainer, epoch):
        for m in self._matching(trainer.model, self.stages[epoch]):
            m.unfreeze()
        trainer.message(f"epoch {epoch + 1}: {', '.join(self.stages[epoch])} trains")

    @staticmethod
    def _matching(model, patterns):
        found = []
        for pattern in patterns:
            hits = [m for name, m in model.named_modules() if fnmatch.fnmatchcase(name, pattern)]
            if not hits:
                FreezeBackbone._unknown(model, pattern)
            found += hits
        return found

    @staticmethod
    def _unknown(model, name):
        near = difflib.get_close_matches(name, [n for n, _ in model.named_modules()][1:], n=4, cutoff=0.4)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"FreezeBackbone: no submodule of {type(model).__name__} is named {name!r}{hint}")


def picture_of(history, path):
    """Writes the curves as a picture; False where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    from .viz import curves

    curves(history, path=os.fspath(path))
    return True


def __getattr__(name):
    # ProgressBar subclasses Callback in its own file.
    if name == "ProgressBar":
        from .progress import ProgressBar

        return ProgressBar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CSVLogger",
    "Callback",
    "CutMix",
    "EarlyStopping",
    "FreezeBackbone",
    "LearningRateMonitor",
    "Mixup",
    "ModelCheckpoint",
    "TensorBoard",
    "Timer",
    "picture_of",
]
