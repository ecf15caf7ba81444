"""Activations that exporters write as several nodes become one op again, which plans fuse into the convolution before.

x * sigmoid(x), x * clip(x + 3, 0, 6) / 6, x * hardsigmoid(x), x * tanh(softplus(x)), x * (1 + erf(x / sqrt(2))) / 2, in
any order of factors. Only values that nobody else reads are taken; everything else stays as it is.
"""

from __future__ import annotations

import math

from ._registry import op, ops, same

_FUSED = {"(silu)": ops.silu, "(hardswish)": ops.hardswish, "(mish)": ops.mish, "(gelu)": ops.gelu}


def _register(name, function):
    @op(name)
    def run(call):
        return function(call.tensor(0))


for _name, _function in _FUSED.items():
    _register(_name, _function)


class _Matcher:
    def __init__(self, nodes, constants, outputs):
        self.makers = {name: n for n in nodes for name in n.outputs if name}
        self.constants, self.uses, self.gone = constants, {}, []
        for n in nodes:
            for name in n.inputs:
                self.uses[name] = self.uses.get(name, 0) + 1
        for name in outputs:
            self.uses[name] = self.uses.get(name, 0) + 2  # never taken away

    def made_by(self, name, *kinds):
        """The node of such an op that makes a name which is read once, else None."""
        node = self.makers.get(name)
        return node if node is not None and node.op in kinds and self.uses.get(name) == 1 else None

    def is_number(self, name, value):
        """Is a name a floating constant of one element, of this value? Of integers no activation is made, and one of
        shape (1, 1, 1, 1) may give the result more axes than x has."""
        array = self.constants.get(name)
        fits = array is not None and array.size == 1 and array.ndim <= 1 and array.dtype.kind not in "iub"
        return fits and same(array.reshape(-1)[0], value)

    def other(self, node, value):
        """The operand of a node of two whose other operand is that constant, else None."""
        a, b = node.inputs
        return a if self.is_number(b, value) else b if self.is_number(a, value) else None


def _pairs(names):
    return ((names[0], names[1]), (names[1], names[0])) if len(names) == 2 else ()


def _gate(m, name, x):
    """(op, nodes) if a name is the factor of an activation of x."""
    n = m.made_by(name, "Sigmoid")
    if n is not None and n.inputs == [x]:
        return "(silu)", [n]
    n = m.made_by(name, "HardSigmoid")
    slope = (n.attrs.get("alpha", 0.2), n.attrs.get("beta", 0.5)) if n else (0, 0)
    if n and n.inputs == [x] and same(slope[0], 1 / 6) and same(slope[1], 0.5):
        return "(hardswish)", [n]
    n = m.made_by(name, "Tanh")
    inner = n and m.made_by(n.inputs[0], "Softplus")
    if inner and inner.inputs == [x]:
        return "(mish)", [n, inner]
    n = m.made_by(name, "Div")
    if n is not None and m.is_number(n.inputs[1], 6):
        inside = _ramp(m, n.inputs[0], x)
        return inside and ("(hardswish)", [n, *inside])
    return None


def _ramp(m, name, x):
    """The nodes of clip(x + 3, 0, 6)."""
    clip = m.made_by(name, "Clip")
    if clip is None:
        return None
    limits = [m.is_number(n, v) for n, v in zip(clip.inputs[1:], (0, 6), strict=False)]
    if limits != [True, True] and (len(clip.inputs) > 1 or clip.attrs.get("min") != 0 or clip.attrs.get("max") != 6):
        return None
    add = m.made_by(clip.inputs[0], "Add")
    return [clip, add] if add is not None and m.other(add, 3) == x else None


def _erf(m, name, x):
    """The nodes of 1 + erf(x / sqrt(2))."""
    add = m.made_by(name, "Add")
    bell = add and m.other(add, 1)
    bell = bell and m.made_by(bell, "Erf")
    scaled = bell and m.made_by(bell.inputs[0], "Div", "Mul")
    if not scaled:
        return None
    if scaled.op == "Div":
        right = scaled.inputs[0] == x and m.is_number(scaled.inputs[1], math.sqrt(2))
    else:
        right = m.other(scaled, 1 / math.sqrt(2)) == x
    return [add, bell, scaled] if right else None


def _match(m, node):
    """(op, x, nodes that go) where a node ends an activation."""
    if node.op == "Mul":
        for x, factor in _pairs(node.inputs):
            found = _gate(m, factor, x)
            if found:
                return found[0], x, found[1]
        half = m.other(node, 0.5)  # (x * (1 + erf)) * 0.5
        product = half and m.made_by(half, "Mul")
        for x, factor in _pairs(product.inputs) if product else ():
            inside = _erf(m, factor, x)
            if inside:
                return "(gelu)", x, [product, *inside]
        for halved, factor in _pairs(node.inputs):  # (x * 0.5) * (1 + erf)
            scaled = m.made_by(halved, "Mul")
            x = scaled and m.other(scaled, 0.5)
            inside = x and _erf(m, factor, x)
            if inside:
                return "(gelu)", x, [scaled, *inside]
    if node.op == "Div" and m.is_number(node.inputs[1], 6):
        product = m.made_by(node.inputs[0], "Mul")
        for x, factor in _pairs(product.inputs) if product else ():
            inside = _ramp(m, factor, x)
            if inside:
                return "(hardswish)", x, [product, *inside]
    return None


def rewrite(nodes, constants, outputs):
    """The nodes with activations joined. constants: {name: array}; nodes that end one are changed in place."""
    m = _Matcher(nodes, constants, outputs)
    gone = set()
    for node in nodes:
        found = _match(m, node)
        if found:
            node.op, x, dropped = found[0], found[1], found[2]
            for n in (node, *dropped):
                for name in n.inputs:
                    m.uses[name] -= 1
            m.uses[x] = m.uses.get(x, 0) + 1
            node.inputs, node.attrs = [x], {}
            gone.update(map(id, dropped))
    return [n for n in nodes if id(n) not in gone]
