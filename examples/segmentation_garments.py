"""Paints garments on photographs: a small U-Net with cross entropy and Dice loss, trained on a few CPU cores.

    python examples/segmentation_garments.py --out run
    python examples/segmentation_garments.py --data fashion_mnist --out run  # more garments than come with fastcnn

Scenes are made of real pictures with exact masks (_garments.py, needs scikit-image), and augmented together with them.
At the end mean IoU on unseen garments over unseen photographs is printed and predictions are drawn (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import _garments
import fastcnn as fc
import numpy as np
from fastcnn import augment, metrics, models, nn, optim

AUGMENT = augment.Compose(
    [
        augment.RandomHorizontalFlip(),
        augment.RandomAffine(10, translate=(0.1, 0.1), scale=(0.8, 1.25), fill_mode="reflect"),
        augment.ColorJitter(0.3, 0.3, 0.3, 0.05),
    ]
)


def inputs(images):
    """uint8 images as float32 of about -2 to 2."""
    return (images.to(fc.float32) - 115) / 64


def training_step(net, optimizer):
    """step(images uint8, masks int64) -> (cross entropy, Dice loss)."""
    dice = nn.DiceLoss()

    @fc.compile
    def step(images, masks):
        optimizer.zero_grad()
        logits = net(inputs(images))
        entropy, overlap = fc.ops.cross_entropy(logits, masks), dice(logits, masks)
        (entropy + overlap).backward()
        optimizer.step()
        return entropy.detach(), overlap.detach()

    return step


def train(net, data, epochs, batch=16, lr=3e-3, seed=0, report=print):
    """Trains; report(epoch, cross entropy, Dice loss, seconds) after each epoch."""
    optimizer = optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-3)
    steps = len(data["images"]) // batch
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps, pct_start=0.15, cycle_momentum=False)
    step = training_step(net, optimizer)
    net.train()
    for epoch in range(epochs):
        start, sums = time.perf_counter(), np.zeros(2)
        for i, rows in enumerate(_garments.batches(len(data["images"]), batch, seed, epoch)):
            random = seed * 1_000_003 + epoch * steps + i
            out = AUGMENT(data["images"][rows], random, masks=data["masks"][rows])
            losses = step(fc.tensor(out["images"]), fc.tensor(out["masks"]))
            schedule.step()
            sums += [v.item() for v in losses]
        report(epoch + 1, *(sums / steps), time.perf_counter() - start)


def predict(net, images, batch=50):
    """Class of every pixel of uint8 images (N, 3, H, W): int64 (N, H, W)."""
    training = net.training
    net.eval()

    @fc.compile
    def classes(x):
        return fc.ops.argmax(net(inputs(x)), 1)

    with fc.no_grad():
        found = [classes(fc.tensor(images[i : i + batch])).numpy().copy() for i in range(0, len(images), batch)]
    net.train(training)
    return np.concatenate(found)


def evaluate(net, data):
    """(IoU of each class, predictions); the mean of the first is the mean IoU."""
    found = predict(net, data["images"])
    metric = metrics.MeanIoU(len(_garments.CLASSES), average=None)
    metric.update(found, data["masks"])
    return np.asarray(metric.compute()), found


def draw(data, found, path, count=12):
    """Predictions on the first scenes, one picture each under path."""
    for i in range(min(count, len(found))):
        fc.viz.masks(
            data["images"][i], found[i], classes=_garments.CLASSES, alpha=0.6, path=path / f"masks_{i:02d}.png"
        )


def main(argv=None):
    """The command line; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mini", choices=("fashion_mini", "fashion_mnist"))
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--test-scenes", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="pixels of a scene")
    parser.add_argument("--scales", type=int, nargs=2, default=(28, 64), help="pixels that a garment is high")
    parser.add_argument("--width", type=int, default=16, help="channels of the first level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=pathlib.Path, help="go on from weights.safetensors of an earlier run")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("segmentation_garments"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    fc.manual_seed(args.seed)
    made = time.perf_counter()
    data = _garments.scenes(args.scenes, args.size, "train", args.seed, scales=args.scales, data=args.data)
    test = _garments.scenes(args.test_scenes, args.size, "test", args.seed, scales=args.scales, data=args.data)
    print(f"{args.scenes} + {args.test_scenes} scenes made in {time.perf_counter() - made:.0f} s", flush=True)
    net = models.create_model("unet", num_classes=len(_garments.CLASSES), width=args.width)
    if args.weights:
        net.load(args.weights)
    start, curve = time.perf_counter(), []

    def report(epoch, entropy, dice, seconds):
        row = {"epoch": epoch, "cross_entropy": entropy, "dice": dice, "seconds": seconds}
        if epoch % 4 == 0 or epoch == args.epochs:
            row["mean_iou"] = float(evaluate(net, test)[0].mean())
        curve.append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)

    train(net, data, args.epochs, seed=args.seed, report=report)
    minutes = (time.perf_counter() - start) / 60
    each, found = evaluate(net, test)
    print(f"trained in {minutes:.1f} minutes: mean IoU {each.mean():.3f}")
    for name, value in zip(_garments.CLASSES, each, strict=True):
        print(f"  {name:10s} IoU {value:.3f}")
    net.save(args.out / "weights.safetensors")
    (args.out / "curve.json").write_text(json.dumps(curve, indent=1))
    draw(test, found, args.out)


if __name__ == "__main__":
    main()
