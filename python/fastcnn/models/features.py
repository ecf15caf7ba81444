"""feature_extractor: what layers inside a model give, as a module of its own, for transfer learning and pictures."""

from __future__ import annotations

import difflib

from .. import nn


class _Keep:
    """Forward hook that remembers the output under a name."""

    def __init__(self, found, name):
        self.found, self.name = found, name

    def __call__(self, module, args, output):
        self.found[self.name] = output


class FeatureExtractor(nn.Module):
    """See feature_extractor."""

    def __init__(self, model, names):
        super().__init__()
        names = dict(names) if isinstance(names, dict) else {name: name for name in names}
        if not names:
            raise ValueError("feature_extractor: expected at least one name of a layer, got none")
        modules = dict(model.named_modules(remove_duplicate=False))
        del modules[""]
        for name in names:
            if name not in modules:
                near = difflib.get_close_matches(str(name), modules, n=4, cutoff=0.5) or list(modules)[:4]
                raise ValueError(
                    f"feature_extractor: {type(model).__name__} has no layer {name!r}; did you mean {', '.join(near)}?"
                )
        self.model = model
        self._outputs = tuple(names.values())
        self._found = {}
        self._handles = [
            modules[name].register_forward_hook(_Keep(self._found, out)) for name, out in names.items()
        ]

    def forward(self, *args, **kwargs):
        """{name: Tensor} for the arguments of the model."""
        self._found.clear()
        try:
            self.model(*args, **kwargs)
            absent = [name for name in self._outputs if name not in self._found]
            if absent:
                raise ValueError(f"feature_extractor: layer {absent[0]!r} was not used in this forward")
            return {name: self._found[name] for name in self._outputs}
        finally:
            self._found.clear()

    def remove(self):
        """Takes the hooks off the model, which it shares; the extractor is of no use afterwards."""
        for handle in self._handles:
            handle.remove()


def feature_extractor(model, names):
    """A module that gives {name: output} of the layers `names` of model, in their order.

    Args: names: dotted names as in model.named_modules(), or a dict of them to the names that the result shall have. A
    layer that runs several times in a forward gives its last output. The model itself is used, not a copy: parameters,
    mode and gradients are shared. What no named layer needs is computed too in eager mode; compile leaves it out.
    Raises: ValueError for names that the model does not have.
    """
    return FeatureExtractor(model, names)
