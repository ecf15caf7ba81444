"""Progress on the screen: a tqdm bar on a terminal, plain lines elsewhere. Nothing here is kept or logged."""

from __future__ import annotations

import math
import sys
import time

from .callbacks import Callback

_MOST_VALUES = 8  # of an epoch's line; the history has all
_SHORT = {"train_loss": "loss", "train_accuracy": "accuracy", "val_loss": "val loss", "val_accuracy": "val accuracy"}


def format_value(name, value):
    """accuracy as per cent, rates short, everything else with four digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if name.endswith("accuracy") or "_top" in name:
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def format_time(seconds):
    """75 -> '1:15'."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class ProgressBar(Callback):
    """Shows epoch, images per second, time left, loss and accuracy.

    Args: refresh_rate: batches between updates of the numbers. stream: default stderr. leave_every: seconds
    between lines where stream is no terminal (long epochs only); each epoch ends with one line anyway.
    """

    def __init__(self, refresh_rate=1, stream=None, leave_every=30.0):
        self.refresh_rate, self.stream, self.leave_every = max(1, int(refresh_rate)), stream, leave_every
        self._bar, self._last = None, 0.0

    def _out(self):
        return sys.stderr if self.stream is None else self.stream

    def _line(self, text):
        if self._bar is not None:
            self._bar.write(text, file=self._out())
        else:
            print(text, file=self._out(), flush=True)

    def on_train_epoch_start(self, trainer):
        """Opens the bar of this epoch."""
        self._start = self._last = time.perf_counter()
        self._first = self._seen = trainer.images_in_epoch
        self._bar = None
        out = self._out()
        if not (hasattr(out, "isatty") and out.isatty()):
            return
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self._bar = tqdm(
            total=trainer.images_per_epoch, initial=self._first, file=out, unit="img", leave=False,
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        """Moves the bar; loss and accuracy are those of the epoch so far."""
        if (batch_idx + 1) % self.refresh_rate:
            return
        if self._bar is not None:
            self._bar.update(trainer.images_in_epoch - self._seen)
            self._seen = trainer.images_in_epoch
            now = trainer.running_metrics()
            self._bar.set_postfix(
                {_SHORT.get(k, k): format_value(k, v) for k, v in now.items()}, refresh=False
            )
            return
        now = time.perf_counter()
        if now - self._last >= self.leave_every:
            self._last = now
            done, total = trainer.images_in_epoch, trainer.images_per_epoch
            rate = (done - self._first) / (now - self._start)
            left = f", {format_time((total - done) / rate)} left" if total and rate > 0 else ""
            share = f" {100 * done / total:.0f} %" if total else ""
            values = ", ".join(f"{_SHORT.get(k, k)} {format_value(k, v)}" for k, v in trainer.running_metrics().items())
            self._line(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{share}: {values}, {rate:.0f} images/s{left}"
            )

    def on_epoch_end(self, trainer):
        """One line with the epoch's results."""
        self._close()
        row = trainer.epoch_metrics
        shown = [k for k in row if k not in ("lr", "images_per_second", "seconds", "memory_MB")]
        values = ", ".join(f"{_SHORT.get(k, k)} {format_value(k, row[k])}" for k in shown[:_MOST_VALUES])
        if len(shown) > _MOST_VALUES:
            values += f" and {len(shown) - _MOST_VALUES} more"
        left = trainer.max_epochs - trainer.current_epoch - 1
        eta = f", {format_time(left * row['seconds'])} left" if left else ""
        self._line(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {values}, lr {row['lr']:.3g}, "
            f"{row['images_per_second']:.0f} images/s, {row['seconds']:.1f} s{eta}"
        )

    def on_fit_end(self, trainer):
        """Closes the bar of an epoch that was left early."""
        self._close()

    def on_exception(self, trainer, exception):
        """Closes the bar, so that the message starts on its own line."""
        self._close()

    def message(self, text):
        """A line above the bar."""
        self._line(text)

    def _close(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
