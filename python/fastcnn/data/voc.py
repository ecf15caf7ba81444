"""VocSegmentation: photographs with a class id per pixel, of PASCAL VOC (Everingham et al. 2010) and sets of its form.

Boxes of VOC's XML files are not read.
"""

from __future__ import annotations

from pathlib import Path

from .base import ImageDataset, channel_stats, check_on_error
from .images import IMAGENET_MEAN, IMAGENET_STD, DamagedImage, ImageReader, check_size

_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


class VocSegmentation(ImageDataset):
    """`JPEGImages/<id>.jpg` with `SegmentationClass/<id>.png`, palette images whose 255 (borders) does not count.

    ds[i] is (image (3, H, W) float32, normalised; mask (H, W) uint8 ids); a DataLoader gives masks (N, H, W) int64 and
    moves them with the images, filling with 255.
    Args:
        root: the folder of the three folders, or one that holds it (VOCdevkit, VOCdevkit/VOC2012).
        split: "train", "val" or "trainval": a file of ImageSets/Segmentation.
        image_size: int or (H, W) as ImageFolder, of masks by nearest pixel. None keeps sizes.
        classes: names, background first; default VOC's 21.
        mean, std: default ImageNet's. on_error, cache, cache_bytes (for images and again for masks): as ImageFolder.
    Raises: FileNotFoundError for missing folders, splits and files; DamagedImage, naming the path, for masks of
    another mode or size than their image or with ids of no class.
    """

    target_type = "mask"
    ignore_index = 255
    in_channels = 3

    def __init__(
        self, root, split="train", image_size=None, classes=None, mean=None, std=None, *, on_error="raise", cache=None,
        cache_bytes=1 << 30,
    ):  # fmt: skip
        self.root = _find(Path(root))
        lists = self.root / "ImageSets" / "Segmentation"
        if not (lists / f"{split}.txt").is_file():
            known = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
            raise FileNotFoundError(f"VocSegmentation: expected a split of {lists} ({known}), got {split!r}")
        names = (lists / f"{split}.txt").read_text(encoding="utf-8").split()
        self.samples = [
            (self.root / "JPEGImages" / f"{n}.jpg", self.root / "SegmentationClass" / f"{n}.png") for n in names
        ]
        missing = [path for pair in self.samples for path in pair if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"VocSegmentation: {len(missing)} files are missing, the first is {missing[0]}")
        self.classes = list(_CLASSES if classes is None else classes)
        self.num_classes, self.name = len(self.classes), f"voc:{self.root}:{split}"
        mean, std = IMAGENET_MEAN if mean is None else mean, IMAGENET_STD if std is None else std
        self.mean, self.std = channel_stats("VocSegmentation", mean, std, self.in_channels)
        self.on_error = check_on_error("VocSegmentation", on_error)
        self._size = check_size("VocSegmentation", image_size)
        self.per_sample = self._size is None or on_error == "skip"
        self.reader = ImageReader("VocSegmentation", "RGB", self._size, cache, cache_bytes)
        self.mask_reader = ImageReader("VocSegmentation", "ids", self._size, cache, cache_bytes)
        self._compared = set()  # samples whose image and mask are of one size

    @property
    def image_size(self):
        """(H, W); without image_size= that of the first image that can be read."""
        if self._size is None:
            self._size = self.reader.first_size((path for path, _ in self.samples), self.on_error)
        return self._size

    def __len__(self):
        return len(self.samples)

    def raw(self, index):
        image_path, mask_path = self.samples[index]
        pixels, mask = self.reader(image_path), self.mask_reader(mask_path)
        if index not in self._compared:  # as the files are: image_size makes all sizes one
            size, got = self.reader.file_size(image_path), self.mask_reader.file_size(mask_path)
            if size != got:
                raise DamagedImage(f"{mask_path}: expected a mask of {size} as its image, got {got}")
            self._compared.add(index)
        wrong = mask[(mask >= self.num_classes) & (mask != self.ignore_index)]
        if wrong.size:
            raise DamagedImage(
                f"{mask_path}: expected class ids 0 to {self.num_classes - 1} or {self.ignore_index}, got {wrong[0]}"
            )
        return pixels, mask


def _find(root):
    """The folder that holds JPEGImages: root, or one or two below."""
    for folder in (root, *sorted(root.glob("*")), *sorted(root.glob("*/*"))):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise FileNotFoundError(f"VocSegmentation: expected a folder with JPEGImages in {root}")
