"""LeNet-5 (LeCun et al. 1998) as it is commonly built, and a wider LeNet with ReLU for benchmarks."""

from __future__ import annotations

from .. import nn
from .blocks import ImageModel, head_layer
from .registry import register

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
_POOLS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}


def _choose(model, what, table, name):
    if name not in table:
        raise ValueError(f"{model}: expected {what} in {sorted(table)}, got {name!r}")
    return table[name]


class LeNet5(ImageModel):
    """conv 6@5x5, pool, conv 16@5x5, pool, Linear 120, 84, num_classes.

    x: (N, in_channels, S, S), S = image_size.

    28x28 images are padded by 2, which gives the 32x32 of the paper; other sizes are taken as they are.
    """

    def __init__(self, num_classes=10, in_channels=1, image_size=28, activation="tanh", pool="avg"):
        super().__init__()
        act = _choose("LeNet5", "activation", _ACTIVATIONS, activation)
        pooling = _choose("LeNet5", "pool", _POOLS, pool)
        padding = 2 if image_size == 28 else 0
        side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"LeNet5: expected image_size >= 16, got {image_size}")
        self.image_size = image_size
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=padding), act(), pooling(2, 2),
            nn.Conv2d(6, 16, 5), act(), pooling(2, 2),
        )  # fmt: skip
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(16 * side * side, 120), act(), nn.Linear(120, 84), act(), head_layer(84, num_classes)
        )

    def forward(self, x):
        """Logits (N, num_classes)."""
        return self.classifier(self.flatten(self.features(x)))


class LeNet(ImageModel):
    """conv 32@5x5, pool, conv 64@5x5, pool, Linear 512, num_classes, with ReLU; x: (N, in_channels, S, S)."""

    def __init__(self, num_classes=10, in_channels=1, image_size=28):
        super().__init__()
        if image_size < 4:
            raise ValueError(f"LeNet: expected image_size >= 4, got {image_size}")
        self.image_size = image_size
        self.conv1 = nn.Conv2d(in_channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(64 * (image_size // 4) ** 2, 512)
        self.fc2 = head_layer(512, num_classes)

    def forward(self, x):
        """Logits (N, num_classes)."""
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.fc2(self.relu(self.fc1(self.flatten(x))))


@register(head="classifier.4", image_size=28, sized=True)
def lenet5(num_classes=10, in_channels=1, **options):
    """LeNet-5; options: see LeNet5."""
    return LeNet5(num_classes, in_channels, **options)


@register(head="fc2", image_size=28, sized=True)
def lenet(num_classes=10, in_channels=1, **options):
    """Wide LeNet (32-64-512); options: see LeNet."""
    return LeNet(num_classes, in_channels, **options)
