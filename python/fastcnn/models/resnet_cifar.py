"""ResNets for small images: resnet20 ... resnet1202 and their plain twins (He et al. 2015), pre-activation
nets (He et al. 2016), wide ones (Zagoruyko and Komodakis 2016). For 28x28 and 32x32 images; any size that survives two
or three halvings works.
"""

from __future__ import annotations

from functools import reduce

from .. import nn
from .._checkpoint import checkpoint as recompute
from .._core import ops
from .blocks import ImageModel, attention_layer, conv_bn_weights_, head_layer
from .registry import register_table
from .resnet import conv1x1, conv3x3


class PadShortcut(nn.Module):
    """Option A: every stride-th pixel, new channels filled with zeros; no parameters."""

    def __init__(self, inp, out, stride):
        super().__init__()
        self.stride, self.before, self.after = stride, (out - inp) // 2, out - inp - (out - inp) // 2

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return ops.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self):
        return f"stride={self.stride}, channels before={self.before}, after={self.after}"


def shortcut(kind, inp, out, stride):
    """Option "A" (zero padding), "B" (1x1 convolution and batch norm) or "none" (a plain net)."""
    if kind == "none":
        return None
    if stride == 1 and inp == out:
        return nn.Identity()
    if kind == "A":
        return PadShortcut(inp, out, stride)
    if kind == "B":
        return nn.Sequential(conv1x1(inp, out, stride), nn.BatchNorm2d(out))
    raise ValueError(f"ResNetCifar: expected shortcut 'A', 'B' or 'none', got {kind!r}")


class CifarBlock(nn.Module):
    """conv, bn, relu, conv, bn, attention if asked for, plus the shortcut if there is one, relu."""

    def __init__(self, inp, out, stride, kind, attention=None, dropout=0.0):
        super().__init__()
        self.conv1 = conv3x3(inp, out, stride)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = conv3x3(out, out)
        self.bn2 = nn.BatchNorm2d(out)
        self.se = attention_layer(attention, out)
        self.shortcut = shortcut(kind, inp, out, stride)

    def forward(self, x):
        """relu(branch(x) + shortcut(x)), or relu(branch(x)) in a plain net."""
        shortcut = None if self.shortcut is None else self.shortcut(x)  # first: the last norm takes it in as it writes
        y = self.bn2(self.conv2(self.drop(self.relu(self.bn1(self.conv1(x))))))
        y = y if self.se is None else self.se(y)
        return self.relu(y if shortcut is None else y + shortcut)


class PreActBlock(nn.Module):
    """bn, relu, conv, bn, relu, conv, attention if asked for; a projection starts behind the first bn and relu."""

    def __init__(self, inp, out, stride, kind, attention=None, dropout=0.0):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = conv3x3(inp, out, stride)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = conv3x3(out, out)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.se = attention_layer(attention, out)
        self.shortcut = None if stride == 1 and inp == out else conv1x1(inp, out, stride)

    def forward(self, x):
        """branch(x) + shortcut, nothing behind the addition."""
        y = self.relu(self.bn1(x))
        x = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(self.drop(self.relu(self.bn2(self.conv1(y)))))
        return (y if self.se is None else self.se(y)) + x


class ResNetCifar(ImageModel):
    """Stem 3x3, stages of blocks that halve the image from the second on, mean over the image, one Linear.

    Args: depths: blocks per stage. widths: channels per stage. shortcut: "A", "B" or "none" (CifarBlock
    only). zero_init_last: start the branches of CifarBlocks at zero (Goyal et al. 2017). stem: channels of the first
    convolution, widths[0] by default. dropout: between the convolutions of a block. attention: "se", "eca", "cbam" or
    "nonlocal" at the end of each branch, or None. checkpoint: 0, or while training only the results of every so many
    blocks are kept for backward, which computes what lies between again (fc.checkpoint): about the root of the depth of
    a stage needs the least memory (14 of the 200 blocks of resnet1202).
    """

    def __init__(
        self, depths, widths=(16, 32, 64), num_classes=10, in_channels=3, block=CifarBlock, shortcut="A",
        zero_init_last=False, stem=None, dropout=0.0, attention=None, checkpoint=0,
    ):  # fmt: skip
        super().__init__()
        if checkpoint < 0:
            raise ValueError(f"ResNetCifar: expected checkpoint >= 0, got {checkpoint}")
        self.checkpoint = checkpoint
        preact = block is PreActBlock
        inp, stages = widths[0] if stem is None else stem, []
        self.conv1 = conv3x3(in_channels, inp)
        self.bn1 = nn.Identity() if preact else nn.BatchNorm2d(inp)
        self.relu = nn.ReLU()
        for i, (n, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(n):
                blocks.append(block(inp, width, 2 if i and not j else 1, shortcut, attention, dropout))
                inp = width
            stages.append(f"layer{i + 1}")
            setattr(self, stages[-1], nn.Sequential(*blocks))
        self._stages = stages
        self.bn = nn.BatchNorm2d(inp) if preact else nn.Identity()
        self.avgpool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.fc = head_layer(inp, num_classes)
        self._preact = preact
        conv_bn_weights_(self)
        if zero_init_last:
            if preact or shortcut == "none":
                kind = "a pre-activation net, whose branches end in a convolution" if preact else "a plain net"
                raise ValueError(f"ResNetCifar: zero_init_last needs a batch norm before the addition, got {kind}")
            for m in self.modules():
                if isinstance(m, CifarBlock):
                    nn.init.zeros_(m.bn2.weight)

    def _stage(self, blocks, x):
        if not (self.checkpoint and self.training):
            return blocks(x)
        blocks = list(blocks)
        for i in range(0, len(blocks), self.checkpoint):
            piece = blocks[i : i + self.checkpoint]
            x = recompute(lambda y, piece=piece: reduce(lambda z, block: block(z), piece, y), x)
        return x

    def forward(self, x):
        """Logits (N, num_classes)."""
        x = self.conv1(x)
        if not self._preact:
            x = self.relu(self.bn1(x))
        for stage in self._stages:
            x = self._stage(getattr(self, stage), x)
        if self._preact:
            x = self.relu(self.bn(x))
        return self.fc(self.flatten(self.avgpool(x)))


def _by_depth(depth, **options):
    return dict(depths=((depth - 2) // 6,) * 3, **options)


TABLE = {f"resnet{d}": _by_depth(d) for d in (8, 14, 20, 32, 44, 56, 110, 1202)}
TABLE |= {f"plain{d}": _by_depth(d, shortcut="none") for d in (20, 32, 44, 56, 110)}
TABLE |= {f"preact_resnet{d}": _by_depth(d, block=PreActBlock) for d in (20, 32, 44, 56, 110, 164)}
TABLE |= {
    "preact_resnet18": dict(depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), block=PreActBlock),
    "preact_resnet34": dict(depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), block=PreActBlock),
}
TABLE["wrn_28_10"] = dict(depths=(4, 4, 4), widths=(160, 320, 640), stem=16, block=PreActBlock)
DOC = "{name} for images of about 32 pixels; options: see ResNetCifar."
register_table(globals(), ResNetCifar, TABLE, DOC, num_classes=10, image_size=32)
