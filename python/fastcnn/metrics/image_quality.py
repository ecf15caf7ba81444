"""fid: how far the images of a generator are from real ones, by the features that a network sees in them.

It brings no network of its own: which one is used decides what the number means (published figures use Inception v3 of
2015). Means and covariances are kept in float64, images are not kept.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from .._modes import evaluating, no_grad
from .base import Metric


class Moments:
    """Count, mean (D,) and scatter (D, D) of rows that come in batches, float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self):
        self.count, self.mean, self.scatter = 0, None, None

    def update(self, rows):
        """Adds rows (N, D)."""
        rows = np.asarray(rows, np.float64)
        batch = Moments()
        batch.count = len(rows)
        if batch.count:
            batch.mean = rows.mean(0)
            centred = rows - batch.mean
            batch.scatter = centred.T @ centred
            self.merge(batch)

    def merge(self, other):
        """Adds what another has seen."""
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.scatter = other.count, other.mean.copy(), other.scatter.copy()
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.scatter += other.scatter + np.outer(delta, delta) * (self.count * other.count / total)
        self.mean += delta * (other.count / total)
        self.count = total

    def covariance(self):
        """(D, D), unbiased; nan for fewer than two rows."""
        return self.scatter / (self.count - 1) if self.count > 1 else np.full(self.scatter.shape, np.nan)


def frechet_distance(mean_a, cov_a, mean_b, cov_b):
    """Squared Fréchet distance of two Gaussians (Dowson and Landau 1982), float.

    |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)); means (D,), covariances (D, D) symmetric and positive up to
    rounding. With roots A = R R^T and B = S S^T the last trace is the sum of singular values of R^T S: real, and exact
    to rounding for covariances that are not of full rank.
    """
    mean_a, mean_b = np.asarray(mean_a, np.float64), np.asarray(mean_b, np.float64)
    cov_a, cov_b = np.asarray(cov_a, np.float64), np.asarray(cov_b, np.float64)
    d = mean_a.shape
    if len(d) != 1 or mean_b.shape != d or cov_a.shape != d * 2 or cov_b.shape != d * 2:
        raise ValueError(
            f"frechet_distance: expected means (D,) and covariances (D, D), got {mean_a.shape}, {cov_a.shape}, "
            f"{mean_b.shape}, {cov_b.shape}"
        )
    if not all(np.isfinite(x).all() for x in (mean_a, cov_a, mean_b, cov_b)):
        return float("nan")
    cross = np.linalg.svd(_root(cov_a).T @ _root(cov_b), compute_uv=False).sum()
    gap = mean_a - mean_b
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross)


def _root(cov):
    """R (D, rank) with R R^T = cov; eigenvalues of rounding alone are left out."""
    values, vectors = np.linalg.eigh(cov)
    keep = values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep])


class FID(Metric):
    """Fréchet inception distance (Heusel et al. 2017) with any feature network; lower is better, 0 is equal.

    Args:
        feature_net: f(images) -> features (N, D), or (N, D, H, W), which are averaged over pixels. A fastcnn Module is
            called in eval mode without gradients, on Tensors; another callable gets what update() got.
        reset_real_features: whether reset() also forgets the real images; False keeps them, for one FID per epoch.
    compute() is nan with fewer than two images on a side. With N images fewer than D features it is finite, but says
    little: compare only figures of the same N and network.
    """

    name = "fid"
    higher_is_better = False

    def __init__(self, feature_net=None, reset_real_features=True):
        if not callable(feature_net):
            raise TypeError(
                f"fid: expected feature_net, a network or function from images to features (N, D), "
                f"got {type(feature_net).__name__}"
            )
        self.feature_net, self.reset_real_features = feature_net, bool(reset_real_features)
        self.real, self.generated = Moments(), Moments()

    def reset(self):
        self.generated = Moments()
        if self.reset_real_features:
            self.real = Moments()

    def update(self, images, real=True):
        """Adds a batch of images (N, C, H, W): real ones, or generated ones with real=False.

        Raises: ValueError for features that are no finite (N, D) with the D of before.
        """
        if not isinstance(real, (bool, np.bool_)):
            raise TypeError(f"fid: expected real as True or False, got {type(real).__name__}")
        features = self._features(images)
        count = len(images)
        if features.ndim == 4:
            features = features.mean((2, 3))
        if features.ndim != 2 or len(features) != count or features.dtype.kind != "f":
            raise ValueError(
                f"fid: expected features ({count}, D) or ({count}, D, H, W) of floats, got {features.shape} "
                f"{features.dtype}"
            )
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(1).sum())
            raise ValueError(f"fid: features of {bad} among {count} images are not finite, shape {features.shape}")
        for known in (self.real, self.generated):
            if known.count and len(known.mean) != features.shape[1]:
                raise ValueError(f"fid: expected {len(known.mean)} features as before, got shape {features.shape}")
        (self.real if real else self.generated).update(features)

    def _features(self, images):
        net = self.feature_net
        if hasattr(net, "state_dict") and hasattr(net, "training"):
            with evaluating(net), no_grad():
                images = images if isinstance(images, _core.Tensor) else _core.tensor(images)
                features = net(images)
        else:
            features = net(images)
        if isinstance(features, _core.Tensor):
            features = features.detach().to("cpu").to("float32").numpy()
        features = np.asarray(features)
        return features.astype(np.float64) if features.dtype.kind == "f" else features

    def merge(self, other):
        self._check_merge(other)
        self.real.merge(other.real)
        self.generated.merge(other.generated)

    def compute(self):
        if min(self.real.count, self.generated.count) < 2:
            return float("nan")
        return frechet_distance(
            self.real.mean, self.real.covariance(), self.generated.mean, self.generated.covariance()
        )

    def _options(self):
        return {"reset_real_features": self.reset_real_features}
