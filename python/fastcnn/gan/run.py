"""Where adversarial training stands, the sums of its epoch, and the loop over the batches of one epoch."""

from __future__ import annotations

import math
import time

from .._loop import Interrupted

_READ_EVERY = 16  # steps between readings of losses, so that the host does not wait for the device


class GANRun:
    """Epoch, step, batch, and weighted sums of what the steps report."""

    _KEPT = ("epoch", "global_step", "batch", "images", "sums", "weights", "seconds", "trained")

    def __init__(self, loader):
        self.epoch = self.global_step = 0
        self.in_step = False
        self.loader = loader
        self.images_per_epoch = len(loader) * loader.batch_size if hasattr(loader, "batch_size") else None
        self.saved()
        self._reset()

    def _reset(self):
        self.batch = self.images = 0
        self.sums, self.weights, self._pending = {}, {}, []
        self.seconds = self._timed_seconds = 0.0
        self._timed_images = 0
        self.trained = False

    def next_epoch(self):
        """Begins the next epoch."""
        self.epoch += 1
        self._reset()

    def saved(self):
        """A checkpoint has been written now."""
        self.saved_step, self.saved_time = self.global_step, time.monotonic()

    def add(self, values, images):
        """Takes what a step reported, {name: scalar tensor}; it is read later."""
        self._pending.append((values, images, self.global_step))
        self.images += images
        self._timed_images += images

    def read(self, detect_nan):
        """Reads what has come in. Raises FloatingPointError for values that are not finite."""
        for values, images, step in self._pending:
            for name, tensor in values.items():
                value = tensor.item()
                if detect_nan and not math.isfinite(value):
                    self._pending.clear()
                    raise FloatingPointError(
                        f"{name} is {value} in epoch {self.epoch + 1}, step {step}: try a smaller lr, another loss or "
                        "a penalty (detect_nan=False goes on)"
                    )
                self.sums[name] = self.sums.get(name, 0.0) + value * images
                self.weights[name] = self.weights.get(name, 0) + images
        self._pending.clear()

    def metrics(self):
        """Means of what has been read."""
        return {name: total / self.weights[name] for name, total in self.sums.items()}

    def rate(self):
        """Real images per second, in this process."""
        return self._timed_images / self._timed_seconds if self._timed_seconds else math.nan

    def clock(self, seconds):
        """Adds training time."""
        self.seconds += seconds
        self._timed_seconds += seconds

    def state_dict(self):
        """Where the run is, with the state of its loader: what an exact resume needs beside the nets."""
        state = {name: getattr(self, name) for name in self._KEPT}
        state["loader"] = self.loader.state_dict() if hasattr(self.loader, "state_dict") else None
        state["batch_size"] = getattr(self.loader, "batch_size", None)
        return state

    def load_state_dict(self, state):
        """Goes on from a state. Raises ValueError within an epoch of batches of another size."""
        within = state["batch"] and not state["trained"]
        if within and state["batch_size"] != getattr(self.loader, "batch_size", None):
            raise ValueError(
                f"it is within an epoch of batches of {state['batch_size']}, the loader's have {self.loader.batch_size}"
            )
        for name in self._KEPT:
            value = state[name]
            setattr(self, name, dict(value) if isinstance(value, dict) else value)
        if within and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state["loader"])
        self.saved()


def run_gan_epoch(trainer, run, loader, signals, most):
    """Trains on what is left of an epoch (at most `most` batches of it); sets run.trained at its end.

    Raises Interrupted after a signal within the epoch, with the state at the border of a step.
    """
    began = time.perf_counter()
    skip = 0 if hasattr(loader, "load_state_dict") else run.batch
    try:
        for index, batch in enumerate(loader):
            if index < skip:
                continue
            trainer._call("on_train_batch_start", batch, run.batch)
            x, labels = trainer._fields(batch)
            run.in_step = True
            values = trainer._train_step(x, labels)
            run.batch += 1
            run.global_step += 1
            run.add(values, int(x.shape[0]))
            run.in_step = False
            if len(run._pending) >= _READ_EVERY:
                run.read(trainer.detect_nan)
            trainer._call("on_train_batch_end", {"loss": values["d_loss"]}, batch, run.batch - 1)
            if run.batch == most or (hasattr(loader, "__len__") and run.batch == len(loader)):
                break
            if signals.received or trainer.should_stop or _due(trainer, run):
                run.read(trainer.detect_nan)
                if signals.received:
                    raise Interrupted
                if trainer.should_stop:
                    return
                now = time.perf_counter()
                run.clock(now - began)
                trainer._save_last()
                began = time.perf_counter()
        run.read(trainer.detect_nan)
        if run.batch == 0:
            raise ValueError(
                "GANTrainer.fit: the training data gave no batch; batches are whole ones, so batch_size must not "
                "exceed the number of images"
            )
        run.trained = True
    finally:
        run.clock(time.perf_counter() - began)


def _due(trainer, run):
    seconds = trainer.checkpoint_every_seconds
    return trainer.log_dir is not None and seconds is not None and time.monotonic() - run.saved_time >= seconds
