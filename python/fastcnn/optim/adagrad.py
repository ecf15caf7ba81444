"""Adagrad (Duchi, Hazan and Singer 2011)."""

from __future__ import annotations

from .. import _core
from .optimizer import Optimizer, check_range


class Adagrad(Optimizer):
    """Adagrad as torch.optim.Adagrad: each value's rate falls with the sum of its squared gradients.

    Args: params: tensors or groups. lr; lr_decay: the rate of step t is lr / (1 + (t - 1) * lr_decay). weight_decay:
    added to the gradient (L2). initial_accumulator_value: what the sums start with. eps: added to the root. maximize:
    climbs.
    Raises: ValueError for options out of range.
    """

    _fused = True

    def __init__(
        self, params, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10,
        *, maximize=False,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "maximize": bool(maximize),
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group):
        for what in ("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value"):
            check_range("Adagrad", what, group[what])

    def _buffers(self, group):
        return ("sum",)

    def _first_value(self, group, name):
        return group["initial_accumulator_value"]

    def _hyper(self, group, step):
        lr = group["lr"] / (1.0 + (step - 1) * group["lr_decay"])
        return (lr, group["weight_decay"], 0.0, 0.0, group["eps"], 0.0, 0.0, 0.0)

    def _terms(self, group):
        return [{"value": group["lr"], "decay": group["lr_decay"]}, *self._hyper(group, 1)[1:]]

    def _apply(self, group, params, grads, buffers, hyper):
        _core.optim.adagrad_step_(params, grads, buffers[0], hyper, maximize=group["maximize"], scale=self._scale)
