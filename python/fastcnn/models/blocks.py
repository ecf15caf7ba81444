"""What the networks of this folder share: the base of nets over images, convolution with norm and activation, heads.

Not layers for users; those are in fc.nn.
"""

from __future__ import annotations

import numpy as np

from .. import nn
from .._core import Tensor
from ..nn import init


class ImageModel(nn.Module):
    """Base of networks over images (N, C, H, W); its call names what to do where x cannot be what the net is built for.

    min_size: smallest H and W that the net can take. image_size: the only H and W, or None. optional_parts: children
    that it may be built without; pretrained weights of them are skipped then. Its forward is that of most nets:
    classifier(flatten(avgpool(features(x)))).
    """

    min_size = 1
    image_size = None
    optional_parts = ()

    def __call__(self, x):
        if not isinstance(x, Tensor):
            what = f"an array of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
            raise TypeError(f"{type(self).__name__}: expected images as a Tensor, got {what}; fc.tensor(x) makes one")
        self._check_images(x)
        return super().__call__(x)

    def _channels(self):
        """Channels of the images: what the first convolution takes, or None."""
        return next((m.in_channels for m in self.modules() if isinstance(m, nn.Conv2d)), None)

    def _check_images(self, x):
        name, shape, channels = type(self).__name__, tuple(x.shape), self._channels()
        if len(shape) != 4:
            raise ValueError(
                f"{name}: expected images (N, {channels}, H, W), got {shape}; one image needs x.unsqueeze(0), "
                "and H, W, C images x.permute(2, 0, 1)"
            )
        n, c, h, w = shape
        if channels is not None and c != channels and w == channels:
            raise ValueError(
                f"{name}: expected images (N, {channels}, H, W), got {shape}, which look like N, H, W, C; give "
                "x.permute(0, 3, 1, 2)"
            )
        if channels is not None and c != channels:
            raise ValueError(
                f"{name}: expected images of {channels} channels, got {c} in {shape}; build it with in_channels={c} "
                "(create_model adapts pretrained weights to that), or change the images"
            )
        if self.image_size is not None and (h, w) != (self.image_size, self.image_size):
            raise ValueError(
                f"{name}: expected images of {self.image_size}x{self.image_size}, got {h}x{w}; resize them, or build "
                "it with image_size="
            )
        if h < self.min_size or w < self.min_size:
            raise ValueError(
                f"{name}: expected images of at least {self.min_size}x{self.min_size}, got {h}x{w}; resize them, or "
                "take a net for small images such as resnet20"
            )

    def forward(self, x):
        """Logits (N, num_classes)."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


class ConvNormAct(nn.Sequential):
    """Convolution without bias that keeps the size at stride 1, batch norm, activation (None: no activation)."""

    def __init__(self, inp, out, kernel=3, stride=1, groups=1, act=nn.ReLU, eps=1e-5, momentum=0.1):
        layers = [
            nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out, eps=eps, momentum=momentum),
        ]
        super().__init__(*layers, *([] if act is None else [act()]))


ATTENTION = {"se": nn.SqueezeExcite, "eca": nn.ECA, "cbam": nn.CBAM, "nonlocal": nn.SelfAttention2d}


def attention_layer(kind, channels):
    """The attention that a residual branch of so many channels ends with: a name in ATTENTION, or None for none."""
    if kind is None:
        return None
    if kind not in ATTENTION:
        raise ValueError(f"attention: expected one of {sorted(ATTENTION)} or None, got {kind!r}")
    return ATTENTION[kind](channels)


def conv_bn_weights_(model, fan="fan_out"):
    """First values of torchvision's CNNs: convs N(0, sqrt(2 / fan)) with zero bias; the rest as it is."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            init.kaiming_normal_(m.weight, mode=fan, nonlinearity="relu")
            if m.bias is not None:
                init.zeros_(m.bias)


def linear_weights_(model, std=0.01):
    """Linear layers N(0, std) with zero bias, as in VGG and MobileNet."""
    for m in model.modules():
        if isinstance(m, nn.Linear):
            init.normal_(m.weight, 0, std)
            init.zeros_(m.bias)


def head_layer(in_features, num_classes):
    """The last Linear, or Identity for num_classes=0 (features only)."""
    return nn.Linear(in_features, num_classes) if num_classes else nn.Identity()
