"""DataLoader: batches of a dataset in a reproducible order, optionally prepared ahead by threads.

Threads, never processes: nothing is forked or pickled, and NumPy and Pillow release the GIL in their loops.
It does not move data to a device.
"""

from __future__ import annotations

import operator
import threading
import weakref

import numpy as np

from .._philox import SampleRng, _check_seed, permutation
from .base import SampleError, _label_array, aligned_empty


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
            they are normalised; see fastcnn.augment. For a plain dataset it gets the stacked images.
        collate_fn: f(list of samples) -> batch, instead of stacking; for datasets that give other things.

    Each iter() is one epoch: the first is epoch 0, or what set_epoch or load_state_dict said. Leaving a loop
    early stops the threads. An error in a sample is raised as SampleError with its index.
    """

    def __init__(
        self, dataset, batch_size=1, shuffle=False, num_workers=0, drop_last=False, seed=0, prefetch=2,
        *, transform=None, collate_fn=None,
    ):  # fmt: skip
        self.batch_size = _count("batch_size", batch_size, 1)
        self.num_workers = _count("num_workers", num_workers, 0)
        self.prefetch = _count("prefetch", prefetch, 1)
        self.seed = _check_seed("DataLoader", seed)
        for what, f in (("transform", transform), ("collate_fn", collate_fn)):
            if f is not None and not callable(f):
                raise TypeError(f"DataLoader: expected a callable {what}, got {type(f).__name__}")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"DataLoader: expected a dataset with len() and ds[i], got {type(dataset).__name__}"
            )
        self.dataset, self.shuffle, self.drop_last = dataset, bool(shuffle), bool(drop_last)
        self.transform, self.collate_fn = transform, collate_fn
        self._raw = collate_fn is None and getattr(dataset, "has_raw", False)
        self._next_epoch, self._start = 0, 0  # where the next iter() begins (_start in samples)
        self._epoch, self._position = 0, 0  # where the running one is
        self._run = 0  # tells a running iterator from those left behind

    def __len__(self):
        """Batches of a whole epoch."""
        n = len(self.dataset)
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
            "length": len(self.dataset),
        }  # fmt: skip

    def load_state_dict(self, state):
        """The next iter() yields exactly the samples still to come, whatever batch_size and num_workers.

        Raises: ValueError if dataset length or shuffle differ, or the state is damaged.
        """
        missing = {"epoch", "position", "seed", "shuffle", "length"} - set(state)
        if missing:
            raise ValueError(
                f"DataLoader: expected {', '.join(sorted(missing))} in the state, got {sorted(state)}"
            )
        if state["length"] != len(self.dataset):
            raise ValueError(
                f"DataLoader: the state is of {state['length']} samples, the dataset has {len(self.dataset)}"
            )
        if bool(state["shuffle"]) != self.shuffle:
            raise ValueError(
                f"DataLoader: the state has shuffle={state['shuffle']}, this loader {self.shuffle}"
            )
        position = _count("position", state["position"], 0)
        if position > len(self.dataset):
            raise ValueError(f"DataLoader: expected position up to {len(self.dataset)}, got {position}")
        self.seed = _check_seed("DataLoader", state["seed"])
        self.set_epoch(state["epoch"])
        self._start = self._position = position

    def _samples(self):
        """Samples an epoch yields."""
        n = len(self.dataset)
        return n // self.batch_size * self.batch_size if self.drop_last else n

    def order(self, epoch):
        """The sample numbers of an epoch in order, int64 (len(dataset),)."""
        n = len(self.dataset)
        return permutation(n, self.seed, epoch) if self.shuffle else np.arange(n)

    def __iter__(self):
        epoch, start = self._next_epoch, self._start
        self._epoch, self._position = epoch, start
        self._next_epoch, self._start = epoch + 1, 0
        self._run += 1
        return _Iterator(self, epoch, start)

    def __repr__(self):
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"num_workers={self.num_workers}, drop_last={self.drop_last}, seed={self.seed})"
        )

    # ---------------------------------------------------------------- one batch

    def _batch(self, indices, epoch):
        if self._raw:
            pixels, labels = self.dataset.raw_batch(indices)
            if self.transform is not None:
                pixels = self._transform(pixels.transpose(0, 3, 1, 2), indices, epoch).transpose(0, 2, 3, 1)
            return self.dataset.normalize(pixels).transpose(0, 3, 1, 2), labels
        samples = []
        for i in indices:
            try:
                samples.append(self.dataset[int(i)])
            except Exception as error:
                raise SampleError(int(i), error) from error
        if self.collate_fn is not None:
            return self.collate_fn(samples)
        fields = _stack(samples, indices)
        if self.transform is not None:
            if isinstance(fields, tuple):
                fields = (self._transform(fields[0], indices, epoch), *fields[1:])
            else:
                fields = self._transform(fields, indices, epoch)
        return fields

    def _transform(self, images, indices, epoch):
        out = self.transform(images, SampleRng(self.seed, epoch, indices))
        if not isinstance(out, np.ndarray) or out.ndim != 4 or len(out) != len(images):
            got = out.shape if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(
                f"DataLoader: expected transform to give images ({len(images)}, C, H, W), got {got}"
            )
        return out


def _count(what, value, low):
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"DataLoader: expected an int as {what}, got {type(value).__name__}") from None
    if value < low:
        raise ValueError(f"DataLoader: expected {what} >= {low}, got {value}")
    return value


def _stack(samples, indices):
    """List of samples -> array, or tuple of arrays; images (C, H, W) become channels-last (N, C, H, W)."""
    if not isinstance(samples[0], (tuple, list)):
        return _stack_field(samples, indices, "sample")
    width = len(samples[0])
    for i, s in zip(indices, samples, strict=True):
        if not isinstance(s, (tuple, list)) or len(s) != width:
            error = ValueError(f"expected {width} fields as in sample {indices[0]}, got {s!r:.80}")
            raise SampleError(int(i), error) from error
    return tuple(_stack_field([s[k] for s in samples], indices, f"field {k}") for k in range(width))


def _stack_field(values, indices, what):
    arrays = [np.asarray(v) for v in values]
    first = arrays[0]
    if first.dtype.kind not in "iubf":
        error = TypeError(f"{what}: expected numbers, got {type(values[0]).__name__}; pass collate_fn=")
        raise SampleError(int(indices[0]), error) from error
    for i, a in zip(indices, arrays, strict=True):
        if a.shape != first.shape:
            error = ValueError(
                f"{what}: expected shape {first.shape} as in sample {indices[0]}, got {a.shape}"
            )
            raise SampleError(int(i), error) from error
    if first.ndim == 3:
        dtype = np.result_type(*{a.dtype for a in arrays})
        dtype = np.float32 if dtype.kind == "f" else dtype
        out = aligned_empty((len(arrays), *first.shape[1:], first.shape[0]), dtype).transpose(0, 3, 1, 2)
        for k, a in enumerate(arrays):
            out[k] = a
        return out
    return _label_array(np.stack(arrays))


# ---------------------------------------------------------------- iteration


class _Iterator:
    """One epoch. The worker threads hold _Queue but never the iterator, so dropping it stops them."""

    def __init__(self, loader, epoch, start):
        self._loader, self._epoch, self._run = loader, epoch, loader._run
        order = loader.order(epoch)[start : loader._samples()]
        size = loader.batch_size
        self._batches = [order[k : k + size] for k in range(0, len(order), size)]
        if loader.drop_last and self._batches and len(self._batches[-1]) < size:
            self._batches.pop()
        self._next, self._position, self._done = 0, start, False
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
        if self._done or self._next == len(self._batches):
            self.close()
            raise StopIteration
        number = self._next
        try:
            if self._queue is None:
                batch = self._loader._batch(self._batches[number], self._epoch)
            else:
                batch = self._queue.get(number)
        except BaseException:  # KeyboardInterrupt too: no thread may outlive the loop
            self.close()
            raise
        self._next += 1
        self._position += len(self._batches[number])
        if self._loader._run == self._run:  # only the newest iterator speaks for the loader's state
            self._loader._position = self._position
        return batch

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
        # Daemons: a process that dies with a batch in the making does not wait for it.
        self._threads = [
            threading.Thread(target=self._work, name=f"fastcnn-data-{k}", daemon=True)
            for k in range(min(workers, len(batches)))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self):
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
        with self._cond:
            self._stopped = True
            self._ready.clear()
            self._cond.notify_all()

    def join(self):
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
