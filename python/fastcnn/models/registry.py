"""The one registry of models: names -> builders. A builder takes num_classes, in_channels, options."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
from typing import NamedTuple

from ..nn import init
from .pretrained import load_pretrained, read_state


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

    head: dotted name of the last layer, which is drawn anew when weights of another num_classes are loaded; a tuple of
    them where there are several.
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

    pretrained: path of a .safetensors file or of a PyTorch file (.pt, .pth: a state_dict, or a checkpoint that holds
    one) with the keys of torchvision, or timm where torchvision has no such net. Where the file was trained on another
    number of classes the last layer is drawn anew; the first convolution is adapted to in_channels (summed to one
    channel, else repeated and scaled). model.pretrained_report tells what was loaded, adapted and skipped,
    model.pretrained_options which options the model was built with. True raises, because no weights come with the
    package.
    Raises: ValueError for unknown names, with near matches, and for files that are damaged or do not fit.
    """
    entry = _entry(name)
    if pretrained is None or pretrained is False:
        return entry.builder(num_classes=num_classes, in_channels=in_channels, **kwargs)
    if pretrained is True:
        raise ValueError(
            f"create_model: no weights of {name!r} come with the package; give pretrained= the path of a file"
        )
    state, notes = read_state(pretrained)
    if entry.convert is not None:
        state, options, note = entry.convert(state)
        kwargs, notes = {**options, **kwargs}, [*notes, *([note] if note else [])]
    with init.skip_random():
        model = entry.builder(num_classes=num_classes, in_channels=in_channels, **kwargs)
    model.pretrained_options = dict(kwargs)
    model.pretrained_report = load_pretrained(model, name, entry.head, state, pretrained, notes)
    return model
