"""VGG (Simonyan and Zisserman 2014), with and without batch norm; keys of state_dict are torchvision's."""

from __future__ import annotations

from .. import nn
from .blocks import ImageModel, conv_bn_weights_, head_layer, linear_weights_
from .registry import register_table

WIDTHS = (64, 128, 256, 512, 512)


def vgg_features(depths, batch_norm=False, in_channels=3):
    """Layers of the groups of 3x3 convolutions, each group ended by a pool."""
    layers = []
    for n, width in zip(depths, WIDTHS, strict=True):
        for _ in range(n):
            layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU())
            in_channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return layers


class VGG(ImageModel):
    """Five groups of 3x3 convolutions, each ended by a pool, then Linear 4096, 4096, num_classes.

    Args: depths: convolutions per group. batch_norm: behind each convolution. x: (N, in_channels, H, W), H,
    W >= 32.
    """

    min_size = 32

    def __init__(self, depths, batch_norm=False, num_classes=1000, in_channels=3, dropout=0.5):
        super().__init__()
        self.features = nn.Sequential(*vgg_features(depths, batch_norm, in_channels))
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout),
            head_layer(4096, num_classes),
        )  # fmt: skip
        conv_bn_weights_(self)
        linear_weights_(self)


DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
TABLE = {
    name + ("_bn" if bn else ""): dict(depths=d, batch_norm=bn)
    for name, d in DEPTHS.items()
    for bn in (False, True)
}
register_table(globals(), VGG, TABLE, "{name}; options: see VGG.", head="classifier.6")
