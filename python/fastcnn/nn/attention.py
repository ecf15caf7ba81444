"""Attention for convolutional networks: SqueezeExcite, ECA and CBAM rescale features, SelfAttention2d mixes places.

Each takes x (N, C, H, W) and gives the same shape. Names of parameters are those of timm (SqueezeExcite, ECA, CBAM) and
of the common SAGAN code (SelfAttention2d). Attention over sequences is in multihead.py.
"""

from __future__ import annotations

import math

from .._core import ops
from . import init
from .activation import ReLU, Sigmoid
from .conv import Conv2d
from .module import Module
from .norm import BatchNorm2d
from .parameter import Parameter, empty


def make_divisible(value, divisor=8, round_limit=0.9):
    """value rounded to a multiple of divisor, at least divisor; never below round_limit * value (MobileNet's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * value else rounded


def _check_channels(layer, x, channels):
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{layer}: expected x of shape (N, {channels}, H, W), got {tuple(x.shape)}")


def _squeezed(layer, channels, rd_ratio, rd_channels, rd_divisor):
    """Channels between the two 1x1 convolutions of a gate."""
    if channels < 1 or rd_divisor < 1 or rd_ratio <= 0:
        raise ValueError(
            f"{layer}: expected channels >= 1, rd_divisor >= 1 and rd_ratio > 0, "
            f"got {channels}, {rd_divisor} and {rd_ratio}"
        )
    if rd_channels is None:
        return make_divisible(channels * rd_ratio, rd_divisor, round_limit=0.0)
    if rd_channels < 1:
        raise ValueError(f"{layer}: expected rd_channels >= 1, got {rd_channels}")
    return rd_channels


class SqueezeExcite(Module):
    """x * gate(fc2(act(fc1(mean of x over H and W)))), one factor per image and channel (Hu et al. 2018).

    Args: rd_ratio: channels of fc1 over channels, rounded to a multiple of rd_divisor. rd_channels: that number itself.
    act_layer, gate_layer: classes of the two activations. fc1 and fc2 are 1x1 convolutions with bias, as in timm and
    torchvision.
    """

    def __init__(
        self, channels, rd_ratio=1 / 16, rd_channels=None, rd_divisor=8, act_layer=ReLU, gate_layer=Sigmoid
    ):  # fmt: skip
        super().__init__()
        squeezed = _squeezed("SqueezeExcite", channels, rd_ratio, rd_channels, rd_divisor)
        self.channels = channels
        self.fc1 = Conv2d(channels, squeezed, 1)
        self.activation = act_layer()
        self.fc2 = Conv2d(squeezed, channels, 1)
        self.gate = gate_layer()

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        _check_channels("SqueezeExcite", x, self.channels)
        return x * self.gate(self.fc2(self.activation(self.fc1(ops.global_avg_pool2d(x)))))


class _ChannelConv(Module):
    """Convolution along the channels of (N, C, 1, 1), without bias; weight (1, 1, k) as of PyTorch's Conv1d."""

    def __init__(self, kernel_size):
        super().__init__()
        self.weight = Parameter(empty((1, 1, kernel_size)))
        self.reset_parameters()

    def reset_parameters(self):
        """Draws weight anew, as a Conv1d does."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x):
        """(N, C, 1, 1) -> (N, C, 1, 1)."""
        n, c = x.shape[:2]
        k = self.weight.shape[2]
        y = ops.conv2d(x.reshape(n, 1, 1, c), self.weight.reshape(1, 1, 1, k), None, 1, (0, k // 2))
        return y.reshape(n, c, 1, 1)


class ECA(Module):
    """x * sigmoid(convolution along the channels of the mean over H and W): SqueezeExcite without a bottleneck.

    Wang et al. 2020. Args: kernel_size: odd; None: the odd number at or above (log2(channels) + beta) / gamma, as the
    paper's code rounds. conv.weight is (1, 1, kernel_size), there is no bias.
    """

    def __init__(self, channels, kernel_size=None, gamma=2, beta=1):
        super().__init__()
        if channels < 1:
            raise ValueError(f"ECA: expected channels >= 1, got {channels}")
        if kernel_size is None:
            if not gamma > 0:
                raise ValueError(f"ECA: expected gamma > 0, got {gamma}")
            t = int(abs(math.log2(channels) + beta) / gamma)
            kernel_size = max(t if t % 2 else t + 1, 3)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"ECA: expected an odd kernel_size >= 1, got {kernel_size}")
        self.channels, self.kernel_size = channels, kernel_size
        self.conv = _ChannelConv(kernel_size)

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        _check_channels("ECA", x, self.channels)
        return x * ops.sigmoid(self.conv(ops.global_avg_pool2d(x)))

    def extra_repr(self):
        return f"{self.channels}, kernel_size={self.kernel_size}"


class _ChannelAttention(Module):
    """x * sigmoid(mlp(mean) + mlp(max)) over H and W, with one mlp of two 1x1 convolutions without bias."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = Conv2d(channels, squeezed, 1, bias=False)
        self.act = ReLU()
        self.fc2 = Conv2d(squeezed, channels, 1, bias=False)

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        mean = self.fc2(self.act(self.fc1(ops.global_avg_pool2d(x))))
        largest = self.fc2(self.act(self.fc1(ops.amax(x, dim=(2, 3), keepdim=True))))
        return x * ops.sigmoid(mean + largest)


class _ConvBN(Module):
    """Convolution that keeps the size and batch norm, named conv and bn."""

    def __init__(self, inp, out, kernel_size):
        super().__init__()
        self.conv = Conv2d(inp, out, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = BatchNorm2d(out)

    def forward(self, x):
        """bn(conv(x))."""
        return self.bn(self.conv(x))


class _SpatialAttention(Module):
    """x * sigmoid(bn(conv(mean and max over the channels))), one factor per place."""

    def __init__(self, kernel_size):
        super().__init__()
        self.conv = _ConvBN(2, 1, kernel_size)

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        both = ops.cat([ops.mean(x, 1, keepdim=True), ops.amax(x, 1, keepdim=True)], 1)
        return x * ops.sigmoid(self.conv(both))


class CBAM(Module):
    """Channel attention from mean and maximum, then spatial attention (Woo et al. 2018).

    Args: rd_ratio, rd_channels, rd_divisor: see SqueezeExcite. kernel_size: odd, of the spatial convolution.
    """

    def __init__(self, channels, rd_ratio=1 / 16, rd_channels=None, rd_divisor=1, kernel_size=7):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"CBAM: expected an odd kernel_size >= 1, got {kernel_size}")
        self.channels = channels
        self.channel = _ChannelAttention(channels, _squeezed("CBAM", channels, rd_ratio, rd_channels, rd_divisor))
        self.spatial = _SpatialAttention(kernel_size)

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        _check_channels("CBAM", x, self.channels)
        return self.spatial(self.channel(x))


class SelfAttention2d(Module):
    """x + gamma * attention, in which every place looks at every other (Wang et al. 2018, Zhang et al. 2019 "SAGAN").

    With queries, keys and values from 1x1 convolutions and P = H * W places, attention is softmax(q k^T) v, without a
    scale, as in SAGAN. gamma (1,) starts at 0, so the layer starts as the identity. Needs N * P * P floats.
    Args: rd_channels: channels of queries and keys, channels // 8 by default.
    """

    def __init__(self, channels, rd_channels=None):
        super().__init__()
        inner = max(1, channels // 8) if rd_channels is None else rd_channels
        if channels < 1 or inner < 1:
            raise ValueError(f"SelfAttention2d: expected channels and rd_channels >= 1, got {channels} and {inner}")
        self.channels, self.rd_channels = channels, inner
        self.query_conv = Conv2d(channels, inner, 1)
        self.key_conv = Conv2d(channels, inner, 1)
        self.value_conv = Conv2d(channels, channels, 1)
        self.gamma = Parameter(empty((1,)))
        init.zeros_(self.gamma)

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        _check_channels("SelfAttention2d", x, self.channels)
        n, c, h, w = x.shape

        def places(t):  # (N, P, channels): no copy in channels-last memory
            return t.permute(0, 2, 3, 1).reshape(n, h * w, t.shape[1])

        scores = ops.matmul(places(self.query_conv(x)), places(self.key_conv(x)).transpose(1, 2))
        y = ops.matmul(ops.softmax(scores, -1), places(self.value_conv(x)))
        return x + self.gamma * y.reshape(n, h, w, c).permute(0, 3, 1, 2)

    def extra_repr(self):
        return f"{self.channels}, rd_channels={self.rd_channels}"
