"""Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms")."""

from __future__ import annotations

from .. import _core
from .optimizer import Optimizer, check_range


class Lion(Optimizer):
    """Steps of one size in the direction of the sign of a mix of gradient and momentum; one buffer per parameter.

    Its rate is to be 3 to 10 times smaller than AdamW's and its weight decay larger by that much.

    Args: params: tensors or groups. lr; betas: weight of the momentum in the mix, and its decay. weight_decay: apart
    from the gradient: p -= lr * weight_decay * p. maximize: climbs.
    Raises: ValueError for options out of range.
    """

    _fused = True

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False):
        defaults = {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay, "maximize": bool(maximize)}
        super().__init__(params, defaults)

    def _check_group(self, group):
        for what in ("lr", "weight_decay"):
            check_range("Lion", what, group[what])
        if len(group["betas"]) != 2:
            raise ValueError(f"Lion: expected two betas, got {group['betas']}")
        for i, beta in enumerate(group["betas"]):
            check_range("Lion", f"betas[{i}]", beta, high=1.0)

    def _buffers(self, group):
        return ("exp_avg",)

    def _hyper(self, group, step):
        beta1, beta2 = group["betas"]
        return (group["lr"], group["weight_decay"], beta1, beta2, 0.0, 0.0, 1.0 - beta1, 1.0 - beta2)

    def _apply(self, group, params, grads, buffers, hyper):
        _core.optim.lion_step_(params, grads, buffers[0], hyper, maximize=group["maximize"], scale=self._scale)
