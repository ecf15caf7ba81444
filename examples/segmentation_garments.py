"""Paints garments on photographs: a small U-Net with cross entropy and Dice loss, trained on a few CPU cores.

    python examples/segmentation_garments.py --out run
    python examples/segmentation_garments.py --data fashion_mnist --precision bf16-mixed --out run

The second takes more garments than come with fastcnn, and a processor with bfloat16 a quarter less time.

Scenes are made of real pictures with exact masks (_garments.py, needs scikit-image), and augmented together with them.
Three things make it learn in an hour: Muon (Jordan 2024) steps the 3x3 filters, AdamW the rest; batches are large, as
Muon wants them; and in training the three coarsest levels name what lies in the middle of their cells (deep
supervision, Lee et al. 2015). At the end mean IoU on unseen garments over unseen photographs is printed and predictions
are drawn (needs matplotlib).
"""

from __future__ import annotations

import contextlib
import functools
import time

import _garments
import fastcnn as fc
import numpy as np
from fastcnn import augment, metrics, models, nn, optim

# Places and sizes vary in the scenes themselves.
AUGMENT = augment.Compose([augment.RandomHorizontalFlip(), augment.ColorJitter(0.2, 0.2, 0.2, 0.02)])
COARSE = (16, 8, 4)  # pixels that a cell of a supervised level is wide


def inputs(images):
    """uint8 images as float32 of about -2 to 2."""
    return (images.to(fc.float32) - 115) / 64


def optimizers(parameters, lr, steps):
    """[(optimizer, schedule)]: Muon at a peak of `lr` for 3x3 filters, AdamW at a twentieth of it for what is left."""
    filters = [p for p in parameters if p.shape[2:] == (3, 3)]
    rest = [p for p in parameters if p.shape[2:] != (3, 3)]
    rise = 0.05 * steps

    def share(step):
        return min(1.0, (step + 1) / rise, (steps - step) / (steps - rise))

    found = optim.Muon(filters, lr=lr, momentum=0.9, ns_steps=3), optim.AdamW(rest, lr=lr / 20, weight_decay=1e-3)
    return [(o, optim.lr_scheduler.LambdaLR(o, share)) for o in found]


def training_step(net, heads, optimizers):
    """step(images uint8, masks int64, masks of coarse cells) -> (cross entropy, Dice loss)."""
    dice = nn.DiceLoss()

    @fc.compile
    def step(images, masks, coarse):
        net.zero_grad()
        heads.zero_grad()
        levels = net.levels(inputs(images))
        logits = net.outc(levels[-1])
        entropy, overlap = fc.ops.cross_entropy(logits, masks), dice(logits, masks)
        loss = entropy + overlap
        for head, level, cells in zip(heads, levels, coarse):  # noqa: B905  the finer levels have no heads
            loss = loss + 0.5 * fc.ops.cross_entropy(head(level), cells)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return entropy.detach(), overlap.detach()

    return step


def train(net, data, epochs, batch=64, lr=0.06, precision="32", seed=0, report=print):
    """Trains; report(epoch, cross entropy, Dice loss, seconds) after each epoch. precision: "32" or "bf16-mixed"."""
    batch = min(batch, len(data["images"]))
    steps = len(data["images"]) // batch
    width = net.outc.conv.in_channels
    heads = nn.ModuleList([nn.Conv2d(width * cell, len(_garments.CLASSES), 1) for cell in COARSE])
    both = optimizers([*net.parameters(), *heads.parameters()], lr, epochs * steps)
    step = training_step(net, heads, [optimizer for optimizer, _ in both])
    net.train()
    for epoch in range(epochs):
        start, sums = time.perf_counter(), np.zeros(2)
        for i, rows in enumerate(_garments.batches(len(data["images"]), batch, seed, epoch)):
            random = seed * 1_000_003 + epoch * steps + i
            out = AUGMENT(data["images"][rows], random, masks=data["masks"][rows])
            masks = out["masks"].astype(np.int64)
            coarse = [fc.tensor(masks[:, cell // 2 :: cell, cell // 2 :: cell].copy()) for cell in COARSE]
            with fc.autocast(fc.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext():
                losses = step(fc.tensor(out["images"]), fc.tensor(masks), coarse)
            for _, schedule in both:
                schedule.step()
            sums += [v.item() for v in losses]
        report(epoch + 1, *(sums / steps), time.perf_counter() - start)


def predict(net, images, batch=50):
    """Class of every pixel of uint8 images (N, 3, H, W), by the mean of each and its mirror image: int64 (N, H, W)."""
    training = net.training
    net.eval()

    @fc.compile
    def classes(x):
        mirrored = fc.ops.flip(fc.ops.softmax(net(inputs(fc.ops.flip(x, 3))), 1), 3)
        return fc.ops.argmax(fc.ops.softmax(net(inputs(x)), 1) + mirrored, 1)

    with fc.no_grad():
        found = [classes(fc.tensor(images[i : i + batch])).numpy().copy() for i in range(0, len(images), batch)]
    net.train(training)
    return np.concatenate(found)


def evaluate(net, data):
    """(IoU of each class, NaN for one that is not there, predictions); the mean of the first is the mean IoU."""
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
    parser = _garments.parser(__doc__, "segmentation_garments", epochs=4, scenes=32000)
    parser.set_defaults(size=96)
    parser.add_argument("--scales", type=int, nargs=2, default=(28, 56), help="pixels that a garment is high")
    parser.add_argument("--lr", type=float, default=0.06, help="peak rate of Muon")
    parser.add_argument("--width", type=int, default=32, help="channels of the first level")
    parser.add_argument("--precision", default="32", choices=("32", "bf16-mixed"), help="of training")
    args = parser.parse_args(argv)
    data, test = _garments.both_splits(args, train_most=12, scales=args.scales, tries=20)
    net = models.create_model("unet", num_classes=len(_garments.CLASSES), width=args.width)
    learner = functools.partial(train, lr=args.lr, precision=args.precision)
    names = ("cross_entropy", "dice", "mean_iou")
    _garments.learn(args, net, learner, data, names, lambda: np.nanmean(evaluate(net, test)[0]))
    each, found = evaluate(net, test)
    print(f"mean IoU {np.nanmean(each):.3f}")
    for name, value in zip(_garments.CLASSES, each, strict=True):
        print(f"  {name:10s} IoU {value:.3f}")
    draw(test, found, args.out)


if __name__ == "__main__":
    main()
