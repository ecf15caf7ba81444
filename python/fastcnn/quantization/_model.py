"""QuantizedModel: a quantised graph and its tensors as a Module that predicts, is exported and saved as any other."""

from __future__ import annotations

import json

import numpy as np

from .. import _core
from ..nn import Module


class QuantizedModel(Module):
    """What fc.quantize gives: call it with the inputs of the model that it came from; no gradients.

    Attributes: report: a list of dicts, one for each layer, see fc.quantize; float_layers: {name: why it stayed float};
    graph: the quantised graph in the form of docs/embed.md.
    """

    def __init__(self, graph, tensors, report, float_layers):
        super().__init__()
        self.graph, self.report, self.float_layers = graph, tuple(report), dict(float_layers)
        self._names = {}  # in the graph -> of the buffer
        for name, value in tensors.items():
            attribute = name.replace(".", "_")
            while attribute in self._kinds or hasattr(self, attribute):
                attribute += "_"
            self.register_buffer(attribute, value)
            self._names[name] = attribute
        self._cached = None
        self.eval()

    def forward(self, *inputs):
        """Scores of a batch; arguments and results as those of the float model."""
        wanted = [i["name"] for i in self.graph["inputs"]]
        if len(inputs) != len(wanted):
            raise TypeError(f"QuantizedModel: expected the inputs {', '.join(wanted)}, got {len(inputs)}")
        tensors = [x if isinstance(x, _core.Tensor) else _core.from_numpy(np.asarray(x)) for x in inputs]
        results = self._function()(tensors)
        return results[0] if len(results) == 1 else tuple(results)

    def __getstate__(self):  # copies and pickles make the function anew
        return {**self.__dict__, "_cached": None}

    def extra_repr(self):
        kinds = f"{len(self.report)} layers in int8"
        return kinds + (f", {len(self.float_layers)} in float32" if self.float_layers else "")

    def summary(self):
        """The report as text: a line for each layer with the signal-to-noise ratio of its result in decibels."""
        width = max(len(row["name"]) for row in self.report)
        lines = [f"{'layer':{width}}  {'op':10}  {'scale':>9}  zero  SQNR dB"]
        for row in self.report:
            scale, zero = (f"{row['scale']:9.3g}", f"{row['zero']:4d}") if row["scale"] else ("  float32", "    ")
            lines.append(f"{row['name']:{width}}  {row['op']:10}  {scale}  {zero}  {row['sqnr_db']:7.1f}")
        lines += [f"{name:{width}}  float32: {why}" for name, why in self.float_layers.items()]
        return "\n".join(lines)

    def _function(self):
        tensors = {name: getattr(self, attribute) for name, attribute in self._names.items()}
        ids = tuple(hash(t) for t in tensors.values())
        if self._cached is None or self._cached[0] != ids:
            self._cached = ids, _core.GraphFunction(json.dumps(self.graph), list(tensors.items()))
        return self._cached[1]
