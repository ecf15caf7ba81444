"""ShuffleNet V2 (Ma et al. 2018), x0.5 to x2.0; keys of state_dict are torchvision's."""

from __future__ import annotations

from .. import nn
from .._core import ops
from .blocks import ConvNormAct, ImageModel, head_layer
from .registry import register_table

BLOCKS = (4, 8, 4)  # of stage2, stage3, stage4


def _depthwise(channels, stride):
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


def _pointwise(inp, out):
    return [nn.Conv2d(inp, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class InvertedResidual(nn.Module):
    """Half of the channels pass by, or at stride 2 all go through both branches; then the halves are shuffled."""

    def __init__(self, inp, out, stride):
        super().__init__()
        half = out // 2
        self.stride = stride
        self.branch1 = nn.Sequential(*(_depthwise(inp, stride) + _pointwise(inp, half) if stride > 1 else []))
        start = inp if stride > 1 else half
        self.branch2 = nn.Sequential(*_pointwise(start, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H / stride, W / stride)."""
        if self.stride == 1:
            kept, x = ops.split(x, x.shape[1] // 2, 1)
        else:
            kept = self.branch1(x)
        return ops.channel_shuffle(ops.cat([kept, self.branch2(x)], 1), 2)


class ShuffleNetV2(ImageModel):
    """Stem 3x3/2, max pool, three stages, 1x1 convolution, mean over the image, one Linear. x: (N, in_channels, H, W).

    Args: widths: channels of the three stages and of the last convolution.
    """

    def __init__(self, widths, num_classes=1000, in_channels=3):
        super().__init__()
        inp = 24
        self.conv1 = ConvNormAct(in_channels, inp, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (n, out) in enumerate(zip(BLOCKS, widths[:3], strict=True)):
            blocks = [InvertedResidual(inp, out, 2)] + [InvertedResidual(out, out, 1) for _ in range(n - 1)]
            setattr(self, f"stage{i + 2}", nn.Sequential(*blocks))
            inp = out
        self.conv5 = ConvNormAct(inp, widths[3], 1)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.fc = head_layer(widths[3], num_classes)

    def forward(self, x):
        """Logits (N, num_classes)."""
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return self.fc(self.flatten(self.avgpool(self.conv5(x))))


TABLE = {
    "shufflenet_v2_x0_5": dict(widths=(48, 96, 192, 1024)),
    "shufflenet_v2_x1_0": dict(widths=(116, 232, 464, 1024)),
    "shufflenet_v2_x1_5": dict(widths=(176, 352, 704, 1024)),
    "shufflenet_v2_x2_0": dict(widths=(244, 488, 976, 2048)),
}
register_table(globals(), ShuffleNetV2, TABLE, "{name}; options: see ShuffleNetV2.")
