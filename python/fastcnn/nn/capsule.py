"""Capsules: vectors whose length is a probability (Sabour, Frosst and Hinton 2017): squash, PrimaryCaps, RoutingCaps.

Routing is one op (ops.capsule_routing); gradients of any order flow through every iteration of it.
"""

from __future__ import annotations

from .._core import ops
from . import init
from .conv import Conv2d
from .module import Module
from .parameter import Parameter, empty

_EPS = 1e-8  # of squared lengths: the root has no gradient at 0


def squash(s):
    """s (..., D) with the same direction and the length |s|^2 / (1 + |s|^2) (equation 1 of the paper)."""
    squared = ops.sum(s * s, -1, keepdim=True)
    return s * (squared / ((1 + squared) * ops.sqrt(squared + _EPS)))


def capsule_lengths(v):
    """(..., D) -> (...): the lengths of capsules."""
    return ops.sqrt(ops.sum(v * v, -1) + _EPS)


class PrimaryCaps(Module):
    """Convolution whose channels are read as capsules: x (N, in_channels, H, W) -> (N, capsules * H' * W', dim).

    Args: capsules: per place. dim: numbers per capsule. kernel_size, stride, padding: of the convolution, 9, 2 and 0 in
    the paper. Capsules of one place lie together, places in row order.
    """

    def __init__(self, in_channels, capsules=32, dim=8, kernel_size=9, stride=2, padding=0):
        super().__init__()
        if capsules < 1 or dim < 1:
            raise ValueError(f"PrimaryCaps: expected capsules >= 1 and dim >= 1, got {capsules} and {dim}")
        self.capsules, self.dim = capsules, dim
        self.conv = Conv2d(in_channels, capsules * dim, kernel_size, stride, padding)

    def forward(self, x):
        """Squashed capsules (N, capsules * H' * W', dim)."""
        y = self.conv(x)
        n, _, h, w = y.shape
        return squash(y.permute(0, 2, 3, 1).reshape(n, h * w * self.capsules, self.dim))


class RoutingCaps(Module):
    """Capsules of the next layer by routing by agreement: u (N, in_capsules, in_dim) -> (N, out_capsules, out_dim).

    Each input capsule i predicts each output j as weight[i, j] @ u[i]; what j gets of i grows with how well the
    prediction agrees with j (procedure 1 of the paper). Args: iterations: rounds of routing, 3 in the paper. weight is
    (in_capsules, out_capsules, out_dim, in_dim), first N(0, 0.1).
    """

    def __init__(self, in_capsules, in_dim, out_capsules, out_dim, iterations=3):
        super().__init__()
        sizes = dict(in_capsules=in_capsules, in_dim=in_dim, out_capsules=out_capsules, out_dim=out_dim)
        for name, value in {**sizes, "iterations": iterations}.items():
            if value < 1:
                raise ValueError(f"RoutingCaps: expected {name} >= 1, got {value}")
        self.in_capsules, self.in_dim, self.iterations = in_capsules, in_dim, iterations
        self.out_capsules, self.out_dim = out_capsules, out_dim
        self.weight = Parameter(empty((in_capsules, out_capsules, out_dim, in_dim)))
        self.reset_parameters()

    def reset_parameters(self):
        """Draws weight anew."""
        init.normal_(self.weight, 0.0, 0.1)

    def forward(self, u):
        """Output capsules (N, out_capsules, out_dim), each shorter than 1."""
        if u.ndim != 3 or tuple(u.shape[1:]) != (self.in_capsules, self.in_dim):
            expected = f"(N, {self.in_capsules}, {self.in_dim})"
            raise ValueError(f"RoutingCaps: expected capsules {expected}, got {tuple(u.shape)}")
        return ops.capsule_routing(u, self.weight, self.iterations)

    def extra_repr(self):
        sizes = f"({self.in_capsules}, {self.in_dim}) -> ({self.out_capsules}, {self.out_dim})"
        return f"{sizes}, iterations={self.iterations}"
