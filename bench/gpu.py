"""A CUDA device: every op against the CPU, then times of layers and nets, beside PyTorch's where it is installed.

    python -m bench.gpu [ops] [copy] [peers] [nets] [layers] [--seconds N] [--json PATH] [--dtypes bfloat16 ...]

What bench/gpu_check.sh runs after it has built the extension. Without a device it says why and ends with 2. Rows that
the time does not reach are named as left out. Times are wall-clock around a wait for the device, the median of blocks.
PyTorch runs the same shapes on the same device in both layouts, nets also with the whole step as one CUDA graph and,
where asked for, compiled; the fastest counts, and a mode that fails is noted in the row. `peers` compiles PyTorch's
nets beforehand, side by side, so that its cache has them when they are timed. Both sides round float32 to TF32 or
neither (--tf32).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import fastcnn as fc
from fastcnn.bench import layers, machine, nets

ROOT = Path(__file__).resolve().parents[1]
THEIRS = "cuda"  # where PyTorch's side runs; "cpu" tries this file without a GPU
SECTIONS = ("ops", "copy", "peers", "nets", "layers")
ONCE = ("ops", "copy", "peers")  # whatever the dtypes
COMPILED = ("default", "reduce-overhead", "max-autotune", "graph")  # modes of torch.compile
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Batches at which a large device is busy: (net, training, inference).
NETS = (("resnet20", 512, 512), ("resnet18", 256, 256), ("resnet50", 128, 64), ("mobilenet_v2", 128, 64),
        ("dcgan", 128, None))  # fmt: skip
QUICK_NETS = (("lenet", 2, 1),)  # what the executor does in seconds
QUICK_LAYER = layers.Layer("3x3/2 16-24@9 N2", (2, 16, 9, 9), (24, 16, 3, 3), "quick", stride=2, padding=1)


def torch_on_device():
    """PyTorch with this device, or None."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    torch.backends.cudnn.benchmark = True
    tf32 = fc.get_float32_matmul_precision() != "highest"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return torch


def device_facts():
    """What nvidia-smi says of the device: name, driver, clocks, power; {} where it is not installed."""
    keys = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return {}
    return dict(zip(keys.split(","), (v.strip() for v in text.split(",")), strict=True))


class Budget:
    """Seconds for everything; what did not fit is named."""

    def __init__(self, seconds):
        self._end = time.monotonic() + seconds
        self.left_out = []

    def allows(self, row, needs=5.0):
        """Is there time for this row? Notes it if not."""
        if time.monotonic() + needs < self._end:
            return True
        self.left_out.append(row)
        return False


def seconds_of(call, wait, at_least=0.3, blocks=5):
    """Median seconds of one call: blocks of calls, each ended by a wait for the device; one call where that is long."""
    call()
    wait()
    begin = time.perf_counter()
    call()
    wait()
    once = max(time.perf_counter() - begin, 1e-6)
    if once > 2 * at_least:
        return once
    count = max(1, int(at_least / blocks / once))
    times = []
    for _ in range(blocks):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        times.append((time.perf_counter() - begin) / count)
    return statistics.median(times)


def reason(error):
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def torch_cell(torch, took, builders, at_least, blocks=5):
    """What a row says of PyTorch: the fastest of the modes {name: function that gives the call} against `took`."""
    times, failed = {}, {}
    for mode, build in builders.items():
        gc.collect()
        try:
            times[mode] = seconds_of(build(), torch.cuda.synchronize, at_least, blocks)
        except Exception as error:  # noqa: BLE001 - whatever a mode raises, the others are still to be timed
            failed[mode] = reason(error)
    gc.collect()
    torch.cuda.empty_cache()  # both libraries share the device's memory
    cell = {"torch modes": {mode: 1e3 * t for mode, t in times.items()}}
    if failed:
        cell["torch failed"] = failed
    if times:
        mode = min(times, key=times.get)
        cell |= {"torch ms": 1e3 * times[mode], "torch mode": mode, "ratio": times[mode] / took}
    return cell


def ops(budget, dtypes, seeds):
    """The families of tests/python/fuzz_cases.py on the device against the CPU, values, gradients and plans."""
    sys.path.insert(0, str(ROOT / "tests" / "python"))
    if importlib.util.find_spec("torch") is None:
        return {"note": "the cases of tests/python need PyTorch to be installed: not run"}
    import cuda_ops

    counts = dict.fromkeys(("ok", "wrong", "missing", "skipped"), 0)
    wrong, missing = [], set()
    for dtype in dtypes:
        for family in cuda_ops.FAMILIES:
            if not budget.allows(f"ops {dtype} {family}", 1.0):
                continue
            for seed in range(seeds):
                verdict, text = cuda_ops.compare(family, seed, dtype, compiled=seed % 2 == 0)
                counts[verdict] += 1
                if verdict == "wrong":
                    wrong.append(text)
                    print(f"  wrong: {text}", flush=True)
                elif verdict == "missing":
                    missing.add(text)
    return {**counts, "failures": wrong, "ops without a kernel": sorted(missing)}


def copy(budget, megabytes=1024):
    """GB/s of bytes that must be read and written: of a copy, the ceiling, and of elementwise ops and norms."""
    row = {"megabytes": megabytes}
    x = fc.full((megabytes << 18,), 1.0, device="cuda")
    other = x.clone()
    calls = {"copy": (2, lambda: x.clone()), "relu": (2, lambda: fc.ops.relu(x)), "add": (3, lambda: x + other)}
    images = fc.full((megabytes, 128, 64, 64), 1.0, device="cuda").to(fc.bfloat16)
    scale = fc.ops.ones((128,)).to("cuda")
    calls["bfloat16 relu"] = (2, lambda: fc.ops.relu(images))
    calls["bfloat16 batch norm, eval"] = (
        2, lambda: fc.ops.batch_norm(images, scale, scale, scale, scale, training=False)
    )  # fmt: skip
    leaf = images.detach().requires_grad_()
    y = fc.ops.batch_norm(leaf, None, None, scale, scale, training=True)
    # Two passes: sums of the gradient and x; the gradient from both.
    calls["bfloat16 batch norm, backward"] = (5, lambda: fc.grad([y], [leaf], [images], retain_graph=True))
    for name, (tensors, call) in calls.items():
        if budget.allows(f"copy {name}"):
            with contextlib.nullcontext() if "backward" in name else fc.no_grad():
                row[f"{name} GB/s"] = tensors * megabytes / 1024 / seconds_of(call, fc.cuda.synchronize)
    return row


def layer_calls(layer, dtype):
    """{pass: call} of one convolution on the device, eager: one kernel each (and what joins its parts)."""
    o = layers.Operands(layer)
    x, w, dy = (fc.tensor(a).contiguous().to(getattr(fc, dtype)).to("cuda") for a in (o.x, o.w, o.dy))

    def conv(a, b):
        return fc.ops.conv2d(a, b, None, layer.stride, layer.padding, 1, layer.groups)

    def forward():
        with fc.no_grad():
            return conv(x, w)

    def gradient(leaf, y):
        return lambda: fc.grad([y], [leaf], [dy], retain_graph=True)[0]

    lx, lw = x.detach().requires_grad_(), w.detach().requires_grad_()
    return {"fwd": forward, "bwd_data": gradient(lx, conv(lx, w)), "bwd_weights": gradient(lw, conv(x, lw))}


def torch_layer_calls(torch, layer, dtype, layout):
    o = layers.Operands(layer)
    x, w, dy = (torch.from_numpy(a).to(THEIRS, getattr(torch, dtype)).contiguous(memory_format=layout)
                for a in (o.x, o.w, o.dy))  # fmt: skip
    stride, padding, one = [layer.stride] * 2, [layer.padding] * 2, [1, 1]

    def backward(which):
        mask = [which == 0, which == 1, False]
        run = torch.ops.aten.convolution_backward
        return lambda: run(dy, x, w, None, stride, padding, one, False, [0, 0], layer.groups, mask)[which]

    forward = lambda: torch.nn.functional.conv2d(x, w, None, stride, padding, one, layer.groups)  # noqa: E731
    return {"fwd": forward, "bwd_data": backward(0), "bwd_weights": backward(1)}


def larger(layer, times):
    """The layer at a batch that fills a device."""
    return layers.Layer(**{**layer.__dict__, "x": (layer.x[0] * times, *layer.x[1:]),
                           "name": f"{layer.name} x{times}"})  # fmt: skip


def layer_rows(budget, dtypes, quick):
    """TFLOP/s of three passes per layer."""
    torch = torch_on_device()
    rows = []
    chosen = [QUICK_LAYER] if quick else [larger(x, 8) for x in layers.load() if x.x[0] > 1]
    for dtype in dtypes:
        for layer in chosen:
            if not budget.allows(f"layers {dtype} {layer.name}", 4.0):
                continue
            row = {"layer": layer.name, "dtype": dtype, "gflop": layer.gflop, "passes": {}}
            rows.append(row)
            try:
                ours = layer_calls(layer, dtype)
                for name in layer.passes:
                    took = seconds_of(ours[name], fc.cuda.synchronize, 0.1, 3)
                    cell = {"ms": 1e3 * took, "tflops": layer.gflop / took / 1e3}
                    if torch:
                        modes = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
                        builders = {m: lambda at=at, name=name: torch_layer_calls(torch, layer, dtype, at)[name]
                                    for m, at in modes.items()}  # fmt: skip
                        cell |= torch_cell(torch, took, builders, 0.1, 3)
                    row["passes"][name] = cell
            except Exception as error:  # noqa: BLE001 - the other rows are still to be timed
                row["error"] = reason(error)
            cells = [f"{k} {v['tflops']:.1f} TFLOP/s" + (f" ({v['ratio']:.2f}x)" if "ratio" in v else "")
                     for k, v in row["passes"].items()]  # fmt: skip
            cells += [text for part in (row, *row["passes"].values()) for text in failures(part)]
            print(f"  {dtype} {layer.name}: " + ", ".join(cells), flush=True)
    return rows


def failures(row):
    """What a printed row says of what failed."""
    return [f"{k} failed: {v}" for k, v in [("it", row.get("error")), *row.get("torch failed", {}).items()] if v]


def our_net(task, arrays):
    """A compiled step or inference on the device, as nets.py has it for the CPU."""
    model = nets.build(task.net).to("cuda")
    tensors = [fc.tensor(a).contiguous().to("cuda") for a in arrays]
    if task.what == "train":
        plan = fc.compile(nets.step_of(model.train(), task))
        return lambda: plan(*tensors)
    plan = fc.compile(model.eval())

    def infer():
        with fc.no_grad(), nets._autocast(task.precision):
            return plan(tensors[0])

    return infer


def torch_modes(torch, precision, compiled, all_layouts):
    """{name: (layout, mode of torch.compile or None, is it one CUDA graph?)}.

    Graphs come last, as a failed one may leave traces. 16-bit nets are fastest in NHWC, which tensor cores want: they
    have NCHW where all layouts are asked for.
    """
    nhwc, nchw = torch.channels_last, torch.contiguous_format
    layouts = {"NHWC": nhwc, "NCHW": nchw} if all_layouts or precision == "f32" else {"NHWC": nhwc}
    modes = {name: (layout, None, False) for name, layout in layouts.items()}
    modes |= {f"NHWC {mode}": (nhwc, mode, False) for mode in compiled if mode != "graph"}
    modes |= {f"{name} graph": (layout, None, True) for name, layout in layouts.items()}
    return modes | ({"NHWC compiled graph": (nhwc, "default", True)} if "graph" in compiled else {})


def torch_net(torch, task, arrays, layout, compiled=None, graph=False):
    """PyTorch's step or inference; the optimizers are fused, inference in bfloat16 has its weights in bfloat16."""
    from fastcnn.bench import torch_nets, torch_peer

    def autocast():
        # What a cache of converted weights holds must not outlive the recording of a graph.
        return torch.autocast(THEIRS, torch.bfloat16, enabled=task.precision == "bf16", cache_enabled=not graph)

    def compile_part(module):
        return torch.compile(module, mode=compiled) if compiled else module

    model = torch_nets.BUILDERS[task.net.name]().to(THEIRS, memory_format=layout)
    x, y = (torch.from_numpy(a).to(THEIRS) for a in arrays)
    x = x.contiguous(memory_format=layout)
    if task.what == "infer":
        call = _torch_inference(torch, model.eval(), x, task.precision, compile_part)
    elif task.net.name == "dcgan":
        call = torch_peer.gan_step(model.train(), x, y, compile_part, autocast, capturable=graph)
    else:
        call = _torch_step(torch, model.train(), x, y, task, compile_part, autocast)
    return recorded(torch, model, call) if graph else call


def _torch_inference(torch, model, x, precision, compile_part):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model.to(dtype)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.float()
    forward = compile_part(model)

    def infer():
        with torch.no_grad():
            return forward(x.to(dtype))

    return infer


def _torch_step(torch, model, x, y, task, compile_part, autocast):
    optimizer = torch.optim.SGD(model.parameters(), lr=task.net.lr, momentum=0.9, fused=True)
    forward = compile_part(model)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            out = forward(x)
        torch.nn.functional.cross_entropy(out.float(), y).backward()
        optimizer.step()

    return step


def recorded(torch, model, call):
    """The call as one CUDA graph. Its operands stay where they are, so the function returned keeps them."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):  # what is done once (workspaces, momentum, choice of algorithms) is not recorded
        for _ in range(3):
            call()
    here.wait_stream(side)
    model.zero_grad(set_to_none=True)  # gradients then lie in the graph's own memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(here), torch.cuda.graph(graph):  # the outer one: back to this stream if recording fails
        call()

    def replay():
        graph.replay()

    replay.keeps = model, call
    return replay


def net_rows(budget, precisions, quick, compiled, all_layouts, needs=90.0):
    """Images per second of training and inference. needs: seconds of a row with compiled modes."""
    torch = torch_on_device()
    rows = []
    by_name = {net.name: net for net in nets.NETS}
    at_least = 0.05 if quick else 0.5
    chosen = QUICK_NETS if quick else NETS
    shapes = [(name, "train", train) for name, train, _ in chosen]  # first: time may end before the list does
    shapes += [(name, "infer", batch) for name, _, infer in chosen for batch in (infer, 1) if infer]
    for precision in precisions:
        for name, what, batch in dict.fromkeys(shapes):
            task = nets.Task(by_name[name], what, batch, precision)
            if budget.allows(f"nets {task.name}", needs if torch and compiled else 8.0):
                rows.append(net_row(torch, task, at_least, compiled, all_layouts))
    return rows


def compile_peers(budget, compiled, at_once=8):
    """Seconds in which PyTorch's nets were compiled and ran once, each in a process of its own."""
    if torch_on_device() is None:
        return {"note": "PyTorch with this device is not installed"}
    left = [(name, "train", train) for name, train, _ in NETS]
    left += [(name, "infer", batch) for name, _, infer in NETS for batch in (infer, 1) if infer]
    running, took = {}, {}
    while left or running:
        while left and len(running) < at_once:
            task = left.pop(0)
            code = f"from bench import gpu; gpu.compile_peer({task!r}, {compiled!r})"
            env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "2"}
            running[task] = time.monotonic(), subprocess.Popen([sys.executable, "-c", code], env=env)
        for task, (began, process) in list(running.items()):
            if process.poll() is not None:
                name = " ".join(map(str, task))
                took[name] = round(time.monotonic() - began, 1) if process.returncode == 0 else "failed"
                del running[task]
        if not budget.allows("peers", 0.0):
            for _, process in running.values():
                process.kill()
                process.wait()
            return took | {"note": "killed: no time left"}
        time.sleep(0.1)
    return took


def compile_peer(task, compiled):
    """Compiles and runs one of PyTorch's nets in the modes that are timed."""
    import torch

    name, what, batch = task
    task = nets.Task({net.name: net for net in nets.NETS}[name], what, batch, "bf16")
    for layout, mode, graph in torch_modes(torch, "bf16", compiled, False).values():
        if mode:
            torch_net(torch, task, nets.arrays_of(task), layout, mode, graph)()
    torch.cuda.synchronize()


def net_row(torch, task, at_least, compiled, all_layouts):
    arrays = nets.arrays_of(task)
    row = {"task": task.name}
    cells = []
    try:
        call = our_net(task, arrays)
        ours = [seconds_of(call, fc.cuda.synchronize, at_least)]
        cell = {}
        if torch:
            modes = torch_modes(torch, task.precision, compiled, all_layouts)
            builders = {m: lambda how=how: torch_net(torch, task, arrays, *how) for m, how in modes.items()}
            cell = torch_cell(torch, ours[0], builders, at_least)
            ours.append(seconds_of(call, fc.cuda.synchronize, at_least))  # a device warms up: theirs lies between ours
            row["ms before and after"] = [1e3 * t for t in ours]
        took = statistics.mean(ours)
        row |= {"ms": 1e3 * took, "images/s": task.batch / took, "tflops": nets.gflop(task) / took / 1e3} | cell
        if "torch ms" in row:
            row["ratio"] = row["torch ms"] / row["ms"]
        cells = [f"{row['images/s']:.0f} images/s", f"{row['tflops']:.1f} TFLOP/s"]
        if "ratio" in row:
            cells.append(f"{row['ratio']:.2f}x PyTorch {row['torch mode']}")
    except Exception as error:  # noqa: BLE001 - the other rows are still to be timed
        row["error"] = reason(error)
    print(f"  {task.name}: " + ", ".join(cells + failures(row)), flush=True)
    return row


def main(argv=None):
    """Runs the sections; 0, 1 where an op is wrong or a row failed, 2 without a device."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--seconds", type=float, default=360, help="for everything together (default 360)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--seeds", type=int, default=4, help="cases of each op family and dtype (default 4)")
    parser.add_argument("--quick", action="store_true", help="one small layer and net: for the executor")
    parser.add_argument("--torch-compile", nargs="+", choices=COMPILED, default=[], metavar="MODE",
                        help=f"PyTorch compiled too (a minute or more per net): of {', '.join(COMPILED)}; "
                        "graph: compiled without a mode, its whole step one CUDA graph")  # fmt: skip
    parser.add_argument("--all-layouts", action="store_true", help="PyTorch's 16-bit nets in NCHW too")
    parser.add_argument("--tf32", action="store_true", help="float32 products on tensor cores, on both sides")
    parser.add_argument("--json", type=Path, help="where the results go; what is there of other sections stays")
    args = parser.parse_args(argv)
    if unknown := set(args.section) - set(SECTIONS):
        parser.error(f"sections: expected {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    if not fc.cuda.is_available():
        print(f"bench.gpu: no CUDA device: {fc.cuda.unavailable_reason()}", file=sys.stderr)
        return 2
    if args.tf32:
        fc.set_float32_matmul_precision("high")
    budget = Budget(args.seconds)
    timed = [d for d in ("bfloat16", "float32") if d in args.dtypes] or ["float32"]
    result = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else {}
    result = {k: v for k, v in result.items() if k in SECTIONS and k not in (args.section or SECTIONS)}
    result |= {"device": device_facts(), "float32": fc.get_float32_matmul_precision(), **machine.describe()}
    work = {
        "ops": lambda: ops(budget, args.dtypes, args.seeds),
        "copy": lambda: copy(budget, 1 if args.quick else 1024),
        "peers": lambda: compile_peers(budget, args.torch_compile),
        "layers": lambda dtype: layer_rows(budget, [dtype], args.quick),
        "nets": lambda dtype: net_rows(budget, ["bf16" if dtype == "bfloat16" else "f32"], args.quick,
                                       args.torch_compile, args.all_layouts, 30.0 if "peers" in result else 90.0),
    }  # fmt: skip
    chosen = args.section or SECTIONS
    steps = [(section, ()) for section in chosen if section in ONCE]
    steps += [(section, (dtype,)) for dtype in timed for section in chosen if section in ("nets", "layers")]
    for section, of in steps:
        print(" ".join(("==", section, *of)), flush=True)
        found = work[section](*of)
        if section in ONCE:
            print("  " + json.dumps({k: v for k, v in found.items() if k != "failures"}), flush=True)
            result[section] = found
        else:
            result.setdefault(section, []).extend(found)
        result["left out"] = budget.left_out
        if args.json:  # after each step: what is measured stays, whatever comes next
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if budget.left_out:
        print(f"left out: {len(budget.left_out)} rows, the first {budget.left_out[0]}")
    failed = any("error" in row for section in ("layers", "nets") for row in result.get(section, []))
    return 1 if failed or result.get("ops", {}).get("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())
