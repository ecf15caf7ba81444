"""DenseNet-BC 121 to 201 (Huang et al. 2017); keys of state_dict are torchvision's."""

from __future__ import annotations

import re

from .. import nn
from .._core import ops
from .blocks import ImageModel, conv_bn_weights_, head_layer
from .registry import register_table


class DenseLayer(nn.Module):
    """bn, relu, 1x1 convolution, bn, relu, 3x3 convolution: growth new channels."""

    def __init__(self, inp, growth, bottleneck, dropout):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x):
        """(N, inp, H, W) -> (N, growth, H, W)."""
        y = self.conv2(self.relu(self.norm2(self.conv1(self.relu(self.norm1(x))))))
        return y if self.dropout is None else self.dropout(y)


class DenseBlock(nn.ModuleDict):
    """n layers, each of which sees x and what all layers before it made."""

    def __init__(self, n, inp, growth, bottleneck, dropout):
        super().__init__(
            {f"denselayer{i + 1}": DenseLayer(inp + i * growth, growth, bottleneck, dropout) for i in range(n)}
        )

    def forward(self, x):
        """(N, inp, H, W) -> (N, inp + n * growth, H, W)."""
        for layer in self.values():
            x = ops.cat([x, layer(x)], 1)
        return x


def transition(inp):
    """bn, relu, 1x1 convolution to half of the channels, mean over 2x2."""
    return nn.Sequential(
        dict(
            norm=nn.BatchNorm2d(inp), relu=nn.ReLU(), conv=nn.Conv2d(inp, inp // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )  # fmt: skip


class DenseNet(ImageModel):
    """Stem 7x7/2 and pool, four dense blocks with transitions between, mean over the image, one Linear.

    x: (N, in_channels, H, W), H, W >= 29. Args: layers: per block. growth: channels that a layer adds. stem: channels
    of the first convolution. bottleneck: channels between the two convolutions of a layer, in growths. dropout: behind
    each layer.
    """

    min_size = 29

    def __init__(
        self, layers, growth=32, stem=64, num_classes=1000, in_channels=3, bottleneck=4, dropout=0.0
    ):  # fmt: skip
        super().__init__()
        parts = {
            "conv0": nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(stem),
            "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1),
        }  # fmt: skip
        inp = stem
        for i, n in enumerate(layers, 1):
            parts[f"denseblock{i}"] = DenseBlock(n, inp, growth, bottleneck, dropout)
            inp += n * growth
            if i < len(layers):
                parts[f"transition{i}"] = transition(inp)
                inp //= 2
        self.features = nn.Sequential(parts | {"norm5": nn.BatchNorm2d(inp)})
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.classifier = head_layer(inp, num_classes)
        conv_bn_weights_(self, "fan_in")
        if num_classes:
            nn.init.zeros_(self.classifier.bias)

    def forward(self, x):
        """Logits (N, num_classes)."""
        return self.classifier(self.flatten(self.avgpool(self.relu(self.features(x)))))


def from_old_torchvision(state, row):
    """Keys of files from before PyTorch 0.4 with a dot less: denselayer1.norm.1 -> denselayer1.norm1."""
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
    renamed = {pattern.sub(r"\1\2.", key): value for key, value in state.items()}
    return renamed, {}, None if renamed.keys() == state.keys() else "keys of torchvision's old files renamed"


TABLE = {
    "densenet121": dict(layers=(6, 12, 24, 16)),
    "densenet161": dict(layers=(6, 12, 36, 24), growth=48, stem=96),
    "densenet169": dict(layers=(6, 12, 32, 32)),
    "densenet201": dict(layers=(6, 12, 48, 32)),
}
register_table(
    globals(), DenseNet, TABLE, "{name}; options: see DenseNet.", "classifier", convert=from_old_torchvision
)
