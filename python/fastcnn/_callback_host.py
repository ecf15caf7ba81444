"""What callbacks see of a trainer and how they are called; the part that Trainer and GANTrainer share.

What it is not: a training loop; see trainer.py, gan/trainer.py and _loop.py.
"""

from __future__ import annotations

import math

import numpy as np

from . import _core, distributed
from .callbacks import Callback, CSVLogger
from .progress import ProgressBar

_HOOKS = {name for name in dir(Callback) if name.startswith("on_")} | {"change_batch"}


def plain_number(name, value):
    """value, as a number of Python where it is an array or a tensor of one: files take no others."""
    if isinstance(value, (np.generic, np.ndarray, _core.Tensor)):
        if math.prod(value.shape) != 1:
            raise ValueError(f"log: expected {name} as one number, got shape {tuple(value.shape)}")
        return value.item()
    return value


class CallbackHost:
    """Needs callbacks, epoch_metrics and _run, the RunState of a fit (None before the first).

    adversarial: whether there are two nets, for which callbacks of one_model are not.
    """

    adversarial = False

    def _take_callbacks(self, callbacks, progress):
        """The user's callbacks, a progress bar and metrics.csv; in a fast_dev_run none that writes files,
        nor in other processes of a job than the first."""
        for c in callbacks:
            if isinstance(c, type) or not any(name in _HOOKS for name in dir(c)):
                got = f"the class {c.__name__}" if isinstance(c, type) else f"{type(c).__name__} {c!r:.40}"
                raise TypeError(f"{type(self).__name__}: expected callbacks with hooks such as on_epoch_end, got {got}")
            if self.adversarial and getattr(c, "one_model", False):
                raise ValueError(f"{type(self).__name__}: {type(c).__name__} goes with Trainer, which has one model")
        no_files = self.fast_dev_run or distributed.rank() > 0
        self.callbacks = [c for c in callbacks if not (no_files and getattr(c, "writes_files", False))]
        if progress and not any(isinstance(c, ProgressBar) for c in self.callbacks):
            self.callbacks.append(ProgressBar())
        if self.log_dir is not None and not any(isinstance(c, CSVLogger) for c in self.callbacks):
            self.callbacks.append(CSVLogger())

    @property
    def current_epoch(self):
        """Number of the epoch, from 0."""
        return self._run.epoch if self._run else 0

    @property
    def global_step(self):
        """Optimizer steps so far; of the discriminator's, where there are two networks."""
        return self._run.global_step if self._run else 0

    @property
    def images_in_epoch(self):
        """Images of this epoch that have been trained on."""
        return self._run.images if self._run else 0

    @property
    def images_per_epoch(self):
        """Images of a whole epoch, or None where the loader does not know."""
        return self._run.images_per_epoch if self._run else None

    def log(self, name, value):
        """Adds a value to the row of this epoch in the history: a number, or an array or tensor that holds one."""
        self.epoch_metrics[name] = plain_number(name, value)

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
