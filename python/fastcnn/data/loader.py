"""DataLoader: batches of a dataset in a reproducible order, optionally prepared ahead by threads.

Threads, never processes: nothing is forked or pickled, and NumPy and Pillow release the GIL in their loops.
It does not move data to a device.
"""

from __future__ import annotations

import operator
import os
import threading
import time
import weakref

import numpy as np

from .. import _core
from .._philox import SampleRng, _check_seed, permutation
from .base import SampleError, path_of, stack_labels
from .collate import (
    collate_detection,
    stack,
    stack_field,
    transform_detection,
    transform_images,
    transform_masks,
    with_fields,
)
from .samplers import as_sampler, occurrences

_JOIN_S = 2.0  # how long leaving a loop waits for threads in the middle of a sample


class DataLoader:
    """Iterates over batches, NumPy arrays: images float32 (N, C, H, W), channels-last memory; labels int64.

    Args:
        dataset: an ImageDataset, or anything with len and ds[i]; then each field is stacked (3-D arrays
            as images).
        batch_size, shuffle, drop_last: as usual.
        num_workers: threads that prepare batches; 0 prepares each when it is asked for.
        seed: the order and the random numbers of `transform` depend only on (seed, epoch, sample), not
            on threads.
        prefetch: with threads, batches kept ready besides those being made.
        transform: f(images (N, C, H, W), rng: SampleRng) -> images, on the raw pixels of the batch, before
            they are normalised; see fastcnn.augment, whose transforms move masks, boxes and keypoints of
            segmentation and detection datasets too. For a plain dataset it gets the stacked images. One that holds
            augment.Normalize normalises instead of the dataset's mean and std.
        collate_fn: f(list of samples) -> batch, instead of stacking; for datasets that give other things. Of an
            ImageDataset the samples are (image (C, H, W), label), transformed and normalised.
        sampler: a sampler (WeightedRandomSampler, BalancedSampler, ...) or a list of ints instead of every sample
            once; not together with shuffle. A sample that comes again in an epoch is augmented differently.
        shard: (index, count): of an epoch's samples every count-th from index on, for the processes of a job (see
            fastcnn.distributed; with the same seed in each). The order is filled up from its beginning, so that every
            shard has as many.
        min_visibility: of detection, the share of a box's area that has to stay in the image; others go.

    Batches of a detection dataset are (images, list of target dicts), see collate_detection. Where images differ in
    size (see ImageFolder) the transform runs image by image. Each iter() is one epoch: the first is epoch 0, or what
    set_epoch or load_state_dict said. Leaving a loop early stops the threads; one that is stuck in a sample ends after
    it, or with the process. An error in a sample or its transform is raised as SampleError with its index and file.
    Of a dataset with on_error="skip" batches without any sample are left out; SampleError where an epoch has none.
    """

    def __init__(
        self, dataset, batch_size=1, shuffle=False, num_workers=0, drop_last=False, seed=0, prefetch=2,
        *, transform=None, collate_fn=None, sampler=None, min_visibility=0.0, shard=None,
    ):  # fmt: skip
        self.batch_size = _count("batch_size", batch_size, 1)
        self.num_workers = _count("num_workers", num_workers, 0)
        self.prefetch = _count("prefetch", prefetch, 1)
        self.seed = _check_seed("DataLoader", seed)
        for what, f in (("transform", transform), ("collate_fn", collate_fn)):
            if f is not None and not callable(f):
                raise TypeError(f"DataLoader: expected a callable {what}, got {type(f).__name__}")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(f"DataLoader: expected a dataset with len() and ds[i], got {type(dataset).__name__}")
        self.dataset, self.shuffle, self.drop_last = dataset, bool(shuffle), bool(drop_last)
        self.transform, self.collate_fn = transform, collate_fn
        self.sampler = as_sampler(sampler)
        if self.sampler is not None and shuffle:
            raise ValueError("DataLoader: expected shuffle or a sampler, got both")
        if not 0 <= min_visibility <= 1:
            raise ValueError(f"DataLoader: expected min_visibility in [0, 1], got {min_visibility}")
        self.min_visibility = float(min_visibility)
        self.shard = _check_shard(shard)
        self._raw = getattr(dataset, "has_raw", False)
        self._target = getattr(dataset, "target_type", "label")
        self._by_sample = self._raw and (
            collate_fn is not None
            or getattr(dataset, "per_sample", False)
            or getattr(dataset, "on_error", "raise") == "skip"
            or self._target == "detection"
        )
        if transform is not None and collate_fn is not None and not self._raw:
            raise TypeError(
                f"DataLoader: collate_fn of a {type(dataset).__name__}, which is no ImageDataset, gets samples as they "
                "are: apply the transform in the dataset or in collate_fn"
            )
        self._next_epoch, self._start = 0, 0  # where the next iter() begins (_start in samples)
        self._epoch, self._position = 0, 0  # where the running one is
        self._run = 0  # tells a running iterator from those left behind

    def __len__(self):
        """Batches of a whole epoch; with on_error="skip" at most so many."""
        n = self._epoch_length()
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    @property
    def epoch(self):
        """The epoch being iterated; before the first iter(), and after state is loaded, the one to come."""
        return self._epoch

    def set_epoch(self, epoch):
        """The next iter() starts this epoch from its beginning."""
        epoch = _count("epoch", epoch, 0)
        self._next_epoch, self._start = epoch, 0
        self._epoch, self._position = epoch, 0
        self._run += 1

    def state_dict(self):
        """Where the loop is, counted in what it has received; what threads have prepared does not count."""
        epoch, position = self._epoch, self._position
        if position and position >= self._samples():
            epoch, position = epoch + 1, 0
        return {
            "epoch": epoch, "position": position, "seed": self.seed, "shuffle": self.shuffle,
            "length": len(self.dataset), "sampler": self._tag(), "shards": self.shard[1],
        }  # fmt: skip

    def load_state_dict(self, state):
        """The next iter() yields exactly the samples still to come, whatever batch_size and num_workers.

        Raises: ValueError if dataset length, shuffle or sampler differ, or the state is damaged.
        """
        missing = {"epoch", "position", "seed", "shuffle", "length"} - set(state)
        if missing:
            raise ValueError(f"DataLoader: expected {', '.join(sorted(missing))} in the state, got {sorted(state)}")
        if state["length"] != len(self.dataset):
            raise ValueError(
                f"DataLoader: the state is of {state['length']} samples, the dataset has {len(self.dataset)}"
            )
        if bool(state["shuffle"]) != self.shuffle:
            raise ValueError(f"DataLoader: the state has shuffle={state['shuffle']}, this loader {self.shuffle}")
        if state.get("sampler") != self._tag():
            raise ValueError(f"DataLoader: the state has sampler {state.get('sampler')}, this loader {self._tag()}")
        position = _count("position", state["position"], 0)
        if position and state.get("shards", 1) != self.shard[1]:
            raise ValueError(
                f"DataLoader: the state is within an epoch of {state.get('shards', 1)} shards, this loader has "
                f"{self.shard[1]}"
            )
        if position > self._epoch_length():
            raise ValueError(f"DataLoader: expected position up to {self._epoch_length()}, got {position}")
        self.seed = _check_seed("DataLoader", state["seed"])
        self.set_epoch(state["epoch"])
        self._start = self._position = position

    def _tag(self):
        return None if self.sampler is None else self.sampler.tag()

    def _epoch_length(self):
        return -(-len(self.dataset if self.sampler is None else self.sampler) // self.shard[1])

    def _samples(self):
        """Samples an epoch yields."""
        n = self._epoch_length()
        return n // self.batch_size * self.batch_size if self.drop_last else n

    def order(self, epoch):
        """The sample numbers of an epoch in order, int64; (len(dataset),) without a sampler and shards."""
        return self._share(self._whole_order(epoch))

    def _share(self, order):
        index, count = self.shard
        return order if count == 1 else np.resize(order, count * self._epoch_length())[index::count]

    def _stream_numbers(self, epoch):
        """order(), with another number for each time that a sample comes: those of the random streams."""
        order = self._whole_order(epoch)
        return self._share(order if self.sampler is None else occurrences(order, len(self.dataset)))

    def _whole_order(self, epoch):
        n = len(self.dataset)
        if self.sampler is None:
            return permutation(n, self.seed, epoch) if self.shuffle else np.arange(n)
        order = np.asarray(self.sampler.order(self.seed, epoch))
        if order.shape != (len(self.sampler),) or order.dtype.kind not in "iu":
            raise ValueError(
                f"DataLoader: expected the sampler to give {len(self.sampler)} ints, got shape {order.shape} of "
                f"{order.dtype}"
            )
        if order.size and not 0 <= order.min() <= order.max() < n:
            raise IndexError(
                f"DataLoader: expected the sampler to give indices in [0, {n}), got {order.min()} to {order.max()}"
            )
        return order.astype(np.int64, copy=False)

    def __iter__(self):
        epoch, start = self._next_epoch, self._start
        self._epoch, self._position = epoch, start
        self._next_epoch, self._start = epoch + 1, 0
        self._run += 1
        return _Iterator(self, epoch, start)

    def __repr__(self):
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"num_workers={self.num_workers}, drop_last={self.drop_last}, seed={self.seed}"
            + (f", sampler={self._tag()}" if self.sampler is not None else "")
            + (f", shard={self.shard})" if self.shard[1] > 1 else ")")
        )

    # ---------------------------------------------------------------- one batch

    def _batch(self, numbers, epoch):
        """numbers: of the random streams; a sample that comes again in an epoch has len(dataset) more each time."""
        indices = numbers % max(len(self.dataset), 1)
        try:
            return self._made(indices, numbers, epoch)
        except SampleError as error:
            path = None if isinstance(error.index, list) else path_of(self.dataset, error.index)
            if path is None:
                raise
            cause = error.__cause__ or error
            raise SampleError(error.index, cause, path) from cause

    def _made(self, indices, numbers, epoch):
        if self._by_sample:
            return self._batch_by_sample(indices, numbers, epoch)
        if self._raw:
            pixels, labels = self.dataset.raw_batch(indices)
            if self.transform is not None:
                images, labels = self._transformed(pixels.transpose(0, 3, 1, 2), labels, indices, numbers, epoch)
                pixels = images.transpose(0, 2, 3, 1)
            return self._normalize(pixels).transpose(0, 3, 1, 2), labels
        samples = []
        for i in indices:
            try:
                samples.append(self.dataset[int(i)])
            except Exception as error:
                raise SampleError(int(i), error) from error
        if self.collate_fn is not None:
            return self.collate_fn(samples)
        fields = stack(samples, indices)
        if self.transform is not None:
            images, *others = fields if isinstance(fields, tuple) else (fields,)
            images, _ = self._transformed(images, indices, indices, numbers, epoch)
            fields = with_fields(fields, (images, *others)) if isinstance(fields, tuple) else images
        return fields

    def _transformed(self, images, labels, indices, numbers, epoch):
        """(images (N, C, H, W), labels) of a batch, transformed; the SampleError is of the first that fails alone."""
        rng = SampleRng(self.seed, epoch, numbers)
        try:
            if self._raw and self._target == "mask":
                return transform_masks(self.transform, images, labels, rng, self.dataset.ignore_index)
            return transform_images(self.transform, images, rng), labels
        except Exception as error:
            if len(indices) == 1:
                raise SampleError(int(indices[0]), error) from error
            for k in range(len(indices)):
                one = slice(k, k + 1)
                self._transformed(images[one], labels[one], indices[one], numbers[one], epoch)
            raise SampleError(indices.tolist(), error) from error

    def _batch_by_sample(self, indices, numbers, epoch):
        read = self.dataset.read(indices)
        if not read:
            raise _NothingRead
        samples = []
        for place, pixels, label in read:
            try:
                samples.append(self._prepared(pixels, label, SampleRng(self.seed, epoch, numbers[place : place + 1])))
            except Exception as error:
                raise SampleError(int(indices[place]), error) from error
        if self.collate_fn is None and self._target != "detection":
            return self._stacked(samples, [indices[place] for place, _, _ in read])
        samples = [(self._normalized(pixels), label) for pixels, label in samples]
        return collate_detection(samples) if self.collate_fn is None else self.collate_fn(samples)

    def _stacked(self, samples, kept):
        """(images, labels) of samples of one size; kept: their numbers."""
        if len({(pixels.shape, pixels.dtype) for pixels, _ in samples}) == 1:  # normalised whole, into memory made once
            images = self._normalize(np.stack([pixels for pixels, _ in samples])).transpose(0, 3, 1, 2)
            return images, stack_labels([label for _, label in samples], kept)
        samples = [(self._normalized(pixels), label) for pixels, label in samples]
        hint = "; pass image_size= to resize, or a transform that gives one size"
        images = stack_field([image for image, _ in samples], kept, "image", hint)
        return images, stack_labels([label for _, label in samples], kept)

    def _prepared(self, pixels, label, rng):
        """(pixels (H, W, C), label) of one sample, transformed."""
        if self.transform is not None:
            images = pixels[None].transpose(0, 3, 1, 2)
            if self._target == "detection":
                pairs = getattr(self.dataset, "keypoint_pairs", ())
                images, label = transform_detection(self.transform, images, label, rng, self.min_visibility, pairs)
            elif self._target == "mask":
                fill = self.dataset.ignore_index
                images, label = transform_masks(self.transform, images, np.asarray(label)[None], rng, fill)
                label = label[0]
            else:
                images = transform_images(self.transform, images, rng)
            pixels = images[0].transpose(1, 2, 0)
        return pixels, int(label) if np.ndim(label) == 0 and np.asarray(label).dtype.kind in "iu" else label

    def _normalized(self, pixels):
        """The image (C, H, W) of raw pixels (H, W, C)."""
        return self._normalize(pixels[None])[0].transpose(2, 0, 1)

    def _normalize(self, pixels):
        """float32 of pixels (N, H, W, C): by the dataset, unless the transform has done it."""
        if getattr(self.transform, "normalizes", False):
            return np.ascontiguousarray(pixels, np.float32)
        return self.dataset.normalize(pixels)


class _NothingRead(Exception):
    """None of a batch's samples can be read, and on_error="skip"."""


def _count(what, value, low):
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"DataLoader: expected an int as {what}, got {type(value).__name__}") from None
    if value < low:
        raise ValueError(f"DataLoader: expected {what} >= {low}, got {value}")
    return value


def _check_shard(shard):
    index, count = (0, 1) if shard is None else shard
    index, count = _count("the index of shard", index, 0), _count("the count of shard", count, 1)
    if index >= count:
        raise ValueError(f"DataLoader: expected a shard (index, count) with index < count, got {(index, count)}")
    return index, count


# ---------------------------------------------------------------- iteration


class _Iterator:
    """One epoch. The worker threads hold _Queue but never the iterator, so dropping it stops them."""

    def __init__(self, loader, epoch, start):
        self._loader, self._epoch, self._run = loader, epoch, loader._run
        order = loader._stream_numbers(epoch)[start : loader._samples()]
        size = loader.batch_size
        self._batches = [order[k : k + size] for k in range(0, len(order), size)]
        if loader.drop_last and self._batches and len(self._batches[-1]) < size:
            self._batches.pop()
        self._next, self._position, self._done = 0, start, False
        self._given = start > 0  # whether a batch of the epoch has come
        self._queue = None
        if loader.num_workers and self._batches:
            self._queue = _Queue(loader._batch, self._batches, epoch, loader.num_workers, loader.prefetch)
            self._finalizer = weakref.finalize(self, self._queue.stop)

    def __iter__(self):
        return self

    def __len__(self):
        """Batches still to come."""
        return len(self._batches) - self._next

    def __next__(self):
        empty = False
        while not self._done and self._next < len(self._batches):
            number, empty = self._next, False
            try:
                if self._queue is None:
                    batch = self._loader._batch(self._batches[number], self._epoch)
                else:
                    batch = self._queue.get(number)
            except _NothingRead:
                empty = True
            except BaseException:  # KeyboardInterrupt too: the threads stop with the loop
                self.close()
                raise
            self._next += 1
            self._position += len(self._batches[number])
            if self._loader._run == self._run:  # only the newest iterator speaks for the loader's state
                self._loader._position = self._position
            if not empty:
                self._given = True
                return batch
        self.close()
        if empty and not self._given:
            numbers = np.concatenate(self._batches) % len(self._loader.dataset)
            error = ValueError("none of the epoch's samples can be read, see the log")
            raise SampleError(numbers.tolist(), error) from error
        raise StopIteration

    def close(self):
        """Stops the threads; called at the end, on an error, and when the iterator is dropped."""
        self._done = True
        if self._queue is not None:
            self._queue.stop()
            self._queue.join()


class _Queue:
    """Batches made by threads, handed out in order; at most `window` are made or in the making ahead."""

    def __init__(self, make, batches, epoch, workers, prefetch):
        self._make, self._batches, self._epoch = make, batches, epoch
        self._window = workers - 1 + prefetch
        self._cond = threading.Condition()
        self._ready = {}  # number -> (batch, error)
        self._started = self._taken = 0
        self._stopped = False
        self._process = os.getpid()  # a fork has neither the threads nor, for sure, the lock
        # Daemons: a process that dies with a batch in the making does not wait for it.
        self._threads = [
            threading.Thread(target=self._work, name=f"fastcnn-data-{k}", daemon=True)
            for k in range(min(workers, len(batches)))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self):
        alone = _core.NumThreadsScope(1)  # noqa: F841 (workers share the cores with each other and with the step)
        while True:
            with self._cond:
                while not self._stopped and self._started < len(self._batches) and not self._may_start():
                    self._cond.wait()
                if self._stopped or self._started == len(self._batches):
                    return
                number = self._started
                self._started += 1
            try:
                result = self._make(self._batches[number], self._epoch), None
            except BaseException as error:  # noqa: BLE001 (get() raises it in the loop's thread)
                result = None, error
            with self._cond:
                if self._stopped:
                    return
                self._ready[number] = result
                self._cond.notify_all()

    def _may_start(self):
        return self._started < self._taken + self._window

    def get(self, number):
        if os.getpid() != self._process:
            raise RuntimeError("DataLoader: an iterator with num_workers > 0 ends where its process forks; iter() anew")
        with self._cond:
            while number not in self._ready:
                if self._stopped:
                    raise RuntimeError("DataLoader: the iterator was closed")
                self._cond.wait()
            batch, error = self._ready.pop(number)
            self._taken = number + 1
            self._cond.notify_all()
        if error is not None:
            raise error
        return batch

    def stop(self):
        # May run inside the garbage collector of any thread: the condition's lock is re-entrant, and nothing
        # is joined.
        if os.getpid() != self._process:
            return
        with self._cond:
            self._stopped = True
            self._ready.clear()
            self._cond.notify_all()

    def join(self):
        """Waits for the threads, but not for one that is stuck: Ctrl-C has to end the loop."""
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads if os.getpid() == self._process else ():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
