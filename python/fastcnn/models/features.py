"""feature_extractor: what layers inside a model give, as a module of its own, for transfer learning and pictures."""

from __future__ import annotations

import contextlib
import difflib

from .. import nn


class FeatureExtractor(nn.Module):
    """See feature_extractor."""

    def __init__(self, model, names):
        super().__init__()
        names = [names] if isinstance(names, str) else names
        names = dict(names) if isinstance(names, dict) else {name: name for name in names}
        if not names:
            raise ValueError("feature_extractor: expected at least one name of a layer, got none")
        if len(set(names.values())) < len(names):
            raise ValueError(f"feature_extractor: expected a name of its own for each layer, got {names}")
        modules = dict(model.named_modules(remove_duplicate=False))
        del modules[""]
        for name in names:
            if name not in modules:
                near = difflib.get_close_matches(str(name), modules, n=4, cutoff=0.5) or list(modules)[:4]
                raise ValueError(
                    f"feature_extractor: {type(model).__name__} has no layer {name!r}; did you mean {', '.join(near)}?"
                )
        self.model, self._names = model, names

    def forward(self, *args, **kwargs):
        """{name: Tensor} for the arguments of the model."""
        found = {}

        def keeper(name):
            def keep(module, args, output):
                found[name] = output

            return keep

        with contextlib.ExitStack() as hooks:  # for this call alone: the model's own calls keep nothing
            for layer, name in self._names.items():
                hooks.enter_context(self.model.get_submodule(layer).register_forward_hook(keeper(name)))
            self.model(*args, **kwargs)
        absent = [layer for layer, name in self._names.items() if name not in found]
        if absent:
            raise ValueError(f"feature_extractor: layer {absent[0]!r} was not used in this forward")
        return {name: found[name] for name in self._names.values()}


def feature_extractor(model, names):
    """A module that gives {name: output} of the layers `names` of model, in their order.

    Args: names: dotted names as in model.named_modules(), one or several, or a dict of them to the names that the
    result shall have. A layer that runs several times in a forward gives its last output, and one whose output the
    model changes in place (`y += x`) the changed one, as with hooks of PyTorch. The model itself is used, not a copy:
    parameters, mode and gradients are shared. What no named layer needs is computed too in eager mode; compile leaves
    it out.
    Raises: ValueError for names that the model does not have.
    """
    return FeatureExtractor(model, names)
