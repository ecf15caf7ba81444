"""LARS (You, Gitman and Ginsburg 2017) and LAMB (You et al. 2020): a rate for each layer, for large batches.

Both scale the step of a tensor by the ratio of two norms. They are made of the core's ops and its fused SGD and Adam
steps: a few passes over the weights more than those.
"""

from __future__ import annotations

from .. import _core
from .adam import Adam
from .optimizer import Optimizer, check_range

_where, _zeros_like = _core.ops.where, _core.ops.zeros_like


def _ratio(of, to):
    """of / to, or 1 where one of them is 0."""
    return _where((of > 0).logical_and(to > 0), of / _where(to > 0, to, 1.0), 1.0)


class LARS(Optimizer):
    """SGD with momentum whose gradient is scaled per tensor by trust_coefficient * |p| / (|g| + weight_decay * |p|).

    Tensors of one dimension (biases, norms) and those without weight decay take the plain step where always_adapt is
    False, as in the paper's experiments.

    Args: params: tensors or groups. lr; momentum; weight_decay: added to the gradient before it is scaled (L2).
    trust_coefficient; eps: added to the denominator. nesterov; maximize: climbs.
    Raises: ValueError for options out of range.
    """

    _switches = ("nesterov", "maximize", "always_adapt", "weight_decay", "trust_coefficient")

    def __init__(
        self, params, lr=1.0, momentum=0.9, weight_decay=0.0, trust_coefficient=0.001, eps=1e-8, nesterov=False,
        always_adapt=False, *, maximize=False,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient,
            "eps": eps, "nesterov": bool(nesterov), "always_adapt": bool(always_adapt), "maximize": bool(maximize),
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group):
        for what in ("lr", "momentum", "weight_decay", "trust_coefficient", "eps"):
            check_range("LARS", what, group[what])
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("LARS: nesterov needs momentum > 0, got 0")

    def _buffers(self, group):
        return ("momentum_buffer",)

    def _hyper(self, group, step):  # slot 1 is the decay of sgd_step_, which has no part here
        return (
            group["lr"], 0.0, group["momentum"], group["weight_decay"], group["eps"], group["trust_coefficient"],
            0.0, 0.0,
        )  # fmt: skip

    def _apply(self, group, params, grads, buffers, hyper):
        scaled = []
        for p, g in zip(params, grads, strict=True):
            p, decay = p.detach(), hyper[3].to(p.dtype)
            g = -g if group["maximize"] else g
            if p.ndim > 1 and (group["weight_decay"] or group["always_adapt"]):
                size = p.norm()
                g = (g + decay * p) * _ratio(hyper[5] * size, g.norm() + decay * size + hyper[4])
            elif group["weight_decay"]:
                g = g + decay * p
            scaled.append(g)
        _core.optim.sgd_step_(params, scaled, buffers[0], hyper, nesterov=group["nesterov"])


class LAMB(Adam):
    """AdamW whose step is scaled per tensor by |p| / |step / lr|, both with weight decay.

    Args: params: tensors or groups. lr; betas; eps; weight_decay: apart from the gradient. maximize: climbs.
    Raises: ValueError for options out of range.
    """

    _fused = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, *, maximize=False):
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize)

    def _apply(self, group, params, grads, buffers, hyper):
        steps = [_zeros_like(p.detach()) for p in params]  # Adam's step is what it makes of zeros
        _core.optim.adam_step_(
            steps, grads, *buffers, hyper, [], decoupled=True, maximize=group["maximize"]
        )  # decoupled: decays the zeros
        for p, step in zip(params, steps, strict=True):
            lr, decay = hyper[0].to(p.dtype), hyper[1].to(p.dtype)
            p = p.detach()
            step = step - lr * decay * p
            p.copy_(p + step * _ratio(lr * p.norm(), step.norm()))
