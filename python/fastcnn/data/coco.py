"""CocoDetection: images with boxes, and masks and keypoints if wanted, from an instances JSON file; no pycocotools.

Evaluation is fastcnn.metrics.MeanAveragePrecision. Captions and panoptic annotations are not read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .base import ImageDataset, channel_stats, check_on_error
from .images import ImageReader
from .masks import segmentation_mask


class CocoDetection(ImageDataset):
    """Images of a COCO instances (or keypoints) file (Lin et al. 2014), in the order of their ids.

    ds[i] is (image (3, H, W) float32 in [0, 1], target), target a dict of arrays:
        boxes (n, 4) float32 xyxy in pixels; labels (n,) int64; area (n,) float32; iscrowd (n,) bool; image_id int;
        with masks=True masks (n, H, W) bool; with keypoints=True keypoints (n, k, 3) float32 of x, y and visibility.
    Boxes are clipped to the image; those without any area left are dropped with all that belongs to them.

    Args:
        root: folder of the images. annotations: the JSON file.
        label_start: label of the first category in order of ids: 0, or 1 to leave 0 to a background class.
        mean, std: of normalisation; default none, as detection models normalise themselves.
        skip_empty: leave out images without boxes. skip_missing: leave out images without a file, instead of
            FileNotFoundError here.
        on_error, cache, cache_bytes: as ImageFolder.
    Attributes: classes, category_ids (K,) (of label l it is category_ids[l - label_start]), image_ids, and those of
    ImageDataset. A file whose EXIF turns it away from the annotated size is left as it lies.
    Raises: ValueError for a damaged file, naming the entry; SampleError and DamagedImage as ImageFolder.
    """

    target_type = "detection"
    per_sample = True
    in_channels = 3

    def __init__(
        self, root, annotations, *, masks=False, keypoints=False, label_start=0, mean=None, std=None, skip_empty=False,
        skip_missing=False, on_error="raise", cache=None, cache_bytes=1 << 30,
    ):  # fmt: skip
        self.root, self.annotations = Path(root), Path(annotations)
        if not self.root.is_dir():
            raise FileNotFoundError(f"CocoDetection: expected a folder of images, got {self.root}")
        self.masks, self.keypoints = bool(masks), bool(keypoints)
        self.mean, self.std = channel_stats("CocoDetection", mean, std, self.in_channels)
        self.label_start = int(label_start)
        self.on_error = check_on_error("CocoDetection", on_error)
        self.reader = ImageReader("CocoDetection", "RGB", None, cache, cache_bytes)
        self.name = f"coco:{self.annotations}"
        images, entries, categories, points = self._tables()
        ids = sorted(categories)
        self.category_ids = np.array(ids, np.int64)
        self.classes, self.num_classes = [categories[i] for i in ids], len(ids)
        self.keypoint_pairs = self._pairs(points) if self.keypoints else ()
        if self.keypoints and any(e["keypoints"] is None for group in entries.values() for e in group):
            raise ValueError(f"{self.annotations}: keypoints=True, but annotations without keypoints")
        missing = [i for i, image in images.items() if not (self.root / image["file_name"]).is_file()]
        if missing and not skip_missing:
            raise FileNotFoundError(
                f"{self.annotations}: {len(missing)} of {len(images)} images are not in {self.root}, the first is "
                f"{images[missing[0]]['file_name']}; pass skip_missing=True to leave them out"
            )
        gone = set(missing)
        kept = [i for i in images if i not in gone and (not skip_empty or any(_has_area(e) for e in entries[i]))]
        self.image_ids = np.array(kept, np.int64)
        self._images = [images[i] for i in kept]
        self._targets = [self._arrays(entries[i]) for i in kept]

    # ---------------------------------------------------------------- the file

    def _damaged(self, why):
        return ValueError(f"{self.annotations}: {why}")

    def _tables(self):
        """(images by id in order of ids, annotations by image id, category names by id), all checked."""
        try:
            content = json.loads(self.annotations.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"expected a JSON file of annotations: {error}") from error
        if not isinstance(content, dict):
            raise self._damaged(f"expected a JSON object, got {type(content).__name__}")
        images, entries, categories, points = {}, {}, {}, {}
        for where, item in self._items(content, "images", ("id", "file_name")):
            self._new(where, item["id"], images)
            if not isinstance(item["file_name"], str):
                raise self._damaged(f"{where}: expected file_name as text, got {item['file_name']!r}")
            size = (item.get("height"), item.get("width"))
            if any(v is not None and (not _is_int(v) or v < 1) for v in size):
                raise self._damaged(f"{where}: expected height and width of at least 1, got {size}")
            images[item["id"]] = {"file_name": item["file_name"], "size": None if None in size else size}
        for where, item in self._items(content, "categories", ("id", "name")):
            self._new(where, item["id"], categories)
            categories[item["id"]] = str(item["name"])
            points[item["id"]] = item.get("keypoints") or []
        images = dict(sorted(images.items()))
        places = {c: k + self.label_start for k, c in enumerate(sorted(categories))}
        entries = {i: [] for i in images}
        for where, item in self._items(content, "annotations", ("image_id", "category_id", "bbox")):
            for what, known in (("image_id", images), ("category_id", categories)):
                if not _is_int(item[what]) or item[what] not in known:
                    raise self._damaged(f"{where}: expected a known {what}, got {item[what]!r}")
            entries[item["image_id"]].append({**self._entry(where, item), "label": places[item["category_id"]]})
        return images, entries, categories, points

    def _pairs(self, names):
        """Pairs (left, right) of keypoints by their names, where all categories that have keypoints agree."""
        found = {
            tuple((k, v.index(name.replace("left", "right", 1))) for k, name in enumerate(v)
                  if "left" in name and name.replace("left", "right", 1) in v)
            for v in names.values() if isinstance(v, list) and v and all(isinstance(name, str) for name in v)
        }  # fmt: skip
        return found.pop() if len(found) == 1 else ()

    def _items(self, content, what, needed):
        """Yields (name for messages, dict) of a list of the file."""
        items = content.get(what)
        if not isinstance(items, list):
            raise self._damaged(f"expected a list {what!r}, got {type(items).__name__}")
        for k, item in enumerate(items):
            where = f"{what}[{k}]"
            if not isinstance(item, dict) or any(key not in item for key in needed):
                got = sorted(item) if isinstance(item, dict) else type(item).__name__
                raise self._damaged(f"{where}: expected an object of {', '.join(needed)}, got {got}")
            yield where, item

    def _new(self, where, number, known):
        if not _is_int(number) or number in known:
            raise self._damaged(f"{where}: expected an int id of its own, got {number!r}")

    def _entry(self, where, item):
        """What is needed of an annotation: box xyxy, area, crowd, segmentation, keypoints."""
        x, y, w, h = self._floats(where, item, "bbox", 4)
        if w < 0 or h < 0:
            raise self._damaged(f"{where}: expected bbox [x, y, w, h] without negative size, got {item['bbox']}")
        area = item.get("area", w * h)
        if not _is_number(area):
            raise self._damaged(f"{where}: expected area as a finite number, got {area!r}")
        points = None
        if self.keypoints and "keypoints" in item:
            points = np.array(self._floats(where, item, "keypoints"), np.float32).reshape(-1, 3)
        return {
            "where": where, "box": (x, y, x + w, y + h), "area": float(area), "crowd": bool(item.get("iscrowd", 0)),
            "segmentation": item.get("segmentation") if self.masks else None, "keypoints": points,
        }  # fmt: skip

    def _floats(self, where, item, what, count=None):
        values = item[what]
        good = isinstance(values, list) and all(_is_number(v) for v in values)
        if not good or (count is not None and len(values) != count) or (count is None and len(values) % 3):
            wanted = f"{count} finite numbers" if count else "finite numbers, three per point"
            raise self._damaged(f"{where}: expected {what} of {wanted}, got {values!r:.80}")
        return [float(v) for v in values]

    def _arrays(self, group):
        n = len(group)
        points = {len(e["keypoints"]) for e in group} if self.keypoints else set()
        if len(points) > 1:
            where = group[0]["where"]
            raise self._damaged(f"{where}: expected as many keypoints in each box of an image, got {points}")
        return {
            "boxes": np.array([e["box"] for e in group], np.float32).reshape(n, 4),
            "labels": np.array([e["label"] for e in group], np.int64),
            "area": np.array([e["area"] for e in group], np.float32),
            "iscrowd": np.array([e["crowd"] for e in group], bool),
            "keypoints": np.stack([e["keypoints"] for e in group]) if points else np.zeros((0, 0, 3), np.float32),
            "segmentations": [(e["where"], e["segmentation"]) for e in group] if self.masks else None,
        }

    # ---------------------------------------------------------------- samples

    @property
    def image_size(self):
        """(H, W) of the first image; others differ."""
        if not self._images:
            return None
        return self._images[0]["size"] or self.raw(0)[0].shape[:2]

    def __len__(self):
        return len(self._images)

    def _path(self, index):
        return self.root / self._images[index]["file_name"]

    def raw(self, index):
        image, known = self._images[index], self._targets[index]
        path, size = self.root / image["file_name"], image["size"]
        pixels = self.reader(path)
        if size is not None and pixels.shape[:2] != size:
            pixels = self.reader(path, upright=False)
            if pixels.shape[:2] != size:
                raise ValueError(f"{path}: expected an image of {size} as annotated, got {pixels.shape[:2]}")
        height, width = pixels.shape[:2]
        boxes = np.clip(known["boxes"], 0, np.array([width, height, width, height], np.float32))
        keep = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
        target = {"boxes": boxes[keep], "image_id": int(self.image_ids[index])}
        target |= {key: known[key][keep] for key in ("labels", "area", "iscrowd")}
        if self.masks:
            target["masks"] = np.zeros((len(keep), height, width), bool)
            for k, row in enumerate(keep):
                where, segmentation = known["segmentations"][row]
                try:
                    target["masks"][k] = segmentation_mask(segmentation, (height, width))
                except ValueError as error:
                    raise self._damaged(f"{where}: {error}") from error
        if self.keypoints:
            target["keypoints"] = known["keypoints"][keep] if len(keep) else known["keypoints"][:0]
        return pixels, target


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value):
    """Whether a value is a number within reason: no nan, nor an int that no float holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e12 < value < 1e12


def _has_area(entry):
    x0, y0, x1, y1 = entry["box"]
    return x1 > x0 and y1 > y0
