"""Trainer: the loop over epochs, validation, checkpoints, resume and interruption.

What happens to one batch is in _steps.py, files in checkpoints.py, the screen in progress.py, the loop over batches
in _loop.py. It trains models with one loss on (images, targets); for adversarial pairs see GANTrainer.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from . import _core, checkpoints
from ._choices import make_metrics, make_optimizer, make_schedule, pick_device
from ._compile import compile as compile_function
from ._loop import FirstBatches, Interrupted, RunState, SignalGuard, as_loader, describe_resume, images_in, run_epoch
from ._steps import EvalStep, TrainStep, get_loss, split_batch, to_tensor
from .callbacks import CSVLogger, is_better, monitor_mode, picture_of
from .progress import ProgressBar

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class History(dict):
    """{column: list with one value per epoch}; a column that began later has None before it.

    Attributes: interrupted: name of the signal that ended fit(), or None. stopped: whether a callback ended it.
    """

    interrupted = None
    stopped = False

    def append(self, row):
        """Adds the values of an epoch."""
        length = len(self)
        for name in row:
            self.setdefault(name, [None] * length)
        for name, values in self.items():
            values.append(row.get(name))

    def __len__(self):
        """Epochs."""
        return max((len(v) for v in self.values()), default=0)

    def __bool__(self):
        return len(self) > 0

    def rows(self):
        """One dict per epoch, with its number."""
        return [{"epoch": i, **{k: v[i] for k, v in self.items()}} for i in range(len(self))]


class Trainer:
    """Trains, evaluates and applies a model.

    Args:
        model: a Module; its output goes to the loss.
        optimizer: a name ("sgd", "adamw", "lion" ...: optim.list_optimizers()), an Optimizer, or f(parameters) ->
            Optimizer.
        lr: default 0.1 for sgd, 1e-3 for rmsprop, else that of the optimizer. weight_decay: default that of the
            optimizer. momentum: of those that have one; sgd with momentum uses Nesterov's.
        loss: name ("cross_entropy", "mse", "bce_with_logits" ...) or f(output, target) -> scalar tensor.
        metrics: "accuracy" (counted in training too) and names or Metric objects of fastcnn.metrics, which are
            computed in validation. Default: accuracy with cross_entropy, else none.
        precision: "32-true" or "bf16-mixed": forward in bfloat16, weights, statistics, loss and updates in
            float32.
        device: "auto", "cpu" or "cuda".
        accumulate_grad_batches: batches per optimizer step; the loss is divided by it.
        gradient_clip_val: largest norm of all gradients together. ema_decay: validate and save an exponential
            moving average of the weights.
        callbacks: list of Callback. compile: plan whole steps with fastcnn.compile; False runs them eagerly.
        deterministic: accepted for other devices; the CPU always is. seed: of shuffling, augmentation and
            dropout.
        log_dir: folder for metrics.csv, curves.png, last.safetensors and best.safetensors; None writes nothing.
        scheduler: None, "onecycle", "cosine", "step" (x 0.1 at half and three quarters), a schedule, or
            f(optimizer, total_steps) -> schedule. scheduler_interval: "step" or "epoch", default its own.
        label_smoothing: of cross_entropy in training.
        batch_size, transform, num_workers: for datasets that are passed instead of loaders; transform is for
            training only.
        monitor: column that picks the best epoch; default val_accuracy, val_loss or train_loss.
        checkpoint_every_n_steps, checkpoint_every_seconds: how often last.safetensors is written within an
            epoch; None: only after it.
        detect_nan: stop with FloatingPointError when the loss is NaN or infinite.
        progress: show a bar. metadata: JSON values to keep in checkpoints.
        fast_dev_run: number of batches (True: one) that training and validation see, in one epoch, and no files: does
            everything run? overfit_batches: the first n batches of the training data, the same in each epoch, for
            training and validation: can the model learn at all?
    """

    def __init__(
        self, model, optimizer="adamw", lr=None, loss="cross_entropy", metrics=None, precision="32-true",
        device="auto", accumulate_grad_batches=1, gradient_clip_val=None, ema_decay=None, callbacks=(),
        compile=True, deterministic=False, seed=0, log_dir=None, *, scheduler=None, scheduler_interval=None,
        weight_decay=None, momentum=None, label_smoothing=0.0, batch_size=128, transform=None, num_workers=0,
        monitor=None, checkpoint_every_n_steps=None, checkpoint_every_seconds=60.0, detect_nan=True,
        progress=True, metadata=None, fast_dev_run=False, overfit_batches=0,
    ):  # fmt: skip
        if precision not in _PRECISIONS:
            raise ValueError(f"Trainer: expected precision {', '.join(_PRECISIONS)}, got {precision!r}")
        if precision == "16-mixed":
            raise ValueError(
                f"Trainer: precision {precision!r} is not available yet in this version; use 'bf16-mixed' or '32-true'"
            )
        if int(accumulate_grad_batches) != accumulate_grad_batches or accumulate_grad_batches < 1:
            raise ValueError(
                f"Trainer: expected accumulate_grad_batches as an int of at least 1, got {accumulate_grad_batches}"
            )
        if gradient_clip_val is not None and not gradient_clip_val > 0:
            raise ValueError(f"Trainer: expected gradient_clip_val > 0, got {gradient_clip_val}")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"Trainer: expected ema_decay between 0 and 1, got {ema_decay}")
        if scheduler_interval not in (None, "step", "epoch"):
            raise ValueError(f"Trainer: expected scheduler_interval 'step' or 'epoch', got {scheduler_interval!r}")
        self.model, self.precision, self.seed = model, precision, int(seed)
        self.device = pick_device(device)
        model.to(self.device)
        self.deterministic = bool(deterministic)
        self.accumulate_grad_batches, self.gradient_clip_val = int(accumulate_grad_batches), gradient_clip_val
        self.batch_size, self.transform, self.num_workers = batch_size, transform, num_workers
        self.monitor, self.detect_nan, self.metadata = monitor, detect_nan, dict(metadata or {})
        self.checkpoint_every_n_steps = checkpoint_every_n_steps
        self.checkpoint_every_seconds = checkpoint_every_seconds
        self.fast_dev_run, self.overfit_batches = int(fast_dev_run), int(overfit_batches)
        if self.fast_dev_run < 0 or self.overfit_batches < 0:
            raise ValueError(
                f"Trainer: expected fast_dev_run and overfit_batches of at least 0, got {fast_dev_run} and "
                f"{overfit_batches}"
            )
        self.log_dir = None if log_dir is None or self.fast_dev_run else Path(log_dir)
        self.optimizer = make_optimizer(optimizer, model, lr, weight_decay, momentum)
        self.scheduler, self._scheduler_spec, self._scheduler_interval = None, scheduler, scheduler_interval

        if metrics is None:
            metrics = ("accuracy",) if loss == "cross_entropy" else ()
        metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        self._accuracy = "accuracy" in metrics
        self._metrics = make_metrics([m for m in metrics if not isinstance(m, str) or m != "accuracy"])
        train_loss, self._eval_loss = get_loss(loss, label_smoothing)
        self.ema = None
        if ema_decay is not None:
            from .nn.utils import EMA

            self.ema = EMA(model, ema_decay, warmup=True)
        self._compiler = compile_function if compile else None
        self._step = TrainStep(
            model, train_loss, self.optimizer, self._accuracy, self.accumulate_grad_batches, gradient_clip_val,
            self.ema, self._compiler, precision,
        )  # fmt: skip
        self._eval_steps = {}

        self.callbacks = list(callbacks)
        if progress and not any(isinstance(c, ProgressBar) for c in self.callbacks):
            self.callbacks.append(ProgressBar())
        if self.log_dir is not None and not any(isinstance(c, CSVLogger) for c in self.callbacks):
            self.callbacks.append(CSVLogger())
        self.history = History()
        self.max_epochs, self.should_stop, self.epoch_metrics, self.train_loader = 0, False, {}, None
        self.best_score = self.best_epoch = None
        self._run = RunState()

    # ------------------------------------------------------------ what callbacks read

    @property
    def current_epoch(self):
        """Number of the epoch, from 0."""
        return self._run.epoch

    @property
    def global_step(self):
        """Optimizer steps so far."""
        return self._run.global_step

    @property
    def images_in_epoch(self):
        """Images of this epoch that have been trained on."""
        return self._run.images

    @property
    def images_per_epoch(self):
        """Images of a whole epoch, or None where the loader does not know."""
        return self._run.images_per_epoch

    def running_metrics(self):
        """train_loss and train_accuracy of the epoch so far."""
        return self._run.metrics(self._accuracy)

    def log(self, name, value):
        """Adds a value to the row of this epoch in the history."""
        self.epoch_metrics[name] = value

    def message(self, text):
        """Tells the user something without tearing the progress bar."""
        bar = next((c for c in self.callbacks if isinstance(c, ProgressBar)), None)
        if bar is not None:
            bar.message(text)

    def _call(self, hook, *args):
        for callback in self.callbacks:
            method = getattr(callback, hook, None)
            if method is not None:
                method(self, *args)

    def _changed(self, batch, index):
        for callback in self.callbacks:
            change = getattr(callback, "change_batch", None)
            if change is not None:
                batch = change(self, batch, index)
        return batch

    # ------------------------------------------------------------ fit

    def fit(self, train_data, val_data=None, max_epochs=10, resume=None):
        """Trains and returns the History.

        Args: train_data, val_data: dataset or loader of (images, targets). max_epochs: counted from 0 even
        after a resume. resume: "last" (log_dir/last.safetensors; from the start if there is none), or the path
        of a checkpoint; the result is the same, bit for bit, as without the interruption.

        Ctrl-C ends the step, saves last.safetensors and returns the history with `interrupted` set; SIGTERM
        does the same and then exits with status 143.
        """
        if max_epochs < 1:
            raise ValueError(f"Trainer.fit: expected max_epochs >= 1, got {max_epochs}")
        loader = as_loader(
            train_data, self.batch_size, not self.overfit_batches, self.seed, self.transform, self.num_workers
        )
        val_loader = None if val_data is None else self._eval_loader(val_data)
        if self.overfit_batches:
            loader = FirstBatches(loader, self.overfit_batches, keep=True)
            val_loader = None if val_loader is None else loader
        elif self.fast_dev_run:
            loader = FirstBatches(loader, self.fast_dev_run)
            val_loader = None if val_loader is None else FirstBatches(val_loader, self.fast_dev_run)
            max_epochs = 1
        start = self._find_resume(resume)
        self.max_epochs, self.should_stop, self.train_loader = int(max_epochs), False, loader
        self.history, self.epoch_metrics = History(), {}
        self.best_score = self.best_epoch = None
        self._run = RunState(loader)
        self._make_scheduler(len(loader) if hasattr(loader, "__len__") else None)
        if start is None:
            _core.ops.manual_seed(self.seed)
        else:
            self._restore(start, loader)
        self._step.prepare()
        with SignalGuard() as signals:
            try:
                self._call("on_fit_start")
                while self._run.epoch < self.max_epochs and not self.should_stop:
                    self._fit_epoch(loader, val_loader, signals)
                self._call("on_fit_end")
            except (Interrupted, KeyboardInterrupt) as stop:
                self._interrupted(stop, signals)
            except BaseException as error:
                self._call("on_exception", error)
                raise
            finally:
                self._step.prepare()
        self._draw_curves()
        self.history.stopped = self.should_stop
        if signals.received == "SIGTERM":
            raise SystemExit(143)
        return self.history

    def _fit_epoch(self, loader, val_loader, signals):
        run = self._run
        if not run.trained:
            if run.batch == 0:
                self.epoch_metrics = {}
                if hasattr(loader, "set_epoch"):
                    loader.set_epoch(run.epoch)
            self.model.train()
            self._call("on_train_epoch_start")
            run_epoch(self, run, self._step, loader, signals)
            if not run.trained:  # a callback said stop in the middle
                self._save_last()
                return
            self.epoch_metrics.update(run.metrics(self._accuracy))
            self._call("on_train_epoch_end")
        if val_loader is not None:
            self._call("on_validation_start")
            began = time.perf_counter()
            results = self._evaluate(val_loader, signals)
            self.epoch_metrics.update({f"val_{k}": v for k, v in results.items()})
            run.seconds += time.perf_counter() - began
            self._call("on_validation_end")
        row = self.epoch_metrics
        row["lr"] = float(self.optimizer.param_groups[0]["lr"])
        row["images_per_second"] = run.rate()
        row["seconds"] = run.seconds
        if self.scheduler is not None and self._interval == "epoch":
            if hasattr(self.scheduler, "num_bad_epochs"):
                self.scheduler.step(row[self._monitor_name()])
            else:
                self.scheduler.step()
        best = self._note_best()
        self._call("on_epoch_end")
        self.history.append(row)
        run.next_epoch()
        self._save_last()
        if best and self.log_dir is not None:
            self.save(self.log_dir / "best.safetensors")

    def _monitor_name(self):
        names = [self.monitor] if self.monitor else ["val_accuracy", "val_loss", "train_loss"]
        found = next((n for n in names if n in self.epoch_metrics), None)
        if found is None:
            raise ValueError(f"Trainer: no metric {names[0]!r}; this run has {', '.join(self.epoch_metrics)}")
        return found

    def _note_best(self):
        name = self._monitor_name()
        value = float(self.epoch_metrics[name])
        if not is_better(value, self.best_score, monitor_mode(name)):
            return False
        self.best_score, self.best_epoch = value, self.current_epoch
        return True

    def _interrupted(self, stop, signals):
        name = signals.received or "SIGINT"
        self.history.interrupted = name
        self._call("on_fit_end")
        if self._run.in_step:
            raise stop  # the weights are between two states: what is on disk is the newest whole one
        where = self._save_last()
        self.message(describe_resume(name, self._run, where))

    def _make_scheduler(self, batches):
        spec = self._scheduler_spec
        self.scheduler, self._interval = None, None
        self._total_steps = None
        if batches is not None:
            self._total_steps = math.ceil(batches / self.accumulate_grad_batches) * self.max_epochs
        if spec is None:
            return
        self._rewind_lr()
        self.scheduler = make_schedule(spec, self.optimizer, self._total_steps, self.max_epochs)
        self._interval = self._scheduler_interval or getattr(self.scheduler, "interval", "epoch")

    def _rewind_lr(self):
        # A second fit() begins its schedule where the first began, not where it ended.
        for group, lr in zip(self.optimizer.param_groups, self._initial_lrs(), strict=True):
            group["lr"] = lr
            group.pop("initial_lr", None)

    def _initial_lrs(self):
        if not hasattr(self, "_first_lrs"):
            self._first_lrs = [g["lr"] for g in self.optimizer.param_groups]
        return self._first_lrs

    def _step_scheduler(self):
        """After each optimizer step."""
        if self.scheduler is None or self._interval != "step":
            return
        if self._total_steps is None or self.scheduler.last_epoch + 1 < self._total_steps:
            self.scheduler.step()

    def _draw_curves(self):
        if self.log_dir is not None and self.history:
            picture_of(self.history, self.log_dir / "curves.png")

    def lr_find(self, train_data, min_lr=1e-6, max_lr=1.0, num_steps=100, stop_factor=4.0):
        """Learning-rate range test (Smith 2015): trains some steps with a growing rate, then puts everything back.

        Args: train_data: dataset or loader. min_lr, max_lr: of the largest group, others keep their share; the rate
        grows by the same factor each step. stop_factor: ends early where the smoothed loss exceeds the best so far by
        it. Returns an LRFinder: lrs, losses, suggestion(), plot(path).
        """
        from ._lr_find import lr_find

        loader = as_loader(train_data, self.batch_size, True, self.seed, self.transform, self.num_workers)
        return lr_find(self, loader, min_lr, max_lr, num_steps, stop_factor)

    # ------------------------------------------------------------ evaluate, predict

    def evaluate(self, data):
        """{"loss": ..., "accuracy": ..., other metrics} on a dataset or loader, with the averaged weights if any."""
        return self._evaluate(self._eval_loader(data))

    def predict(self, data):
        """The model's outputs for a dataset, loader, or images (N, C, H, W), as one NumPy array."""
        if isinstance(data, (np.ndarray, _core.Tensor)):
            if data.ndim != 4:
                raise ValueError(f"Trainer.predict: expected images (N, C, H, W), got shape {tuple(data.shape)}")
            if len(data) == 0:
                raise ValueError(f"Trainer.predict: expected at least one image, got shape {tuple(data.shape)}")
            size = self.batch_size
            batches = (data[i : i + size] for i in range(0, len(data), size))
        else:
            batches = self._eval_loader(data)
        step, restore = self._begin_eval()
        try:
            outputs = []
            for batch in batches:
                x = batch[0] if isinstance(batch, (tuple, list)) else batch
                outputs.append(np.array(step(to_tensor(x, self.device))[0].to("cpu").numpy()))
        finally:
            restore()
        if not outputs:
            raise ValueError("Trainer.predict: expected at least one image, got none")
        return np.concatenate(outputs)

    def _eval_loader(self, data):
        return as_loader(data, self.batch_size, False, self.seed, None, self.num_workers)

    def _begin_eval(self):
        model = self.model if self.ema is None else self.ema.module
        step = self._eval_steps.get(id(model))
        if step is None:
            step = self._eval_steps[id(model)] = EvalStep(
                model, self._eval_loss, self._accuracy, self._compiler, self.precision
            )
        was = model.training
        model.eval()
        return step, lambda: model.train(was)

    def _evaluate(self, loader, signals=None):
        step, restore = self._begin_eval()
        for metric in self._metrics.values():
            metric.reset()
        images = labels = 0
        total = right = 0.0
        try:
            for batch in loader:
                if signals is not None and signals.received:
                    raise Interrupted
                x, y = split_batch(batch, self.device, "evaluation")
                output, loss, correct = step(x, y)
                images += images_in(x)
                total += loss.item() * images_in(x)
                if correct is not None:
                    right += correct.item()
                    labels += y.shape[0] if y.dtype.is_floating_point else y.numel()
                for metric in self._metrics.values():
                    metric.update(output.to("cpu").numpy(), y.to("cpu").numpy())
        finally:
            restore()
        if images == 0:
            raise ValueError("Trainer.evaluate: expected at least one image, got none")
        result = {"loss": total / images}
        if self._accuracy:
            result["accuracy"] = right / labels
        for name, metric in self._metrics.items():
            value = metric.compute()
            if getattr(metric, "is_scalar", True):
                result[name] = float(value)
        return result

    # ------------------------------------------------------------ files

    def save(self, path):
        """Writes the weights (the averaged ones if there are) to a safetensors file with a checksum."""
        model = self.model if self.ema is None else self.ema.module
        checkpoints.save_checkpoint(path, model.state_dict(), metadata=self._metadata())

    def save_checkpoint(self, path, keep_previous=False):
        """Writes everything that resume= needs. `path` also works wherever weights are expected."""
        weights, tensors = self.model.state_dict(), {}
        if self.ema is not None:
            tensors = {f"raw.{k}": t for k, t in weights.items()}
            weights = self.ema.module.state_dict()
            tensors["ema.updates"] = self.ema.updates
        packed_tensors, packed = checkpoints.pack_optimizer(self.optimizer)
        tensors.update(packed_tensors)
        tensors["random"] = _core.ops.random_state()
        state = {
            "run": self._run.state_dict(), "optimizer": packed, "history": dict(self.history),
            "epoch_metrics": self.epoch_metrics, "best": [self.best_score, self.best_epoch],
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "callbacks": [[type(c).__name__, c.state_dict()] for c in self.callbacks if hasattr(c, "state_dict")],
            "max_epochs": self.max_epochs, "seed": self.seed,
        }  # fmt: skip
        checkpoints.save_checkpoint(path, weights, tensors, state, self._metadata(), keep_previous)
        return Path(path)

    def _metadata(self):
        row = {k: v for k, v in self.epoch_metrics.items() if isinstance(v, (int, float))}
        return {**self.metadata, "epoch": self.current_epoch, "metrics": row}

    def _save_last(self):
        if self.log_dir is None:
            return None
        self._run.saved()
        return self.save_checkpoint(self.log_dir / "last.safetensors", keep_previous=True)

    def _find_resume(self, resume):
        """The checkpoint to continue from, read and verified, or None."""
        if resume is None:
            return None
        if resume == "last":
            if self.log_dir is None:
                raise ValueError("Trainer.fit: resume='last' needs a Trainer with log_dir")
            path = self.log_dir / "last.safetensors"
            if not path.exists():
                self.message(f"no {path} to resume from: starting from the beginning")
                return None
        else:
            path = Path(resume)
            if path.is_dir():
                path = path / "last.safetensors"
        found = checkpoints.load_checkpoint(path)
        if found.state is None:
            raise ValueError(f"{path}: holds weights only, training cannot be resumed from it")
        return path, found

    def _restore(self, start, loader):
        path, found = start
        state, tensors = found.state, found.tensors
        try:
            if self.ema is not None:
                if "ema.updates" not in tensors:
                    raise ValueError("the checkpoint has no averaged weights, and this Trainer has ema_decay")
                self.ema.module.load_state_dict(found.weights)
                self.ema.updates.copy_(tensors["ema.updates"])
            elif "ema.updates" in tensors:
                raise ValueError("the checkpoint has averaged weights, and this Trainer has no ema_decay")
            raw = {k.removeprefix("raw."): t for k, t in tensors.items() if k.startswith("raw.")}
            self.model.load_state_dict(raw if self.ema is not None else found.weights)
            self.optimizer.load_state_dict(checkpoints.unpack_optimizer(tensors, state["optimizer"]))
            if (self.scheduler is None) != (state["scheduler"] is None):
                ours = "none" if self.scheduler is None else type(self.scheduler).__name__
                raise ValueError(f"this Trainer's scheduler is {ours}, that of the checkpoint differs")
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            saved = [c for c in self.callbacks if hasattr(c, "state_dict")]
            for callback, (kind, values) in zip(saved, state["callbacks"], strict=False):
                if type(callback).__name__ == kind:
                    callback.load_state_dict(values)
            self.history.update({k: list(v) for k, v in state["history"].items()})
            self.epoch_metrics = dict(state["epoch_metrics"])
            self.best_score, self.best_epoch = state["best"]
            self._run.load_state_dict(state["run"], loader)
            _core.ops.random_state().copy_(tensors["random"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: cannot resume from it: {error}") from error
        self.message(f"resumed from {path}: epoch {self._run.epoch + 1}, step {self._run.global_step}")
