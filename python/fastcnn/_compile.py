"""fc.compile: keeps one tree of results per plan, checks what the trace depended on.

Tracing, planning and replaying are the core's (graph.h); this is not a second executor.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading

from . import _core
from ._grad_arguments import AlsoReached, GradArguments
from ._trace import Guards
from ._tree import flatten, flatten_result, unflatten

_MOST_VARIANTS = 32
_MOST_PLANS = 64


class CompiledFunction:
    """A function whose calls are traced once per input signature, planned and replayed. See fc.compile."""

    def __init__(self, fn, budget_bytes):
        self._fn, self._budget = fn, budget_bytes
        self._core = _core.Compiled(budget_bytes, _MOST_PLANS)
        # (structure, modes, which require gradients) -> list of (guards, key, constants, whose ids in the structure
        # stay theirs while they are here)
        self._variants = {}
        self._results = {}  # plan id -> (tree, constants, key of _variants, writes to arguments)
        self._number = itertools.count()
        # One call at a time, as in the core: a plan must not be found before its results are described here.
        self._lock = threading.RLock()
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, *args, **kwargs):
        if _core.is_tracing():  # inside another compiled function: its ops join that trace
            return self._fn(*args, **kwargs)
        with self._lock:
            return self._call(args, kwargs)

    def _call(self, args, kwargs):
        tensors, constants = [], []
        structure = flatten((args, kwargs), tensors, constants)
        modes = (_core.is_grad_enabled(), _core.ops.get_autocast_dtype())
        grads = GradArguments(tensors) if any([t.requires_grad for t in tensors]) else None
        which = (structure, modes) if grads is None else (structure, modes, grads.pattern)
        if len(self._variants) > 2 * _MOST_PLANS:
            self._forget_structures()
        variants = self._variants.setdefault(which, [])
        for variant in variants:
            if variant[0].hold() and (grads is None or grads.fit(variant[0])):
                guards, key, _ = variant
                break
        else:
            guards = key = None
        if grads is None:
            return self._run(which, tensors, constants, key, None)
        bound = grads.reached(Guards(self._fn, *constants).leaves()) if guards is None else guards.bound
        while True:
            try:
                return self._run(which, tensors, constants, key, grads.bind(bound))
            except AlsoReached as more:
                if guards is not None:
                    guards.around.update(more.args[0])  # it serves these arguments no longer
                bound, guards, key = {**bound, **grads.reached(more.args[0])}, None, None

    def _run(self, which, tensors, constants, key, grads):
        """Replays a plan for these arguments; traces one where there is none. key: None for variants that are new."""
        fresh = key is None
        if fresh:
            key = str(next(self._number)).encode()
        traced = {}

        def trace(symbols):
            around, given = {}, grads or GradArguments(tensors)
            guards = Guards(self._fn, *constants)
            with guards:
                values = given.symbols(symbols)
                a, k = unflatten(which[0], iter(values), iter(constants))
                result = self._fn(*a, **k)
            out, rest = [], []
            tree = flatten_result(result, out, rest)
            if grads is not None and _core.is_tracing():  # with FASTCNN_EAGER all is done
                around = guards.leaves()
                if not grads.reached(around).keys() <= grads.bound.keys():
                    raise AlsoReached(around)
            writes = given.leave(values, symbols, out)
            settled = guards.settle()
            if fresh:
                settled.around, settled.bound = around, given.bound
                variants = self._variants.setdefault(which, [])
                variants.append((settled, key, constants))
                del variants[:-_MOST_VARIANTS]  # a variable that is new in each call; the plans go by the budget
            traced["result"] = result
            return out, (tree, rest, which, writes)

        if grads is None:
            outputs, plan = self._core.call(key, tensors, trace, self._results)
        else:
            outputs, plan = self._core.call(key + b"/" + grads.key, grads.inputs(), trace, self._results)
        if plan == 0:  # FASTCNN_EAGER: there is no plan, the result is the function's own
            return traced["result"]
        if len(self._results) > 2 * _MOST_PLANS:
            self._results = {plan: self._results[plan] for plan in self._core.plan_ids()}
        tree, rest, _, writes = self._results[plan]
        if writes.steps:
            writes.apply(grads or GradArguments(tensors), outputs)
        return unflatten(tree, iter(outputs), iter(rest))

    def _forget_structures(self):
        """Leaves the arguments of plans that are kept: a constant that is new in each call must not cost memory."""
        kept = {self._results[plan][2] for plan in self._core.plan_ids() if plan in self._results}
        self._variants = {s: variants for s, variants in self._variants.items() if s in kept}

    def info(self):
        """Of the plan that ran last: arena_bytes, tensor_bytes (without reuse), output_bytes, traced_nodes, steps."""
        return self._core.info()

    def describe(self) -> str:
        """The steps of the plan that ran last: op, implementation, shapes, bytes, FLOPs."""
        return self._core.describe()

    def profile(self, *args, runs=5, peak_gflops=None, peak_gbs=None, **kwargs):
        """Calls the function with these arguments and measures each step of its plan: a ``Profile``.

        The calls are real ones: one to trace and warm up, then ``runs`` that are timed; a training step trains that
        often. Peaks of the machine (GFLOP/s, GB/s), where given, add each step's share of the roof.
        """
        from .profile import Profile

        if runs < 1:
            raise ValueError(f"profile: expected runs >= 1, got {runs}")
        self(*args, **kwargs)
        self._core.record_times(True)
        try:
            for _ in range(runs):
                self(*args, **kwargs)
        finally:
            self._core.record_times(False)
        counted = self._core.recorded_runs()
        if counted == 0:
            raise RuntimeError("profile: no plan was replayed (FASTCNN_EAGER is set, or inside another trace)")
        return Profile(self._core.steps(), counted, peak_gflops, peak_gbs)

    def cache_info(self):
        """hits, misses, evictions, plans, bytes, budget."""
        return self._core.cache_info()

    def reset(self) -> None:
        """Forgets all plans."""
        with self._lock:  # not while another thread runs one
            self._core.reset()
            self._variants.clear()
            self._results.clear()

    def __reduce__(self):
        """Plans stay behind. What a module names is pickled by that name and copied as itself, as functions are."""
        module, name = (getattr(self, key, None) for key in ("__module__", "__qualname__"))
        if name is not None and getattr(sys.modules.get(module), name, None) is self:
            return name
        return CompiledFunction, (self._fn, self._budget)

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self):
        return f"<compiled {getattr(self._fn, '__qualname__', self._fn)!r}>"


def compile(fn=None, *, budget_bytes=2 << 30):
    """Compiles a function or Module: traced once per input signature, then replayed as one plan.

    ``fn`` may do a whole training step: forward, loss, ``backward()``, ``optimizer.step()``. Tensors (and NumPy arrays)
    anywhere in its arguments may change from call to call; other arguments are constants, and a new value makes a new
    plan: another number, text, dtype or frozen dataclass, or another object of other kinds. Parameters, running
    statistics and learning rates are read and updated in place. Results do not carry gradients: differentiate inside
    ``fn``. They may stand in tuples, lists, dicts, namedtuples and dataclasses. Arguments that require gradients get
    theirs in ``.grad``, as in eager code. Code that looks at values (``item()``, ``if loss > 1``) raises ValueError.

    What ``fn`` reads besides its arguments is watched: a new plan is made when a module gets another parameter, buffer,
    child, hook, option or mode, when an optimizer gets another parameter list, and when a variable around the function
    (closure, global, attribute, item of a list or dict) is another tensor, module, function or number. Not seen, since
    no cheap look finds it: ``getattr`` with a computed name, ``__slots__``, containers of more than 4096 items, C
    extensions, NumPy arrays changing in place (their values are constants). What ``fn`` itself assigns outside is
    assigned when it is traced, not later.

    budget_bytes: how much memory the plans of this function may hold besides their temporaries, which all share:
    weights in the order of kernels. The least recently used plans go first, and those of more than 64 signatures.
    ``FASTCNN_EAGER=1`` in the environment runs everything eagerly. Usable as a decorator.
    """
    if fn is None:
        return functools.partial(compile, budget_bytes=budget_bytes)
    if not callable(fn):
        raise TypeError(f"compile: expected a function or Module, got {type(fn).__name__}")
    return CompiledFunction(fn, budget_bytes)
