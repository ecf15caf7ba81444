"""The one registry of models: names -> builders. A builder takes num_classes, in_channels, options."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
import os
from typing import NamedTuple

from .. import safetensors
from ..nn import init


class Entry(NamedTuple):
    """What register() was told of a model."""

    builder: object
    head: str
    image_size: int
    sized: bool
    convert: object


_BUILDERS = {}


def register(builder=None, *, name=None, head="fc", image_size=224, sized=False, convert=None):
    """Adds a builder f(num_classes, in_channels, **options) -> Module under its name.

    head: dotted name of the last layer, which is drawn anew when weights of another num_classes are loaded.
    image_size: what it is usually built for. sized: it has an option image_size and takes no other images.
    convert: convert(state) -> (state with this model's keys, options that the weights call for, note for the report or
    None), for files with the keys of another library.
    """
    if builder is None:
        return lambda f: register(f, name=name, head=head, image_size=image_size, sized=sized, convert=convert)
    name = name or builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"register: a model named {name!r} exists already")
    _BUILDERS[name] = Entry(builder, head, image_size, sized, convert)
    return builder


def register_table(namespace, build, table, doc, head="fc", num_classes=1000, image_size=224, convert=None):
    """Makes one function per row of table {name: options of build}, puts it in namespace and registers it.

    num_classes: default of the functions. image_size: see register; one for all, or {name: size}. convert: see
    register; called as convert(state, row).
    """
    classes = num_classes
    for name, row in table.items():

        def builder(num_classes=classes, in_channels=3, *, _row=row, **options):
            return build(num_classes=num_classes, in_channels=in_channels, **{**_row, **options})

        builder.__name__ = builder.__qualname__ = name
        builder.__module__ = namespace["__name__"]
        builder.__doc__ = doc.format(name=name)
        size = image_size[name] if isinstance(image_size, dict) else image_size
        to_keys = None if convert is None else functools.partial(convert, row=row)
        namespace[name] = register(builder, head=head, image_size=size, convert=to_keys)


def list_models(pattern="*"):
    """Sorted names that match a shell pattern such as "resnet*"; a plain word matches anywhere."""
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return sorted(n for n in _BUILDERS if fnmatch.fnmatchcase(n, pattern))


def _entry(name):
    if name not in _BUILDERS:
        near = difflib.get_close_matches(str(name), _BUILDERS, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see list_models()"
        raise ValueError(f"create_model: unknown model {name!r}; {hint}")
    return _BUILDERS[name]


def usual_input(name):
    """(num_classes, (channels, height, width)) that a model is usually built for."""
    entry = _entry(name)
    defaults = inspect.signature(entry.builder).parameters
    return defaults["num_classes"].default, (defaults["in_channels"].default, entry.image_size, entry.image_size)


def size_options(name, image_size):
    """{"image_size": ...} for models that are built for one size of images, else {}. image_size: (H, W)."""
    entry = _entry(name)
    if not entry.sized:
        return {}
    if image_size[0] != image_size[1]:
        raise ValueError(f"create_model: {name} takes square images only, got {image_size[0]}x{image_size[1]}")
    return {"image_size": int(image_size[0])}


def create_model(name, num_classes=1000, in_channels=3, pretrained=False, **kwargs):
    """Builds a registered model.

    pretrained: path of a .safetensors file with the keys of torchvision. If the file was trained on another number of
    classes its last layer is left out and drawn anew. True raises, because no weights come with the package. Unknown
    names raise ValueError with near matches.
    """
    builder, head = _entry(name)[:2]
    if pretrained is None or pretrained is False:
        return builder(num_classes=num_classes, in_channels=in_channels, **kwargs)
    if pretrained is True:
        raise ValueError(
            f"create_model: no weights of {name!r} come with the package; give pretrained= the path of a file"
        )
    with init.skip_random():
        model = builder(num_classes=num_classes, in_channels=in_channels, **kwargs)
    _load_pretrained(model, head, _read_state(pretrained), pretrained)
    return model


def _read_state(path):
    if os.fspath(path).endswith((".pt", ".pth")):
        raise ValueError(
            f"create_model: {os.fspath(path)}: PyTorch's own files are not read in this version; expected a "
            ".safetensors file (safetensors.torch.save_file(model.state_dict(), path) writes one)"
        )
    return safetensors.load_file(path)


def _load_pretrained(model, head, state, path):
    found = model.load_state_dict(state, strict=False)
    wrong = [f"missing key {k!r}" for k in found.missing_keys]
    wrong += [f"unexpected key {k!r}" for k in found.unexpected_keys]
    wrong += [
        f"mismatched key {k!r}: expected shape {a}, got {b}"
        for k, a, b in found.mismatched_keys
        if not k.startswith(head + ".")
    ]
    if wrong:
        raise ValueError(f"create_model: {os.fspath(path)} does not fit the model:\n  " + "\n  ".join(wrong))
    if found.mismatched_keys:
        model.get_submodule(head).reset_parameters()
