"""Reading one image file into 8-bit pixels, whatever its mode, and keeping what was read within a budget of memory.

Pillow decodes, and is imported when the first image is needed. Datasets of files stand on this (folder.py, coco.py,
voc.py); it knows no labels.

Rules: grayscale, palette, CMYK and other modes become RGB or L; transparency is dropped, as torchvision does; of 16
bits the upper 8 count (32-bit TIFFs hold 16, or 8 where no value is above 255); float pixels are refused, for nobody
knows their range; pictures are turned as their EXIF says.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif"))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # its values -> Pillow's Transpose
_BACK = {2: 4, 4: 2}  # what undoes them; the others undo themselves
_SIDEWAYS = (2, 4, 5, 6)  # those that change height and width


class DamagedImage(ValueError):
    """A file that is no readable image; the message begins with its path."""


def check_size(op, image_size):
    """(H, W) of an int or a pair; None stays."""
    if image_size is None:
        return None
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(int(s) != s for s in size) or min(size) < 1:
        raise ValueError(f"{op}: expected image_size as int or (H, W) of at least 1, got {image_size}")
    return int(size[0]), int(size[1])


def _limit(Image, image):
    """Refuses what a small file may claim to be, where Pillow only warns."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise ValueError(f"{image.width}x{image.height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {most}")


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("fastcnn.data needs Pillow to read images: pip install pillow") from error
    return Image


class ImageReader:
    """reader(path) -> pixels (H, W, C) uint8, C of `mode`; of mode "ids" (H, W): palette or grey values as they are.

    Args:
        op: who asks, for messages.
        mode: "RGB", "L", or "ids" for masks.
        image_size: (H, W): resized until it covers that, then the centre is cut out; None keeps each image's size.
        cache: None, "decoded" (pixels, after resizing) or "bytes" (files). What does not fit cache_bytes is read again
            every time: of a set that is walked through in random order, keeping the first is as good as any choice.
    Threads may share one. Raises: FileNotFoundError; DamagedImage.
    """

    def __init__(self, op, mode="RGB", image_size=None, cache=None, cache_bytes=1 << 30):
        if mode not in ("RGB", "L", "ids"):
            raise ValueError(f"{op}: expected mode 'RGB' or 'L', got {mode!r}")
        if cache not in (None, "decoded", "bytes"):
            raise ValueError(f"{op}: expected cache None, 'decoded' or 'bytes', got {cache!r}")
        if int(cache_bytes) != cache_bytes or cache_bytes < 0:
            raise ValueError(f"{op}: expected cache_bytes as an int >= 0, got {cache_bytes}")
        self.mode, self.image_size, self.cache, self.cache_bytes = mode, image_size, cache, int(cache_bytes)
        self.cached_bytes = 0
        self._kept, self._lock = {}, threading.Lock()

    def __call__(self, path, upright=True):
        """upright: whether the EXIF orientation counts."""
        if self.cache == "decoded":
            return self._remember((path, upright), lambda: self._pixels(path, path, upright), lambda p: p.nbytes)
        if self.cache == "bytes":
            content = self._remember(path, Path(path).read_bytes, len)
            return self._pixels(io.BytesIO(content), path, upright)
        return self._pixels(path, path, upright)

    def file_size(self, path):
        """(H, W) of the picture in a file before any resizing; its header alone is read."""
        Image = _pillow()
        try:
            with Image.open(path) as image:
                turned = _still_to_do(image, self.mode != "ids") in _SIDEWAYS
                return image.size if turned else image.size[::-1]
        except FileNotFoundError:
            raise
        except Exception as error:
            raise DamagedImage(f"{path}: damaged or unreadable image: {error}") from error

    def first_size(self, paths, on_error):
        """(H, W) of the first of paths that can be read; with on_error "raise" the first has to be."""
        for path in paths:
            try:
                return self(path).shape[:2]
            except (OSError, ValueError):
                if on_error != "skip":
                    raise
        return None

    def _remember(self, key, make, size):
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        value = make()
        with self._lock:
            if key not in self._kept and self.cached_bytes + size(value) <= self.cache_bytes:
                self._kept[key] = value
                self.cached_bytes += size(value)
        return value

    def _pixels(self, source, path, upright):
        Image = _pillow()
        try:
            with Image.open(source) as image:
                _limit(Image, image)
                turn = _still_to_do(image, upright and self.mode != "ids")
                if self.image_size is not None and image.format == "JPEG":
                    _shrink_on_load(image, self.image_size if turn not in _SIDEWAYS else self.image_size[::-1])
                image = self._in_mode(Image, image)
        except FileNotFoundError:
            raise
        # Pillow's decoders raise many types for a damaged file (OSError, SyntaxError, struct.error, ...).
        except Exception as error:
            raise DamagedImage(f"{path}: damaged or unreadable image: {error}") from error
        if turn is not None:
            image = image.transpose(Image.Transpose(turn))
        if self.image_size is not None:
            how = Image.Resampling.NEAREST if self.mode == "ids" else Image.Resampling.BILINEAR
            image = _cover(image, self.image_size, how)
        pixels = np.asarray(image, np.uint8)
        pixels = pixels[..., None] if self.mode == "L" else pixels
        pixels.flags.writeable = False  # a cache may hold them
        return pixels

    def _in_mode(self, Image, image):
        if self.mode == "ids":
            if image.mode not in ("P", "L"):
                raise ValueError(f"expected a mask of mode P or L, got {image.mode}")
            image.load()
            return image
        if image.mode == "F":
            raise ValueError("expected pixels of 8 or 16 bits, got 32-bit floats")
        if image.mode[0] == "I":  # 16 bits; some versions of Pillow hold them in 32
            values = np.asarray(image)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 0xFFFF:
                raise ValueError(f"expected pixels of 8 or 16 bits, got {low} to {high}")
            eight = image.mode == "I" and image.format == "TIFF" and high < 256
            image = Image.fromarray((values if eight else values >> 8).astype(np.uint8))
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        if image.mode == self.mode:  # convert() would copy
            image.load()
            return image
        return image.convert(self.mode)


def _turn(image):
    """What Pillow's transpose() is to do for the EXIF orientation; None for nothing, or damaged EXIF."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # noqa: BLE001 - metadata: the picture itself may be whole
        return None


def _still_to_do(image, upright):
    """What transpose() is to do for an opened image to be upright, or as it lies in the file; None for nothing."""
    turn = _turn(image)
    if turn is not None and image.format == "TIFF":
        # Newer versions of Pillow turn TIFFs here and forget the tag; in their memory maps they take height for width.
        image.filename = ""
        image.load()
        if _turn(image) is None:
            return None if upright else _BACK.get(turn, turn)
    return turn if upright else None


def _covering(width, height, size):
    """(w, h) that covers size (H, W) with the aspect of width and height."""
    scale = max(size[1] / width, size[0] / height)
    return max(size[1], round(width * scale)), max(size[0], round(height * scale))


def _shrink_on_load(image, size):
    """Lets the JPEG decoder leave out what resizing would average away, down to no less than is needed."""
    image.draft(image.mode, _covering(*image.size, size))


def _cover(image, size, resample):
    """Resizes to the smallest size that covers (H, W), aspect kept, and cuts out the centre."""
    height, width = size
    if image.size == (width, height):
        return image
    w, h = _covering(image.width, image.height, size)
    # The source box of the crop: one resampling, and only of pixels that stay.
    left, top = (w - width) / 2 * image.width / w, (h - height) / 2 * image.height / h
    box = (left, top, left + width * image.width / w, top + height * image.height / h)
    return image.resize((width, height), resample, box=box)
