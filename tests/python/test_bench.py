"""The benchmarks: statistics, order of pairs, shape data, results of tiny runs, form of the JSON, the command line."""

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fastcnn import _core
from fastcnn.bench import command, layers, machine, nets, ops, pairing, report
from fastcnn.cli import bench_options, main

TINY = pairing.Effort(pairs=3, block=0.001, warm=0.0)
ROOT = Path(__file__).parents[2]


def options(*argv):
    parser = argparse.ArgumentParser()
    bench_options(parser)
    return parser.parse_args([str(a) for a in argv])


@pytest.fixture
def tiny_shapes(tmp_path):
    row = {"name": "tiny", "x": [2, 3, 9, 8], "w": [4, 3, 3, 3], "stride": 2, "padding": 1, "family": "test"}
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps([row, {**row, "name": "tiny first", "first": True}]))
    return path


# ---------------------------------------------------------------- statistics


@pytest.mark.smoke
def test_intervals_cover_the_true_median():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = pairing.median_interval(rng.lognormal(0.3, 0.2, 25), resamples=500, seed=seed)
        hits += found.low <= np.exp(0.3) <= found.high
    assert 0.88 <= hits / 200 <= 1.0
    narrow = pairing.median_interval(rng.normal(2, 0.1, 400))
    wide = pairing.median_interval(rng.normal(2, 0.1, 10))
    assert narrow.high - narrow.low < wide.high - wide.low
    assert pairing.median_interval([3.0]) == pairing.Interval(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="expected a list of numbers"):
        pairing.median_interval([])


def test_ratios_are_of_neighbours_in_time():
    # The machine slows down by ten during the run; the ratio of neighbours stays.
    pairs = [(0.001 * drift, 0.003 * drift) for drift in np.linspace(1, 10, 20)]
    found = pairing.ratio_interval(pairs)
    assert found.median == pytest.approx(3) and found.high - found.low < 1e-9
    assert pairing.geometric_mean([1, 4]) == pytest.approx(2)


def test_pairs_alternate_their_order():
    calls = []
    pairing.time_pairs(lambda: calls.append("A"), lambda: calls.append("B"), pairing.Effort(4, 0.0, 0.0))
    runs = [c for i, c in enumerate(calls) if i == 0 or calls[i - 1] != c]
    assert runs == ["A", "B", "A", "B", "A"]  # AB, BA, AB, BA: neighbours of one side join


def test_a_slower_side_is_seen_as_slower():
    def work(n):
        def run():
            total = 0
            for i in range(n):
                total += i
            return total

        return run

    pairs = pairing.time_pairs(work(2000), work(20000), pairing.Effort(9, 0.005, 0.001))
    assert 5 < pairing.ratio_interval(pairs).median < 20


# ---------------------------------------------------------------- machine


@pytest.mark.smoke
def test_peaks_are_plausible_and_restore_the_threads():
    before = _core.get_num_threads()
    one = machine.measure_peak(0.2, threads=1)
    assert _core.get_num_threads() == before
    assert one["threads"] == 1 and one["isa"] == _core.isa()
    assert 1 < one["float32_gflops"] < 1000  # one core
    assert 0.5 < one["triad_gbytes"] < 500 and 0.5 < one["copy_gbytes"] < 500
    assert one["round_trip_ns"] == 0  # of one thread
    assert (one["bfloat16_gflops"] > 0) == (_core.isa() == "avx512bf16")


def test_every_isa_has_a_peak_kernel():
    before = _core.isa()
    try:
        for isa in _core.available_isas():
            _core.set_isa(isa)
            if isa == "ref":
                with pytest.raises(RuntimeError, match="FASTCNN_ISA=ref has no vector kernels"):
                    _core.measure_peak(0.01)
            else:
                assert _core.measure_peak(0.01)["float32_gflops"] > 0
    finally:
        _core.set_isa(before)


def test_work_of_others_is_seen_and_marked():
    others = machine.Others()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.6)
        share = others.share()
    finally:
        busy.kill()
        busy.wait()
    assert share > 0.5 / _core.get_num_threads()
    row = {"kind": "noise", "name": "A/A", "ms": 1.0, "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1}
    marked = report.new({}, {}) | {"rows": [row | {"others": share}, row | {"others": 0.01}]}
    assert report.disturbed(marked) == marked["rows"][:1]
    text = report.text(marked)
    assert "DISTURBED: in 1 of 2 rows" in text and text.count("] !") == 1


# ---------------------------------------------------------------- layers


@pytest.mark.smoke
def test_shapes_are_valid_convolutions():
    rows = layers.load()
    assert len({r.name for r in rows}) == len(rows) >= 25
    assert {r.family for r in rows} >= {"ResNet 3x3", "ResNet 1x1", "first layers", "CIFAR", "depthwise", "GAN 4x4/2"}
    for r in rows:
        assert r.x[1] == r.w[1] * r.groups and r.w[0] % r.groups == 0, r.name
        assert min(r.y) >= 1 and r.gflop > 0 and r.gbyte > 0
        assert r.first == (r.x[1] <= 3), r.name
    known = next(r for r in rows if r.name == "3x3 64@56 N8")
    assert known.y == (8, 64, 56, 56)
    assert known.gflop == pytest.approx(2 * 8 * 64 * 56 * 56 * 64 * 9 / 1e9)


def test_layers_alone(tiny_shapes):
    rows = list(layers.run(layers.load(tiny_shapes), TINY))
    assert [r["pass"] for r in rows] == ["fwd", "bwd_data", "bwd_weights", "fwd", "bwd_weights"]
    for row in rows:
        assert row["ms"] > 0 and row["gflops"] > 0 and "ratio" not in row and row["implementation"]


def test_layers_against_torch(tiny_shapes):
    pytest.importorskip("torch")
    from fastcnn.bench import torch_peer

    for row in layers.run(layers.load(tiny_shapes), TINY, torch_peer):
        assert row["error"] < 1e-5 and row["peer_error"] < 1e-5
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and row["pairs"] == TINY.pairs
        assert row["peer"] in row["peer_modes_ms"] and len(row["peer_modes_ms"]) == 2


# ---------------------------------------------------------------- nets


def test_costs_of_nets():
    by_name = {t.name: nets.gflop(t) for t in nets.tasks()}
    assert by_name["infer f32 resnet18 b1"] == pytest.approx(3.628, rel=0.01)
    assert by_name["infer f32 resnet50 b1"] == pytest.approx(8.178, rel=0.01)
    assert by_name["train f32 resnet18 b16"] == pytest.approx(16 * 10.648, rel=0.01)
    assert by_name["train f32 resnet20 b128"] == pytest.approx(128 * 0.2424, rel=0.01)


@pytest.mark.parametrize("name", [n.name for n in nets.NETS])
def test_nets_do_the_same_work_as_torch(name):
    torch = pytest.importorskip("torch")
    from fastcnn.bench import torch_nets, torch_peer

    net = next(n for n in nets.NETS if n.name == name)
    ours = nets.build(net)
    theirs = torch_nets.BUILDERS[name]()
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    image = net.image if name in ("lenet", "dcgan", "capsnet") else (3, 32, 32)
    small = dataclasses.replace(net, batch=4, image=image)
    task = nets.Task(small, "train", 2 if name == "dcgan" else 4)
    arrays = nets.arrays_of(task)
    state = torch_peer.new_state(net, nets.calibration(net))
    mine = nets.training_step(task, arrays, state)
    their = torch_peer.training_step(small, state, arrays)
    assert mine().item() == pytest.approx(their().item(), rel=2e-4)
    assert isinstance(their(), torch.Tensor)


def test_different_work_is_refused():
    task = nets.tasks()[0]
    assert nets._compare(task, [2.0, 1.5], [2.0, 1.5]) == 0
    for wrong in ([2.1, 1.5], [2.0, 1.0], [float("nan"), 1.5]):
        with pytest.raises(nets.DifferentWork, match="the sides differ"):
            nets._compare(task, wrong, [2.0, 1.5])
    infer = nets.Task(task.net, "infer", 1)
    with pytest.raises(nets.DifferentWork):
        nets._compare(infer, np.ones((1, 10)), 1.1 * np.ones((1, 10)))


def test_threads_rows_compare_all_threads_with_one():
    from fastcnn.bench import threads

    before = _core.get_num_threads()
    seen = []
    task = next(t for t in nets.tasks() if t.name == "infer f32 lenet b1")
    _core.set_num_threads(2)
    try:
        (row,) = threads.run([task], TINY, seen.append)
        assert _core.get_num_threads() == 2
        assert row["peer"] == "one thread" and row["ms"] > 0 and row["peer_ms"] > 0
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and row["peak"]["threads"] == 2
        assert seen == ["threads of infer f32 lenet b1"]
        assert report.check({"schema": report.SCHEMA, "rows": [row]}) and "one ms" in report.table("threads", [row])
    finally:
        _core.set_num_threads(before)


def test_peak_memory_is_of_a_process_of_its_own():
    from fastcnn.bench import memory

    task = next(t for t in nets.tasks() if t.name == "train f32 lenet b128")
    (row,) = memory.run([task])
    assert 10 < row["imports_mbyte"] < row["peak_mbyte"] < 2000
    assert report.check(report.new({}, {}) | {"rows": [row]})
    with pytest.raises(RuntimeError, match="memory of"):
        memory.measure(nets.Task(task.net, "train", 3))


# ---------------------------------------------------------------- command


def test_a_run_is_saved_and_completed_in_parts(tiny_shapes, tmp_path, capsys):
    out = tmp_path / "result.json"
    base = ("--shapes", tiny_shapes, "--pairs", 2, "--no-torch", "--json", out)
    command.run(options("layers", *base, "--filter", "tiny first"))
    assert {(r["name"], r["pass"]) for r in report.load(out)["rows"]} == {
        ("tiny first", "fwd"), ("tiny first", "bwd_weights")
    }  # fmt: skip
    result = command.run(options("layers", "peak", *base))
    saved = report.load(out)
    assert len(saved["rows"]) == 5 + len([r for r in result["rows"] if r["kind"] == "peak"])
    assert saved["about"]["cpu"] and saved["about"]["versions"]["fastcnn"] == _core.version()
    text = capsys.readouterr().out
    assert "GFLOP/s" in text and "tiny" in text and "ratio" not in text
    assert report.text(saved, markdown=True).count("|") > 40
    saved["rows"][0].pop("ms", None)
    saved["rows"].append({"kind": "layer", "name": "broken"})
    with pytest.raises(ValueError, match="'broken' lacks"):
        report.check({**saved, "rows": saved["rows"][-1:]})


def test_rows_of_ops(tmp_path):
    small = {o: (2, 4, 6, 6) for o in (ops.MAP, ops.POOLED, ops.STEM)}
    chosen = [
        dataclasses.replace(op, operands=tuple(small.get(o, o) for o in op.operands))
        for op in ops.OPS
        if op.name in ("relu", "add", "max_pool2d 3x3/2", "interpolate bilinear x2", "mse_loss")
    ]
    chosen.append(ops.Op("cross_entropy", ((5, 7), ((5,), 7)), lambda o, x, y: o.cross_entropy(x, y)))
    peer = pytest.importorskip("fastcnn.bench.torch_peer") if importlib.util.find_spec("torch") else None
    rows = list(ops.run(chosen, TINY, peer)) + list(ops.run_optimizers(["SGD"], TINY, None))
    assert [r["name"] for r in rows][::2] == [op.name for op in chosen] + ["optim.SGD"]
    assert all(r["gbytes_per_s"] > 0 and (not peer or "ratio" in r or r["pass"] == "step") for r in rows)
    report.save({**report.new({}, {}), "rows": rows}, tmp_path / "ops.json")
    assert "optim.SGD" in report.text(report.load(tmp_path / "ops.json"))
    wrong = dataclasses.replace(chosen[0], peer=lambda o, x: o.sigmoid(x))
    if peer:
        with pytest.raises(RuntimeError, match="the sides differ"):
            list(ops.run([wrong], TINY, peer))


def test_numbers_keep_their_digits():
    assert [report._number(v, 2) for v in (0.0123, 0.5, 9.94, 99.7, 541.2)] == ["0.012", "0.5", "9.9", "100", "541"]


def test_command_line(capsys, tiny_shapes):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--help"])
    assert stop.value.code == 0 and "--quick" in capsys.readouterr().out
    assert main(["bench", "layers", "--shapes", str(tiny_shapes), "--pairs", "1", "--no-torch"]) == 0
    assert "tiny" in capsys.readouterr().out
    assert main(["bench", "speed"]) == 1
    assert "expected sections of peak, layers, nets, ops, memory, augment, loader, threads" in capsys.readouterr().err
    assert main(["bench", "layers", "--filter", "no such layer"]) == 1
    assert "no layer, net or op matches" in capsys.readouterr().err


@pytest.mark.parametrize("how", [(), ("--infer",)])
def test_profile_prints_a_table_and_writes_a_trace(how, tmp_path, capsys):
    trace = tmp_path / "trace.json"
    argv = ["bench", "--profile", "lenet5", "--batch", "2", "--pairs", "1", "--trace", str(trace), *how]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "conv2d" in text and "roof" in text and ("conv2d_bwd_weights" in text) == (not how)
    assert any("conv2d" in e["name"] for e in json.loads(trace.read_text())["traceEvents"])
    assert main(["bench", "--profile", "resnet21"]) == 1
    assert "did you mean" in capsys.readouterr().err


def test_checkout_command_and_committed_results():
    done = subprocess.run([sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--save" in done.stdout
    for path in (ROOT / "bench" / "results").glob("*.json"):
        if path.name.startswith("local-"):  # git does not see them
            continue
        if path.name.startswith("gpu-"):  # of bench.gpu
            rows = json.loads(path.read_text(encoding="utf-8"))
            assert rows["device"]["name"] and rows["nets"] and not any("error" in row for row in rows["nets"])
            continue
        result = report.load(path)
        assert result["rows"] and result["about"]["date"], path
        assert not any(r["kind"] != "peak" and r.get("ratio", 1) <= 0 for r in result["rows"])


def test_augment_row_holds_times_and_ratio(tmp_path):
    from fastcnn.bench import augment

    times = [(0.01 * augment.BATCH, 0.05 * augment.BATCH)] * 4
    alone, beside = augment.row([(a, None) for a, _ in times]), augment.row(times, "albumentations")
    assert alone["us_per_image"] == pytest.approx(1e4) and "ratio" not in alone
    assert beside["ratio"] == pytest.approx(5) and beside["peer_us_per_image"] == pytest.approx(5e4)
    assert report.key(alone) != report.key(beside)
    assert "albumentations" in report.table("augment", [alone, beside])
    images = augment.photographs(3, 64)
    out = augment.ours(images)()
    assert out.shape == (3, 3, augment.SIZE, augment.SIZE) and out.dtype == np.uint8 and out.std() > 10


def test_loader_rows_say_what_the_step_waits_for(tmp_path):
    from fastcnn.bench import loader, nets

    task = nets.Task(nets.NETS[0], "train", 16)
    # A step of 10 ms per image, loading of 5 ms: nothing hidden, all hidden, and the most that two cores allow.
    threads = _core.get_num_threads()
    serial = loader.row("a", task, 0, [(200, 200, 0.005, 100, 1 / 0.015)])
    assert serial["hidden"] == pytest.approx(0) and serial["of_limit"] == pytest.approx((10 + 5 / threads) / 15)
    turns = [(200, 200, 0.005, 100, rate) for rate in (100, 1 / 0.0125, 1 / 0.015)]
    assert loader.row("a", task, 1, turns[:1])["hidden"] == pytest.approx(1)
    assert loader.row("a", task, 1, turns)["hidden"] == pytest.approx(0.5)
    rows = list(loader.measure("lenet", _digits(), lambda x, rng: x, task, 0.02, 1, workers=(0, 1)))
    assert [r["workers"] for r in rows] == [0, 1] and all(r["images_per_s"] > 0 for r in rows)
    assert report.check({"schema": report.SCHEMA, "rows": rows}) and "workers=1" in report.table("loader", rows)
    pytest.importorskip("PIL")
    loader.write_jpegs(tmp_path, files=3, size=(60, 80))
    assert sorted(p.name for p in tmp_path.rglob("*.jpg")) == ["000.jpg", "001.jpg", "002.jpg"]
    assert loader.small_images(5)[4][0].shape == (3, 32, 32)


def _digits():
    from fastcnn.data import load

    return load("fashion_mini", "test")


# ---------------------------------------------------------------- devices


def test_a_mode_of_torch_that_fails_on_a_device_is_noted(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT))
    from bench import gpu

    def fails():
        raise RuntimeError("no such kernel\nat line 3")

    monkeypatch.setattr(gpu, "THEIRS", "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    task = nets.Task(next(n for n in nets.NETS if n.name == "lenet"), "train", 2, "bf16")
    modes = gpu.torch_modes(torch, task.precision, compiled=(), all_layouts=False)
    assert list(modes) == ["NHWC", "NHWC graph"]
    call = gpu.torch_net(torch, task, nets.arrays_of(task), *modes["NHWC"])
    cell = gpu.torch_cell(torch, 1.0, {"NHWC": lambda: call, "NHWC graph": fails}, 0.01)
    assert cell["torch mode"] == "NHWC" and cell["ratio"] > 0 and list(cell["torch modes"]) == ["NHWC"]
    assert gpu.failures(cell) == ["NHWC graph failed: RuntimeError: no such kernel"]
    assert gpu.torch_cell(torch, 1.0, {"NHWC": fails}, 0.01) == {
        "torch modes": {}, "torch failed": {"NHWC": "RuntimeError: no such kernel"},
    }  # fmt: skip
    assert len(gpu.torch_modes(torch, "f32", ("reduce-overhead", "graph"), all_layouts=False)) == 6
