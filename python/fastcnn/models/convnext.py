"""ConvNeXt tiny to large (Liu et al. 2022); keys of state_dict are torchvision's."""

from __future__ import annotations

from .. import nn
from .._core import ops
from ..nn import init
from .blocks import ImageModel, head_layer
from .registry import register_table

EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each place of (N, C, H, W)."""

    def forward(self, x):
        """(N, C, H, W) -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(nn.Module):
    """x.permute(dims)."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        """The axes of x in another order; no copy."""
        return x.permute(*self.dims)

    def extra_repr(self):
        return str(self.dims)


class CNBlock(nn.Module):
    """x + drop_path(layer_scale * (7x7 depthwise, LayerNorm, Linear to four times the width, GELU, Linear)(x))."""

    def __init__(self, dim, layer_scale, drop_path):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, 7, padding=3, groups=dim), Permute((0, 2, 3, 1)), nn.LayerNorm(dim, eps=EPS),
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Permute((0, 3, 1, 2)),
        )  # fmt: skip
        self.layer_scale = nn.Parameter(ops.full((dim, 1, 1), float(layer_scale)))
        self.stochastic_depth = nn.DropPath(drop_path)

    def forward(self, x):
        """(N, dim, H, W) -> the same shape."""
        return x + self.stochastic_depth(self.block(x) * self.layer_scale)


class ConvNeXt(ImageModel):
    """Stem 4x4/4, four stages of blocks with 2x2/2 convolutions between, mean over the image, LayerNorm, Linear.

    x: (N, in_channels, H, W), H, W >= 32. Args: depths, widths: blocks and channels per stage. stochastic_depth: chance
    to drop the last block, growing from 0 with depth. layer_scale: first value of the factor of each branch.
    """

    min_size = 32

    def __init__(
        self, depths, widths, stochastic_depth=0.1, num_classes=1000, in_channels=3, layer_scale=1e-6
    ):  # fmt: skip
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, 4), LayerNorm2d(widths[0], eps=EPS))]
        done, last = 0, sum(depths) - 1
        for i, (n, width) in enumerate(zip(depths, widths, strict=True)):
            if i:
                layers.append(
                    nn.Sequential(LayerNorm2d(widths[i - 1], eps=EPS), nn.Conv2d(widths[i - 1], width, 2, 2))
                )
            rates = [stochastic_depth * (done + j) / last for j in range(n)]
            layers.append(nn.Sequential(*(CNBlock(width, layer_scale, rate) for rate in rates)))
            done += n
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        head = head_layer(widths[-1], num_classes)
        self.classifier = nn.Sequential(LayerNorm2d(widths[-1], eps=EPS), nn.Flatten(), head)
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                init.trunc_normal_(m.weight, std=0.02)
                init.zeros_(m.bias)

    def forward(self, x):
        """Logits (N, num_classes)."""
        return self.classifier(self.avgpool(self.features(x)))


TABLE = {
    "convnext_tiny": dict(depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), stochastic_depth=0.1),
    "convnext_small": dict(depths=(3, 3, 27, 3), widths=(96, 192, 384, 768), stochastic_depth=0.4),
    "convnext_base": dict(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), stochastic_depth=0.5),
    "convnext_large": dict(depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536), stochastic_depth=0.5),
}
register_table(globals(), ConvNeXt, TABLE, "{name}; options: see ConvNeXt.", "classifier.2")
