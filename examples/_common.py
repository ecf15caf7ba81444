"""What the examples share: options, data, a classifier that judges. Not a library: read it along with the example."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import fastcnn as fc
import numpy as np


def options(text, out, **defaults):
    """Parsed options of an example: --out, --fast-dev-run, --threads, and one option per default (int or float)."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / out, help="folder for pictures and checkpoints")
    parser.add_argument("--fast-dev-run", action="store_true", help="seconds instead of minutes: does it run at all?")
    parser.add_argument("--threads", type=int, help="CPU threads")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    args = parser.parse_args()
    if args.threads:
        fc.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def fashion(split, fast=False):
    """Fashion-MNIST, 60,000 or 10,000 images of 28x28; fast: a part of fashion_mini, which is in the package."""
    if not fast:
        return fc.data.load("fashion_mnist", split)
    data = fc.data.load("fashion_mini", split)
    return fc.data.Subset(data, np.arange(min(320, len(data))))


def part(data, per_class, seed=0):
    """The first per_class images of each class, in an order of the seed."""
    order = np.random.default_rng(seed).permutation(len(data))
    labels = np.asarray(data.labels)[order]
    chosen = [order[labels == k][:per_class] for k in range(data.num_classes)]
    return fc.data.Subset(data, np.sort(np.concatenate(chosen)))


class Judge:
    """A classifier of a dataset as a function of images (N, C, H, W) in [0, 1]: logits, and features under it.

    border: pixels of black border that generated images have around the dataset's. layers: whose outputs are features
    and logits.
    """

    def __init__(self, model, data, border=0, layers=("fc1", "fc2")):
        self.model, self.border = model.eval(), border
        self.mean, self.std = (np.reshape(s, (1, -1, 1, 1)).astype(np.float32) for s in (data.mean, data.std))
        features = fc.models.feature_extractor(model, dict(zip(layers, ("features", "logits"), strict=True)))
        self._run = fc.compile(lambda x: features(x))

    def _both(self, images):
        b = self.border
        images = images[:, :, b : images.shape[2] - b, b : images.shape[3] - b]
        with fc.no_grad():
            return self._run(fc.tensor(np.ascontiguousarray((images - self.mean) / self.std)))

    def __call__(self, images):
        """Logits (N, K)."""
        return np.array(self._both(images)["logits"].numpy())

    def features(self, images):
        """(N, D): what the last layer gets."""
        return np.array(self._both(images)["features"].numpy())


def train_judge(folder, train, test, model="lenet", epochs=6, fast=False):
    """(classifier, its test accuracy); trained once and kept in folder."""
    net = fc.models.create_model(model, num_classes=train.num_classes, in_channels=train.in_channels)
    trainer = fc.Trainer(
        net, "adamw", lr=2e-3, weight_decay=0.05, scheduler="onecycle", batch_size=128,
        transform=fc.augment.RandomCrop(padding=1), num_workers=1, progress=not fast,
    )  # fmt: skip
    path = folder / f"judge-{model}.safetensors"
    if path.exists():
        net.load_state_dict(fc.load_state(path))
    else:
        trainer.fit(train, max_epochs=epochs)
        trainer.save(path)
    return net, trainer.evaluate(test)["accuracy"]


class Clock:
    """Seconds since it was made, and lines with them."""

    def __init__(self):
        self.start = time.perf_counter()

    def seconds(self):
        return time.perf_counter() - self.start

    def say(self, *words):
        print(f"[{self.seconds():6.1f} s]", *words, flush=True)


def figure(width, height):
    """A matplotlib Figure without pyplot, which needs no display; save it with savefig(path)."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def accuracy_of(model, x, y, batch=500):
    """Share of images (N, C, H, W) that the model names rightly."""
    model.eval()
    right = 0
    with fc.no_grad():
        for i in range(0, len(x), batch):
            right += int((model(fc.tensor(x[i : i + batch])).numpy().argmax(1) == y[i : i + batch]).sum())
    return right / len(x)


def arrays(data):
    """(images (N, C, H, W) float32, normalised as the dataset says; labels (N,)) of a whole dataset."""
    pixels, labels = data.raw_batch(np.arange(len(data)))
    return data.normalize(pixels).transpose(0, 3, 1, 2), labels
