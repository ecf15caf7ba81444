"""EfficientNet B0 to B7 (Tan and Le 2019); keys of state_dict are torchvision's."""

from __future__ import annotations

import math

from .. import nn
from ..nn import init
from ..nn.attention import make_divisible
from .blocks import ConvNormAct, ImageModel, conv_bn_weights_, head_layer
from .registry import register_table

# Table 1 of the paper: (expansion, kernel, stride of the first, out channels, blocks)
STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip


class MBConv(nn.Module):
    """1x1 expansion, depthwise, SE, 1x1 projection; where the shape stays, stochastic depth and x."""

    def __init__(self, inp, out, expansion, kernel, stride, drop_path, norm):
        super().__init__()
        inner = make_divisible(inp * expansion)
        layers = [ConvNormAct(inp, inner, 1, act=nn.SiLU, **norm)] if inner != inp else []
        layers += [
            ConvNormAct(inner, inner, kernel, stride, inner, act=nn.SiLU, **norm),
            nn.SqueezeExcite(inner, rd_channels=max(1, inp // 4), act_layer=nn.SiLU),
            ConvNormAct(inner, out, 1, act=None, **norm),
        ]
        self.block = nn.Sequential(*layers)
        self.use_shortcut = stride == 1 and inp == out
        self.stochastic_depth = nn.DropPath(drop_path)

    def forward(self, x):
        """block(x), plus x where the shape stays."""
        return x + self.stochastic_depth(self.block(x)) if self.use_shortcut else self.block(x)


class EfficientNet(ImageModel):
    """Stem 3x3/2, seven stages of MBConv, 1x1 convolution, mean over the image, one Linear. x: (N, in_channels, H, W).

    Args: width_mult, depth_mult: scale channels and blocks of STAGES. dropout: before the Linear. stochastic_depth:
    chance to drop the last block, growing from 0 with depth (Huang et al. 2016). eps, momentum: of the batch norms.
    """

    def __init__(
        self, width_mult, depth_mult, dropout=0.2, num_classes=1000, in_channels=3, stochastic_depth=0.2, eps=1e-5,
        momentum=0.1,
    ):  # fmt: skip
        super().__init__()
        norm = dict(eps=eps, momentum=momentum)
        inp = make_divisible(32 * width_mult)
        layers = [ConvNormAct(in_channels, inp, 3, 2, act=nn.SiLU, **norm)]
        depths = [math.ceil(n * depth_mult) for *_, n in STAGES]
        done = 0
        for (expansion, kernel, stride, width, _), n in zip(STAGES, depths, strict=True):
            out, blocks = make_divisible(width * width_mult), []
            for i in range(n):
                drop_path = stochastic_depth * done / sum(depths)
                blocks.append(MBConv(inp, out, expansion, kernel, 1 if i else stride, drop_path, norm))
                inp, done = out, done + 1
            layers.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*layers, ConvNormAct(inp, 4 * inp, 1, act=nn.SiLU, **norm))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(dropout), head_layer(4 * inp, num_classes))
        conv_bn_weights_(self)
        if num_classes:
            bound = 1 / math.sqrt(num_classes)
            init.uniform_(self.classifier[1].weight, -bound, bound)
            init.zeros_(self.classifier[1].bias)


WIDE_NORM = dict(eps=1e-3, momentum=0.01)
TABLE = {
    "efficientnet_b0": dict(width_mult=1.0, depth_mult=1.0, dropout=0.2),
    "efficientnet_b1": dict(width_mult=1.0, depth_mult=1.1, dropout=0.2),
    "efficientnet_b2": dict(width_mult=1.1, depth_mult=1.2, dropout=0.3),
    "efficientnet_b3": dict(width_mult=1.2, depth_mult=1.4, dropout=0.3),
    "efficientnet_b4": dict(width_mult=1.4, depth_mult=1.8, dropout=0.4),
    "efficientnet_b5": dict(width_mult=1.6, depth_mult=2.2, dropout=0.4, **WIDE_NORM),
    "efficientnet_b6": dict(width_mult=1.8, depth_mult=2.6, dropout=0.5, **WIDE_NORM),
    "efficientnet_b7": dict(width_mult=2.0, depth_mult=3.1, dropout=0.5, **WIDE_NORM),
}
SIZES = dict(zip(TABLE, (224, 240, 260, 300, 380, 456, 528, 600), strict=True))
register_table(
    globals(), EfficientNet, TABLE, "{name}; options: see EfficientNet.", "classifier.1", image_size=SIZES
)
