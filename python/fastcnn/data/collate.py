"""Samples into batches, and targets moved together with their images. What it is not: reading or order (loader.py)."""

from __future__ import annotations

import numpy as np

from ..augment.base import Transform
from .base import SampleError, aligned_empty, stack_labels

_ABOUT_IMAGE = ("image_id", "size", "orig_size")


def collate_detection(samples):
    """[(image (C, H, W), target dict), ...] -> (images, list of the dicts).

    images: (N, C, H, W), channels-last in memory, where all are of one size; else a list of (C, H, W).
    """
    images = [np.asarray(image) for image, _ in samples]
    targets = [target for _, target in samples]
    if len({image.shape for image in images}) > 1:
        return images, targets
    return stack_field(images, range(len(images)), "image"), targets


def stack(samples, indices):
    """List of samples -> array, or tuple of arrays; images (C, H, W) become channels-last (N, C, H, W).

    indices: numbers of the samples, for messages. Raises: SampleError with the first that does not fit.
    """
    if not isinstance(samples[0], (tuple, list)):
        return stack_field(samples, indices, "sample")
    width = len(samples[0])
    for i, s in zip(indices, samples, strict=True):
        if not isinstance(s, (tuple, list)) or len(s) != width:
            error = ValueError(f"expected {width} fields as in sample {indices[0]}, got {s!r:.80}")
            raise SampleError(int(i), error) from error
    return with_fields(samples[0], [stack_field([s[k] for s in samples], indices, f"field {k}") for k in range(width)])


def with_fields(like, fields):
    """A tuple of fields, of the same class where `like` is a named tuple."""
    return type(like)(*fields) if hasattr(like, "_fields") else tuple(fields)


def stack_field(values, indices, what, hint=""):
    """One field of all samples as an array; hint ends the message where shapes differ."""
    arrays = [np.asarray(v) for v in values]
    first = arrays[0]
    for i, a, value in zip(indices, arrays, values, strict=True):
        if a.dtype.kind not in "iubf":
            error = TypeError(f"{what}: expected numbers, got {type(value).__name__}; pass collate_fn=")
            raise SampleError(int(i), error) from error
        if a.shape != first.shape:
            error = ValueError(f"{what}: expected shape {first.shape} as in sample {indices[0]}, got {a.shape}{hint}")
            raise SampleError(int(i), error) from error
    if first.ndim == 3:
        dtype = np.result_type(*{a.dtype for a in arrays})
        dtype = np.float32 if dtype.kind == "f" else dtype
        out = aligned_empty((len(arrays), *first.shape[1:], first.shape[0]), dtype).transpose(0, 3, 1, 2)
        for k, a in enumerate(arrays):
            out[k] = a
        return out
    return stack_labels(arrays, indices)


def transform_images(transform, images, rng):
    """transform(images (N, C, H, W), rng), checked. A plain function may write into its images: they are its own."""
    own = images if isinstance(transform, Transform) else np.copy(images, order="K")
    return _checked(transform(own, rng), images)


def _checked(out, images):
    if not isinstance(out, np.ndarray) or out.ndim != 4 or len(out) != len(images):
        got = out.shape if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"DataLoader: expected transform to give images ({len(images)}, C, H, W), got {got}")
    return out


def transform_masks(transform, images, masks, rng, fill):
    """(images, masks), moved together by a Transform; a plain function sees images alone and must keep their size."""
    if isinstance(transform, Transform):
        out = transform(images, rng, masks=masks, mask_fill=0 if fill is None else fill)
        return _checked(out["images"], images), np.asarray(out["masks"])
    out = transform_images(transform, images, rng)
    if out.shape[2:] != images.shape[2:]:
        raise ValueError(
            f"DataLoader: a function that is no Transform leaves masks as they are: expected images of "
            f"{images.shape[2:]}, got {out.shape[2:]}"
        )
    return out, masks


def transform_detection(transform, images, target, rng, min_visibility=0.0, keypoint_pairs=()):
    """(images (1, C, H, W), target), moved together; see ImageDataset for the target's keys.

    Rows of boxes that leave the image (see Transform) are left out of every array that has a row per box. area is
    counted again from masks, or else scaled with its box. Keypoints outside the image become (0, 0, 0), as COCO writes
    those that are not labelled; those of keypoint_pairs (numbers in a box) change places in mirrored images. A plain
    function sees images alone and must keep their size.
    """
    if not isinstance(transform, Transform):
        return transform_masks(transform, images, target, rng, None)
    target = _checked_target(target)
    boxes = target["boxes"]
    n = len(boxes)
    given = {"boxes": [boxes]}
    if n and "masks" in target:
        given["masks"] = [target["masks"]]
    if n and "keypoints" in target:
        given["keypoints"] = [target["keypoints"].reshape(-1, 3)]
        if len(keypoint_pairs):
            first = np.arange(n)[:, None, None] * target["keypoints"].shape[1]
            given["keypoint_pairs"] = (first + np.asarray(keypoint_pairs)).reshape(-1, 2)
    out = transform(images, rng, min_visibility=min_visibility, **given)
    moved = _checked(out["images"], images)
    keep = out["box_index"][0]
    result = {}
    for key, value in target.items():
        rows = isinstance(value, np.ndarray) and value.ndim and len(value) == n and key not in _ABOUT_IMAGE
        result[key] = value[keep] if rows else value
    result["boxes"] = out["boxes"][0]
    if "masks" in target:
        masks = np.asarray(out["masks"][0])[keep] if n else np.zeros((0, *moved.shape[2:]), target["masks"].dtype)
        result["masks"] = masks
    if "keypoints" in target and n:
        points = out["keypoints"][0].reshape(target["keypoints"].shape)
        inside = out["keypoints_inside"][0].reshape(points.shape[:2])
        seen = inside & (points[..., 2] > 0)
        result["keypoints"] = np.where(seen[..., None], points, 0)[keep].astype(target["keypoints"].dtype)
    if "area" in target and n:
        if "masks" in target:
            area = (result["masks"] != 0).sum((1, 2))
        else:
            before, after = boxes[keep], result["boxes"]
            area = result["area"] * _areas(after) / np.maximum(_areas(before), 1e-9)
        result["area"] = np.asarray(area, target["area"].dtype)
    return moved, result


def _checked_target(target):
    """target with arrays in place of lists and tensors, whose rows go where their boxes go. Raises: ValueError."""
    if not isinstance(target, dict) or "boxes" not in target:
        got = list(map(str, target)) if isinstance(target, dict) else f"a {type(target).__name__}"
        raise ValueError(f"expected a detection target as a dict of boxes, labels and more, got {got}")
    rows = {k: v for k, v in target.items()
            if isinstance(v, (list, tuple)) or (hasattr(v, "__array__") and not isinstance(v, np.generic))}  # fmt: skip
    target = {**target, **{key: np.asarray(value) for key, value in rows.items()}}
    n = len(target["boxes"])
    for key in ("labels", "masks", "keypoints", "area", "iscrowd"):
        if key in target and np.shape(target[key])[:1] != (n,):
            raise ValueError(f"expected {key} of {n} rows, one for each box, got shape {np.shape(target[key])}")
    if n and "keypoints" in target and (target["keypoints"].ndim != 3 or target["keypoints"].shape[2] != 3):
        raise ValueError(f"expected keypoints (n, k, 3) of x, y and visible, got shape {target['keypoints'].shape}")
    return target


def _areas(boxes):
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
