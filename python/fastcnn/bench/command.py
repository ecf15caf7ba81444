"""What ``fastcnn bench`` does with its options (which cli.py defines), and the order of a run."""

from __future__ import annotations

import importlib.util
import sys

from .. import _core
from ..models import create_model
from . import augment, layers, loader, machine, memory, nets, ops, pairing, report, threads

SECTIONS = ("peak", "layers", "nets", "ops", "memory", "augment", "loader", "threads")


def _peer(args):
    """The module torch_peer, or None where PyTorch is absent or not wanted."""
    if args.no_torch:
        return None
    if importlib.util.find_spec("torch") is None:
        print("bench: PyTorch is not installed: fastcnn alone is measured", file=sys.stderr)
        return None
    from . import torch_peer

    torch_peer.set_num_threads(_core.get_num_threads())
    return torch_peer


def _matches(name, words):
    """Does the name hold one of the filter's words? Each is a part of the name; several parts go with '+'."""
    return not words or any(all(part in name for part in word.split("+")) for word in words)


def _progress(name):
    if sys.stderr.isatty():
        print(f"\r\033[K{name}", end="", file=sys.stderr, flush=True)


def _selected_layers(args):
    rows = [x for x in layers.load(args.shapes or layers.SHAPES) if _matches(x.name, args.filter)]
    return [x for x in rows if x.quick] if args.quick and not args.filter else rows


def _selected_tasks(args):
    chosen = [t for t in nets.tasks(bf16=args.bf16) if _matches(t.name, args.filter)]
    if args.quick and not args.filter:
        chosen = [t for t in chosen if t.net.quick and t.what == "train"]
    return chosen


def _selected_ops(args):
    return [op for op in ops.OPS if _matches(op.name, args.filter)]


def _selected_optimizers(args):
    return [name for name in ops.OPTIMIZERS if _matches(f"optim.{name}", args.filter)]


def _rows(args, sections, effort, peer):
    """Yields the rows of all sections."""
    if "peak" in sections:
        for count in sorted({1, _core.get_num_threads()}):
            yield {"kind": "peak", "date": machine.now(), **machine.measure_peak(0.8, count)}
    if "layers" in sections:
        chosen = _selected_layers(args)
        if chosen and peer:
            yield layers.noise_floor(chosen[0], effort)
        yield from layers.run(chosen, effort, peer, _progress)
    if "nets" in sections:
        yield from nets.run(_selected_tasks(args), effort, peer, args.compile, _progress)
    if "ops" in sections:
        yield from ops.run(_selected_ops(args), effort, peer, _progress)
        yield from ops.run_optimizers(_selected_optimizers(args), effort, peer, _progress)
    if "augment" in sections:
        yield from augment.run(effort, not args.no_torch, _progress)
    if "loader" in sections:
        yield from loader.run(effort, args.quick, _progress)
    if "threads" in sections:
        yield from threads.run(_selected_tasks(args), effort, _progress)
    if "memory" in sections:
        yield from memory.run([t for t in _selected_tasks(args) if t.what == "train"], peer, _progress)


def _profile_task(args):
    """What --profile MODEL means: the net of the list, or any other model on images of the size that it is made for."""
    listed = {net.name: net for net in nets.NETS}
    net = listed.get(args.profile)
    if net is None:
        model = create_model(args.profile, num_classes=10)  # raises for unknown names, with near matches
        small = type(model).__name__ in ("ResNetCifar", "LeNet5", "LeNet")
        image = (1, 28, 28) if "LeNet" in type(model).__name__ else (3, 32, 32) if small else (3, 224, 224)
        net = nets.Net(args.profile, 64 if small else 8, image)
    batch = args.batch or (1 if args.infer else net.batch)
    return nets.Task(net, "infer" if args.infer else "train", batch, "bf16" if args.bf16 else "f32")


def profile(args):
    """Prints where the time of a plan goes and writes its Chrome trace."""
    task = _profile_task(args)
    found = nets.profile(task, runs=args.pairs or 5)
    print(f"{task.name}: {machine.cpu_name()}, {_core.get_num_threads()} threads, {_core.isa()}")
    print(found.table(limit=None if args.all_steps else 25))
    path = args.trace or f"{task.name.replace(' ', '-')}.trace.json"
    found.trace(path)
    print(f"Chrome trace: {path}")


def run(args, about=None):
    """Measures what args ask for, prints tables, writes args.json if given; returns the result."""
    if args.threads is not None:
        _core.set_num_threads(args.threads)
    if args.profile:
        return profile(args)
    sections = args.sections or SECTIONS[:3]
    unknown = [s for s in sections if s not in SECTIONS]
    if unknown:
        raise ValueError(f"bench: expected sections of {', '.join(SECTIONS)}, got {unknown[0]!r}")
    effort = pairing.QUICK if args.quick else pairing.Effort()
    if args.pairs is not None:
        effort = pairing.Effort(args.pairs, effort.block, effort.warm)
    peer = _peer(args) if set(sections) - {"peak"} else None
    settings = {"pairs": effort.pairs, "block_seconds": effort.block, "compile": args.compile, "quick": args.quick}
    result = report.new({**machine.describe(), **(about or {})}, settings)
    wanted = {
        "layers": _selected_layers, "nets": _selected_tasks, "memory": _selected_tasks, "threads": _selected_tasks,
        "ops": lambda a: _selected_ops(a) + _selected_optimizers(a),
    }  # fmt: skip
    if args.filter and not any(select(args) for name, select in wanted.items() if name in sections):
        raise ValueError(f"bench: no layer, net or op matches {args.filter}")
    for row in _rows(args, sections, effort, peer):
        result["rows"].append({"threads": _core.get_num_threads(), **row})
        if args.json:  # after each row: a run that is cut short keeps what it has
            report.save(result, args.json)
    _progress("")
    about = result["about"]
    print(
        f"{about['cpu']}, {about['threads']} threads, {about['isa']}, {about['date']}, "
        + ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    )
    print("\n" + report.text(result))
    return result
