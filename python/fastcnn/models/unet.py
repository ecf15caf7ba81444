"""U-Net (Ronneberger, Fischer and Brox 2015) with padded convolutions and batch norm, as it is commonly built.

Keys of state_dict are those of the most used PyTorch code (milesial's Pytorch-UNet).
"""

from __future__ import annotations

from .. import nn
from .._core import ops
from .blocks import ImageModel, conv_bn_weights_
from .registry import register


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution, batch norm, ReLU."""

    def __init__(self, inp, out):
        super().__init__()
        layers = []
        for a in (inp, out):
            layers += [nn.Conv2d(a, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H, W)."""
        return self.double_conv(x)


class Down(nn.Module):
    """2x2 max pool, then DoubleConv."""

    def __init__(self, inp, out):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inp, out))

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H // 2, W // 2)."""
        return self.maxpool_conv(x)


class Up(nn.Module):
    """2x2 transposed convolution of stride 2, the encoder's map of that size beside it, DoubleConv."""

    def __init__(self, inp, out):
        super().__init__()
        self.up = nn.ConvTranspose2d(inp, inp // 2, 2, stride=2)
        self.conv = DoubleConv(inp, out)

    def forward(self, x, skip):
        """x (N, inp, H, W), skip (N, inp / 2, H', W') -> (N, out, H', W'); H', W' are 2 H, 2 W or one more."""
        x = self.up(x)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        if rows or columns:  # the pool dropped a row or a column
            x = ops.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.conv(ops.cat([skip, x], 1))


class UNet(ImageModel):
    """Four levels down and up again, with shortcuts between equal sizes. x: (N, in_channels, H, W), H, W >= 16.

    Logits are (N, num_classes, H, W). Args: width: channels of the first level, which double with each level down.
    """

    min_size = 16

    def __init__(self, num_classes=2, in_channels=3, width=64):
        super().__init__()
        if num_classes < 1 or width < 2:
            raise ValueError(f"UNet: expected num_classes >= 1 and width >= 2, got {num_classes} and {width}")
        widths = [width * 2**i for i in range(5)]
        self.inc = DoubleConv(in_channels, width)
        for i in range(1, 5):
            setattr(self, f"down{i}", Down(widths[i - 1], widths[i]))
        for i in range(1, 5):
            setattr(self, f"up{i}", Up(widths[5 - i], widths[4 - i]))
        self.outc = nn.Sequential({"conv": nn.Conv2d(width, num_classes, 1)})
        conv_bn_weights_(self)

    def levels(self, x):
        """The maps on the way up, coarsest first: 16 ``width`` channels at H / 16 to ``width`` at H.

        Deep supervision (Lee et al. 2015) puts heads on the coarse ones.
        """
        maps = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down(maps[-1]))
        found = [maps.pop()]
        for up in (self.up1, self.up2, self.up3, self.up4):
            found.append(up(found[-1], maps.pop()))
        return found

    def forward(self, x):
        """Logits of each pixel (N, num_classes, H, W)."""
        return self.outc(self.levels(x)[-1])


@register(head="outc.conv", image_size=256, task="segmentation")
def unet(num_classes=2, in_channels=3, **options):
    """U-Net; options: see UNet."""
    return UNet(num_classes, in_channels, **options)
