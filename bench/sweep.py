"""Speed of convolution passes and linear layers on listed and random shapes, paired with PyTorch.

What it is: for each shape and pass the ratio of PyTorch's best (NCHW or channels_last) to fastcnn, timed in one
process in the order A B C C B A, medians, worst first. What it is not: a bench of whole nets.

    python bench/sweep.py --set listed --only dw --seconds 50
    python bench/sweep.py --set random --seed 1 --count 60
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time

import fastcnn as fc
import numpy as np
import torch

PASSES = ("fwd", "bwd_data", "bwd_weights")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One convolution; `transposed`: its x is the small image, as in conv_transpose2d."""

    N: int
    C: int
    H: int
    W: int
    O: int  # noqa: E741
    k: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @property
    def name(self) -> str:
        kind = "ct" if self.transposed else "dw" if self.groups == self.C == self.O and self.C > 1 else "cv"
        text = f"{kind}{self.k}x{self.k} n{self.N} {self.C}>{self.O} {self.H}x{self.W}"
        text += f" s{self.stride}" if self.stride > 1 else ""
        text += f" d{self.dilation}" if self.dilation > 1 else ""
        return text + (f" g{self.groups}" if self.groups > 1 and kind != "dw" else "")

    @property
    def out(self) -> tuple[int, int]:
        if self.transposed:
            return tuple(
                (n - 1) * self.stride - 2 * self.pad + self.dilation * (self.k - 1) + 1 for n in (self.H, self.W)
            )
        return tuple((n + 2 * self.pad - self.dilation * (self.k - 1) - 1) // self.stride + 1 for n in (self.H, self.W))

    @property
    def flops(self) -> float:
        h, w = (self.H, self.W) if self.transposed else self.out
        return 2.0 * self.N * h * w * self.O * (self.C // self.groups) * self.k * self.k


def depthwise(n, c, h, k=3, stride=1):
    return Shape(n, c, h, h, c, k, stride, k // 2, groups=c)


def square(n, c, o, h, k, stride=1, **more):
    return Shape(n, c, h, h, o, k, stride, more.pop("pad", (k - 1) // 2 * more.get("dilation", 1)), **more)


LISTED = {
    "dw": [
        *(
            depthwise(n, c, h, 3, s)
            for n in (1, 16)
            for c, h, s in (
                (32, 112, 1),
                (96, 112, 2),
                (144, 56, 1),
                (144, 56, 2),
                (192, 28, 1),
                (192, 28, 2),
                (384, 14, 1),
                (576, 14, 1),
                (576, 14, 2),
                (960, 7, 1),
            )
        ),
        depthwise(8, 96, 56),
        depthwise(8, 144, 56),
        depthwise(8, 576, 14),
        *(
            depthwise(8, c, h, 5, s)
            for c, h, s in ((72, 56, 2), (120, 28, 1), (240, 28, 2), (480, 14, 1), (672, 14, 2), (960, 7, 1))
        ),
        depthwise(3, 17, 31),
        depthwise(3, 17, 31, 5),
        depthwise(8, 96, 28, 7),
        depthwise(8, 192, 14, 7),
        Shape(8, 128, 28, 28, 128, 3, 1, 2, 2, 128),
        depthwise(128, 16, 32),
        depthwise(1, 1024, 7),
    ],
    "1x1": [
        square(n, c, o, h, 1)
        for n in (1, 8, 16)
        for c, o, h in ((64, 256, 56), (256, 64, 56), (1024, 256, 14), (256, 1024, 14), (512, 2048, 7), (320, 1280, 7))
    ]
    + [
        square(n, c, o, h, 1)
        for n in (1, 16)
        for c, o, h in (
            (32, 16, 112),
            (16, 96, 112),
            (96, 24, 56),
            (24, 144, 56),
            (144, 24, 56),
            (144, 32, 28),
            (32, 192, 28),
            (192, 32, 28),
            (64, 384, 14),
            (384, 64, 14),
            (576, 96, 14),
            (96, 576, 14),
            (160, 960, 7),
            (960, 160, 7),
            (960, 320, 7),
        )
    ]
    + [square(8, 256, 512, 56, 1, 2), square(8, 64, 128, 56, 1, 2), square(3, 17, 33, 19, 1)],
    "first": [
        square(8, 3, 64, 224, 7, 2),
        square(1, 3, 64, 224, 7, 2),
        square(128, 3, 16, 32, 3),
        square(16, 3, 32, 224, 3, 2),
        square(1, 3, 32, 224, 3, 2),
        square(128, 1, 32, 28, 5),
        square(128, 1, 6, 28, 5),
        square(4, 3, 96, 224, 11, 4, pad=2),
        square(64, 3, 64, 64, 4, 2, pad=1),
        square(8, 3, 64, 112, 3),
        square(8, 1, 64, 56, 3),
        square(8, 3, 96, 224, 4, 4, pad=0),
        square(1, 1, 32, 28, 3),
        square(32, 3, 64, 32, 3),
        square(16, 3, 64, 64, 9),
    ],
    "small": [
        square(128, 16, 16, 32, 3),
        square(128, 16, 32, 32, 3, 2),
        square(128, 32, 64, 16, 3, 2),
        square(128, 16, 32, 32, 1, 2),
        square(3, 17, 17, 17, 3),
        square(3, 17, 31, 23, 5),
        square(1, 17, 17, 7, 3),
        square(1, 16, 16, 8, 3),
        square(3, 64, 64, 7, 3),
        square(1, 512, 512, 7, 3),
        square(3, 1024, 1024, 7, 3),
        square(1, 1024, 1024, 7, 1),
        square(128, 6, 16, 14, 5, pad=0),
        square(1, 8, 8, 4, 3),
        square(128, 16, 120, 5, 5, pad=0),
        square(64, 20, 50, 12, 5, pad=0),
    ],
    "misc": [
        square(8, 64, 128, 56, 3, 2),
        square(8, 128, 256, 28, 3, 2),
        square(8, 256, 512, 14, 3, 2),
        square(1, 64, 128, 56, 3, 2),
        square(4, 256, 256, 28, 3, dilation=2),
        square(2, 512, 512, 28, 3, dilation=4),
        square(4, 64, 64, 56, 3, dilation=3),
        square(8, 128, 128, 56, 3, groups=32),
        square(8, 256, 256, 56, 3, 2, groups=32),
        square(8, 256, 256, 28, 3, groups=32),
        square(8, 512, 512, 14, 3, groups=32),
        square(8, 1024, 1024, 7, 3, groups=32),
        square(1, 128, 128, 56, 3, groups=32),
        square(8, 240, 240, 28, 1, groups=3),
        square(8, 64, 64, 28, 3, groups=2),
        square(8, 96, 96, 28, 3, groups=12),
        square(8, 64, 64, 28, 5),
        square(8, 32, 64, 14, 5),
        square(8, 64, 64, 28, 7),
        square(4, 48, 128, 27, 5, groups=2),
        square(8, 96, 192, 56, 2, 2, pad=0),
        square(128, 32, 64, 14, 5),
        square(8, 32, 64, 28, 3, groups=32),
    ],
    "gan": [
        square(64, 100, 512, 1, 4, pad=0, transposed=True),
        square(64, 512, 256, 4, 4, 2, pad=1, transposed=True),
        square(64, 256, 128, 8, 4, 2, pad=1, transposed=True),
        square(64, 128, 64, 16, 4, 2, pad=1, transposed=True),
        square(64, 64, 3, 32, 4, 2, pad=1, transposed=True),
        square(64, 3, 64, 64, 4, 2, pad=1),
        square(64, 64, 128, 32, 4, 2, pad=1),
        square(64, 128, 256, 16, 4, 2, pad=1),
        square(64, 256, 512, 8, 4, 2, pad=1),
        square(64, 512, 1, 4, 4, pad=0),
        square(1, 64, 32, 32, 2, 2, pad=0, transposed=True),
        square(1, 256, 128, 16, 4, 2, pad=1, transposed=True),
        square(8, 64, 64, 16, 3, 2, pad=1, transposed=True),
    ],
    "linear": [
        Shape(n, c, 1, 1, o, 0)
        for n in (1, 3, 128)
        for c, o in ((512, 1000), (2048, 1000), (3136, 512), (512, 10), (1280, 1000), (17, 33), (4096, 4096))
    ],
}


def random_shape(rng: random.Random) -> Shape:
    """Any legal convolution between a few thousand and about 2e9 multiply-adds."""
    channels = (1, 2, 3, 4, 7, 8, 12, 16, 17, 24, 31, 32, 48, 64, 65, 96, 100, 128, 160, 192, 256, 320, 512, 768, 1024)
    while True:
        n = rng.choice((1, 1, 2, 3, 4, 8, 16, 32, 64, 128))
        h = rng.choice((1, 4, 7, 8, 13, 14, 16, 19, 28, 32, 38, 56, 64, 75, 112, 150, 224))
        w = h if rng.random() < 0.7 else rng.choice((1, 5, 7, 14, 20, 28, 33, 56, 100))
        c, o = rng.choice(channels), rng.choice(channels)
        k = rng.choice((1, 1, 2, 3, 3, 3, 4, 5, 7))
        stride, dilation = rng.choice((1, 1, 1, 2, 2, 3)), rng.choice((1, 1, 1, 1, 2, 3))
        kind = rng.random()
        groups = 1
        if kind < 0.2:
            groups = o = c
        elif kind < 0.35:
            groups = rng.choice([g for g in (2, 3, 4, 8, 16, 32) if c % g == 0 and o % g == 0] or [1])
        s = Shape(
            n,
            c,
            h,
            w,
            o,
            k,
            stride,
            rng.choice((0, dilation * (k // 2), k // 2)),
            dilation,
            groups,
            rng.random() < 0.15,
        )
        if min(s.out) < 1 or (s.transposed and s.pad > dilation * (k - 1)):
            continue
        floats = max(n * c * h * w, n * o * s.out[0] * s.out[1], o * c // groups * k * k)
        if 1e5 < s.flops < 2e9 and 2e3 < floats < 8e6:
            return s


class Sides:
    """The three callables of one pass: PyTorch NCHW, PyTorch channels_last, fastcnn; all hold their own operands."""

    def __init__(self, s: Shape, which: str):
        g = np.random.default_rng(0)
        if s.k == 0:
            self.linear(s, which, g)
            return
        groups = s.groups
        w_shape = (s.C, s.O // groups, s.k, s.k) if s.transposed else (s.O, s.C // groups, s.k, s.k)
        x, w = (g.standard_normal(d, dtype=np.float32) for d in ((s.N, s.C, s.H, s.W), w_shape))
        dy = g.standard_normal((s.N, s.O, *s.out), dtype=np.float32)
        self.calls = []
        for cl in (False, True):
            layout = torch.channels_last if cl else torch.contiguous_format
            tx, tw, tdy = (torch.from_numpy(a).contiguous(memory_format=layout) for a in (x, w, dy))
            self.calls.append(self.torch_call(s, which, tx, tw, tdy))
        fx, fw, fdy = fc.tensor(x), fc.tensor(w), fc.tensor(dy)
        op = fc.ops.conv_transpose2d if s.transposed else fc.ops.conv2d
        kw = {"stride": s.stride, "padding": s.pad, "dilation": s.dilation, "groups": groups}
        if which == "fwd":

            def run():
                with fc.no_grad():
                    return op(fx, fw, **kw)

            self.calls.append(run)
        else:
            # The forward of the trace is dead code there: only the backward pass is left in the plan.
            of = 0 if which == "bwd_data" else 1

            @fc.compile
            def backward(x, w, dy):
                leaf = (x, w)[of].detach()
                leaf.requires_grad = True
                y = op(*((leaf, w) if of == 0 else (x, leaf)), **kw)
                return fc.grad([y], [leaf], [dy])[0]

            self.calls.append(lambda: backward(fx, fw, fdy))

    def torch_call(self, s, which, x, w, dy):
        st, pd, dl = [s.stride] * 2, [s.pad] * 2, [s.dilation] * 2
        if which == "fwd":

            def run():
                with torch.no_grad():
                    return torch.convolution(x, w, None, st, pd, dl, s.transposed, [0, 0], s.groups)

            return run
        mask = [which == "bwd_data", which == "bwd_weights", False]
        back = torch.ops.aten.convolution_backward
        return lambda: back(dy, x, w, None, st, pd, dl, s.transposed, [0, 0], s.groups, mask)[0 if mask[0] else 1]

    def linear(self, s, which, g):
        x, w, dy = (g.standard_normal(d, dtype=np.float32) for d in ((s.N, s.C), (s.O, s.C), (s.N, s.O)))
        tx, tw, tdy = (torch.from_numpy(a) for a in (x, w, dy))
        fx, fw, fdy = fc.tensor(x), fc.tensor(w), fc.tensor(dy)
        t, f = {
            "fwd": (lambda: torch.nn.functional.linear(tx, tw), lambda: fc.ops.linear(fx, fw)),
            "bwd_data": (lambda: tdy @ tw, lambda: fdy @ fw),
            "bwd_weights": (lambda: tdy.t() @ tx, fc.compile(lambda: fc.ops.matmul(fdy.transpose(0, 1), fx))),
        }[which]
        self.calls = [t, t, f]


def peer_corrupts(s: Shape, which: str) -> bool:
    """PyTorch 2.13 writes past its memory in gradients of strided 1x1 weights with few channels: no peer there."""
    return which == "bwd_weights" and s.k == 1 and s.stride > 1 and (s.O if s.transposed else s.C) < 16


def close(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.abs(a - b).max() <= 1e-4 * max(np.abs(b).max(), 1e-30)


def measure(s: Shape, which: str, budget: float) -> dict:
    calls = Sides(s, which).calls
    first = [c() for c in calls]
    if not close(first[2].numpy(), first[0].numpy()):
        raise SystemExit(f"{s.name} {which}: results differ")
    repeat = []
    for c in calls:
        t = time.perf_counter()
        c()
        once = max(time.perf_counter() - t, 1e-7)
        repeat.append(max(1, min(200, int(1e-3 / once))))
    times = [[], [], []]
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < 3 or (time.perf_counter() < end and rounds < 15):
        for i in (0, 1, 2, 2, 1, 0):
            c = calls[i]
            c()  # untimed: the other side's threads still wait for work at full speed
            t = time.perf_counter()
            for _ in range(repeat[i]):
                c()
            times[i].append((time.perf_counter() - t) / repeat[i])
        rounds += 1
    nchw, cl, own = (statistics.median(t) * 1e3 for t in times)
    best = min(nchw, cl)
    flops = s.flops if s.k else 2.0 * s.N * s.C * s.O
    return {
        "shape": s.name,
        "pass": which,
        "nchw_ms": nchw,
        "cl_ms": cl,
        "ms": own,
        "ratio": best / own,
        "gflops": flops / own / 1e6,
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--set", default="listed", help="random, listed or one of " + ", ".join(LISTED))
    p.add_argument("--only", default="", help="shapes whose name contains this")
    p.add_argument("--passes", default=",".join(PASSES))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--count", type=int, default=40)
    p.add_argument("--slice", default="0/1", help="i/n: every n-th shape from the i-th")
    p.add_argument("--budget", type=float, default=0.08, help="seconds per shape and pass")
    p.add_argument("--seconds", type=float, default=1e9, help="stop after this long; says where")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--worst", type=int, default=1000, help="print this many rows")
    p.add_argument("--json", help="append one line per row to this file")
    a = p.parse_args()
    if a.threads:
        fc.set_num_threads(a.threads)
    torch.set_num_threads(fc.get_num_threads())
    if a.set == "random":
        rng = random.Random(a.seed)
        shapes = [random_shape(rng) for _ in range(a.count)]
    else:
        shapes = sum(LISTED.values(), []) if a.set == "listed" else LISTED[a.set]
    i, n = map(int, a.slice.split("/"))
    start, rows = time.perf_counter(), []
    for j, s in enumerate([s for s in shapes if a.only in s.name][i::n]):
        if time.perf_counter() - start > a.seconds:
            print(f"stopped before shape {j} of the slice")
            break
        rows += [measure(s, which, a.budget) for which in a.passes.split(",") if not peer_corrupts(s, which)]
    if a.json:
        with open(a.json, "a") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows)
    rows.sort(key=lambda r: r["ratio"])
    print(f"{'shape':36} {'pass':12} {'NCHW ms':>9} {'cl ms':>9} {'own ms':>9} {'GFLOP/s':>8} {'ratio':>6}")
    for r in rows[: a.worst]:
        print(
            f"{r['shape']:36} {r['pass']:12} {r['nchw_ms']:9.3f} {r['cl_ms']:9.3f} {r['ms']:9.3f} "
            f"{r['gflops']:8.1f} {r['ratio']:6.2f}"
        )
    if rows:
        mean = statistics.geometric_mean(r["ratio"] for r in rows)
        print(f"{len(rows)} rows, geometric mean {mean:.2f}, below 0.9: {sum(r['ratio'] < 0.9 for r in rows)}")


if __name__ == "__main__":
    main()
