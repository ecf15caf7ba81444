"""RetinaNet (Lin et al. 2017): a feature pyramid, two towers of convolutions shared by its maps, focal loss.

Keys of retinanet_resnet50_fpn are torchvision's.
"""

from __future__ import annotations

import math
import re

import numpy as np

from ... import nn
from ..._core import constant, float32, ops
from ...nn import init
from ..blocks import ConvNormAct
from ..registry import register
from ..resnet import Bottleneck, ResNet
from ..segmentation import DROPPED, resnet50_backbone
from .anchors import AnchorGenerator
from .base import Detector, as_tensors, per_anchor, per_channel
from .boxes import BoxCoder, Matcher
from .pyramid import BackboneWithFPN, LastLevelP6P7, SmallBody

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tower(nn.Module):
    """3x3 convolutions with ReLU, with batch norm or bias, then one to the outputs; the same for each feature map."""

    def __init__(self, name, channels, anchors, columns, depth=4, norm=False, bias=0.0):
        super().__init__()
        if norm:
            layers = [ConvNormAct(channels, channels) for _ in range(depth)]
        else:
            layers = [nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(depth)]
        self.conv = nn.Sequential(*layers)
        last = nn.Conv2d(channels, anchors * columns, 3, padding=1)
        setattr(self, name, last)
        for m in self.modules():
            if isinstance(m, nn.Conv2d) and (m is last or not norm):
                init.normal_(m.weight, 0.0, 0.01)
                init.constant_(m.bias, bias if m is last else 0.0)
        self.last, self.columns = name, columns

    def forward(self, maps):
        """[(N, channels, H, W)] -> (N, anchors, columns)."""
        last = getattr(self, self.last)
        return ops.cat([per_anchor(last(self.conv(x)), self.columns) for x in maps], 1)


class RetinaNetHead(nn.Module):
    """Classes and boxes. Args: channels: of the maps. anchors: per place. depth, norm: of the towers. prior: first
    probability of every class, by the bias."""

    def __init__(self, channels, anchors, num_classes, depth=4, norm=False, prior=0.01):
        super().__init__()
        bias = -math.log((1 - prior) / prior)
        self.classification_head = Tower("cls_logits", channels, anchors, num_classes, depth, norm, bias)
        self.regression_head = Tower("bbox_reg", channels, anchors, 4, depth, norm)

    def forward(self, maps):
        """{"cls_logits", "bbox_regression"}."""
        return {"cls_logits": self.classification_head(maps), "bbox_regression": self.regression_head(maps)}


class RetinaNet(Detector):
    """Backbone with a pyramid, a head, anchors. Options: see Detector.

    Args: backbone: gives [feature maps]. head: see RetinaNetHead. fg_iou_thresh, bg_iou_thresh: anchors stand for an
    object from the first on and for the background below the second; others have no part in the loss. box_loss: "l1" of
    offsets, or "giou" of boxes. alpha, gamma: of the focal loss.
    """

    def __init__(
        self, backbone, head, anchor_generator, num_classes, fg_iou_thresh=0.5, bg_iou_thresh=0.4, box_loss="l1",
        alpha=0.25, gamma=2.0, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD, **options,
    ):  # fmt: skip
        if box_loss not in ("l1", "giou"):
            raise ValueError(f"RetinaNet: expected box_loss 'l1' or 'giou', got {box_loss!r}")
        super().__init__(
            num_classes, anchor_generator, BoxCoder(), Matcher(fg_iou_thresh, bg_iou_thresh, True),
            image_mean=image_mean, image_std=image_std, **options,
        )  # fmt: skip
        self.backbone, self.head = backbone, head
        self.box_loss, self.alpha, self.gamma = box_loss, alpha, gamma

    def features(self, x):
        """[feature maps] of normalised images."""
        return self.backbone(x)

    def loss(self, outputs, targets, image_size):
        """Focal loss and loss of boxes, each over the matched anchors of an image, mean over images; 0 of no images."""
        logits, codes = outputs["cls_logits"].to(float32), outputs["bbox_regression"].to(float32)
        targets = as_tensors(targets)
        labels, anchors = targets["labels"], constant(self.anchors(image_size), logits.device)
        positive, counted = (labels >= 0).to(float32), (labels >= -1).to(float32)
        classes = ops.arange(self.num_classes, device=logits.device)
        wanted = (labels.unsqueeze(2) == classes).to(float32)
        each = ops.focal_loss(logits, wanted, self.alpha, self.gamma, reduction="none")
        if self.box_loss == "l1":
            distance = ops.sum(ops.abs(codes - self.box_coder.encode(targets["boxes"], anchors)), 2)
        else:
            distance = ops.giou_loss(self.box_coder.decode(codes, anchors), targets["boxes"], reduction="none")
        total = ops.clamp(ops.sum(positive, 1), min=1)
        total = total * ops.clamp(ops.sum(ops.ones_like(total)), min=1)  # times images, which are a plan's to count
        return {
            "classification": ops.sum(ops.sum(ops.sum(each, 2) * counted, 1) / total),
            "bbox_regression": ops.sum(ops.sum(distance * positive, 1) / total),
        }

    def _scores(self, logits):
        return ops.sigmoid(logits)

    def _candidates(self, scores, image_size):
        found, first = [], 0
        per_place = self.anchor_generator.num_anchors_per_location()
        for (h, w), anchors in zip(self.grids(image_size), per_place, strict=True):
            size = h * w * anchors
            found.append(self.best(scores[first : first + size].reshape(-1)) + first * self.num_classes)
            first += size
        places = np.concatenate(found)
        return places // self.num_classes, places % self.num_classes


_OLD_PYRAMID = re.compile(r"((?:inner|layer)_blocks\.\d)\.(weight|bias)$")
_OLD_TOWER = re.compile(r"(_head\.conv)\.(\d)\.(weight|bias)$")


def from_old_torchvision(state):
    """See registry.register: for files from before torchvision 0.13, its published COCO weights among them.

    Single convolutions of the pyramid and the towers have a name more now; those weights are of norms with eps 0.
    """

    def renamed(key):
        key = _OLD_PYRAMID.sub(r"\1.0.\2", key)
        return _OLD_TOWER.sub(lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}", key)

    new = {renamed(key): value for key, value in state.items()}
    if new.keys() == state.keys():
        return state, {}, None
    return new, {"norm_eps": 0.0}, "keys of torchvision's old files renamed; built with norm_eps=0"


@register(
    head="head.classification_head.cls_logits", image_size=800, convert=from_old_torchvision,
    backbone=resnet50_backbone("backbone.body."), task="detection",
)  # fmt: skip
def retinanet_resnet50_fpn(num_classes=91, in_channels=3, norm_eps=1e-5, **options):
    """RetinaNet on ResNet-50 with a pyramid; num_classes with the background. Options: see RetinaNet.

    norm_eps: of the backbone's batch norms.
    """
    net = ResNet(Bottleneck, (3, 4, 6, 3), 0, in_channels)
    body = nn.Sequential({name: m for name, m in net.named_children() if name not in DROPPED})
    for m in body.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = norm_eps
    backbone = BackboneWithFPN(body, ("layer2", "layer3", "layer4"), (512, 1024, 2048), 256, LastLevelP6P7(256))
    sizes = [(s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512)]
    anchors = AnchorGenerator(sizes)
    head = RetinaNetHead(256, anchors.num_anchors_per_location()[0], num_classes)
    options = {
        "image_mean": per_channel(IMAGENET_MEAN, in_channels), "image_std": per_channel(IMAGENET_STD, in_channels),
        **options,
    }  # fmt: skip
    return RetinaNet(backbone, head, anchors, num_classes, **options)


@register(head="head.classification_head.cls_logits", image_size=128, task="detection")
def retinanet_small(num_classes=11, in_channels=3, channels=64, sizes=((20,), (36,), (64,)), **options):
    """RetinaNet for images of about 128 pixels and training on a few CPU cores; num_classes with the background.

    SmallBody, maps at strides 8, 16 and 32, towers of two convolutions with batch norm, GIoU. channels: of the pyramid.
    sizes: see AnchorGenerator. Options: see RetinaNet.
    """
    body = SmallBody(in_channels)
    backbone = BackboneWithFPN(body, ("layer2", "layer3", "layer4"), body.widths[1:], channels)
    anchors = AnchorGenerator(sizes)
    head = RetinaNetHead(channels, anchors.num_anchors_per_location()[0], num_classes, depth=2, norm=True)
    options = {
        "box_loss": "giou", "image_mean": (0.45,), "image_std": (0.25,), "min_size": 128, "max_size": 1333, **options,
    }  # fmt: skip
    return RetinaNet(backbone, head, anchors, num_classes, **options)
