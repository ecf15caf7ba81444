"""Stochastic gradient descent with momentum (Polyak 1964), Nesterov's variant and weight decay."""

from __future__ import annotations

from .. import _core
from .optimizer import Optimizer, check_range


class SGD(Optimizer):
    """SGD as torch.optim.SGD.

    Args: params: tensors or groups. lr: learning rate. momentum, dampening: v = momentum*v +
    (1-dampening)*g. weight_decay: added to the gradient (L2). nesterov (Sutskever et al. 2013) needs momentum
    and no dampening. maximize: climbs.
    Raises: ValueError for options out of range.
    """

    _fused = True

    def __init__(
        self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, *, maximize=False
    ):
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": bool(nesterov), "maximize": bool(maximize),
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group):
        for what in ("lr", "momentum", "weight_decay"):
            check_range("SGD", what, group[what])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                "SGD: nesterov needs momentum > 0 and dampening = 0, got "
                f"momentum={group['momentum']}, dampening={group['dampening']}"
            )

    def _buffers(self, group):
        return ("momentum_buffer",) if group["momentum"] else ()

    def _hyper(self, group, step):
        # The buffer starts at zero, so a first step without dampening is what makes it the gradient itself.
        dampening = 0.0 if step == 1 else group["dampening"]
        return (group["lr"], group["weight_decay"], group["momentum"], 0.0, 0.0, 0.0, 0.0, dampening)

    def _terms(self, group):
        return [*self._hyper(group, 1)[:7], {"first": 0.0, "then": group["dampening"]}]

    def _apply(self, group, params, grads, buffers, hyper):
        _core.optim.sgd_step_(
            params, grads, buffers[0] if buffers else [], hyper,
            nesterov=group["nesterov"], maximize=group["maximize"], first_step=False, scale=self._scale,
        )  # fmt: skip
