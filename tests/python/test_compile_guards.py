"""A plan is used only while every tensor, module and number that its function read is still the same one."""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import logging
import types
import weakref

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn

GLOBAL = fc.tensor([1.0, 2.0])
FACTOR = 2.0
NET = None


def misses(step):
    return step.cache_info()["misses"]


def test_closure_tensor_replaced():
    w = fc.tensor([1.0, 2.0])

    @fc.compile
    def step(x):
        return x * w

    x = fc.ones(2)
    assert step(x).tolist() == [1, 2]
    w.add_(1)  # in place: the plan stays
    assert step(x).tolist() == [2, 3] and misses(step) == 1
    old, w = w, fc.tensor([5.0, 7.0])
    assert step(x).tolist() == [5, 7] and misses(step) == 2
    w = old  # back: the first plan again
    assert step(x).tolist() == [2, 3] and misses(step) == 2


def helper(x):
    return x * GLOBAL * FACTOR


@pytest.mark.parametrize("name, value, want", [("GLOBAL", [3.0, 5.0], [6, 10]), ("FACTOR", 4.0, [4, 8])])
def test_global_read_by_a_helper_replaced(monkeypatch, name, value, want):
    step, x = fc.compile(lambda x: helper(x)), fc.ones(2)
    assert step(x).tolist() == [2, 4]
    monkeypatch.setitem(globals(), name, fc.tensor(value) if isinstance(value, list) else value)
    assert step(x).tolist() == want
    monkeypatch.undo()
    assert step(x).tolist() == [2, 4] and misses(step) == 2


def test_helper_replaced(monkeypatch):
    step, x = fc.compile(lambda x: helper(x)), fc.ones(2)
    step(x)
    monkeypatch.setitem(globals(), "helper", lambda x: -x)
    assert step(x).tolist() == [-1, -1]


def change_weight(net):
    net[0].weight = nn.Parameter(fc.full((2, 3), 0.5))


def change_buffer(net):
    net[1].running_mean = fc.full((2,), 0.25)


def change_child(net):
    net[0] = nn.Linear(3, 2)


def change_option(net):
    net[1].eps = 0.5


def change_hook(net):
    net[0].register_forward_hook(lambda module, args, y: y * 2)


def append(net):
    net.append(nn.ReLU())


def to_double(net):
    net.double()


@pytest.mark.parametrize("held_by", ["closure", "argument", "module", "global", "attribute", "partial"])
@pytest.mark.parametrize(
    "change", [change_weight, change_buffer, change_child, change_option, change_hook, append, to_double]
)
def test_module_changed(monkeypatch, change, held_by):
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    monkeypatch.setitem(globals(), "NET", net)

    class Holder:
        def run(self, x):
            return self.net(x)

    holder = Holder()
    holder.net = net
    step = {
        "closure": fc.compile(lambda x: net(x)),
        "argument": functools.partial(fc.compile(lambda n, x: n(x)), net),
        "module": fc.compile(net),
        "global": fc.compile(lambda x: NET(x)),
        "attribute": fc.compile(holder.run),
        "partial": fc.compile(functools.partial(lambda n, x: n(x), net)),
    }[held_by]
    x = fc.tensor(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))
    np.testing.assert_allclose(step(x).numpy(), net(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    change(net)
    if change is to_double:
        x = x.double()
    want = net(x).detach()
    got = step(x)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_with_the_same_input():
    """to() keeps the Parameter object: what changed is the tensor it stands for."""
    w = nn.Parameter(fc.ones(2))
    net = nn.Module()
    net.w = w
    step = fc.compile(lambda: net.w * 2)
    assert step().dtype == fc.float32
    net.bfloat16()
    assert net.w is w and step().dtype == fc.bfloat16


def test_weight_read_without_a_call():
    net = nn.Linear(2, 2, bias=False)
    step = fc.compile(lambda x: fc.ops.linear(x, net.weight))
    x = fc.ones(1, 2)
    step(x)
    net.weight = nn.Parameter(fc.full((2, 2), 3.0))
    assert step(x).tolist() == [[6, 6]]


@pytest.mark.parametrize("kind", ["list", "dict", "attribute"])
def test_tensor_in_a_container_replaced(kind):
    class Box:
        pass

    box = {"list": [fc.ones(2)], "dict": {"w": fc.ones(2)}, "attribute": Box()}[kind]
    box_w = lambda: box[0] if kind == "list" else box["w"] if kind == "dict" else box.w  # noqa: E731

    def put(t):
        if kind == "attribute":
            box.w = t
        else:
            box[0 if kind == "list" else "w"] = t

    put(fc.ones(2))
    step = fc.compile(lambda x: x * box_w())
    assert step(fc.ones(2)).tolist() == [1, 1]
    put(fc.full((2,), 4.0))
    assert step(fc.ones(2)).tolist() == [4, 4]


class Scales:
    shared = 1.0

    def __init__(self):
        self.own, self.numbers, self.named, self.steps = 1.0, [1.0], {"a": {"b": 1.0}}, 0
        self.optimizer = fc.optim.SGD([fc.ones(1).requires_grad_()], lr=0.1)

    @property
    def doubled(self):
        return self.own * 2

    def factor(self):
        return self.numbers[0]

    def apply(self, x):
        x = x * self.doubled * self.factor() * self.named["a"]["b"] * self.shared
        self.optimizer.steps()
        return x + len(self.numbers) - 1


SCALES_CHANGE = {
    "attribute read by a property": lambda s: setattr(s, "own", 3.0),
    "item of a list read by a method": lambda s: s.numbers.__setitem__(0, 3.0),
    "another list": lambda s: setattr(s, "numbers", [3.0]),
    "length of a list": lambda s: s.numbers.append(1.0),
    "item of a nested dict": lambda s: s.named["a"].__setitem__("b", 3.0),
    "attribute of the class": lambda s: setattr(type(s), "shared", 3.0),
}


@pytest.mark.parametrize("change", SCALES_CHANGE)
@pytest.mark.parametrize("held_by", ["method", "closure", "helper", "argument", "module"])
def test_number_of_an_object_changes(monkeypatch, change, held_by):
    monkeypatch.setattr(Scales, "shared", 1.0)
    monkeypatch.setattr(fc.optim.SGD, "steps", lambda self: None, raising=False)
    s = Scales()

    def use(x, scales):
        return scales.apply(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = s

        def forward(self, x):
            return self.scales.apply(x)

    fn = {
        "method": s.apply, "closure": lambda x: s.apply(x), "helper": lambda x: use(x, s), "module": Net(),
        "argument": lambda x, scales: scales.apply(x),
    }[held_by]  # fmt: skip
    step = fc.compile(fn)
    rest = (s,) if held_by == "argument" else ()
    for _ in range(3):
        assert step(fc.ones(2), *rest).tolist() == [2, 2]
        s.steps += 1  # nobody reads it, though the code reads an attribute of this name elsewhere
    SCALES_CHANGE[change](s)
    want = s.apply(fc.ones(2)).tolist()
    assert want != [2, 2] and step(fc.ones(2), *rest).tolist() == want and misses(step) == 2


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_function_and_array_in_a_container_replaced(kind):
    box = ["f", "a"] if kind == "list" else {}
    f, a = (0, 1) if kind == "list" else ("f", "a")
    box[f], box[a] = (lambda x: x * 2), np.ones(2, np.float32)
    step = fc.compile(lambda x: box[f](x) + box[a])
    assert step(fc.ones(2)).tolist() == [3, 3]
    box[f] = lambda x: x * 5
    assert step(fc.ones(2)).tolist() == [6, 6]
    box[a] = np.zeros(2, np.float32)
    assert step(fc.ones(2)).tolist() == [5, 5] and misses(step) == 3


def test_equal_containers_made_anew_are_no_condition():
    class Box:
        size, scales, named = (1.0, 2.0), [1.0], {"a": (1.0,)}

    box = Box()
    step = fc.compile(lambda x: x * box.size[1] * box.scales[0] * box.named["a"][0])
    for _ in range(4):
        box.size, box.scales, box.named = (1.0, 2.0), [1.0], {"a": (1.0,)}
        assert step(fc.ones(1)).tolist() == [2]
    assert misses(step) == 1
    box.scales[0] = 3.0  # the list that took the first one's place
    assert step(fc.ones(1)).tolist() == [6]
    box.size = (1.0, 5.0)
    assert step(fc.ones(1)).tolist() == [15] and misses(step) == 3


def test_a_key_that_is_new():
    box = {"w": 2.0}
    step = fc.compile(lambda x: x * box.get("bias", 1.0) * box["w"])
    assert step(fc.ones(1)).tolist() == [2]
    box["bias"] = 4.0
    assert step(fc.ones(1)).tolist() == [8]


def test_a_global_with_the_name_of_a_method_is_no_condition(monkeypatch):
    w = fc.ones(1).requires_grad_()
    opt = fc.optim.SGD([w], lr=0.5)

    @fc.compile
    def train(x):
        (w * x).sum().backward()
        opt.step()
        opt.zero_grad()

    for i in range(4):  # as in a script: for step in range(4): train(x)
        monkeypatch.setitem(globals(), "step", i)
        train(fc.ones(1))
    assert misses(train) == 1 and w.item() == -1


def test_requires_grad_of_a_closure_tensor_and_of_a_parameter():
    for w in (fc.ones(2).requires_grad_(), nn.Parameter(fc.ones(2))):

        def fn(x, w=w):
            y = (x * w).sum()
            return fc.grad(y, w)[0] if y.requires_grad else y.detach() * 0 - 1

        step = fc.compile(fn)
        assert step(fc.ones(2)).tolist() == [1, 1]
        w.requires_grad = False
        assert step(fc.ones(2)).tolist() == -1
        w.requires_grad = True
        assert step(fc.ones(2)).tolist() == [1, 1] and misses(step) == 2


def test_optimizer_gets_another_group():
    a, b = nn.Parameter(fc.ones(1)), nn.Parameter(fc.ones(1))
    opt = fc.optim.SGD([a], lr=0.5)

    @fc.compile
    def step(x):
        opt.zero_grad()
        loss = ((a + b) * x).sum()
        loss.backward()
        opt.step()
        return loss.detach()

    x = fc.ones(1)
    step(x)
    assert (a.item(), b.item()) == (0.5, 1)
    opt.add_param_group({"params": [b]})
    step(x)
    assert (a.item(), b.item()) == (0, 0.5)


@pytest.mark.parametrize("kind", [fc.optim.SGD, fc.optim.Adam])
def test_parameters_that_step_in_some_calls(kind):
    def train(compiled):
        a, b = nn.Parameter(fc.ones(2)), nn.Parameter(fc.ones(2))
        opt = kind([a, b], lr=0.1)

        def step(x, both):
            opt.zero_grad()
            loss = (a * a * x).sum()
            if both:
                loss = loss + (b * b * x).sum()
            loss.backward()
            opt.step()

        step = fc.compile(step) if compiled else step
        for both in (True, False, True, True, False, False, True):
            step(fc.tensor([1.0, 2.0]), both)
        return [*a.tolist(), *b.tolist()]

    assert train(True) == pytest.approx(train(False), rel=1e-6)


def test_what_the_function_assigns_is_no_condition():
    calls, last, net = 0, None, nn.Linear(2, 2)

    @fc.compile
    def step(x):
        nonlocal calls, last
        calls += 1
        net.calls = calls
        last = net(x)
        return last.detach()

    for _ in range(4):
        step(fc.ones(1, 2))
    assert calls == 1 and misses(step) == 1


def test_a_number_that_is_new_each_time_does_not_pile_up():
    scale = 0

    step = fc.compile(lambda x: x * scale, budget_bytes=1 << 12)
    for scale in range(100):
        assert step(fc.ones(2)).tolist() == [scale, scale]
    assert max(map(len, step._variants.values())) <= 32


class Scaled:
    """An object with a tensor, a number, one of its class, and a method and a property that read them."""

    offset = 0

    def __init__(self):
        self.weight, self.factor, self.inner = fc.ones(2), 2, None

    @property
    def twice(self):
        return self.factor * 2

    def apply(self, x):
        return x * self.weight * self.factor + self.offset

    @fc.compile
    def compiled(self, x):
        return self.apply(x) + self.twice

    def plain(self, x):
        return self.apply(x) + self.twice


@pytest.mark.parametrize("how", ["decorated", "bound", "argument", "closure"])
def test_attributes_of_objects_that_methods_read_are_watched(how):
    a, x = Scaled(), fc.ones(2)
    of_argument = fc.compile(lambda thing, x: thing.apply(x) + thing.twice)
    call = {
        "decorated": a.compiled, "bound": fc.compile(a.plain), "argument": functools.partial(of_argument, a),
        "closure": fc.compile(lambda x: a.apply(x) + a.twice),
    }[how]  # fmt: skip

    def check():
        for _ in range(2):
            assert call(x).tolist() == a.plain(x).tolist()

    check()
    a.factor = 3
    check()
    a.weight = fc.ones(2) * 10
    check()
    a.offset = 1
    check()
    del a.offset
    check()
    try:
        Scaled.offset = 5
        check()
    finally:
        Scaled.offset = 0


def by_factor(thing, x):
    return x * thing.factor


def test_attributes_that_a_helper_reads_of_its_arguments_are_watched():
    a, x = Scaled(), fc.ones(2)
    for step in (fc.compile(lambda x: by_factor(a, x)), functools.partial(fc.compile(by_factor_of), a)):
        for factor in (2, 3):
            a.factor = factor
            assert step(x).tolist() == [factor] * 2


def by_factor_of(thing, x):
    return by_factor(thing, x)


class Options:
    factor = 2


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.by_name, self.listed, self.thing = {"factor": 2}, [2], Scaled()

    def forward(self, x):
        return x * self.by_name["factor"] * self.listed[0] * self.thing.factor


def test_items_of_containers_and_members_of_classes_are_watched():
    numbers, named, things, seen, recent = [2], {"k": {"m": 2}}, [Scaled(), Scaled()], {1}, collections.deque([2, 3])
    holder, late = Holder(), {}

    def change(target, name, value):
        return lambda: setattr(target, name, value)

    cases = [
        (lambda x: x * numbers[0], lambda: numbers.__setitem__(0, 5)),
        (lambda x: x * len(numbers), lambda: numbers.append(1)),
        (lambda x: x * named["k"]["m"], lambda: named["k"].update(m=5)),
        (lambda x: x * late.get("factor", 1), lambda: late.update(factor=5)),
        (lambda x: x * sum(t.factor for t in things), change(things[1], "factor", 7)),
        (lambda x: x * len(seen), lambda: seen.add(2)),
        (lambda x: x * recent[0], lambda: recent.append(recent.popleft())),
        (lambda x: x * Options.factor, change(Options, "factor", 5)),
        (holder, lambda: holder.by_name.update(factor=5)),
        (holder, lambda: holder.listed.__setitem__(0, 5)),
        (holder, change(holder.thing, "factor", 5)),
        (holder, change(holder, "by_name", {"factor": 7})),
    ]
    x = fc.ones(2)
    for i, (fn, mutate) in enumerate(cases):
        step = fc.compile(fn)
        before = [step(x).tolist(), step(x).tolist()]
        assert misses(step) == 1, i
        mutate()
        assert step(x).tolist() == fn(x).tolist() != before[0], i
        assert before[0] == before[1] and misses(step) == 2, i


slope = 2


class Sloped(nn.Module):
    def __init__(self):
        super().__init__()
        self.options = {"factor": 2}

    def forward(self, x):
        return x * slope * self.options["factor"]


def test_what_modules_below_read_is_watched(monkeypatch):
    net, x = nn.Sequential(nn.Identity(), nn.Sequential(Sloped())), fc.ones(1)
    steps = [fc.compile(net), fc.compile(lambda x: net(x))]
    assert [step(x).item() for step in steps] == [4, 4]
    net[1][0].options["factor"] = 3
    assert [step(x).item() for step in steps] == [6, 6]
    monkeypatch.setitem(globals(), "slope", 5)
    assert [step(x).item() for step in steps] == [15, 15]


def test_objects_of_libraries_around_a_function_cost_little():
    logger, parser = logging.getLogger("fastcnn.tests"), argparse.ArgumentParser()
    options = argparse.Namespace(factor=2)

    @fc.compile
    def step(x, given):
        logger.debug("traced")
        return x * options.factor * given.factor + len(parser.prog) * 0

    given = types.SimpleNamespace(factor=1)
    assert step(fc.ones(1), given).item() == 2
    (((guards, _, _),),) = step._variants.values()
    assert len(guards._entries) < 30
    options.factor, given.factor = 3, 5
    assert step(fc.ones(1), given).item() == 15


def test_attributes_of_an_argument_that_is_no_function_of_its_own_are_watched():
    class Batch:
        def __eq__(self, other):  # so that it has no hash
            return self is other

    batch = Batch()
    batch.images, batch.scale = fc.ones(2), 2
    step = fc.compile(lambda b: b.images * b.scale)
    assert step(batch).tolist() == [2, 2]
    batch.images = fc.ones(2) * 3
    assert step(batch).tolist() == [6, 6]
    batch.scale = 4
    assert step(batch).tolist() == [12, 12]
    words = {1, 2}
    count = fc.compile(lambda x, words: x * len(words))
    assert count(fc.ones(1), words).item() == 2
    words.add(3)
    assert count(fc.ones(1), words).item() == 3


def test_negative_zero_is_another_constant_and_nan_is_one():
    zero = 0.0
    around, given = fc.compile(lambda x: x / zero), fc.compile(lambda x, by: x / fc.full((1,), by))
    assert around(fc.ones(1)).item() == given(fc.ones(1), 0.0).item() == float("inf")
    zero = -0.0
    assert around(fc.ones(1)).item() == given(fc.ones(1), -0.0).item() == -float("inf")
    for _ in range(3):
        zero = float("nan")
        around(fc.ones(1))
        given(fc.ones(1), float("nan"))
    assert misses(around) == misses(given) == 3


def test_constants_that_are_new_in_each_call_cost_no_memory():
    class Tag:  # compared by identity
        pass

    step = fc.compile(lambda x, *constants: x * constants[0])
    x, often = fc.ones(3), Tag()
    alive = []
    for i in range(400):
        tag = Tag()
        alive.append(weakref.ref(tag))
        assert step(x, i, tag).tolist() == [i] * 3
        assert step(x, 7, often).tolist() == [7] * 3  # its plan stays
    assert len(step._variants) <= 130 and len(step._results) <= 130
    del tag
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 130
    assert step.cache_info()["misses"] == 401


def test_the_compiled_function_and_its_module_can_die():
    def make():
        net = nn.Linear(2, 2)
        step = fc.compile(lambda x: net(x))
        step(fc.ones(1, 2))
        return weakref.ref(net)

    ref = make()
    gc.collect()
    assert ref() is None


def test_subclasses_of_dict_and_set_are_watched_as_what_they_are():
    options = collections.defaultdict(int, factor=2)

    class Names(set):
        def __init__(self, first, *others):
            super().__init__((first, *others))

    names, x = Names("a", "b"), fc.ones(1)
    step = fc.compile(lambda x: x * options["factor"] + len(names))
    assert step(x).item() == step(x).item() == 4 and misses(step) == 1
    options["factor"] = 5
    names.add("c")
    assert step(x).item() == 8 and misses(step) == 2
