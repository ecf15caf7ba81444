"""What a generator draws, in numbers and between two points: mode coverage by a classifier, latent interpolation.

FID is in fastcnn.metrics. Everything takes and gives NumPy arrays; pixels are in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _core


class ModeCoverage(NamedTuple):
    """What a classifier says of generated images; str() is a table.

    histogram: images per class (K,). confidence: mean probability of the class that each was given. by_class: the same
    per class, nan where there is none. covered: classes with at least a fifth of an even share. entropy: of the
    histogram, in nats; log(K) is even. names: of the classes.
    """

    histogram: np.ndarray
    confidence: float
    by_class: np.ndarray
    covered: int
    entropy: float
    names: tuple

    def __str__(self):
        n, k = int(self.histogram.sum()), len(self.histogram)
        width = max(map(len, self.names))
        lines = [
            f"{name:{width}}  {100 * count / n:5.1f} %  confidence {value:.3f}"
            for name, count, value in zip(self.names, self.histogram, self.by_class, strict=True)
        ]
        return "\n".join(
            [
                f"{n} images: {self.covered} of {k} classes covered, mean confidence {self.confidence:.3f}, "
                f"entropy {self.entropy:.3f} of {np.log(k):.3f}",
                *lines,
            ]
        )


def mode_coverage(images, classifier, names=None, batch_size=256):
    """The ModeCoverage of images (N, C, H, W) in [0, 1].

    Args: classifier: f(images of a batch) -> logits (n, K), arrays or Tensors. names: of the K classes.
    Raises: ValueError for logits of another shape.
    """
    probabilities = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        logits = classifier(batch)
        logits = np.asarray(logits.detach().numpy() if isinstance(logits, _core.Tensor) else logits, np.float64)
        if logits.ndim != 2 or len(logits) != len(batch) or logits.shape[1] < 2:
            raise ValueError(f"mode_coverage: expected logits ({len(batch)}, K), got {logits.shape}")
        e = np.exp(logits - logits.max(1, keepdims=True))
        probabilities.append(e / e.sum(1, keepdims=True))
    if not probabilities:
        raise ValueError("mode_coverage: expected at least one image, got none")
    p = np.concatenate(probabilities)
    classes, k = p.argmax(1), p.shape[1]
    histogram, top = np.bincount(classes, minlength=k), p.max(1)
    sums = np.bincount(classes, top, minlength=k)
    by_class = np.where(histogram > 0, sums / np.maximum(histogram, 1), np.nan)
    share = histogram / len(p)
    entropy = float((share[share > 0] * -np.log(share[share > 0])).sum())
    covered = int((histogram >= 0.2 * len(p) / k).sum())
    names = tuple(str(i) for i in range(k)) if names is None else tuple(names)
    if len(names) != k:
        raise ValueError(f"mode_coverage: expected {k} names for logits of {k} classes, got {len(names)}")
    return ModeCoverage(histogram, float(top.mean()), by_class, covered, entropy, names)


def slerp(a, b, t):
    """Points on the great circle from a to b (D,), at shares t (T,): (T, D) (Shoemake 1985; White 2016).

    Lengths in between are interpolated too, so that they stay those that z from N(0, 1) has.
    """
    a, b, t = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(t, np.float64)[:, None]
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"slerp: expected two vectors of one length, got {a.shape} and {b.shape}")
    la, lb = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / (la * lb), -1, 1)) if la and lb else 0.0
    if np.sin(angle) < 1e-6:  # the same direction, or none
        return (1 - t) * a + t * b
    unit = (np.sin((1 - t) * angle) * (a / la) + np.sin(t * angle) * (b / lb)) / np.sin(angle)
    return unit * ((1 - t) * la + t * lb)


def interpolation(latent_dim, rows=8, columns=10, seed=0):
    """z (rows * columns, latent_dim), float32: each row goes from one random point to another."""
    if rows < 1 or columns < 2:
        raise ValueError(f"interpolation: expected rows >= 1 and columns >= 2, got {rows} and {columns}")
    ends = np.random.default_rng(seed).standard_normal((rows, 2, latent_dim))
    shares = np.linspace(0, 1, columns)
    return np.concatenate([slerp(a, b, shares) for a, b in ends]).astype(np.float32)
