"""Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019)."""

from __future__ import annotations

from .. import _core
from .optimizer import Optimizer, check_range


def adam_hyper(group, betas, step):
    """Optimizer._hyper of adam_step_."""
    beta1, beta2 = betas
    return (
        group["lr"], group["weight_decay"], beta1, beta2, group["eps"],
        1.0 - beta1**step, 1.0 - beta2**step, 1.0 - beta2,
    )  # fmt: skip


def adam_terms(group, betas):
    """Optimizer._terms of adam_step_."""
    terms = list(adam_hyper(group, betas, 1))
    terms[5:7] = ({"power": beta} for beta in betas)
    return terms


def check_betas(name, what, betas):
    """Raises ValueError for others than two in [0, 1)."""
    if len(betas) != 2:
        raise ValueError(f"{name}: expected two {what}, got {betas}")
    for i, beta in enumerate(betas):
        check_range(name, f"{what}[{i}]", beta, high=1.0)


class Adam(Optimizer):
    """Adam as torch.optim.Adam.

    Args: params: tensors or groups. lr; betas: decay of the first and second moment. eps: added to the
    denominator. weight_decay: added to the gradient (L2). amsgrad (Reddi et al. 2018): uses the largest
    second moment so far. maximize: climbs.
    Raises: ValueError for options out of range.
    """

    _decoupled = False

    _fused = True

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, *, maximize=False
    ):
        defaults = {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay,
            "amsgrad": bool(amsgrad), "maximize": bool(maximize),
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group):
        for what in ("lr", "eps", "weight_decay"):
            check_range(self._name, what, group[what])
        check_betas(self._name, "betas", group["betas"])

    def _buffers(self, group):
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def _hyper(self, group, step):
        return adam_hyper(group, group["betas"], step)

    def _terms(self, group):
        return adam_terms(group, group["betas"])

    def _apply(self, group, params, grads, buffers, hyper):
        _core.optim.adam_step_(
            params, grads, *buffers[:2], hyper, buffers[2] if group["amsgrad"] else [],
            decoupled=self._decoupled, maximize=group["maximize"], scale=self._scale,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: p -= lr * weight_decay * p. As torch.optim.AdamW."""

    _decoupled = True

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
