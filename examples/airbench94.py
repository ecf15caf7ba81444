"""The recipe of airbench94 (Jordan 2024) on Fashion-MNIST: whitening, Muon, alternating flips, test-time augmentation.

The net and its whitening are fc.models.airbench94, here with narrower groups, since two cores are not a GPU and the
images have one channel. Muon steps the filters, whose length is set back before each step; Adam steps biases and the
head, where the record has SGD. The rate falls linearly; the whitening's bias learns in the first part alone.

    python examples/airbench94.py                   some minutes on 2 cores; prints accuracy with and without TTA
"""

from __future__ import annotations

import fastcnn as fc
import numpy as np
from _common import Clock, arrays, fashion, options


class AlternatingFlips:
    """Each image is mirrored at random in the first epoch, then the other way round in each next one.

    Two epochs then show every image both ways, which random flips do for half of them.
    """

    def __init__(self, n, rng):
        self.first = rng.integers(0, 2, n).astype(bool)

    def __call__(self, x, indices, epoch):
        turned = self.first[indices] ^ bool(epoch % 2)
        return np.where(turned[:, None, None, None], x[..., ::-1], x)


def shifted(x, pixels, rng):
    """Each image moved by up to so many pixels each way, the border mirrored in."""
    n, _, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(2, 3))
    dy, dx = rng.integers(0, 2 * pixels + 1, (2, n))
    return windows[np.arange(n), :, dy, dx]


def make_step(net, muon, adam):
    filters = [p for group in muon.param_groups for p in group["params"]]

    @fc.compile
    def step(x, y):
        loss = fc.ops.cross_entropy(net(x), y, label_smoothing=0.2)
        loss.backward()
        with fc.no_grad():
            for p in filters:  # rows of length 1 on average, whatever the steps before did
                p.copy_(p * (p.shape[0] ** 0.5 / (p * p).sum().sqrt()))
        muon.step()
        adam.step()
        for optimizer in (muon, adam):
            optimizer.zero_grad()
        return loss.detach()

    return step


def evaluate(net, x, y, batch=500):
    """(accuracy, accuracy with TTA): the mean of an image and its mirror, half of it from views moved by a pixel."""
    run = fc.compile(net.eval())
    plain = views = 0

    def logits(a):
        return np.array(run(fc.tensor(np.ascontiguousarray(a))).numpy())

    with fc.no_grad():
        for i in range(0, len(x), batch):
            a, labels = x[i : i + batch], y[i : i + batch]
            padded = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
            h, w = a.shape[2:]
            own = logits(a)
            centre = own + logits(a[..., ::-1])
            moved = [padded[:, :, k : k + h, k : k + w] for k in (0, 2)]
            around = sum(logits(m) + logits(m[..., ::-1]) for m in moved)
            plain += int((own.argmax(1) == labels).sum())
            views += int(((centre + 0.5 * around).argmax(1) == labels).sum())
    return plain / len(x), views / len(x)


def main():
    args = options(
        __doc__, "airbench94", epochs=2, batch=250, width=24, lr=0.24, adam_lr=0.01, shift=2, seed=0, train_images=60000
    )
    fast, clock = args.fast_dev_run, Clock()
    x, y = arrays(fashion("train", fast))
    test_x, test_y = arrays(fashion("test", fast))
    if fast:
        args.epochs, args.width, args.batch = 1, 8, 100
    x, y = x[: args.train_images], y[: args.train_images]
    fc.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    w = args.width
    net = fc.models.create_model("airbench94", num_classes=10, in_channels=1, widths=(w, 4 * w, 4 * w)).whiten(x[:5000])
    filters = [p for p in net.groups.parameters() if p.ndim == 4]
    others = [p for p in net.parameters() if p.ndim < 4 or p.shape[2:] == (1, 1)]
    muon = fc.optim.Muon(filters, lr=args.lr, momentum=0.6, nesterov=True, weight_decay=0.0)
    adam = fc.optim.Adam([p for p in others if p.requires_grad], lr=args.adam_lr, betas=(0.85, 0.95))
    step, flips = make_step(net, muon, adam), AlternatingFlips(len(x), rng)
    per_epoch = len(x) // args.batch
    total, losses = args.epochs * per_epoch, []
    for i in range(total):
        epoch, at = divmod(i, per_epoch)
        if at == 0:
            order = rng.permutation(len(x))
            net.train()
        if i == total * 3 // 8:  # three of the record's eight epochs
            net.whiten_conv.bias.requires_grad = False
        for optimizer, rate in ((muon, args.lr), (adam, args.adam_lr)):
            optimizer.param_groups[0]["lr"] = rate * (1 - i / total)
        chosen = order[at * args.batch : (at + 1) * args.batch]
        images = shifted(flips(x[chosen], chosen, epoch), args.shift, rng)
        losses.append(step(fc.tensor(np.ascontiguousarray(images)), fc.tensor(y[chosen])).item())
        if at == per_epoch - 1 or (at + 1) % 60 == 0:
            clock.say(f"epoch {epoch + 1}, step {at + 1} of {per_epoch}: loss {np.mean(losses[-60:]):.3f}")
    plain, views = evaluate(net, test_x, test_y)
    clock.say(f"test accuracy {100 * plain:.2f} %, with test-time augmentation {100 * views:.2f} %, of {len(test_x)}")
    net.save(args.out / "airbench94.safetensors")


if __name__ == "__main__":
    main()
