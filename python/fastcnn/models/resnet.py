"""ResNet (He et al. 2015), ResNeXt (Xie et al. 2017), Wide ResNet (Zagoruyko and Komodakis 2016), and ResNets with
attention: SE (Hu et al. 2018), ECA (Wang et al. 2020), CBAM (Woo et al. 2018).

Keys of state_dict are torchvision's, with attention timm's. The stride of a bottleneck is in its 3x3 convolution
("v1.5").
"""

from __future__ import annotations

from .. import nn
from .blocks import ImageModel, attention_layer, conv_bn_weights_, head_layer
from .registry import register_table


def conv3x3(inp, out, stride=1, groups=1, dilation=1):
    """3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inp, out, 3, stride, dilation, dilation, groups, bias=False)


def conv1x1(inp, out, stride=1):
    """1x1 convolution without bias."""
    return nn.Conv2d(inp, out, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inp, width, stride=1, groups=1, base_width=64, attention=None, dilation=1):
        super().__init__()
        if groups != 1 or base_width != 64 or dilation != 1:
            raise ValueError(
                f"BasicBlock: expected groups=1, base_width=64, dilation=1, got {groups}, {base_width}, {dilation}"
            )
        self.conv1 = conv3x3(inp, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = attention_layer(attention, width)
        self.downsample = projection(inp, width, stride)

    @property
    def last_bn(self):
        """The batch norm before the addition."""
        return self.bn2

    def forward(self, x):
        """relu(branch(x) + shortcut(x))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = y if self.se is None else self.se(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, grouped), 1x1 convolutions with four times the width at the end, and a shortcut."""

    expansion = 4

    def __init__(self, inp, width, stride=1, groups=1, base_width=64, attention=None, dilation=1):
        super().__init__()
        out, inner = width * self.expansion, width * base_width // 64 * groups
        self.conv1 = conv1x1(inp, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups, dilation)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out)
        self.bn3 = nn.BatchNorm2d(out)
        self.se = attention_layer(attention, out)
        self.relu = nn.ReLU()
        self.downsample = projection(inp, out, stride)

    @property
    def last_bn(self):
        """The batch norm before the addition."""
        return self.bn3

    def forward(self, x):
        """relu(branch(x) + shortcut(x))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y = y if self.se is None else self.se(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def projection(inp, out, stride):
    """1x1 convolution and batch norm where the shape changes (option B), else None."""
    if stride == 1 and inp == out:
        return None
    return nn.Sequential(conv1x1(inp, out, stride), nn.BatchNorm2d(out))


class ResNet(ImageModel):
    """Stem 7x7/2 and pool, four stages of blocks, mean over the image, one Linear. x: (N, in_channels, H, W).

    Args: block: BasicBlock or Bottleneck. layers: blocks per stage. groups, base_width: of the 3x3
    convolutions. zero_init_last: start each branch at zero (Goyal et al. 2017). attention: "se", "eca", "cbam" or
    "nonlocal" at the end of each branch, or None. dilated: for layer2, layer3 and layer4, dilation in place of the
    stride.
    """

    def __init__(
        self, block, layers, num_classes=1000, in_channels=3, groups=1, base_width=64, zero_init_last=False,
        attention=None, dilated=(False, False, False),
    ):  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inp, dilation = 64, 1
        for i, n in enumerate(layers):
            width, blocks = 64 * 2**i, []
            before, dilate = dilation, i > 0 and dilated[i - 1]
            dilation *= 2 if dilate else 1
            for j in range(n):
                stride = 2 if i and not j and not dilate else 1
                spread = dilation if j else before  # the first block still sees the pixels of the stage before
                blocks.append(block(inp, width, stride, groups, base_width, attention, spread))
                inp = width * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.fc = head_layer(inp, num_classes)
        conv_bn_weights_(self)
        if zero_init_last:
            for m in self.modules():
                if isinstance(m, block):
                    nn.init.zeros_(m.last_bn.weight)

    def forward(self, x):
        """Logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


TABLE = {
    "resnet18": dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet101": dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet152": dict(block=Bottleneck, layers=(3, 8, 36, 3)),
    "resnext50_32x4d": dict(block=Bottleneck, layers=(3, 4, 6, 3), groups=32, base_width=4),
    "wide_resnet50_2": dict(block=Bottleneck, layers=(3, 4, 6, 3), base_width=128),
    "se_resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3), attention="se"),
    "eca_resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3), attention="eca"),
    "cbam_resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3), attention="cbam"),
}
register_table(globals(), ResNet, TABLE, "{name} for images of about 224 pixels; options: see ResNet.")
