"""CapsNet (Sabour, Frosst and Hinton 2017) with the decoder that draws what a capsule stands for."""

from __future__ import annotations

from .. import nn
from .._core import ops
from ..nn.capsule import capsule_lengths
from .blocks import ImageModel
from .registry import register


class CapsNet(ImageModel):
    """Convolution, primary capsules, one capsule of 16 numbers per class; its length says how sure the net is.

    x: (N, in_channels, S, S), S = image_size, values of 0 to 1 for the decoder's sake. Args: channels, kernel_size: of
    the first convolution; the second has the same kernel and stride 2. primary, primary_dim, dim: capsules per place,
    their size and that of the class capsules. iterations: of routing. decoder: its hidden sizes, () for none.
    """

    optional_parts = ("decoder",)
    head_dim = 1  # the classes are the second dimension of both heads' weights

    def __init__(
        self, num_classes=10, in_channels=1, image_size=28, channels=256, kernel_size=9, primary=32, primary_dim=8,
        dim=16, iterations=3, decoder=(512, 1024),
    ):  # fmt: skip
        super().__init__()
        side = (image_size - 2 * kernel_size + 1) // 2 + 1
        if num_classes < 1 or image_size < 2 * kernel_size - 1:
            raise ValueError(
                f"CapsNet: expected num_classes >= 1 and image_size >= 2 * kernel_size - 1, got {num_classes}, "
                f"{image_size} and kernel_size {kernel_size}"
            )
        self.image_size, self.in_channels, self.num_classes = image_size, in_channels, num_classes
        self.conv = nn.Conv2d(in_channels, channels, kernel_size)
        self.relu = nn.ReLU()
        self.primary = nn.PrimaryCaps(channels, primary, primary_dim, kernel_size, 2)
        self.routing = nn.RoutingCaps(primary * side * side, primary_dim, num_classes, dim, iterations)
        self.margin_loss = nn.MarginLoss()
        layers, inp = [], num_classes * dim
        for size in decoder:
            layers += [nn.Linear(inp, size), nn.ReLU()]
            inp = size
        if decoder:
            layers += [nn.Linear(inp, in_channels * image_size**2), nn.Sigmoid()]
        self.decoder = nn.Sequential(*layers)

    def capsules(self, x):
        """(N, num_classes, dim): the capsules of the classes."""
        return self.routing(self.primary(self.relu(self.conv(x))))

    def forward(self, x):
        """(N, num_classes): lengths of the capsules, 0 to 1. Not logits: take nn.MarginLoss, and argmax as usual."""
        return capsule_lengths(self.capsules(x))

    def reconstruct(self, capsules, labels=None):
        """Images (N, in_channels, S, S) drawn from the capsule of labels (N,), or from the longest one."""
        if not len(self.decoder):
            raise ValueError("CapsNet.reconstruct: built without a decoder")
        if labels is None:
            labels = ops.argmax(capsule_lengths(capsules), 1)
        chosen = capsules * ops.one_hot(labels, self.num_classes, dtype=capsules.dtype).unsqueeze(2)
        images = self.decoder(chosen.flatten(1))
        return images.reshape(-1, self.in_channels, self.image_size, self.image_size)

    def loss(self, x, labels, reconstruction=0.0005):
        """(loss, lengths): margin loss, plus squared errors of the reconstruction summed over an image times that."""
        self._check_images(x)
        capsules = self.capsules(x)
        lengths = capsule_lengths(capsules)
        loss = self.margin_loss(lengths, labels)
        if len(self.decoder) and reconstruction:
            error = self.reconstruct(capsules, labels) - x
            loss = loss + ops.sum(error * error) * (reconstruction / max(x.shape[0], 1))
        return loss, lengths


@register(head=("routing", "decoder.0"), image_size=28, sized=True)
def capsnet(num_classes=10, in_channels=1, **options):
    """CapsNet; options: see CapsNet."""
    return CapsNet(num_classes, in_channels, **options)
