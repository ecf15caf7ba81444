"""ResNets for video (Tran et al. 2018): R3D-18, MC3-18 and R(2+1)D-18. Keys of state_dict are torchvision's.

Clips are volumes (N, channels, frames, H, W), usually 16 frames of 112x112.
"""

from __future__ import annotations

from .. import nn
from .blocks import head_layer, linear_weights_
from .registry import register_table


def _whole(inp, out, stride, inner):
    """3x3x3 convolution."""
    return nn.Conv3d(inp, out, 3, stride, 1, bias=False)


def _frame(inp, out, stride, inner):
    """3x3 convolution of each frame, which keeps their number."""
    return nn.Conv3d(inp, out, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)


def _split(inp, out, stride, inner):
    """3x3 of each frame to as many channels as make up the weights of 3x3x3, then 3 along time."""
    return nn.Sequential(
        _frame(inp, inner, stride, inner),
        nn.BatchNorm3d(inner),
        nn.ReLU(),
        nn.Conv3d(inner, out, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


_CONVS = {"whole": _whole, "frame": _frame, "split": _split}


class VideoBlock(nn.Module):
    """Two convolutions of one kind and a shortcut."""

    def __init__(self, inp, width, stride, kind):
        super().__init__()
        conv, inner = _CONVS[kind], inp * width * 27 // (inp * 9 + 3 * width)
        self.conv1 = nn.Sequential(conv(inp, width, stride, inner), nn.BatchNorm3d(width), nn.ReLU())
        self.conv2 = nn.Sequential(conv(width, width, 1, inner), nn.BatchNorm3d(width))
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or inp != width:
            steps = (1 if kind == "frame" else stride, stride, stride)
            self.downsample = nn.Sequential(nn.Conv3d(inp, width, 1, steps, bias=False), nn.BatchNorm3d(width))

    def forward(self, x):
        """relu(branch(x) + shortcut(x))."""
        return self.relu(self.conv2(self.conv1(x)) + (x if self.downsample is None else self.downsample(x)))


class VideoResNet(nn.Module):
    """Stem, four stages of two blocks, mean over clip and frames, one Linear. x: clips (N, in_channels, D, H, W).

    Args: kinds: of the convolutions in each stage: whole (3x3x3), frame (3x3 of each frame) or split (3x3 of each
    frame, then 3 along time), which the stem takes too if the first stage does.
    """

    def __init__(self, kinds, num_classes=400, in_channels=3):
        super().__init__()
        self.in_channels = in_channels
        if kinds[0] == "split":
            self.stem = nn.Sequential(
                nn.Conv3d(in_channels, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                nn.BatchNorm3d(45),
                nn.ReLU(),
                nn.Conv3d(45, 64, (3, 1, 1), 1, (1, 0, 0), bias=False),
                nn.BatchNorm3d(64),
                nn.ReLU(),
            )
        else:
            conv = nn.Conv3d(in_channels, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
            self.stem = nn.Sequential(conv, nn.BatchNorm3d(64), nn.ReLU())
        inp = 64
        for i, kind in enumerate(kinds):
            width = 64 * 2**i
            blocks = [VideoBlock(inp, width, 2 if i else 1, kind), VideoBlock(width, width, 1, kind)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inp = width
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.flatten = nn.Flatten()
        self.fc = head_layer(inp, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv3d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        linear_weights_(self)

    def forward(self, x):
        """Logits (N, num_classes)."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"VideoResNet: expected clips (N, {self.in_channels}, frames, H, W), got {tuple(x.shape)}")
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.flatten(self.avgpool(x)))


register_table(
    globals(),
    VideoResNet,
    {
        "r3d_18": {"kinds": ("whole",) * 4},
        "mc3_18": {"kinds": ("whole", "frame", "frame", "frame")},
        "r2plus1d_18": {"kinds": ("split",) * 4},
    },
    "{name} for video: VideoResNet with its kinds of convolutions.",
    num_classes=400,
    image_size=112,
    task="video",
)
