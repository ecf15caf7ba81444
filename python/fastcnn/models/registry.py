"""The one registry of models: names -> builders. A builder takes num_classes, in_channels, options."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
import operator
from typing import NamedTuple

from ..nn import init
from .pretrained import held_sizes, load_backbone, load_pretrained, read_weights


class Entry(NamedTuple):
    """What register() was told of a model."""

    builder: object
    head: str
    image_size: int
    sized: bool
    convert: object
    backbone: object
    task: str


_BUILDERS = {}


def register(
    builder=None, *, name=None, head="fc", image_size=224, sized=False, convert=None, backbone=None,
    task="classification",
):  # fmt: skip
    """Adds a builder f(num_classes, in_channels, **options) -> Module under its name.

    head: dotted name of the last layer, which is drawn anew when weights of another num_classes are loaded; a tuple of
    them where there are several.
    image_size: what it is usually built for. sized: it has an option image_size and takes no other images.
    convert: convert(state) -> (state with this model's keys, options that the weights call for, note for the report or
    None), for files with the keys of another library.
    backbone: a pretrained.Backbone, for models that are built on a classifier.
    task: classification, segmentation, detection, video (clips (N, channels, frames, H, W)) or gan.
    """
    if builder is None:
        return functools.partial(
            register, name=name, head=head, image_size=image_size, sized=sized, convert=convert, backbone=backbone,
            task=task,
        )  # fmt: skip
    name = name or builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"register: a model named {name!r} exists already")
    _BUILDERS[name] = Entry(builder, head, image_size, sized, convert, backbone, task)
    return builder


def register_table(
    namespace, build, table, doc, head="fc", num_classes=1000, image_size=224, convert=None, task="classification"
):
    """Makes one function per row of table {name: options of build}, puts it in namespace and registers it.

    num_classes: default of the functions. image_size, task: see register; one for all, or {name: size}. convert: see
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
        namespace[name] = register(builder, head=head, image_size=size, convert=to_keys, task=task)


def list_models(pattern="*"):
    """Sorted names that match a shell pattern such as "resnet*"; a plain word matches anywhere."""
    if not isinstance(pattern, str):
        raise TypeError(f"list_models: expected a pattern as text, got {type(pattern).__name__}")
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
    params, usual = inspect.signature(entry.builder).parameters, []
    for what, other in (("num_classes", 1000), ("in_channels", 3)):
        default = params[what].default if what in params else None
        usual.append(default if isinstance(default, int) else other)
    return usual[0], (usual[1], entry.image_size, entry.image_size)


def task_of(name):
    """What a model is for; see register."""
    return _entry(name).task


def size_options(name, image_size):
    """{"image_size": ...} for models that are built for one size of images, else {}. image_size: (H, W)."""
    entry = _entry(name)
    if not entry.sized:
        return {}
    if image_size[0] != image_size[1]:
        raise ValueError(f"create_model: {name} takes square images only, got {image_size[0]}x{image_size[1]}")
    return {"image_size": int(image_size[0])}


def _sizes(num_classes, in_channels):
    """Both as ints, or None as given. Raises: TypeError and ValueError for others."""
    found = []
    for what, value, least in (("num_classes", num_classes, 0), ("in_channels", in_channels, 1)):
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise TypeError(f"create_model: expected {what} as an int of at least {least}, got {value!r}")
        if value is not None and value < least:
            raise ValueError(f"create_model: expected {what} of at least {least}, got {value}")
        found.append(None if value is None else operator.index(value))
    return found


def _options(builder, num_classes, in_channels):
    """Sorted names of the options that a builder takes, and those of its model where it passes options on."""
    params = inspect.signature(builder).parameters.values()
    names = {p.name for p in params if p.kind is not p.VAR_KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in params):
        with init.skip_random():
            kinds = type(builder(num_classes=num_classes, in_channels=in_channels)).__mro__
        for kind in kinds:
            given = inspect.signature(kind.__init__).parameters.values()
            names |= {p.name for p in given if p.default is not p.empty}
    return sorted(n for n in names if not n.startswith("_") and n not in ("num_classes", "in_channels"))


def _build(name, num_classes, in_channels, options):
    """The model; a TypeError for an option that it does not have names those that it has."""
    entry = _entry(name)
    size = options.get("image_size")
    if entry.sized and isinstance(size, (tuple, list)) and len(size) == 2:
        options = {**options, **size_options(name, size)}
    elif entry.sized and size is not None and not hasattr(size, "__index__"):
        raise TypeError(f"create_model: {name}: expected image_size as an int or (S, S), got {size!r}")
    try:
        return entry.builder(num_classes=num_classes, in_channels=in_channels, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        known = _options(entry.builder, num_classes, in_channels)
        unknown = [option for option in options if option not in known]
        if not unknown:
            raise
        near = difflib.get_close_matches(unknown[0], [*known, "num_classes", "in_channels"], n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        told = f"; its options are {', '.join(known)}" if known else "; it has none"
        raise TypeError(f"create_model: {name} has no option {unknown[0]!r}{hint or told}") from None


def _load(name, path, num_classes, in_channels, options):
    """create_model with pretrained=path."""
    entry = _entry(name)
    asked = (num_classes, in_channels)
    sizes = (usual_input(name)[0] if num_classes is None else num_classes, in_channels or 3)
    with init.skip_random():
        model = _build(name, *sizes, options)
        weights, wanted = read_weights(path, model.state_dict()), options
        if entry.convert is not None:
            state, implied, note = entry.convert(weights.state)
            wanted = {**implied, **options}
            weights = weights._replace(state=state, notes=[*weights.notes, *([note] if note else [])])
        held = held_sizes(model, entry.head, weights.state, *sizes)
        held = tuple(h if a is None else a for h, a in zip(held, asked, strict=True))
        if (held, wanted) != (sizes, options):
            model = _build(name, *held, wanted)
    model.pretrained_options = dict(wanted)
    model.pretrained_report = load_pretrained(model, name, entry.head, weights, num_classes is not None)
    return model


def create_model(name, num_classes=None, in_channels=None, pretrained=False, pretrained_backbone=None, **kwargs):
    """Builds a registered model.

    num_classes, in_channels: default what the pretrained file is for; without one 1000 for classification, what the
    model is usually built for elsewhere (as fc.models.NAME()), and 3 channels.
    pretrained: path of a .safetensors file or of a PyTorch file (.pt, .pth: a state_dict, or a checkpoint that holds
    one) with the keys of torchvision, or timm where torchvision has no such net. Where the file was trained on another
    number of classes the last layer is drawn anew; the first convolution is adapted to in_channels (summed to one
    channel, else repeated and scaled). model.pretrained_report tells what was loaded, adapted and skipped,
    model.pretrained_options which options the model was built with. True raises, because no weights come with the
    package.
    pretrained_backbone: instead, path of weights of the classifier that a segmentation or detection model is built on
    (resnet50, vgg16, mobilenet_v3_large); the rest is drawn. model.pretrained_report tells of it.
    Options: see the class that the docstring of fc.models.NAME names.
    Raises: ValueError for unknown names, with near matches, and for files that are damaged or do not fit; TypeError for
    options that the model does not have.
    """
    entry = _entry(name)
    num_classes, in_channels = _sizes(num_classes, in_channels)
    given = pretrained is not None and pretrained is not False
    if given and pretrained_backbone is not None:
        raise ValueError("create_model: expected pretrained= or pretrained_backbone=, got both")
    if pretrained is True:
        raise ValueError(
            f"create_model: no weights of {name!r} come with the package; give pretrained= the path of a file"
        )
    if given:
        return _load(name, pretrained, num_classes, in_channels, kwargs)
    if pretrained_backbone is not None and entry.backbone is None:
        having = sorted(n for n, e in _BUILDERS.items() if e.backbone is not None)
        raise ValueError(
            f"create_model: {name} has no backbone of its own, pretrained= takes its weights; pretrained_backbone= "
            f"goes with {', '.join(having)}"
        )
    usual = 1000 if entry.task == "classification" else usual_input(name)[0]
    classes, channels = usual if num_classes is None else num_classes, in_channels or 3
    model = _build(name, classes, channels, kwargs)
    if pretrained_backbone is not None:
        weights = read_weights(pretrained_backbone, model.state_dict())
        model.pretrained_report = load_backbone(model, name, entry.backbone, weights)
    return model
