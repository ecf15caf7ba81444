"""DCGAN (Radford et al. 2016) on Fashion-MNIST at 32 pixels, judged by a classifier and by FID after each epoch.

    python examples/gan_fashion.py                   eight minutes on 2 cores, longer on shared ones
    python examples/gan_fashion.py --resume last     goes on where it stopped

Writes samples/epoch-*.png (fixed noise), interpolation.png, fid.png, metrics.csv, coverage.txt and last.safetensors.
"""

from __future__ import annotations

import fastcnn as fc
from _common import Clock, Judge, fashion, figure, options, train_judge
from fastcnn.viz import image_grid


def draw_fid(history, path):
    """FID and the classifier's confidence over epochs."""
    picture = figure(8, 3.2)
    for k, (name, label) in enumerate((("fid", "FID, features of the classifier"), ("confidence", "confidence"))):
        ax = picture.add_subplot(1, 2, k + 1)
        ax.plot(range(1, len(history) + 1), history[name], "o-", color=f"C{k}")
        ax.set(xlabel="epoch", ylabel=label)
        ax.set_ylim(bottom=0, top=None if name == "fid" else 1)
        ax.grid(True, color="0.9")
    picture.savefig(path)


def main():
    args = options(__doc__, "gan-fashion", epochs=12, width=32, batch_size=64, seed=0, resume="")
    fast, clock = args.fast_dev_run, Clock()
    train, test = fashion("train", fast), fashion("test", fast)
    judge, accuracy = train_judge(args.out, train, test, epochs=1 if fast else 6, fast=fast)
    clock.say(f"the classifier that judges: {100 * accuracy:.2f} % of {len(test)} test images")
    judge = Judge(judge, train, border=2)
    fc.ops.manual_seed(args.seed)
    generator, discriminator = fc.models.create_model(
        "dcgan", in_channels=1, image_size=32, width=8 if fast else args.width
    )
    trainer = fc.GANTrainer(
        generator, discriminator, "bce", batch_size=args.batch_size, seed=args.seed, log_dir=args.out, ema_decay=0.999,
        fid=judge.features, classifier=judge, fid_samples=128 if fast else 10_000, report_samples=128 if fast else 5000,
        grid=100, num_workers=1, metadata={"model": "dcgan", "data": "fashion_mnist"},
    )  # fmt: skip
    history = trainer.fit(train, max_epochs=1 if fast else args.epochs, resume=args.resume or None)
    if history.interrupted:
        return
    clock.say(f"{len(history)} epochs; FID by epoch: {', '.join(f'{v:.1f}' for v in history['fid'])}")
    report = trainer.coverage(128 if fast else 10_000, seed=7, names=train.classes)
    (args.out / "coverage.txt").write_text(f"{report}\n", encoding="utf-8")
    print(report)
    image_grid(trainer.interpolate(8, 10, seed=3), columns=10, limit=80, path=args.out / "interpolation.png")
    draw_fid(history, args.out / "fid.png")
    rising = sum(b > a for a, b in zip(history["fid"], history["fid"][1:]))
    clock.say(f"FID rose in {rising} of {len(history) - 1} epochs after the first")


if __name__ == "__main__":
    main()
