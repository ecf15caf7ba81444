"""Pooling layers. Sizes are an int or (h, w), an int in 1-D, an int or (d, h, w) in 3-D; stride None means
kernel_size."""

from __future__ import annotations

from .._core import ops
from .module import Module
from .oplayer import OpLayer


class MaxPool2d(OpLayer, op="max_pool2d"):
    """Largest value of each window; return_indices: also its place in the H * W plane, int64."""

    kernel_size: int | tuple
    stride: int | tuple | None = None
    padding: int | tuple = 0
    dilation: int | tuple = 1
    return_indices: bool = False
    ceil_mode: bool = False


class MaxUnpool2d(Module):
    """What MaxPool2d(return_indices=True) kept, back in its place, zeros elsewhere (Zeiler & Fergus 2014).

    forward's output_size: (h, w) or a whole shape, where several sizes pool to that of x.
    """

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x, indices, output_size=None):
        """fastcnn.ops.max_unpool2d with the settings of this layer."""
        return ops.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(OpLayer, op="avg_pool2d"):
    """Mean of each window; count_include_pad: padded zeros count as values; divisor_override: divides the sums."""

    kernel_size: int | tuple
    stride: int | tuple | None = None
    padding: int | tuple = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


class LPPool2d(OpLayer, op="lp_pool2d"):
    """(sum of x ** norm_type over each window) ** (1 / norm_type)."""

    norm_type: float
    kernel_size: int | tuple
    stride: int | tuple | None = None
    ceil_mode: bool = False


class AdaptiveAvgPool2d(OpLayer, op="adaptive_avg_pool2d"):
    """Means over a grid of output_size windows, whatever the input size; None in (h, w) keeps a size."""

    output_size: int | tuple


class AdaptiveMaxPool2d(OpLayer, op="adaptive_max_pool2d"):
    """Largest values over a grid of windows; return_indices: also their places in H * W, int64."""

    output_size: int | tuple
    return_indices: bool = False


class GlobalAvgPool2d(OpLayer, op="global_avg_pool2d"):
    """Mean over H and W: (N, C, H, W) -> (N, C, 1, 1) (Lin et al. 2013)."""


class MaxPool1d(OpLayer, op="max_pool1d"):
    """MaxPool2d of sequences (N, C, L); return_indices: also the places of the largest values, int64."""

    kernel_size: int
    stride: int | None = None
    padding: int = 0
    dilation: int = 1
    return_indices: bool = False
    ceil_mode: bool = False


class AvgPool1d(OpLayer, op="avg_pool1d"):
    """AvgPool2d of sequences (N, C, L)."""

    kernel_size: int
    stride: int | None = None
    padding: int = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


class LPPool1d(OpLayer, op="lp_pool1d"):
    """LPPool2d of sequences (N, C, L)."""

    norm_type: float
    kernel_size: int
    stride: int | None = None
    ceil_mode: bool = False


class AdaptiveAvgPool1d(OpLayer, op="adaptive_avg_pool1d"):
    """Means over output_size windows of sequences (N, C, L), whatever L."""

    output_size: int


class AdaptiveMaxPool1d(OpLayer, op="adaptive_max_pool1d"):
    """Largest values over output_size windows of sequences; return_indices: also their places, int64."""

    output_size: int
    return_indices: bool = False


class MaxPool3d(OpLayer, op="max_pool3d"):
    """MaxPool2d of volumes (N, C, D, H, W); return_indices: also the places in D * H * W, int64."""

    kernel_size: int | tuple
    stride: int | tuple | None = None
    padding: int | tuple = 0
    dilation: int | tuple = 1
    return_indices: bool = False
    ceil_mode: bool = False


class AvgPool3d(OpLayer, op="avg_pool3d"):
    """AvgPool2d of volumes (N, C, D, H, W)."""

    kernel_size: int | tuple
    stride: int | tuple | None = None
    padding: int | tuple = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


class AdaptiveAvgPool3d(OpLayer, op="adaptive_avg_pool3d"):
    """Means over a grid of windows of volumes (N, C, D, H, W); None in (d, h, w) keeps a size."""

    output_size: int | tuple


class AdaptiveMaxPool3d(OpLayer, op="adaptive_max_pool3d"):
    """Largest values over a grid of windows of volumes; return_indices: also their places in D * H * W, int64."""

    output_size: int | tuple
    return_indices: bool = False
