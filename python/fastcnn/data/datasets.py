"""ArrayDataset and load(): the built-in datasets by name, found on disk, in the package, or downloaded.

Where the IDX datasets are looked for: root=, the system's dataset folder, the cache; then download.
Downloading itself is in download.py, image folders in folder.py.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from ..safetensors import load_file
from .base import ImageDataset, _label_array, channel_stats
from .download import Resource, cache_dir, fetch
from .folder import ImageFolder, folder_for_split
from .idx import read_idx, write_idx

SYSTEM_DIR = Path("/usr/share/datasets")
_MINI_DIR = Path(__file__).parent / "fashion_mini"

_FASHION_CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
_CIFAR10_CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
    "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
    "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
    "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
    "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
    "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
    "wardrobe whale willow_tree wolf woman worm"
)


class ArrayDataset(ImageDataset):
    """Images and labels in memory.

    Args:
        images: (N, H, W), (N, C, H, W) or (N, H, W, C); uint8, or float in [0, 1]. uint8 is scaled by 1/255
            when read, floats are kept as float32. No copy of channels-last uint8.
        labels: (N,) class ids, or (N, ...) ints or floats. Those of the images' height and width, (N, H, W) or
            (N, K, H, W), are masks: a DataLoader's transform moves them with the images.
        classes: names; num_classes: default len(classes), else the largest class id + 1.
        mean, std: per channel (or one number), of pixels in [0, 1]. Default: no normalisation.
        layout: "NCHW" or "NHWC"; default: told by which axis is 1, 3 or 4 long, NCHW if neither is.
        ignore_index: of masks, the id that does not count and fills what a transform brings in from outside.
    Raises: ValueError for shapes that do not fit, class ids out of range, or a layout that cannot be told.
    """

    def __init__(
        self, images, labels, classes=None, *, num_classes=None, mean=None, std=None, layout=None, name=None,
        ignore_index=None,
    ):  # fmt: skip
        images, labels = np.asarray(images), np.asarray(labels)
        self.images = _channels_last(images, layout)
        if self.images.dtype != np.uint8:
            if self.images.dtype.kind != "f":
                raise ValueError(f"ArrayDataset: expected uint8 or float images, got {images.dtype}")
            self.images = self.images.astype(np.float32, copy=False)
        if labels.ndim == 0 or len(labels) != len(images):
            raise ValueError(
                f"ArrayDataset: expected one label per image, got images {images.shape} and "
                f"labels {labels.shape}"
            )
        if labels.dtype.kind not in "iubf":
            raise ValueError(f"ArrayDataset: expected labels of ints or floats, got {labels.dtype}")
        self.labels = _label_array(labels)
        self.classes = None if classes is None else [str(c) for c in classes]
        self.num_classes = _num_classes(self.labels, self.classes, num_classes)
        self.image_size, self.in_channels = self.images.shape[1:3], self.images.shape[3]
        self.mean, self.std = channel_stats("ArrayDataset", mean, std, self.in_channels)
        self.name, self.ignore_index = name, ignore_index
        if self.labels.ndim in (3, 4) and self.labels.shape[-2:] == self.image_size:
            self.target_type = "mask"

    @classmethod
    def from_file(cls, path, split="train", *, images=None, labels=None, **kwargs):
        """Images and labels of a .npz (without pickled objects) or .safetensors file.

        Args:
            images, labels: names of the two arrays; default: the first pair found of `<split>_images`
                and `<split>_labels` (MedMNIST), `x_<split>` and `y_<split>` (Keras), images and labels, x and y.
            kwargs: of ArrayDataset.
        Labels (N, 1) of ints are taken as (N,). Raises: ValueError for another or damaged file, or one without such
        arrays, naming those there.
        """
        path = Path(path)
        arrays = _read_arrays(path)
        if (images is None) != (labels is None):
            raise ValueError("ArrayDataset.from_file: expected the names of images and labels, got one of them")
        pairs = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}"), ("images", "labels"), ("x", "y")]
        pairs = pairs if images is None else [(images, labels)]
        found = next((pair for pair in pairs if all(name in arrays for name in pair)), None)
        if found is None:
            wanted = " or ".join(" and ".join(pair) for pair in pairs)
            raise ValueError(f"{path}: expected arrays {wanted}, got {', '.join(sorted(arrays)) or 'none'}")
        x, y = (arrays[name] for name in found)
        if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "iub":
            y = y[:, 0]
        return cls(x, y, name=kwargs.pop("name", str(path)), **kwargs)

    def __len__(self):
        return len(self.images)

    def raw(self, index):
        return self.images[index], self.labels[index]

    def raw_batch(self, indices):
        return np.take(self.images, indices, axis=0), np.take(self.labels, indices, axis=0)


class _Arrays(dict):
    """{name: function that reads the array}; reads on access."""

    def __getitem__(self, name):
        return super().__getitem__(name)()


def _read_arrays(path):
    """The arrays of a .npz or .safetensors file by name, read when asked for."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return _Arrays({name: tensor.numpy for name, tensor in tensors.items()})
    if path.suffix != ".npz":
        raise ValueError(f"ArrayDataset.from_file: expected a .npz or .safetensors file, got {path}")
    try:
        file = np.load(path, allow_pickle=False)
        return _Arrays({name: partial(_npz_array, file, name, path) for name in file.files})
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path}: damaged .npz file: {error}") from error


def _npz_array(file, name, path):
    try:
        return file[name]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise ValueError(f"{path}: array {name!r} is damaged or holds Python objects: {error}") from error


def _channels_last(images, layout):
    if layout not in (None, "NCHW", "NHWC"):
        raise ValueError(f"ArrayDataset: expected layout 'NCHW' or 'NHWC', got {layout!r}")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4:
        raise ValueError(
            f"ArrayDataset: expected images (N, H, W), (N, C, H, W) or (N, H, W, C), got {images.shape}"
        )
    if layout is None:
        _, a, b, c = images.shape
        first, last = a in (1, 3, 4), c in (1, 3, 4)
        if first and last:  # tiny images: only square ones can still be told
            first, last = b == c, a == b
            if first == last:
                raise ValueError(
                    f"ArrayDataset: cannot tell the layout of {images.shape}; pass layout='NCHW' or 'NHWC'"
                )
        layout = "NHWC" if last else "NCHW"
    return np.ascontiguousarray(images if layout == "NHWC" else images.transpose(0, 2, 3, 1))


def _num_classes(labels, classes, num_classes):
    if labels.dtype.kind != "i" or labels.ndim != 1:
        return num_classes if classes is None else len(classes)
    if classes is not None:
        if num_classes not in (None, len(classes)):
            raise ValueError(f"ArrayDataset: got num_classes={num_classes} but {len(classes)} class names")
        num_classes = len(classes)
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, -1)
    if low < 0 or (num_classes is not None and high >= num_classes):
        limit = "..." if num_classes is None else num_classes - 1
        raise ValueError(f"ArrayDataset: expected class ids 0 to {limit}, got {low} to {high}")
    return high + 1 if num_classes is None else num_classes


# ---------------------------------------------------------------- IDX: fashion_mini, fashion_mnist, mnist

_IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_FASHION_URLS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# {dataset: (addresses, system folder, {file: checksums})}
_IDX_SOURCES = {
    "fashion_mnist": (
        _FASHION_URLS,
        "fashion-mnist",
        {
            "train-images-idx3-ubyte": {
                "md5": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "content_sha256": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            },
            "train-labels-idx1-ubyte": {
                "md5": "25c81989df183df01b3e8a0aad5dffbe",
                "content_sha256": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            },
            "t10k-images-idx3-ubyte": {
                "md5": "bef4ecab320f06d8554ea6380940ec79",
                "content_sha256": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            },
            "t10k-labels-idx1-ubyte": {
                "md5": "bb300cfdad3c16e7a12a480ee83cd310",
                "content_sha256": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            },
        },
    ),
    "mnist": (
        _MNIST_URLS,
        "mnist",
        {
            "train-images-idx3-ubyte": {
                "sha256": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "content_sha256": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            },
            "train-labels-idx1-ubyte": {
                "sha256": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "content_sha256": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            },
            "t10k-images-idx3-ubyte": {
                "sha256": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "content_sha256": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            },
            "t10k-labels-idx1-ubyte": {
                "sha256": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "content_sha256": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            },
        },
    ),
}


def _find_in(folders, names):
    """{name: path} of files that lie together in one of the folders, plain, .gz or .xz; else None."""
    for folder in folders:
        found = {}
        for name in names:
            for suffix in ("", ".gz", ".xz"):
                if (folder / (name + suffix)).is_file():
                    found[name] = folder / (name + suffix)
                    break
        if len(found) == len(names):
            return found
    return None


def _missing(name, files, folders, root):
    where = "\n  ".join(str(f) for f in folders)
    hint = "pass download=True" if root is None else "put the files there, or pass download=True"
    return FileNotFoundError(
        f"{name}: expected {', '.join(files)} (or .gz, .xz) in one of\n  {where}\n{hint}"
    )


def _idx_files(name, files, root, download):
    urls, system, checksums = _IDX_SOURCES[name]
    if root is not None:
        folders = [Path(root), Path(root) / name, Path(root) / system, Path(root) / "raw"]
        folders += [
            Path(root) / sub / "raw" for sub in ("FashionMNIST" if name == "fashion_mnist" else "MNIST",)
        ]
        home = Path(root) / name
    else:
        home = cache_dir() / name
        folders = [SYSTEM_DIR / system, home]
    found = _find_in(folders, files)
    if found:
        return found
    if not download:
        raise _missing(name, files, folders, root)
    return {
        f: fetch(Resource(f + ".gz", tuple(u + f + ".gz" for u in urls), checksums[f]), home, name)
        for f in files
    }


def _load_idx(name, split, root, download):
    files = _IDX_NAMES[split]
    if name == "fashion_mini":
        found = _find_in([_MINI_DIR], files)
        if found is None:
            raise FileNotFoundError(
                f"fashion_mini: expected {', '.join(files)} in {_MINI_DIR}; reinstall fastcnn"
            )
    else:
        found = _idx_files(name, files, root, download)
    images = read_idx(found[files[0]], (None, 28, 28), np.uint8)
    labels = read_idx(found[files[1]], (len(images),), np.uint8)
    fashion = name != "mnist"
    classes = _FASHION_CLASSES if fashion else [str(d) for d in range(10)]
    if labels.size and labels.max() >= len(classes):
        raise ValueError(f"{found[files[1]]}: expected class ids 0 to 9, got {labels.max()}")
    # fashion_mini uses the statistics of the whole set, so that a model may move from one to the other.
    mean, std = ((0.2860,), (0.3530,)) if fashion else ((0.1307,), (0.3081,))
    return ArrayDataset(images, labels, classes, mean=mean, std=std, name=name)


# ---------------------------------------------------------------- CIFAR, the binary version (no pickle)

_CIFAR = {
    "cifar10": {
        "resource": Resource(
            "cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            {
                "sha256": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                "md5": "c32a1d4ab5d03f1284b67883e8d87530",
            },
        ),
        "folder": "cifar-10-batches-bin",
        "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test": ["test_batch.bin"],
        "label_bytes": 1,
        "classes": _CIFAR10_CLASSES,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    },
    "cifar100": {
        "resource": Resource(
            "cifar-100-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            {
                "sha256": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                "md5": "03b5dce01913d631647c71ecec9e9cb8",
            },
        ),
        "folder": "cifar-100-binary",
        "train": ["train.bin"],
        "test": ["test.bin"],
        "label_bytes": 2,  # coarse, then fine; the fine one is used
        "classes": _CIFAR100_NAMES.split(),
        "mean": (0.5071, 0.4865, 0.4409),
        "std": (0.2673, 0.2564, 0.2762),
    },
}


def _cifar_blobs(name, split, root, download):
    """(path for messages, bytes) of each file of a split, from the unpacked folder or from the archive."""
    info = _CIFAR[name]
    base = [Path(root), Path(root) / name] if root is not None else [cache_dir() / name, SYSTEM_DIR / name]
    for folder in [f / info["folder"] for f in base] + base:
        if all((folder / f).is_file() for f in info[split]):
            return [(folder / f, (folder / f).read_bytes()) for f in info[split]]
    archives = [f / info["resource"].name for f in base]
    archive = next((a for a in archives if a.is_file()), None)
    if archive is None:
        if not download:
            where = "\n  ".join(str(f) for f in base)
            raise FileNotFoundError(
                f"{name}: expected {info['resource'].name}, or its folder {info['folder']}, in one of\n"
                f"  {where}\npass download=True (the 'python' archive is a pickle and is not read)"
            )
        archive = fetch(info["resource"], base[1] if root is not None else base[0], name)
    import tarfile

    limit = 10000 * (3072 + info["label_bytes"]) * 5
    blobs = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                leaf = member.name.rsplit("/", 1)[-1]
                if member.isfile() and leaf in info[split]:
                    if member.size > limit:
                        raise ValueError(
                            f"{archive}: expected at most {limit} bytes in {leaf}, got {member.size}"
                        )
                    blobs[leaf] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive}: damaged or truncated archive: {error}") from error
    absent = [f for f in info[split] if f not in blobs]
    if absent:
        raise ValueError(
            f"{archive}: expected {', '.join(absent)} in it, got {', '.join(blobs) or 'none of them'}"
        )
    return [(archive / f, blobs[f]) for f in info[split]]


def _load_cifar(name, split, root, download):
    info = _CIFAR[name]
    record = info["label_bytes"] + 3072
    images, labels = [], []
    for path, blob in _cifar_blobs(name, split, root, download):
        if not blob or len(blob) % record:
            raise ValueError(f"{path}: expected a multiple of {record} bytes, got {len(blob)}")
        rows = np.frombuffer(blob, np.uint8).reshape(-1, record)
        y = rows[:, info["label_bytes"] - 1]
        if y.max() >= len(info["classes"]):
            raise ValueError(f"{path}: expected class ids 0 to {len(info['classes']) - 1}, got {y.max()}")
        labels.append(y)
        images.append(rows[:, info["label_bytes"] :].reshape(-1, 3, 32, 32))
    return ArrayDataset(
        np.concatenate(images), np.concatenate(labels), info["classes"], mean=info["mean"], std=info["std"],
        layout="NCHW", name=name,
    )  # fmt: skip


# ---------------------------------------------------------------- by name

_LOADERS = {
    "fashion_mini": _load_idx,
    "fashion_mnist": _load_idx,
    "mnist": _load_idx,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
}


def list_datasets():
    """Names that load() knows; "imagefolder:PATH" and "arrays:PATH" besides."""
    return sorted(_LOADERS)


def load(name, split="train", root=None, download=True, **kwargs):
    """Loads a dataset by name.

    Args:
        name: "fashion_mini" (6,000 + 1,000 images, in the package), "fashion_mnist", "mnist", "cifar10",
            "cifar100", "imagefolder:PATH" (`PATH/<split>/<class>/*.png`; or `PATH/<class>/*.png`: all "train"),
            "arrays:PATH" (a .npz or .safetensors file, see ArrayDataset.from_file).
        split: "train" or "test"; an image folder may have others, e.g. "val".
        root: folder to look in, and to download to. Default: the system's dataset folder, then the cache
            ($FASTCNN_HOME, else the user's cache folder).
        download: fetch what is missing; its checksum is verified.
        kwargs: for "imagefolder:PATH" arguments of ImageFolder such as image_size=64; for "arrays:PATH" of
            ArrayDataset.from_file.
    Raises: ValueError for an unknown name (with near matches), split, or a damaged file; FileNotFoundError;
        DownloadError (an OSError) that says where to put the files by hand.
    """
    if not isinstance(name, str):
        raise TypeError(f"load: expected a dataset name, got {type(name).__name__}")
    kind, _, path = name.partition(":")
    if path and kind in ("imagefolder", "arrays"):
        path = Path(path).expanduser() if root is None else Path(root).expanduser() / path
        if kind == "arrays":
            return ArrayDataset.from_file(path, split, **kwargs)
        return ImageFolder(folder_for_split(path, split), **kwargs)
    if name not in _LOADERS:
        import difflib

        key = name.lower().replace("-", "_")
        near = difflib.get_close_matches(key, _LOADERS, n=3, cutoff=0.5)
        near += [n for n in list_datasets() if n.replace("_", "") == key.replace("_", "") and n not in near]
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"known: {', '.join(list_datasets())}"
        )
        raise ValueError(f"load: unknown dataset {name!r}; {hint} (or 'imagefolder:PATH', 'arrays:PATH')")
    if split not in ("train", "test"):
        raise ValueError(f"load: expected split 'train' or 'test' for {name}, got {split!r}")
    if kwargs:
        raise TypeError(f"load: {name} takes no {', '.join(sorted(kwargs))}")
    return _LOADERS[name](name, split, None if root is None else Path(root).expanduser(), download)


def export_idx(dataset, folder, split="train"):
    """Writes a one-channel uint8 dataset as plain IDX files with MNIST's names, for programs in C++.

    Args: dataset: with uint8 images (N, H, W, 1) and class ids below 256. split: "train" or "test".
    Returns the two paths.
    """
    images, labels = dataset.images, dataset.labels
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 1:
        got = None if images is None else f"{images.shape} {images.dtype}"
        raise ValueError(f"export_idx: expected uint8 images (N, H, W, 1) in memory, got {got}")
    if labels.ndim != 1 or (labels.size and not 0 <= labels.min() <= labels.max() < 256):
        raise ValueError(f"export_idx: expected class ids 0 to 255, got labels {labels.shape}")
    if split not in _IDX_NAMES:
        raise ValueError(f"export_idx: expected split 'train' or 'test', got {split!r}")
    paths = [Path(folder) / name for name in _IDX_NAMES[split]]
    write_idx(paths[0], images[..., 0])
    write_idx(paths[1], labels.astype(np.uint8))
    return paths
