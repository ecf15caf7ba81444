"""What goes into a compiled function and comes out of it: gradients of arguments, kinds of containers, constants."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import os
import subprocess
import sys
import time
import types
import typing

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import nn


def misses(step):
    return step.cache_info()["misses"]


def leaf(*values):
    return fc.tensor(list(values), requires_grad=True)


def in_place(w, x):
    (w * x).sum().backward()
    (w * w).sum().backward()
    with fc.no_grad():
        w -= 0.5 * w.grad


def cleared(w, x):
    w.grad = None
    (w * x).sum().backward()
    return w.grad * 2


def dropped(w, x):
    (w * x).sum().backward()
    got, w.grad = w.grad, None
    return got


def assigned(w, x):
    w.grad = x


def scaled(w, x):
    (w * x).sum().backward()
    w.grad.mul_(0.5)
    return w.grad


def twice_in_a_row(w, x):
    for _ in range(2):
        (w * x).sum().backward()


GRADS = [lambda w, x: (w.sum() * 2).backward(), in_place, cleared, dropped, assigned, scaled, twice_in_a_row]


@pytest.mark.parametrize("fn", GRADS)
@pytest.mark.parametrize("preset", [False, True])
def test_gradients_of_arguments_are_those_of_eager_code(fn, preset):
    step = fc.compile(fn)
    for call in range(3):  # other tensors each time, each given twice
        ours, theirs = leaf(1.0 + call, 2.0), leaf(1.0 + call, 2.0)
        x = fc.tensor([3.0, 4.0 + call])
        if preset:
            ours.grad, theirs.grad = fc.full((2,), 10.0), fc.full((2,), 10.0)
        for _ in range(2):
            got, want = step(ours, x), fn(theirs, x)
            assert (got is None) == (want is None) and (got is None or got.tolist() == want.tolist())
            assert ours.tolist() == theirs.tolist()
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or ours.grad.tolist() == theirs.grad.tolist()
    assert misses(step) <= 2  # without and with gradients to begin with


def test_a_gradient_that_is_there_is_added_to_in_place():
    w, step = leaf(1.0, 2.0), fc.compile(lambda w: (w.sum() * 2).backward())
    step(w)
    first = w.grad
    step(w)
    assert first.tolist() == w.grad.tolist() == [4, 4]


def test_gradients_of_arguments_have_memory_of_their_own():
    a, b, g = leaf(1.0, 1.0), leaf(2.0, 2.0), fc.ones(2)
    step = fc.compile(lambda a, b, g: (a + b).backward(g))
    for given in (g, fc.ones(2)):
        a.grad = b.grad = None
        step(a, b, given)
        a.grad.fill_(7)
        assert b.grad.tolist() == [1, 1] and given.tolist() == [1, 1]


def test_one_tensor_given_twice_has_one_gradient():
    fn = lambda a, b: (a * 2 + b * 3).sum().backward()  # noqa: E731
    step, w, v = fc.compile(fn), leaf(1.0), leaf(1.0)
    step(w, w)
    assert w.grad.tolist() == [5]
    step(w, v)
    assert w.grad.tolist() == [7] and v.grad.tolist() == [3]


def sum_and_step(opt, w, x):
    opt.zero_grad()
    (w * x).sum().backward()
    opt.step()


def test_an_optimizer_steps_parameters_that_are_arguments():
    x, nets = fc.tensor([[1.0, 2.0]]), [nn.Linear(2, 2) for _ in range(3)]
    nets[1].load_state_dict(nets[0].state_dict())
    opts = [fc.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]

    def make(opt):
        def step(params, x):
            opt.zero_grad()
            loss = (fc.ops.linear(x, params["weight"], params["bias"]) ** 2).sum()
            loss.backward()
            opt.step()
            return loss.detach()

        return step

    compiled, eager = fc.compile(make(opts[0])), make(opts[1])
    for _ in range(4):
        got, want = (f(dict(n.named_parameters()), x) for f, n in zip((compiled, eager), nets))
        assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert misses(compiled) == 1
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert ours.flatten().tolist() == pytest.approx(theirs.flatten().tolist(), rel=1e-5)
    before = nets[0].weight.tolist()
    for _ in range(2):  # parameters that the optimizer does not hold: they get gradients, and stay
        compiled(dict(nets[2].named_parameters()), x)
    assert nets[0].weight.tolist() == before and nets[2].weight.grad is not None and misses(compiled) == 3


@pytest.mark.parametrize("held_by", ["argument", "closure", "computed name", "list of leaves"])
def test_optimizers_find_arguments_however_they_are_reached(held_by):
    w = leaf(1.0)

    class Holder:
        opt = fc.optim.SGD([w], lr=1.0)

    opt = Holder.opt
    step = {
        "argument": lambda w, x: step_with(opt, w, x),
        "closure": fc.compile(lambda w, x: sum_and_step(opt, w, x)),
        "computed name": fc.compile(lambda w, x: sum_and_step(getattr(Holder, "".join("opt")), w, x)),
        "list of leaves": lambda w, x: of_list([w], x),
    }[held_by]
    step_with = fc.compile(sum_and_step)
    of_list = fc.compile(lambda ws, x: sum_and_step(opt, ws[0], x))
    for want in (-2.0, -5.0, -8.0):
        step(w, fc.tensor([3.0]))
        assert w.item() == want
    other = leaf(1.0)  # not one of the optimizer's
    step(other, fc.tensor([3.0]))
    assert other.item() == 1 and other.grad.item() == 3
    step(w, fc.tensor([3.0]))
    assert w.item() == -11


def test_an_argument_that_is_also_around_the_function_has_one_gradient():
    w, v = leaf(1.0), leaf(1.0)
    step = fc.compile(lambda a: (a * 2 + w * 3).sum().backward())
    for given, want in ((v, (3, 2)), (w, (8, 2)), (v, (11, 4)), (w, (16, 4))):
        step(given)
        assert (w.grad.item(), v.grad.item()) == want


def test_a_gradient_that_would_have_to_go_on_is_refused():
    w = leaf(1.0, 2.0)
    step = fc.compile(lambda x: x.sum().backward())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shape \(2,\) that is the result of an operation.*expected a leaf"):
            step(w * 2)
    assert w.grad is None
    assert fc.compile(lambda x: fc.grad((x * x).sum(), x)[0])(w * 2).tolist() == [4, 8]  # ends there anyway


def test_an_argument_that_is_made_a_leaf_inside_gets_its_gradient():
    def fn(x):
        x.requires_grad_()
        (x * 3).sum().backward()
        return x.grad

    step = fc.compile(fn)
    for _ in range(3):
        x = fc.ones(2)
        assert step(x).tolist() == x.grad.tolist() == [3, 3] and x.requires_grad
    assert misses(step) == 1


def test_gradients_of_arguments_after_errors_and_under_other_shapes():
    step = fc.compile(lambda w, y: fc.ops.cross_entropy(w, y).backward())
    for n in (2, 4, 2):
        w, y = fc.zeros(n, 2, requires_grad=True), fc.zeros(n, dtype=fc.int64)
        with pytest.raises(IndexError):
            step(w, y + 9)
        assert w.grad is None
        step(w, y)
        assert w.grad.tolist() == [[-0.5 / n, 0.5 / n]] * n


def test_gradients_of_arguments_when_all_runs_eagerly():
    code = """
import fastcnn as fc
w = fc.ones(1, requires_grad=True)
hidden = {"opt": fc.optim.SGD([w], lr=1.0)}
@fc.compile
def step(w, x):
    (w * x).sum().backward()
    hidden[''.join('opt')].step()
for _ in range(2):
    step(w, fc.ones(1))
print(w.item(), w.grad.item())
"""
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(fc.__file__)), "FASTCNN_EAGER": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.stdout.split() == ["-2.0", "2.0"], done.stderr


class Alike:
    """Says that all of its kind are equal."""

    def __init__(self, factor):
        self.factor = factor

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: {v}, lambda v: {v: 1}])
def test_objects_that_call_themselves_equal_are_told_apart(wrap):
    def factor(held):
        if isinstance(held, Alike):
            return held.factor
        return factor(held["k"] if isinstance(held, dict) and "k" in [*map(str, held)] else next(iter(held)))

    step = fc.compile(lambda x, held: x * factor(held))
    two, three = wrap(Alike(2.0)), wrap(Alike(3.0))
    for _ in range(2):
        assert step(fc.ones(1), two).item() == 2 and step(fc.ones(1), three).item() == 3
    assert misses(step) == 2


class Mode(enum.IntEnum):
    TWICE = 2


@dataclasses.dataclass(frozen=True)
class Options:
    factor: float
    names: tuple = ()


def test_plain_values_made_anew_are_the_same_constant():
    step, x = fc.compile(lambda x, *rest: x * 2), fc.ones(1)

    def values():
        n = int("300")
        return [
            n, str(n), str(n).encode(), float(n), complex(n, 1), None, ..., range(n), slice(n), (n, (n,)), Mode(2),
            frozenset((n, "a")), {n, "a"}, fc.dtype("int8"), fc.ones(1).device, np.float32(n), np.float64("nan"),
            np.int64(n), Options(float(n), (n,)), x.numpy, misses, {n: n, (n, "a"): 1},
        ]  # fmt: skip

    for i, value in enumerate(values()):
        step(x, value)
        step(x, values()[i])
        assert misses(step) == i + 1, value
    for value in (True, 300.5, "301", -0.0, 0.0, np.int32(300), Options(300.0, (300.0,)), {300.0: 300}):
        before = misses(step)
        step(x, value)
        assert misses(step) == before + 1, value


class Named(dict):
    """A dict with attributes, one of them a tensor, which its __init__ cannot do without."""

    def __init__(self, name, **items):
        super().__init__(**items)
        self.name, self.scale = name, fc.ones(1)


class Dotted(dict):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__ = self


class Boxes(list):
    pass


class Size(tuple):
    def __new__(cls, a, b):
        return super().__new__(cls, (a, b))


class Pair(typing.NamedTuple):
    a: object
    b: object = None


def boxes(*values):
    held = Boxes(values)
    held.label = "cat"
    return held


def test_ordered_dicts_and_their_like_arrive_and_return_as_what_they_are():
    def fn(held):
        assert type(held) is type(given)
        if isinstance(held, collections.OrderedDict):
            held.move_to_end("a")
        if isinstance(held, collections.defaultdict):
            held["new"] = held["missing"] + held["a"]
        if isinstance(held, Named):
            held["scaled"] = held["a"] * held.scale
        if isinstance(held, Dotted):
            held.b = held.a * 2
        if isinstance(held, collections.Counter):
            assert held["missing"] == 0
        return held

    def make(x):
        return [
            collections.OrderedDict(a=x, b=x + 1), collections.defaultdict(lambda: 2, a=x), Named("it", a=x),
            Dotted(a=x), collections.Counter({"a": x}), {"a": x}, boxes(x, x + 1), Size(x, 3), Pair(x), Pair(x, [x]),
            time.localtime(0), [x], (x, 2),
        ]  # fmt: skip

    step = fc.compile(fn)
    for i in range(len(make(0))):
        for n in (1.0, 2.0):
            given, want = make(fc.full((1,), n))[i], make(fc.full((1,), n))[i]
            if isinstance(want, Named):
                given.scale, want.scale = fc.full((1,), n), fc.full((1,), n)
            got, want = step(given), fn(want)
            assert type(got) is type(want) and len(got) == len(want)
            if isinstance(want, dict):
                assert list(got) == list(want)
                assert all(float(v) == float(got[k]) for k, v in want.items())
            else:
                assert repr(got) == repr(want)
            if isinstance(want, Named):
                assert got.name == "it" and got.scale.item() == n
            if isinstance(want, Dotted):
                assert got.b.item() == got["b"].item() == 2 * n
            if isinstance(want, Boxes):
                assert got.label == "cat"
            if isinstance(want, collections.defaultdict):
                assert got["absent"] == 2


def test_what_a_dict_has_besides_its_items_decides_which_plan_is_used():
    step = fc.compile(lambda held: held["a"] * (2 if held.name == "double" else 1))
    for name, want in (("double", 2), ("single", 1), ("double", 2)):
        assert step(Named(name, a=fc.ones(1))).item() == want
    assert misses(step) == 2
    given = fc.compile(lambda held: held["missing"] * held["a"])
    for n in (2, 3):
        assert given(collections.defaultdict(lambda n=n: n, a=fc.ones(1))).item() == n


@dataclasses.dataclass
class Output:
    loss: object
    parts: list = dataclasses.field(default_factory=list)
    seen: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass(frozen=True)
class Frozen:
    y: object
    inner: object = None


@dataclasses.dataclass
class Slots:
    __slots__ = ("y", "name")
    y: object
    name: str


def test_dataclasses_return_with_the_tensors_of_their_call():
    def fn(x):
        out = Output(x * 2, [x, "name", Frozen(x + 1, Pair(x))])
        out.seen, out.extra = 3, x - 1
        return out, Slots(x * 3, "slots"), Options(2.0)

    step = fc.compile(fn)
    for n in (1.0, 5.0):
        x = fc.full((2,), n)
        assert repr(step(x)) == repr(fn(x)) and step(x)[0].extra.tolist() == [n - 1] * 2
    assert type(step(x)[0]) is Output and step(x)[0] is not step(x)[0] and misses(step) == 1


class Plain:
    def __init__(self, y):
        self.y = y


class WithSlots:
    __slots__ = ("y",)

    def __init__(self, y):
        self.y = y


HIDING = {
    "Plain": Plain, "WithSlots": WithSlots, "SimpleNamespace": lambda y: types.SimpleNamespace(a=[y]),
    "set": lambda y: {y}, "frozenset": lambda y: frozenset((y,)), "deque": lambda y: collections.deque([y]),
    "function": lambda y: lambda: y * 2, "partial": lambda y: functools.partial(fc.ops.add, y),
    "generator": lambda y: (v for v in [y]), "list_iterator": lambda y: iter([y]), "map": lambda y: map(abs, [y]),
    "method": lambda y: Plain(y).__init__, "mappingproxy": lambda y: types.MappingProxyType({"a": y}),
    "UserDict": lambda y: collections.UserDict(a=y), "Tensor": lambda y: {y: 1}, "tuple": lambda y: {(1, y): 1},
}  # fmt: skip


@pytest.mark.parametrize("name", HIDING)
def test_a_result_that_hides_traced_tensors_is_refused_when_it_is_traced(name):
    step = fc.compile(lambda x: HIDING[name](x * 2))
    for _ in range(2):
        with pytest.raises(TypeError, match=rf"compile.*returned a {name} with traced tensors.*dataclasses"):
            step(fc.ones(2))
    inside = fc.compile(lambda x: Output([Plain(x * 2)]))
    with pytest.raises(TypeError, match="returned a Plain with"):
        inside(fc.ones(2))


def test_results_without_traced_tensors_are_any_objects():
    w, net = fc.ones(1), nn.Linear(1, 1)
    kept = [
        Plain(w),
        {1, "a"},
        collections.deque([w]),
        lambda: w,
        net,
        Output(w),
        fc.optim.SGD([w]),
        np.float32,
        np,
        len,
    ]
    step = fc.compile(lambda x: (x * 2, *kept))
    for _ in range(2):
        first, *rest = step(fc.ones(1))
        assert first.item() == 2 and all(a is b for a, b in zip(rest, kept, strict=True))


def test_weights_that_another_plan_changes_are_made_ready_anew():
    w, x = fc.ones(4, 4, 3, 3), fc.ones(1, 4, 8, 8)
    convolve = fc.compile(lambda x: fc.ops.conv2d(x, w))
    assert convolve(x).amax().item() == 36
    fc.compile(lambda t: t.mul_(2))(w)
    assert convolve(x).amax().item() == 72


def test_gradients_of_leaves_share_no_memory():
    a, b, g = fc.ones(3, requires_grad=True), fc.ones(3, requires_grad=True), fc.ones(3)
    step = fc.compile(lambda g: (a + b).backward(g))
    step(g)
    a.grad.fill_(7)
    assert g.tolist() == [1, 1, 1] and b.grad.tolist() == [1, 1, 1]
    step(g)
    assert a.grad.tolist() == [8, 8, 8] and b.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize("outputs", [3, [3]])
def test_grad_of_no_tensor_is_refused(outputs):
    with pytest.raises(TypeError, match="grad: expected outputs as a tensor or a sequence of tensors, got 3"):
        fc.grad(outputs, fc.ones(1, requires_grad=True))


def test_gradients_within_a_plan_share_no_memory():
    def run(compiled):
        a, b, k = leaf(1.0), leaf(1.0), fc.tensor([3.0])

        def step():
            ((a + b) * k).sum().backward()
            ((a * 2 + b) * k).sum().backward()

        (fc.compile(step) if compiled else step)()
        return a.grad.tolist(), b.grad.tolist()

    assert run(True) == run(False) == ([9], [6])


def test_gradients_handed_in_stay_as_they_are():
    p = leaf(1.0, 1.0)

    def step(g, h):
        p.grad = None
        p.backward(g)
        p.backward(h)

    g, h = fc.ones(2), fc.ones(2) * 5
    fc.compile(step)(g, h)
    assert g.tolist() == [1, 1] and p.grad.tolist() == [6, 6]


def test_gradients_that_are_one_are_clipped_once():
    def losses(compiled):
        fc.manual_seed(1)
        a, b = fc.zeros(4).requires_grad_(), fc.zeros(4).requires_grad_()
        w, x = fc.randn(4, 2).requires_grad_(), fc.randn(8, 4)
        optimizer = fc.optim.SGD([a, b, w], 0.1)

        def step():
            optimizer.zero_grad()
            loss = (((x + a + b) @ w) ** 2).mean()
            loss.backward()
            nn.utils.clip_grad_norm_([a, b, w], 0.5)
            optimizer.step()
            return loss

        step = fc.compile(step) if compiled else step
        return [step().item() for _ in range(4)]

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-5)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Lion", "LAMB", "LARS"])
def test_two_steps_of_an_optimizer_in_one_plan_are_two_steps(name):
    def run(compiled):
        p = leaf(1.0, 2.0)
        optimizer = getattr(fc.optim, name)([p], lr=0.1)

        def step():
            for _ in range(2):
                optimizer.zero_grad()
                (p**3).sum().backward()
                optimizer.step()

        step = fc.compile(step) if compiled else step
        step()
        step()
        return p.tolist()

    np.testing.assert_allclose(run(True), run(False), rtol=1e-5)


def test_gradients_may_move_within_a_flat_tensor():
    flat, p, x = fc.zeros(4), leaf(1.0, 1.0), fc.tensor([1.0, 2.0])
    step = fc.compile(lambda x: (p * x).sum().backward())
    for part in (flat[:2], flat[2:], flat[:2]):
        p.grad = part
        step(x)
    assert flat.tolist() == [2, 4, 1, 2]
