"""Distances and similarities of vectors as layers: PairwiseDistance and CosineSimilarity."""

from __future__ import annotations

from .oplayer import OpLayer


class PairwiseDistance(OpLayer, op="pairwise_distance", inputs="x1, x2"):
    """p-norm of x1 - x2 + eps along the last dim: (..., D) -> (...), or (..., 1) with keepdim."""

    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False


class CosineSimilarity(OpLayer, op="cosine_similarity", inputs="x1, x2"):
    """Product of x1 and x2 along dim over their lengths, each of which counts as at least eps."""

    dim: int = 1
    eps: float = 1e-8
