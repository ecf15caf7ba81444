"""Runs survive: kill -9 at random moments, a full disk, a folder that turns read-only, no memory. What is on disk stays
whole, and the resumed run ends as the one that nothing happened to, bit for bit.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fastcnn as fc
import pytest
from fastcnn import callbacks as cb
from fastcnn._files import atomic_write, prepare_folder
from test_trainer import OPTIONS, assert_same, dataset, make, trainer, weights

sys.path.insert(0, str(Path(__file__).parents[1]))
import kill_runs  # noqa: E402


def test_killed_at_random_moments_and_resumed_a_run_ends_as_the_whole_one(tmp_path):
    assert kill_runs.kill_runs(tmp_path, kills=4, seed=3, epochs=5, say=lambda *a, **k: None) >= 1


@contextlib.contextmanager
def file_size_limit(size):
    """Writing beyond `size` bytes fails, as on a full disk but with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(folder):
    """Nobody may write into a folder; root, whom modes do not bind, is somebody else meanwhile."""
    root = os.geteuid() == 0
    folder.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@contextlib.contextmanager
def no_memory(folder):
    """Asks for more than any machine has."""
    fc.empty(1 << 44)
    yield


TROUBLES = {
    "full disk": (lambda folder: file_size_limit(2000), OSError, "File too large"),
    "read-only": (read_only, OSError, "Permission denied"),
    "no memory": (no_memory, MemoryError, "out of memory|more than any machine has"),
}


class Trouble(cb.Callback):
    """From a step on something is wrong, until `over` is called."""

    def __init__(self, folder, step, scope):
        self.folder, self.step, self.scope, self.stack = folder, step, scope, contextlib.ExitStack()

    def on_train_batch_end(self, trainer, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.step = None
            self.stack.enter_context(self.scope(self.folder))

    def over(self):
        self.stack.close()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_run_in_trouble_keeps_what_it_had_and_goes_on_later(trouble):
    scope, error, message = TROUBLES[trouble]
    folder = Path(tempfile.mkdtemp())  # not tmp_path, whose parents are root's alone
    folder.chmod(0o755)
    try:
        whole, loader = make(None, OPTIONS["everything"])
        whole.fit(loader, dataset(32, 1), max_epochs=2)
        trouble = Trouble(folder, 4, scope)
        first, loader = make(folder, OPTIONS["everything"], trouble)
        first.checkpoint_every_n_steps = 1
        try:
            with pytest.raises(error, match=message):
                first.fit(loader, dataset(32, 1), max_epochs=2)
        finally:
            trouble.over()
        found = fc.checkpoints.load_checkpoint(folder / "last.safetensors")
        assert 3 <= found.state["run"]["global_step"] <= 4
        assert not list(folder.glob(".*.tmp"))
        second, loader = make(folder, OPTIONS["everything"], seed=9)
        second.fit(loader, dataset(32, 1), max_epochs=2, resume="last")
        assert_same(weights(second.model), weights(whole.model))
        assert_same(weights(second.ema.module), weights(whole.ema.module))
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        t, loader = make(folder, {})
        with read_only(folder), pytest.raises(OSError, match=f"cannot write to {folder}: Permission denied"):
            t.fit(loader, max_epochs=1)
        assert t.global_step == 0
    finally:
        shutil.rmtree(folder)


def test_two_trainings_do_not_write_into_one_folder(tmp_path):
    class Second(cb.Callback):
        def on_epoch_end(self, trainer):
            other, loader = make(tmp_path, {})
            with pytest.raises(BlockingIOError, match=f"{tmp_path}: another training writes into this folder"):
                other.fit(loader, max_epochs=2)

    t, loader = make(tmp_path, {}, Second())
    t.fit(loader, max_epochs=1)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
    t, loader = make(tmp_path, {})
    t.fit(loader, max_epochs=2, resume="last")


# Where the system refuses memory, as in a small container: each call raises, and the next one that fits works.
LITTLE_MEMORY = """
import resource
import numpy as np
import fastcnn as fc

x = fc.tensor(np.random.default_rng(0).normal(size=(2, 8, 32, 32)).astype("f"))
net = fc.nn.Sequential(fc.nn.Conv2d(8, 16, 3), fc.nn.BatchNorm2d(16), fc.nn.ReLU())
step = fc.compile(lambda x: net(x).sum())
want = step(x).item()
big = fc.zeros(64, 8, 32, 32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), resource.RLIM_INFINITY))
refused = 0
for call in (
    lambda: fc.zeros(1 << 28),
    lambda: fc.ops.conv2d(big, fc.zeros(256, 8, 3, 3)),
    lambda: fc.ops.interpolate(big, scale_factor=16),
    lambda: fc.compile(lambda x: fc.ops.relu(x.expand(64, 64, 8, 32, 32) * 2).sum())(big[:1]),
    lambda: fc.tensor(np.zeros(1, "f")).expand(1 << 28).clone(),
):
    try:
        call()
    except MemoryError as error:
        refused += 1
    assert step(x).item() == want
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert fc.zeros(1 << 20).sum().item() == 0
print("refused", refused)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
def test_calls_that_find_no_memory_raise_and_the_next_one_works():
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "refused 5", (done.returncode, done.stdout, done.stderr)


def test_what_killed_writers_left_is_removed_and_what_lives_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (
        f".last.safetensors.{dead.pid}.0123abcd.tmp",
        f".last-1.{dead.pid}.tmp",
        f".x.{os.getpid()}.tmp",
        ".my.tmp",
    ):
        (tmp_path / name).write_text("half")
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
        prepare_folder(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["file", ".my.tmp", f".x.{os.getpid()}.tmp"])


# ---------------------------------------------------------------- resumes that change something


def test_a_resume_that_is_refused_leaves_the_trainer_as_it_was(tmp_path):
    t, loader = make(tmp_path, {"scheduler": "cosine", "optimizer": "adamw"})
    t.fit(loader, max_epochs=1)
    other, loader = make(tmp_path, {"optimizer": "adamw"}, seed=9)
    before = {k: v.copy() for k, v in weights(other.model).items()}
    with pytest.raises(ValueError, match="scheduler"):
        other.fit(loader, max_epochs=2, resume="last")
    assert_same(weights(other.model), before)
    assert not other.optimizer.state


def test_resume_refuses_another_optimizer_and_another_schedule(tmp_path):
    t, loader = make(tmp_path, {"scheduler": "onecycle"})
    t.fit(loader, max_epochs=1)
    for options, message in [
        ({"optimizer": "adam"}, "cannot resume from it: it holds the state of SGD, the optimizer is Adam"),
        ({"scheduler": "cosine"}, "scheduler is CosineAnnealingLR, that of the checkpoint OneCycleLR"),
        ({"scheduler": None}, "scheduler is none, that of the checkpoint OneCycleLR"),
    ]:
        other, loader = make(tmp_path, {"scheduler": "onecycle", **options})
        with pytest.raises(ValueError, match=message):
            other.fit(loader, max_epochs=2, resume="last")
    found = fc.checkpoints.load_checkpoint(tmp_path / "last.safetensors")
    del found.state["scheduler_name"], found.state["optimizer"]["name"]  # as files of before were
    fc.checkpoints.save_checkpoint(tmp_path / "last.safetensors", *found)
    again, loader = make(tmp_path, {"scheduler": "onecycle"})
    assert len(again.fit(loader, max_epochs=2, resume="last")) == 2


@pytest.mark.parametrize("scheduler", [None, "cosine", "onecycle", "plateau"])
def test_a_resume_goes_on_with_other_options_of_its_optimizer(tmp_path, scheduler):
    def fit(epochs, lr=0.05, resume=None, **options):
        t, loader = make(tmp_path, {"scheduler": scheduler, "lr": lr, **options})
        return t, t.fit(loader, max_epochs=epochs, resume=resume)

    fit(2)
    same, history = fit(4, resume="last")
    shutil.copy(tmp_path / "last-1.safetensors", tmp_path / "last.safetensors")  # three epochs
    other, changed = fit(4, 0.005, "last", weight_decay=0.125, momentum=0.5)
    assert changed["lr"][:3] == history["lr"][:3]
    assert changed["lr"][3] == pytest.approx(history["lr"][3] / 10, rel=1e-6)
    assert {k: other.optimizer.param_groups[0][k] for k in ("weight_decay", "momentum")} == {
        "weight_decay": 0.125, "momentum": 0.5,
    }  # fmt: skip
    again, _ = fit(5, 0.005, "last", weight_decay=0.125, momentum=0.5)  # now they are the run's own
    found = fc.checkpoints.load_checkpoint(tmp_path / "last.safetensors").state["optimizer"]
    assert found["options"][0]["lr"] == 0.005
    assert again.history["lr"][3] == changed["lr"][3]
    if scheduler in (None, "plateau"):
        assert again.history["lr"][4] == 0.005


def test_where_the_last_checkpoint_is_gone_the_one_before_it_is_the_last(tmp_path):
    t, loader = make(tmp_path, {})
    t.fit(loader, dataset(32, 1), max_epochs=3)
    (tmp_path / "last.safetensors").unlink()
    for folder in ("last", tmp_path):
        again, loader = make(tmp_path, {}, seed=9)
        again.fit(loader, dataset(32, 1), max_epochs=3, resume=folder)
        assert_same(weights(again.model), weights(t.model))
        assert [again.history[k] for k in ("val_loss", "lr")] == [t.history[k] for k in ("val_loss", "lr")]


class Worse(cb.Callback):
    """A metric that rises from the second epoch on."""

    def on_validation_end(self, trainer):
        trainer.log("score", abs(trainer.current_epoch - 1.0))


def test_a_run_that_early_stopping_ended_stays_ended_unless_it_is_more_patient(tmp_path, capsys):
    def fit(resume=None, **options):
        stop = cb.EarlyStopping("score", mode="min", **options)
        t = trainer(callbacks=[Worse(), stop], log_dir=tmp_path, progress=resume is not None)
        return len(t.fit(dataset(32), dataset(16, 1), max_epochs=9, resume=resume)), stop.stopped_epoch

    assert fit(patience=2) == (4, 3)
    before = (tmp_path / "last.safetensors").read_bytes()
    for _ in range(2):
        assert fit("last", patience=2) == (4, 3)
    assert "has ended this run after epoch 4: score did not improve on 0.0 for 2 epochs" in capsys.readouterr().err
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert fit("last", patience=4) == (6, 5)
    for resume in (None, "last"):
        assert fit(resume, stopping_threshold=0.5) == (2, 1)
    assert fit("last", patience=2) == (4, 3)
