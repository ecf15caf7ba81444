"""torchvision with its ops on boxes, for tests: where its C++ ops do not load, the same rules in plain PyTorch.

What it is not: tests.
"""

import sys

import torch
from fastcnn.bench.augment import import_torchvision


def greedy_nms(boxes, scores, iou_threshold):
    """torchvision.ops.nms by its definition: best first, what overlaps a kept box by more than the threshold goes."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(2)
    iou = overlap / (area[:, None] + area[None] - overlap)
    hits = (iou.double() > iou_threshold).numpy()
    kept = []
    for i in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if not hits[i, kept].any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def torchvision():
    """The module, with nms and roi_align that work."""
    tv = import_torchvision()
    if not tv.extension._has_ops() and tv.ops.nms is not greedy_nms:
        plain = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__

        def roi_align(x, boxes, size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
            return plain(x, boxes, spatial_scale, *size, sampling_ratio, aligned)

        tv.ops.nms = tv.ops.boxes.nms = greedy_nms
        tv.ops.roi_align = roi_align
    return tv
