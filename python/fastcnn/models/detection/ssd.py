"""SSD (Liu et al. 2016): default boxes on feature maps of falling size, softmax over classes, multibox loss."""

from __future__ import annotations

import numpy as np

from ... import nn
from ..._core import constant, float32, ops
from ...nn import init
from .base import Detector, as_tensors, per_anchor
from .boxes import BoxCoder, SSDMatcher


class PerMapHead(nn.Module):
    """One predictor per feature map, its outputs joined: [(N, C, H, W)] -> (N, anchors, columns)."""

    def __init__(self, predictors, columns):
        super().__init__()
        self.module_list, self.columns = nn.ModuleList(predictors), columns

    def forward(self, maps):
        """See the class."""
        return ops.cat([per_anchor(m(x), self.columns) for m, x in zip(self.module_list, maps, strict=True)], 1)


def xavier_(module):
    """Xavier weights and zero biases of all convolutions in module."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            init.xavier_uniform_(m.weight)
            if m.bias is not None:
                init.zeros_(m.bias)


class SSDHead(nn.Module):
    """Classes and boxes by one 3x3 convolution per feature map.

    Args: channels, anchors: per feature map. num_classes: with the background.
    """

    def __init__(self, channels, anchors, num_classes):
        super().__init__()
        self.classification_head = PerMapHead(self._predictors(channels, anchors, num_classes), num_classes)
        self.regression_head = PerMapHead(self._predictors(channels, anchors, 4), 4)
        self._first_weights()

    def _predictors(self, channels, anchors, columns):
        return [nn.Conv2d(c, a * columns, 3, padding=1) for c, a in zip(channels, anchors, strict=True)]

    def _first_weights(self):
        xavier_(self)

    def forward(self, maps):
        """{"cls_logits", "bbox_regression"}."""
        return {"cls_logits": self.classification_head(maps), "bbox_regression": self.regression_head(maps)}


def hardest(losses, counts, steps=40):
    """1 where a loss is among the counts highest of its row, else 0, by bisection of the bar: a sort that compiles.

    losses: (N, A), not negative; counts: (N, 1). Rows with fewer than counts losses above 0 take those.
    """
    places = np.arange(losses.shape[1], dtype=np.float32) / losses.shape[1]
    losses = losses * (1 - 1e-4 * constant(places, losses.device))  # equal losses: the first
    high, low = ops.amax(losses, 1, keepdim=True), ops.zeros_like(counts)
    for _ in range(steps):
        middle = (low + high) * 0.5
        many = ops.sum((losses > middle).to(float32), 1, keepdim=True) > counts
        low, high = ops.where(many, middle, low), ops.where(many, high, middle)
    return (losses > high).to(float32)


class SSD(Detector):
    """Backbone with several feature maps, a head, default boxes. Options: see Detector.

    Args: backbone: gives [feature maps]. head: see SSDHead. iou_thresh: of anchors that stand for an object.
    negatives: background anchors in the loss for each that stands for an object, those with the highest loss.
    box_loss: "smooth_l1" of offsets, or "giou" of boxes.
    """

    def __init__(
        self, backbone, head, anchor_generator, num_classes, iou_thresh=0.5, negatives=3.0, box_loss="smooth_l1",
        score_thresh=0.01, nms_thresh=0.45, detections_per_img=200, topk_candidates=400, **options,
    ):  # fmt: skip
        if box_loss not in ("smooth_l1", "giou"):
            raise ValueError(f"SSD: expected box_loss 'smooth_l1' or 'giou', got {box_loss!r}")
        super().__init__(
            num_classes, anchor_generator, BoxCoder((10.0, 10.0, 5.0, 5.0)), SSDMatcher(iou_thresh),
            score_thresh=score_thresh, nms_thresh=nms_thresh, detections_per_img=detections_per_img,
            topk_candidates=topk_candidates, **options,
        )  # fmt: skip
        self.backbone, self.head, self.negatives, self.box_loss = backbone, head, negatives, box_loss

    def features(self, x):
        """[feature maps] of normalised images."""
        return self.backbone(x)

    def loss(self, outputs, targets, image_size):
        """Multibox loss over the number of matched anchors: cross entropy with hard negatives, and box_loss."""
        targets = as_tensors(targets)
        logits, labels = outputs["cls_logits"].to(float32), targets["labels"]
        n, places, classes = logits.shape
        there = labels >= 0
        positive = there.to(float32)
        ids = ops.where(there, labels, ops.zeros_like(labels))
        each = ops.cross_entropy(logits.reshape(n * places, classes), ids.reshape(n * places), reduction="none")
        each = each.reshape(n, places)
        counts = ops.sum(positive, 1, keepdim=True) * self.negatives
        negative = hardest(each.detach() * (1 - positive), counts)
        anchors, codes = constant(self.anchors(image_size), logits.device), outputs["bbox_regression"].to(float32)
        if self.box_loss == "giou":
            distance = ops.giou_loss(self.box_coder.decode(codes, anchors), targets["boxes"], reduction="none")
        else:
            wanted = self.box_coder.encode(targets["boxes"], anchors)
            distance = ops.sum(ops.smooth_l1_loss(codes, wanted, reduction="none"), 2)
        total = ops.clamp(ops.sum(positive), min=1)
        return {
            "classification": ops.sum(each * (positive + negative)) / total,
            "bbox_regression": ops.sum(distance * positive) / total,
        }

    def _scores(self, logits):
        return ops.softmax(logits, 2)

    def _candidates(self, scores, image_size):
        found = [self.best(scores[:, label]) for label in range(1, self.num_classes)]
        labels = np.repeat(np.arange(1, self.num_classes), [len(f) for f in found])
        return np.concatenate(found), labels
