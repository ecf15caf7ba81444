"""MobileNetV3 (Howard et al. 2019), large and small; keys of state_dict are torchvision's."""

from __future__ import annotations

from functools import partial

from .. import nn
from ..nn.attention import make_divisible
from .blocks import ConvNormAct, ImageModel, conv_bn_weights_, head_layer, linear_weights_
from .registry import register_table

# Tables 1 and 2 of the paper: (kernel, expanded channels, out channels, SE, hard swish instead of ReLU, stride)
LARGE = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
SMALL = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip

conv_norm_act = partial(ConvNormAct, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise, SE (hard sigmoid), 1x1 projection; shortcut where the shape stays."""

    def __init__(self, inp, kernel, inner, out, se, hard_swish, stride):
        super().__init__()
        act = nn.Hardswish if hard_swish else nn.ReLU
        layers = [conv_norm_act(inp, inner, 1, act=act)] if inner != inp else []
        layers.append(conv_norm_act(inner, inner, kernel, stride, inner, act=act))
        if se:
            layers.append(
                nn.SqueezeExcite(inner, rd_channels=make_divisible(inner // 4), gate_layer=nn.Hardsigmoid)
            )
        self.block = nn.Sequential(*layers, conv_norm_act(inner, out, 1, act=None))
        self.use_shortcut = stride == 1 and inp == out

    def forward(self, x):
        """block(x), plus x where the shape stays."""
        return x + self.block(x) if self.use_shortcut else self.block(x)


class MobileNetV3(ImageModel):
    """Stem 3x3/2, inverted residuals, 1x1 convolution, mean over the image, Linear last_channels, Linear.

    Args: rows: see LARGE. width_mult: scales all channel counts. dropout: before the last Linear.
    """

    def __init__(self, rows, last_channels, num_classes=1000, in_channels=3, width_mult=1.0, dropout=0.2):
        super().__init__()
        inp = make_divisible(16 * width_mult)
        layers = [conv_norm_act(in_channels, inp, 3, 2, act=nn.Hardswish)]
        for kernel, inner, out, se, hard_swish, stride in rows:
            inner, out = make_divisible(inner * width_mult), make_divisible(out * width_mult)
            layers.append(InvertedResidual(inp, kernel, inner, out, se, hard_swish, stride))
            inp = out
        self.features = nn.Sequential(*layers, conv_norm_act(inp, 6 * inp, 1, act=nn.Hardswish))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        last = make_divisible(last_channels * width_mult)
        self.classifier = nn.Sequential(
            nn.Linear(6 * inp, last), nn.Hardswish(), nn.Dropout(dropout), head_layer(last, num_classes)
        )
        conv_bn_weights_(self)
        linear_weights_(self)


TABLE = {
    "mobilenet_v3_large": dict(rows=LARGE, last_channels=1280),
    "mobilenet_v3_small": dict(rows=SMALL, last_channels=1024),
}
register_table(globals(), MobileNetV3, TABLE, "{name}; options: see MobileNetV3.", head="classifier.3")
