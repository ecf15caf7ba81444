"""The command fastcnn: its options, its exit codes, and errors as one line. The work is in _commands.py.

Only argparse is imported here, so that --help and completion are instant.
Exit codes: 0 done, 1 failed, 2 wrong usage (options, unknown names), 3 training diverged (a loss of NaN or infinity),
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ._gan_commands import add_gan_parser

_EPILOG = """examples:
  fastcnn train                                   a small ResNet on fashion_mini, in a minute or two
  fastcnn train --model resnet20 --data fashion_mnist --epochs 10
  fastcnn train --config run.toml --lr 0.05       options of a file; the command line wins
  fastcnn train --resume runs/NAME                go on where a run stopped
  fastcnn train --data imagefolder:PATH --image-size 224 --model efficientnet_lite0 --finetune weights.pth \\
      --freeze-until blocks.4 --unfreeze-at 2 --layer-decay 0.8
  fastcnn evaluate --checkpoint runs/NAME
  fastcnn predict --checkpoint runs/NAME a.png folder/
  fastcnn report runs/NAME                        runs/NAME/index.html
  fastcnn summary --model resnet50 --input 3 224 224
  fastcnn gan train                               a DCGAN on fashion_mini; then: fastcnn gan sample --checkpoint RUN

exit codes: 0 done, 1 failed, 2 wrong usage, 3 training diverged, 130 Ctrl-C, 143 SIGTERM
"""


LOSSES = ("cross_entropy", "focal", "margin")
AUGMENT = ("crop-flip", "crop", "flip", "resized-crop", "trivial", "rand", "none")


class UsageError(Exception):
    """What the user asked for cannot be: exit code 2."""


def _number(kind, low, what):
    """A type of argparse: an int or float of at least `low`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= low:
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return parse


_count = _number(int, 1, "an int of at least 1")
_natural = _number(int, 0, "an int of at least 0")
_nonnegative = _number(float, 0, "a number of at least 0")


def _share(text):
    value = _nonnegative(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value


def _data_options(parser, default=None):
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", default=default, metavar="NAME",
        help="fashion_mini, fashion_mnist, mnist, cifar10, cifar100, imagefolder:PATH or arrays:FILE of .npz"
        + _default(default),
    )  # fmt: skip
    group.add_argument("--root", metavar="DIR", help="folder with the files of the dataset, or to download to")
    group.add_argument("--no-download", action="store_true", help="fail if files are missing")
    group.add_argument("--image-size", type=_count, metavar="N", help="size of imagefolder images (default: 32)")
    group.add_argument(
        "--val-fraction", type=_share, metavar="F", help="part of the training images that validates, for folders "
        "without val/; the same images each time",
    )  # fmt: skip
    group.add_argument("--limit", type=_count, metavar="N", help="use the first N images of each split only")
    return group


def _default(value):
    return f" (default: {value})" if value is not None else ""


def _machine_options(parser):
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu or cuda")
    group.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: all that are allowed)")
    group.add_argument("--no-compile", action="store_true", help="run op by op instead of compiled steps")


def _train_parser(commands):
    parser = commands.add_parser(
        "train", help="train a model", description="Trains a model and writes runs/NAME/: best.safetensors, "
        "last.safetensors, metrics.csv, curves.png, config.json, index.html (a report). Without options: a small "
        "ResNet on fashion_mini.",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="a name of fastcnn.models (default: resnet8)")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with these options, batch_size = 64 ...; the command line wins"
    )
    data = _data_options(parser, "fashion_mini")
    data.add_argument("--skip-damaged", action="store_true", help="leave out, with a warning, what cannot be read")
    data.add_argument("--cache", choices=("bytes", "decoded"), help="keep files or pixels in memory, up to 1 GiB")
    group = parser.add_argument_group("training (defaults depend on model and data)")
    group.add_argument("--epochs", type=_count, metavar="N")
    group.add_argument("--batch-size", type=_count, metavar="N")
    group.add_argument("--lr", type=_nonnegative, metavar="RATE", help="learning rate, at its peak")
    group.add_argument("--optimizer", metavar="NAME", help="sgd (default, with momentum), adam, adamw, lion, muon ...")
    group.add_argument("--momentum", type=_nonnegative, metavar="M")
    group.add_argument("--weight-decay", type=_nonnegative, metavar="W")
    group.add_argument("--scheduler", choices=("onecycle", "cosine", "step", "plateau", "none"))
    group.add_argument(
        "--warmup-steps", type=_natural, metavar="N", help="steps in which the rate rises, before cosine, step or none"
    )
    group.add_argument("--loss", choices=LOSSES, help="default: cross_entropy; margin, of Sabour 2017, for capsnet")
    group.add_argument("--label-smoothing", type=_nonnegative, metavar="E", help="of cross_entropy")
    group.add_argument(
        "--augment", choices=AUGMENT, help="resized-crop flips too; trivial and rand: crop, flip and a policy of moves "
        "and colours",
    )  # fmt: skip
    group.add_argument("--mixup", type=_nonnegative, metavar="A", help="blend images and labels, e.g. 0.2")
    group.add_argument("--cutmix", type=_nonnegative, metavar="A", help="paste parts of others in half the batches")
    group.add_argument("--ema-decay", type=_nonnegative, metavar="D", help="average the weights, e.g. 0.999")
    group.add_argument("--clip", type=_nonnegative, metavar="NORM", help="largest norm of the gradients")
    group.add_argument("--precision", choices=("32-true", "bf16-mixed", "16-mixed"),
                       help="bf16-mixed, 16-mixed: forward in bfloat16, float16")
    group.add_argument("--accumulate", type=_count, metavar="N", help="batches per optimizer step")
    group.add_argument("--patience", type=_count, metavar="N", help="stop after N epochs without improvement")
    group.add_argument("--seed", type=int)
    group.add_argument("--workers", type=_natural, metavar="N", help="threads that prepare batches")
    group = parser.add_argument_group("run")
    group.add_argument("--out", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    group.add_argument("--name", help="name of the run (default: model, data and time)")
    group.add_argument(
        "--resume", metavar="RUN", help="folder of a run to go on with, with its own options, or a checkpoint in it; "
        "'last': the newest run",
    )
    group.add_argument("--init", metavar="FILE", help="start from these weights (.safetensors, .pt or .pth)")
    group.add_argument("--no-report", action="store_true", help="write no index.html")
    group.add_argument("--json", action="store_true", help="no progress; print the result as JSON")
    group.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help=argparse.SUPPRESS)
    group.add_argument("--quiet", action="store_true", help="no progress, only the result")
    group = parser.add_argument_group("trying out, without a run's folder")
    tries = group.add_mutually_exclusive_group()
    tries.add_argument("--fast-dev-run", action="store_true", help="one batch of training, one of test: does all run?")
    tries.add_argument(
        "--overfit-batches", type=_count, metavar="N", help="train and measure on the first N batches alone: can the "
        "model learn at all?",
    )  # fmt: skip
    tries.add_argument(
        "--lr-find", metavar="PICTURE", help="train 100 steps with a growing rate, draw the losses and suggest a rate"
    )
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--finetune", metavar="FILE", help="start from these weights with a lower rate; the last layer is drawn anew "
        "for other classes",
    )  # fmt: skip
    group.add_argument("--freeze-until", metavar="LAYER", help="layers before this one do not train, e.g. layer3")
    group.add_argument(
        "--unfreeze-at", type=_natural, metavar="N", help="epoch (from 0) from which all layers train; without "
        "--freeze-until the last layer alone trains before",
    )  # fmt: skip
    group.add_argument(
        "--layer-decay", type=_nonnegative, metavar="X", help="rate of a layer, as a share of the next one's, e.g. 0.8"
    )
    _machine_options(parser)
    return parser


def _checkpoint_options(parser):
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="a .safetensors file, or the folder of a run (its best)"
    )
    parser.add_argument("--model", metavar="NAME", help="for files that do not say which model they are of")
    parser.add_argument("--batch-size", type=_count, default=256, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON")


def bench_options(parser):
    """The options of fastcnn bench."""
    sections = "peak, layers, nets (default: these), ops, memory, augment, loader, threads"
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=sections)
    parser.add_argument(
        "--filter", action="append", default=[], metavar="TEXT",
        help="only layers and nets whose name holds TEXT ('train+resnet18': both parts); may be repeated",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few layers and nets, in less than a minute")
    parser.add_argument("--no-torch", action="store_true", help="fastcnn alone, even if PyTorch is installed")
    parser.add_argument("--compile", action="store_true", help="torch.compile is one of PyTorch's modes")
    parser.add_argument("--bf16", action="store_true", help="training with bfloat16 autocast too")
    parser.add_argument("--pairs", type=_count, metavar="N", help="pairs per row (12), or runs of --profile (5)")
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: all that are allowed)")
    parser.add_argument("--profile", metavar="MODEL", help="instead: where the time of a model's training step goes")
    parser.add_argument("--infer", action="store_true", help="with --profile: of its inference")
    parser.add_argument("--batch", type=_count, metavar="N", help="with --profile: images per step")
    parser.add_argument("--all-steps", action="store_true", help="with --profile: every step, not the longest 25")
    parser.add_argument("--trace", metavar="FILE", help="with --profile: where the Chrome trace goes")
    parser.add_argument("--shapes", metavar="FILE", help="other convolution layers, JSON as fastcnn/bench/conv2d.json")
    parser.add_argument("--json", metavar="FILE", help="write the result; other rows of an existing file stay")


def make_parser():
    """The argparse parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="fastcnn", description="Trains and applies convolutional networks.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--cmake-dir", action="store_true", help="print the folder with fastcnn-config.cmake")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    all_parsers = [_train_parser(commands)]

    evaluate = commands.add_parser("evaluate", help="loss and accuracy of a checkpoint")
    _checkpoint_options(evaluate)
    _data_options(evaluate)
    evaluate.add_argument("--split", default=None, help="default: test (imagefolder: val)")
    _machine_options(evaluate)

    predict = commands.add_parser("predict", help="classify pictures")
    predict.add_argument(
        "files", nargs="+", metavar="FILE", help=".png .jpg ..., .npy, IDX (also .gz, .xz), or a folder of pictures"
    )
    _checkpoint_options(predict)
    predict.add_argument("--top", type=_count, default=5, metavar="K", help="classes to name (default: 5)")
    predict.add_argument("--limit", type=_count, metavar="N", help="the first N pictures of each file")
    _machine_options(predict)

    export = commands.add_parser("export", help="a checkpoint as a .fcnn file for C++ and C, or as ONNX")
    export.add_argument("--checkpoint", required=True, metavar="FILE", help="a .safetensors file, or a run's folder")
    export.add_argument("--model", metavar="NAME", help="for files that do not say which model they are of")
    export.add_argument("--image-size", type=_count, nargs=2, metavar=("H", "W"), help="default: what the file says")
    export.add_argument("--out", metavar="FILE", help="default: beside the checkpoint")
    export.add_argument("--format", choices=("fcnn", "onnx"), help="default: by the name of --out, else fcnn")

    summary = commands.add_parser("summary", help="layers, parameters and cost of a model")
    summary.add_argument("--model", required=True, metavar="NAME")
    summary.add_argument("--input", type=_count, nargs="+", metavar="N", help="C H W, or C frames H W of clips")
    summary.add_argument("--num-classes", type=_count, default=None, metavar="N")
    summary.add_argument("--json", action="store_true", help="print JSON")

    data = commands.add_parser("data", help="what is in a dataset", description="Names the datasets, or describes one.")
    _data_options(data)
    data.add_argument("--split", metavar="NAME", help="default: train and test; several with commas")
    data.add_argument("--preview", metavar="FILE", help="draw some images into this file")
    data.add_argument("--augment", choices=AUGMENT[:-1], help="the preview shows what this makes of the first image")
    data.add_argument("--json", action="store_true", help="print JSON")

    report = commands.add_parser(
        "report", help="index.html of a run", description="Writes one self-contained page about a run of fastcnn "
        "train: curves, confusion matrix, worst mistakes, Grad-CAM, options, versions.",
    )  # fmt: skip
    report.add_argument("run", metavar="RUN", help="folder of the run")
    report.add_argument("--output", metavar="FILE", help="default: RUN/index.html")
    report.add_argument("--root", metavar="DIR", help="folder with the files of the dataset")
    report.add_argument("--no-download", action="store_true", help="fail if files are missing")
    report.add_argument("--limit", type=_count, metavar="N", help="look at the first N test images only")
    report.add_argument("--json", action="store_true", help="print JSON")
    _machine_options(report)

    bench = commands.add_parser(
        "bench", help="limits of this machine, speed of layers and nets, also against PyTorch",
        description="Measures what this machine can do and how fast fastcnn's layers and nets run on it; where PyTorch "
        "is installed in interleaved pairs with it.",
    )  # fmt: skip
    bench_options(bench)

    add_gan_parser(commands, _data_options, _machine_options, _count, _nonnegative)
    info = commands.add_parser("info", help="version, instruction set, threads, devices")
    info.add_argument("--json", action="store_true", help="print JSON")
    for p in [*all_parsers, evaluate, predict, export, summary, data, report, bench, info]:
        p.add_argument("--debug", action="store_true", help="show the traceback of errors")
    return parser


def _cmake_dir():
    path = Path(__file__).resolve().parent / "lib" / "cmake" / "fastcnn"
    if not (path / "fastcnn-config.cmake").is_file():
        print(f"fastcnn: error: no fastcnn-config.cmake in {path}; reinstall the package", file=sys.stderr)
        return 1
    print(path)
    return 0


def main(argv=None):
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that a terminal cannot show are no reason to fail
    try:
        parser = make_parser()
        argv = sys.argv[1:] if argv is None else list(argv)
        args = parser.parse_args(argv)
    except KeyboardInterrupt:
        print("fastcnn: interrupted", file=sys.stderr)
        return 130
    if args.cmake_dir:
        return _cmake_dir()
    if args.version:
        from . import _core

        print(f"fastcnn {_core.version()}")
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    try:
        from . import _commands

        if getattr(args, "config", None) is not None:
            argv = _with_config(parser, args, argv)
            args = parser.parse_args(argv)
        args.given = _given(argv, _options(parser, args))
        return getattr(_commands, args.command)(args)
    except UsageError as error:
        return _fail(args, error, 2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing to say, nobody to say it to
        return 1
    except KeyboardInterrupt:
        print("fastcnn: interrupted", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        return _fail(args, error, 3)
    except Exception as error:  # noqa: BLE001 - every error becomes one line
        return _fail(args, error, 1)


def _with_config(parser, args, argv):
    """The command line with the options of --config before the user's own, which win as the later ones."""
    from ._train_command import config_words

    options = {a.dest: a for a in _options(parser, args)}
    for name in ("help", "config", "debug"):
        options.pop(name)
    at = argv.index(args.command) + 1
    return [*argv[:at], *config_words(args.config, options), *argv[at:]]


def _options(parser, args):
    """The options of the command that was given, as argparse holds them."""
    for name in (args.command, getattr(args, "action", None)):  # gan has commands of its own
        commands = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        parser = parser if commands is None else commands.choices[name]
    return [a for a in parser._actions if a.option_strings]


def _given(argv, options):
    """Names of the options that stand on the command line or in its config, as opposed to defaults."""
    flags = {flag: a.dest for a in options for flag in a.option_strings}
    words = {w.split("=", 1)[0] for w in argv if w.startswith("--") and w != "--"}
    whole = {flags[w] for w in words if w in flags}
    # argparse has seen to it that what is cut short fits one option.
    return whole | {dest for w in words - flags.keys() for flag, dest in flags.items() if flag.startswith(w)}


def _fail(args, error, code):
    if args.debug:
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (MemoryError, ImportError, FloatingPointError)) or code == 2:
        pass
    elif not isinstance(error, (ValueError, OSError, TypeError, IndexError, RuntimeError)):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    print(f"fastcnn: error: {text}", file=sys.stderr)
    if "fastcnn.distributed" in sys.modules:  # others of a job would wait for this process
        sys.modules["fastcnn.distributed"].abort(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
