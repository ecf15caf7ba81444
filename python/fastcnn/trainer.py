"""Trainer: the loop over epochs, validation, checkpoints, resume and interruption.

What happens to one batch is in _steps.py, what goes into checkpoints in _run_files.py, the screen in progress.py, the
loop over batches in _loop.py, evaluation in _evaluate.py, the search for NaN in _nan_guard.py. It trains models with
one loss; for adversarial pairs see GANTrainer.
"""

from __future__ import annotations

import copy
import difflib
import math
import time
from pathlib import Path

import numpy as np

from . import _core, checkpoints, distributed
from ._callback_host import CallbackHost
from ._choices import check_options, make_metrics, make_optimizer, make_schedule, pick_device
from ._compile import compile as compile_function
from ._evaluate import evaluate, predict
from ._files import prepare_folder, sole_writer
from ._grad_scaler import GradScaler
from ._loop import (
    FirstBatches,
    Interrupted,
    RunState,
    SignalGuard,
    agree,
    as_loader,
    check_classes,
    check_lengths,
    describe_resume,
    peak_memory,
    run_epoch,
)
from ._modes import to_evaluation, use_deterministic_algorithms
from ._nan_guard import NanGuard
from ._run_files import find_resume, options_of, restore_run, save_run
from ._steps import EvalStep, TrainStep, get_loss
from .callbacks import is_better, mode_of, picture_of
from .nn import Module


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


class Trainer(CallbackHost):
    """Trains, evaluates and applies a model.

    Args:
        model: a Module; its output goes to the loss.
        optimizer: a name ("sgd", "adamw", "lion" ...: optim.list_optimizers()), an Optimizer, or f(parameters) ->
            Optimizer. "muon" takes the hidden weights; AdamW, at the same rate, the last layer's, embeddings, biases
            and norms.
        lr: default 0.1 for sgd, 1e-3 for rmsprop, else that of the optimizer. weight_decay: default that of the
            optimizer. momentum: of those that have one; sgd with momentum uses Nesterov's.
        param_rules: {pattern of parameter names (`"layer4.*"`, `"*.bias"`): {option: value}}, "lr_scale" multiplies
            the rate. layer_decay: factor of the rate from each layer to the one before it. Both as in
            optim.param_groups, for optimizers given by name.
        loss: name ("cross_entropy", "nll", "focal", "dice", "margin", "kl_div", "bce" (of logits), "mse", "l1",
            "smooth_l1", "huber") with the defaults of fc.ops, or f(output, target) -> scalar tensor.
        metrics: "accuracy" (counted in training too), names or Metric objects of fastcnn.metrics, and functions
            f(output, target) -> number of NumPy arrays, whose mean over images is reported under the function's name;
            all but accuracy are computed in validation. A metric of several numbers has a column for each (val_map_50,
            val_mean_iou_3; see Metric.scalars). Detectors (models with predict()) are measured on their predictions, in
            validation data of (images, list of target dicts), by metrics such as MeanAveragePrecision.
            Default: accuracy with cross_entropy, else none.
        training_step: f(model, batch) -> scalar loss, or dict with "loss" and scalars to report as `train_<name>`;
            instead of loss and accuracy in training. batch is the loader's, with arrays as tensors on the device. It is
            traced and compiled as any step, so it must not look at values. validation_step: the same for validation and
            evaluate(); without it validation uses loss and metrics.
        precision: "32-true"; "bf16-mixed": forward in bfloat16, weights, statistics, loss and updates in float32;
            "16-mixed": the same with float16 and a GradScaler, for GPUs: here the CPU is slower with it.
        device: "auto", "cpu" or "cuda".
        accumulate_grad_batches: batches per optimizer step; the loss is divided by it.
        gradient_clip_val: with gradient_clip_algorithm "norm" the largest norm of all gradients together, with "value"
            the largest magnitude of each. ema_decay: validate and save an exponential moving average of the weights.
        callbacks: list of Callback. compile: plan whole steps with fastcnn.compile; False runs them eagerly.
        deterministic: use_deterministic_algorithms during fit; the CPU always is. seed: of shuffling, augmentation and
            dropout.
        log_dir: folder for metrics.csv, curves.png, last.safetensors and best.safetensors; None writes nothing.
        scheduler: None, "onecycle", "cosine", "step" (x 0.1 at half and three quarters), "plateau" (x 0.1 when val_loss
            did not fall for more than 5 epochs), a schedule, or f(optimizer, total_steps) -> schedule.
            scheduler_interval: "step" or "epoch", default its own: most schedules count epochs, as in PyTorch, a
            SequentialLR what its first one counts. Each fit() that does not resume begins it anew.
            warmup_steps: optimizer steps in which the rate rises to where None, "cosine" or "step" begins.
        label_smoothing: of cross_entropy in training. ignore_index: class id of targets that count neither in the loss
            ("cross_entropy", "nll", "dice") nor in accuracy nor in metrics by name; default that of the dataset.
        batch_size, transform, num_workers: for datasets that are passed instead of loaders; transform is for
            training only.
        monitor: column that picks the best epoch; default val_accuracy, val_loss or train_loss.
        checkpoint_every_n_steps, checkpoint_every_seconds: how often last.safetensors is written within an
            epoch; None: only after it.
        detect_nan: stop with FloatingPointError when the loss is NaN or infinite, and name the first layer that gave
            such a value (see _nan_guard.py; about half a per cent of the time).
        num_sanity_val_steps: validation batches that run before training, so that what is wrong there shows at once;
            not after a resume, nor for data that can be read only once.
        progress: show a bar. metadata: JSON values to keep in checkpoints.
        fast_dev_run: number of batches (True: one) that training and validation see, in one epoch, and no files: does
            everything run? overfit_batches: the first n batches of the training data, the same in each epoch, for
            training and validation: can the model learn at all?

    In a job of several processes (fastcnn.distributed) each takes its share of a dataset given for training, with
    batch_size images of its own per step, and gradients are averaged. Validation runs in full in each. The first
    process alone writes files and shows progress.

    A row of the history has train_ and val_ values, lr, images_per_second of training, seconds with validation, and
    memory_MB, tensor memory in units of 10^6 bytes: its peak so far on the CPU, what is held on CUDA.
    """

    def __init__(
        self, model, optimizer="adamw", lr=None, loss="cross_entropy", metrics=None, precision="32-true",
        device="auto", accumulate_grad_batches=1, gradient_clip_val=None, ema_decay=None, callbacks=(),
        compile=True, deterministic=False, seed=0, log_dir=None, *, scheduler=None, scheduler_interval=None,
        weight_decay=None, momentum=None, param_rules=None, layer_decay=None, training_step=None, validation_step=None,
        gradient_clip_algorithm="norm", label_smoothing=0.0, batch_size=128, transform=None, num_workers=0,
        monitor=None, checkpoint_every_n_steps=None, checkpoint_every_seconds=60.0, detect_nan=True,
        num_sanity_val_steps=1, progress=True, metadata=None, fast_dev_run=False, overfit_batches=0,
        warmup_steps=0, ignore_index=None,
    ):  # fmt: skip
        check_options(
            precision, accumulate_grad_batches, gradient_clip_val, gradient_clip_algorithm, ema_decay,
            scheduler_interval, fast_dev_run, overfit_batches, num_sanity_val_steps, training_step, validation_step,
            callbacks, warmup_steps,
        )  # fmt: skip
        if not isinstance(model, Module):
            raise TypeError(f"Trainer: expected a Module as model, got {type(model).__name__}")
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
        self.num_sanity_val_steps = int(num_sanity_val_steps)
        self._resume_dir = None if log_dir is None or self.fast_dev_run else Path(log_dir)
        self.log_dir = self._resume_dir if distributed.rank() == 0 else None
        self.optimizer = make_optimizer(optimizer, model, lr, weight_decay, momentum, param_rules, layer_decay)
        self.scheduler, self._scheduler_spec, self._scheduler_interval = None, scheduler, scheduler_interval
        self.warmup_steps, self._first_options, self._first_schedule = int(warmup_steps), None, None

        self.training_step, self.validation_step = training_step, validation_step
        if metrics is None:
            own = loss != "cross_entropy" or validation_step is not None
            metrics = () if own else ("accuracy",)
        metrics = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
        if metrics and validation_step is not None:
            raise ValueError("Trainer: metrics need outputs and targets; with validation_step return them in its dict")
        self._accuracy = "accuracy" in [m for m in metrics if isinstance(m, str)]
        self._metric_specs = [m for m in metrics if not isinstance(m, str) or m != "accuracy"]
        self._loss_spec = (loss, label_smoothing)
        self.ignore_index, self._metrics = ignore_index, make_metrics(self._metric_specs, ignore_index)
        train_loss, self._eval_loss = get_loss(loss, label_smoothing, ignore_index)
        self.ema = None
        if ema_decay is not None:
            from .nn.utils import EMA

            self.ema = EMA(model, ema_decay, warmup=True)
        self._compiler = compile_function if compile else None
        self._count_train = self._accuracy and training_step is None
        clip = None if gradient_clip_val is None else (gradient_clip_algorithm, gradient_clip_val)
        self.scaler = GradScaler(self.device) if precision == "16-mixed" else None
        self._step = TrainStep(
            model, train_loss, self.optimizer, self._count_train, self.accumulate_grad_batches, clip, self.ema,
            self._compiler, precision, training_step, self.scaler, ignore_index,
        )  # fmt: skip
        self._eval_steps, self._guard = {}, NanGuard(model)

        self._take_callbacks(callbacks, progress and distributed.rank() == 0)
        self.history = History()
        self.max_epochs, self.should_stop, self.epoch_metrics, self.train_loader = 0, False, {}, None
        self.best_score = self.best_epoch = None
        self._run = RunState()

    # ------------------------------------------------------------ what callbacks read

    def running_metrics(self):
        """train_loss and train_accuracy of the epoch so far."""
        return self._run.metrics(self._count_train)

    def _changed(self, batch, index):
        for callback in self.callbacks:
            change = getattr(callback, "change_batch", None)
            if change is not None:
                batch = change(self, batch, index)
        return batch

    def _take_ignore_index(self, loader):
        """That of the loader's dataset, where none was given: targets that it marks are no class."""
        found = getattr(getattr(loader, "dataset", None), "ignore_index", None)
        loss, smoothing = self._loss_spec
        if found is None or self.ignore_index is not None or (self.training_step and self.validation_step):
            return
        self._step.loss, self._eval_loss = get_loss(loss, smoothing, found)  # raises where the loss would count them
        self.ignore_index, self._metrics = found, make_metrics(self._metric_specs, found)
        self._step.ignore_index = found
        self._step.forget_plans()
        self._eval_steps.clear()

    # ------------------------------------------------------------ fit

    def fit(self, train_data, val_data=None, max_epochs=10, resume=None):
        """Trains and returns the History.

        Args: train_data, val_data: dataset or loader of (images, targets). max_epochs: counted from 0 even
        after a resume. resume: "last" (log_dir/last.safetensors; from the start if there is none), or the path
        of a checkpoint; the result is the same, bit for bit, as without the interruption. Options of the optimizer (lr,
        weight_decay ...) that are others than the run began with are those it goes on with.

        Ctrl-C ends the step, saves last.safetensors and returns the history with `interrupted` set; SIGTERM
        does the same and then exits with status 143.
        """
        if not isinstance(max_epochs, (int, np.integer)) or max_epochs < 1:
            raise ValueError(f"Trainer.fit: expected max_epochs as an int of at least 1, got {max_epochs!r}")
        loader = self._train_loader(train_data, not self.overfit_batches)
        val_loader = None if val_data is None else self._eval_loader(val_data)
        if self.overfit_batches:
            loader = FirstBatches(loader, self.overfit_batches, keep=True)
            val_loader = None if val_loader is None else loader
        elif self.fast_dev_run:
            loader = FirstBatches(loader, self.fast_dev_run)
            val_loader = None if val_loader is None else FirstBatches(val_loader, self.fast_dev_run)
            max_epochs = 1
        check_classes(loader, val_loader)
        self._take_ignore_index(loader)
        check_lengths(loader)
        start = find_resume(self, resume, self._resume_dir)
        if self.log_dir is not None:
            prepare_folder(self.log_dir)  # now, not after an epoch
        self.max_epochs, self.should_stop, self.train_loader = int(max_epochs), False, loader
        self.history, self.epoch_metrics = History(), {}
        self.best_score = self.best_epoch = None
        self._run = RunState(loader)
        if self._first_options is None:
            self._first_options = options_of(self.optimizer, hasattr(self._scheduler_spec, "optimizer"))
        self._make_scheduler(len(loader) if hasattr(loader, "__len__") else None)
        if start is None:
            distributed.broadcast_(self.model)
            if self.ema is not None:
                distributed.broadcast_(self.ema.module)
            _core.ops.manual_seed(self.seed)
        else:
            restore_run(self, start, loader)
        if distributed.rank() > 0:  # dropout of its own
            state = _core.ops.random_state()
            state.copy_(state + _core.tensor(np.array([distributed.rank(), 0], np.int64)))
        self._step.prepare()
        self._guard.restart()
        with sole_writer(self.log_dir), SignalGuard() as signals:
            try:
                if self.deterministic:
                    use_deterministic_algorithms(True)
                self._call("on_fit_start")
                if start is None:
                    self._sanity_check(val_loader, signals)
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

    def _sanity_check(self, val_loader, signals):
        """Validation on a few batches before the first epoch; the loader goes back to its beginning."""
        again = hasattr(val_loader, "load_state_dict") or isinstance(val_loader, (list, tuple))
        if val_loader is None or not self.num_sanity_val_steps or not again:
            return
        state = val_loader.state_dict() if hasattr(val_loader, "state_dict") else None
        try:
            found = evaluate(self, FirstBatches(val_loader, self.num_sanity_val_steps), self._own(signals))
        except Exception as error:
            if not isinstance(error, Interrupted):
                self.message("validation fails, in the check of it before training (num_sanity_val_steps)")
            raise
        if state is not None:
            val_loader.load_state_dict(state)
        columns = [f"val_{name}" for name in found]
        if self.monitor and self.monitor not in columns:
            near = difflib.get_close_matches(self.monitor, columns, n=1, cutoff=0.6)
            if near:  # else a callback may log it
                raise ValueError(f"Trainer: no metric {self.monitor!r} to monitor; did you mean {near[0]!r}?")

    def _fit_epoch(self, loader, val_loader, signals):
        run = self._run
        if not run.trained:
            if run.batch == 0:
                self.epoch_metrics = {}
            # Within an epoch a loader's own state tells where it is.
            if hasattr(loader, "set_epoch") and (run.batch == 0 or not hasattr(loader, "load_state_dict")):
                loader.set_epoch(run.epoch)
            self.model.train()
            self._call("on_train_epoch_start")
            run_epoch(self, run, self._step, loader, signals)
            if not run.trained:  # a callback said stop in the middle
                self._save_last()
                return
            self.epoch_metrics.update(run.metrics(self._count_train))
            self._same_buffers()
            self._call("on_train_epoch_end")
            if agree(self, signals):
                raise Interrupted
        if val_loader is not None:
            self._call("on_validation_start")
            began = time.perf_counter()
            results = evaluate(self, val_loader, self._own(signals))
            self.epoch_metrics.update({f"val_{k}": v for k, v in results.items()})
            run.seconds += time.perf_counter() - began
            self._call("on_validation_end")
        row = self.epoch_metrics
        row["lr"] = float(self.optimizer.param_groups[0]["lr"])
        row["images_per_second"] = run.rate()
        row["seconds"] = run.seconds
        row["memory_MB"] = peak_memory(self.device) / 1e6
        if self.scheduler is not None and self._interval == "epoch":
            if hasattr(self.scheduler, "num_bad_epochs"):
                self.scheduler.step(distributed.gather(row[self._plateau_name()])[0])  # one rate in all processes
            else:
                self.scheduler.step()
        best = self._note_best()
        self._call("on_epoch_end")
        if best and self.log_dir is not None:  # before last: killed between the two, this epoch runs again
            self.save(self.log_dir / "best.safetensors")
        self.history.append(row)
        run.next_epoch()
        self._save_last()
        agree(self, signals)

    def _same_buffers(self):
        """In a job the statistics of norms are of each process's own images: validation is with those of the first."""
        for model in (self.model, None if self.ema is None else self.ema.module):
            if model is not None:
                distributed.broadcast_(model.buffers())

    def _own(self, signals):
        """Signals that this process may follow alone: where there are others, it waits for them at the next step."""
        return signals if distributed.world_size() == 1 else None

    def _train_loader(self, data, shuffle):
        shard = (distributed.rank(), distributed.world_size())
        return as_loader(data, self.batch_size, shuffle, self.seed, self.transform, self.num_workers, shard)

    def _monitor_name(self):
        names = [self.monitor] if self.monitor else ["val_accuracy", "val_loss", "train_loss"]
        found = next((n for n in names if n in self.epoch_metrics), None)
        if found is None:
            raise ValueError(f"Trainer: no metric {names[0]!r}; this run has {', '.join(self.epoch_metrics)}")
        return found

    def _plateau_name(self):
        """The column that ReduceLROnPlateau looks at: monitor, or one that falls or rises as its mode says."""
        mode, name = self.scheduler.mode, self._monitor_name()
        if mode_of(self, name) == mode:
            return name
        if self.monitor:
            raise ValueError(
                f"Trainer: monitor={self.monitor!r} is to {'fall' if mode == 'max' else 'rise'}, and ReduceLROnPlateau "
                f"has mode={mode!r}"
            )
        kinds = ("val_loss", "train_loss") if mode == "min" else ("val_accuracy", "train_accuracy")
        return next((k for k in kinds if k in self.epoch_metrics), name)

    def _note_best(self):
        name = self._monitor_name()
        value = float(self.epoch_metrics[name])
        if not is_better(value, self.best_score, mode_of(self, name)):
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
        if spec is None and not self.warmup_steps:
            return
        ready = hasattr(spec, "step") and hasattr(spec, "optimizer")
        if not ready:
            self._rewind_lr()
        self.scheduler = make_schedule(
            spec, self.optimizer, self._total_steps, self.max_epochs, self.warmup_steps, self._scheduler_interval
        )
        if ready and hasattr(spec, "state_dict"):
            self._restart(spec)
        self._interval = self._scheduler_interval or getattr(self.scheduler, "interval", "epoch")
        if self._interval == "step" and hasattr(self.scheduler, "num_bad_epochs"):
            raise ValueError("Trainer: expected scheduler_interval 'epoch' for ReduceLROnPlateau, got 'step'")

    def _restart(self, schedule):
        # Of a schedule that was made before: a second fit() takes it from where the first did, as those by name.
        if self._first_schedule is None:
            self._first_schedule = copy.deepcopy(schedule.state_dict())
        else:
            schedule.load_state_dict(copy.deepcopy(self._first_schedule))

    def _rewind_lr(self):
        # A second fit() begins its schedule where the first began, not where it ended.
        for group, first in zip(self.optimizer.param_groups, self._first_options, strict=True):
            group["lr"] = first["lr"]
            group.pop("initial_lr", None)

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

        loader = self._train_loader(train_data, True)
        return lr_find(self, loader, min_lr, max_lr, num_steps, stop_factor)

    # ------------------------------------------------------------ evaluate, predict

    def evaluate(self, data):
        """{"loss": ..., "accuracy": ..., other metrics} on a dataset or loader, with the averaged weights if any."""
        loader = self._eval_loader(data)
        self._take_ignore_index(loader)
        return evaluate(self, loader)

    def predict(self, data):
        """The model's outputs as one NumPy array.

        data: a dataset, a loader, images (N, C, H, W) or volumes (N, C, D, H, W).
        Models that return tuples, lists or dicts of tensors give these with an array for each.
        """
        return predict(self, data)

    def _eval_loader(self, data):
        return as_loader(data, self.batch_size, False, self.seed, None, self.num_workers)

    def _begin_eval(self):
        model = self.model if self.ema is None else self.ema.module
        step = self._eval_steps.get(id(model))
        if step is None:
            step = self._eval_steps[id(model)] = EvalStep(
                model, self._eval_loss, self._accuracy, self._compiler, self.precision, self.validation_step,
                self.ignore_index,
            )  # fmt: skip
        return step, to_evaluation(model)

    # ------------------------------------------------------------ files

    def save(self, path):
        """Writes the weights (the averaged ones if there are) to a safetensors file with a checksum."""
        model = self.model if self.ema is None else self.ema.module
        checkpoints.save_checkpoint(path, model.state_dict(), metadata=self._metadata())

    def save_checkpoint(self, path, keep_previous=False):
        """Writes everything that resume= needs. `path` also works wherever weights are expected."""
        return save_run(self, path, keep_previous)

    def _metadata(self):
        row = {k: v for k, v in self.epoch_metrics.items() if isinstance(v, (int, float))}
        return {**self.metadata, "epoch": self.current_epoch, "metrics": row}

    def _save_last(self):
        if self.log_dir is None:
            return None
        self._run.saved()
        return self.save_checkpoint(self.log_dir / "last.safetensors", keep_previous=True)
