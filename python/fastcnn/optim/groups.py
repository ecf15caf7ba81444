"""Parameter groups by name: no decay for norms and biases, rates by pattern and by depth."""

from __future__ import annotations

import fnmatch


def is_kind(module, word):
    """Whether a module is a "Norm", an "Embedding" ..."""
    # By name, own classes of users too: what a layer is lies above this folder.
    return any(word in c.__name__ for c in type(module).__mro__)


def param_groups(model, lr, weight_decay=0.0, *, rules=None, decay_norms=False, layer_decay=None):
    """Groups for an optimizer, one for each set of options that parameters end up with.

    Args:
        model: a Module. Frozen parameters are in too, for they may train later.
        lr, weight_decay: of what no rule changes.
        rules: {pattern of parameter names ("layer4.*", "*.bias"): {option: value}}; "lr_scale" multiplies the rate. A
            parameter takes all rules that fit it, later ones win.
        decay_norms: False: biases and parameters of norms have no weight decay.
        layer_decay: factor of the rate from the last top-level child to the one before it (Clark et al. 2020), 0 to 1;
            a child of blocks (Sequential, ModuleList) counts each block, a backbone each of its own children so.
    Raises: ValueError for a rule that no parameter fits and for options out of range.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"param_groups: expected layer_decay in (0, 1], got {layer_decay}")
    named = list(model.named_parameters())
    rules = dict(rules or {})
    for pattern in rules:
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in named):
            raise ValueError(f"param_groups: no parameter of {type(model).__name__} is named {pattern!r}")
    plain = set()
    if not decay_norms:
        for prefix, module in model.named_modules():
            for name, _ in module.named_parameters(prefix=prefix, recurse=False):
                if is_kind(module, "Norm") or name.rpartition(".")[2] == "bias":
                    plain.add(name)
    depth = _depths(model, [name for name, _ in named]) if layer_decay is not None else {}
    deepest = max(depth.values(), default=0)
    groups = {}
    for name, p in named:
        options = {"lr": lr, "weight_decay": 0.0 if name in plain else weight_decay}
        scale = layer_decay ** (deepest - depth[name]) if depth else 1.0
        for pattern, rule in rules.items():
            if fnmatch.fnmatchcase(name, pattern):
                rule = dict(rule)
                scale *= rule.pop("lr_scale", 1.0)
                options.update(rule)
        options["lr"] *= scale
        groups.setdefault(tuple(sorted(options.items())), []).append(p)
    return [{"params": params, **dict(options)} for options, params in groups.items()]


def _holds_stages(module):
    """Whether a child is no part of its own but a backbone: a Sequential of named children that have children."""
    if getattr(module, "holds_stages", False):
        return True
    named = [(n, m) for n, m in module.named_children() if not n.isdigit()]
    return any(c.__name__ == "Sequential" for c in type(module).__mro__) and any(
        True for _, m in named for _ in m.children()
    )


def _part(module, name):
    """The beginning of a parameter's name that tells its part: a child, or a block of a child."""
    head, _, rest = name.partition(".")
    child = dict(module.named_children()).get(head)
    if child is None or not rest:
        return head
    if _holds_stages(child):
        return f"{head}.{_part(child, rest)}"
    blocks = [n for n, _ in child.named_children()]
    return f"{head}.{rest.partition('.')[0]}" if blocks and all(n.isdigit() for n in blocks) else head


def _depths(model, names):
    """{parameter name: number of its part, from the input on}."""
    parts = {}
    return {name: parts.setdefault(_part(model, name), len(parts)) for name in names}
