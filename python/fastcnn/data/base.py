"""ImageDataset, the protocol between datasets, DataLoader and trainer; Subset, ConcatDataset, random_split.

A dataset answers for single samples (ds[i]) and for batches of raw pixels (raw_batch); batches are augmented
and normalised whole, which is why it is the loader that calls normalize. Reading files is not done here.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os

import numpy as np

from .._philox import SPLIT_STREAM, permutation

_log = logging.getLogger("fastcnn.data")


class SampleError(RuntimeError):
    """Reading or transforming a sample failed; the cause is chained.

    Attributes: index: its number in the dataset; the list of numbers where a batch failed as a whole. path: its file,
    or None.
    """

    def __init__(self, index, error, path=None):
        what = f"sample {index}"
        if isinstance(index, list):
            rest = f" and {len(index) - 10} more" if len(index) > 10 else ""
            what = f"samples {', '.join(map(str, index[:10]))}{rest}"
        where = "" if path is None or str(path) in str(error) else f" ({path})"
        super().__init__(f"{what}{where} failed: {type(error).__name__}: {error}")
        self.index, self.path = index, path
        self._made_of = index, error, path

    def __reduce__(self):
        # Of its message alone, as exceptions are copied, it cannot be made: pools of processes would wait for ever.
        return type(self), self._made_of


def aligned_empty(shape, dtype):
    """np.empty whose first byte lies on a 64-byte boundary, so that a tensor can take it without a copy."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + nbytes].view(dtype).reshape(shape)


def check_on_error(op, on_error):
    """on_error; ValueError unless "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"{op}: expected on_error 'raise' or 'skip', got {on_error!r}")
    return on_error


def channel_stats(op, mean, std, channels):
    """[mean, std] as tuples of a float per channel, from one number or one per channel; None stays. ValueError."""
    result = []
    for what, value in (("mean", mean), ("std", std)):
        if value is not None:
            array = np.atleast_1d(np.asarray(value, np.float64))
            if array.shape not in ((1,), (channels,)) or not np.isfinite(array).all():
                raise ValueError(f"{op}: expected {what} of 1 or {channels} finite numbers, got {value}")
            if what == "std" and (array <= 0).any():
                raise ValueError(f"{op}: expected std > 0, got {value}")
            value = tuple(float(x) for x in np.broadcast_to(array, (channels,)))
        result.append(value)
    return result


class ImageDataset:
    """Images with labels. Subclasses set the attributes below and define __len__ and raw(i), or raw_batch.

    classes: list of names or None; num_classes: int or None (no class ids); in_channels; image_size: (H, W);
    mean, std: per channel, of pixels scaled to [0, 1]; images: (N, H, W, C) array when in memory, else None;
    labels: int64 array (N, ...) where known without reading the images, else None.

    What a label is, so that transforms move it with its image: target_type "label"; "mask", an array (H, W) or
    (K, H, W), where ignore_index (or 0) fills what was outside the image; "detection", a dict of boxes (n, 4) in
    pixels, xyxy, labels (n,), perhaps masks (n, H, W), keypoints (n, k, 3 of x, y, visible), area and other arrays of
    n rows; keypoint_pairs: numbers of keypoints that change places in mirrored images. per_sample: the loader has to
    go image by image, for sizes differ. on_error: "raise", or "skip" for a loader that leaves out what cannot be read.
    """

    classes = None
    num_classes = None
    in_channels = None
    image_size = None
    mean = None
    std = None
    images = None
    labels = None
    name = None
    target_type = "label"
    ignore_index = None
    keypoint_pairs = ()
    per_sample = False
    on_error = "raise"
    has_raw = True  # False where a wrapper holds a dataset that only knows ds[i]

    def __len__(self):
        raise NotImplementedError

    def raw(self, index):
        """(pixels (H, W, C) uint8, or float32 in [0, 1]; label) of a sample with 0 <= index < len."""
        raise NotImplementedError

    def read(self, indices):
        """[(place in indices, pixels, label)] of samples; SampleError tells which one failed.

        With on_error="skip" those whose file is missing or damaged are left out, and a warning in the log says so.
        """
        samples = []
        for place, i in enumerate(indices):
            try:
                image, label = self.raw(int(i))
            except Exception as error:
                if self.on_error != "skip" or not isinstance(error, (OSError, ValueError)):
                    raise SampleError(int(i), error) from error
                _log.warning("sample %d is left out: %s: %s", i, type(error).__name__, error)
                continue
            image = np.asarray(image)
            if image.ndim != 3:
                error = ValueError(f"expected raw() to give pixels (H, W, C), got shape {image.shape}")
                raise SampleError(int(i), error) from error
            samples.append((place, image, label))
        return samples

    def raw_batch(self, indices):
        """(pixels (N, H, W, C), labels (N, ...)) of samples; SampleError tells which one failed."""
        samples = self.read(indices)
        pixels = [image for _, image, _ in samples]
        for place, image, _ in samples:
            if image.shape != pixels[0].shape or image.dtype != pixels[0].dtype:
                error = ValueError(
                    f"expected the batch's image shape {pixels[0].shape} {pixels[0].dtype}, "
                    f"got {image.shape} {image.dtype}; pass image_size= to resize"
                )
                raise SampleError(int(indices[place]), error) from error
        numbers = [int(indices[place]) for place, _, _ in samples]
        return np.stack(pixels), stack_labels([label for _, _, label in samples], numbers)

    def normalize(self, pixels):
        """(pixels in [0, 1] - mean) / std of raw pixels (N, H, W, C): a new float32 array of that shape.

        Raises: ValueError for pixels of other shapes and of integers other than uint8, whose range nobody knows.
        """
        pixels = np.asarray(pixels)
        if pixels.ndim != 4 or (pixels.dtype != np.uint8 and pixels.dtype.kind not in "fb"):
            raise ValueError(
                f"{type(self).__name__}: expected pixels (N, H, W, C) of uint8, or of floats in [0, 1], got "
                f"{pixels.shape} of {pixels.dtype}"
            )
        scale, shift = self._scale_shift(pixels.dtype)
        out = aligned_empty(pixels.shape, np.float32)
        if scale.size > 1:
            # A last axis of 3 makes NumPy loop three elements at a time: widen it to a whole row.
            width = pixels.shape[2]
            scale, shift = np.tile(scale, width), np.tile(shift, width)
            rows = (*pixels.shape[:2], width * pixels.shape[3])
            pixels, flat = np.ascontiguousarray(pixels).reshape(rows), out.reshape(rows)
        else:
            flat = out
        np.multiply(pixels, scale, out=flat, casting="unsafe")
        if shift.any():
            np.add(flat, shift, out=flat)
        return out

    def _scale_shift(self, dtype):
        unit = np.float64(255.0 if dtype == np.uint8 else 1.0)
        mean = np.zeros(1) if self.mean is None else np.asarray(self.mean, np.float64)
        std = np.ones(1) if self.std is None else np.asarray(self.std, np.float64)
        mean, std = np.broadcast_arrays(mean, std)
        return (1.0 / (unit * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def _path(self, index):
        """The file of a sample for messages, where there is a list `samples` of paths or (path, ...); else None."""
        samples = getattr(self, "samples", None)
        entry = samples[index] if isinstance(samples, (list, tuple)) and index < len(samples) else None
        entry = entry[0] if isinstance(entry, tuple) and entry else entry
        return entry if isinstance(entry, (str, os.PathLike)) else None

    def _index(self, index):
        try:
            i = operator.index(index)
        except TypeError:
            raise TypeError(f"dataset: expected an int index, got {type(index).__name__}") from None
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"dataset: expected an index in [-{n}, {n}), got {i}")
        return i % n

    def __getitem__(self, index):
        """(image (C, H, W) float32, normalised, channels-last in memory; label: int, or an array)."""
        image, label = self.raw(self._index(index))
        image = self.normalize(np.asarray(image)[None])[0].transpose(2, 0, 1)
        return image, int(label) if np.ndim(label) == 0 and np.asarray(label).dtype.kind in "iu" else label

    def __repr__(self):
        size = "?" if self.image_size is None else "x".join(map(str, self.image_size))
        name = f"{self.name}, " if self.name else ""
        return (
            f"{type(self).__name__}({name}{len(self)} images, {self.in_channels} x {size}, "
            f"{self.num_classes} classes)"
        )


def _label_array(labels):
    array = np.asarray(labels)
    return array.astype(np.int64 if array.dtype.kind in "iub" else np.float32, copy=False)


def stack_labels(values, indices):
    """Labels of all samples as an array: ids, masks, or numbers, (N, ...). SampleError of the first that does not fit.

    indices: numbers of the samples, for messages. Labels None, of images for prediction or a GAN, are nan.
    """
    if all(v is None for v in values):
        return np.full(len(values), np.nan, np.float32)
    arrays = [np.asarray(v) for v in values]
    for i, a, value in zip(indices, arrays, values, strict=True):
        if a.dtype.kind not in "iubf":
            error = TypeError(f"label: expected numbers, got {type(value).__name__}")
            raise SampleError(int(i), error) from error
        if a.shape != arrays[0].shape:
            error = ValueError(f"label: expected shape {arrays[0].shape} as in sample {indices[0]}, got {a.shape}")
            raise SampleError(int(i), error) from error
    return _label_array(np.stack(arrays))


def path_of(dataset, index):
    """The file of a sample of any dataset, for messages; None where there is none."""
    return dataset._path(index) if isinstance(dataset, ImageDataset) else None


_METADATA = (
    "classes", "num_classes", "in_channels", "image_size", "mean", "std", "name", "target_type", "ignore_index",
    "per_sample", "on_error", "keypoint_pairs",
)  # fmt: skip


def copy_metadata(target, source):
    """Gives target the names of classes and what else describes source."""
    for name in _METADATA:
        setattr(target, name, getattr(source, name, getattr(ImageDataset, name)))


@contextlib.contextmanager
def _renumbered(number):
    """SampleErrors of a part come out with the numbers of the whole; number: f(index in the part)."""
    try:
        yield
    except SampleError as error:
        raise SampleError(number(error.index), error.__cause__ or error) from error.__cause__


class Subset(ImageDataset):
    """Some samples of a dataset, in the order of `indices` (IndexError unless in [0, len(dataset)))."""

    def __init__(self, dataset, indices):
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(f"Subset: expected a list of ints, got shape {indices.shape} of {indices.dtype}")
        indices = indices.astype(np.int64)
        bad = indices[(indices < 0) | (indices >= len(dataset))]
        if bad.size:
            raise IndexError(f"Subset: expected indices in [0, {len(dataset)}), got {bad[0]}")
        self.dataset, self.indices = dataset, indices
        self.has_raw = getattr(dataset, "has_raw", False)
        copy_metadata(self, dataset)

    @property
    def images(self):
        """The images as one array in the order of the samples, or None where they are not in memory."""
        images = getattr(self.dataset, "images", None)
        return None if images is None else images[self.indices]

    @property
    def labels(self):
        """The labels as one array in the order of the samples, or None where there are none."""
        labels = getattr(self.dataset, "labels", None)
        return None if labels is None else labels[self.indices]

    def __len__(self):
        return len(self.indices)

    def _path(self, index):
        return path_of(self.dataset, int(self.indices[index]))

    def raw(self, index):
        return self.dataset.raw(int(self.indices[index]))

    def _inner(self, indices):
        """(numbers in the dataset, context that renumbers errors)."""
        indices = np.asarray(indices, np.int64)
        inner = self.indices[indices]
        return inner, _renumbered(lambda i: int(indices[inner == i][0]))

    def read(self, indices):
        inner, renumbered = self._inner(indices)
        with renumbered:
            return self.dataset.read(inner)

    def raw_batch(self, indices):
        inner, renumbered = self._inner(indices)
        with renumbered:
            return self.dataset.raw_batch(inner)

    def __getitem__(self, index):
        return self.dataset[int(self.indices[self._index(index)])]


class ConcatDataset(ImageDataset):
    """Datasets one after another; their channels, sizes, mean, std and classes must agree (ValueError)."""

    def __init__(self, datasets):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: expected at least one dataset, got none")
        copy_metadata(self, self.datasets[0])
        for k, other in enumerate(self.datasets[1:], 1):
            varied = self.per_sample or getattr(other, "per_sample", False)
            same = ("in_channels", "num_classes", "classes", "mean", "std", "target_type", "ignore_index")
            for what in same if varied else (*same, "image_size"):
                a, b = getattr(self, what), getattr(other, what, getattr(ImageDataset, what))
                if (a is None) != (b is None) or (a is not None and list(np.ravel(a)) != list(np.ravel(b))):
                    raise ValueError(
                        f"ConcatDataset: expected {what} {a} as in dataset 0, got {b} in dataset {k}"
                    )
        dtypes = [None if d is None else d.dtype for d in (getattr(d, "labels", None) for d in self.datasets)]
        known = [(k, d) for k, d in enumerate(dtypes) if d is not None]
        for k, dtype in known[1:]:
            if (dtype.kind == "f") != (known[0][1].kind == "f"):
                raise ValueError(
                    f"ConcatDataset: expected labels of {known[0][1]} as in dataset {known[0][0]}, got {dtype} in "
                    f"dataset {k}"
                )
        pairs = [p for p in (getattr(d, "keypoint_pairs", ()) for d in self.datasets) if len(p)]
        for other in pairs[1:]:
            if list(np.ravel(other)) != list(np.ravel(pairs[0])):
                raise ValueError(f"ConcatDataset: expected the same keypoint_pairs, got {pairs[0]} and {other}")
        self.keypoint_pairs = pairs[0] if pairs else ()
        self.has_raw = all(getattr(d, "has_raw", False) for d in self.datasets)
        self.per_sample = any(getattr(d, "per_sample", False) for d in self.datasets)
        self._ends = np.cumsum([len(d) for d in self.datasets])

    @property
    def images(self):
        """The images as one array in the order of the samples, or None where they are not in memory."""
        parts = [getattr(d, "images", None) for d in self.datasets]
        return None if any(p is None for p in parts) else np.concatenate(parts)

    @property
    def labels(self):
        """The labels as one array in the order of the samples, or None where there are none."""
        parts = [getattr(d, "labels", None) for d in self.datasets]
        return None if any(p is None for p in parts) else np.concatenate(parts)

    def __len__(self):
        return int(self._ends[-1])

    def _locate(self, indices):
        which = np.searchsorted(self._ends, indices, side="right")
        return which, indices - np.concatenate(([0], self._ends))[which]

    def _path(self, index):
        which, local = self._locate(np.int64(index))
        return path_of(self.datasets[which], int(local))

    def raw(self, index):
        which, local = self._locate(np.int64(index))
        return self.datasets[which].raw(int(local))

    def _parts(self, indices):
        """Yields per dataset (its number, places in indices, numbers in it, context that renumbers errors)."""
        indices = np.asarray(indices, np.int64)
        which, local = self._locate(indices)
        for k in np.unique(which):
            places, start = np.flatnonzero(which == k), 0 if k == 0 else int(self._ends[k - 1])
            yield k, places, local[places], _renumbered(lambda i, start=start: start + i)

    def read(self, indices):
        samples = []
        for k, places, local, renumbered in self._parts(indices):
            with renumbered:
                found = self.datasets[k].read(local)
            samples += [(int(places[place]), image, label) for place, image, label in found]
        return sorted(samples, key=lambda sample: sample[0])

    def raw_batch(self, indices):
        pixels = labels = None
        for k, rows, local, renumbered in self._parts(indices):
            with renumbered:
                p, y = self.datasets[k].raw_batch(local)
            if pixels is None:
                pixels, labels = (
                    np.empty((len(indices), *p.shape[1:]), p.dtype),
                    np.empty((len(indices), *y.shape[1:]), y.dtype),
                )
            for what, part, whole in (("images", p, pixels), ("labels", y, labels)):
                if part.shape[1:] != whole.shape[1:] or part.dtype != whole.dtype:
                    raise ValueError(
                        f"ConcatDataset: expected {what} {whole.shape[1:]} {whole.dtype} as before, "
                        f"got {part.shape[1:]} {part.dtype} from dataset {k}"
                    )
            pixels[rows], labels[rows] = p, y
        return pixels, labels

    def __getitem__(self, index):
        which, local = self._locate(np.int64(self._index(index)))
        return self.datasets[which][int(local)]


def random_split(dataset, lengths, seed=0):
    """Splits a dataset at random into Subsets without overlap.

    Args: lengths: ints that sum to len(dataset), or fractions that sum to 1 (what rounding leaves goes to the
    first
    parts). seed: the split depends on it and on the length alone.
    """
    n = len(dataset)
    lengths = list(lengths)
    if lengths and all(isinstance(x, float) for x in lengths):
        if min(lengths) < 0 or abs(sum(lengths) - 1.0) > 1e-6:
            raise ValueError(f"random_split: expected fractions >= 0 that sum to 1, got {lengths}")
        sizes = [int(n * x + 1e-9) for x in lengths]
        for k in range(n - sum(sizes)):
            sizes[k % len(sizes)] += 1
        lengths = sizes
    if not lengths or min(lengths) < 0 or sum(lengths) != n:
        raise ValueError(f"random_split: expected lengths that sum to {n}, got {lengths}")
    order = permutation(n, seed, stream=SPLIT_STREAM)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(lengths)[:-1])]
