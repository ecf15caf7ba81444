"""Weights computed from other parameters: spectral_norm and weight_norm, under PyTorch's names of parameters.

The module becomes an instance of a subclass of its own class whose weight is a property, so that every reader of it
gets the computed tensor and optimizers see the parameters behind. Not a hook: nothing runs where nobody asks.
"""

from __future__ import annotations

import functools
import math

from .._core import ops
from .conv import ConvTranspose2d
from .module import Module
from .parameter import Parameter, no_grad


def _rows(weight, dim):
    """weight as a matrix whose rows are the slices of axis dim."""
    if dim:
        weight = weight.permute([dim, *(d for d in range(weight.ndim) if d != dim)])
    return weight.reshape((weight.shape[0], -1))


def _sum(x, dims):
    """Kept as 1; no dims is none here (a vector's own axis), while sum takes it for all."""
    return x.sum(dims, keepdim=True) if dims else x


def _unit(v, eps):
    return v / (v * v).sum().sqrt().clamp(min=eps)


class _Computed:
    """Mixin of modules with a computed weight; subclasses say how in _computed and forget in _settled."""

    def __reduce__(self):  # the class is made on demand: pickle and deepcopy find it by what it is made of
        base, mixin, name = self._made_of
        return _rebuild, (base, mixin, name), self.__dict__


class _SpectralNorm(_Computed):
    def _computed(self):
        u, v, w = (self._part(k) for k in ("_u", "_v", "_orig"))
        # Copies: the next forward moves the buffers before this one's gradient has read them.
        rows = _rows(w, self._spectral[2])
        return w / (u.clone() * ops.matmul(rows, v.clone())).sum()

    def _part(self, suffix):
        return self.__dict__[self._made_of[2] + suffix]

    def _iterate(self, iterations):
        """Power iteration: u and v move towards the singular vectors of the largest singular value."""
        _, eps, dim = self._spectral
        with no_grad():
            rows, u, v = _rows(self._part("_orig").detach(), dim), self._part("_u"), self._part("_v")
            left, right = u, v
            for _ in range(iterations):
                right = _unit(ops.matmul(rows.transpose(0, 1), left), eps)
                left = _unit(ops.matmul(rows, right), eps)
            if iterations:
                u.copy_(left)
                v.copy_(right)

    def forward(self, *args, **kwargs):
        """The layer's own forward with weight / sigma; in training the estimate of sigma is refined before."""
        if self.training:
            self._iterate(self._spectral[0])
        return super().forward(*args, **kwargs)

    def extra_repr(self):
        return ", ".join(filter(None, (super().extra_repr(), "spectral_norm")))


class _WeightNorm(_Computed):
    def _computed(self):
        name = self._made_of[2]
        g, v = self.__dict__[f"{name}_g"], self.__dict__[f"{name}_v"]
        if self._norm_dim is None:
            return v * (g / (v * v).sum().sqrt())
        others = [d for d in range(v.ndim) if d != self._norm_dim]
        return v * (g / _sum(v * v, others).sqrt())

    def extra_repr(self):
        return ", ".join(filter(None, (super().extra_repr(), "weight_norm")))


@functools.cache
def _class_of(base, mixin, name):
    return type(
        base.__name__, (mixin, base),
        {"_made_of": (base, mixin, name), name: property(lambda self: self._computed()), "__doc__": base.__doc__},
    )  # fmt: skip


def _rebuild(base, mixin, name):
    cls = _class_of(base, mixin, name)
    return cls.__new__(cls)


def _checked(op, module, name):
    """The Parameter of that name, or an exception that says what is wrong."""
    if not isinstance(module, Module):
        raise TypeError(f"{op}: expected a Module, got {type(module).__name__}")
    if isinstance(module, _Computed):
        raise ValueError(f"{op}: the {name} of this {type(module).__name__} is computed already")
    weight = module.__dict__.get(name)
    if not isinstance(weight, Parameter):
        raise ValueError(f"{op}: {type(module).__name__} has no parameter {name!r}")
    return weight


def _axis(op, module, weight, dim):
    dim = (1 if isinstance(module, ConvTranspose2d) else 0) if dim is None else dim
    if not -weight.ndim <= dim < weight.ndim:
        raise ValueError(f"{op}: expected dim of a weight of shape {tuple(weight.shape)}, got {dim}")
    return dim % weight.ndim


def spectral_norm(module, name="weight", n_power_iterations=1, eps=1e-12, dim=None):
    """Divides a layer's weight by its largest singular value (Miyato et al. 2018); returns the module.

    Args: name: of the parameter, (O, ...). n_power_iterations: per forward in training; in evaluation none. eps: least
    length that u and v are divided by. dim: the axis of outputs, default 1 of ConvTranspose2d, else 0.
    The module then has the parameter weight_orig and the buffers weight_u (O,) and weight_v; its weight is computed.
    Works under compile and to second order; several forwards in one step each refine the estimate. Made before
    optimizers, which would else hold the parameter that is gone.
    Raises: ValueError without such a parameter, or where it is computed already.
    """
    weight = _checked("spectral_norm", module, name)
    if n_power_iterations < 0 or eps <= 0:
        raise ValueError(
            f"spectral_norm: expected n_power_iterations >= 0 and eps > 0, got {n_power_iterations} and {eps}"
        )
    dim = _axis("spectral_norm", module, weight, dim)
    rows, columns = weight.shape[dim], math.prod(weight.shape) // weight.shape[dim]
    device = str(weight.device)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    for suffix, size in (("_u", rows), ("_v", columns)):
        start = _unit(ops.randn((size,), device=device), eps).to(weight.dtype)
        module.register_buffer(name + suffix, start)
    module._spectral = (n_power_iterations, eps, dim)
    module.__class__ = _class_of(type(module), _SpectralNorm, name)
    module._iterate(15)  # a first estimate that is near, as PyTorch's parametrization makes it
    return module


def weight_norm(module, name="weight", dim=0):
    """Length and direction of a layer's weight as parameters of their own (Salimans and Kingma 2016); returns module.

    weight = weight_g * weight_v / |weight_v|, lengths over all axes but dim (None: one length in all).
    Raises: ValueError without such a parameter, or where it is computed already.
    """
    weight = _checked("weight_norm", module, name)
    dim = None if dim is None else _axis("weight_norm", module, weight, dim)
    with no_grad():
        w = weight.detach()
        others = [d for d in range(w.ndim) if d != dim]
        length = ((w * w).sum() if dim is None else _sum(w * w, others)).sqrt()
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(length))
    module.register_parameter(f"{name}_v", weight)
    module._norm_dim = dim
    module.__class__ = _class_of(type(module), _WeightNorm, name)
    return module


def _remove(op, module, mixin, name, gone):
    if not isinstance(module, mixin) or module._made_of[2] != name:
        raise ValueError(f"{op}: {type(module).__name__} has no {name!r} of that kind")
    with no_grad():
        weight = Parameter(getattr(module, name).detach().clone())
    module.__class__ = module._made_of[0]
    for suffix in gone:
        delattr(module, name + suffix)
    setattr(module, name, weight)
    return module


def remove_spectral_norm(module, name="weight"):
    """Makes the computed weight an ordinary parameter again, a new one; returns the module."""
    return _remove("remove_spectral_norm", module, _SpectralNorm, name, ("_orig", "_u", "_v"))


def remove_weight_norm(module, name="weight"):
    """As remove_spectral_norm, for weight_norm."""
    return _remove("remove_weight_norm", module, _WeightNorm, name, ("_g", "_v"))
