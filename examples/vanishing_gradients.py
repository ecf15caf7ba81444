"""Vanishing gradients, measured: a deep sigmoid net starves, ReLU and batch norm help, shortcuts solve it.

Nets of 32 convolutions of the same width on Fashion-MNIST at 14 pixels (Glorot and Bengio 2010, Ioffe and Szegedy 2015,
He et al. 2015). Writes gradients.png (norm of each layer's gradient before training) and curves.png (training loss).

    python examples/vanishing_gradients.py          a few minutes on 2 cores
"""

from __future__ import annotations

import fastcnn as fc
import numpy as np
from _common import Clock, arrays, fashion, figure, options, part
from fastcnn import nn
from fastcnn.viz import gradient_flow

# name: (activation, batch norm, shortcuts, rate of SGD with momentum)
NETS = {
    "sigmoid": (nn.Sigmoid, False, False, 0.03),
    "ReLU": (nn.ReLU, False, False, 0.01),
    "ReLU, batch norm": (nn.ReLU, True, False, 0.03),
    "ReLU, batch norm, shortcuts": (nn.ReLU, True, True, 0.03),
}


class Pair(nn.Module):
    """Two convolutions, with a shortcut around them or not."""

    def __init__(self, width, act, norm, shortcut):
        super().__init__()
        layers = []
        for _ in range(2):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
            gain = nn.init.calculate_gain("relu" if act is nn.ReLU else "sigmoid")
            nn.init.xavier_normal_(conv.weight, gain)
            layers += [conv, *([nn.BatchNorm2d(width)] if norm else []), act()]
        self.last = layers.pop()
        self.branch, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x):
        y = self.branch(x)
        return self.last(x + y if self.shortcut else y)


def build(depth, width, act, norm, shortcut):
    pairs = [Pair(width, act, norm, shortcut) for _ in range(depth // 2)]
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(1, width, 3, padding=1), act(), *pairs, nn.GlobalAvgPool2d(), nn.Flatten(),
        nn.Linear(width, 10),
    )  # fmt: skip


def gradient_norms(net, x, y):
    """{layer: L2 norm of its weight's gradient}, in order of depth, of one batch."""
    fc.ops.cross_entropy(net(x), y).backward()
    weights = [(k, p) for k, p in net.named_parameters() if p.ndim > 1]
    norms = {f"{i + 1}": float(p.grad.norm().item()) for i, (_, p) in enumerate(weights)}
    for p in net.parameters():
        p.grad = None
    return norms


def train(net, lr, x, y, steps, batch, seed):
    """Training loss after each step."""
    optimizer = fc.optim.SGD(net.parameters(), lr=lr, momentum=0.9)

    @fc.compile
    def step(images, labels):
        loss = fc.ops.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    rng, losses = np.random.default_rng(seed), []
    for _ in range(steps):
        chosen = rng.integers(0, len(x), batch)
        losses.append(step(fc.tensor(x[chosen]), fc.tensor(y[chosen])).item())
    return losses


def smooth(values, n):
    return np.convolve(values, np.ones(n) / n, mode="valid")


def main():
    args = options(__doc__, "vanishing-gradients", depth=32, width=16, steps=300, batch=64, seed=0)
    if args.fast_dev_run:
        args.depth, args.width, args.steps, args.batch = 8, 4, 3, 8
    clock = Clock()
    x, y = arrays(part(fashion("train", args.fast_dev_run), 8 if args.fast_dev_run else 500, args.seed))
    flows, curves = {}, {}
    for name, (act, norm, shortcut, lr) in NETS.items():
        fc.manual_seed(args.seed)
        net = build(args.depth, args.width, act, norm, shortcut)
        flows[name] = gradient_norms(net, fc.tensor(x[: args.batch]), fc.tensor(y[: args.batch]))
        curves[name] = train(net, lr, x, y, args.steps, args.batch, args.seed)
        values = list(flows[name].values())
        last = np.mean(curves[name][-30:])
        clock.say(
            f"{name:28} gradient of layer 1 {values[0]:.1e}, of the last hidden {values[-2]:.1e}; loss {last:.3f} "
            f"after {args.steps} steps"
        )
    gradient_flow(flows, path=args.out / "gradients.png")
    picture, window = figure(7, 4), max(1, args.steps // 20)
    ax = picture.add_subplot()
    for name, losses in curves.items():
        ax.plot(np.arange(window, len(losses) + 1), smooth(losses, window), label=name)
    ax.axhline(np.log(10), color="0.6", ls=":", label="guessing")
    ax.set(xlabel="step", ylabel=f"training loss, mean of {window} steps", ylim=(0, 3))
    ax.legend(fontsize="small")
    ax.grid(True, color="0.9")
    picture.savefig(args.out / "curves.png")


if __name__ == "__main__":
    main()
