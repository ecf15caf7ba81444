"""Training steps for tests that compare plans with eager. What it is not: tests."""

from __future__ import annotations

import fastcnn as fc


def train(model, x, y, lr, steps, compiled):
    """(loss of each step with SGD and momentum, the step function, compiled if asked for)."""
    opt = fc.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def step(x, y):
        loss = fc.ops.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    run = fc.compile(step) if compiled else step
    return [float(run(x, y)) for _ in range(steps)], run
