"""Training in several processes: programs under mpiexec against one process, and the core's op with a made-up job."""

import json
import os
import subprocess
import sys
import textwrap

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import _core, distributed, nn, ops
from fastcnn.data import ArrayDataset, DataLoader


def mpiexec():
    """The launcher beside this Python, or skip."""
    pytest.importorskip("mpi4py")
    from pathlib import Path

    path = Path(sys.executable).with_name("mpiexec")
    if not path.exists():
        pytest.skip("no mpiexec beside this Python (pip install mpich)")
    return str(path)


def run(tmp_path, program, processes=2, timeout=240, status=0, environment=None):
    """What the processes of a program say(), one after the other, then what they print, which their launcher may mix
    within a line. It begins with init(); `out` is a folder for all."""
    script = tmp_path / "program.py"
    begin = f"""
        import os, pathlib, sys
        import numpy as np
        import fastcnn as fc
        from fastcnn import distributed, nn, ops
        distributed.init()
        out, rank, size = pathlib.Path({str(tmp_path)!r}), distributed.rank(), distributed.world_size()
        def say(*words):
            with open(out / f"said-{{rank}}", "a") as file:
                print(*words, file=file)
    """
    script.write_text(textwrap.dedent(begin) + textwrap.dedent(program))
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    done = subprocess.run(
        [mpiexec(), "-n", str(processes), sys.executable, str(script)], capture_output=True, text=True, timeout=timeout,
        env={k: v for k, v in variables.items() if v is not None},
    )  # fmt: skip
    assert (done.returncode == 0) == (status == 0), done.stdout + done.stderr
    said = [(tmp_path / f"said-{rank}") for rank in range(processes)]
    return "".join(file.read_text() for file in said if file.exists()) + done.stdout + done.stderr


@pytest.fixture
def doubling():
    """A job of two processes of which the other holds the same numbers."""
    calls = []

    def reduce(array):
        calls.append(array.size)
        array *= 2

    _core.set_communicator(0, 2, reduce)
    yield calls
    _core.set_communicator(0, 1, None)


def test_all_reduce_values_gradients_and_dtypes(doubling):
    x = fc.tensor(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), requires_grad=True)
    y = distributed.all_reduce(x)
    np.testing.assert_array_equal(y.detach().numpy(), 2 * x.detach().numpy())
    (y * y).sum().backward()  # d/dx of the losses of both: 2 * (2 y), each as its other half says
    np.testing.assert_array_equal(x.grad.numpy(), 8 * x.detach().numpy())
    np.testing.assert_array_equal(distributed.all_reduce(x, "mean").detach().numpy(), x.detach().numpy())
    for dtype in ("float64", "bfloat16", "float16", "int64", "int32"):
        got = distributed.all_reduce(fc.tensor([1, 2, 3]).to(dtype))
        assert str(got.dtype) == str(getattr(fc, dtype))
        assert got.tolist() == [2, 4, 6]
    assert distributed.all_reduce(fc.zeros((0, 3))).shape == (0, 3)


def test_a_compiled_function_asks_the_others_in_every_call(doubling):
    w = fc.tensor([1.0, 2.0])  # a constant of the plan

    @fc.compile
    def f(x):
        return distributed.all_reduce(w) + distributed.all_reduce(x.permute(1, 0)).sum()

    with fc.no_grad():
        for k in range(3):
            doubling.clear()
            got = f(fc.tensor(np.full((2, 2), k, np.float32)))
            assert got.tolist() == [2 + 8 * k, 4 + 8 * k]
            assert sorted(doubling) == [2, 4]


def test_an_error_of_the_communicator_reaches_the_caller():
    def broken(array):
        raise ConnectionError("the other process is gone")

    _core.set_communicator(1, 2, broken)
    try:
        f = fc.compile(lambda x: ops.all_reduce(x * 2) + 1)
        for _ in range(2):
            with pytest.raises(ConnectionError, match="gone"):
                ops.all_reduce(fc.ones((3,)))
            with pytest.raises(ConnectionError, match="gone"):
                f(fc.ones((3,)))
    finally:
        _core.set_communicator(0, 1, None)
    assert f(fc.ones((3,))).tolist() == [3, 3, 3]


def test_alone_nothing_changes():
    x = fc.tensor([1.0, 2.0], requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_initialized()) == (0, 1, False)
    assert distributed.all_reduce(x).tolist() == [1, 2]
    assert distributed.gather("a") == ["a"]
    distributed.broadcast_(x)
    distributed.average_gradients([x])
    distributed.barrier()
    norm, plain = nn.SyncBatchNorm(3), nn.BatchNorm2d(3)
    images = fc.tensor(np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32))
    np.testing.assert_array_equal(norm(images).detach().numpy(), plain(images).detach().numpy())
    np.testing.assert_array_equal(norm.running_var.numpy(), plain.running_var.numpy())


BAD = [
    (lambda: _core.set_communicator(2, 2, print), ValueError, r"rank in \[0, world_size\), got rank 2 of 2"),
    (lambda: _core.set_communicator(0, 2, None), ValueError, "expected all_reduce for a world of 2"),
    (lambda: ops.all_reduce(fc.zeros((2,), dtype="bool")), TypeError, "all_reduce: expected x of a floating dtype"),
    (lambda: distributed.all_reduce(fc.zeros((2,)), "max"), ValueError, "op 'sum' or 'mean', got 'max'"),
    (lambda: distributed.all_reduce(fc.zeros((2,), dtype="int64"), "mean"), TypeError, "floating dtype"),
    (lambda: distributed.broadcast_(fc.zeros((2,)), source=1), ValueError, r"source in \[0, 1\), got 1"),
    (lambda: DataLoader([1, 2], shard=(2, 2)), ValueError, r"index < count, got \(2, 2\)"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_share_out_an_epoch(count, shuffle):
    data = ArrayDataset(np.zeros((10, 4, 4, 1), np.uint8), np.arange(10), layout="NHWC")
    whole = DataLoader(data, 2, shuffle=shuffle, seed=5)
    shards = [DataLoader(data, 2, shuffle=shuffle, seed=5, shard=(k, count)) for k in range(count)]
    for epoch in (0, 3):
        orders = [s.order(epoch) for s in shards]
        assert {len(o) for o in orders} == {-(-10 // count)}
        assert {len(s) for s in shards} == {-(-len(orders[0]) // 2)}
        joined = np.stack(orders, 1).reshape(-1)
        np.testing.assert_array_equal(joined[:10], whole.order(epoch))
        np.testing.assert_array_equal(joined[10:], whole.order(epoch)[: len(joined) - 10])
        shards[0].set_epoch(epoch)
        np.testing.assert_array_equal(np.concatenate([y for _, y in shards[0]]), orders[0])


def test_a_shard_goes_on_where_it_stood_and_refuses_the_place_of_another_split():
    data = ArrayDataset(np.zeros((11, 4, 4, 1), np.uint8), np.arange(11), layout="NHWC")
    loader = DataLoader(data, 2, shuffle=True, shard=(1, 2))
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    rest = [y.tolist() for _, y in batches]
    again = DataLoader(data, 2, shuffle=True, shard=(1, 2))
    again.load_state_dict(state)
    assert [y.tolist() for _, y in again] == rest
    with pytest.raises(ValueError, match="epoch of 2 shards, this loader has 1"):
        DataLoader(data, 2, shuffle=True).load_state_dict(state)


@pytest.mark.parametrize("ndim", [2, 3, 4])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_sync_batch_norm_equals_batch_norm_of_the_whole_batch(tmp_path, ndim, momentum):
    rng = np.random.default_rng(ndim)
    shape = (6, 3, 4, 5)[:ndim]
    x, dy = (rng.standard_normal(shape) * 2 + 5 for _ in range(2))
    np.savez(tmp_path / "in.npz", x=x, dy=dy)
    run(
        tmp_path,
        f"""
        cut = slice(0, 4) if rank == 0 else slice(4, 6)  # batches of different sizes
        data = np.load(out / "in.npz")
        norm = nn.SyncBatchNorm(3, momentum={momentum}, dtype="float64")
        with fc.no_grad():
            norm.weight.copy_(fc.tensor([1.0, 2.0, -0.5])), norm.bias.copy_(fc.tensor([0.5, 0.0, 1.0]))
        for _ in range(2):
            x = fc.tensor(data["x"][cut], requires_grad=True)
            norm.weight.grad = norm.bias.grad = None
            y = norm(x)
            y.backward(fc.tensor(data["dy"][cut]))
        np.savez(out / f"out{{rank}}.npz", y=y.detach().numpy(), dx=x.grad.numpy(), dw=norm.weight.grad.numpy(),
                 db=norm.bias.grad.numpy(), mean=norm.running_mean.numpy(), var=norm.running_var.numpy())
        """,
    )
    plain = (nn.BatchNorm2d if ndim == 4 else nn.BatchNorm1d)(3, momentum=momentum, dtype="float64")
    with fc.no_grad():
        plain.weight.copy_(fc.tensor([1.0, 2.0, -0.5]))
        plain.bias.copy_(fc.tensor([0.5, 0.0, 1.0]))
    for _ in range(2):
        t = fc.tensor(x, requires_grad=True)
        plain.weight.grad = plain.bias.grad = None
        y = plain(t)
        y.backward(fc.tensor(dy))
    parts = [np.load(tmp_path / f"out{k}.npz") for k in range(2)]
    for name, want in (("y", y.detach()), ("dx", t.grad)):
        np.testing.assert_allclose(np.concatenate([p[name] for p in parts]), want.numpy(), rtol=1e-9, atol=1e-9)
    for name, want in (("dw", plain.weight.grad), ("db", plain.bias.grad)):
        np.testing.assert_allclose(parts[0][name] + parts[1][name], want.numpy(), rtol=1e-9, atol=1e-9)
    for p in parts:
        np.testing.assert_allclose(p["mean"], plain.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(p["var"], plain.running_var.numpy(), rtol=1e-9)


def test_convert_sync_batchnorm_keeps_weights_and_shares_them():
    model = fc.models.create_model("resnet20", num_classes=3)
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    first = model.bn1.weight if hasattr(model, "bn1") else None
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    kinds = {type(m).__name__ for m in model.modules()}
    assert "SyncBatchNorm" in kinds
    assert "BatchNorm2d" not in kinds
    after = model.state_dict()
    assert list(after) == list(before)
    assert all((after[k].numpy() == before[k]).all() for k in before)
    assert first is None or model.bn1.weight is first
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2)), nn.SyncBatchNorm)


TRAIN = """
from fastcnn.data import ArrayDataset
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (64, 8, 8, 1), np.uint8), rng.integers(0, 3, 64)
data = ArrayDataset(images, labels, layout="NHWC", mean=0.5, std=0.5)

def model():
    fc.manual_seed(7 + distributed.rank())  # differs: fit() gives all the weights of the first
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)
"""


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    program = TRAIN + textwrap.dedent(
        """
        out.joinpath(f"runs{size}").mkdir(exist_ok=True)
        trainer = fc.Trainer(model(), "sgd", lr=0.05, seed=3, batch_size=16 // size, log_dir=out / f"runs{size}",
                             progress=False, ema_decay=0.9, gradient_clip_val=1.0)
        history = trainer.fit(data, data, max_epochs=3)
        np.savez(out / f"w{size}_{rank}.npz", *[t.numpy() for t in trainer.model.state_dict().values()],
                 loss=history["train_loss"], accuracy=history["train_accuracy"], val=history["val_loss"])
        """
    )
    for processes in (1, 2):
        run(tmp_path, program, processes)
    one, first, second = (np.load(tmp_path / f"w{name}.npz") for name in ("1_0", "2_0", "2_1"))
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], one[name], rtol=2e-4, atol=2e-5)
    names = {n: {p.name for p in (tmp_path / f"runs{n}").iterdir()} for n in (1, 2)}
    assert names[1] == names[2]
    assert "last.safetensors" in names[2]
    assert (tmp_path / "runs2" / "metrics.csv").read_text().count("\n") == 4


def test_processes_validate_alike_where_each_has_statistics_of_its_own(tmp_path):
    program = TRAIN + textwrap.dedent(
        """
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        class Own:  # a number that differs between the processes
            def on_validation_end(self, trainer):
                trainer.log("quality", rank * trainer.current_epoch)
        schedule = fc.optim.lr_scheduler.ReduceLROnPlateau
        trainer = fc.Trainer(net, "sgd", lr=0.3, batch_size=8, progress=False, callbacks=[Own()], monitor="quality",
                             ema_decay=0.9, scheduler=lambda o, total: schedule(o, mode="max", patience=0, factor=0.5))
        history = trainer.fit(data, data, max_epochs=4)
        state = [t.numpy().tolist() for t in (*net.state_dict().values(), *trainer.ema.module.state_dict().values())]
        for name, values in (("state", state), ("val", history["val_loss"]), ("rate", history["lr"])):
            first, second = distributed.gather(values)
            say(name, first == second)
        """
    )
    text = run(tmp_path, program)
    assert sorted(text.split("\n")[:6]) == ["rate True"] * 2 + ["state True"] * 2 + ["val True"] * 2


def test_a_job_resumes_bit_for_bit_and_a_signal_to_one_process_stops_all(tmp_path):
    common = TRAIN + textwrap.dedent(
        """
        import signal
        class Stop:
            def on_train_batch_end(self, trainer, outputs, batch, index):
                if rank == 1 and trainer.global_step == 6:
                    os.kill(os.getpid(), signal.SIGINT)
        def fit(callbacks, folder, **more):
            net = nn.Sequential(model(), nn.Dropout(0.5))
            trainer = fc.Trainer(net, "adamw", seed=3, batch_size=8, log_dir=out / folder, progress=False,
                                 callbacks=callbacks)
            history = trainer.fit(data, max_epochs=3, **more)
            return history, [t.numpy().copy() for t in net.state_dict().values()]
        _, want = fit([], "whole")
        history, _ = fit([Stop()], "parts")
        assert history.interrupted == "SIGINT", history.interrupted
        assert len(history) == 1
        history, got = fit([], "parts", resume="last")
        assert len(history) == 3
        for a, b in zip(want, got, strict=True):
            np.testing.assert_array_equal(a, b)
        say("done", rank)
        """
    )
    text = run(tmp_path, common)
    assert "done 0" in text
    assert "done 1" in text


def test_each_process_draws_dropout_of_its_own_and_weights_are_those_of_the_first(tmp_path):
    text = run(
        tmp_path,
        TRAIN
        + textwrap.dedent(
            """
            net = model()
            distributed.broadcast_(net)
            same = distributed.gather([t.numpy().tolist() for t in net.state_dict().values()])
            assert same[0] == same[1]
            fc.manual_seed(0)
            class Look:
                def on_train_batch_start(self, trainer, batch, index):
                    if index == 0:
                        masks = distributed.gather(ops.dropout(fc.ones((64,)), 0.5).tolist())
                        assert masks[0] != masks[1]
                        say("looked")
            fc.Trainer(net, "sgd", batch_size=32, progress=False, callbacks=[Look()]).fit(data, max_epochs=1)
            """
        ),
    )
    assert text.count("looked") == 2


def test_an_error_in_one_process_ends_the_job(tmp_path):
    text = run(tmp_path, 'if rank == 1: raise ValueError("only here")\nops.all_reduce(fc.ones((3,)))', status=1)
    assert "only here" in text


@pytest.mark.parametrize("status", ["3", "'only here'"])
def test_an_exit_with_an_error_in_one_process_ends_the_job(status, tmp_path):
    program = f"""
        try:
            sys.exit(5)
        except SystemExit:
            ops.all_reduce(fc.ones((3,)))  # caught: it goes on
        if rank == 1:
            sys.exit({status})
        ops.all_reduce(fc.ones((3,)))
        say("never")
    """
    text = run(tmp_path, program, status=1, timeout=60)
    assert "never" not in text
    assert ("only here" in text) == ("only" in status)


def test_an_exit_without_error_and_one_that_was_caught_end_no_job(tmp_path):
    program = """
        try:
            sys.exit(5)
        except SystemExit:
            distributed.barrier()
        say("fine")
        sys.exit(0)
    """
    assert run(tmp_path, program, timeout=60).count("fine") == 2


@pytest.mark.parametrize("length", [False, True])
def test_processes_with_other_numbers_of_batches_are_told(length, tmp_path):
    program = TRAIN + textwrap.dedent(
        f"""
        class Batches:
            def __iter__(self):
                return ((np.ones((2, 1, 8, 8), np.float32), np.zeros(2, np.int64)) for _ in range(3 - rank))
        if {length}:  # one that leaves out what it cannot read
            Batches.__len__ = lambda self: 3
        try:
            fc.Trainer(model(), "sgd", progress=False).fit(Batches(), max_epochs=2)
        except ValueError as error:
            say(error)
        """
    )
    text = run(tmp_path, program, timeout=60)
    assert text.count("expected as many batches in every process, got none after 2 in process 1") == 2


def test_command_line_in_two_processes(tmp_path):
    words = [mpiexec(), "-n", "2", sys.executable, "-m", "fastcnn", "train", "--limit", "200", "--epochs", "1"]
    words += ["--name", "job", "--out", str(tmp_path)]

    def run_words(*more):
        return subprocess.run([*words, *more], capture_output=True, text=True, timeout=240)

    done = run_words("--no-report", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # of one process
    assert result["epochs"] == 1
    assert {"config.json", "last.safetensors", "metrics.csv"} <= {p.name for p in (tmp_path / "job").iterdir()}
    assert json.loads((tmp_path / "job" / "config.json").read_text())["batch_size"] == 64
    done = run_words("--batch-size", "33")
    assert done.returncode
    assert "expected a multiple of the 2 processes, got 33" in done.stderr
    done = run_words()  # the folder is there: the first process alone finds out
    assert done.returncode
    assert "exists already" in done.stderr


def test_processes_of_a_machine_share_its_cores(tmp_path):
    program = """
    assert distributed.launched()
    say("threads", fc.get_num_threads())
    """
    text = run(tmp_path, program, environment={"OMP_NUM_THREADS": None})
    cores = len(os.sched_getaffinity(0))
    assert text.count(f"threads {max(1, min(cores, fc.get_num_threads()) // 2)}") == 2


def test_processes_that_would_wait_for_ever_are_told_why(tmp_path):
    program = TRAIN + textwrap.dedent(
        """
        import pytest
        from fastcnn.data import DataLoader
        trainer = fc.Trainer(model(), progress=False)
        with pytest.raises(ValueError, match=r"expected DataLoader\\(..., shard=\\(., 2\\)"):
            trainer.fit(DataLoader(data, 8), max_epochs=1)
        with pytest.raises(ValueError, match=r"as many batches in every process, got \\[3, 2\\]"):
            trainer.fit([(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.int64))] * (3 - rank), max_epochs=1)
        say("told")
        """
    )
    assert run(tmp_path, program).count("told") == 2
