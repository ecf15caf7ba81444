"""What random cases are made of: Case, the list of families, and operands whose kinks and ties are rare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Case:
    ours: Any
    theirs: Any
    arrays: list  # floating arrays get gradients, others are plain operands
    what: str = ""
    double: bool = False  # second gradients too
    compiled: bool = True  # may run inside compile (nothing reads values on the host)
    scale: float = 1.0  # of the tolerance
    dtypes: tuple = field(default=("float32", "float64"))


FAMILIES = {}


def family(fn):
    FAMILIES[fn.__name__] = fn
    return fn


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def normal(rng, *shape):
    return rng.standard_normal(shape)


def spread(rng, *shape):
    """Distinct values away from 0 and from each other: no ties, no kinks."""
    n = int(np.prod(shape))
    a = (rng.permutation(n) - n // 2 + 0.37) / max(8, n / 6)
    return a.reshape(shape)


def positive(rng, *shape):
    return rng.uniform(0.3, 2, shape)


def dims(rng, rank, most=7, zero=0.03):
    return tuple(0 if rng.random() < zero else int(rng.integers(1, most + 1)) for _ in range(rank))


def channels(rng):
    return int(pick(rng, 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 33, 48, 64))


def pair(rng, low, high):
    """An int or a pair, as our call takes it, and the pair."""
    a, b = int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))
    return (a, (a, a)) if rng.random() < 0.5 else ((a, b), (a, b))


def image(rng, c, h, w, unbatched=0.1):
    n = int(pick(rng, 0, 1, 1, 2, 3) if rng.random() < 0.3 else rng.integers(1, 4))
    return (c, h, w) if rng.random() < unbatched else (n, c, h, w)
