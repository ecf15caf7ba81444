"""SSD300 on VGG-16 (Liu et al. 2016) and SSDLite320 on MobileNetV3 (Howard et al. 2019); keys are torchvision's."""

from __future__ import annotations

import re
from functools import partial

from ... import nn
from ..._core import ops
from ...nn import init
from ..blocks import ConvNormAct, conv_bn_weights_
from ..mobilenet_v3 import LARGE, MobileNetV3
from ..pretrained import Backbone
from ..registry import register
from ..vgg import DEPTHS, vgg_features
from .anchors import DefaultBoxGenerator
from .base import per_channel
from .ssd import SSD, SSDHead, xavier_


class SSDExtractorVGG(nn.Module):
    """Six feature maps: conv4_3 with its channels scaled to one length, fc7 as dilated convolutions, four extras."""

    channels = (512, 1024, 512, 256, 256, 256)
    holds_stages = True  # for optim.param_groups

    def __init__(self, in_channels=3):
        super().__init__()
        layers = vgg_features(DEPTHS["vgg16"], False, in_channels)
        pools = [i for i, m in enumerate(layers) if isinstance(m, nn.MaxPool2d)]
        layers[pools[2]] = nn.MaxPool2d(2, 2, ceil_mode=True)  # 75 pixels to the 38 of the paper
        self.scale_weight = nn.Parameter(ops.full((512,), 20.0))
        self.features = nn.Sequential(*layers[: pools[3]])
        fc = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(),
            nn.Conv2d(1024, 1024, 1), nn.ReLU(),
        )  # fmt: skip
        extra = [
            self._extra(1024, 256, stride=2, padding=1), self._extra(512, 128, stride=2, padding=1),
            self._extra(256, 128), self._extra(256, 128),
        ]  # fmt: skip
        self.extra = nn.ModuleList([nn.Sequential(*layers[pools[3] : -1], fc), *extra])
        conv_bn_weights_(self)
        for part in (fc, *extra):
            xavier_(part)

    @staticmethod
    def _extra(inp, inner, **options):
        return nn.Sequential(nn.Conv2d(inp, inner, 1), nn.ReLU(), nn.Conv2d(inner, 2 * inner, 3, **options), nn.ReLU())

    def forward(self, x):
        """(N, in_channels, H, W) -> [six feature maps]."""
        x = self.features(x)
        length = ops.clamp(ops.norm(x, 2, 1, keepdim=True), min=1e-12)
        maps = [self.scale_weight.reshape(1, -1, 1, 1) * (x / length)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


def _normal_(module):
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            init.normal_(m.weight, 0.0, 0.03)
            if m.bias is not None:
                init.zeros_(m.bias)


_lite = partial(ConvNormAct, act=nn.ReLU6, eps=1e-3, momentum=0.03)


class SSDLiteHead(SSDHead):
    """SSDHead whose predictors are a depthwise 3x3 and a 1x1 convolution."""

    def _predictors(self, channels, anchors, columns):
        return [
            nn.Sequential(_lite(c, c, 3, 1, c), nn.Conv2d(c, a * columns, 1))
            for c, a in zip(channels, anchors, strict=True)
        ]

    def _first_weights(self):
        _normal_(self)


class SSDLiteExtractor(nn.Module):
    """Six feature maps: the expansion of MobileNetV3's last strided block, its end, four extras. The last three rows of
    the net have half the channels ("reduced tail")."""

    channels = (672, 480, 512, 256, 256, 128)
    holds_stages = True

    def __init__(self, in_channels=3):
        super().__init__()
        rows = [(k, e if e == 672 else e // 2, o // 2, *rest) for k, e, o, *rest in LARGE[-3:]]
        blocks = list(MobileNetV3([*LARGE[:-3], *rows], 16, 0, in_channels).features)
        at = len(blocks) - 4
        strided = list(blocks[at].block.named_children())
        self.features = nn.Sequential(
            nn.Sequential(*blocks[:at], strided[0][1]),
            nn.Sequential(nn.Sequential(dict(strided[1:])), *blocks[at + 1 :]),
        )
        widths = self.channels[1:]
        self.extra = nn.ModuleList([self._extra(a, b) for a, b in zip(widths, widths[1:], strict=False)])
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.03
        _normal_(self)

    @staticmethod
    def _extra(inp, out):
        inner = out // 2
        return nn.Sequential(_lite(inp, inner, 1), _lite(inner, inner, 3, 2, inner), _lite(inner, out, 1))

    def forward(self, x):
        """(N, in_channels, H, W) -> [six feature maps]."""
        maps = []
        for block in (*self.features, *self.extra):
            x = block(x)
            maps.append(x)
        return maps


def _from_vgg(key):
    """pretrained.Backbone.rename for SSDExtractorVGG, whose last convolutions stand among the extras."""
    part, _, rest = key.partition(".")
    number, _, tensor = rest.partition(".")
    if part != "features" or not number.isdigit():
        return None if part == "classifier" else key
    number, split = int(number), 23  # the fourth pool
    at = f"features.{number}" if number < split else f"extra.0.{number - split}"
    return f"backbone.{at}.{tensor}"


def _from_mobilenet(key):
    """pretrained.Backbone.rename for SSDLiteExtractor, which is split in the last strided block, the 14th entry."""
    found = re.fullmatch(r"features\.(\d+)\.(?:block\.(\d+)\.)?(.+)", key)
    if found is None:
        return None if key.startswith("classifier.") else key
    number, split = int(found[1]), 13
    if number < split:
        return f"backbone.features.0.{number}.{key.split('.', 2)[2]}"
    if number > split:
        return f"backbone.features.1.{number - split}.{key.split('.', 2)[2]}"
    at = f"features.0.{split}" if found[2] == "0" else f"features.1.0.{found[2]}"
    return f"backbone.{at}.{found[3]}"


VGG, MOBILENET = (
    Backbone("vgg16", _from_vgg, "backbone.features."),
    # Its last rows are half as wide here.
    Backbone("mobilenet_v3_large", _from_mobilenet, "backbone.features.0."),
)
HEADS = tuple(f"head.classification_head.module_list.{i}" for i in range(6))


@register(head=HEADS, image_size=300, backbone=VGG, task="detection")
def ssd300_vgg16(num_classes=91, in_channels=3, **options):
    """SSD on VGG-16 for images of 300 pixels; num_classes with the background. Options: see SSD."""
    boxes = DefaultBoxGenerator(
        [(2,), (2, 3), (2, 3), (2, 3), (2,), (2,)],
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        steps=(8, 16, 32, 64, 100, 300),
    )
    backbone = SSDExtractorVGG(in_channels)
    options = {
        "size": (300, 300), "image_mean": per_channel((0.48235, 0.45882, 0.40784), in_channels),
        "image_std": (1 / 255,), **options,
    }  # fmt: skip
    head = SSDHead(backbone.channels, boxes.num_anchors_per_location(), num_classes)
    return SSD(backbone, head, boxes, num_classes, **options)


@register(head=tuple(f"{part}.1" for part in HEADS), image_size=320, backbone=MOBILENET, task="detection")
def ssdlite320_mobilenet_v3(num_classes=91, in_channels=3, **options):
    """SSDLite on MobileNetV3-large for images of 320 pixels; num_classes with the background. Options: see SSD."""
    boxes = DefaultBoxGenerator([(2, 3)] * 6, min_ratio=0.2, max_ratio=0.95)
    backbone = SSDLiteExtractor(in_channels)
    options = {
        "size": (320, 320), "image_mean": (0.5,), "image_std": (0.5,), "score_thresh": 0.001, "nms_thresh": 0.55,
        "detections_per_img": 300, "topk_candidates": 300, **options,
    }  # fmt: skip
    head = SSDLiteHead(backbone.channels, boxes.num_anchors_per_location(), num_classes)
    return SSD(backbone, head, boxes, num_classes, **options)
