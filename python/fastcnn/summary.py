"""summary(model, input_size): what each layer gives, holds and costs. It runs the model once on zeros."""

from __future__ import annotations

import math
from collections import namedtuple

from . import _core, nn
from .nn.parameter import no_grad

Row = namedtuple("Row", ["name", "layer", "output_shape", "params", "macs"])


def _macs(module, inputs, output):
    """Multiply-adds of the layers that do the work: convolutions and Linear."""
    if isinstance(module, nn.Conv2d):
        return math.prod(output.shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, nn.ConvTranspose2d):
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


class Summary:
    """Rows and totals; print it, or read rows, total_params, trainable_params, total_macs, param_bytes."""

    def __init__(self, name, input_size, rows, model):
        self.name, self.input_size, self.rows = name, input_size, rows
        params = list(model.parameters())
        self.total_params = sum(p.numel() for p in params)
        self.trainable_params = sum(p.numel() for p in params if p.requires_grad)
        self.param_bytes = sum(p.numel() * p.dtype.itemsize for p in params)
        self.total_macs = sum(r.macs for r in rows)

    def __str__(self):
        head = ("layer", "output shape", "parameters", "MACs")
        cells = [
            (f"{r.name} ({r.layer})", str(r.output_shape), f"{r.params:,}", f"{r.macs:,}") for r in self.rows
        ]
        widths = [max(len(c[i]) for c in [head, *cells]) for i in range(4)]

        def line(c):
            return f"{c[0]:<{widths[0]}}  {c[1]:<{widths[1]}}  {c[2]:>{widths[2]}}  {c[3]:>{widths[3]}}"

        rule = "-" * (sum(widths) + 6)
        return "\n".join(
            [
                f"{self.name}, input {self.input_size}",
                line(head),
                rule,
                *map(line, cells),
                rule,
                f"parameters {self.total_params:,} ({self.trainable_params:,} trainable, "
                f"{self.param_bytes / 1e6:.1f} MB), MACs {self.total_macs:,}",
            ]
        )

    __repr__ = __str__


def summary(model, input_size):
    """Table of the layers of a model in the order they run.

    Args: input_size: (N, C, H, W), or a list of sizes for models with several inputs. MACs count
    multiply-adds of convolutions and Linear layers for that input. Modes, statistics and gradients of the
    model stay untouched.
    """
    sizes = [input_size] if all(isinstance(v, int) for v in input_size) else list(input_size)
    leaves = [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]
    rows, counted, modes = [], set(), [(m, m.training) for m in model.modules()]

    def hook_for(name):
        def hook(module, inputs, output):
            fresh = [p for p in module.parameters(recurse=False) if id(p) not in counted]
            counted.update(map(id, fresh))
            params = sum(p.numel() for p in fresh)
            kind = type(module).__name__
            rows.append(Row(name or kind, kind, _shape(output), params, _macs(module, inputs, output)))

        return hook

    first = next((p for p in model.parameters()), None)
    handles = [m.register_forward_hook(hook_for(n)) for n, m in leaves]
    try:
        for m, _ in modes:
            object.__setattr__(m, "training", False)
        with no_grad():
            inputs = [_core.ops.zeros(tuple(s)) for s in sizes]
            if first is not None:
                inputs = [x.to(first.dtype).to(first.device) for x in inputs]
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for m, training in modes:
            object.__setattr__(m, "training", training)
    return Summary(type(model).__name__, input_size, rows, model)
