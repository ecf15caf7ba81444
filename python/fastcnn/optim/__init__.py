"""Optimizers with PyTorch's names, defaults and parameter groups, and learning-rate schedules."""

from . import lr_scheduler
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .groups import param_groups
from .layerwise import LAMB, LARS
from .lion import Lion
from .muon import Muon
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

_OPTIMIZERS = {
    "sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad, "lion": Lion, "lamb": LAMB,
    "lars": LARS, "muon": Muon,
}  # fmt: skip


def list_optimizers():
    """Names that get_optimizer() knows."""
    return sorted(_OPTIMIZERS)


def get_optimizer(name):
    """The optimizer class of a name such as "sgd". Raises: ValueError, with near matches, if unknown."""
    if not isinstance(name, str):
        raise TypeError(f"get_optimizer: expected a name, got {type(name).__name__}")
    if name.lower() not in _OPTIMIZERS:
        import difflib

        near = difflib.get_close_matches(name.lower(), _OPTIMIZERS, n=3, cutoff=0.5)
        known = ", ".join(list_optimizers())
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {known}"
        raise ValueError(f"get_optimizer: unknown optimizer {name!r}; {hint}")
    return _OPTIMIZERS[name.lower()]


__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Muon",
    "Optimizer",
    "RMSprop",
    "get_optimizer",
    "list_optimizers",
    "lr_scheduler",
    "param_groups",
]
