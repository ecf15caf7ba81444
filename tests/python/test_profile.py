"""describe() and profile(): the cost model on known shapes, times that add up, the table and the Chrome trace."""

from __future__ import annotations

import json

import fastcnn as fc
import numpy as np
import pytest


def tensor(*shape):
    return fc.tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def test_cost_of_known_shapes():
    w, b, m = tensor(8, 3, 3, 3), tensor(8), tensor(5, 6)
    f = fc.compile(lambda x, a: (fc.ops.conv2d(x, w, b, stride=2, padding=1), fc.ops.matmul(a, m)))
    x, a = tensor(2, 3, 10, 12), tensor(4, 5)
    f(x, a)
    steps = {s["op"]: s for s in f._core.steps()}
    conv, matmul = steps["conv2d"], steps["matmul"]
    assert conv["flops"] == 2 * (2 * 8 * 5 * 6) * 3 * 9
    assert conv["bytes"] == 4 * (x.numpy().size + w.numpy().size + 8 + 2 * 8 * 5 * 6)
    assert matmul["flops"] == 2 * 4 * 5 * 6
    text = f.describe()
    assert f"{conv['bytes']} B {conv['flops']} FLOP" in text and f"[{conv['implementation']}]" in text


def test_grouped_and_broadcast_costs():
    w, one = tensor(8, 1, 3, 3), tensor(1, 8, 1, 1)
    f = fc.compile(lambda x: fc.ops.conv2d(x, w, padding=1, groups=8) * one)
    f(tensor(2, 8, 4, 4))
    steps = {s["op"]: s for s in f._core.steps()}
    assert steps["conv2d"]["flops"] == 2 * (2 * 8 * 16) * 9
    n = 2 * 8 * 16
    assert steps["binary"]["flops"] == n
    assert steps["binary"]["bytes"] == 4 * (n + 8 + n)


def test_profile_trains_and_adds_up(tmp_path):
    model = fc.nn.Sequential(fc.nn.Conv2d(3, 8, 3), fc.nn.ReLU(), fc.nn.Flatten(), fc.nn.Linear(8 * 36, 10))
    opt = fc.optim.SGD(model.parameters(), lr=0.1)
    calls = []

    @fc.compile
    def step(x, y):
        calls.append(1)
        loss = fc.ops.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    x, y = tensor(4, 3, 8, 8), fc.tensor(np.array([1, 2, 3, 4]))
    first = step(x, y).item()
    p = step.profile(x, y, runs=4, peak_gflops=100, peak_gbs=10)
    assert calls == [1] and p.runs == 4
    assert step(x, y).item() < first  # the profiled calls trained
    assert len(p.steps) == step.info()["steps"]
    assert all(s["ms"] >= 0 and s["gflops"] >= 0 for s in p.steps) and p.ms > 0
    assert sum(s["share"] for s in p.steps) == pytest.approx(1)
    assert sum(g["ms"] for g in p.by_op()) == pytest.approx(p.ms)
    assert sum(g["count"] for g in p.by_op()) == len(p.steps)
    for s in p.steps:
        assert s["roof"] == pytest.approx(max(s["flops"] / 100, s["bytes"] / 10) / max(s["ms"], 1e-9) / 1e6)
    shown = p.table(limit=2)
    assert "conv2d" in shown and f"in {len(p.steps) - 2} more steps" in shown
    order = [line.split()[0] for line in str(p).split("\n\n")[1].splitlines()[1:]]
    assert [float(v) for v in order] == sorted((float(v) for v in order), reverse=True)

    p.trace(tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [e["name"] for e in events] == [s["op"] for s in p.steps]
    assert all(a["ts"] <= b["ts"] for a, b in zip(events, events[1:], strict=False))
    before = [s["ms"] for s in step._core.steps()]
    step(x, y)  # recording is off again
    assert [s["ms"] for s in step._core.steps()] == before


def test_profile_wants_runs_and_a_plan():
    f = fc.compile(lambda x: x * 2)
    with pytest.raises(ValueError, match="runs >= 1, got 0"):
        f.profile(tensor(3), runs=0)
