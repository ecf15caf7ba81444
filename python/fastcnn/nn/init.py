"""First values of parameters. All functions change a tensor in place, return it, and draw from fastcnn's own
generator, so fc.manual_seed repeats them on every machine.
"""

from __future__ import annotations

import contextlib
import math
import warnings

import numpy as np

from .. import _core
from .._core import ops
from .parameter import no_grad

_skip_random = False


@contextlib.contextmanager
def skip_random():
    """Scope in which random values are not drawn: for models whose weights are about to be loaded."""
    global _skip_random
    saved, _skip_random = _skip_random, True
    try:
        yield
    finally:
        _skip_random = saved


def _assign(tensor, values):
    """Copies a Tensor or float array into tensor, casting."""
    if not isinstance(values, _core.Tensor):
        values = _core.tensor(np.asarray(values, dtype=np.float32))
    with no_grad():
        tensor.copy_(values.to(tensor.device))
    return tensor


def _normals(shape):
    with no_grad():
        return ops.randn(tuple(shape)).numpy()


def _uniforms(shape):
    with no_grad():
        return ops.rand(tuple(shape)).numpy()


def fans(tensor):
    """(fan_in, fan_out) of a weight; ValueError below 2 dimensions."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError(f"init: expected a weight of at least 2 dimensions, got shape {shape}")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def calculate_gain(nonlinearity, param=None):
    """Gain that keeps the variance through a nonlinearity; param: slope of leaky_relu."""
    gains = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
    linear = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "sigmoid")
    if nonlinearity in linear:
        return 1.0
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: unknown nonlinearity {nonlinearity!r}")
    return gains[nonlinearity]


def constant_(tensor, val):
    """Fills with val."""
    with no_grad():
        return _assign(tensor, ops.full(tuple(tensor.shape), float(val)))


def zeros_(tensor):
    """Fills with 0."""
    return constant_(tensor, 0)


def ones_(tensor):
    """Fills with 1."""
    return constant_(tensor, 1)


def uniform_(tensor, a=0.0, b=1.0):
    """Draws from [a, b)."""
    if _skip_random:
        return tensor
    with no_grad():
        return _assign(tensor, ops.rand(tuple(tensor.shape)) * (b - a) + a)


def normal_(tensor, mean=0.0, std=1.0):
    """Draws from the normal distribution."""
    if _skip_random:
        return tensor
    with no_grad():
        return _assign(tensor, ops.randn(tuple(tensor.shape)) * std + mean)


def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """Draws from the normal distribution cut to [a, b], by inverting its distribution function."""
    if _skip_random:
        return tensor
    if not a < b:
        raise ValueError(f"trunc_normal_: expected a < b, got {a} and {b}")
    low, high = (math.erf((v - mean) / (std * math.sqrt(2))) for v in (a, b))
    u = low + (high - low) * _uniforms(tensor.shape).astype(np.float64)
    values = mean + std * math.sqrt(2) * _erfinv(np.clip(u, -1 + 1e-12, 1 - 1e-12))
    return _assign(tensor, np.clip(values, a, b))


# Polynomials of Giles, "Approximating the erfinv function" (2010), highest power first.
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
    -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
    0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def _erfinv(x):
    w = -np.log((1 - x) * (1 + x))
    tail = np.polyval(_TAIL, np.sqrt(np.maximum(w, 5)) - 3)
    return x * np.where(w < 5, np.polyval(_CENTRE, w - 2.5), tail)


def xavier_uniform_(tensor, gain=1.0):
    """U(-b, b), b = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor, gain=1.0):
    """N(0, std), std = gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))


def _kaiming_std(tensor, a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(tensor)[mode == "fan_out"]
    if fan == 0:
        warnings.warn("init: a tensor without elements is left as it is", stacklevel=3)
        return 0.0
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """U(-b, b), b = gain * sqrt(3 / fan) (He et al. 2015); a: slope of the leaky_relu that follows."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """N(0, gain / sqrt(fan)) (He et al. 2015); a: slope of the leaky_relu that follows."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor, gain=1.0):
    """A (semi-)orthogonal matrix, shape (O, I * kH * kW) for conv weights, times gain (Saxe et al. 2013)."""
    if _skip_random:
        return tensor
    fans(tensor)
    rows = tensor.shape[0]
    flat = _normals((rows, math.prod(tensor.shape[1:]))).astype(np.float64)
    q, r = np.linalg.qr(flat.T if flat.shape[0] < flat.shape[1] else flat)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the draw uniform over rotations
    q = q.T if flat.shape[0] < flat.shape[1] else q
    return _assign(tensor, (gain * q).reshape(tensor.shape))


def dirac_(tensor, groups=1):
    """A conv weight (O, I, kH, kW) that passes its input on: 1 at the kernel's centre of channel i to i."""
    if len(tensor.shape) not in (3, 4, 5):
        raise ValueError(f"dirac_: expected a conv weight of 3 to 5 dimensions, got shape {tensor.shape}")
    out, inp, *kernel = tensor.shape
    if groups < 1 or out % groups:
        raise ValueError(f"dirac_: expected {out} output channels divisible by groups={groups}")
    values = np.zeros(tensor.shape, np.float32)
    centre = tuple(k // 2 for k in kernel)
    for g in range(groups):
        for i in range(min(out // groups, inp)):
            values[(g * (out // groups) + i, i, *centre)] = 1
    return _assign(tensor, values)
