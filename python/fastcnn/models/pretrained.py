"""Weights of a file into a new model: reading, prefixes, another head, other input channels, and a report of it.

What does not fit is an error that says so, never left out in silence. Not a download of anything.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from .. import _core, nn
from ..checkpoints import load_weights
from ..torch_files import load_torch

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")  # names under which checkpoints keep weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning
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


def _is_torch_file(path):
    """By its name, or by its beginning where the name says nothing; a safetensors file has its header at byte 8."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return suffix != ".safetensors"
    with open(path, "rb") as file:
        return file.read(9)[8:] != b"{"


def read_state(path):
    """({key: Tensor}, notes) of a .safetensors, .pt or .pth file, without what wrappers put around it or its keys."""
    state, notes = _torch_state(path) if _is_torch_file(path) else (load_weights(path), [])
    prefix = True
    while prefix:
        prefix = next((p for p in PREFIXES if state and all(k.startswith(p) for k in state)), None)
        if prefix:
            state = {k.removeprefix(prefix): v for k, v in state.items()}
            notes.append(f"prefix {prefix!r} of all keys removed")
    return state, notes


def _torch_state(path):
    value, notes = load_torch(path), []
    for _ in range(3):
        inner = next((w for w in WRAPPERS if isinstance(value, dict) and isinstance(value.get(w), dict)), None)
        if inner is None:
            break
        value = value[inner]
        notes.append(f"taken from the entry {inner!r} of the file")
    if isinstance(value, dict) and value and all(isinstance(v, _core.Tensor) for v in value.values()):
        return value, notes
    holds = type(value).__name__
    if isinstance(value, dict):
        holds = "a dict with " + ", ".join(f"{k!r} ({type(v).__name__})" for k, v in list(value.items())[:SHOWN])
    raise ValueError(
        f"create_model: {os.fspath(path)}: expected a state_dict or a checkpoint that holds one as "
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


def _some(items):
    items = list(items)
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return items[:SHOWN] + more


def load_pretrained(model, name, head, state, path, notes):
    """Loads state into a new model and gives the report; the last layers `head` are drawn anew for other classes.

    Raises: ValueError that lists missing, unexpected and mismatched keys; the model is of no use then.
    """
    own = {key: tuple(t.shape) for key, t in model.state_dict().items()}
    adapted, skipped, state = [], [], dict(state)
    conv_name, conv = _first_conv(model)
    stem = f"{conv_name}.weight"
    heads = (head,) if isinstance(head, str) else head
    optional = (*heads, *getattr(model, "optional_parts", ()))
    for key in [k for k in state if _within(k, optional)]:
        got, want = tuple(state[key].shape), own.get(key)
        part = _within(key, optional)
        if want is None and not any(_within(k, [part]) for k in own):
            skipped.append((key, f"the model was built without {part}"))
        elif not _within(key, heads):
            continue
        elif want is not None and got != want and got[1:] == want[1:]:
            unit = getattr(model, "head_unit", "classes")
            skipped.append((key, f"trained for {got[0]} {unit}, drawn anew for {want[0]}"))
        else:
            continue
        del state[key]
    redrawn = [key for key, _ in skipped if key in own]
    if stem in state and stem in own:
        got, want = tuple(state[stem].shape), own[stem]
        if got != want and len(got) == 4 and conv.groups == 1 and (got[0], got[2:]) == (want[0], want[2:]):
            state[stem] = adapt_input(state[stem], want[1])
            how = "summed to 1" if want[1] == 1 else f"repeated and scaled to {want[1]}"
            adapted.append((stem, f"{got[1]} input channels {how}"))
    found = model.load_state_dict(state, strict=False)
    missing = [k for k in found.missing_keys if k not in redrawn]
    wrong = _some(f"missing key {k!r}" for k in missing)
    wrong += _some(f"unexpected key {k!r}" for k in found.unexpected_keys)
    wrong += _some(f"mismatched key {k!r}: expected shape {a}, got {b}" for k, a, b in found.mismatched_keys)
    if wrong:
        fits = len(own) - len(missing) - len(found.mismatched_keys)
        raise ValueError(
            f"create_model: {os.fspath(path)} does not fit {name}: {fits} of its {len(own)} keys are there; give a "
            "file of this model, or the model and the options that the file was made with:\n  " + "\n  ".join(wrong)
        )
    for part in {_within(key, heads) for key in redrawn}:
        model.get_submodule(part).reset_parameters()
    changed = {key for key, _ in adapted}
    loaded = tuple(k for k in own if k in state and k not in changed)
    return PretrainedReport(os.fspath(path), loaded, tuple(adapted), tuple(skipped), tuple(notes))
