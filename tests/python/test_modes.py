"""Modes as contexts and as decorators: of functions, of generators, with and without parentheses, from threads."""

from __future__ import annotations

import inspect
import threading

import fastcnn as fc
import pytest

on = fc.is_grad_enabled
cast = fc._core.ops.get_autocast_dtype


@pytest.fixture(autouse=True)
def modes_stay():
    yield
    assert on() and cast() is None


DECORATORS = {
    "no_grad()": lambda: fc.no_grad(), "no_grad": lambda: fc.no_grad,
    "set_grad_enabled": lambda: fc.set_grad_enabled(False),
}  # fmt: skip


@pytest.mark.parametrize("name", DECORATORS)
def test_a_decorated_function_runs_in_the_mode_each_time(name):
    @DECORATORS[name]()
    def fn(depth, *, error=False):
        """What it does."""
        assert not on()
        if error:
            raise KeyError("mine")
        return fn(depth - 1) if depth else "done"

    assert on() and fn.__name__ == "fn" and fn.__doc__ == "What it does."
    for _ in range(2):
        assert fn(2) == "done" and on()
        with pytest.raises(KeyError):
            fn(0, error=True)
        assert on()

    class Net:
        @DECORATORS[name]()
        def method(self, x):
            return (self, x, on())

    net = Net()
    assert net.method(1) == (net, 1, False)


@pytest.mark.parametrize("name", DECORATORS)
def test_a_decorated_generator_has_the_mode_while_it_runs(name):
    log = []

    @DECORATORS[name]()
    def steps(n):
        try:
            for i in range(n):
                try:
                    log.append((yield (i, on())))
                except KeyError as e:
                    log.append((type(e), on()))
        finally:
            log.append(on())
        return "end"

    assert inspect.isgeneratorfunction(steps) and on()
    running = steps(3)
    assert next(running) == (0, False) and on()
    assert running.send("sent") == (1, False) and on()
    assert running.throw(KeyError("k")) == (2, False) and on()
    with pytest.raises(StopIteration) as end:
        next(running)
    assert end.value.value == "end" and log == ["sent", (KeyError, False), None, False]
    log.clear()
    running = steps(3)
    next(running)
    running.close()
    assert log == [False] and on() and list(running) == []
    log.clear()
    running = steps(3)
    next(running)
    with pytest.raises(ZeroDivisionError):
        running.throw(ZeroDivisionError())
    assert log == [False] and on()
    with fc.no_grad():  # its caller's mode is its caller's
        kept = fc.enable_grad()(lambda: on())
        assert next(steps(1)) == (0, False) and not on() and kept()

        @fc.enable_grad
        def inner():
            yield on()
            yield from [on()]

        assert list(inner()) == [True, True] and not on()


def test_calls_of_a_decorated_function_in_two_threads_leave_their_modes():
    inside, out, seen = threading.Event(), threading.Event(), []

    @fc.no_grad()
    def fn(wait):
        if wait:
            inside.set()
            out.wait(20)

    def work():
        with fc.no_grad():
            fn(True)
            seen.append(on())
        seen.append(on())

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(20)

    @fc.no_grad()
    def other():
        fn(False)
        out.set()
        thread.join(20)

    other()
    fn(False)
    assert on() and seen == [False, True]


def test_what_decorated_functions_read_is_watched_by_compile():
    scale = 2.0

    @fc.no_grad
    def fn(x):
        return x * scale

    step = fc.compile(fn)
    assert step(fc.ones(1)).item() == 2
    scale = 3.0
    assert step(fc.ones(1)).item() == 3


def test_set_grad_enabled_holds_at_once_and_until_the_end_of_its_context():
    fc.set_grad_enabled(False)
    assert not on()
    fc.set_grad_enabled(True)
    with fc.set_grad_enabled(False) as mode:
        assert not on()
        with fc.set_grad_enabled(True):
            assert on()
        assert not on()
    assert on() and isinstance(mode, fc.set_grad_enabled)


def test_autocast_takes_what_pytorch_takes():
    def dtype(*args, **kwargs):
        with fc.autocast(*args, **kwargs):
            return cast()

    for args in (
        (),
        (fc.bfloat16,),
        ("bfloat16",),
        ("cpu",),
        ("cpu", fc.bfloat16),
        (fc.ones(1).device,),
        ("cpu", "bfloat16"),
    ):
        assert dtype(*args) == fc.bfloat16, args
    assert (
        dtype("cpu", fc.float16) == dtype(dtype=fc.float16) == dtype(device_type="cpu", dtype=fc.float16) == fc.float16
    )
    assert dtype(enabled=False) is dtype("cpu", enabled=False) is dtype(fc.bfloat16, False) is None
    assert dtype("cpu", fc.bfloat16, False) is None
    with pytest.raises(ValueError, match="expected 'cpu' or 'cuda' as device_type, got 'mps'"):
        fc.autocast("mps", dtype=fc.bfloat16)
    with pytest.raises(ValueError, match="expected bfloat16 or float16, got int8"):
        dtype("cpu", fc.int8)

    @fc.autocast("cpu", dtype=fc.bfloat16)
    def steps():
        yield (fc.ones(2, 2) @ fc.ones(2, 2)).dtype

    running = steps()
    assert next(running) == fc.bfloat16 and cast() is None and list(running) == []


@pytest.mark.skipif(fc.cuda.is_available(), reason="there is a CUDA device")
def test_autocast_for_cuda_is_off_without_it():
    with pytest.warns(UserWarning, match="expected a CUDA device"), fc.autocast(device_type="cuda", dtype=fc.float16):
        assert cast() is None


def test_what_cannot_be_decorated_is_named():
    for make, name in ((lambda: fc.no_grad(3), "no_grad"), (lambda: fc.autocast()(3), "autocast")):
        with pytest.raises(TypeError, match=f"{name}: expected a function to decorate, got int"):
            make()
