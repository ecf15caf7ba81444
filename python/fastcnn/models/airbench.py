"""airbench94: the network of a record on CIFAR-10 (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU").

The recipe around it (Muon or SGD with Nesterov momentum, alternating flips, test-time augmentation) is not here.
"""

from __future__ import annotations

import numpy as np

from .. import _core, nn
from ..nn import init
from .blocks import ImageModel
from .registry import register

NORM = dict(eps=1e-12, momentum=0.4)  # the author's momentum of 0.6 is that of the old statistics


class ConvGroup(nn.Module):
    """conv, max pool, bn, GELU, conv, bn, GELU; the norms learn biases alone."""

    def __init__(self, inp, out):
        super().__init__()
        self.conv1 = nn.Conv2d(inp, out, 3, padding="same", bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(out, **NORM)
        self.conv2 = nn.Conv2d(out, out, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(out, **NORM)
        self.activ = nn.GELU()
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False
        for conv in (self.conv1, self.conv2):
            _pass_on(conv.weight)

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H // 2, W // 2)."""
        x = self.activ(self.norm1(self.pool(self.conv1(x))))
        return self.activ(self.norm2(self.conv2(x)))


def _pass_on(weight):
    """The first filters of a conv weight (O, I, 3, 3), as many as it has inputs, pass their input on."""
    values = np.array(weight.detach().numpy())
    n = min(values.shape[:2])
    values[:n] = 0
    values[range(n), range(n), 1, 1] = 1
    with nn.parameter.no_grad():
        weight.copy_(_core.tensor(values))


class AirBench94(ImageModel):
    """2x2 whitening convolution that is not trained, three ConvGroups, max over the image, one scaled Linear.

    x: (N, in_channels, H, W), H, W >= 9, about 32. Args: widths: of the groups. Call whiten(images) with training
    images before training; until then the first convolution is random.
    """

    min_size = 9

    def __init__(self, num_classes=10, in_channels=3, widths=(64, 256, 256)):
        super().__init__()
        inp = 2 * in_channels * 4
        self.whiten_conv = nn.Conv2d(in_channels, inp, 2)
        self.whiten_conv.weight.requires_grad = False
        init.zeros_(self.whiten_conv.bias)
        self.activ = nn.GELU()
        groups = []
        for out in widths:
            groups.append(ConvGroup(inp, out))
            inp = out
        self.groups = nn.Sequential(*groups)
        self.pool = nn.AdaptiveMaxPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inp, num_classes, bias=False) if num_classes else nn.Identity()

    def whiten(self, images, eps=5e-4):
        """Sets the first convolution to the principal axes of 2x2 patches, scaled to variance 1, and their negatives.

        images: array or Tensor (N, in_channels, H, W), normalised as in training; 5000 are plenty. eps is added to the
        variances. Returns the model.
        """
        a = np.asarray(images.detach().numpy() if isinstance(images, _core.Tensor) else images, dtype=np.float64)
        self._check_images(a)
        windows = np.lib.stride_tricks.sliding_window_view(a, (2, 2), axis=(2, 3))  # (n, c, h - 1, w - 1, 2, 2)
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, a.shape[1] * 4)
        variances, axes = np.linalg.eigh(patches.T @ patches / len(patches))
        filters = (axes / np.sqrt(variances + eps)).T[::-1].reshape(-1, a.shape[1], 2, 2)
        with nn.parameter.no_grad():
            self.whiten_conv.weight.copy_(_core.tensor(np.concatenate([filters, -filters]).astype(np.float32)))
        return self

    def forward(self, x):
        """Logits (N, num_classes), a ninth of what the Linear gives."""
        x = self.groups(self.activ(self.whiten_conv(x)))
        return self.fc(self.flatten(self.pool(x))) * (1 / 9)


@register(image_size=32)
def airbench94(num_classes=10, in_channels=3, **options):
    """airbench94; options: see AirBench94."""
    return AirBench94(num_classes, in_channels, **options)
