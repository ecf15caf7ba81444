"""Detector: what SSD and RetinaNet share: anchors of an image size, targets per anchor, predictions of whole images.

A training step is one compiled plan: `encode` matches objects to anchors on the host, in the loader, so that targets
have one shape whatever the number of objects; `loss` is made of ops.
"""

from __future__ import annotations

import numpy as np

from ... import _modes
from ..._core import Tensor, constant, float32, from_numpy, ops, tensor, uint8
from ..blocks import ImageModel


def checked_objects(target, num_classes, image_size, where):
    """boxes and labels of an image (H, W) as float32 (M, 4) and int64 (M,). Raises: ValueError, TypeError."""
    if not isinstance(target, dict):
        raise TypeError(
            f'{where}: expected {{"boxes": (M, 4), "labels": (M,)}}, got a {type(target).__name__}; '
            "fc.data.CocoDetection makes those of COCO's annotations"
        )
    absent = [key for key in ("boxes", "labels") if key not in target]
    if absent:
        raise ValueError(f"{where}: expected boxes and labels, got no {absent[0]!r} among {list(map(str, target))}")
    boxes, labels = np.asarray(target["boxes"], np.float32), np.asarray(target["labels"])
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: expected boxes of shape (M, 4), got {boxes.shape}")
    if labels.shape != (len(boxes),) or (len(boxes) and labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{where}: expected integer labels of shape ({len(boxes)},) for {len(boxes)} boxes, got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    bad = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    if bad.any():
        worst = boxes[bad.argmax()].tolist()
        raise ValueError(f"{where}: expected boxes x1 y1 x2 y2 with x1 < x2, y1 < y2, got {worst}")
    h, w = image_size
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= np.array([w, h]))).any(1)
    if outside.any():
        worst = boxes[outside.argmax()].tolist()
        raise ValueError(f"{where}: expected boxes that touch the image of {h}x{w} pixels, got {worst}")
    if len(labels) and not (0 < labels.min() and labels.max() < num_classes):
        raise ValueError(
            f"{where}: expected labels 1 to {num_classes - 1} (0 is the background), got {labels.min()} to "
            f"{labels.max()}"
        )
    return boxes, labels.astype(np.int64)


def as_tensors(targets):
    """What Detector.encode gave, or tensors of it, as tensors."""
    return {key: v if isinstance(v, Tensor) else tensor(np.asarray(v)) for key, v in targets.items()}


def per_channel(values, in_channels):
    """Statistics of RGB images for in_channels: their mean where the channels are others."""
    return values if in_channels == len(values) else (sum(values) / len(values),)


class Detector(ImageModel):
    """Base of detectors. Subclasses give features(x) -> [feature maps], head(maps), loss and _candidates.

    Its call takes images (N, C, H, W) of one size, uint8 or of 0 to 1, normalises them, and gives {"cls_logits":
    (N, anchors, num_classes), "bbox_regression": (N, anchors, 4)} in training and evaluation alike.

    Args: anchor_generator, box_coder, matcher: see anchors.py and boxes.py. image_mean, image_std: per channel.
    size: (H, W) that predict resizes to, or None. min_size, max_size: else predict scales the shorter side to
    min_size unless the longer one would be above max_size, and pads to whole size_divisible. score_thresh, nms_thresh,
    topk_candidates, detections_per_img: what predict keeps: scores above score_thresh, the best topk_candidates before
    suppression at nms_thresh, the best detections_per_img after it.
    """

    head_unit = "scores per place"  # what the last layers have as many of as outputs: anchors times classes

    def __init__(
        self, num_classes, anchor_generator, box_coder, matcher, *, image_mean, image_std, size=None, min_size=800,
        max_size=1333, size_divisible=32, score_thresh=0.05, nms_thresh=0.5, topk_candidates=1000,
        detections_per_img=300,
    ):  # fmt: skip
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"{type(self).__name__}: expected num_classes >= 2 with the background, got {num_classes}")
        self.num_classes, self.anchor_generator = num_classes, anchor_generator
        self.box_coder, self.matcher = box_coder, matcher
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        counts = {len(self.image_mean), len(self.image_std)}
        if 0 in counts or len(counts - {1}) > 1:
            raise ValueError(
                f"{type(self).__name__}: expected image_mean and image_std of one number, or one for each channel, "
                f"got {len(self.image_mean)} and {len(self.image_std)}"
            )
        self.size, self.shorter, self.longer, self.size_divisible = size, min_size, max_size, size_divisible
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.topk_candidates, self.detections_per_img = topk_candidates, detections_per_img
        self._grids = {}  # (H, W) of images: [(h, w)] of feature maps
        self._anchors = {}  # (H, W) of images: tensor

    def forward(self, x):
        """{"cls_logits", "bbox_regression"}; see the class."""
        size = tuple(x.shape[2:])
        maps = self.features(self.normalize(x))
        if len(maps) != self.anchor_generator.maps:
            raise ValueError(
                f"{type(self).__name__}: expected {self.anchor_generator.maps} feature maps for its anchors, got "
                f"{len(maps)}"
            )
        if size not in self._grids:
            self._grids[size] = [tuple(m.shape[2:]) for m in maps]
        return self.head(maps)

    def normalize(self, x):
        """(x - image_mean) / image_std in the dtype of the net; uint8 is divided by 255 first."""
        if x.dtype == uint8:
            x = x.to(float32) / 255
        for what in ("image_mean", "image_std"):
            if len(getattr(self, what)) not in (1, x.shape[1]):
                raise ValueError(
                    f"{type(self).__name__}: expected {what} of {x.shape[1]} channels, got {len(getattr(self, what))}"
                )
        mean, std = (
            constant(np.array(v, np.float32).reshape(1, -1, 1, 1), x.device).to(x.dtype)
            for v in (self.image_mean, self.image_std)
        )
        return ((x - mean) / std).to(next(self.parameters()).dtype)

    # ---- anchors and targets ----

    def grids(self, image_size):
        """[(h, w)] of the feature maps of images (H, W); the first time by running the net on one of zeros."""
        size = tuple(int(v) for v in image_size)
        if size not in self._grids:
            with _modes.evaluating(self), _modes.no_grad():
                self(ops.zeros((1, self._channels(), *size), device=next(self.parameters()).device))
        return self._grids[size]

    def anchors(self, image_size):
        """float32 tensor (anchors, 4) for images (H, W)."""
        size = tuple(int(v) for v in image_size)
        if size not in self._anchors:
            self._anchors[size] = constant(self.anchor_generator(size, self.grids(size)), "cpu")
        return self._anchors[size]

    def encode(self, targets, image_size):
        """Targets of the loss for a batch of images (H, W): what each anchor stands for.

        targets: for each image {"boxes": (M, 4), "labels": (M,)}, arrays; M may be 0. Returns NumPy {"labels": int64
        (N, anchors), -1 background and -2 no matter, "boxes": float32 (N, anchors, 4), the anchor itself where there is
        no object}. ValueError: boxes without area or outside of the image, labels out of range.
        """
        if isinstance(targets, dict):
            raise TypeError(
                f"{type(self).__name__}.encode: expected a list with a dict for each image, got one dict"
            )
        anchors = self.anchors(image_size)
        base = anchors.numpy()
        labels = np.full((len(targets), len(base)), -1, np.int64)
        boxes = np.repeat(base[None], len(targets), 0)
        for i, target in enumerate(targets):
            where = f"{type(self).__name__}.encode: image {i}"
            objects, classes = checked_objects(target, self.num_classes, tuple(image_size), where)
            if not len(objects):
                continue
            matched = self.matcher(ops.box_iou(from_numpy(objects), anchors).numpy())
            there = matched >= 0
            labels[i] = matched
            labels[i, there], boxes[i, there] = classes[matched[there]], objects[matched[there]]
        return {"labels": labels, "boxes": boxes}

    def loss(self, outputs, targets, image_size):
        """{"classification", "bbox_regression"}: scalars to add. outputs: the call's; targets: encode's."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    # ---- predictions ----

    def predict(self, images):
        """Objects of images: for each {"boxes": float32 (D, 4), "scores": float32 (D,), "labels": int64 (D,)}, NumPy.

        images: a batch (N, C, H, W), or a list of (C, H, W) of any sizes, arrays or tensors, uint8 or 0 to 1. They are
        resized as the class says; boxes are in pixels of the images given, best scores first.
        Raises: ValueError for images of other shapes and for values that are not of 0 to 1.
        """
        if len(getattr(images, "shape", ())) == 3:
            raise ValueError(
                f"{type(self).__name__}.predict: expected a batch (N, C, H, W), or a list of images (C, H, W), got one "
                f"array of {tuple(images.shape)}; one image belongs in a list"
            )
        images = [i if isinstance(i, Tensor) else tensor(np.asarray(i)) for i in images]
        if not images:
            return []
        with _modes.evaluating(self), _modes.no_grad():
            resized = [self._resized(i) for i in images]
            batch, sizes = self._batch(resized), [tuple(i.shape[1:]) for i in resized]
            found = self.postprocess(self(batch), tuple(batch.shape[2:]), sizes)
        for item, image, (h, w) in zip(found, images, sizes, strict=True):
            scale = np.array([image.shape[2] / w, image.shape[1] / h] * 2, np.float32)
            item["boxes"] = item["boxes"] * scale
        return found

    def _resized(self, image):
        where, channels, shape = f"{type(self).__name__}.predict", self._channels(), tuple(image.shape)
        if image.ndim != 3 or shape[0] != channels or 0 in shape:
            hint = "; transpose(2, 0, 1) makes it one" if image.ndim == 3 and shape[2] == channels else ""
            raise ValueError(f"{where}: expected images ({channels}, H, W), got {shape}{hint}")
        image = image.to(next(self.parameters()).device)
        image = image.to(float32) / 255 if image.dtype == uint8 else image.to(float32)
        low, high = float(image.min().item()), float(image.max().item())
        if not high <= 1.5:  # a resized image may be a little above 1, and below 0
            raise ValueError(f"{where}: expected uint8 images, or values of 0 to 1, got {high:.4g}; divide by 255")
        if low < -0.5:
            raise ValueError(
                f"{where}: expected uint8 images, or values of 0 to 1, got {low:.4g}; the net normalises them itself"
            )
        h, w = image.shape[1:]
        scale = min(self.shorter / min(h, w), self.longer / max(h, w))
        size = self.size or (max(int(h * scale), 1), max(int(w * scale), 1))
        return ops.interpolate(image.unsqueeze(0), size=size, mode="bilinear", align_corners=False)[0]

    def _batch(self, images):
        # Images of different sizes end in what normalises to 0.
        whole = self.size_divisible if self.size is None else 1
        h, w = (max(-(-i.shape[d] // whole) * whole for i in images) for d in (1, 2))
        mean = tensor(np.array(self.image_mean, np.float32).reshape(-1, 1, 1)).to(images[0].device)
        padded = [ops.pad(i - mean, (0, w - i.shape[2], 0, h - i.shape[1])) + mean for i in images]
        return ops.stack(padded)

    def postprocess(self, outputs, image_size, sizes=None):
        """As predict, from the outputs of the call on images (H, W); sizes: (h, w) of each within the batch."""
        logits, codes = outputs["cls_logits"].to(float32), outputs["bbox_regression"].to(float32)
        boxes = self.box_coder.decode(codes, self.anchors(image_size).to(codes.device)).cpu().numpy()
        scores = self._scores(logits).cpu().numpy()
        found = []
        for i in range(len(boxes)):
            h, w = image_size if sizes is None else sizes[i]
            anchor, label = self._candidates(scores[i], image_size)
            score = scores[i][anchor, label]
            box = np.clip(boxes[i][anchor], 0, np.array([w, h, w, h], np.float32))
            keep = ops.nms(tensor(box), tensor(score), self.nms_thresh, tensor(label)).numpy()
            keep = keep[: self.detections_per_img]
            found.append({"boxes": box[keep], "scores": score[keep], "labels": label[keep]})
        return found

    def best(self, scores):
        """Places of the highest topk_candidates of scores above score_thresh, best first."""
        there = np.flatnonzero(scores > self.score_thresh)
        k = min(self.topk_candidates, len(there))
        if k < len(there):
            there = there[np.argpartition(-scores[there], k)[:k]] if k else there[:0]
        return there[np.argsort(-scores[there], kind="stable")]


def per_anchor(x, columns):
    """Head outputs (N, A * columns, H, W) as (N, H * W * A, columns)."""
    n, channels, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h * w * (channels // columns), columns)
