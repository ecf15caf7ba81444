"""Samplers: which samples an epoch has, and in which order, where that is not every sample once.

A sampler has len() and order(seed, epoch) -> int64 (len,), a pure function, so that any epoch can be made again and a
loop resumed within it; DataLoader gives it its own seed. tag() is a short text that tells two samplers apart.
"""

from __future__ import annotations

import zlib

import numpy as np

from .._philox import BALANCE_STREAM, WEIGHT_STREAM, philox4x32


def _keys(numbers, seed, epoch, stream):
    """One random uint64 per number."""
    numbers = np.asarray(numbers, np.uint64)
    words = philox4x32((numbers, numbers >> np.uint64(32), epoch & 0xFFFFFFFF, stream), (seed, seed >> 32))
    return (words[0] << np.uint64(32)) | words[1]


def _unit(keys):
    """float64 in (0, 1) of uint64."""
    return ((keys >> np.uint64(11)) + 0.5) / 2.0**53


def _tag(sampler, array, *options):
    return ":".join([type(sampler).__name__, f"{zlib.crc32(array.tobytes()):08x}", *map(str, options)])


class WeightedRandomSampler:
    """Draws samples with probabilities proportional to weights.

    Args:
        weights: (N,) of the samples, finite, >= 0, not all 0.
        num_samples: of an epoch; default N.
        replacement: whether a sample may come again in an epoch (its augmentation is then another one). Without, an
            epoch is an ordered draw without putting back (Efraimidis and Spirakis 2006).
    Raises: ValueError, also for more samples than have a weight, without replacement.
    """

    def __init__(self, weights, num_samples=None, replacement=True):
        self.weights = np.asarray(weights, np.float64)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ValueError(
                f"WeightedRandomSampler: expected finite weights (N,) of at least 0, got shape {self.weights.shape}"
            )
        with np.errstate(over="ignore"):
            total = self.weights.sum()
        if not 0 < total < np.inf:  # an infinite sum draws the last sample alone
            got = "none" if not total else f"a sum of {total}"
            raise ValueError(f"WeightedRandomSampler: expected a weight above 0 and a finite sum, got {got}")
        n = len(self.weights) if num_samples is None else num_samples
        limit = np.inf if replacement else int((self.weights > 0).sum())
        if int(n) != n or not 1 <= n <= limit:
            raise ValueError(f"WeightedRandomSampler: expected num_samples from 1 to {limit}, got {n}")
        self.num_samples, self.replacement = int(n), bool(replacement)

    def __len__(self):
        return self.num_samples

    def order(self, seed, epoch):
        """Sample numbers of an epoch, int64 (num_samples,)."""
        if self.replacement:
            edges = np.cumsum(self.weights)
            draws = _unit(_keys(np.arange(self.num_samples), seed, epoch, WEIGHT_STREAM)) * edges[-1]
            last = np.flatnonzero(self.weights)[-1]  # rounding must not lead behind it
            return np.minimum(np.searchsorted(edges, draws, side="right"), last).astype(np.int64)
        keys = _unit(_keys(np.arange(len(self.weights)), seed, epoch, WEIGHT_STREAM))
        with np.errstate(divide="ignore", over="ignore"):
            times = np.minimum(-np.log(keys) / self.weights, np.finfo(np.float64).max)  # before those of weight 0
        times[self.weights == 0] = np.inf
        return np.argsort(times, kind="stable")[: self.num_samples]

    def tag(self):
        """What a checkpoint compares: differs where the order of an epoch may differ."""
        return _tag(self, self.weights, self.num_samples, self.replacement)


class BalancedSampler:
    """As many samples of each class in an epoch, however many the dataset has; the order is random.

    Classes with fewer samples repeat theirs evenly (augmented differently each time), those with more show another
    random part of theirs each epoch.
    Args:
        labels: class ids (N,), or a dataset whose `labels` are that. Classes without samples do not count.
        num_samples: of an epoch; default N. What does not divide goes to random classes, one each.
    """

    def __init__(self, labels, num_samples=None):
        labels = getattr(labels, "labels", labels)
        if labels is None:
            raise ValueError("BalancedSampler: expected labels or a dataset that knows them, got labels None")
        self.labels = np.asarray(labels)
        if self.labels.ndim != 1 or not self.labels.size or self.labels.dtype.kind not in "iub":
            raise ValueError(
                f"BalancedSampler: expected class ids (N,), got shape {self.labels.shape} of {self.labels.dtype}"
            )
        n = len(self.labels) if num_samples is None else num_samples
        if int(n) != n or n < 1:
            raise ValueError(f"BalancedSampler: expected num_samples of at least 1, got {n}")
        self.num_samples = int(n)
        self._members = [np.flatnonzero(self.labels == c) for c in np.unique(self.labels)]

    def __len__(self):
        return self.num_samples

    def order(self, seed, epoch):
        """Sample numbers of an epoch, int64 (num_samples,)."""
        n, classes = len(self.labels), len(self._members)
        share, rest = divmod(self.num_samples, classes)
        # Numbers behind those of all rounds of samples are for the choice of classes and the order of the epoch.
        rounds = -(-(share + 1) // min(len(m) for m in self._members))
        spare = n * (rounds + 1)
        lucky = np.argsort(_keys(spare + np.arange(classes), seed, epoch, BALANCE_STREAM), kind="stable")[:rest]
        chosen = []
        for c, members in enumerate(self._members):
            count = share + (c in lucky)
            again = np.arange(-(-count // len(members)))[:, None]
            keys = _keys(members + n * again, seed, epoch, BALANCE_STREAM)
            chosen.append(members[np.argsort(keys, axis=1, kind="stable")].ravel()[:count])
        chosen = np.concatenate(chosen)
        shuffle = _keys(spare + classes + np.arange(len(chosen)), seed, epoch, BALANCE_STREAM)
        return chosen[np.argsort(shuffle, kind="stable")]

    def tag(self):
        """What a checkpoint compares: differs where the order of an epoch may differ."""
        return _tag(self, self.labels.astype(np.int64), self.num_samples)


class FixedOrder:
    """The same sample numbers, in the same order, every epoch: what DataLoader makes of sampler=[3, 1, 2]."""

    def __init__(self, indices):
        self.indices = np.asarray(indices)
        if self.indices.ndim != 1 or (self.indices.size and self.indices.dtype.kind not in "iu"):
            raise ValueError(
                f"sampler: expected a list of ints, got shape {self.indices.shape} of {self.indices.dtype}"
            )
        self.indices = self.indices.astype(np.int64)

    def __len__(self):
        return len(self.indices)

    def order(self, seed, epoch):
        """The same sample numbers in every epoch, int64 (num_samples,)."""
        return self.indices

    def tag(self):
        """What a checkpoint compares: differs where the order of an epoch may differ."""
        return _tag(self, self.indices)


def as_sampler(sampler):
    """None, a sampler as it is, or FixedOrder of a sequence of ints. Raises: TypeError."""
    if sampler is None or (hasattr(sampler, "order") and hasattr(sampler, "__len__")):
        return sampler
    if isinstance(sampler, (list, tuple, range, np.ndarray)):
        return FixedOrder(sampler)
    raise TypeError(
        f"DataLoader: expected a sampler with len() and order(seed, epoch), or a list of ints, got "
        f"{type(sampler).__name__}"
    )


def occurrences(order, n):
    """Numbers for the random streams of an epoch's samples: i for the first time that i comes, then i + n, ..."""
    by_sample = np.argsort(order, kind="stable")
    ordered = order[by_sample]
    again = np.empty(len(order), np.int64)
    again[by_sample] = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return order + n * again
