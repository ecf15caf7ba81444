"""AlexNet in its one-tower form (Krizhevsky 2014); keys of state_dict are torchvision's."""

from __future__ import annotations

from .. import nn
from .blocks import ImageModel, head_layer
from .registry import register

# (out channels, kernel, stride, padding, pool after it)
CONVS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(ImageModel):
    """Five convolutions, Linear 4096, 4096, num_classes. x: (N, in_channels, H, W), H, W >= 63."""

    min_size = 63

    def __init__(self, num_classes=1000, in_channels=3, dropout=0.5):
        super().__init__()
        layers = []
        for out, kernel, stride, padding, pool in CONVS:
            layers += [nn.Conv2d(in_channels, out, kernel, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            in_channels = out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 36, 4096), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(),
            head_layer(4096, num_classes),
        )  # fmt: skip


@register(head="classifier.6")
def alexnet(num_classes=1000, in_channels=3, **options):
    """AlexNet; options: see AlexNet."""
    return AlexNet(num_classes, in_channels, **options)
