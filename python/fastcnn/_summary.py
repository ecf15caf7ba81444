"""summary(model, input_size): what each layer gives, holds and costs. It runs the model once on zeros."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from . import _core, nn
from .nn.parameter import no_grad

Row = namedtuple("Row", ["name", "layer", "output_shape", "params", "macs", "output_bytes"])


def _macs(module, inputs, output):
    """Multiply-adds of the layers that do the work: convolutions and Linear."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return math.prod(output.shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return math.prod(inputs[0].shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, nn.Linear):
        return math.prod(output.shape) * module.in_features
    return 0


def _shape(output):
    if isinstance(output, _core.Tensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)):
        return tuple(_shape(o) for o in output)
    return None


def _bytes(output):
    if isinstance(output, _core.Tensor):
        return output.numel() * output.dtype.itemsize
    return sum(_bytes(o) for o in output) if isinstance(output, (tuple, list)) else 0


def _size(count):
    """1536 -> '1.5 KB', in powers of 1000 as disks and PyTorch's tables have it."""
    for unit in ("B", "KB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


class Summary:
    """Rows and totals; print it, or read the attributes.

    rows: named tuples (name, layer, output_shape, params, macs, output_bytes). total_params, trainable_params,
    param_bytes. total_macs: multiply-adds of convolutions and Linear; total_flops: 2 per multiply-add. output_bytes:
    what all layers give, which is about what training keeps for backward without a plan.
    """

    def __init__(self, name, input_size, rows, model):
        self.name, self.input_size, self.rows = name, input_size, rows
        params = list(model.parameters())
        self.total_params = sum(p.numel() for p in params)
        self.trainable_params = sum(p.numel() for p in params if p.requires_grad)
        self.param_bytes = sum(p.numel() * p.dtype.itemsize for p in params)
        self.total_macs = sum(r.macs for r in rows)
        self.total_flops = 2 * self.total_macs
        self.output_bytes = sum(r.output_bytes for r in rows)

    def as_dict(self):
        """JSON values: the totals, and the rows as dicts."""
        names = ("total_params", "trainable_params", "param_bytes", "total_macs", "total_flops", "output_bytes")
        return {
            "model": self.name, "input_size": self.input_size, **{n: getattr(self, n) for n in names},
            "layers": [r._asdict() for r in self.rows],
        }  # fmt: skip

    def __str__(self):
        head = ("layer", "output shape", "parameters", "MFLOPs", "output")
        cells = [
            (
                f"{r.name} ({r.layer})", str(r.output_shape), f"{r.params:,}", f"{2e-6 * r.macs:,.2f}",
                _size(r.output_bytes),
            )
            for r in self.rows
        ]  # fmt: skip
        widths = [max(len(c[i]) for c in [head, *cells]) for i in range(len(head))]

        def line(c):
            left = [f"{text:<{width}}" for text, width in zip(c[:2], widths, strict=False)]
            return "  ".join([*left, *(f"{text:>{width}}" for text, width in zip(c[2:], widths[2:], strict=True))])

        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        return "\n".join(
            [
                f"{self.name}, input {self.input_size}",
                line(head),
                rule,
                *map(line, cells),
                rule,
                f"parameters {self.total_params:,} ({self.trainable_params:,} trainable, "
                f"{_size(self.param_bytes)}), MACs {self.total_macs:,}, {self.total_flops / 1e9:.4g} GFLOPs, "
                f"outputs {_size(self.output_bytes)}",
            ]
        )

    __repr__ = __str__


def _takes_sequences(model):
    convolutions = (nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)
    first = next((m for m in model.modules() if isinstance(m, convolutions)), None)
    return isinstance(first, (nn.Conv1d, nn.ConvTranspose1d))


def summary(model, input_size, extra=()):
    """Table of the layers of a model in the order they run.

    Args: input_size: (N, C, H, W), or (C, H, W) of one image, or a list of sizes for models with several inputs; three
    numbers are (N, C, L) for a model whose first convolution is one of sequences. extra:
    further arguments of the call, such as class ids. FLOPs are two per multiply-add of convolutions and Linear layers
    for that input; what pooling, norms and activations do is not counted. output: bytes that a layer gives. Modes,
    statistics and gradients of the model stay untouched. A net from an ONNX file has rows for its layers, and for nodes
    that multiply by weights which belong to none.
    """
    if not isinstance(input_size, (tuple, list)):
        raise TypeError(f"summary: expected input_size as (N, C, H, W) or (C, H, W), got {input_size!r}")
    sizes = [input_size] if all(isinstance(v, (int, np.integer)) for v in input_size) else list(input_size)
    whole = _takes_sequences(model)
    sizes = [tuple(map(int, size)) if len(size) != 3 or whole else (1, *map(int, size)) for size in sizes]
    input_size = sizes[0] if len(sizes) == 1 else sizes
    leaves = [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]
    rows, counted, modes = [], set(), [(m, m.training) for m in model.modules()]

    def hook_for(name):
        def hook(module, inputs, output):
            fresh = [p for p in module.parameters(recurse=False) if id(p) not in counted]
            counted.update(map(id, fresh))
            params = sum(p.numel() for p in fresh)
            kind = type(module).__name__
            macs = _macs(module, inputs, output)
            rows.append(Row(name or kind, kind, _shape(output), params, macs, _bytes(output)))

        return hook

    def watch(node, operands, result, macs, layer):
        """Of an ONNX node. A scope that stands for it has a row already."""
        if layer:
            rows[-1] = rows[-1]._replace(layer=node.op, macs=macs)
        else:
            fresh = [p for p in operands if isinstance(p, nn.Parameter) and id(p) not in counted]
            counted.update(map(id, fresh))
            rows.append(Row(node.name, node.op, _shape(result), sum(p.numel() for p in fresh), macs, _bytes(result)))

    graphs = [m for m in model.modules() if hasattr(m, "_watch")]
    leaves = [(n, m) for n, m in leaves if m not in graphs]
    first = next((p for p in model.parameters()), None)
    handles = [m.register_forward_hook(hook_for(n)) for n, m in leaves]
    try:
        for m, _ in modes:
            object.__setattr__(m, "training", False)
        for m in graphs:
            object.__setattr__(m, "_watch", watch)
        with no_grad():
            inputs = [_core.ops.zeros(s) for s in sizes]
            if first is not None:
                inputs = [x.to(first.dtype).to(first.device) for x in inputs]
            model(*inputs, *extra)
    finally:
        for handle in handles:
            handle.remove()
        for m in graphs:
            object.__delattr__(m, "_watch")
        for m, training in modes:
            object.__setattr__(m, "training", training)
    return Summary(type(model).__name__, input_size, rows, model)
