"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal before the step.

For the weights of convolutions and linear layers; a filter is a row. Biases, norms and the last layer belong to AdamW:
another optimizer, or groups of this one with use_muon=False. The orthogonal matrix comes from five Newton-Schulz steps,
in float32.
"""

from __future__ import annotations

from .. import _core
from .adam import adam_hyper, adam_terms, check_betas
from .groups import is_kind
from .optimizer import Optimizer, check_range


def orthogonalize(g, coefficients=(3.4445, -4.775, 2.0315), steps=5, eps=1e-7):
    """Brings the singular values of a matrix (rows, columns) near 1 (0.7 to 1.2) by Newton-Schulz iteration.

    Args: coefficients: a, b, c of x -> a x + b x^3 + c x^5. eps: least norm that g is divided by.
    """
    if g.ndim != 2:
        raise ValueError(f"orthogonalize: expected a matrix, got shape {tuple(g.shape)}")
    a, b, c = coefficients
    tall = g.shape[0] > g.shape[1]
    x = (g.transpose(0, 1) if tall else g) / g.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.transpose(0, 1)
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.transpose(0, 1) if tall else x


class Muon(Optimizer):
    """Muon as torch.optim.Muon, with convolutions as matrices (O, I*kH*kW).

    Args: params: tensors of two dimensions or more, or groups. lr; momentum; nesterov. weight_decay: apart from the
    gradient. ns_coefficients, ns_steps, eps: see orthogonalize. adjust_lr_fn: "original": the rate times
    sqrt(max(1, rows / columns)); "match_rms_adamw" (Moonshot 2025): times 0.2 * sqrt(max(rows, columns)), which suits
    the rate and decay of AdamW. use_muon: False in a group: its tensors, of any shape, take AdamW's step with lr,
    weight_decay, eps and adam_betas.
    Raises: ValueError for options out of range and for vectors.

        Muon([{"params": weights}, {"params": rest, "use_muon": False}], adjust_lr_fn="match_rms_adamw")

    Trainer("muon") makes such groups: see muon_rules.
    """

    def __init__(
        self, params, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True,
        ns_coefficients=(3.4445, -4.775, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn="original", *,
        use_muon=True, adam_betas=(0.9, 0.999),
    ):  # fmt: skip
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": bool(nesterov), "eps": eps,
            "ns_coefficients": tuple(ns_coefficients), "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn or "original",
            "use_muon": bool(use_muon), "adam_betas": tuple(adam_betas),
        }  # fmt: skip
        super().__init__(params, defaults)

    _switches = ("nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn", "use_muon")

    def _check_group(self, group):
        for what in ("lr", "weight_decay", "eps"):
            check_range("Muon", what, group[what])
        check_range("Muon", "momentum", group["momentum"], high=1.0)
        check_betas("Muon", "adam_betas", group["adam_betas"])
        if len(group["ns_coefficients"]) != 3 or not 1 <= group["ns_steps"] < 100:
            raise ValueError(
                f"Muon: expected three ns_coefficients and ns_steps from 1 to 99, got {group['ns_coefficients']} and "
                f"{group['ns_steps']}"
            )
        if group["adjust_lr_fn"] not in ("original", "match_rms_adamw"):
            raise ValueError(
                f"Muon: expected adjust_lr_fn 'original' or 'match_rms_adamw', got {group['adjust_lr_fn']!r}"
            )
        for i, p in enumerate(group["params"] if group["use_muon"] else ()):
            if p.ndim < 2:
                raise ValueError(
                    f"Muon: expected weights of two dimensions or more, got shape {tuple(p.shape)} as parameter {i}; "
                    "biases and norms belong into a group with use_muon=False"
                )

    def _buffers(self, group):
        return ("momentum_buffer",) if group["use_muon"] else ("exp_avg", "exp_avg_sq")

    def _terms(self, group):
        return super()._terms(group) if group["use_muon"] else adam_terms(group, group["adam_betas"])

    def _hyper(self, group, step):
        if not group["use_muon"]:
            return adam_hyper(group, group["adam_betas"], step)
        return (
            group["lr"], group["weight_decay"], group["momentum"], 1.0 - group["momentum"], 0.0, 0.0, 0.0, 0.0,
        )  # fmt: skip

    def _apply(self, group, params, grads, buffers, hyper):
        if not group["use_muon"]:
            _core.optim.adam_step_(params, grads, *buffers, hyper, [], decoupled=True)
            return
        for p, g, m in zip(params, grads, buffers[0], strict=True):
            p, g = p.detach(), g.detach()
            lr, decay, keep, take = (hyper[i].to(p.dtype) for i in range(4))
            m.copy_(keep * m + take * g)
            update = take * g + keep * m if group["nesterov"] else m
            matrix = _rows(update)
            rows, columns = matrix.shape
            matrix = orthogonalize(matrix, group["ns_coefficients"], group["ns_steps"], group["eps"])
            if group["adjust_lr_fn"] == "original":
                scale = max(1.0, rows / columns) ** 0.5
            else:
                scale = 0.2 * max(rows, columns) ** 0.5
            p.copy_(p * (1.0 - lr * decay) - (lr * scale) * _back(matrix, p.shape))


def _rows(t):
    """(O, I, kH, kW) as (O, kH*kW*I), the order in memory; the order of columns changes nothing here."""
    t = t.permute(0, 2, 3, 1) if t.ndim == 4 else t
    return t.reshape((t.shape[0], -1))


def _back(matrix, shape):
    if len(shape) != 4:
        return matrix.reshape(shape)
    o, i, h, w = shape
    return matrix.reshape((o, h, w, i)).permute(0, 3, 1, 2)


def muon_rules(model):
    """Rules of param_groups that leave to Muon what it is for: the hidden weights.

    AdamW takes the last weight (the head), embeddings, and what is one row or column (biases, norms, scales), without
    decay.
    """
    apart, rules, last = set(), {}, None
    for prefix, m in model.named_modules():
        if is_kind(m, "Embedding"):
            apart |= {name for name, _ in m.named_parameters(prefix=prefix, recurse=False)}
    for name, p in model.named_parameters():
        if max(p.shape, default=1) == p.numel():
            rules[name] = {"use_muon": False, "weight_decay": 0.0}
        elif name in apart:
            rules[name] = {"use_muon": False}
        else:
            last = name
    return rules if last is None else {**rules, last: {"use_muon": False}}
