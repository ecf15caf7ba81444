"""MobileNetV2 (Sandler et al. 2018); keys of state_dict are torchvision's."""

from __future__ import annotations

from .. import nn
from ..nn.attention import make_divisible
from .blocks import ConvNormAct, ImageModel, conv_bn_weights_, head_layer, linear_weights_
from .registry import register

# (expansion, out channels, blocks, stride of the first)
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without activation; shortcut where the shape stays."""

    def __init__(self, inp, out, stride, expansion):
        super().__init__()
        inner = round(inp * expansion)
        layers = [ConvNormAct(inp, inner, 1, act=nn.ReLU6)] if expansion != 1 else []
        layers += [ConvNormAct(inner, inner, 3, stride, inner, act=nn.ReLU6), nn.Conv2d(inner, out, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(out))
        self.use_shortcut = stride == 1 and inp == out

    def forward(self, x):
        """conv(x), plus x where the shape stays."""
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class MobileNetV2(ImageModel):
    """Stem, 17 inverted residuals, 1x1 convolution, mean over the image, one Linear.

    x: (N, in_channels, H, W). Args: width_mult: scales all channel counts. dropout: before the Linear.
    """

    def __init__(self, num_classes=1000, in_channels=3, width_mult=1.0, dropout=0.2):
        super().__init__()
        inp = make_divisible(32 * width_mult)
        last = make_divisible(1280 * max(1.0, width_mult))
        layers = [ConvNormAct(in_channels, inp, 3, 2, act=nn.ReLU6)]
        for expansion, width, n, stride in STAGES:
            out = make_divisible(width * width_mult)
            for i in range(n):
                layers.append(InvertedResidual(inp, out, 1 if i else stride, expansion))
                inp = out
        self.features = nn.Sequential(*layers, ConvNormAct(inp, last, 1, act=nn.ReLU6))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(dropout), head_layer(last, num_classes))
        conv_bn_weights_(self)
        linear_weights_(self)


@register(head="classifier.1")
def mobilenet_v2(num_classes=1000, in_channels=3, **options):
    """MobileNetV2; options: see MobileNetV2."""
    return MobileNetV2(num_classes, in_channels, **options)
