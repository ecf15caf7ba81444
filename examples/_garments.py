"""Scenes with exact answers, made of real pictures: garments of Fashion-MNIST scattered over photographs.

Shared by the examples of detection and segmentation: each scene has its boxes, labels and the class of every pixel.
What it is not: a data set of photographs of garments.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import fastcnn as fc
import numpy as np

CLASSES = (
    "background", "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
# Photographs that scikit-image brings along; the last two only in test scenes.
TRAIN_PHOTOS = ("astronaut", "coffee", "brick", "grass", "gravel", "rocket", "motorcycle", "camera", "moon")
TEST_PHOTOS = ("chelsea", "coins", "hubble_deep_field")


def photographs(names):
    """uint8 (H, W, 3) arrays."""
    import skimage.data

    found = []
    for name in names:
        image = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()
        image = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
        found.append(np.ascontiguousarray(image[..., :3]))
    return found


def _resized(image, size):
    """(h, w[, C]) uint8 at size (h, w), float32 0 to 255."""
    planes = image[None, None] if image.ndim == 2 else image.transpose(2, 0, 1)[None]
    x = fc.tensor(planes.astype(np.float32))  # channels stay innermost
    out = fc.ops.interpolate(x, size=size, mode="bilinear", antialias=True).numpy()[0]
    return out[0] if image.ndim == 2 else out.transpose(1, 2, 0)


def _backdrop(photo, size, rng):
    h, w = photo.shape[:2]
    side = int(rng.uniform(0.4, 1.0) * min(h, w))
    y, x = rng.integers(0, h - side + 1), rng.integers(0, w - side + 1)
    crop = photo[y : y + side : max(1, side // size), x : x + side : max(1, side // size)]
    return _resized(crop[:, :: 1 if rng.uniform() < 0.5 else -1], (size, size))


def _garment(image, scale, rng):
    """Colours (h, w, 3) and cover (h, w) of 0 to 1 of a garment `scale` pixels high, cut to what it covers."""
    grey = _resized(image, (scale, scale))
    cover = np.clip((grey - 12) / 40, 0, 1)
    there = cover > 0.5
    if there.sum() < 20:
        return None
    rows, cols = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    part = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    tint = rng.uniform(0.35, 1.0, 3)
    light = 0.25 + 0.75 * grey[part] / max(grey.max(), 1)
    return 255 * light[..., None] * tint, cover[part]


def _apart(box, boxes, most=0.1):
    """Is no more than `most` of either box inside the other, for all boxes?"""
    for other in boxes:
        w = min(box[2], other[2]) - max(box[0], other[0])
        h = min(box[3], other[3]) - max(box[1], other[1])
        area = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
        if w > 0 and h > 0 and w * h > most * area:
            return False
    return True


def scenes(n, size=128, split="train", seed=0, most=4, scales=(28, 64), data="fashion_mini", tries=1):
    """n scenes with 1 to `most` garments: {"images": uint8 (n, 3, size, size), "masks": uint8 (n, size, size),
    "targets": n of {"boxes": float32 (M, 4) x1 y1 x2 y2, "labels": int64 (M,) of 1 to 10}}.

    split: garments of the training or test images of `data`, photographs that the other split does not have.
    scales: how high a garment's 28 pixels become. tries: places that are tried before a garment that would hide another
    is left out: more of them fill a scene. Boxes hold exactly the pixels that their garment covers, also where a later
    garment hides some.
    """
    garments = fc.data.load(data, split=split)
    photos = photographs(TRAIN_PHOTOS if split == "train" else TEST_PHOTOS)
    pictures = np.asarray(garments.images).reshape(len(garments), 28, 28)
    rng = np.random.default_rng([seed, split == "train"])
    images = np.empty((n, 3, size, size), np.uint8)
    masks, targets = np.zeros((n, size, size), np.uint8), []
    for i in range(n):
        canvas = _backdrop(photos[rng.integers(len(photos))], size, rng)
        boxes, labels = [], []
        for _ in range(rng.integers(1, most + 1)):
            which = int(rng.integers(len(pictures)))
            made = _garment(pictures[which], int(rng.integers(scales[0], scales[1] + 1)), rng)
            if made is None:
                continue
            colours, cover = made
            h, w = cover.shape
            for _ in range(tries):
                y, x = rng.integers(0, size - h + 1), rng.integers(0, size - w + 1)
                box = (x, y, x + w, y + h)
                if _apart(box, boxes):
                    break
            else:
                continue
            place = np.s_[y : y + h, x : x + w]
            canvas[place] += cover[..., None] * (colours - canvas[place])
            label = int(garments.labels[which]) + 1
            masks[i][place][cover > 0.5] = label
            boxes.append(box)
            labels.append(label)
        images[i] = np.clip(canvas + 0.5, 0, 255).astype(np.uint8).transpose(2, 0, 1)
        targets.append({"boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.array(labels, np.int64)})
    return {"images": images, "masks": masks, "targets": targets}


def batches(n, size, seed, epoch):
    """Numbers of n scenes in random order, `size` at a time; what is left over is left out."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [order[i : i + size] for i in range(0, n - size + 1, size)]


def parser(doc, out, epochs, scenes=4000):
    """The options that both examples have; doc: what --help says."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", default="fashion_mini", choices=("fashion_mini", "fashion_mnist"))
    found.add_argument("--scenes", type=int, default=scenes)
    found.add_argument("--test-scenes", type=int, default=500)
    found.add_argument("--epochs", type=int, default=epochs)
    found.add_argument("--size", type=int, default=128, help="pixels of a scene")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--fast-dev-run", action="store_true", help="a few scenes, to see that all of it runs")
    found.add_argument("--weights", type=pathlib.Path, help="go on from weights.safetensors of an earlier run")
    found.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out))
    return found


def both_splits(args, train_most=4, **options):
    """(training scenes, test scenes) of what the command line says. train_most: garments in a training scene, test
    scenes have up to 4. options: of scenes."""
    args.out.mkdir(parents=True, exist_ok=True)
    fc.manual_seed(args.seed)
    if args.fast_dev_run:
        args.scenes, args.test_scenes, args.epochs = 32, 8, 1
    made = time.perf_counter()
    splits = [
        scenes(n, args.size, split, args.seed, most, data=args.data, **options)
        for n, split, most in ((args.scenes, "train", train_most), (args.test_scenes, "test", 4))
    ]
    print(f"{args.scenes} + {args.test_scenes} scenes made in {time.perf_counter() - made:.0f} s", flush=True)
    return splits


def learn(args, net, train, data, names, score):
    """Trains, prints a row of each epoch under `names`, with score() every fourth, and writes weights and curve.json.

    train(net, data, epochs, seed=, report=) calls report(epoch, two losses, seconds). Prints the minutes at the end.
    """
    if args.weights:
        net.load(args.weights)
    start, curve = time.perf_counter(), []

    def report(epoch, first, second, seconds):
        row = {"epoch": epoch, names[0]: first, names[1]: second, "seconds": seconds}
        if epoch % 4 == 0 or epoch == args.epochs:
            row[names[2]] = float(score())
        curve.append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)

    train(net, data, args.epochs, seed=args.seed, report=report)
    print(f"trained in {(time.perf_counter() - start) / 60:.1f} minutes")
    net.save(args.out / "weights.safetensors")
    (args.out / "curve.json").write_text(json.dumps(curve, indent=1))
