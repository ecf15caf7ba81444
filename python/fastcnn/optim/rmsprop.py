"""RMSprop (Tieleman & Hinton 2012), with momentum and centring (Graves 2013)."""

from __future__ import annotations

from .. import _core
from .optimizer import Optimizer, check_range


class RMSprop(Optimizer):
    """RMSprop as torch.optim.RMSprop.

    Args: params: tensors or groups. lr; alpha: decay of the mean square. eps: added to the denominator.
    weight_decay: added to the gradient (L2). momentum: on the scaled gradient. centered: divides by the
    standard deviation instead. maximize: climbs.
    Raises: ValueError for options out of range.
    """

    _fused = True

    def __init__(
        self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False,
        *, maximize=False,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum,
            "centered": bool(centered), "maximize": bool(maximize),
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group):
        for what in ("lr", "eps", "weight_decay", "momentum"):
            check_range("RMSprop", what, group[what])
        check_range("RMSprop", "alpha", group["alpha"], high=1.0)

    def _buffers(self, group):
        momentum = ("momentum_buffer",) if group["momentum"] else ()
        return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))

    def _hyper(self, group, step):
        return (
            group["lr"], group["weight_decay"], group["alpha"], group["momentum"], group["eps"], 0.0, 0.0,
            1.0 - group["alpha"],
        )  # fmt: skip

    def _apply(self, group, params, grads, buffers, hyper):
        named = dict(zip(self._buffers(group), buffers, strict=True))
        _core.optim.rmsprop_step_(
            params, grads, named["square_avg"], hyper, named.get("momentum_buffer", []),
            named.get("grad_avg", []), maximize=group["maximize"], scale=self._scale,
        )  # fmt: skip
