"""The smoke set for a wheel that was just installed, run by cibuildwheel (pyproject.toml): the tests marked so of files
that need neither PyTorch nor an installation for C++. Not the test-suite: that is tests/run.sh.
"""

import re
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent / "python"
NEEDS_MORE = re.compile(r"torch|skimage|sklearn|onnx|^import test_|from test_", re.M)


def main():
    """Exit code of pytest."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(TESTS.glob("test_*.py"))}
    files = [str(p) for p, text in texts.items() if "mark.smoke" in text and not NEEDS_MORE.search(text)]
    if len(files) < 5:
        sys.exit(f"wheel_smoke: expected more than {len(files)} files of smoke tests in {TESTS}")
    root = TESTS.parents[1]
    options = [
        "-c",
        str(root / "pyproject.toml"),
        "--rootdir",
        str(root),
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "smoke",
    ]
    return pytest.main([*options, *files])


if __name__ == "__main__":
    sys.exit(main())
