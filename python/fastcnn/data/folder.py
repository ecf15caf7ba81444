"""ImageFolder: one sub-folder per class, images read with Pillow (imported when the first one is needed).

Reads and resizes; random augmentation belongs to fastcnn.augment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import ImageDataset

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
    "val": ("val", "valid", "validation", "test"),
}


def folder_for_split(path, split):
    """PATH/<split> if there (val, valid, validation: the same); PATH for "train" without such folders."""
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


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("ImageFolder needs Pillow to read images: pip install pillow") from error
    return Image


class ImageFolder(ImageDataset):
    """root/<class>/**/<image>: classes and files in sorted order.

    Args: root: folder with one folder per class. image_size: int or (H, W): the image is resized until it
    covers that size, then its centre is cut out; None keeps each image's size (batches then need equal
    sizes). mode: "RGB" or "L".
    mean, std: default ImageNet's; for mode "L" their average.
    Attributes: classes, class_to_idx, samples [(path, class id)], and those of ImageDataset.
    Raises: FileNotFoundError without classes, images, or with an empty class; ValueError, naming the path,
    when a damaged image is read.
    """

    def __init__(self, root, image_size=None, mode="RGB", mean=None, std=None):
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"ImageFolder: expected a folder, got {self.root}")
        if mode not in ("RGB", "L"):
            raise ValueError(f"ImageFolder: expected mode 'RGB' or 'L', got {mode!r}")
        self.mode, self.in_channels = mode, 3 if mode == "RGB" else 1
        folders = sorted(
            (p for p in self.root.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: p.name
        )
        if not folders:
            raise FileNotFoundError(f"ImageFolder: expected one folder per class in {self.root}, got none")
        self.classes = [p.name for p in folders]
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.num_classes = len(self.classes)
        self.samples = []
        for i, folder in enumerate(folders):
            files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not files:
                raise FileNotFoundError(
                    f"ImageFolder: expected images ({' '.join(sorted(EXTENSIONS))}) in {folder}, got none"
                )
            self.samples += [(p, i) for p in files]
        self.labels = np.asarray([y for _, y in self.samples], np.int64)
        default_mean = IMAGENET_MEAN if mode == "RGB" else (float(np.mean(IMAGENET_MEAN)),)
        default_std = IMAGENET_STD if mode == "RGB" else (float(np.mean(IMAGENET_STD)),)
        self.mean, self.std = mean or default_mean, std or default_std
        self._resize = image_size is not None
        if self._resize:
            size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
            if len(size) != 2 or min(size) < 1:
                raise ValueError(
                    f"ImageFolder: expected image_size as int or (H, W) of at least 1, got {image_size}"
                )
            self._size = (int(size[0]), int(size[1]))
        else:
            self._size = None
        self.name = f"imagefolder:{self.root}"

    @property
    def image_size(self):
        """(H, W); without image_size= that of the first image."""
        if self._size is None:
            self._size = self.raw(0)[0].shape[:2]
        return self._size

    def __len__(self):
        return len(self.samples)

    def raw(self, index):
        path, label = self.samples[index]
        Image = _pillow()
        try:
            with Image.open(path) as image:
                image = image.convert(self.mode)
        except FileNotFoundError:
            raise
        # Pillow's decoders raise many types for a damaged file (OSError, SyntaxError, struct.error, ...).
        except Exception as error:
            raise ValueError(f"{path}: damaged or unreadable image: {error}") from error
        if self._resize:
            image = _cover(image, self._size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8)
        return (pixels if pixels.ndim == 3 else pixels[..., None]), label


def _cover(image, size, resample):
    """Resizes to the smallest size that covers (H, W), aspect kept, and cuts out the centre."""
    height, width = size
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    w, h = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    # The source box of the crop: one resampling, and only of pixels that stay.
    left, top = (w - width) / 2 * image.width / w, (h - height) / 2 * image.height / h
    box = (left, top, left + width * image.width / w, top + height * image.height / h)
    return image.resize((width, height), resample, box=box)
