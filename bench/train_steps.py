"""Time of whole training steps of MobileNetV2 (SGD) and DCGAN (both nets, Adam), paired with PyTorch.

What it is: median ms per step of PyTorch NCHW, PyTorch channels_last and fastcnn in one process, order A B C C B A.
What it is not: a test; both sides start from their own random weights.

    python bench/train_steps.py mobilenet_v2 dcgan [--sides own] [--rounds 4]
"""

from __future__ import annotations

import argparse
import statistics
import time

import fastcnn as fc
import numpy as np
import torch
import torch.nn as tn
from fastcnn.models.mobilenet_v2 import STAGES


def mobilenet(nn):
    """The same layers in either library."""

    def conv(i, o, k=3, s=1, g=1):
        return [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]

    class Residual(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.conv = nn.Sequential(*layers)

        def forward(self, x):
            return x + self.conv(x)

    layers, inp = [*conv(3, 32, 3, 2), nn.ReLU6()], 32
    for expansion, out, n, stride in STAGES:
        for i in range(n):
            inner, s = inp * expansion, 1 if i else stride
            block = [*conv(inp, inner, 1), nn.ReLU6()] if expansion != 1 else []
            block += [*conv(inner, inner, 3, s, inner), nn.ReLU6(), *conv(inner, out, 1)]
            layers += [Residual(*block)] if s == 1 and inp == out else block
            inp = out
    layers += [*conv(320, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers)


def generator(nn, width=64):
    def up(i, o, s, p):
        return [nn.ConvTranspose2d(i, o, 4, s, p, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    return nn.Sequential(
        *up(100, width * 8, 1, 0),
        *up(width * 8, width * 4, 2, 1),
        *up(width * 4, width * 2, 2, 1),
        *up(width * 2, width, 2, 1),
        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def discriminator(nn, width=64):
    def down(i, o):
        return [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]

    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        *down(width, width * 2),
        *down(width * 2, width * 4),
        *down(width * 4, width * 8),
        nn.Conv2d(width * 8, 1, 4, 1, 0, bias=False),
        nn.Flatten(),
    )


def torch_layout(cl):
    return torch.channels_last if cl else torch.contiguous_format


def mobilenet_torch(cl, batch):
    m = mobilenet(tn).to(memory_format=torch_layout(cl))
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch_layout(cl))
    y = torch.randint(0, 1000, (batch,))
    opt = torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step():
        opt.zero_grad()
        loss = tn.functional.cross_entropy(m(x), y)
        loss.backward()
        opt.step()
        return loss.item()

    return step


def mobilenet_own(batch):
    m = mobilenet(fc.nn)
    x = fc.tensor(np.random.standard_normal((batch, 3, 224, 224)).astype(np.float32))
    y = fc.tensor(np.random.randint(0, 1000, batch))
    opt = fc.optim.SGD(m.parameters(), lr=0.01, momentum=0.9)

    @fc.compile
    def train(x, y):
        loss = fc.ops.cross_entropy(m(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return lambda: train(x, y).item(), train, (x, y)


def dcgan_torch(cl, batch):
    g, d = (m(tn).to(memory_format=torch_layout(cl)) for m in (generator, discriminator))
    og, od = (torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True) for m in (g, d))
    real = torch.randn(batch, 3, 64, 64).contiguous(memory_format=torch_layout(cl))
    z = torch.randn(batch, 100, 1, 1)
    one, zero = torch.ones(batch, 1), torch.zeros(batch, 1)
    bce = tn.functional.binary_cross_entropy_with_logits

    def step():
        od.zero_grad()
        bce(d(real), one).backward()
        fake = g(z)
        bce(d(fake.detach()), zero).backward()
        od.step()
        og.zero_grad()
        loss = bce(d(fake), one)
        loss.backward()
        og.step()
        return loss.item()

    return step


def dcgan_own(batch):
    g, d = generator(fc.nn), discriminator(fc.nn)
    og, od = (fc.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for m in (g, d))
    real, z = (
        fc.tensor(np.random.standard_normal(s).astype(np.float32)) for s in ((batch, 3, 64, 64), (batch, 100, 1, 1))
    )
    one, zero = fc.ones((batch, 1)), fc.zeros((batch, 1))
    bce = fc.ops.binary_cross_entropy_with_logits

    @fc.compile
    def train(real, z):
        od.zero_grad()
        bce(d(real), one).backward()
        fake = g(z)
        bce(d(fake.detach()), zero).backward()
        od.step()
        og.zero_grad()
        loss = bce(d(fake), one)
        loss.backward()
        og.step()
        return loss

    return lambda: train(real, z).item(), train, (real, z)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("nets", nargs="+", choices=("mobilenet_v2", "dcgan"))
    p.add_argument("--sides", default="nchw,cl,own")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--profile", action="store_true", help="print the plan and what its steps cost")
    a = p.parse_args()
    if a.threads:
        fc.set_num_threads(a.threads)
    torch.set_num_threads(fc.get_num_threads())
    for net in a.nets:
        batch = a.batch or (16 if net == "mobilenet_v2" else 64)
        make, own = (mobilenet_torch, mobilenet_own) if net == "mobilenet_v2" else (dcgan_torch, dcgan_own)
        step, plan, inputs = own(batch)
        every = {"nchw": lambda: make(False, batch), "cl": lambda: make(True, batch), "own": lambda: step}
        sides = {k: every[k]() for k in a.sides.split(",")}
        for f in sides.values():
            f(), f()
        times = {k: [] for k in sides}
        for _ in range(a.rounds):
            for k in [*sides, *reversed(sides)]:
                t = time.perf_counter()
                sides[k]()
                times[k].append((time.perf_counter() - t) * 1e3)
        ms = {k: statistics.median(t) for k, t in times.items()}
        peers = [v for k, v in ms.items() if k != "own"]
        ratio = f"ratio {min(peers) / ms['own']:.2f}" if peers and "own" in ms else ""
        print(net, f"b{batch}", " ".join(f"{k} {v:.1f} ms" for k, v in ms.items()), ratio, flush=True)
        if a.profile:
            print(plan.profile(*inputs, runs=4))


if __name__ == "__main__":
    main()
