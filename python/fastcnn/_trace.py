"""What a compiled function depends on besides its tensors: the flags of the modules it calls."""

from __future__ import annotations

import threading
import weakref

from . import _core

_active = threading.local()


class Guards:
    """Modules called while one function was traced, with the flags that each had."""

    def __init__(self):
        self.modules = {}

    def __enter__(self):
        from .nn.module import set_call_observer  # calls are watched only while a trace is on

        self._outer = getattr(_active, "guards", None)
        _active.guards = self
        self._observer = set_call_observer(note_module)
        return self

    def __exit__(self, *exc):
        _active.guards = self._outer
        from .nn.module import set_call_observer

        set_call_observer(self._observer)

    def freeze(self):
        return Frozen([(weakref.ref(m), flags) for m, flags in self.modules.values()])


class Frozen:
    """The flags that one plan has baked in. They are compared anew only after some module or leaf changed a flag."""

    def __init__(self, guards):
        self.guards, self.held_at = guards, None

    def hold(self) -> bool:
        """Are all modules as they were when the plan was traced?"""
        now = changes[0], requires_grad_changes()
        if now == self.held_at:
            return True
        for ref, flags in self.guards:
            module = ref()
            if module is None or flags_of(module) != flags:
                return False
        self.held_at = now
        return True


changes = [0]  # counts new values of `training` and new parameters, of any module
requires_grad_changes = _core.requires_grad_changes


def flags_of(module):
    """What a plan bakes in: training or evaluation, and which parameters get gradients."""
    return module.training, [p.requires_grad for p in module.parameters(recurse=False)]


def note_module(module) -> None:
    """Called by Module.__call__ while a trace is on."""
    guards = getattr(_active, "guards", None)
    if guards is not None:
        guards.modules.setdefault(id(module), (module, flags_of(module)))
