"""Weights of a file into a new model: reading, prefixes, another head, other input channels, and a report of it.

What does not fit is an error that says so, never left out in silence. Not a download of anything.
"""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

import numpy as np

from .. import _core, nn
from ..checkpoints import load_weights
from ..torch_files import kind_of_file, load_torch

# Names under which checkpoints keep weights, averages last: what was trained comes first where a file has both.
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "net", "weights", "state_dict_ema", "model_ema", "ema"
)  # fmt: skip
PAIR = ("generator", "discriminator")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile, Lightning
SHOWN = 8  # keys of each kind in an error


class PretrainedReport(NamedTuple):
    """What create_model(..., pretrained=path) did; model.pretrained_report. str(report) is one line, or some.

    loaded: keys whose values are the file's. adapted: (key, how) of values that were changed to fit. skipped: (key,
    why) of keys of the file that were left out. notes: what was done to all keys.
    """

    path: str
    loaded: tuple
    adapted: tuple
    skipped: tuple
    notes: tuple

    def __str__(self):
        counts = f"{len(self.loaded)} loaded, {len(self.adapted)} adapted, {len(self.skipped)} skipped"
        lines = [f"{self.path}: {counts}", *self.notes]
        lines += [f"adapted {key}: {how}" for key, how in self.adapted]
        lines += [f"skipped {key}: {why}" for key, why in self.skipped]
        return "\n  ".join(lines)


class Weights(NamedTuple):
    """What is in a file: path, {key: Tensor}, and notes and skipped of the report so far."""

    path: str
    state: dict
    notes: list
    skipped: list


class Backbone(NamedTuple):
    """How a model takes the weights of the classifier that it is built on (pretrained_backbone=).

    of: the classifier's name. rename: its key -> the model's, or None for what the model goes without. whole: what the
    names of keys begin with that a file has to have all of; others may be of other shapes and are drawn anew then.
    """

    of: str
    rename: object
    whole: str


def read_weights(path, own):
    """The Weights of a .safetensors, .pt or .pth file, without what wrappers put around it or its keys.

    own: keys of the model, which no prefix is taken from that they have too.
    """
    path = os.fspath(path)
    if "://" in path:
        raise ValueError(f"create_model: expected the path of a file, got the address {path}; download it first")
    try:
        kind = kind_of_file(path)
    except ValueError as e:
        raise ValueError(f"create_model: {path}: {e}") from None
    # The content decides; the name does where the content tells nothing.
    is_torch = kind == "torch" if kind else not path.lower().endswith(".safetensors")
    weights = _torch_weights(path) if is_torch else Weights(path, load_weights(path), [], [])
    state = weights.state
    while prefix := next((p for p in PREFIXES if _is_prefix(p, state, own)), None):
        weights.skipped.extend((k, f"outside of {prefix!r}") for k in state if not k.startswith(prefix))
        weights.notes.append(f"prefix {prefix!r} of the keys removed")
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return weights._replace(state=state)


def _is_prefix(prefix, state, own):
    """Whether most keys have it, and the model's have not; a wrapper may keep more than the model, a loss say."""
    many = 2 * sum(k.startswith(prefix) for k in state) > len(state)
    return many and not any(k.startswith(prefix) for k in own)


def _torch_weights(path):
    value, notes = load_torch(path), []
    for _ in range(3):
        inner = next((w for w in WRAPPERS if isinstance(value, dict) and isinstance(value.get(w), dict)), None)
        if inner is None:
            break
        value = value[inner]
        notes.append(f"taken from the entry {inner!r} of the file")
    if isinstance(value, dict) and all(isinstance(value.get(part), dict) for part in PAIR):
        value = {f"{part}.{key}": v for part in PAIR for key, v in value[part].items()}
        notes.append(f"taken from the entries {' and '.join(map(repr, PAIR))} of the file")
    items = value.items() if isinstance(value, dict) else ()
    state = {k: v for k, v in items if isinstance(v, _core.Tensor) and isinstance(k, str)}
    others = [(k, v) for k, v in items if k not in state]
    if state and not any(isinstance(v, dict) for _, v in others):
        return Weights(path, state, notes, [(str(k), f"no tensor but a {type(v).__name__}") for k, v in others])
    holds = type(value).__name__
    if isinstance(value, dict):
        entries = [f"{k!r} ({type(v).__name__})" for k, v in [*others, *state.items()][:SHOWN]]
        holds = f"a dict with {', '.join(entries)}" if entries else "an empty dict"
    raise ValueError(
        f"create_model: {path}: expected a state_dict or a checkpoint that holds one as "
        f"{' or '.join(map(repr, WRAPPERS))}, got {holds}"
    )


def adapt_input(weight, channels):
    """Weight (O, I, kH, kW) of a first convolution for images of other channels, as a float32 array.

    To one channel the sum over I, which is the answer to a grey image given I times; else channels repeated and scaled
    by I / channels, which keeps the size of the output.
    """
    values = weight.to("float32").numpy()
    inp = values.shape[1]
    if channels == 1:
        return values.sum(axis=1, keepdims=True)
    times = -(-channels // inp)
    return np.tile(values, (1, times, 1, 1))[:, :channels] * np.float32(inp / channels)


def _first_conv(model):
    return next(((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), (None, None))


def _within(key, parts):
    """The one of dotted names `parts` that a key belongs to, or None."""
    return next((part for part in parts if key.startswith(f"{part}.")), None)


def _parts(head):
    return (head,) if isinstance(head, str) else tuple(head)


def _shapes(state):
    return {key: tuple(t.shape) for key, t in state.items()}


def _class_dim(model):
    """The dimension of the weights of last layers that grows with the classes."""
    return getattr(model, "head_dim", 0)


def _resized(got, want, dim):
    """Whether shapes differ in that dimension alone."""
    return (
        len(got) == len(want) > dim and got[dim] != want[dim]
        and (got[:dim], got[dim + 1 :]) == (want[:dim], want[dim + 1 :])
    )  # fmt: skip


def held_sizes(model, head, state, num_classes, in_channels):
    """(num_classes, in_channels) that the weights in state are for; model is built for those given.

    By the last layer and the first convolution; what they do not tell is as given.
    """
    own, dim, heads = _shapes(model.state_dict()), _class_dim(model), _parts(head)
    for key, tensor in state.items():
        got, want = tuple(tensor.shape), own.get(key, ())
        if heads and _within(key, heads[:1]) and _resized(got, want, dim) and num_classes:
            classes, rest = divmod(got[dim] * num_classes, want[dim])  # detectors have some outputs per class
            num_classes = num_classes if rest else classes
            break
    name, conv = _first_conv(model)
    stem = state.get(f"{name}.weight")
    if stem is not None and conv.groups == 1 and _resized(tuple(stem.shape), own[f"{name}.weight"], 1):
        in_channels += stem.shape[1] - own[f"{name}.weight"][1]
    return num_classes, in_channels


def _some(items):
    items = list(items)
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return items[:SHOWN] + more


def _adapt_stem(model, state, own, prefix=""):
    """Fits the first convolution in state to the model's input channels; gives ((key, how),) or ()."""
    name, conv = _first_conv(model)
    key = f"{name}.weight"
    if key not in state or key not in own or not key.startswith(prefix) or conv.groups != 1:
        return ()
    got, want = tuple(state[key].shape), own[key]
    if not _resized(got, want, 1):
        return ()
    state[key] = adapt_input(state[key], want[1])
    how = "summed to 1" if want[1] == 1 else f"repeated and scaled to {want[1]}"
    return ((key, f"{got[1]} input channels {how}"),)


def _refuse(what, path, name, own, missing, unexpected, mismatched):
    """Raises ValueError where there are any of them."""
    wrong = _some(f"missing key {k!r}" for k in missing)
    wrong += _some(f"unexpected key {k!r}" for k in unexpected)
    wrong += _some(f"mismatched key {k!r}: expected shape {a}, got {b}" for k, a, b in mismatched)
    if wrong:
        fits = len(own) - len(missing) - len(mismatched)
        raise ValueError(
            f"create_model: {path} does not fit {name}: {fits} of its {len(own)} keys are there; give {what}:\n  "
            + "\n  ".join(wrong)
        )


def load_pretrained(model, name, head, weights, asked):
    """Loads Weights into a new model and gives the report; the last layers `head` are drawn anew for other classes.

    asked: whether the caller chose the number of classes; a UserWarning tells of last layers drawn anew that nobody
    asked for. Raises: ValueError that lists missing, unexpected and mismatched keys; the model is of no use then.
    """
    own, heads, dim = _shapes(model.state_dict()), _parts(head), _class_dim(model)
    skipped, state = list(weights.skipped), dict(weights.state)
    optional = (*heads, *getattr(model, "optional_parts", ()))
    renewed = {
        part for key, t in state.items()
        if (part := _within(key, heads)) and key in own and _resized(tuple(t.shape), own[key], min(dim, t.ndim - 1))
    }  # fmt: skip
    unit = getattr(model, "head_unit", "classes")
    for key in [k for k in state if _within(k, optional)]:
        part, got = _within(key, optional), tuple(state[key].shape)
        if key not in own and not any(_within(k, [part]) for k in own):
            skipped.append((key, f"the model was built without {part}"))
        elif part in renewed and key in own:
            at = min(dim, len(got) - 1)
            kind = unit if part == heads[0] or at == 0 else "inputs"
            other = f"trained for {got[at]} {kind}, drawn anew for {own[key][at]}"
            skipped.append((key, other if got != own[key] else f"drawn anew with the rest of {part}"))
        else:
            continue
        del state[key]
    redrawn = [key for key, _ in skipped if key in own]
    adapted = _adapt_stem(model, state, own)
    found = model.load_state_dict(state, strict=False)
    missing = [k for k in found.missing_keys if k not in redrawn]
    what = "a file of this model, or the model and the options that the file was made with"
    _refuse(what, weights.path, name, own, missing, found.unexpected_keys, found.mismatched_keys)
    for part in renewed:
        model.get_submodule(part).reset_parameters()
    if redrawn and not asked:
        warnings.warn(
            f"create_model: {name}: {redrawn[0]} of {weights.path} does not fit and was drawn anew; give num_classes= "
            "and the options that the file was made with, or the num_classes that it is to learn",
            stacklevel=3,
        )
    changed = {key for key, _ in adapted}
    loaded = tuple(k for k in own if k in state and k not in changed)
    return PretrainedReport(weights.path, loaded, adapted, tuple(skipped), tuple(weights.notes))


def load_backbone(model, name, backbone, weights):
    """Loads the Weights of a classifier into the Backbone of a new model and gives the report.

    Raises: ValueError as load_pretrained.
    """
    own, state, skipped = _shapes(model.state_dict()), {}, list(weights.skipped)
    for key, tensor in weights.state.items():
        new = backbone.rename(key)
        if new is None:
            skipped.append((key, f"no part of the backbone of {name}"))
        else:
            state[new] = tensor
    adapted = _adapt_stem(model, state, own)
    for key in [k for k in state if k in own and not k.startswith(backbone.whole)]:
        got = tuple(state[key].shape)
        if got != own[key]:
            skipped.append((key, f"of shape {got}, drawn anew as {own[key]}"))
            del state[key]
    found = model.load_state_dict(state, strict=False)
    whole = [k for k in own if k.startswith(backbone.whole)]
    missing = [k for k in found.missing_keys if k.startswith(backbone.whole)]
    what = f"a file of {backbone.of} as pretrained_backbone="
    _refuse(what, weights.path, f"the backbone of {name}", whole, missing, found.unexpected_keys, found.mismatched_keys)
    changed = {key for key, _ in adapted}
    loaded = tuple(k for k in own if k in state and k not in changed)
    notes = (*weights.notes, f"weights of {backbone.of} in the backbone; the rest is drawn")
    return PretrainedReport(weights.path, loaded, tuple(adapted), tuple(skipped), notes)
