"""ImageFolder: one sub-folder per class.

Reads and resizes; random augmentation belongs to fastcnn.augment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .._files import legible
from .base import ImageDataset, channel_stats, check_on_error
from .images import EXTENSIONS, IMAGENET_MEAN, IMAGENET_STD, ImageReader, check_size

_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
    "val": ("val", "valid", "validation", "test"),
}


def folder_for_split(path, split):
    """`PATH/<split>` if there (val, valid, validation: the same); PATH for "train" without such folders."""
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"imagefolder: expected a folder, got {path}")
    names = _SPLIT_FOLDERS.get(split, (split,))
    for name in names:
        if (path / name).is_dir():
            return path / name
    has_splits = any((path / name).is_dir() for names_ in _SPLIT_FOLDERS.values() for name in names_)
    if split == "train" and not has_splits:
        return path
    raise FileNotFoundError(
        f"imagefolder: expected {' or '.join(str(path / n) for n in names)} for split {split!r}; "
        "to split one folder use fastcnn.data.random_split"
    )


class ImageFolder(ImageDataset):
    """`root/<class>/**/<image>`: classes and files in sorted order.

    Args:
        root: folder with one folder per class.
        image_size: int or (H, W): the image is resized until it covers that size, then its centre is cut out. None
            keeps each image's size; then a DataLoader applies its transform image by image, and they have to be of
            one size afterwards (RandomResizedCrop, Resize).
        mode: "RGB" or "L". What becomes of other modes, of 16 bits and of EXIF orientation: see images.py.
        mean, std: per channel, or one number, of pixels in [0, 1]; default ImageNet's, for mode "L" their average.
        on_error: "raise", or "skip": a DataLoader leaves damaged images out of its batches, which are then smaller,
            and logs a warning with the path; a batch of damaged images alone does not come. ds[i] raises.
        cache: None, "decoded" (pixels, after resizing) or "bytes" (files as they are), up to cache_bytes (default
            1 GiB) of memory; the rest is read again every time.
        classes: names in the order of their ids, such as train.classes for the other splits, where a class may be
            missing; default: all folders, by name.
        is_valid_file: f(path) -> bool, instead of the usual extensions without hidden files.
        allow_empty: classes may have no images.
    Attributes: classes (bytes of a name that are no UTF-8 are escaped), class_to_idx, samples [(path, class id)], and
        those of ImageDataset.
    Raises: FileNotFoundError without classes, images, or with an empty class; ValueError for folders that are none of
    `classes`; DamagedImage (a ValueError), naming the path, when a damaged image is read.
    """

    def __init__(
        self, root, image_size=None, mode="RGB", mean=None, std=None, *, on_error="raise", cache=None,
        cache_bytes=1 << 30, classes=None, is_valid_file=None, allow_empty=False,
    ):  # fmt: skip
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"ImageFolder: expected a folder, got {self.root}")
        if mode not in ("RGB", "L"):
            raise ValueError(f"ImageFolder: expected mode 'RGB' or 'L', got {mode!r}")
        self.on_error = check_on_error("ImageFolder", on_error)
        self.mode, self.in_channels = mode, 3 if mode == "RGB" else 1
        self._size = check_size("ImageFolder", image_size)
        self.reader = ImageReader("ImageFolder", mode, self._size, cache, cache_bytes)
        self.per_sample = self._size is None or on_error == "skip"
        folders = sorted((p for p in self.root.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: p.name)
        if not folders:
            raise FileNotFoundError(f"ImageFolder: expected one folder per class in {self.root}, got none")
        self.classes = self._known(folders, classes)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.num_classes = len(self.classes)
        self.samples = []
        valid = is_valid_file or (lambda path: path.suffix.lower() in EXTENSIONS and path.name[0] != ".")
        wanted = "valid files" if is_valid_file else f"images ({' '.join(sorted(EXTENSIONS))})"
        for folder in folders:
            files = sorted(p for p in folder.rglob("*") if p.is_file() and valid(p))
            if not files and not allow_empty:
                raise FileNotFoundError(f"ImageFolder: expected {wanted} in {folder}, got none")
            self.samples += [(p, self.class_to_idx[legible(folder.name)]) for p in files]
        self.samples.sort(key=lambda sample: sample[1])  # stable: by class, then by path
        if not self.samples:
            raise FileNotFoundError(f"ImageFolder: expected {wanted} in the folders of {self.root}, got none")
        self.labels = np.asarray([y for _, y in self.samples], np.int64)
        default_mean = IMAGENET_MEAN if mode == "RGB" else (float(np.mean(IMAGENET_MEAN)),)
        default_std = IMAGENET_STD if mode == "RGB" else (float(np.mean(IMAGENET_STD)),)
        mean, std = default_mean if mean is None else mean, default_std if std is None else std
        self.mean, self.std = channel_stats("ImageFolder", mean, std, self.in_channels)
        self.name = f"imagefolder:{self.root}"

    def _known(self, folders, classes):
        found = [legible(p.name) for p in folders]
        if classes is None:
            return found
        known = [str(c) for c in classes]
        if len(set(known)) < len(known):
            raise ValueError(f"ImageFolder: expected classes with names of their own, got {known}")
        if unknown := [name for name in found if name not in set(known)]:
            raise ValueError(
                f"ImageFolder: expected folders of the classes {_some(known)} in {self.root}, got {_some(unknown)}"
            )
        return known

    @property
    def image_size(self):
        """(H, W); without image_size= that of the first image that can be read."""
        if self._size is None:
            self._size = self.reader.first_size((path for path, _ in self.samples), self.on_error)
        return self._size

    def __len__(self):
        return len(self.samples)

    def raw(self, index):
        path, label = self.samples[index]
        return self.reader(path), label


def _some(names):
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
