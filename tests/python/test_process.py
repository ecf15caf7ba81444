"""A polite process: children by fork and spawn compute, PyTorch may be there first or later, threads of the program run
plans at once, limits of the machine are kept, nothing spins while nothing is asked for, and memory does not grow.
"""

import math
import os
import subprocess
import sys
import textwrap
import threading
import time

import fastcnn as fc
import numpy as np
import pytest

ops = fc.ops


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout.strip()


# Three steps of training; what comes out depends on the seed alone. In a file, since spawn imports it again.
CHILDREN = """
import multiprocessing
import os
import sys
import threading

import fastcnn as fc
import numpy as np

fc.set_num_threads(3)


def train(seed):
    fc.manual_seed(seed)
    nn = fc.nn
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 4))
    opt = fc.optim.SGD(net.parameters(), lr=0.1)

    @fc.compile
    def step(x, y):
        loss = fc.ops.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    x, y = fc.randn(8, 3, 16, 16), fc.tensor(np.arange(8) % 4)
    return [step(x, y).item().hex() for _ in range(3)], len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    want, _ = train(1)  # the parent has used its threads
    for kind in sys.argv[1:]:
        context = multiprocessing.get_context(kind)
        with context.Pool(2) as pool:
            for got, threads in pool.map(train, [1] * 4):
                assert got == want, (kind, got, want)
                assert threads >= 3, (kind, threads)
    if "fork" in sys.argv:  # from another thread than the first
        results = []

        def fork():
            fc.ones(64, 64) @ fc.ones(64, 64)
            with multiprocessing.get_context("fork").Pool(1) as pool:
                results.append(pool.map(train, [1])[0][0])

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join(60)
        assert results == [want], results
    assert train(1)[0] == want
    print("same")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_children_train_with_threads_and_give_the_bits_of_the_parent(tmp_path, kind):
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script), kind],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.strip() == "same", (done.stdout, done.stderr[-4000:])


@pytest.mark.parametrize("first, second", [("torch", "fastcnn"), ("fastcnn", "torch")])
def test_pytorch_beside_it_in_both_orders(first, second):
    pytest.importorskip("torch")
    out = run(f"""
        import {first}
        import {second}
        import fastcnn as fc
        import numpy as np
        import torch
        torch.set_num_threads(2)
        fc.set_num_threads(2)
        rng = np.random.default_rng(0)
        x, w = rng.normal(size=(4, 8, 20, 20)).astype("f"), rng.normal(size=(16, 8, 3, 3)).astype("f")
        for _ in range(3):  # turn by turn: both have workers now
            ours = fc.tensor(w, requires_grad=True)
            fc.ops.relu(fc.ops.conv2d(fc.tensor(x), ours)).sum().backward()
            theirs = torch.tensor(w, requires_grad=True)
            torch.relu(torch.nn.functional.conv2d(torch.tensor(x), theirs)).sum().backward()
            assert np.allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-4, atol=1e-3)
        assert np.array_equal(torch.from_dlpack(fc.ones(3)).numpy(), np.ones(3, "f"))
        print("close")
    """)
    assert out == "close"


def test_threads_of_the_program_run_plans_of_their_own_at_once():
    def train(seed):
        rng = np.random.default_rng(seed)
        w = fc.nn.Parameter(fc.tensor(rng.normal(size=(16, 8, 3, 3)).astype("f")))
        opt = fc.optim.SGD([w], lr=0.01)

        @fc.compile
        def step(x):
            loss = ops.relu(ops.conv2d(x, w, padding=1)).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        x = fc.tensor(rng.normal(size=(4, 8, 24, 24)).astype("f"))
        return [step(x).item() for _ in range(10)]

    before = fc.get_num_threads()
    fc.set_num_threads(3)
    try:
        want = [train(seed) for seed in range(4)]
        got = [None] * 4

        def work(seed):
            got[seed] = train(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        assert got == want
    finally:
        fc.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_number_of_threads_is_that_of_the_processors_allowed():
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import fastcnn as fc
        print(fc.get_num_threads())
    """
    assert run(code, FASTCNN_NUM_THREADS="", OMP_NUM_THREADS="") == "1"
    assert run(code, FASTCNN_NUM_THREADS="", OMP_NUM_THREADS="5") == "5"
    assert run(code, FASTCNN_NUM_THREADS="2", OMP_NUM_THREADS="5") == "2"


def test_nothing_is_computed_between_steps():
    code = """
        import time
        import fastcnn as fc
        fc.set_num_threads(2)
        step = fc.compile(lambda x: fc.ops.relu(x @ x).sum())
        x = fc.ones(256, 256)
        for _ in range(20):
            step(x)
        began = time.process_time()  # of all threads: workers that wait for the next step would count
        time.sleep(1)
        print(time.process_time() - began)
    """
    # NumPy's OpenBLAS has a thread that spins for up to 30 ms after it was made.
    assert float(run(code, OPENBLAS_NUM_THREADS="1")) < 0.05
    # With workers that sleep at once, as the documentation says, each pause is idle from its beginning.
    # The least of three: on a busy machine the kernel's own work counts now and then.
    assert min(float(run(code, OPENBLAS_NUM_THREADS="1", OMP_WAIT_POLICY="passive")) for _ in range(3)) < 0.005


def test_denormal_weights_cost_no_time():
    x = fc.randn(4, 32, 28, 28)

    weights = [fc.full((32, 32, 3, 3), scale) for scale in (1.0, 1e-40)]
    best = [math.inf, math.inf]
    with fc.no_grad():
        for _ in range(50):  # in turns: what else runs slows both
            for i, w in enumerate(weights):
                began = time.perf_counter()
                ops.conv2d(x, w, padding=1)
                best[i] = min(best[i], time.perf_counter() - began)
    normal, denormal = best
    assert denormal < 2 * normal, (denormal, normal)  # 5 to 100 times, where they are not flushed
    # The caller's own arithmetic keeps its denormals.
    assert np.float32(1e-40) * np.float32(0.5) != 0


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
def test_memory_does_not_grow_over_input_shapes():
    net = fc.nn.Sequential(
        fc.nn.Conv2d(3, 16, 3, padding=1),
        fc.nn.BatchNorm2d(16),
        fc.nn.ReLU(),
        fc.nn.AdaptiveAvgPool2d(1),
        fc.nn.Flatten(),
        fc.nn.Linear(16, 4),
    )
    opt = fc.optim.SGD(net.parameters(), lr=0.01)

    @fc.compile
    def step(x, y):
        loss = ops.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    def shapes(sizes):
        for h, w in sizes:
            step(fc.zeros(4, 3, h, w), fc.zeros(4, dtype="int64")).item()

    largest = (90, 90)
    sizes = [(40 + i % 50, 40 + i // 2 % 50) for i in range(200)]
    shapes([largest, *sizes[:70]])
    before = resident()
    shapes(sizes[70:])
    info = step.cache_info()
    assert info["plans"] == 64 and info["misses"] > 190
    assert resident() - before < 24 << 20  # one shape's temporaries are some 4 MB, 130 would be 500


def test_plans_share_their_temporaries_and_the_largest_may_go():
    step = fc.compile(lambda x: ops.exp(ops.softmax(x, 0)).sum() + 1)
    sizes = (1 << 18, 1 << 20, 1 << 16)
    want = [step(fc.zeros(n)).item() for n in sizes]
    arenas = []
    for n, value in zip(sizes, want, strict=True):
        assert step(fc.zeros(n)).item() == value
        arenas.append(step.info()["arena_bytes"])
    assert step.cache_info()["bytes"] == max(arenas) > 1.9 * arenas[0]
    for n in range(1, 65):  # as many as are kept: the first three go
        step(fc.zeros(n))
    info = step.cache_info()
    assert info["plans"] == 64 and info["evictions"] == 3 and info["bytes"] < 4096
    assert [step(fc.zeros(n)).item() for n in sizes] == want
