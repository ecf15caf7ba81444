"""python -m bench: what `fastcnn bench` measures, and in addition named results in bench/results/ and plots from them.

    python -m bench [SECTION...] [options of fastcnn bench] [--save NAME]
    python -m bench plot NAME          docs/performance-*.svg of a saved result
    python -m bench table NAME         its tables in Markdown
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fastcnn.bench import command, report
from fastcnn.cli import bench_options

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def commit():
    """The commit that is measured, with + where the tree differs from it."""
    try:
        git = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _saved(name):
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RESULTS.glob("*.json"))) or "none"
        raise SystemExit(f"bench: no result {name!r} in {RESULTS}; there are: {known}")
    return report.load(path)


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["plot"], ["table"]):
        parser = argparse.ArgumentParser(prog=f"python -m bench {argv[0]}")
        parser.add_argument("name", help="a result in bench/results/")
        result = _saved(parser.parse_args(argv[1:]).name)
        if argv[0] == "table":
            print(report.text(result, markdown=True))
        else:
            from . import plots

            for path in plots.draw(result, HERE.parent / "docs"):
                print(path)
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench_options(parser)
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json (adds to an existing one)")
    args = parser.parse_args(argv)
    if args.save:
        args.json = str(RESULTS / f"{args.save}.json")
    try:
        command.run(args, {"commit": commit()})
    except (ValueError, RuntimeError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
