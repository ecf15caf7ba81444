"""Convolutions of images, sequences and volumes, and Linear: weight, bias, their first values, and one op call each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral  # ints of NumPy too

from .._core import ops
from . import init
from .module import Module
from .parameter import Parameter, empty


def pair(layer, what, value, dims=2):
    """(h, w) from an int or two ints, (l,) with dims=1, (d, h, w) with 3; ValueError or TypeError naming the layer
    otherwise."""
    wanted = ("an int", "an int or a pair of ints", "an int or three ints")[dims - 1]
    if not isinstance(value, (Integral, Iterable)):
        raise TypeError(f"{layer}: expected {what} as {wanted}, got {value!r}")
    values = (value,) * dims if isinstance(value, Integral) else tuple(value)
    if len(values) != dims or not all(isinstance(v, Integral) for v in values):
        raise ValueError(f"{layer}: expected {what} as {wanted}, got {value!r}")
    return tuple(map(int, values))


def _positive(layer, **values):
    for name, v in values.items():
        if any(i < 1 for i in (v if isinstance(v, tuple) else (v,))):
            raise ValueError(f"{layer}: expected {name} >= 1, got {v}")


def _uniform_by_fan_in(weight, bias):
    """PyTorch's first values of both: U(-b, b), b = 1 / sqrt(fan_in) (He et al. 2015 with a = sqrt(5))."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = init.fans(weight)
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
        init.uniform_(bias, -bound, bound)


class _Weighted(Module):
    """weight and bias (None without), and reset_parameters for both."""

    def _set_parameters(self, weight_shape, bias_shape, bias, device, dtype):
        self.weight = Parameter(empty(weight_shape, device, dtype))
        self.register_parameter("bias", Parameter(empty(bias_shape, device, dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self):
        """Draws weight and bias anew."""
        _uniform_by_fan_in(self.weight, self.bias)


class _Conv(_Weighted):
    """Settings shared by the convolutions."""

    _dims = 2

    def _set_sizes(self, in_channels, out_channels, kernel_size, stride, dilation, groups):
        name = type(self).__name__
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(name, "kernel_size", kernel_size, self._dims)
        self.stride = pair(name, "stride", stride, self._dims)
        self.dilation = pair(name, "dilation", dilation, self._dims)
        _positive(
            name, in_channels=in_channels, out_channels=out_channels, groups=groups,
            kernel_size=self.kernel_size, stride=self.stride, dilation=self.dilation,
        )  # fmt: skip
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: expected in_channels and out_channels divisible by groups={groups}, "
                f"got {in_channels} and {out_channels}"
            )

    def extra_repr(self):
        none = (0,) * self._dims
        defaults = {
            "padding": none, "output_padding": none, "dilation": (1,) * self._dims, "groups": 1,
            "padding_mode": "zeros",
        }  # fmt: skip
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        parts += [
            f"{k}={getattr(self, k)!r}" for k, v in defaults.items() if getattr(self, k, v) not in (v, 0)
        ]
        return ", ".join(parts + ([] if self.bias is not None else ["bias=False"]))


_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _CrossCorrelation(_Conv):
    """Conv1d, Conv2d and Conv3d: padding by numbers or by name, one op call."""

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
        padding_mode="zeros", device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self._set_sizes(in_channels, out_channels, kernel_size, stride, dilation, groups)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{name}: expected padding 'same', 'valid' or numbers, got {padding!r}")
            self.padding = padding
        elif isinstance(padding, Integral):
            self.padding = (int(padding),) * self._dims
        else:
            self.padding = tuple(int(p) if isinstance(p, Integral) else tuple(map(int, p)) for p in padding)
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"{name}: expected padding_mode in {_PADDING_MODES}, got {padding_mode!r}")
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self._set_parameters(shape, (out_channels,), bias, device, dtype)

    def forward(self, x):
        """The op of this layer's name with its weight and settings."""
        return self._op(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class Conv2d(_CrossCorrelation):
    """2-D cross-correlation: x (N, in_channels, H, W) -> (N, out_channels, H', W') (LeCun et al. 1989).

    Args: kernel_size, stride, dilation: int or (h, w). padding: int | (h, w) | ((top, bottom), (left,
    right)) | "valid" | "same" (also with stride: output = ceil(in / stride), the extra pixel at the end).
    groups: channels are split into that many convolutions. bias: learn one number per output channel.
    padding_mode: zeros, reflect, replicate or circular. weight is (out_channels, in_channels / groups, kH,
    kW).
    """

    _op = staticmethod(ops.conv2d)


class Conv1d(_CrossCorrelation):
    """1-D cross-correlation of sequences: x (N, in_channels, L) -> (N, out_channels, L') (Waibel et al. 1989).

    Args: kernel_size, stride, dilation: int. padding: int | (left, right) | "valid" | "same"; the others as those of
    Conv2d. weight is (out_channels, in_channels / groups, k).
    """

    _dims = 1
    _op = staticmethod(ops.conv1d)


class Conv3d(_CrossCorrelation):
    """3-D cross-correlation of volumes: x (N, in_channels, D, H, W) -> (N, out_channels, D', H', W') (Ji et al. 2013).

    Args: kernel_size, stride, dilation: int or (d, h, w). padding: int | (d, h, w) | ((front, back), (top, bottom),
    (left, right)) | "valid" | "same"; the others as those of Conv2d. weight is (out_channels, in_channels / groups, kD,
    kH, kW).
    """

    _dims = 3
    _op = staticmethod(ops.conv3d)


class _Transposed(_Conv):
    """ConvTranspose1d, ConvTranspose2d and ConvTranspose3d."""

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
        bias=True, dilation=1, padding_mode="zeros", device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self._set_sizes(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = pair(name, "padding", padding, self._dims)
        self.output_padding = pair(name, "output_padding", output_padding, self._dims)
        if padding_mode != "zeros":
            raise ValueError(f"{name}: expected padding_mode 'zeros', got {padding_mode!r}")
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        self._set_parameters(shape, (out_channels,), bias, device, dtype)

    def forward(self, x):
        """The op of this layer's name with its weight and settings."""
        return self._op(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose2d(_Transposed):
    """Transposed convolution, the gradient of Conv2d with respect to its input (Zeiler et al. 2010).

    x (N, in_channels, H, W) -> (N, out_channels, H', W'), H' = (H - 1) * stride - 2 * padding + dilation *
    (kernel_size - 1) + output_padding + 1. weight is (in_channels, out_channels / groups, kH, kW).
    """

    _op = staticmethod(ops.conv_transpose2d)


class ConvTranspose1d(_Transposed):
    """Transposed convolution of sequences: x (N, in_channels, L) -> (N, out_channels, L'); sizes as ConvTranspose2d's.

    weight is (in_channels, out_channels / groups, k).
    """

    _dims = 1
    _op = staticmethod(ops.conv_transpose1d)


class ConvTranspose3d(_Transposed):
    """Transposed convolution of volumes: x (N, in_channels, D, H, W) -> (N, out_channels, D', H', W'); sizes as
    ConvTranspose2d's.

    weight is (in_channels, out_channels / groups, kD, kH, kW).
    """

    _dims = 3
    _op = staticmethod(ops.conv_transpose3d)


class Linear(_Weighted):
    """x (..., in_features) -> x @ weight.T + bias (..., out_features); weight (out_features, in_features)."""

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
        super().__init__()
        _positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self._set_parameters((out_features, in_features), (out_features,), bias, device, dtype)

    def forward(self, x):
        """fastcnn.ops.linear with this layer's weight and bias."""
        return ops.linear(x, self.weight, self.bias)

    def extra_repr(self):
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )
