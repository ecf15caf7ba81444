"""Feature pyramids (Lin et al. 2017): maps of falling size from a body, made alike in channels and rich in context."""

from __future__ import annotations

from ... import nn
from ..._core import ops
from ...nn import init
from ..blocks import ConvNormAct, conv_bn_weights_
from ..resnet import BasicBlock


def _uniform_(module):
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            init.kaiming_uniform_(m.weight, a=1)
            init.zeros_(m.bias)


def _same(inp, out, kernel):
    # A Sequential of one, as torchvision's keys have it.
    return nn.Sequential(nn.Conv2d(inp, out, kernel, padding=kernel // 2))


class LastLevelP6P7(nn.Module):
    """Two more maps by strided 3x3 convolutions on the smallest one (Lin et al. 2017, RetinaNet)."""

    def __init__(self, channels):
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)
        _uniform_(self)

    def forward(self, maps):
        """[maps] with two more."""
        p6 = self.p6(maps[-1])
        return [*maps, p6, self.p7(ops.relu(p6))]


class FeaturePyramidNetwork(nn.Module):
    """1x1 convolutions to `out` channels, the sum with the next smaller map enlarged, a 3x3 convolution.

    Args: channels: of the maps, largest map first. extra_blocks: makes more maps of the result, or None.
    """

    def __init__(self, channels, out=256, extra_blocks=None):
        super().__init__()
        self.inner_blocks = nn.ModuleList([_same(c, out, 1) for c in channels])
        self.layer_blocks = nn.ModuleList([_same(out, out, 3) for _ in channels])
        _uniform_(self)
        self.extra_blocks = extra_blocks

    def forward(self, maps):
        """[maps], largest first, to as many of `out` channels, and those of extra_blocks."""
        found, above = [], None
        blocks = zip(maps, self.inner_blocks, self.layer_blocks, strict=True)
        for x, inner, layer in reversed(list(blocks)):
            y = inner(x)
            if above is not None:
                y = y + ops.interpolate(above, size=tuple(y.shape[2:]), mode="nearest")
            above = y
            found.insert(0, layer(y))
        return found if self.extra_blocks is None else self.extra_blocks(found)


class BackboneWithFPN(nn.Module):
    """A body whose children run in order, a pyramid on the outputs of some. Args: taken: names of those children."""

    holds_stages = True  # for optim.param_groups

    def __init__(self, body, taken, channels, out=256, extra_blocks=None):
        super().__init__()
        self.body, self.taken, self.out_channels = body, tuple(taken), out
        self.fpn = FeaturePyramidNetwork(channels, out, extra_blocks)

    def forward(self, x):
        """(N, in_channels, H, W) -> [feature maps]."""
        maps = []
        for name, stage in self.body.named_children():
            x = stage(x)
            if name in self.taken:
                maps.append(x)
        return self.fpn(maps)


class SmallBody(nn.Sequential):
    """A residual net for training on a few CPU cores: 3x3 stem at stride 2, stages of basic blocks at stride 2 each.

    Args: widths: of the stages, layer1 (stride 4) on. blocks: per stage.
    """

    def __init__(self, in_channels=3, stem=24, widths=(32, 64, 128, 128), blocks=2):
        stages, inp = {"stem": ConvNormAct(in_channels, stem, 3, 2)}, stem
        for i, width in enumerate(widths):
            layers = [BasicBlock(inp, width, 2), *(BasicBlock(width, width) for _ in range(blocks - 1))]
            stages[f"layer{i + 1}"] = nn.Sequential(*layers)
            inp = width
        super().__init__(stages)
        self.widths = widths
        conv_bn_weights_(self)
