"""What the commands of fastcnn do: train, evaluate, predict, summary, bench, info. Options are defined in cli.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from . import _core
from ._files import atomic_write
from .cli import UsageError

# Recipes: what a run uses where the command line is silent. "sgd" rows are for SGD only.
_BASE = {
    "model": "resnet20", "epochs": 10, "batch_size": 128, "optimizer": "sgd", "scheduler": "onecycle",
    "label_smoothing": 0.0, "augment": "crop-flip", "seed": 0, "accumulate": 1, "ema_decay": None, "clip": None,
    "patience": None, "workers": 1, "precision": "32-true",
}  # fmt: skip
_BY_DATA = {
    "fashion_mini": {"model": "resnet8", "epochs": 20, "batch_size": 64, "label_smoothing": 0.1},
    "mnist": {"augment": "crop"},
}
_BY_OPTIMIZER = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "adam": {"lr": 2e-3, "momentum": None, "weight_decay": 0.0},
    "adamw": {"lr": 2e-3, "momentum": None, "weight_decay": 0.05},
    "rmsprop": {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0},
}
_RECIPE_NAMES = (*_BASE, "lr", "momentum", "weight_decay")
_DATA_NAMES = ("data", "root", "no_download", "image_size", "limit", "init")


def _usage(function, *args, **kwargs):
    """function(...), whose ValueError is the user's: an unknown name, an option out of range."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _start(args):
    if args.threads is not None:
        _core.set_num_threads(args.threads)


def _load_data(args, split):
    from .data import Subset, list_datasets, load

    options = {}
    if args.data.startswith("imagefolder:"):
        options["image_size"] = args.image_size or 32
    elif args.image_size is not None:
        raise UsageError("--image-size goes with imagefolder:PATH only")
    elif args.data not in list_datasets():
        _usage(load, args.data)  # raises, with near matches
    data = load(args.data, split, root=args.root, download=not args.no_download, **options)
    return data if args.limit is None else Subset(data, np.arange(min(args.limit, len(data))))


def _test_split(name):
    return "val" if name.startswith("imagefolder:") else "test"


def _transform(kind, data):
    from .augment import Compose, RandomCrop, RandomHorizontalFlip

    steps = []
    if "crop" in kind:
        # Black, which is 0 in raw pixels; a tenth of the image is the usual shift of CIFAR and less hurts nobody.
        steps.append(RandomCrop(padding=max(1, round(min(data.image_size) / 14))))
    if "flip" in kind:
        steps.append(RandomHorizontalFlip())
    return Compose(steps) if steps else None


def _describe(data):
    """What a checkpoint has to know about the data to be used on its own."""
    stats = {k: None if getattr(data, k) is None else [float(v) for v in np.ravel(getattr(data, k))]
             for k in ("mean", "std")}  # fmt: skip
    return {
        "num_classes": int(data.num_classes), "in_channels": int(data.in_channels),
        "image_size": [int(v) for v in data.image_size], "classes": data.classes, **stats,
    }  # fmt: skip


# ---------------------------------------------------------------- train


def _newest_run(folder):
    runs = [p for p in Path(folder).glob("*/last.safetensors")]
    if not runs:
        raise UsageError(f"--resume last: no run with a last.safetensors in {folder}")
    return max(runs, key=lambda p: p.stat().st_mtime).parent


def _resumed(args):
    """Folder of the run to resume; its options are taken over where the command line is silent."""
    run = _newest_run(args.out) if args.resume == "last" else Path(args.resume)
    if run.is_file():
        run = run.parent
    config = run / "config.json"
    if not config.is_file():
        raise UsageError(f"--resume: no {config}; expected the folder of a run of fastcnn train")
    try:
        saved = json.loads(config.read_text(encoding="utf-8"))
        for name in (*_RECIPE_NAMES, *_DATA_NAMES):
            if name in saved and name not in args.given:
                setattr(args, name, saved[name])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{config}: damaged: {error}") from error
    return run


def _fill_recipe(args):
    recipe = {**_BASE, **_BY_DATA.get(args.data, {})}
    recipe.update(_BY_OPTIMIZER.get(args.optimizer or recipe["optimizer"], {}))
    for name in _RECIPE_NAMES:
        if getattr(args, name, None) is None:
            setattr(args, name, recipe.get(name))


def _run_folder(args):
    name = args.name
    if name is None:
        data = args.data.split(":")[0]
        name = f"{args.model}-{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif Path(name).name != name or name in (".", ".."):
        raise UsageError(f"--name: expected a plain name, got {name!r}")
    run = Path(args.out) / name
    number = 2
    while run.exists() and any(run.iterdir()):
        if args.name is not None:
            raise UsageError(f"{run} exists already; choose another --name, or --resume {run}")
        run = Path(args.out) / f"{name}-{number}"
        number += 1
    return run


def train(args):
    """fastcnn train: returns the exit code."""
    from .models import create_model
    from .models.registry import size_options
    from .optim import get_optimizer
    from .trainer import Trainer

    run = _resumed(args) if args.resume else None
    _fill_recipe(args)
    _usage(get_optimizer, args.optimizer)
    _start(args)
    data = _load_data(args, "train")
    test = _load_data(args, _test_split(args.data))
    if data.num_classes is None:
        raise UsageError(f"{args.data}: has no classes to learn")
    _core.ops.manual_seed(args.seed)
    about = _describe(data)
    model = _usage(
        create_model, args.model, num_classes=about["num_classes"], in_channels=about["in_channels"],
        pretrained=args.init or False, **_usage(size_options, args.model, about["image_size"]),
    )  # fmt: skip
    if args.init:
        print(model.pretrained_report, file=sys.stderr)
    resuming, run = run is not None, run or _run_folder(args)
    from .callbacks import EarlyStopping, TensorBoard

    callbacks = [TensorBoard()]
    if args.patience is not None:
        callbacks.append(EarlyStopping("val_accuracy", patience=args.patience))
    trainer = _usage(
        Trainer, model, args.optimizer, args.lr, device=args.device, accumulate_grad_batches=args.accumulate,
        gradient_clip_val=args.clip, ema_decay=args.ema_decay, callbacks=callbacks,
        compile=not args.no_compile, seed=args.seed, log_dir=run, precision=args.precision,
        scheduler=None if args.scheduler == "none" else args.scheduler, weight_decay=args.weight_decay,
        momentum=args.momentum, label_smoothing=args.label_smoothing, batch_size=args.batch_size,
        transform=_transform(args.augment, data), num_workers=args.workers,
        checkpoint_every_seconds=args.checkpoint_every, progress=not args.quiet,
        metadata={"model": args.model, "data": args.data, **about},
    )  # fmt: skip
    config = {name: getattr(args, name) for name in (*_RECIPE_NAMES, *_DATA_NAMES)}
    with atomic_write(run / "config.json", "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
        file.write("\n")
    if not args.quiet:
        count = sum(p.numel() for p in model.parameters())
        print(
            f"{args.model} ({count:,} parameters) on {args.data}: {len(data):,} training and {len(test):,} test "
            f"images, {_core.isa()}, {_core.get_num_threads()} threads; run in {run}",
            file=sys.stderr,
        )
    began = time.perf_counter()
    history = trainer.fit(data, test, max_epochs=args.epochs, resume="last" if resuming else None)
    if history.interrupted:
        print(f"go on with: fastcnn train --resume {run}", file=sys.stderr)
        return 130
    if not history:
        raise ValueError(f"{run}: nothing left to train, it has {args.epochs} epochs already")
    best = f", best {100 * trainer.best_score:.2f} % in epoch {trainer.best_epoch + 1}"
    print(
        f"test accuracy {100 * history['val_accuracy'][-1]:.2f} %{best}; {time.perf_counter() - began:.1f} s; "
        f"{run}"
    )
    return 0


# ---------------------------------------------------------------- evaluate, predict


def _read_model(args):
    """(model, metadata) of a checkpoint."""
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
    model = _usage(create_model, name, num_classes=classes, in_channels=channels, **options)
    try:
        model.load_state_dict(saved.weights)
    except ValueError as error:
        raise ValueError(f"{path}: does not fit the model {name}: {error}") from error
    return model, {"num_classes": classes, "in_channels": channels, **about, "model": name}, path


def _quiet_trainer(args, model, metrics=("accuracy",)):
    from .trainer import Trainer

    return Trainer(
        model, "sgd", metrics=metrics, device=args.device, compile=not args.no_compile,
        batch_size=args.batch_size, progress=False,
    )  # fmt: skip


def evaluate(args):
    """fastcnn evaluate: prints loss, accuracy and top-5 accuracy."""
    _start(args)
    model, about, path = _read_model(args)
    args.data = args.data or about.get("data")
    if args.data is None:
        raise UsageError(f"{path}: does not say what it was trained on; pass --data")
    if args.data.startswith("imagefolder:") and args.image_size is None:
        args.image_size = (about.get("image_size") or [None])[0]
    split = args.split or _test_split(args.data)
    data = _load_data(args, split)
    if data.num_classes != about["num_classes"] or data.in_channels != about["in_channels"]:
        raise UsageError(
            f"{path}: made for {about['num_classes']} classes and {about['in_channels']} channels; {args.data} has "
            f"{data.num_classes} and {data.in_channels}"
        )
    metrics = ["accuracy"] + (["top5"] if about["num_classes"] > 5 else [])
    began = time.perf_counter()
    results = _quiet_trainer(args, model, metrics).evaluate(data)
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({**results, "images": len(data), "seconds": seconds, "checkpoint": str(path)}))
        return 0
    from .progress import format_value

    values = ", ".join(f"{k} {format_value(k, v) if k == 'loss' else f'{100 * v:.2f} %'}" for k, v in results.items())
    print(f"{path} on {args.data} {split} ({len(data):,} images): {values}; {len(data) / seconds:.0f} images/s")
    return 0


def _pictures(path, about):
    """Pixels (N, H, W, C) of a file, uint8 or float in [0, 1]."""
    from .data import ArrayDataset, read_idx

    channels = about["in_channels"]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".npy":
        images = np.load(path, allow_pickle=False)
        if images.ndim == 2 or (images.ndim == 3 and channels in (images.shape[0], images.shape[-1])):
            images = images[None]
    elif "ubyte" in path.name or "idx" in path.name:
        images = read_idx(path)
    else:
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError(f"{path}: reading pictures needs Pillow: pip install Pillow") from error
        with Image.open(path) as picture:
            picture = picture.convert("L" if channels == 1 else "RGB")
            size = about.get("image_size")
            if size and picture.size != (size[1], size[0]):
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            images = np.asarray(picture)[None]
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


def predict(args):
    """fastcnn predict: names the class of each picture."""
    from .data import Subset

    _start(args)
    model, about, _ = _read_model(args)
    trainer = _quiet_trainer(args, model)
    names = about.get("classes") or [str(i) for i in range(about["num_classes"])]
    failed, records = 0, []
    for file in map(Path, args.files):
        try:
            data = _pictures(file, about)
        except (ValueError, OSError, TypeError) as error:
            print(f"fastcnn: error: {' '.join(str(error).split())}", file=sys.stderr)
            failed += 1
            continue
        many = len(data) > 1
        if args.limit is not None:
            data = Subset(data, np.arange(min(args.limit, len(data))))
        scores = trainer.predict(data)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        for i, row in enumerate(scores):
            top = np.argsort(-row, kind="stable")[: args.top]
            label = f"{file}[{i}]" if many else str(file)
            if args.json:
                records.append({"file": label, "classes": {names[k]: float(row[k]) for k in top}})
            else:
                print(f"{label}: " + ", ".join(f"{names[k]} {100 * row[k]:.1f} %" for k in top))
    if args.json:
        print(json.dumps(records))
    return 1 if failed else 0


# ---------------------------------------------------------------- summary, bench, info


def summary(args):
    """fastcnn summary: the table of a model."""
    from .models import create_model
    from .models.registry import size_options, usual_input
    from .summary import summary as summarize

    num_classes, shape = _usage(usual_input, args.model)
    shape = tuple(args.input or shape)
    model = create_model(args.model, args.num_classes or num_classes, shape[0], **size_options(args.model, shape[1:]))
    print(summarize(model, (1, *shape)))
    return 0


def bench(args):
    """fastcnn bench: see fastcnn.bench."""
    from .bench import command

    command.run(args)
    return 0


def info(args):
    """fastcnn info: the configuration."""
    print(_core.show_config().rstrip())
    return 0


def gan(args):
    """fastcnn gan: see _gan_commands.py."""
    from ._gan_commands import run

    return run(args)
