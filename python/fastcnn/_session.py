"""fc.load: .fcnn files as sessions that predict and train, by the same C++ that apps use without Python."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from . import _core


class TensorInfo(NamedTuple):
    """Of an input or output: name, dtype, shape; None stands for the batch size."""

    name: str
    dtype: _core.dtype
    shape: tuple


class Guess(NamedTuple):
    """Of classify: the class, its name ("" without names) and probability."""

    index: int
    name: str
    probability: float


class Session:
    """A loaded model or training step. Thread-safe: runs of one session follow each other.

    Attributes: inputs, outputs: lists of TensorInfo of the graph that predicts, or of the step where there is no other.
    """

    def __init__(self, core):
        self._core = core

    @property
    def inputs(self):
        return self._infos(self._core.inputs)

    @property
    def outputs(self):
        return self._infos(self._core.outputs)

    @property
    def step_inputs(self):
        return [TensorInfo(*i) for i in self._core.inputs(True)]

    def _infos(self, of):
        return [TensorInfo(*i) for i in of(not self._core.can_predict())]

    def predict(self, *inputs):
        """The outputs for these inputs (tensors or arrays): a Tensor, or a tuple of them.

        Raises: ValueError or TypeError for other shapes and dtypes than ``inputs``, or a file without such a graph.
        """
        return _result(self._core.predict(_tensors(inputs)))

    __call__ = predict

    def step(self, *inputs):
        """One training step; parameters, statistics and optimizer state change in place. Returns what it gave."""
        return _result(self._core.step(_tensors(inputs)))

    @property
    def lr(self):
        """The learning rate; setting it sets that of all groups."""
        return self._core.lr()

    @lr.setter
    def lr(self, value):
        self._core.set_lr(float(value))

    def preprocess(self, image):
        """An image of bytes (H, W, C) or (H, W) as input (1, C, h, w), as the file says."""
        return self._core.preprocess(np.ascontiguousarray(image))

    def classify(self, image, k=5):
        """The k most probable classes of an image of bytes (H, W, C): a list of Guess.

        Scores are logits, of which the softmax is taken, unless the graph ends in a softmax or sigmoid.
        """
        return [Guess(*g) for g in self._core.classify(np.ascontiguousarray(image), k)]

    @property
    def class_names(self):
        return self._core.class_names()

    def state_dict(self):
        """{name: Tensor} of parameters, statistics and optimizer state: the tensors themselves, not copies."""
        return dict(self._core.tensors())

    def save(self, path):
        """Writes the file again with the state as it is now; the old one stays whole until then."""
        self._core.save(os.fsencode(path))

    def cache_info(self):
        """hits, misses, evictions, plans, bytes, budget of the plans of the graph that predicts (else of the step)."""
        return self._core.cache_info(not self._core.can_predict())

    def __repr__(self):
        kinds = [k for k, on in (("predict", self._core.can_predict()), ("step", self._core.can_step())) if on]
        return f"<fastcnn session: {', '.join(kinds)}; inputs {[tuple(i) for i in self.inputs]}>"


def load(path, *, threads=0, plan_bytes=2 << 30, plans=16, concurrent=1):
    """Loads a file that ``fc.export`` wrote: a Session.

    Args: threads: of its runs; 0: those of the process. plan_bytes, plans: bounds of the plans that are kept, one for
    each batch size, least recently used out first. concurrent: the most predictions that run at once where several
    threads call ``predict``; each has plans and packed weights of its own.
    Raises: FileNotFoundError; ValueError for a file that is damaged, not a .fcnn file, or of a newer version.
    """
    with open(os.fspath(path), "rb"):  # the system's own exceptions; not the number of an open file
        pass
    sizes = {"threads": (threads, 1 << 16), "plan_bytes": (plan_bytes, 1 << 62), "plans": (plans, 1 << 31)}
    sizes["concurrent"] = (concurrent, 1 << 16)
    for name, (value, most) in sizes.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"load: expected {name} as an int, got {value!r:.80}")
        least = int(name in ("plans", "concurrent"))
        if not least <= value < most:
            raise ValueError(f"load: expected {name} in [{least}, {most}), got {value}")
    return Session(_core.Session.load(os.fsencode(path), int(threads), int(plan_bytes), int(plans), int(concurrent)))


def _tensors(inputs):
    return [t if isinstance(t, _core.Tensor) else _core.from_numpy(np.asarray(t)) for t in inputs]


def _result(tensors):
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
