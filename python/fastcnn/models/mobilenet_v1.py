"""MobileNet (Howard et al. 2017): depthwise separable convolutions; keys of state_dict are timm's."""

from __future__ import annotations

from .. import nn
from ..nn.attention import make_divisible
from .blocks import ImageModel, conv_bn_weights_, head_layer, linear_weights_
from .registry import register

# (out channels, blocks, stride of the first)
STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, bn, ReLU6, 1x1 convolution, bn, and ReLU6 again where last_act."""

    def __init__(self, inp, out, kernel=3, stride=1, padding=1, last_act=True, eps=1e-5):
        super().__init__()
        self.conv_dw = nn.Conv2d(inp, inp, kernel, stride, padding, groups=inp, bias=False)
        self.bn1 = nn.BatchNorm2d(inp, eps=eps)
        self.conv_pw = nn.Conv2d(inp, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, eps=eps)
        self.act = nn.ReLU6()
        self.last_act = last_act

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H', W')."""
        y = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return self.act(y) if self.last_act else y


class MobileNetV1(ImageModel):
    """Stem 3x3/2, 13 depthwise separable convolutions, mean over the image, one Linear. x: (N, in_channels, H, W).

    Args: width_mult: scales all channel counts. dropout: before the Linear. ReLU6 instead of the paper's ReLU, as in
    the authors' code.
    """

    def __init__(self, num_classes=1000, in_channels=3, width_mult=1.0, dropout=0.001):
        super().__init__()
        inp = make_divisible(32 * width_mult)
        self.conv_stem = nn.Conv2d(in_channels, inp, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inp)
        self.act = nn.ReLU6()
        stages = []
        for width, n, stride in STAGES:
            out, blocks = make_divisible(width * width_mult), []
            for i in range(n):
                blocks.append(DepthwiseSeparable(inp, out, stride=1 if i else stride))
                inp = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = head_layer(inp, num_classes)
        conv_bn_weights_(self)
        linear_weights_(self)

    def forward(self, x):
        """Logits (N, num_classes)."""
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        return self.classifier(self.dropout(self.flatten(self.avgpool(x))))


@register(head="classifier")
def mobilenet_v1(num_classes=1000, in_channels=3, **options):
    """MobileNet; options: see MobileNetV1."""
    return MobileNetV1(num_classes, in_channels, **options)
