"""Random programs: temporaries that meet other views of themselves, and updates in place."""

from __future__ import annotations

import torch
from fastcnn import _core as fc
from fuzz_base import Case, family, normal, pick

VIEWS = {
    "transposed": lambda y: y.transpose(-1, -2),
    "first": lambda y: y[..., :1],
    "row": lambda y: y[..., 1:2, :],
    "turned": lambda y: y.flip(-1),
    "moved": lambda y: y.transpose(0, 1).flip(0).transpose(0, 1) if y.ndim == 4 else y.flip(0),
    "parts": lambda y: y.reshape(-1)[: y.shape[-1]],
    "same": lambda y: y,
    "sum": lambda y: y.sum(-1, True),
}
PAIRS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: b - a,
    "mul": lambda a, b: a * b * 0.5,
    "mean": lambda a, b: (a + b) * 0.5,
}
ALONE = {
    "scale": lambda y: y * 1.5,
    "shift": lambda y: 0.5 - y,
    "relu": lambda y: y.relu(),
    "sigmoid": lambda y: y.sigmoid(),
    "abs": lambda y: abs(y) + 0.1,
}


def square(rng):
    n = int(rng.integers(2, 9))
    return pick(rng, (n, n), (n, n), (2, 3, n, n), (3, n, n))


@family
def chains(rng):
    steps = []
    for _ in range(int(rng.integers(2, 7))):
        if rng.random() < 0.4:
            steps.append((str(rng.choice(list(ALONE))), None))
        else:
            steps.append((str(rng.choice(list(PAIRS))), str(rng.choice(list(VIEWS)))))
    keep = rng.random() < 0.3  # an early temporary that lives to the end

    def run(x):
        y = first = x * 2
        for name, view in steps:
            y = ALONE[name](y) if view is None else PAIRS[name](y, VIEWS[view](y))
        return y + VIEWS["transposed"](first) if keep else y

    return Case(run, run, [normal(rng, *square(rng))], f"{steps} {keep}", True, scale=20)


@family
def updates(rng):
    """Both libraries see operands as they were; PyTorch has to be given copies."""
    steps = []
    for _ in range(int(rng.integers(1, 5))):
        steps.append((pick(rng, "+=", "-=", "*=", "=", "part", "conv"), str(rng.choice(list(VIEWS)))))
    shape = square(rng)

    def run(copy, conv2d, relu):
        def program(x, w):
            x, w = x.detach(), w.detach()
            y = x * 2
            first = y * 3
            for name, view in steps:
                if name == "conv":
                    if y.ndim == 4:
                        z = conv2d(y, w, padding=1)
                        first = y * 3
                        y += relu(z) if view == "sum" else z
                    continue
                v = copy(VIEWS[view](y))
                if name == "+=":
                    y += v
                elif name == "-=":
                    y -= v
                elif name == "*=":
                    y *= v
                elif name == "=":
                    y[...] = v
                elif v.shape == y.shape:
                    y[..., 1:] = v[..., :-1]
            return y, x + y, first

        return program

    return Case(
        run(lambda v: v, fc.ops.conv2d, fc.ops.relu),
        run(lambda v: v.clone(), torch.conv2d, torch.relu),
        [normal(rng, *shape), normal(rng, 3, 3, 3, 3) * 0.3],
        repr(steps),
        scale=20,
    )
