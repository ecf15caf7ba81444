"""Modes as context managers and decorators: gradients, mixed precision, determinism of the calling thread, evaluation
of a model."""

from __future__ import annotations

import contextlib

from . import _core


class set_grad_enabled(contextlib.ContextDecorator):
    """Gradient recording on or off, at once, and as a context until its end."""

    def __init__(self, mode: bool):
        self._mode = mode
        self._saved = [_core.set_grad_enabled(mode)]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        _core.set_grad_enabled(self._saved.pop())


class _Grad(contextlib.ContextDecorator):
    _mode = True

    def __init__(self):
        self._saved: list = []

    def __enter__(self):
        self._saved.append(_core.set_grad_enabled(self._mode))
        return self

    def __exit__(self, *exc):
        _core.set_grad_enabled(self._saved.pop())


class no_grad(_Grad):
    """No gradients are recorded inside: ``with fc.no_grad(): …`` or ``@fc.no_grad()``."""

    _mode = False


class enable_grad(_Grad):
    """Gradients are recorded inside, also within no_grad."""


class autocast(contextlib.ContextDecorator):
    """conv2d, conv_transpose2d, linear and matmul cast float32 operands to ``dtype`` inside (bfloat16)."""

    def __init__(self, dtype=None, enabled: bool = True):
        self._dtype = (_core.bfloat16 if dtype is None else _core.dtype(dtype)) if enabled else None
        self._saved: list = []

    def __enter__(self):
        self._saved.append(_core.ops.set_autocast_dtype(self._dtype))
        return self

    def __exit__(self, *exc):
        _core.ops.set_autocast_dtype(self._saved.pop())


def to_evaluation(model):
    """Switches a Module to evaluation; gives a function that puts each module inside back into the mode that it had.

    Not train(was): parts that users put into evaluation (the norms of a backbone) would train from then on.
    """
    kept = []
    for m in model.modules():
        later = getattr(m, "_training_if_unfrozen", None)  # of frozen batch norms
        kept.append((m, m.training if later is None else later))
    model.eval()

    def restore():
        for m, training in kept:
            frozen = getattr(m, "_training_if_unfrozen", None) is not None
            setattr(m, "_training_if_unfrozen" if frozen else "training", training)

    return restore


@contextlib.contextmanager
def evaluating(model):
    """A Module in evaluation inside; see to_evaluation."""
    restore = to_evaluation(model)
    try:
        yield
    finally:
        restore()


def use_deterministic_algorithms(mode: bool = True) -> None:
    """CPU kernels always give the same bits for any number of threads on one ISA; there is nothing to switch on.

    ``mode=False`` is accepted and changes nothing.
    """
    if not isinstance(mode, bool):
        raise TypeError(f"use_deterministic_algorithms: expected a bool, got {type(mode).__name__}")
