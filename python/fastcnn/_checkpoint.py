"""fc.checkpoint: activations that backward computes again instead of keeping. The core does it (graph/checkpoint.h)."""

from __future__ import annotations

from . import _core


def checkpoint(function, *args, **kwargs):
    """``function(*args, **kwargs)``, without keeping what lies between its arguments and its result for backward.

    Backward runs the function a second time and goes on from there: memory for time (Chen et al. 2016, "Training deep
    nets with sublinear memory cost"). A net cut into pieces of equal size keeps the borders of the pieces and the
    inside of one. Works eagerly and under ``fc.compile``, with parameters that the function closes over, with
    ``fc.grad``, with ``create_graph=True`` and nested.

    The function must do the same both times. Dropout draws the same numbers again, and running statistics of batch norm
    (and whatever else older than the call it changes in place) are updated once. Raises ValueError in backward if the
    second run differs.
    """
    if not callable(function):
        raise TypeError(f"checkpoint: expected a function or Module, got {type(function).__name__}")
    results = []

    def run():
        result = function(*args, **kwargs)
        if not results:  # the second run is for the tape alone
            results.append(result)

    _core.checkpoint(run)
    result = results[0]
    results[0] = None  # the tape keeps run() alive, and must not keep the result
    return result
