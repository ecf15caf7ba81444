"""Arguments of compiled functions that require gradients: a call leaves in their .grad what eager code leaves there.

While a function is traced other tensors stand for its arguments: what .grad holds goes in as one more input, what the
function leaves there comes out as one more result, so a plan serves any tensors. Arguments that the function reaches in
another way too (its optimizer holds them) are read where they lie, as parameters around it are: a plan for them alone.
"""

from __future__ import annotations

from . import _core

_SWITCH, _NONE, _INPUT, _RESULT = range(4)


class AlsoReached(Exception):
    """A trace came upon arguments among the tensors around the function: it is made again."""


class GradArguments:
    """The tensors of one call, of which some require gradients."""

    def __init__(self, tensors):
        self.tensors, self.bound, self.old = tensors, {}, []
        first, pattern, self._leaves = {}, [], []
        for i, t in enumerate(tensors):
            if t.requires_grad:
                identity, leaf = hash(t), t.is_leaf
                # Of which argument is this the same tensor, and is it a leaf? Another pattern is another plan.
                pattern.append((i, first.setdefault(identity, i), leaf))
                if leaf:
                    self._leaves.append((i, identity))
        self.pattern = tuple(pattern)

    def reached(self, around):
        """{position: identity} of the leaves that are among the tensors around the function."""
        return {i: identity for i, identity in self._leaves if identity in around}

    def fit(self, guards):
        """May a plan with these guards, of which the arguments guards.bound lie outside of it, serve the call?"""
        return self.reached(guards.around) == guards.bound

    def bind(self, bound):
        """bound: {position: identity} of arguments that are read where they lie."""
        self.bound = bound
        self.old, key = [], bytearray()
        for i, first, leaf in self.pattern:
            if leaf and i == first and i not in bound:
                grad = self.tensors[i].grad
                key.append(grad is not None)
                if grad is not None:
                    self.old.append((i, grad))
        self.key = bytes(key)
        return self

    def inputs(self):
        """What a plan takes: the arguments, then the gradients that they have."""
        return [*self.tensors, *(g.detach() if g.requires_grad else g for _, g in self.old)]

    def symbols(self, symbols):
        """What the traced function gets for its arguments, made of what stands for inputs()."""
        values = list(symbols[: len(self.tensors)])
        if not _core.is_tracing():  # FASTCNN_EAGER: the arguments themselves
            return values
        for (i, _), g in zip(self.old, symbols[len(values) :], strict=True):
            values[i].grad = g
        for i, first, _ in self.pattern:
            values[i] = self.tensors[i] if i in self.bound else values[first]
        return values

    def leave(self, values, symbols, out):
        """After the trace: Writes; gradients that are no result yet are added to the results `out`."""
        writes = Writes()
        if not _core.is_tracing():
            return writes
        given = {hash(s): k for k, s in enumerate(symbols)}
        results = {hash(t): k for k, t in enumerate(out)}
        olds = {i: len(values) + k for k, (i, _) in enumerate(self.old)}
        for i, (t, value) in enumerate(zip(self.tensors, values, strict=True)):
            if i in self.bound or values[i] is not symbols[i] or not value.is_leaf:
                continue
            if value.requires_grad != t.requires_grad:  # requires_grad_() in the function
                writes.steps.append((i, _SWITCH, value.requires_grad))
            g = value.grad
            if g is None:
                if i in olds:
                    writes.steps.append((i, _NONE, None))
                continue
            if not t.is_leaf:
                raise ValueError(
                    f"compile: backward() reached an argument of shape {t.shape} that is the result of an operation "
                    "outside of the function, expected a leaf: gradients do not go on from there. Pass "
                    "t.detach().requires_grad_(), or move the operation into the function"
                )
            if hash(g) in given:
                if given[hash(g)] != olds.get(i):  # else it was added to in place
                    writes.steps.append((i, _INPUT, given[hash(g)]))
                continue
            k = results.setdefault(hash(g), len(out))
            if k == len(out):
                out.append(g)
            writes.steps.append((i, _RESULT, k))
        return writes


class Writes:
    """What happens to requires_grad and .grad of the arguments after each run of a plan."""

    def __init__(self):
        self.steps = []
        self._shared = None  # which results share memory: the same ones in every run

    def apply(self, grads, outputs):
        tensors = grads.tensors
        if self._shared is None:
            taken = {k for _, what, k in self.steps if what == _RESULT}
            self._shared = _overlapping(outputs, taken, grads.inputs())
        for i, what, value in self.steps:
            if what == _SWITCH:
                tensors[i].requires_grad = value
            elif what == _NONE:
                tensors[i].grad = None
            elif what == _INPUT:
                of = value - len(tensors)
                tensors[i].grad = tensors[value] if of < 0 else grads.old[of][1]
            else:  # a gradient must not share memory with other tensors: the next one is added to it in place
                tensors[i].grad = outputs[value].clone() if value in self._shared else outputs[value]


def _overlapping(outputs, taken, inputs):
    """Which of outputs[taken] lie in the memory of another output or of an input."""
    spans = [_span(t) for t in (*outputs, *inputs)]
    return {k for k in taken if any(spans[k][0] < b and a < spans[k][1] for n, (a, b) in enumerate(spans) if n != k)}


def _span(t):
    if t.numel() == 0:
        return 0, 0
    elements = 1 + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + elements * t.element_size()
