"""Inference against ONNX Runtime and OpenVINO: the same parameters, logits compared, interleaved pairs.

    python -m bench.peers_inference [--int8 | --bf16] [--filter TEXT] [--save NAME]

Needs torch (the nets), onnx and onnxscript (the export), and onnxruntime or openvino or both:
    pip install torch==2.13.0 onnx onnxscript onnxruntime openvino
Each runs at its own best: all graph optimisations, as many threads as fastcnn, the latency hint. Which of the peers is
faster is decided first; the pairs are against that one, and the others' times stand beside it. Engines keep their
threads spinning after a call: each turn begins after a pause in which they go to sleep.
--int8: fc.quantize against one static QDQ file, which ONNX Runtime's quantiser makes from the same images (a scale per
channel, uint8 images) and both peers read; the logits of each must follow the float net's.
--bf16: autocast against OpenVINO at its bf16 precision, images and logits float32; the logits alike.
"""

import argparse
import dataclasses
import importlib.util
import sys
import tempfile
from pathlib import Path

import fastcnn as fc
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


def openvino_call(path, x, precision="f32"):
    """A compiled model as a function that returns the logits; float32, as the others, unless told."""
    import openvino

    core = openvino.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision,
               "INFERENCE_NUM_THREADS": _core.get_num_threads()}  # fmt: skip
    request = core.compile_model(core.read_model(str(path)), "CPU", options).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


def int8_file(path, batches, to):
    """The net of an ONNX file, quantised by ONNX Runtime on the images given."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.name = net.graph.input[0].name
            self.left = iter(batches)

        def get_next(self):
            batch = next(self.left, None)
            return None if batch is None else {self.name: batch}

    net, prepared = onnx.load(str(path)), to.with_name("prepared.onnx")
    whole = to.with_name("whole.onnx")  # with the weights inside
    onnx.save_model(net, str(whole))
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared), str(to), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


def int8_call(task, state, x, batches):
    """fc.quantize's plan of the net as a function that returns the logits, and the float net's logits."""
    model = nets.build(task.net, state).eval()
    plan, x = fc.compile(fc.quantize(model, batches)), fc.tensor(x).contiguous()

    def run():
        with fc.no_grad():
            return plan(x)

    with fc.no_grad():
        return run, model(x).numpy()


def logits(call):
    """As float32, of whatever precision they are."""
    return call().to(fc.float32).numpy()


def follows(got, want):
    """The correlation of logits with those of the float net."""
    return float(np.corrcoef(np.ravel(got), np.ravel(want))[0, 1])


PEERS = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}


# Of logits, on random weights, where classes lie close.
LEAST_CORRELATION = {"int8": 0.9, "bf16": 0.99}


def run(tasks, effort, kind="f32"):
    """Yields one row per inference task; kind: f32, bf16 or int8."""
    int8 = kind == "int8"
    present = [name for name in PEERS if importlib.util.find_spec(name)]
    if not present:
        raise RuntimeError("peers_inference: neither onnxruntime nor openvino is installed")
    if kind == "bf16":  # ONNX Runtime has no such convolutions on processors
        present = [name for name in present if name == "openvino"]
        if not present:
            raise RuntimeError("peers_inference: --bf16 needs openvino")
    if int8 and "onnxruntime" not in present:
        raise RuntimeError("peers_inference: --int8 needs onnxruntime, which makes the file")
    for task in tasks:
        arrays = nets.arrays_of(task)
        state = torch_peer.new_state(task.net, nets.calibration(task.net))
        size = (task.batch, *task.net.image)  # the file's batch is fixed
        count = -(-16 // task.batch)
        batches = [np.random.default_rng(i).standard_normal(size, dtype=np.float32) for i in range(count)]
        if int8:
            ours, want = int8_call(task, state, arrays[0], batches)
        else:
            ours = nets.inference(dataclasses.replace(task, precision=kind), arrays, state)
            want = np.asarray(nets.inference(task, arrays, state)().numpy(), dtype=np.float64)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx_file(task.net, state, arrays[0], path)
            if int8:
                int8_file(path, batches, path.with_name("int8.onnx"))
                path = path.with_name("int8.onnx")
            options = {"precision": "bf16"} if kind == "bf16" else {}
            calls = {name: PEERS[name](path, arrays[0], **options) for name in present}
            if kind != "f32":
                found = {"fastcnn": follows(logits(ours), want)}
                found |= {name: follows(call(), want) for name, call in calls.items()}
                different, difference = min(found.values()) < LEAST_CORRELATION[kind], 1 - found["fastcnn"]
            else:
                found = {name: layers.relative_error(call(), want) for name, call in calls.items()}
                different, difference = not max(found.values()) < nets.TOLERANCE["f32"][0], max(found.values())
            if different:
                raise nets.DifferentWork(f"{task.name}: the logits differ by {found}")
            others = machine.Others()
            peak = machine.measure_peak(0.2)
            modes = pairing.fastest(calls, effort)
            best = min(modes, key=modes.get)
            name = f"{task.name.replace('f32', kind)} (engines)"
            row = {"kind": "net", "name": name, "net": task.net.name, "what": "infer", "precision": kind,
                   "batch": task.batch, "gflop": nets.gflop(task)}  # fmt: skip
            seconds = layers.add_pairs(row, pairing.time_pairs(ours, calls[best], effort), best, modes)
            peak = machine.higher(peak, machine.measure_peak(0.2))
        limit = peak["bfloat16_gflops"] if kind == "bf16" else 0
        row.update(
            ms=1e3 * seconds, images_per_s=task.batch / seconds, gflops=row["gflop"] / seconds, peak=peak,
            percent_of_peak=100 * row["gflop"] / seconds / (limit or peak["float32_gflops"]),
            difference=difference, threads=_core.get_num_threads(), date=machine.now(),
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
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--int8", dest="kind", action="store_const", const="int8", default="f32", help="quantised nets")
    kinds.add_argument("--bf16", dest="kind", action="store_const", const="bf16", help="autocast against OpenVINO")
    parser.add_argument("--pairs", type=int, default=12, metavar="N")
    parser.add_argument("--save", metavar="NAME", help="add to bench/results/NAME.json")
    args = parser.parse_args(argv)
    torch_peer.set_num_threads(_core.get_num_threads())
    imagenet = [n for n in nets.NETS if n.image[1] == 224]
    tasks = [t for t in nets.tasks(imagenet) if t.what == "infer" and args.filter in t.name]
    rows = list(run(tasks, pairing.Effort(pairs=args.pairs, pause=0.02), args.kind))
    result = report.new({**machine.describe(), "commit": bench.commit()}, {"pairs": args.pairs})
    result["rows"] = rows
    if args.save:
        report.save(result, bench.RESULTS / f"{args.save}.json")
    print(report.text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
