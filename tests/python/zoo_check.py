"""What tests of models share: building without drawing weights, counting, comparing. What it is not: tests."""

import numpy as np
from fastcnn import models
from fastcnn.nn import init


def build(name, *args, **kwargs):
    with init.skip_random():
        return models.create_model(name, *args, **kwargs)


def count(model):
    return sum(p.numel() for p in model.parameters())


def assert_near(got, want, tolerance, what):
    scale = max(float(np.abs(want).max()), 0.01)
    error = float(np.abs(got - want).max()) / scale
    assert error <= tolerance, f"{what}: error {error:.3g} of the largest value {scale:.3g}"


def assert_gradients_near(got, want, names):
    """Each to 5 % of its own length, or 0.01 % of the longest: one unit at the kink of a ReLU that falls on the other
    side moves all gradients below it by some percent, while rounding alone gives 1e-4."""
    longest = max(np.linalg.norm(w) for w in want)
    for g, w, name in zip(got, want, names, strict=True):
        error, length = np.linalg.norm(g - w), np.linalg.norm(w)
        assert error <= 0.05 * length + 1e-4 * longest, f"gradient of {name}: error {error:.3g} of {length:.3g}"
