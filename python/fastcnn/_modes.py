"""Modes as context managers and decorators: gradients, mixed precision, determinism of the calling thread, evaluation
of a model."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings

from . import _core


class _Mode:
    """A context that is also a decorator: of functions, and of generators, in which the mode is on while they run."""

    def _again(self):
        """The same mode for one call: calls may be in several threads, and inside each other."""
        return type(self)()

    def __enter__(self):
        return self

    def __call__(self, fn):
        if not callable(fn):
            raise TypeError(f"{type(self).__name__}: expected a function to decorate, got {type(fn).__name__}")
        again = self._again
        if inspect.isgeneratorfunction(fn):
            return _steps_inside(again, fn)

        @functools.wraps(fn)
        def inside(*args, **kwargs):
            with again():
                return fn(*args, **kwargs)

        return inside


def _steps_inside(context, fn):
    """The generator function with each step in a context; between them the caller has its own mode."""

    @functools.wraps(fn)
    def inside(*args, **kwargs):
        steps = fn(*args, **kwargs)
        step, given = steps.send, (None,)
        while True:
            try:
                with context():
                    result = step(*given)
            except StopIteration as end:
                return end.value
            try:
                step, given = steps.send, ((yield result),)
            except GeneratorExit:
                with context():
                    steps.close()
                raise
            except BaseException as error:
                step, given = steps.throw, (error,)

    return inside


class set_grad_enabled(_Mode):
    """Gradient recording on or off, at once, and as a context until its end."""

    def __init__(self, mode: bool):
        self._mode = mode
        self._was = _core.set_grad_enabled(mode)

    def _again(self):
        return set_grad_enabled(self._mode)

    def __call__(self, fn):
        _core.set_grad_enabled(self._was)  # a decorator: for the calls, not from here on
        return super().__call__(fn)

    def __exit__(self, *exc):
        _core.set_grad_enabled(self._was)


class _Grad(_Mode):
    _mode = True

    def __new__(cls, fn=None):
        return super().__new__(cls) if fn is None else cls()(fn)  # @fc.no_grad, without parentheses

    def __init__(self):
        self._saved: list = []

    def __enter__(self):
        self._saved.append(_core.set_grad_enabled(self._mode))
        return self

    def __exit__(self, *exc):
        _core.set_grad_enabled(self._saved.pop())


class no_grad(_Grad):
    """No gradients are recorded inside: ``with fc.no_grad(): …``, ``@fc.no_grad()`` or ``@fc.no_grad``."""

    _mode = False


class enable_grad(_Grad):
    """Gradients are recorded inside, also within no_grad."""


class autocast(_Mode):
    """conv2d, conv_transpose2d, linear and matmul cast float32 operands to ``dtype`` inside (bfloat16).

    Args: device_type: "cpu" or "cuda", as PyTorch wants it; it may be left out, ``fc.autocast(fc.bfloat16)``, since the
    mode holds for operands wherever they lie. "cuda" where there is none does nothing, with a warning.
    """

    def __init__(self, device_type=None, dtype=None, enabled: bool = True):
        if device_type is not None and not _is_device(device_type):  # the dtype alone
            if isinstance(dtype, bool):
                dtype, enabled = None, dtype
            if dtype is not None:
                raise ValueError(f"autocast: expected 'cpu' or 'cuda' as device_type, got {device_type!r}")
            device_type, dtype = None, device_type
        if enabled and str(device_type).startswith("cuda") and _core.cuda_device_count() == 0:
            warnings.warn("autocast: expected a CUDA device for device_type='cuda', got none: it is off", stacklevel=2)
            enabled = False
        self._dtype = (_core.bfloat16 if dtype is None else _core.dtype(dtype)) if enabled else None
        self._saved: list = []

    def _again(self):
        return autocast(self._dtype, enabled=self._dtype is not None)

    def __enter__(self):
        self._saved.append(_core.ops.set_autocast_dtype(self._dtype))
        return self

    def __exit__(self, *exc):
        _core.ops.set_autocast_dtype(self._saved.pop())


def _is_device(value):
    return isinstance(value, _core.device) or (isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"))


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
