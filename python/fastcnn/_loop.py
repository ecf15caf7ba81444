"""The loop over the batches of one epoch, where it stands, and the signals that may end it.

Losses are read back from the device in small lots, so that the host does not wait for every step.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import threading
import time

from . import _core, distributed
from ._steps import batch_to_device, count_labels, first_tensor, split_batch

_READ_EVERY = {"cpu": 1}  # steps between readings of the losses; on the CPU they are there when the step returns
_READ_EVERY_ELSEWHERE = 16


class Interrupted(Exception):
    """A signal asked to stop, and the state is whole."""


class SignalGuard:
    """Scope in which SIGINT and SIGTERM only set `received`; a second SIGINT raises KeyboardInterrupt at once.

    Outside the main thread handlers cannot be set: then it does nothing.
    """

    def __init__(self):
        self.received = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number, frame):
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            # None: the handler was not set from Python and cannot be put back through it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def agree(trainer, signals):
    """The signal that has come, or None; in a job the one that all processes follow, as they do trainer.should_stop.

    All of them have to ask, and to go by the answer: signals.received may change before it is read again.
    """
    received = signals.received
    if distributed.world_size() > 1:
        answers = distributed.gather((received, trainer.should_stop))
        received = next((name for name, _ in answers if name), None)
        trainer.should_stop = any(stop for _, stop in answers)
        signals.received = signals.received or received
    return received


def check_lengths(loader):
    """ValueError where processes of a job would train on different numbers of batches: some would wait for ever."""
    lengths = distributed.gather(len(loader) if hasattr(loader, "__len__") else None)
    if len(set(lengths)) > 1:
        raise ValueError(f"Trainer.fit: expected as many batches in every process, got {lengths}")


def check_together(run, left):
    """ValueError in all processes of a job where some have a batch more than others, who would not answer them.

    left: 0 where there is no batch, 1 for the last one, else 2.
    """
    if distributed.world_size() == 1:
        return
    answers = distributed.gather(left)
    if len(set(answers)) > 1:
        least = min(answers)
        raise ValueError(
            f"Trainer.fit: expected as many batches in every process, got none after {run.batch + least} in process "
            f"{', '.join(str(rank) for rank, own in enumerate(answers) if own == least)}"
        )


def as_loader(data, batch_size, shuffle, seed, transform, num_workers, shard=None):
    """A loader as it is; a dataset in a DataLoader. shard: of this process, where the data are for training."""
    from .data import DataLoader

    if isinstance(data, DataLoader):
        if shard is not None and shard[1] > 1 and data.shard != shard:
            raise ValueError(
                f"Trainer: expected DataLoader(..., shard={shard}) in this process of {shard[1]}, got {data.shard}: "
                "each would train on the same images; a dataset instead of a loader is shared out by itself"
            )
        return data
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (list, tuple)):
        return DataLoader(
            data, batch_size, shuffle=shuffle, seed=seed, transform=transform, num_workers=num_workers, shard=shard
        )
    if hasattr(data, "__iter__"):
        return data
    raise TypeError(f"Trainer: expected a dataset or a loader, got {type(data).__name__}")


def check_classes(loader, val_loader):
    """ValueError where training and validation name different classes: their ids would not mean the same."""
    names = [getattr(getattr(x, "dataset", None), "classes", None) for x in (loader, val_loader)]
    if not all(names) or list(names[0]) == list(names[1]):
        return
    lacking = [str(n) for n in names[0] if n not in set(names[1])]
    new = [str(n) for n in names[1] if n not in set(names[0])]
    parts = [f"only in {where}: {', '.join(n[:5])}" for where, n in (("training", lacking), ("validation", new)) if n]
    raise ValueError(
        f"Trainer.fit: expected the {len(names[0])} classes of the training data in validation, in their order, got "
        f"{len(names[1])} ({'; '.join(parts) or 'another order'}); ImageFolder(..., classes=train.classes) gives them "
        "the same ids"
    )


class FirstBatches:
    """The first n batches of a loader, in each epoch; keep: those of the first epoch again and again."""

    def __init__(self, loader, n, keep=False):
        self.loader, self.n, self.kept = loader, n, [] if keep else None

    def __len__(self):
        return min(self.n, len(self.loader)) if hasattr(self.loader, "__len__") else self.n

    @property
    def dataset(self):
        """That of the loader, None where it has none."""
        return getattr(self.loader, "dataset", None)

    def set_epoch(self, epoch):
        """For loaders that shuffle by epoch; what is kept is of the first, also after a resume."""
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch if self.kept is None else 0)

    def __iter__(self):
        if self.kept is None:
            return itertools.islice(self.loader, self.n)
        if not self.kept:
            self.kept.extend(itertools.islice(self.loader, self.n))
        return iter(self.kept)


def images_in(x):
    """Images in a batch, of which x is a tensor (or None)."""
    return int(x.shape[0]) if x is not None and x.ndim else 1


def peak_memory(device):
    """Bytes of tensor memory: the highest so far in this process on the CPU, what is held on CUDA."""
    return _core.memory_info()["peak"] if device == "cpu" else _core.cuda_memory_allocated()


class RunState:
    """Where training stands: epoch, batch, and the sums of the epoch so far."""

    def __init__(self, loader=None):
        self.epoch = self.global_step = 0
        self.in_step = False
        self._loader = loader
        self.images_per_epoch = None
        dataset = getattr(loader, "dataset", None)
        if dataset is not None and hasattr(loader, "batch_size") and hasattr(loader, "__len__"):
            whole = len(loader) * loader.batch_size
            order = getattr(loader, "sampler", None)  # may show a sample again, or not at all
            rest = len(order if hasattr(order, "__len__") else dataset)
            self.images_per_epoch = whole if getattr(loader, "drop_last", False) else rest
        self.saved()
        self._reset()

    def _reset(self):
        self.batch = self.images = self.labels = 0
        self.loss_sum = self.correct = self.seconds = self._timed_seconds = 0.0
        self._timed_images = 0
        self.logged = {}
        self.trained = False
        self._pending = []

    def next_epoch(self):
        """Begins the next epoch."""
        self.epoch += 1
        self._reset()

    def saved(self):
        """A checkpoint has been written now."""
        self.saved_step, self.saved_time = self.global_step, time.monotonic()

    def add(self, result, images, labels, batch):
        """Takes the results of a batch; they are read later."""
        self._pending.append((*result, images, batch, self.global_step))
        self.images += images
        self.labels += labels
        self._timed_images += images

    def read(self, trainer):
        """Reads the losses that have come in."""
        for loss, correct, logs, images, batch, step in self._pending:
            value = loss.item()
            if trainer.detect_nan:
                if not math.isfinite(value):
                    self._pending.clear()
                    raise FloatingPointError(
                        f"the loss is {value} in epoch {self.epoch + 1}, step {step + 1}: "
                        f"{trainer._guard.explain(trainer._step, batch, step)}; try a smaller lr, gradient_clip_val, "
                        "or look for bad samples (detect_nan=False goes on)"
                    )
                trainer._guard.saw(value)
            self.loss_sum += value * images
            for name, number in logs.items():
                self.logged[name] = self.logged.get(name, 0.0) + number.item() * images
            if correct is not None:
                self.correct += correct.item()
        self._pending.clear()

    def metrics(self, accuracy):
        """Means of what has been read."""
        seen = self.images - sum(images for *_, images, _, _ in self._pending)
        result = {"train_loss": self.loss_sum / seen if seen else math.nan}
        if accuracy:
            share = seen / self.images if self.images else 0
            result["train_accuracy"] = self.correct / (self.labels * share) if seen and self.labels else math.nan
        result.update({f"train_{name}": total / seen for name, total in self.logged.items() if seen})
        return result

    def rate(self):
        """Images per second of training, in this process."""
        return self._timed_images / self._timed_seconds if self._timed_seconds else math.nan

    def clock(self, seconds):
        """Adds training time."""
        self.seconds += seconds
        self._timed_seconds += seconds

    def state_dict(self):
        """Where the run is within its epoch: what an exact resume needs beside the model."""
        names = (
            "epoch", "global_step", "batch", "images", "labels", "loss_sum", "correct", "logged", "seconds", "trained",
        )  # fmt: skip
        state = {name: getattr(self, name) for name in names}
        state["loader"] = self._loader.state_dict() if hasattr(self._loader, "state_dict") else None
        state["batch_size"] = getattr(self._loader, "batch_size", None)
        return state

    def load_state_dict(self, state, loader):
        """Goes on from a state. Raises ValueError within an epoch of batches of another size."""
        within = state["batch"] and not state["trained"]
        if within and state["batch_size"] != getattr(loader, "batch_size", None):
            raise ValueError(
                f"it is within an epoch of batches of {state['batch_size']}, the loader's have {loader.batch_size}"
            )
        for name in self.state_dict():
            if name not in ("loader", "batch_size"):
                setattr(self, name, dict(state[name]) if name == "logged" else state[name])
        if within and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(state["loader"])
        self.saved()


def run_epoch(trainer, run, step, loader, signals):
    """Trains on the batches that are left of an epoch; sets run.trained when it has seen the last.

    Raises Interrupted after a signal within the epoch, with the state at the border of a step.
    """
    accumulate = trainer.accumulate_grad_batches
    total = len(loader) if hasattr(loader, "__len__") else None
    skip = 0 if hasattr(loader, "load_state_dict") else run.batch
    read_every = _READ_EVERY.get(trainer.device, _READ_EVERY_ELSEWHERE)
    began = time.perf_counter()
    try:
        # Looking ahead would make a loader's own position wrong, so it is only done where nothing else tells the end.
        batches = _with_last(loader) if total is None else ((batch, None) for batch in loader)
        for _ in range(skip):
            next(batches, None)
        for batch, last in batches:
            index = run.batch
            if last is None:
                last = index + 1 == total
            check_together(run, 1 if last else 2)
            trainer._call("on_train_batch_start", batch, index)
            batch = trainer._changed(batch, index)
            if trainer.training_step is None:
                fields = x, y = split_batch(batch, trainer.device)
                labels = count_labels(y, trainer.ignore_index) if trainer._count_train else 0
            else:
                fields = batch_to_device(batch, trainer.device)
                x, labels = first_tensor(fields), 0
            update = (index + 1) % accumulate == 0 or last
            if trainer.detect_nan:
                trainer._guard.before_step(run.global_step)
            run.in_step = True
            result = step(fields, update)
            run.batch += 1
            run.add(result, images_in(x), labels, fields if trainer.detect_nan else None)
            if update:
                run.global_step += 1
                trainer._step_scheduler()
                run.in_step = False
            if len(run._pending) >= read_every or last:
                run.read(trainer)
            trainer._call("on_train_batch_end", {"loss": result[0]}, batch, index)
            if not update or last:
                continue
            if agree(trainer, signals):
                run.read(trainer)
                raise Interrupted
            if trainer.should_stop:
                run.read(trainer)
                return
            if _due(trainer, run):
                run.read(trainer)
                began = _clock(run, began)
                trainer._save_last()
                began = time.perf_counter()
        check_together(run, 0)
        if run.batch == 0:
            raise ValueError("Trainer.fit: the training data gave no batch")
        run.read(trainer)  # a loader that leaves out what it cannot read may end before its len()
        if run.in_step:  # and in the middle of what accumulates: gradients of a part are not a step
            step.prepare()
            run.in_step = False
        run.trained = True
    finally:
        _clock(run, began)


def _clock(run, began):
    now = time.perf_counter()
    run.clock(now - began)
    return now


def _due(trainer, run):
    """Whether last.safetensors is to be written within the epoch."""
    if trainer.log_dir is None:
        return False
    steps, seconds = trainer.checkpoint_every_n_steps, trainer.checkpoint_every_seconds
    if steps is not None and run.global_step - run.saved_step >= steps:
        return True
    return seconds is not None and time.monotonic() - run.saved_time >= seconds


def _with_last(iterable):
    """(item, is it the last) of an iterable whose length need not be known."""
    iterator = iter(iterable)
    try:
        item = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield item, False
        item = following
    yield item, True


def describe_resume(name, run, path):
    """What to tell after an interruption."""
    at = f"stopped by {name} in epoch {run.epoch + 1} after step {run.global_step}"
    if path is None:
        return f"{at}; nothing was saved (no log_dir)"
    return f"{at}; saved {path}, go on with resume='last'"
