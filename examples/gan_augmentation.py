"""Do generated images help a classifier that has few real ones? Measured with and without them, reported as it comes.

50 images per class of Fashion-MNIST; a conditional GAN learns from these alone and draws more; LeNet-5 is trained for
the same number of steps on each mixture, with several seeds, and tested on 10,000 real images. Writes augmentation.txt,
augmentation.png and generated.png.

    python examples/gan_augmentation.py             about ten minutes on 2 cores
"""

from __future__ import annotations

import fastcnn as fc
import numpy as np
from _common import Clock, fashion, figure, options, part
from fastcnn.viz import image_grid


def generated(real, args, folder):
    """A dataset of images that a conditional GAN draws, evenly over classes, after learning from `real` alone."""
    fc.manual_seed(args.seed)
    pair = fc.models.create_model(
        "cgan", num_classes=10, in_channels=1, image_size=28, width=args.width, latent_dim=64
    )
    often = fc.data.ConcatDataset([real] * args.repeat)  # epochs of some length
    trainer = fc.GANTrainer(
        *pair, "bce", batch_size=50, seed=args.seed, label_smoothing=0.1, ema_decay=0.995, grid=0, progress=False,
        transform=fc.augment.Compose([fc.augment.RandomHorizontalFlip(), fc.augment.RandomCrop(padding=1)]),
    )  # fmt: skip
    trainer.fit(often, max_epochs=args.gan_epochs)
    image_grid(trainer.sample(100, seed=5), columns=10, limit=100, path=folder / "generated.png")
    labels = np.arange(args.generated) % 10
    pixels = np.round(255 * trainer.sample(args.generated, seed=1, labels=labels)).astype(np.uint8)
    return fc.data.ArrayDataset(pixels, labels, classes=real.classes, mean=real.mean, std=real.std)


def accuracy(train, test, transform, seed, args):
    """Test accuracy (%) of LeNet-5 after args.steps steps."""
    fc.manual_seed(seed)
    net = fc.models.create_model("lenet5", num_classes=10, in_channels=1)
    trainer = fc.Trainer(
        net, "adamw", lr=3e-3, weight_decay=0.05, scheduler="onecycle", batch_size=50, transform=transform, seed=seed,
        progress=False,
    )  # fmt: skip
    trainer.fit(train, max_epochs=max(1, round(args.steps / -(-len(train) // 50))))
    return 100 * trainer.evaluate(test)["accuracy"]


def main():
    args = options(
        __doc__, "gan-augmentation", per_class=50, generated=2000, gan_epochs=20, repeat=20, width=32, steps=800,
        seeds=3, seed=0,
    )  # fmt: skip
    fast, clock = args.fast_dev_run, Clock()
    if fast:
        args.per_class, args.generated, args.gan_epochs, args.repeat, args.width, args.steps, args.seeds = (
            10, 50, 1, 1, 4, 2, 1,
        )  # fmt: skip
    real, test = part(fashion("train", fast), args.per_class, args.seed), fashion("test", fast)
    drawn = generated(real, args, args.out)
    clock.say(f"the GAN has learned from {len(real)} images")
    moved = fc.augment.Compose([fc.augment.RandomHorizontalFlip(), fc.augment.RandomCrop(padding=2)])
    both = fc.data.ConcatDataset([real, drawn])
    mixtures = {
        "real": (real, None), "real + generated": (both, None), "generated alone": (drawn, None),
        "real, flips and crops": (real, moved), "real + generated, flips and crops": (both, moved),
    }  # fmt: skip
    found = {}
    for name, (data, transform) in mixtures.items():
        found[name] = [accuracy(data, test, transform, seed, args) for seed in range(args.seeds)]
        clock.say(f"{name}: {', '.join(f'{v:.1f}' for v in found[name])} %")
    lines = [f"{'LeNet-5 trained on':36}{'mean':>7}{'least':>7}{'most':>7}   test accuracy (%), {args.seeds} seeds"]
    lines += [f"{name:36}{np.mean(v):7.1f}{min(v):7.1f}{max(v):7.1f}" for name, v in found.items()]
    for kind in ("", ", flips and crops"):
        gain = np.mean(found[f"real + generated{kind}"]) - np.mean(found[f"real{kind}"])
        spread = max(max(v) - min(v) for v in (found[f"real{kind}"], found[f"real + generated{kind}"]))
        verdict = "no difference beyond the spread" if abs(gain) <= spread else "a gain" if gain > 0 else "a loss"
        if args.seeds < 2:
            verdict = "one seed says nothing"
        what = f"generated images{kind or ', no augmentation'}"
        lines.append(f"{what}: {gain:+.1f} points, spread {spread:.1f}: {verdict}")
    text = "\n".join(lines)
    print(text)
    (args.out / "augmentation.txt").write_text(text + "\n", encoding="utf-8")
    picture = figure(7, 3)
    ax = picture.add_subplot()
    for i, values in enumerate(found.values()):
        ax.plot(values, [i] * len(values), "o", color=f"C{i}")
        ax.plot([np.mean(values)] * 2, [i - 0.25, i + 0.25], "-", color=f"C{i}", lw=2)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xlabel="test accuracy (%)", title=f"{len(real)} real images; a dot per seed, a line at the mean")
    ax.grid(True, axis="x", color="0.9")
    picture.savefig(args.out / "augmentation.png")


if __name__ == "__main__":
    main()
