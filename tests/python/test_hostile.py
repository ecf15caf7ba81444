"""Public functions with arguments that do not fit: they return or raise what is promised, and never end the process."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "fuzz" / "hostile_calls.py"


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by /proc")
@pytest.mark.parametrize(
    "group, calls", [("ops", 2000), ("tensor", 2000), ("layers", 600), ("top", 300), ("data", 300), ("files", 300)]
)
def test_hostile_arguments_never_end_the_process(tmp_path, group, calls):
    log = tmp_path / "call"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), group, "--calls", str(calls), "--log", str(log)], capture_output=True, text=True
    )
    last = log.read_bytes().decode("utf-8", "replace").strip() if log.exists() else "none"
    assert done.returncode == 0, (done.returncode, last, done.stderr[-3000:])
    returned, raised = (int(done.stdout.split()[i]) for i in (1, 4))
    assert returned > 0 and raised > returned / 10, done.stdout
