"""EfficientNet-Lite 0 to 4 (Google 2020, after Tan and Le 2019): no SE, ReLU6, stem and head of fixed width.

Keys of state_dict are timm's. efficientnet_lite0 is timm's net of that name; tf_efficientnet_lite0, or tf=True, has the
padding and the epsilon of the TensorFlow original. Files with the keys of EfficientNet-PyTorch (`_blocks.0...`), which
hold weights of the original, are loaded by create_model(..., pretrained=) as well and set tf=True.
"""

from __future__ import annotations

import math
import re

from .. import nn
from ..nn.attention import make_divisible
from .blocks import ImageModel, conv_bn_weights_, head_layer, linear_weights_
from .efficientnet import STAGES
from .mobilenet_v1 import DepthwiseSeparable
from .registry import register_table


def stage_depths(depth_mult):
    """Blocks per stage: the first and the last stage keep theirs."""
    inner = [math.ceil(n * depth_mult) for *_, n in STAGES[1:-1]]
    return [STAGES[0][4], *inner, STAGES[-1][4]]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise, 1x1 projection without activation; where the shape stays, stochastic depth and x."""

    def __init__(self, inp, out, expansion, kernel, stride, padding, drop_path, eps):
        super().__init__()
        inner = make_divisible(inp * expansion)
        self.conv_pw = nn.Conv2d(inp, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps=eps)
        self.conv_dw = nn.Conv2d(inner, inner, kernel, stride, padding, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, eps=eps)
        self.conv_pwl = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, eps=eps)
        self.act = nn.ReLU6()
        self.drop_path = nn.DropPath(drop_path)
        self.use_shortcut = stride == 1 and inp == out

    def forward(self, x):
        """branch(x), plus x where the shape stays."""
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.act(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + self.drop_path(y) if self.use_shortcut else y


class EfficientNetLite(ImageModel):
    """Stem 3x3/2, seven stages, 1x1 convolution, mean over the image, one Linear. x: (N, in_channels, H, W).

    Args: width_mult, depth_mult: scale channels of STAGES and the blocks of its inner rows. dropout: before the Linear.
    drop_path: chance to drop the last block, growing from 0 with depth. tf: "same" padding of TensorFlow (the extra
    pixel at the end) and batch norms with epsilon 1e-3.
    """

    def __init__(
        self, width_mult, depth_mult, dropout=0.2, num_classes=1000, in_channels=3, drop_path=0.2, tf=False
    ):  # fmt: skip
        super().__init__()
        eps, inp = 1e-3 if tf else 1e-5, 32

        def padding(kernel):
            return "same" if tf else kernel // 2

        self.conv_stem = nn.Conv2d(in_channels, inp, 3, 2, padding(3), bias=False)
        self.bn1 = nn.BatchNorm2d(inp, eps=eps)
        depths = stage_depths(depth_mult)
        stages, done = [], 0
        for (expansion, kernel, stride, width, _), n in zip(STAGES, depths, strict=True):
            out, blocks = make_divisible(width * width_mult), []
            for i in range(n):
                step = 1 if i else stride
                if expansion == 1:
                    blocks.append(DepthwiseSeparable(inp, out, kernel, step, padding(kernel), False, eps))
                else:
                    p = drop_path * done / sum(depths)
                    blocks.append(InvertedResidual(inp, out, expansion, kernel, step, padding(kernel), p, eps))
                inp, done = out, done + 1
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inp, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280, eps=eps)
        self.act = nn.ReLU6()
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = head_layer(1280, num_classes)
        conv_bn_weights_(self)
        linear_weights_(self)

    def forward(self, x):
        """Logits (N, num_classes)."""
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        x = self.act(self.bn2(self.conv_head(x)))
        return self.classifier(self.dropout(self.flatten(self.avgpool(x))))


_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def from_efficientnet_pytorch(state, row):
    """See registry.register: for files of EfficientNet-PyTorch; other states stay as they are."""
    if "_conv_stem.weight" not in state:
        return state, {}, None
    places = [(i, j) for i, n in enumerate(stage_depths(row["depth_mult"])) for j in range(n)]
    renamed = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
        if block and int(block[1]) < len(places):
            i, j = places[int(block[1])]
            names = _EXPANDED if STAGES[i][0] != 1 else _SEPARABLE
            key = f"blocks.{i}.{j}.{names.get(block[2], block[2])}.{tensor}"
        elif module in _OUTER:
            key = f"{_OUTER[module]}.{tensor}"
        renamed[key] = value
    return renamed, {"tf": True}, "keys of EfficientNet-PyTorch renamed; built with tf=True"


TABLE = {
    "efficientnet_lite0": dict(width_mult=1.0, depth_mult=1.0, dropout=0.2),
    "efficientnet_lite1": dict(width_mult=1.0, depth_mult=1.1, dropout=0.2),
    "efficientnet_lite2": dict(width_mult=1.1, depth_mult=1.2, dropout=0.3),
    "efficientnet_lite3": dict(width_mult=1.2, depth_mult=1.4, dropout=0.3),
    "efficientnet_lite4": dict(width_mult=1.4, depth_mult=1.8, dropout=0.3),
}
SIZES = dict(zip(TABLE, (224, 240, 260, 280, 300), strict=True))
TABLE |= {f"tf_{name}": dict(row, tf=True) for name, row in TABLE.items()}
SIZES |= {f"tf_{name}": size for name, size in SIZES.items()}
register_table(
    globals(), EfficientNetLite, TABLE, "{name}; options: see EfficientNetLite.", "classifier", image_size=SIZES,
    convert=from_efficientnet_pytorch,
)  # fmt: skip
