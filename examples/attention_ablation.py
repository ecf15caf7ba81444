"""Attention in a small ResNet: none, SE, ECA, CBAM and non-local on fashion_mini, the same seeds for all.

Hu et al. 2018, Wang et al. 2020, Woo et al. 2018, Wang et al. 2018. Writes ablation.png and ablation.txt, reported as
they are. With 6,000 training images and nets of this size differences of some tenths of a per cent are noise: look at
the spread over seeds before the means.

    python examples/attention_ablation.py           about a quarter of an hour on 2 cores
"""

from __future__ import annotations

import fastcnn as fc
import numpy as np
from _common import Clock, fashion, figure, options

KINDS = (None, "se", "eca", "cbam", "nonlocal")


def main():
    args = options(__doc__, "attention-ablation", epochs=6, seeds=2, lr=0.1)
    fast, clock = args.fast_dev_run, Clock()
    train, test = (fashion(s, True) if fast else fc.data.load("fashion_mini", s) for s in ("train", "test"))
    found, sizes = {}, {}
    for kind in KINDS:
        name = kind or "none"
        for seed in range(1 if fast else args.seeds):
            fc.manual_seed(seed)
            net = fc.models.create_model("resnet8", num_classes=10, in_channels=1, attention=kind)
            sizes[name] = sum(p.numel() for p in net.parameters())
            trainer = fc.Trainer(
                net, "sgd", lr=args.lr, weight_decay=5e-4, scheduler="onecycle", label_smoothing=0.1, batch_size=64,
                transform=fc.augment.RandomCrop(padding=2), seed=seed, progress=False, fast_dev_run=fast,
            )  # fmt: skip
            history = trainer.fit(train, test, max_epochs=args.epochs)
            found.setdefault(name, []).append(100 * history["val_accuracy"][-1])
            clock.say(f"{name:8} seed {seed}: test accuracy {found[name][-1]:.2f} %")
    lines = [f"{'attention':10}{'parameters':>12}{'mean':>8}{'least':>8}{'most':>8}"]
    for name, values in found.items():
        lines.append(f"{name:10}{sizes[name]:12,}{np.mean(values):8.2f}{min(values):8.2f}{max(values):8.2f}")
    text = "\n".join(lines)
    print(text)
    (args.out / "ablation.txt").write_text(text + "\n", encoding="utf-8")
    picture = figure(6, 3.4)
    ax = picture.add_subplot()
    for i, (name, values) in enumerate(found.items()):
        ax.plot([i] * len(values), values, "o", color=f"C{i}", alpha=0.6)
        ax.plot([i - 0.2, i + 0.2], [np.mean(values)] * 2, "-", color=f"C{i}", lw=2)
        ax.annotate(f"{sizes[name]:,}", (i, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
    ax.set_xticks(range(len(found)), list(found))
    ax.set(ylabel="test accuracy (%)", xlabel="attention (below: parameters); a dot per seed, a line at the mean")
    ax.margins(0.15, 0.25)
    ax.grid(True, axis="y", color="0.9")
    picture.savefig(args.out / "ablation.png")


if __name__ == "__main__":
    main()
