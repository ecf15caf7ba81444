"""Layers that drop, move, pad or resample values: Dropout..., Flatten, Upsample, PixelShuffle, padding."""

from __future__ import annotations

from numbers import Integral

from .._core import ops
from .module import Module
from .oplayer import OpLayer


def _check_probability(layer, what, p):
    if not 0 <= p <= 1:
        raise ValueError(f"{type(layer).__name__}: expected {what} between 0 and 1, got {p}")


class Dropout(OpLayer, op="dropout", training=True, ignored=("inplace",)):
    """In training zeroes values with probability p, scales the rest by 1 / (1 - p) (Hinton et al. 2012)."""

    p: float = 0.5
    inplace: bool = False

    def _check(self):
        _check_probability(self, "p", self.p)


class Dropout2d(OpLayer, op="dropout2d", training=True, ignored=("inplace",)):
    """Dropout of whole channels (Tompson et al. 2015)."""

    p: float = 0.5
    inplace: bool = False

    def _check(self):
        _check_probability(self, "p", self.p)


class Dropout1d(Dropout2d):
    """Dropout of whole channels of sequences (N, C, L) or (C, L)."""

    def forward(self, x):
        """fastcnn.ops.dropout2d with the settings of this layer."""
        if x.ndim == 2:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.ndim != 3:
            raise ValueError(f"Dropout1d: expected x of shape (N, C, L) or (C, L), got {x.shape}")
        return ops.dropout2d(x, self.p, training=self.training)


class Dropout3d(Dropout2d):
    """Dropout of whole channels of volumes (N, C, D, H, W) or (C, D, H, W)."""

    def forward(self, x):
        """fastcnn.ops.dropout2d with the settings of this layer."""
        if x.ndim == 4:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.ndim != 5:
            raise ValueError(f"Dropout3d: expected x of shape (N, C, D, H, W) or (C, D, H, W), got {x.shape}")
        return ops.dropout2d(x, self.p, training=self.training)


class AlphaDropout(OpLayer, op="alpha_dropout", training=True, ignored=("inplace",)):
    """Dropout for SELU: in training sets values with probability p to SELU's lower limit (Klambauer et al. 2017).

    What stays is scaled and shifted with it, so that mean 0 and variance 1 stay.
    """

    p: float = 0.5
    inplace: bool = False

    def _check(self):
        _check_probability(self, "p", self.p)


class FeatureAlphaDropout(OpLayer, op="feature_alpha_dropout", training=True, ignored=("inplace",)):
    """AlphaDropout of whole channels of (N, C, ...)."""

    p: float = 0.5
    inplace: bool = False

    def _check(self):
        _check_probability(self, "p", self.p)


class DropPath(OpLayer, op="drop_path", training=True, renamed={"drop_prob": "p"}):
    """Dropout of whole samples, put at the end of a residual branch: stochastic depth (Huang et al. 2016)."""

    drop_prob: float = 0.0

    def _check(self):
        _check_probability(self, "drop_prob", self.drop_prob)


class Flatten(OpLayer, op="flatten"):
    """Joins dims start_dim to end_dim into one: (N, C, H, W) -> (N, C * H * W), in logical order."""

    start_dim: int = 1
    end_dim: int = -1


class Unflatten(Module):
    """Splits dim into unflattened_size, of which one may be -1: Unflatten(1, (C, H, W)) undoes Flatten()."""

    def __init__(self, dim, unflattened_size):
        super().__init__()
        if isinstance(dim, str):
            raise TypeError(f"Unflatten: expected dim as an int (dims have no names here), got {dim!r}")
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x):
        """fastcnn.ops.unflatten with the settings of this layer."""
        return ops.unflatten(x, self.dim, self.unflattened_size)

    def extra_repr(self):
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Unfold(OpLayer, op="unfold"):
    """Windows as columns (im2col): (N, C, H, W) -> (N, C * kH * kW, L), L windows; sizes are an int or (h, w)."""

    kernel_size: int | tuple
    dilation: int | tuple = 1
    padding: int | tuple = 0
    stride: int | tuple = 1


class Fold(OpLayer, op="fold"):
    """Columns added up in images of output_size (col2im): (N, C * kH * kW, L) -> (N, C, h, w), Unfold's transpose."""

    output_size: int | tuple
    kernel_size: int | tuple
    dilation: int | tuple = 1
    padding: int | tuple = 0
    stride: int | tuple = 1


class PixelShuffle(OpLayer, op="pixel_shuffle"):
    """(N, C * r * r, H, W) -> (N, C, H * r, W * r), r = upscale_factor (Shi et al. 2016)."""

    upscale_factor: int


class PixelUnshuffle(OpLayer, op="pixel_unshuffle"):
    """(N, C, H * r, W * r) -> (N, C * r * r, H, W), r = downscale_factor."""

    downscale_factor: int


class ChannelShuffle(OpLayer, op="channel_shuffle"):
    """Channels of (N, C, ...) dealt out: one of each group, then the next of each (Zhang et al. 2018)."""

    groups: int


class Upsample(Module):
    """Resizes x (N, C, H, W) to size (h, w) or by scale_factor.

    mode: nearest, nearest-exact, area (means), bilinear, bicubic. align_corners: corner pixels keep their centres
    (bilinear, bicubic). Sequences (N, C, L) take mode linear in place of both, volumes (N, C, D, H, W) trilinear.
    """

    def __init__(self, size=None, scale_factor=None, mode="nearest", align_corners=None, antialias=False):
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ValueError(f"Upsample: expected size or scale_factor, got {size} and {scale_factor}")
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.antialias = align_corners, antialias

    def forward(self, x):
        """fastcnn.ops.interpolate with the settings of this layer."""
        return ops.interpolate(
            x,
            size=self.size,
            scale_factor=self.scale_factor,
            mode=self.mode,
            align_corners=bool(self.align_corners),
            antialias=self.antialias,
        )

    def extra_repr(self):
        size = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{size}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Upsample with mode="nearest", as PyTorch's of this name."""

    def __init__(self, size=None, scale_factor=None):
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Upsample with mode="bilinear" and align_corners, as PyTorch's of this name."""

    def __init__(self, size=None, scale_factor=None):
        super().__init__(size, scale_factor, "bilinear", True)


class _Pad(Module):
    _mode = "constant"
    _sides = ("left", "right", "top", "bottom")
    value = None

    def __init__(self, padding):
        super().__init__()
        sides = (padding,) * len(self._sides) if isinstance(padding, Integral) else tuple(padding)
        if len(sides) != len(self._sides) or not all(isinstance(p, Integral) for p in sides):
            raise ValueError(
                f"{type(self).__name__}: expected padding: int or ({', '.join(self._sides)}), got {padding!r}"
            )
        self.padding = tuple(map(int, sides))

    def forward(self, x):
        """fastcnn.ops.pad in the mode of this layer."""
        return ops.pad(x, self.padding, self._mode, self.value)

    def extra_repr(self):
        return str(self.padding)


class _Pad1d(_Pad):
    _sides = ("left", "right")


class _Pad3d(_Pad):
    _sides = ("left", "right", "top", "bottom", "front", "back")


class _ConstantPad(_Pad):
    def __init__(self, padding, value):
        super().__init__(padding)
        self.value = value

    def extra_repr(self):
        return f"padding={self.padding}, value={self.value}"


class ZeroPad1d(_Pad1d):
    """Zeros around each sequence; padding: int or (left, right)."""


class ZeroPad2d(_Pad):
    """Zeros around each image; padding: int or (left, right, top, bottom)."""


class ReflectionPad1d(_Pad1d):
    """The sequence mirrored at its ends; padding: int or (left, right)."""

    _mode = "reflect"


class ReflectionPad2d(_Pad):
    """The image mirrored at its border pixels; padding: int or (left, right, top, bottom)."""

    _mode = "reflect"


class ReplicationPad1d(_Pad1d):
    """The ends repeated; padding: int or (left, right)."""

    _mode = "replicate"


class ReplicationPad2d(_Pad):
    """The border pixels repeated; padding: int or (left, right, top, bottom)."""

    _mode = "replicate"


class CircularPad1d(_Pad1d):
    """The sequence repeated around itself; padding: int or (left, right)."""

    _mode = "circular"


class CircularPad2d(_Pad):
    """The image repeated around itself; padding: int or (left, right, top, bottom)."""

    _mode = "circular"


class ConstantPad1d(_ConstantPad, _Pad1d):
    """One value around each sequence; padding: int or (left, right)."""


class ConstantPad2d(_ConstantPad):
    """One value around each image; padding: int or (left, right, top, bottom)."""


class ZeroPad3d(_Pad3d):
    """Zeros around each volume; padding: int or (left, right, top, bottom, front, back)."""


class ReflectionPad3d(_Pad3d):
    """The volume mirrored at its border; padding: int or (left, right, top, bottom, front, back)."""

    _mode = "reflect"


class ReplicationPad3d(_Pad3d):
    """The border repeated; padding: int or (left, right, top, bottom, front, back)."""

    _mode = "replicate"


class CircularPad3d(_Pad3d):
    """The volume repeated around itself; padding: int or (left, right, top, bottom, front, back)."""

    _mode = "circular"


class ConstantPad3d(_ConstantPad, _Pad3d):
    """One value around each volume; padding: int or (left, right, top, bottom, front, back)."""
