"""Philox4x32-10 on whole NumPy arrays: random numbers as a pure function of (seed, epoch, sample, draw).

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011); the generator of the C++ core is the same
one. Not a numpy.random.Generator and without state: equal arguments give equal numbers on every machine,
NumPy version, batch size and worker count.
"""

from __future__ import annotations

import operator

import numpy as np

_MUL0, _MUL1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL0, _WEYL1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

# Draw numbers from here up are not handed out by SampleRng.
SHUFFLE_STREAM = 0xFFFFFFFF
SPLIT_STREAM = 0xFFFFFFFE
WEIGHT_STREAM = 0xFFFFFFFD
BALANCE_STREAM = 0xFFFFFFFC


def philox4x32(counter, key):
    """counter: four words, ints or arrays that broadcast; key: two ints. Gives four uint64 arrays < 2**32."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) & _LOW for c in counter))
    k0, k1 = int(key[0]) & 0xFFFFFFFF, int(key[1]) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * _MUL0, c2 * _MUL1
        c0, c1, c2, c3 = (
            (p1 >> _32) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _32) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL0) & 0xFFFFFFFF, (k1 + _WEYL1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _check_seed(op, seed):
    try:
        return operator.index(seed)
    except TypeError:
        raise TypeError(f"{op}: expected an int as seed, got {type(seed).__name__}") from None


def _words(index, epoch, stream):
    index = np.asarray(index, dtype=np.uint64)
    return index & _LOW, index >> _32, epoch & 0xFFFFFFFF, stream


def permutation(n, seed, epoch=0, stream=SHUFFLE_STREAM):
    """A random order of range(n), int64 (n,), that depends on (seed, epoch) alone."""
    seed = _check_seed("permutation", seed)
    r = philox4x32(_words(np.arange(n), epoch, stream), (seed, seed >> 32))
    return np.argsort((r[0] << _32) | r[1], kind="stable")


class SampleRng:
    """Random numbers for the samples of a batch; sample i's depend on (seed, epoch, index[i], draw number).

    Args: seed, epoch: ints. index: (N,) sample numbers. Each call of a method is one draw for all N samples,
    so a pipeline has to draw unconditionally: then a sample gets the same numbers in whatever batch it comes.
    """

    def __init__(self, seed, epoch, index):
        self.seed, self.epoch = _check_seed("SampleRng", seed), int(epoch)
        self.index = np.atleast_1d(np.asarray(index, dtype=np.int64))
        if self.index.ndim != 1:
            raise ValueError(f"SampleRng: expected index of shape (N,), got {self.index.shape}")
        self._draws = self._ahead_from = 0
        self._ahead = np.empty((4, 0, 0), np.uint64)

    def __len__(self):
        return len(self.index)

    def _take(self, draws):
        """Words (4, draws, N) of the next draws. Few samples: made ahead, an array operation costs the same."""
        if self._draws + draws > BALANCE_STREAM:
            raise RuntimeError("SampleRng: out of draw numbers")
        start, end = self._draws - self._ahead_from, self._draws - self._ahead_from + draws
        if end > self._ahead.shape[1]:
            count = max(draws, min(16, 512 // max(len(self.index), 1)))
            numbers = np.arange(self._draws, self._draws + count, dtype=np.uint64)[:, None]
            words = philox4x32(_words(self.index, self.epoch, numbers), (self.seed, self.seed >> 32))
            self._ahead, self._ahead_from, start, end = np.stack(words), self._draws, 0, draws
        self._draws += draws
        return self._ahead[:, start:end]

    def bits(self):
        """Four independent (N,) uint64 arrays < 2**32."""
        return tuple(self._take(1)[:, 0])

    def uniforms(self, count):
        """(N, count) float64 in [0, 1), 32 random bits each: the cheap way to many numbers, four to a draw."""
        words = self._take(-(-count // 4))
        return words.transpose(2, 1, 0).reshape(len(self.index), -1)[:, :count] / 4294967296.0

    def uniform(self, low=0.0, high=1.0):
        """(N,) float64 in [low, high), 53 random bits."""
        a, b, _, _ = self.bits()
        unit = ((a >> np.uint64(5)) * 67108864.0 + (b >> np.uint64(6))) / 9007199254740992.0
        return low + (high - low) * unit

    def integers(self, high):
        """(N,) int64 in [0, high); high: an int or an (N,) array, at most 2**32."""
        a = self.bits()[0]
        # Multiply-shift: the bias is below high / 2**32.
        return ((a * np.asarray(high, dtype=np.uint64)) >> _32).astype(np.int64)

    def normal(self):
        """(N,) float64, standard normal (Box and Muller 1958)."""
        a, b, _, _ = self.bits()
        return np.sqrt(-2.0 * np.log((a + 1.0) / 4294967296.0)) * np.cos(2.0 * np.pi * (b / 4294967296.0))
