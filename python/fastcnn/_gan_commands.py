"""fastcnn gan train, fastcnn gan sample: options, and what they do. Options need argparse alone: --help is instant."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

# What a run uses where the command line is silent; rates and betas are GANTrainer's by loss.
_RECIPES = {
    "dcgan": {"loss": "bce", "n_critic": 1},
    "cgan": {"loss": "bce", "n_critic": 1},
    "lsgan": {"loss": "lsgan", "n_critic": 1},
    "wgan_gp": {"loss": "wgan-gp", "n_critic": 5},
    "sngan": {"loss": "hinge", "n_critic": 1},
    "resnet_gan": {"loss": "hinge", "n_critic": 5},
}
_KEPT = (
    "model", "data", "root", "no_download", "image_size", "limit", "epochs", "batch_size", "lr", "d_lr", "loss",
    "n_critic", "width", "latent_dim", "size", "label_smoothing", "instance_noise", "noise_steps", "r1", "r1_every",
    "gp_weight", "ema_decay", "seed", "workers", "precision", "judge",
)  # fmt: skip

_NEWER = ("d_lr", "noise_steps", "r1_every", "gp_weight")  # runs of before lack them


def add_gan_parser(commands, data_options, machine_options, count, nonnegative):
    """Adds the command gan to the subparsers of the command line, with options that other commands have too."""
    gan = commands.add_parser("gan", help="train a generator against a discriminator; draw samples")
    actions = gan.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser(
        "train", help="train a pair", description="Trains a generator and a discriminator and writes runs/NAME/: "
        "samples/epoch-*.png, metrics.csv, curves.png, last.safetensors, config.json.",
    )  # fmt: skip
    train.add_argument("--model", default="dcgan", metavar="NAME", help=f"{', '.join(_RECIPES)} (default: dcgan)")
    data_options(train, "fashion_mini")
    group = train.add_argument_group("training (defaults depend on the model)")
    group.add_argument("--epochs", type=count, default=20, metavar="N", help="default: 20")
    group.add_argument("--batch-size", type=count, default=64, metavar="N", help="default: 64")
    group.add_argument("--lr", type=nonnegative, metavar="RATE", help="of both nets' Adam")
    group.add_argument("--d-lr", type=nonnegative, metavar="RATE", help="of the discriminator's (default: --lr)")
    group.add_argument("--loss", choices=("bce", "lsgan", "hinge", "wgan-gp"))
    group.add_argument("--n-critic", type=count, metavar="N", help="discriminator steps per generator step")
    group.add_argument("--width", type=count, default=32, metavar="N", help="channels of the widest maps (default: 32)")
    group.add_argument("--latent-dim", type=count, metavar="N", help="numbers that an image is made of")
    group.add_argument("--size", type=count, metavar="N", help="side of generated images (default: that of the data)")
    group.add_argument("--label-smoothing", type=nonnegative, default=0.0, metavar="E")
    group.add_argument("--instance-noise", type=nonnegative, default=0.0, metavar="STD")
    group.add_argument("--noise-steps", type=count, default=10_000, metavar="N", help="steps until it is 0 (10000)")
    group.add_argument("--gp-weight", type=nonnegative, metavar="W", help="of the gradient penalty (wgan-gp: 10)")
    group.add_argument("--r1", type=nonnegative, default=0.0, metavar="GAMMA", help="weight of the R1 penalty")
    group.add_argument("--r1-every", type=count, default=1, metavar="N", help="steps between R1 penalties (default: 1)")
    group.add_argument("--ema-decay", type=nonnegative, default=0.999, metavar="D", help="0: no average")
    group.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    group.add_argument("--judge", metavar="FILE", help="checkpoint of a classifier of this data: FID, mode coverage")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--workers", type=int, default=1, metavar="N", help="threads that prepare batches")
    group = train.add_argument_group("run")
    group.add_argument("--out", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    group.add_argument("--name", help="name of the run (default: model, data and time)")
    group.add_argument("--resume", metavar="RUN", help="folder of a run to go on with, with its own options")
    group.add_argument("--quiet", action="store_true", help="no progress, only the result")
    machine_options(train)

    sample = actions.add_parser("sample", help="draw images of a trained generator")
    sample.add_argument("--checkpoint", required=True, metavar="FILE", help="last.safetensors, or the folder of a run")
    sample.add_argument("--count", type=count, default=64, metavar="N", help="images (default: 64)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--labels", type=int, nargs="+", metavar="ID", help="classes, repeated as needed (cgan)")
    sample.add_argument("--interpolate", action="store_true", help="rows of ten, or --count, between two points each")
    sample.add_argument(
        "--out", default="samples.png", metavar="FILE", help=".png: one picture; .npy: float32 (N, C, H, W) in [0, 1]"
    )
    machine_options(sample)
    for p in (train, sample):
        p.add_argument("--debug", action="store_true", help="show the traceback of errors")


def run(args):
    """fastcnn gan: returns the exit code."""
    from ._commands import _start

    _start(args)
    return _train(args) if args.action == "train" else _sample(args)


def _model(about):
    """The pair that a run's metadata describe."""
    from .models import create_model

    options = {k: about[k] for k in ("image_size", "width", "latent_dim") if about.get(k) is not None}
    return create_model(about["model"], num_classes=about["num_classes"], in_channels=about["in_channels"], **options)


def _resumed(args):
    from .cli import UsageError

    run = Path(args.resume)
    run = run.parent if run.is_file() else run
    config = run / "gan.json"
    if not config.is_file():
        raise UsageError(f"--resume: no {config}; expected the folder of a run of fastcnn gan train")
    try:
        saved = json.loads(config.read_text(encoding="utf-8"))
        for name in _KEPT:
            if name not in args.given and (name in saved or name not in _NEWER):
                setattr(args, name, saved[name])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{config}: damaged: {error!r}") from error
    return run


def _judge(path, data):
    """(features, logits), functions of images in [0, 1], of a checkpoint of fastcnn train."""
    import argparse

    import numpy as np

    from . import _core
    from ._commands import _read_model
    from ._compile import compile as compile_function
    from ._modes import no_grad
    from .cli import UsageError
    from .models import create_model
    from .models.registry import size_options

    model, about, path = _read_model(argparse.Namespace(checkpoint=path, model=None))
    if about["num_classes"] != data.num_classes or about["in_channels"] != data.in_channels:
        raise UsageError(f"--judge: {path} is for other data: {about['num_classes']} classes")
    options = size_options(about["model"], about["image_size"]) if about.get("image_size") else {}
    headless = create_model(about["model"], num_classes=0, in_channels=about["in_channels"], **options)
    own = headless.state_dict()
    headless.load_state_dict({k: t for k, t in model.state_dict().items() if k in own})
    mean, std = (np.reshape(about.get(k) or v, (1, -1, 1, 1)) for k, v in (("mean", 0.0), ("std", 1.0)))

    def function(net):
        plan = compile_function(net.eval())

        def call(images):
            with no_grad():
                return np.array(plan(_core.tensor(((images - mean) / std).astype(np.float32))).numpy())

        return call

    return function(headless), function(model)


def _train(args):
    from . import _core
    from ._commands import OptionsFile, _load_data, _run_folder, _usage, resume_from
    from .cli import UsageError
    from .gan import GANTrainer

    run = _resumed(args) if args.resume else None
    if args.model not in _RECIPES:
        raise UsageError(f"--model: expected one of {', '.join(_RECIPES)}, got {args.model!r}")
    for name, value in _RECIPES[args.model].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    data = _load_data(args, "train")
    about = {
        "model": args.model, "data": args.data, "num_classes": int(data.num_classes or 0),
        "in_channels": int(data.in_channels), "image_size": args.size or int(data.image_size[0]), "width": args.width,
        "latent_dim": args.latent_dim, "classes": data.classes,
    }  # fmt: skip
    features = logits = None
    if args.judge:
        if about["image_size"] != data.image_size[0]:
            raise UsageError("--judge: generated images must have the size of the data, without --size")
        features, logits = _judge(args.judge, data)
    _core.ops.manual_seed(args.seed)
    pair = _usage(_model, about)
    run = run or _run_folder(args)
    trainer = _usage(
        GANTrainer, *pair, args.loss, args.n_critic, lr=args.lr, d_lr=args.d_lr, gp_weight=args.gp_weight,
        r1_gamma=args.r1, r1_every=args.r1_every, batch_size=args.batch_size, label_smoothing=args.label_smoothing,
        instance_noise=args.instance_noise, noise_steps=args.noise_steps, ema_decay=args.ema_decay or None,
        fid=features, classifier=logits, precision=args.precision, device=args.device, compile=not args.no_compile,
        seed=args.seed, log_dir=run, num_workers=args.workers, progress=not args.quiet, metadata=about,
        callbacks=[OptionsFile(run / "gan.json", {name: getattr(args, name) for name in _KEPT})],
    )  # fmt: skip
    if not args.quiet:
        sizes = " + ".join(f"{sum(p.numel() for p in net.parameters()):,}" for net in pair)
        print(f"{args.model} ({sizes} parameters) on {args.data}: {len(data):,} images; run in {run}", file=sys.stderr)
    began = time.perf_counter()
    history = trainer.fit(data, max_epochs=args.epochs, resume=resume_from(args))
    if history.interrupted:
        print(f"go on with: fastcnn gan train --resume {run}", file=sys.stderr)
        return 130
    last = {k: history[k][-1] for k in ("d_loss", "g_loss", "fid", "confidence", "modes") if k in history}
    shown = [f"{k} {v:.4g}" for k, v in last.items() if v is not None]  # an epoch below n_critic steps has no g_loss
    print(f"{', '.join(shown)}; {time.perf_counter() - began:.1f} s; {run}")
    return 0


def _sample(args):
    import numpy as np

    from ._files import atomic_write
    from .checkpoints import load_checkpoint
    from .cli import UsageError
    from .gan import GANTrainer
    from .viz import image_grid

    path, out = Path(args.checkpoint), Path(args.out)
    path = path / "last.safetensors" if path.is_dir() else path
    about = load_checkpoint(path).metadata
    if about.get("model") not in _RECIPES:
        raise UsageError(f"{path}: not of a run of fastcnn gan train")
    if out.suffix not in (".png", ".npy"):
        raise UsageError(f"--out: expected a name that ends in .png or .npy, got {args.out}")
    trainer = GANTrainer(
        *_model(about), ema_decay=None, device=args.device, compile=not args.no_compile, progress=False
    )
    trainer.load(path)
    if args.interpolate and args.count < 2:
        raise UsageError("--interpolate walks between two points: --count of at least 2")
    rows, columns = max(1, args.count // 10), min(10, args.count)
    labels = args.labels
    if labels is not None:
        labels = np.resize(labels, rows if args.interpolate else args.count)
    if args.interpolate:
        images = trainer.interpolate(rows, columns, args.seed, labels)
    else:
        images = trainer.sample(args.count, args.seed, labels)
    if out.suffix == ".npy":
        with atomic_write(out) as file:
            np.save(file, images)
    else:
        image_grid(images, columns=columns if args.interpolate else None, limit=len(images), path=out)
    print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]}x{images.shape[3]}: {out}")
    return 0
