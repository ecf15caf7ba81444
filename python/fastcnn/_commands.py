"""What the commands of fastcnn do, but train (_train_command.py) and the report (report.py). Options: see cli.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from . import _core
from ._files import atomic_write
from .cli import UsageError


def _usage(function, *args, **kwargs):
    """function(...), whose ValueError is the user's: an unknown name, an option out of range."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _start(args):
    if args.threads is not None:
        _core.set_num_threads(args.threads)


def _load_data(args, split, classes=None):
    """The split of --data; classes: of an image folder, so that other splits count them alike."""
    from .data import Subset, list_datasets, load, random_split

    options, part = {}, None
    if args.data.startswith("imagefolder:"):
        options = {"image_size": args.image_size or 32, "classes": classes, "cache": getattr(args, "cache", None)}
        options["on_error"] = "skip" if getattr(args, "skip_damaged", False) else "raise"
        if args.val_fraction is not None and split in ("train", "val"):
            split, part = "train", split
    elif args.image_size is not None or args.val_fraction is not None:
        option = "--image-size" if args.image_size is not None else "--val-fraction"
        raise UsageError(f"{option} goes with imagefolder:PATH only")
    elif args.data not in list_datasets():
        if not args.data.startswith("arrays:"):
            _usage(load, args.data)  # raises, with near matches
    elif split not in ("train", "test"):
        raise UsageError(f"{args.data}: expected split 'train' or 'test', got {split!r}")
    try:
        data = load(args.data, split, root=args.root, download=not args.no_download, **options)
    except FileNotFoundError as error:
        if options and split == "val" and Path(args.data.partition(":")[2]).is_dir():
            raise UsageError(f"{error}; or pass --val-fraction 0.1") from error
        raise
    if part is not None:
        parts = random_split(data, [1.0 - args.val_fraction, args.val_fraction])
        if not all(map(len, parts)):
            raise UsageError(
                f"--val-fraction {args.val_fraction:g}: leaves {len(parts[0])} images to train and {len(parts[1])} to "
                f"validate of {len(data)}"
            )
        data = parts[part == "val"]
    return data if args.limit is None else Subset(data, np.arange(min(args.limit, len(data))))


def _test_split(name):
    return "val" if name.startswith("imagefolder:") else "test"


def _describe(data):
    """What a checkpoint has to know about the data to be used on its own."""
    stats = {k: None if getattr(data, k) is None else [float(v) for v in np.ravel(getattr(data, k))]
             for k in ("mean", "std")}  # fmt: skip
    return {
        "num_classes": int(data.num_classes), "in_channels": int(data.in_channels),
        "image_size": [int(v) for v in data.image_size], "classes": data.classes, **stats,
    }  # fmt: skip


# What a start that failed leaves: nothing of it is worth keeping.
_BEFORE_TRAINING = ("config.json", "events.out.tfevents.")


def _run_folder(args):
    name = args.name
    if name is None:
        data = args.data.split(":")[0]
        name = f"{args.model}-{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif Path(name).name != name or name in ("", ".", ".."):
        raise UsageError(f"--name: expected a plain name, got {name!r}")
    run = Path(args.out) / name
    number = 2
    while run.exists() and not all(p.name.startswith(_BEFORE_TRAINING) for p in run.iterdir()):
        if args.name is not None:
            raise UsageError(f"{run} exists already; choose another --name, or --resume {run}")
        run = Path(args.out) / f"{name}-{number}"
        number += 1
    return run


class OptionsFile:
    """A callback that writes the options of a run as training begins: what its checkpoint refuses never gets there."""

    writes_files = True

    def __init__(self, path, values):
        self.path, self.values = path, values

    def on_fit_start(self, trainer):
        with atomic_write(self.path, "w", encoding="utf-8") as file:
            json.dump(self.values, file, indent=1)
            file.write("\n")


def resume_from(args):
    """What Trainer.fit is to resume from: None, the file that --resume names, or the last checkpoint of its folder."""
    if not args.resume:
        return None
    return args.resume if Path(args.resume).is_file() else "last"


def train(args):
    """fastcnn train: see _train_command.py."""
    from ._train_command import train as run

    return run(args)


# ---------------------------------------------------------------- evaluate, predict


def _read_model(args):
    """(model, metadata, path) of a checkpoint."""
    from .checkpoints import load_checkpoint
    from .models import create_model
    from .models.registry import size_options

    path = Path(args.checkpoint)
    if path.is_dir():
        found = [path / n for n in ("best.safetensors", "last.safetensors") if (path / n).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: no best.safetensors or last.safetensors in it")
        path = found[0]
    saved = load_checkpoint(path)
    about, name = saved.metadata, args.model or saved.metadata.get("model")
    _refuse_pairs(path, saved)
    if name is None:
        raise UsageError(f"{path}: does not say which model it is of; pass --model")
    classes, channels = about.get("num_classes"), about.get("in_channels")
    if classes is None:
        head = [t for t in saved.weights.values() if t.ndim == 2]
        first = [t for t in saved.weights.values() if t.ndim == 4]
        if not head or not first:
            raise UsageError(f"{path}: does not say how many classes it has")
        classes, channels = head[-1].shape[0], first[0].shape[1]
    options = _usage(size_options, name, about["image_size"]) if about.get("image_size") else {}
    options.update(about.get("options", {}))
    model = _usage(create_model, name, num_classes=classes, in_channels=channels, **options)
    try:
        model.load_state_dict(saved.weights)
    except ValueError as error:
        raise ValueError(f"{path}: does not fit the model {name}: {error}") from error
    return model, {"num_classes": classes, "in_channels": channels, **about, "model": name}, path


def _refuse_pairs(path, saved):
    from .models import list_models
    from .models.registry import task_of

    name = saved.metadata.get("model")
    if "gan" in (saved.state or {}) or (name in list_models() and task_of(name) == "gan"):
        raise UsageError(
            f"{path}: made by fastcnn gan train, a pair of nets that draws; use fastcnn gan sample --checkpoint"
        )


def _quiet_trainer(args, model, about, metrics=("accuracy",)):
    from .trainer import Trainer

    return Trainer(
        model, "sgd", loss=about.get("loss") or "cross_entropy", metrics=metrics, device=args.device,
        compile=not args.no_compile, batch_size=args.batch_size, progress=False,
    )  # fmt: skip


def logits(outputs, about):
    """Outputs of a model as numbers whose softmax is the share of each class; about: metadata of its checkpoint."""
    if about.get("loss") != "margin":
        return outputs
    return np.log(np.maximum(outputs, 1e-12))  # lengths of capsules


def evaluate(args):
    """fastcnn evaluate: prints loss, accuracy and top-5 accuracy."""
    _start(args)
    model, about, path = _read_model(args)
    args.data = args.data or about.get("data")
    if args.data is None:
        raise UsageError(f"{path}: does not say what it was trained on; pass --data")
    if args.data.startswith("imagefolder:") and args.image_size is None:
        args.image_size = (about.get("image_size") or [None])[0]
    if args.val_fraction is None and args.data == about.get("data"):
        args.val_fraction = about.get("val_fraction")
    split = args.split or _test_split(args.data)
    data = _load_data(args, split, about.get("classes") if args.data == about.get("data") else None)
    if data.num_classes != about["num_classes"] or data.in_channels != about["in_channels"]:
        raise UsageError(
            f"{path}: made for {about['num_classes']} classes and {about['in_channels']} channels; {args.data} has "
            f"{data.num_classes} and {data.in_channels}"
        )
    metrics = ["accuracy"] + (["top5"] if about["num_classes"] > 5 else [])
    began = time.perf_counter()
    results = _quiet_trainer(args, model, about, metrics).evaluate(data)
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({**results, "images": len(data), "seconds": seconds, "checkpoint": str(path)}))
        return 0
    from .progress import format_value

    values = ", ".join(f"{k} {format_value(k, v) if k == 'loss' else f'{100 * v:.2f} %'}" for k, v in results.items())
    print(f"{path} on {args.data} {split} ({len(data):,} images): {values}; {len(data) / seconds:.0f} images/s")
    return 0


def _pictures(path, about):
    """A dataset of the pictures in a file."""
    from .data import ArrayDataset, read_idx
    from .data.images import ImageReader

    channels = about["in_channels"]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.suffix == ".npy":
        images = np.load(path, allow_pickle=False)
        if images.ndim == 2 or (images.ndim == 3 and channels in (images.shape[0], images.shape[-1])):
            images = images[None]
    elif "ubyte" in path.name or "idx" in path.name:
        images = read_idx(path)
    else:
        size = about.get("image_size")  # as ImageFolder prepares its pictures
        images = ImageReader("predict", "L" if channels == 1 else "RGB", tuple(size) if size else None)(path)[None]
    if images.ndim not in (3, 4) or len(images) == 0:
        raise ValueError(f"{path}: expected images (N, H, W) or (N, H, W, C), got shape {images.shape}")
    if images.dtype.kind == "f" and not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"{path}: expected float pixels in [0, 1]")
    data = ArrayDataset(
        images, np.zeros(len(images), np.int64), num_classes=about["num_classes"], mean=about.get("mean"),
        std=about.get("std"),
    )  # fmt: skip
    if data.in_channels != channels:
        raise ValueError(f"{path}: expected {channels} channels, got images {images.shape}")
    return data


def _files_of(paths, failed):
    """The files to predict: of folders all pictures below them, in order of their names. Errors go to the list."""
    from .data.images import EXTENSIONS

    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("[!.]*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not found:
            failed.append(FileNotFoundError(f"{path}: no pictures ({' '.join(sorted(EXTENSIONS))}) in this folder"))
        yield from found


def predict(args):
    """fastcnn predict: names the likeliest classes of each picture."""
    from .data import DataLoader, Subset

    _start(args)
    model, about, _ = _read_model(args)
    trainer = _quiet_trainer(args, model, about)
    failed, records, waiting = [], [], []
    for file in _files_of(args.files, failed):
        try:
            data = _pictures(file, about)
        except (ValueError, OSError, TypeError) as error:
            failed.append(error)
            continue
        count = len(data) if args.limit is None else min(args.limit, len(data))
        pixels, _ = next(iter(DataLoader(Subset(data, np.arange(count)), count)))
        waiting += [(f"{file}[{i}]" if len(data) > 1 else str(file), x) for i, x in enumerate(pixels)]
        if len(waiting) >= args.batch_size:
            records += _named(args, trainer, about, waiting)
    records += _named(args, trainer, about, waiting)
    if args.json:
        print(json.dumps(records))
    for error in failed:
        print(f"fastcnn: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if failed else 0


def _named(args, trainer, about, waiting):
    """Empties the list of (label, image) into records of their likeliest classes, printed unless --json is there."""
    names = about.get("classes") or [str(i) for i in range(about["num_classes"])]
    labels, records = [label for label, _ in waiting], []
    # Pictures of one size go together.
    shapes = {}
    for i, (_, x) in enumerate(waiting):
        shapes.setdefault(x.shape, []).append(i)
    rows = [None] * len(waiting)
    for places in shapes.values():
        for i, row in zip(places, trainer.predict(np.stack([waiting[k][1] for k in places])), strict=True):
            rows[i] = row
    waiting.clear()
    for label, scores in zip(labels, rows, strict=True):
        row = logits(scores, about)
        row = np.exp(row - row.max())
        row /= row.sum()
        top = np.argsort(-row, kind="stable")[: args.top]
        if not args.json:
            print(f"{label}: " + ", ".join(f"{names[k]} {100 * row[k]:.1f} %" for k in top))
        classes = [{"name": names[k], "id": int(k), "probability": float(row[k])} for k in top]
        records.append({"file": label, "classes": classes})
    return records


def export(args):
    """fastcnn export."""
    from ._export_command import run

    return run(args)


# ---------------------------------------------------------------- summary, bench, info


def summary(args):
    """fastcnn summary: the table of a model."""
    from ._summary import summary as summarize
    from .models import create_model
    from .models.registry import size_options, task_of, usual_input

    num_classes, shape = _usage(usual_input, args.model)
    if args.input and len(args.input) not in (3, 4):
        raise UsageError(f"--input: expected C H W, or C frames H W of clips, got {len(args.input)} numbers")
    shape = tuple(args.input or shape)
    model = create_model(args.model, args.num_classes or num_classes, shape[0], **size_options(args.model, shape[-2:]))
    if task_of(args.model) != "gan":
        found = summarize(model, (1, *shape))
        print(json.dumps(found.as_dict()) if args.json else found)
        return 0
    labels = (_core.tensor([0]),) if getattr(model.generator, "num_classes", 0) else ()
    inputs = {"generator": (1, model.generator.latent_dim), "discriminator": (1, *shape)}
    both = {part: summarize(getattr(model, part), size, labels) for part, size in inputs.items()}
    print(json.dumps({p: s.as_dict() for p, s in both.items()}) if args.json else "\n\n".join(map(str, both.values())))
    return 0


def bench(args):
    """fastcnn bench: see fastcnn.bench."""
    from .bench import command

    command.run(args)
    return 0


def info(args):
    """fastcnn info: the configuration."""
    text = _core.show_config().rstrip()
    if args.json:
        rows = (line.partition(":") for line in text.splitlines()[1:])  # the first is the version
        facts = {key.strip(): value.strip() for key, _, value in rows}
        text = json.dumps({"version": _core.version(), **facts})
    print(text)
    return 0


# ---------------------------------------------------------------- data, report


def augmentation(kind, size):
    """The transform of --augment for images of size (H, W); None for "none"."""
    from . import augment as A

    # Black, which is 0 in raw pixels; a tenth of the image is the usual shift of CIFAR and less hurts nobody.
    crop, flip = A.RandomCrop(padding=max(1, round(min(size) / 14))), A.RandomHorizontalFlip()
    steps = {
        "crop": [crop], "flip": [flip], "crop-flip": [crop, flip], "resized-crop": [A.RandomResizedCrop(size), flip],
        "trivial": [crop, flip, A.TrivialAugmentWide()], "rand": [crop, flip, A.RandAugment()], "none": [],
    }[kind]  # fmt: skip
    return A.Compose(steps) if steps else None


def data(args):
    """fastcnn data: what there is, or what is in one dataset."""
    from .data import list_datasets

    if args.data is None:
        names = [*list_datasets(), "imagefolder:PATH", "arrays:FILE"]
        print(json.dumps(names) if args.json else "\n".join(names))
        return 0
    if args.augment and not args.preview:
        raise UsageError("--augment goes with --preview")
    found = {}
    for split in args.split.split(",") if args.split else _splits_there(args):
        part = _load_data(args, split)
        counts = None if part.labels is None or part.labels.ndim != 1 else np.bincount(part.labels).tolist()
        found[split] = {"images": len(part), **_describe(part), "per_class": counts}
        if args.preview and "preview" not in found:
            found["preview"] = _preview(part, args.preview, args.augment)
    if args.json:
        print(json.dumps(found))
        return 0
    for split, about in found.items():
        if split == "preview":
            print(f"preview in {about}")
            continue
        size = "x".join(map(str, about["image_size"]))
        stats = "; ".join(
            f"{k} {', '.join(f'{v:.4f}' for v in about[k])}" for k in ("mean", "std") if about[k] is not None
        )
        shape = f"{about['images']:,} images {about['in_channels']} x {size}"
        print("; ".join(filter(None, [f"{args.data} {split}: {shape}", stats])))
        names = about["classes"] or [str(i) for i in range(about["num_classes"])]
        counts = about["per_class"] or [None] * len(names)
        print("  " + ", ".join(n if c is None else f"{n} {c:,}" for n, c in zip(names, counts, strict=False)))
    return 0


def _splits_there(args):
    """The splits that a dataset has: an image folder may have none but train."""
    splits = ("train", _test_split(args.data))
    if not args.data.startswith("imagefolder:") or args.val_fraction is not None:
        return splits
    from .data.folder import folder_for_split

    path = args.data.partition(":")[2]
    try:
        folder_for_split(path, splits[1])
    except FileNotFoundError:
        return splits[:1]
    return splits


def _preview(part, path, kind=None):
    """Draws up to 40 images with their classes, or what augmentation makes of the first; gives the path."""
    from .viz import augmented, image_grid

    if kind is not None:
        pixels, _ = part.raw_batch(np.zeros(1, np.int64))
        augmented(np.asarray(pixels)[0].transpose(2, 0, 1), augmentation(kind, part.image_size), 23, path=path)
        return str(path)
    indices = np.linspace(0, len(part) - 1, min(40, len(part))).astype(int)
    pixels, labels = part.raw_batch(indices)
    names = None if labels.ndim != 1 else [part.classes[i] if part.classes else str(i) for i in labels]
    image_grid(np.asarray(pixels).transpose(0, 3, 1, 2), names, title=part.name, path=path)
    return str(path)


def report(args):
    """fastcnn report: writes index.html of a run."""
    from .report import write_report

    _start(args)
    path = write_report(
        args.run, limit=args.limit, root=args.root, download=not args.no_download, out=args.output, device=args.device
    )
    print(json.dumps({"report": str(path)}) if args.json else path)
    return 0


def gan(args):
    """fastcnn gan: see _gan_commands.py."""
    from ._gan_commands import run

    return run(args)
