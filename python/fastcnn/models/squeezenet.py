"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016); keys of state_dict are torchvision's."""

from __future__ import annotations

from .. import nn
from .._core import ops
from ..nn import init
from .blocks import ImageModel
from .registry import register_table

POOL = "pool"
# (squeeze, expand channels of each kind) of a fire module, or a max pool
ROWS_1_0 = (
    POOL, (16, 64), (16, 64), (32, 128), POOL, (32, 128), (48, 192), (48, 192), (64, 256), POOL, (64, 256),
)  # fmt: skip
ROWS_1_1 = (
    POOL, (16, 64), (16, 64), POOL, (32, 128), (32, 128), POOL, (48, 192), (48, 192), (64, 256), (64, 256),
)  # fmt: skip


class Fire(nn.Module):
    """1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side, each with ReLU."""

    def __init__(self, inp, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inp, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        """(N, inp, H, W) -> (N, 2 * expand, H, W)."""
        x = self.relu(self.squeeze(x))
        return ops.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


class SqueezeNet(ImageModel):
    """Stem, eight fire modules with pools between, 1x1 convolution to the classes, mean over the image.

    x: (N, in_channels, H, W), H, W >= min_size. Args: stem: (channels, kernel) of the first convolution, of stride 2.
    rows: see ROWS_1_0. dropout: before the last convolution.
    """

    def __init__(self, stem, rows, min_size, num_classes=1000, in_channels=3, dropout=0.5):
        super().__init__()
        self.min_size = min_size
        inp, kernel = stem
        layers = [nn.Conv2d(in_channels, inp, kernel, 2), nn.ReLU()]
        for row in rows:
            if row == POOL:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            else:
                layers.append(Fire(inp, *row))
                inp = 2 * row[1]
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(inp, num_classes, 1) if num_classes else nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)))
        self.flatten = nn.Flatten()
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                if m is last:
                    init.normal_(m.weight, 0.0, 0.01)
                else:
                    init.kaiming_uniform_(m.weight)
                init.zeros_(m.bias)

    def forward(self, x):
        """Logits (N, num_classes)."""
        return self.flatten(self.classifier(self.features(x)))


TABLE = {
    "squeezenet1_0": dict(stem=(96, 7), rows=ROWS_1_0, min_size=21),
    "squeezenet1_1": dict(stem=(64, 3), rows=ROWS_1_1, min_size=17),
}
register_table(globals(), SqueezeNet, TABLE, "{name}; options: see SqueezeNet.", "classifier.1")
