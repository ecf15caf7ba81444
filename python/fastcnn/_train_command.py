"""fastcnn train: recipes, config files, the folder of a run, fine-tuning. Options are defined in cli.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from . import _core, distributed
from ._commands import (
    OptionsFile,
    _describe,
    _load_data,
    _run_folder,
    _start,
    _test_split,
    _usage,
    augmentation,
    resume_from,
)
from .cli import UsageError

# Recipes: what a run uses where the command line is silent. "sgd" rows are for SGD only.
_BASE = {
    "model": "resnet20", "epochs": 10, "batch_size": 128, "optimizer": "sgd", "scheduler": "onecycle",
    "label_smoothing": 0.0, "loss": "cross_entropy", "augment": "crop-flip", "seed": 0, "accumulate": 1,
    "ema_decay": None, "clip": None, "mixup": None, "cutmix": None, "patience": None, "workers": 1,
    "precision": "32-true", "warmup_steps": 0,
}  # fmt: skip
_BY_DATA = {
    "fashion_mini": {"model": "resnet8", "epochs": 20, "batch_size": 64, "label_smoothing": 0.1},
    "mnist": {"augment": "crop"},
}
_BY_MODEL = {"capsnet": {"optimizer": "adam", "loss": "margin", "label_smoothing": 0.0}}  # its outputs are lengths
_BY_OPTIMIZER = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "adam": {"lr": 2e-3, "momentum": None, "weight_decay": 0.0},
    "adamw": {"lr": 2e-3, "momentum": None, "weight_decay": 0.05},
    "rmsprop": {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0},
    "muon": {"lr": 5e-3, "momentum": None, "weight_decay": 0.05},
}
# With --finetune: what was learned is to be bent, not broken.
_FINETUNE = {
    "sgd": {"lr": 0.01, "weight_decay": 1e-4}, "adam": {"lr": 2e-4}, "adamw": {"lr": 2e-4}, "rmsprop": {"lr": 1e-4},
    "muon": {"lr": 5e-4},
}  # fmt: skip
_RECIPE_NAMES = (*_BASE, "lr", "momentum", "weight_decay", "layer_decay", "freeze_until", "unfreeze_at")
_DATA_NAMES = (
    "data", "root", "no_download", "image_size", "val_fraction", "skip_damaged", "cache", "limit", "init", "finetune",
)  # fmt: skip


def config_words(path, options):
    """A TOML file (or a run's config.json) as words of the command line, so that argparse checks what it says.

    options: {name: argparse action}. Tables are for order only: [data] root = "x" is the same as root = "x".
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--config: {error}") from error
    try:
        values = json.loads(text) if path.suffix == ".json" else _toml(text)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    words = []
    for name, value in _flat(values):
        key = name.replace("-", "_")
        if key not in options:
            import difflib

            near = difflib.get_close_matches(key, options, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise UsageError(f"{path}: unknown option {name!r}{hint}")
        action = options[key]
        flag = action.option_strings[-1]
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"{path}: expected true or false for {name}, got {value!r}")
            words += [flag] if value else []
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            words.append(f"{flag}={value}")
        elif value is not None:
            raise UsageError(f"{path}: expected a text or a number for {name}, got {value!r}")
    return words


def _flat(values):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value


def _toml(text):
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(text)


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
    for name in ("init", "finetune"):
        if name in args.given and getattr(args, name) != saved.get(name):
            raise UsageError(f"--resume goes on with the weights of {run}; --{name} begins with others")
    return run


def _fill_recipe(args):
    recipe = {**_BASE, **_BY_DATA.get(args.data, {})}
    recipe.update(_BY_MODEL.get(args.model, {}))
    if args.loss not in (None, "cross_entropy"):
        recipe["label_smoothing"] = 0.0
    optimizer = args.optimizer or recipe["optimizer"]
    recipe.update(_BY_OPTIMIZER.get(optimizer, {}))
    if args.finetune:
        recipe.update(_FINETUNE.get(optimizer, {}))
    for name in _RECIPE_NAMES:
        if getattr(args, name, None) is None:
            setattr(args, name, recipe.get(name))


def _weights(args):
    """(path of the weights to start from, or None; options that their model was built with); they may tell --model."""
    if args.init and args.finetune:
        raise UsageError("--init and --finetune both name weights; --finetune has lower rates and may freeze layers")
    for name in ("freeze_until", "layer_decay", "unfreeze_at"):
        if getattr(args, name) is not None and not args.finetune:
            raise UsageError(f"--{name.replace('_', '-')} goes with --finetune")
    path = args.finetune or args.init
    if path is None:
        return None, {}
    path, about = Path(path), {}
    if path.is_dir():
        path = path / "best.safetensors"
    if path.suffix == ".safetensors":
        from .checkpoints import load_checkpoint

        about = load_checkpoint(path).metadata
    args.model = args.model or about.get("model")
    if args.model is None:
        raise UsageError(f"{path}: does not say which model it is of; pass --model")
    return path, about.get("options", {}) if about.get("model") == args.model else {}


def _model(args, about, weights, options):
    from .models import create_model
    from .models.registry import size_options

    model = _usage(
        create_model, args.model, num_classes=about["num_classes"], in_channels=about["in_channels"],
        pretrained=weights or False, **{**options, **_usage(size_options, args.model, about["image_size"])},
    )  # fmt: skip
    if weights:
        print(model.pretrained_report, file=sys.stderr)
    return model


def model_options(model):
    """Options that the weights of another library called for; a checkpoint has to name them."""
    return dict(getattr(model, "pretrained_options", {}))


_ELSEWHERE = {
    "segmentation": "gives a class for each pixel: fc.Trainer takes it, see examples/segmentation_garments.py",
    "detection": "gives boxes: fc.Trainer takes it with training_step=, see examples/detection_garments.py",
    "video": "takes clips (N, channels, frames, H, W): fc.Trainer takes it",
    "gan": "is a pair of nets: fastcnn gan train takes it",
}


def _check_task(name):
    """Raises UsageError for models that do not classify images."""
    from .models.registry import task_of

    task = _usage(task_of, name)
    if task in _ELSEWHERE:
        raise UsageError(f"--model: expected a classifier, got {name}, which {_ELSEWHERE[task]}")


def _callbacks(args, model, run):
    from .callbacks import CutMix, EarlyStopping, FreezeBackbone, Mixup, TensorBoard

    callbacks = []
    if run is not None:
        options = {name: getattr(args, name) for name in (*_RECIPE_NAMES, *_DATA_NAMES)}
        callbacks = [OptionsFile(run / "config.json", options), TensorBoard()]
    if args.mixup:
        callbacks.append(Mixup(args.mixup))
    if args.cutmix:
        callbacks.append(CutMix(args.cutmix))
    if args.patience is not None:
        callbacks.append(EarlyStopping("val_accuracy", patience=args.patience))
    if args.freeze_until is not None or args.unfreeze_at is not None:
        freeze = FreezeBackbone(args.unfreeze_at, freeze_until=args.freeze_until)
        _usage(freeze.check, model)
        callbacks.append(freeze)
    return callbacks


def _finish(args, run, trainer, history, seconds):
    """Tells the result, and writes the report of the run."""
    best, epoch = trainer.best_score, trainer.best_epoch + 1
    result = {
        "run": str(run), "accuracy": history["val_accuracy"][-1], "loss": history["val_loss"][-1], "best": best,
        "best_epoch": epoch, "epochs": len(history), "seconds": seconds, "report": None,
    }  # fmt: skip
    if not args.no_report:
        from .report import missing_parts, write_report

        missing = missing_parts()
        if missing:
            print(f"no report: {missing}", file=sys.stderr)
        else:
            result["report"] = str(write_report(run, root=args.root, download=False, limit=args.limit))
    if args.json:
        print(json.dumps(result))
        return
    where = run if result["report"] is None else result["report"]
    score = f"test accuracy {100 * result['accuracy']:.2f} %, best {100 * best:.2f} % in epoch {epoch}"
    print(f"{score}; {seconds:.1f} s; {where}")


def _make_trainer(args, model, about, data, run):
    from .trainer import Trainer

    return _usage(
        Trainer, model, args.optimizer, args.lr, loss=args.loss, metrics=("accuracy",), device=args.device,
        accumulate_grad_batches=args.accumulate, gradient_clip_val=args.clip, ema_decay=args.ema_decay,
        callbacks=_callbacks(args, model, run), layer_decay=args.layer_decay, compile=not args.no_compile,
        seed=args.seed, log_dir=run, precision=args.precision, weight_decay=args.weight_decay, momentum=args.momentum,
        scheduler=None if args.scheduler == "none" else args.scheduler, label_smoothing=args.label_smoothing,
        batch_size=args.batch_size // distributed.world_size(), num_workers=args.workers,
        transform=augmentation(args.augment, data.image_size),
        checkpoint_every_seconds=args.checkpoint_every, progress=not (args.quiet or args.json),
        warmup_steps=args.warmup_steps, fast_dev_run=args.fast_dev_run, overfit_batches=args.overfit_batches or 0,
        metadata={"model": args.model, "data": args.data, "options": model_options(model), "loss": args.loss,
                  "val_fraction": args.val_fraction, **about},
    )  # fmt: skip


def _find_rate(args, trainer, data):
    """fastcnn train --lr-find."""
    found = trainer.lr_find(data)
    if distributed.rank() > 0:
        return 0
    rate = found.suggestion()
    found.plot(args.lr_find)
    if args.json:
        print(json.dumps({"lr": rate, "picture": args.lr_find, "lrs": found.lrs, "losses": found.losses}))
    else:
        told = "the loss never falls" if rate is None else f"--lr {rate:.2g} (where the loss falls fastest)"
        print(f"{told}; {args.lr_find}")
    return 0


def _tried(args, history, seconds):
    """The result of --fast-dev-run and --overfit-batches."""
    row = {k: v[-1] for k, v in history.items() if k in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    if args.json:
        print(json.dumps({"run": None, "epochs": len(history), "seconds": seconds, **row}))
    else:
        print(", ".join(f"{k} {v:.4f}" for k, v in row.items()) + f"; {seconds:.1f} s; nothing was written")


def train(args):
    """fastcnn train: returns the exit code."""
    from .optim import get_optimizer

    trying = args.fast_dev_run or args.overfit_batches is not None or args.lr_find is not None
    if args.resume and args.name is not None:
        raise UsageError("--resume goes on in the folder of its run; --name is for a new one")
    if trying and args.resume:
        raise UsageError("--resume goes on with a run; --fast-dev-run, --overfit-batches and --lr-find begin none")
    run = _resumed(args) if args.resume else None
    weights, options = _weights(args)
    _fill_recipe(args)
    _check_task(args.model)
    _usage(get_optimizer, args.optimizer)
    if args.warmup_steps and args.scheduler in ("onecycle", "plateau"):
        raise UsageError(f"--warmup-steps goes with --scheduler cosine, step or none, got {args.scheduler}")
    if distributed.launched():
        distributed.init()
    processes = distributed.world_size()
    if args.batch_size % processes:
        raise UsageError(f"--batch-size: expected a multiple of the {processes} processes, got {args.batch_size}")
    if distributed.rank() > 0:
        args.quiet = True
    _start(args)
    data = _load_data(args, "train")
    test = _load_data(args, _test_split(args.data), data.classes)
    if data.num_classes is None:
        raise UsageError(f"{args.data}: has no classes to learn")
    if data.num_classes < 2:
        raise UsageError(f"{args.data}: expected at least two classes to tell apart, got {data.num_classes}")
    _core.ops.manual_seed(args.seed)
    about = _describe(data)
    model = _model(args, about, weights, options)
    if not trying and distributed.rank() == 0:
        run = run or _run_folder(args)
    trainer = _make_trainer(args, model, about, data, run)
    if args.lr_find is not None:
        return _find_rate(args, trainer, data)
    if not (args.quiet or args.json):
        count = sum(p.numel() for p in model.parameters())
        print(
            f"{args.model} ({count:,} parameters) on {args.data}: {len(data):,} training and {len(test):,} test "
            f"images, {_core.isa()}, {_core.get_num_threads()} threads"
            + (f" in each of {processes} processes" if processes > 1 else "")
            + f"; {f'run in {run}' if run else 'no files'}",
            file=sys.stderr,
        )
    began = time.perf_counter()
    history = trainer.fit(data, test, max_epochs=args.epochs, resume=resume_from(args))
    if history.interrupted:
        if run is not None:
            print(f"go on with: fastcnn train --resume {run}", file=sys.stderr)
        return 130
    if distributed.rank() > 0:
        return 0
    if trying:
        _tried(args, history, time.perf_counter() - began)
        return 0
    if not history:
        raise ValueError(f"{run}: nothing left to train, it has {args.epochs} epochs already")
    _finish(args, run, trainer, history, time.perf_counter() - began)
    return 0
