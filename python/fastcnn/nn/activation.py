"""Activations as layers. `inplace` is accepted and changes nothing: compile reuses memory by itself."""

from __future__ import annotations

from .._core import ops
from . import init
from .module import Module
from .oplayer import OpLayer
from .parameter import Parameter, empty

_INPLACE = ("inplace",)


class ReLU(OpLayer, op="relu", ignored=_INPLACE):
    """max(x, 0) (Nair and Hinton 2010)."""

    inplace: bool = False


class ReLU6(OpLayer, op="relu6", ignored=_INPLACE):
    """min(max(x, 0), 6) (Krizhevsky 2010)."""

    inplace: bool = False


class LeakyReLU(OpLayer, op="leaky_relu", ignored=_INPLACE):
    """x for x > 0, else negative_slope * x (Maas et al. 2013)."""

    negative_slope: float = 0.01
    inplace: bool = False


class ELU(OpLayer, op="elu", ignored=_INPLACE):
    """x for x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2015)."""

    alpha: float = 1.0
    inplace: bool = False


class SELU(OpLayer, op="selu", ignored=_INPLACE):
    """Self-normalising scaled ELU (Klambauer et al. 2017)."""

    inplace: bool = False


class CELU(OpLayer, op="celu", ignored=_INPLACE):
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1)) (Barron 2017)."""

    alpha: float = 1.0
    inplace: bool = False


class GELU(OpLayer, op="gelu"):
    """x times the normal distribution function (Hendrycks and Gimpel 2016); approximate: "none" or "tanh"."""

    approximate: str = "none"


class SiLU(OpLayer, op="silu", ignored=_INPLACE):
    """x * sigmoid(x), also called Swish (Elfwing et al. 2017, Ramachandran et al. 2017)."""

    inplace: bool = False


class Mish(OpLayer, op="mish", ignored=_INPLACE):
    """x * tanh(softplus(x)) (Misra 2019)."""

    inplace: bool = False


class Hardswish(OpLayer, op="hardswish", ignored=_INPLACE):
    """x * relu6(x + 3) / 6 (Howard et al. 2019)."""

    inplace: bool = False


class Hardsigmoid(OpLayer, op="hardsigmoid", ignored=_INPLACE):
    """relu6(x + 3) / 6."""

    inplace: bool = False


class Hardtanh(OpLayer, op="hardtanh", ignored=_INPLACE):
    """x clipped to [min_val, max_val]."""

    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False

    def _check(self):
        if not self.min_val < self.max_val:
            raise ValueError(f"Hardtanh: expected min_val < max_val, got {self.min_val} and {self.max_val}")


class Sigmoid(OpLayer, op="sigmoid"):
    """1 / (1 + exp(-x))."""


class Tanh(OpLayer, op="tanh"):
    """Hyperbolic tangent."""


class Softplus(OpLayer, op="softplus"):
    """log(1 + exp(beta * x)) / beta (Dugas et al. 2000); x itself where beta * x > threshold."""

    beta: float = 1.0
    threshold: float = 20.0


class Softsign(OpLayer, op="softsign"):
    """x / (1 + |x|)."""


class LogSigmoid(OpLayer, op="logsigmoid"):
    """log(sigmoid(x)), stable."""


class GLU(OpLayer, op="glu"):
    """The first half of dim times the sigmoid of the second half (Dauphin et al. 2017)."""

    dim: int = -1


class Softshrink(OpLayer, op="softshrink"):
    """x moved towards 0 by lambd, 0 where |x| <= lambd (Donoho 1995)."""

    lambd: float = 0.5

    def _check(self):
        if not self.lambd >= 0:
            raise ValueError(f"Softshrink: expected lambd >= 0, got {self.lambd}")


class Hardshrink(OpLayer, op="hardshrink"):
    """x, and 0 where |x| <= lambd."""

    lambd: float = 0.5


class Tanhshrink(OpLayer, op="tanhshrink"):
    """x - tanh(x)."""


class Threshold(OpLayer, op="threshold", ignored=_INPLACE):
    """x, and value where x <= threshold."""

    threshold: float
    value: float
    inplace: bool = False


class RReLU(OpLayer, op="rrelu", training=True, ignored=_INPLACE):
    """x for x > 0, else slope * x (Xu et al. 2015).

    In training each element has a slope of its own, uniform from lower to upper; in eval their mean.
    """

    lower: float = 1 / 8
    upper: float = 1 / 3
    inplace: bool = False

    def _check(self):
        if not self.lower <= self.upper:
            raise ValueError(f"RReLU: expected lower <= upper, got {self.lower} and {self.upper}")


class Softmax(OpLayer, op="softmax"):
    """exp(x) normalised to sum 1 along dim, which is the channels by default."""

    dim: int = 1


class Softmax2d(Module):
    """exp(x) normalised to sum 1 over the channels of (N, C, H, W) or (C, H, W), at each place."""

    def forward(self, x):
        """fastcnn.ops.softmax over the channels."""
        if x.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected x of shape (N, C, H, W) or (C, H, W), got {tuple(x.shape)}")
        return ops.softmax(x, -3)


class Softmin(OpLayer, op="softmin"):
    """softmax(-x) along dim, which is the channels by default."""

    dim: int = 1


class LogSoftmax(OpLayer, op="log_softmax"):
    """log(softmax(x)) along dim, which is the channels by default."""

    dim: int = 1


class PReLU(Module):
    """x for x > 0, else weight * x with a learned weight (He et al. 2015).

    Args: num_parameters: 1, or the number of channels. init: first value of weight (num_parameters,).
    """

    def __init__(self, num_parameters=1, init=0.25, device=None, dtype=None):
        super().__init__()
        if num_parameters < 1:
            raise ValueError(f"PReLU: expected num_parameters >= 1, got {num_parameters}")
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(empty((num_parameters,), device, dtype))
        self.reset_parameters()

    def reset_parameters(self):
        """Sets weight to init."""
        init.constant_(self.weight, self.init)

    def forward(self, x):
        """fastcnn.ops.prelu with this layer's weight."""
        return ops.prelu(x, self.weight)

    def extra_repr(self):
        return f"num_parameters={self.num_parameters}"
