"""Segmentation: FCN (Long et al. 2015) and DeepLabV3 (Chen et al. 2017) on ResNet-50; keys are torchvision's.

The backbone keeps stride 8: its last two stages are dilated instead of strided. U-Net is in unet.py.
"""

from __future__ import annotations

from .. import nn
from .._core import ops
from .blocks import ImageModel
from .pretrained import Backbone
from .registry import register
from .resnet import Bottleneck, ResNet

DROPPED = ("avgpool", "flatten", "fc")  # of a ResNet: what comes behind its last feature map


def _conv_bn_relu(inp, out, kernel=1, dilation=1):
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inp, out, kernel, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]


def fcn_head(inp, num_classes):
    """3x3 convolution to a quarter of the channels, dropout, 1x1 convolution to the classes."""
    inner = inp // 4
    return nn.Sequential(*_conv_bn_relu(inp, inner, 3), nn.Dropout(0.1), nn.Conv2d(inner, num_classes, 1))


class ImagePool(nn.Sequential):
    """The mean over the image through a 1x1 convolution, spread over the image again."""

    def __init__(self, inp, out):
        super().__init__(nn.AdaptiveAvgPool2d((1, 1)), *_conv_bn_relu(inp, out))

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H, W)."""
        y = super().forward(x)
        return y.expand(y.shape[0], y.shape[1], x.shape[2], x.shape[3])


class ASPP(nn.Module):
    """1x1, dilated 3x3 convolutions and the mean over the image, side by side, joined by a 1x1 convolution."""

    def __init__(self, inp, rates, out=256):
        super().__init__()
        dilated = [nn.Sequential(*_conv_bn_relu(inp, out, 3, rate)) for rate in rates]
        self.convs = nn.ModuleList([nn.Sequential(*_conv_bn_relu(inp, out)), *dilated, ImagePool(inp, out)])
        self.project = nn.Sequential(*_conv_bn_relu(len(self.convs) * out, out), nn.Dropout(0.5))

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H, W)."""
        return self.project(ops.cat([conv(x) for conv in self.convs], 1))


def deeplab_head(inp, num_classes):
    """ASPP with rates 12, 24, 36, a 3x3 convolution, 1x1 convolution to the classes."""
    return nn.Sequential(ASPP(inp, (12, 24, 36)), *_conv_bn_relu(256, 256, 3), nn.Conv2d(256, num_classes, 1))


class SegmentationModel(ImageModel):
    """A dilated ResNet-50, a head, and bilinear resizing to the size of the images. x: (N, in_channels, H, W).

    Logits are (N, num_classes, H, W). With aux_loss=True the result is {"out": logits, "aux": logits of a second head
    on layer3}, which training weighs with 0.4 or 0.5.
    """

    optional_parts = ("aux_classifier",)

    def __init__(self, head, num_classes=21, in_channels=3, aux_loss=False):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"{type(self).__name__}: expected num_classes >= 1, got {num_classes}")
        net = ResNet(Bottleneck, (3, 4, 6, 3), 0, in_channels, dilated=(False, True, True))
        self.backbone = nn.Sequential({name: m for name, m in net.named_children() if name not in DROPPED})
        self.classifier = head(2048, num_classes)
        self.aux_classifier = fcn_head(1024, num_classes) if aux_loss else None

    def forward(self, x):
        """Logits of each pixel, or a dict of them; see the class."""
        size, y, third = tuple(x.shape[2:]), x, None
        for name, stage in self.backbone.named_children():
            y = stage(y)
            third = y if name == "layer3" else third
        out = ops.interpolate(self.classifier(y), size=size, mode="bilinear")
        if self.aux_classifier is None:
            return out
        return {"out": out, "aux": ops.interpolate(self.aux_classifier(third), size=size, mode="bilinear")}


HEADS = ("classifier.4", "aux_classifier.4")


def resnet50_backbone(prefix):
    """The Backbone of a model that has a ResNet-50 without its last layers under that name."""
    return Backbone("resnet50", lambda key: None if key.startswith(DROPPED) else prefix + key, prefix)


BACKBONE = resnet50_backbone("backbone.")


@register(head=HEADS, image_size=520, backbone=BACKBONE, task="segmentation")
def fcn_resnet50(num_classes=21, in_channels=3, **options):
    """FCN on ResNet-50; options: see SegmentationModel."""
    return SegmentationModel(fcn_head, num_classes, in_channels, **options)


@register(head=HEADS, image_size=520, backbone=BACKBONE, task="segmentation")
def deeplabv3_resnet50(num_classes=21, in_channels=3, **options):
    """DeepLabV3 on ResNet-50; options: see SegmentationModel."""
    return SegmentationModel(deeplab_head, num_classes, in_channels, **options)
