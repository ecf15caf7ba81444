"""Parameter, a tensor that a Module trains, and the scope without gradients used inside nn."""

from __future__ import annotations

from .. import _core
from .._trace import bump
from ..safetensors import bits_of, from_bits


class no_grad:
    """Scope in which ops are not recorded for gradients."""

    def __enter__(self):
        self._saved = _core.set_grad_enabled(False)

    def __exit__(self, *exc):
        _core.set_grad_enabled(self._saved)


def empty(shape, device=None, dtype=None):
    """Uninitialised tensor; device and dtype as everywhere, None for the defaults (CPU, float32)."""
    return _core.empty(tuple(shape), dtype=dtype, device=device)


_requires_grad = _core.Tensor.requires_grad


class Parameter(_core.Tensor):
    """A tensor that becomes part of Module.parameters() when it is set as an attribute of a module.

    Args: data: Tensor, whose memory is shared, or anything fc.tensor takes. requires_grad: default True.
    """

    def __init__(self, data, requires_grad=True):
        data = data.detach() if isinstance(data, _core.Tensor) else _core.tensor(data)
        super().__init__(data)
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self):
        """Does backward fill its gradient?"""
        return _requires_grad.__get__(self)

    @requires_grad.setter
    def requires_grad(self, on):
        _requires_grad.__set__(self, on)
        bump()  # compiled steps look again

    def requires_grad_(self, requires_grad=True):
        """Sets requires_grad and returns the parameter itself."""
        self.requires_grad = requires_grad
        return self

    def __repr__(self):
        return "Parameter containing:\n" + super().__repr__()

    def __deepcopy__(self, memo):
        return Parameter(self.detach().clone(), self.requires_grad)

    def __reduce__(self):
        return _rebuild_parameter, (bits_of(self), str(self.dtype), str(self.device), self.requires_grad)


def _rebuild_parameter(bits, dtype, device, requires_grad):
    return Parameter(from_bits(bits, dtype).to(device), requires_grad)
