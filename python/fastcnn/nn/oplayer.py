"""OpLayer: a layer that is one op plus its settings, declared by annotations as a dataclass is.

    class LeakyReLU(OpLayer, op="leaky_relu"):
        negative_slope: float = 0.01

gets __init__(self, negative_slope=0.01), forward(self, x), a repr and pickling. Not for layers with
parameters.
"""

from __future__ import annotations

from .._core import ops
from .module import Module

_REQUIRED = object()


def _compile(source, name, scope, cls):
    exec(source, scope)
    fn = scope[name]
    fn.__qualname__, fn.__module__ = f"{cls.__qualname__}.{name}", cls.__module__
    return fn


class OpLayer(Module):
    """Base of the declared layers; see the text at the top of this file.

    Class arguments: op: name in fastcnn.ops. inputs: names of forward's arguments. ignored: fields that are
    accepted for PyTorch's sake and not given to the op. training: give self.training to the op.
    Fields go to the op by name; `renamed` maps a field to another argument name.
    """

    _fields = ()
    _shown = ()

    def __init_subclass__(cls, op=None, inputs="x", ignored=(), training=False, renamed=None, **kwargs):
        super().__init_subclass__(**kwargs)
        if op is None:
            return
        fields = [n for n in cls.__dict__.get("__annotations__", {}) if not n.startswith("_")]
        defaults = {n: cls.__dict__.get(n, _REQUIRED) for n in fields}
        scope = {f"_{n}": v for n, v in defaults.items()} | {"op": getattr(ops, op)}
        args = "".join(f", {n}" if defaults[n] is _REQUIRED else f", {n}=_{n}" for n in fields)
        body = "".join(f"\n  self.{n} = {n}" for n in fields)
        if "__init__" not in cls.__dict__:
            source = f"def __init__(self{args}):{body}\n  self._check()"
            cls.__init__ = _compile(source, "__init__", scope, cls)
        if "forward" not in cls.__dict__:
            given = "".join(f", {(renamed or {}).get(n, n)}=self.{n}" for n in fields if n not in ignored) + (
                ", training=self.training" if training else ""
            )
            source = f"def forward(self, {inputs}):\n  return op({inputs}{given})"
            cls.forward = _compile(source, "forward", scope, cls)
            cls.forward.__doc__ = f"fastcnn.ops.{op} with the settings of this layer."
        cls._fields = tuple(fields)
        cls._shown = tuple(n for n in fields if n not in ignored)

    def _check(self):
        """Raises on settings that can never work; layers override it."""

    def extra_repr(self):
        return ", ".join(f"{n}={getattr(self, n)!r}" for n in self._shown)
