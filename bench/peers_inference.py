"""Inference against ONNX Runtime and OpenVINO: the same parameters, logits compared, interleaved pairs.

    python -m bench.peers_inference [--filter TEXT] [--save NAME]

Needs torch (the nets), onnx and onnxscript (the export), and onnxruntime or openvino or both:
    pip install torch==2.13.0 onnx onnxscript onnxruntime openvino
Each runs at its own best: all graph optimisations, as many threads as fastcnn, the latency hint. Which of the peers is
faster is decided first; the pairs are against that one, and the others' times stand beside it. Engines keep their
threads spinning after a call: each turn begins after a pause in which they go to sleep.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
from fastcnn import _core
from fastcnn.bench import layers, machine, nets, pairing, report, torch_peer

from . import __main__ as bench


def onnx_file(net, state, x, path):
    """The net in ONNX, exported from PyTorch with these parameters."""
    import torch

    model = torch_peer.torch_nets.BUILDERS[net.name]()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    torch.onnx.export(model.eval(), (torch.from_numpy(x),), str(path), dynamo=True, verbose=False)


def onnxruntime_call(path, x):
    """A session's run as a function that returns the logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _core.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def openvino_call(path, x):
    """A compiled model as a function that returns the logits; float32, as the others."""
    import openvino

    core = openvino.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
               "INFERENCE_NUM_THREADS": _core.get_num_threads()}  # fmt: skip
    request = core.compile_model(core.read_model(str(path)), "CPU", options).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


PEERS = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}


def run(tasks, effort):
    """Yields one row per inference task."""
    present = [name for name in PEERS if importlib.util.find_spec(name)]
    if not present:
        raise RuntimeError("peers_inference: neither onnxruntime nor openvino is installed")
    for task in tasks:
        arrays = nets.arrays_of(task)
        state = torch_peer.new_state(task.net, nets.calibration(task.net))
        ours = nets.inference(task, arrays, state)
        want = np.asarray(ours().numpy(), dtype=np.float64)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx_file(task.net, state, arrays[0], path)
            calls = {name: PEERS[name](path, arrays[0]) for name in present}
            differences = {name: layers.relative_error(call(), want) for name, call in calls.items()}
            if not max(differences.values()) < nets.TOLERANCE["f32"][0]:
                raise nets.DifferentWork(f"{task.name}: the logits differ by {differences}")
            others = machine.Others()
            peak = machine.measure_peak(0.2)
            modes = pairing.fastest(calls, effort)
            best = min(modes, key=modes.get)
            row = {"kind": "net", "name": f"{task.name} (engines)", "net": task.net.name, "what": "infer",
                   "precision": "f32", "batch": task.batch, "gflop": nets.gflop(task)}  # fmt: skip
            seconds = layers.add_pairs(row, pairing.time_pairs(ours, calls[best], effort), best, modes)
            peak = machine.higher(peak, machine.measure_peak(0.2))
        row.update(
            ms=1e3 * seconds, images_per_s=task.batch / seconds, gflops=row["gflop"] / seconds, peak=peak,
            percent_of_peak=100 * row["gflop"] / seconds / peak["float32_gflops"],
            difference=max(differences.values()), threads=_core.get_num_threads(), date=machine.now(),
            others=others.share(),
        )  # fmt: skip
        yield row


def main(argv=None):
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers_inference", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--filter", default="", metavar="TEXT", help="only steps whose name holds TEXT")
    parser.add_argument("--pairs", type=int, default=12, metavar="N")
    parser.add_argument("--save", metavar="NAME", help="add to bench/results/NAME.json")
    args = parser.parse_args(argv)
    torch_peer.set_num_threads(_core.get_num_threads())
    imagenet = [n for n in nets.NETS if n.image[1] == 224]
    tasks = [t for t in nets.tasks(imagenet) if t.what == "infer" and args.filter in t.name]
    rows = list(run(tasks, pairing.Effort(pairs=args.pairs, pause=0.02)))
    result = report.new({**machine.describe(), "commit": bench.commit()}, {"pairs": args.pairs})
    result["rows"] = rows
    if args.save:
        report.save(result, bench.RESULTS / f"{args.save}.json")
    print(report.text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
