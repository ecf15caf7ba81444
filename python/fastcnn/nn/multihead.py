"""MultiheadAttention: the attention of transformers, over sequences, with PyTorch's arguments and state_dict."""

from __future__ import annotations

import math

from .. import _core
from .._core import ops
from . import init
from .conv import Linear
from .module import Module
from .parameter import Parameter, empty

_UNSUPPORTED = ("add_bias_kv", "add_zero_attn")


def _masked(scores, mask):
    """Scores without what a bool mask names, or plus a float mask."""
    if mask.dtype == _core.bool:
        return ops.masked_fill(scores, mask, -math.inf)
    return scores + mask.to(scores.dtype)


def _check_mask(name, mask, shapes):
    if not isinstance(mask, _core.Tensor):
        raise TypeError(f"MultiheadAttention: expected {name} as a tensor, got {type(mask).__name__}")
    if tuple(mask.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"MultiheadAttention: expected {name} of shape {wanted}, got {tuple(mask.shape)}")
    if mask.dtype != _core.bool and not mask.dtype.is_floating_point:
        raise TypeError(f"MultiheadAttention: expected {name} of bool or a floating dtype, got {mask.dtype}")


class MultiheadAttention(Module):
    """Attention with several heads: out_proj(concatenated softmax(q k^T / sqrt(d)) v) (Vaswani et al. 2017).

    query (L, N, embed_dim), key (S, N, kdim) and value (S, N, vdim), or (N, L, ...) with batch_first, or (L, ...) of
    one sequence -> (the shape of query, weights (N, L, S)). Args: embed_dim: split among num_heads. dropout: of the
    weights, in training. bias: of the projections. kdim, vdim: channels of key and value; None: embed_dim. add_bias_kv
    and add_zero_attn are not supported (ValueError). Parameters: in_proj_weight (3 * embed_dim, embed_dim), or
    q_proj_weight, k_proj_weight and v_proj_weight where kdim or vdim differ; in_proj_bias; out_proj. Needs
    N * num_heads * L * S floats.
    """

    def __init__(
        self, embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None,
        vdim=None, batch_first=False, device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                "MultiheadAttention: expected embed_dim >= 1 divisible by num_heads >= 1, "
                f"got {embed_dim} and {num_heads}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: expected dropout between 0 and 1, got {dropout}")
        for name, on in zip(_UNSUPPORTED, (add_bias_kv, add_zero_attn), strict=True):
            if on:
                raise ValueError(f"MultiheadAttention: {name} is not supported")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = Parameter(empty((3 * embed_dim, embed_dim), device, dtype))
        else:
            self.q_proj_weight = Parameter(empty((embed_dim, embed_dim), device, dtype))
            self.k_proj_weight = Parameter(empty((embed_dim, self.kdim), device, dtype))
            self.v_proj_weight = Parameter(empty((embed_dim, self.vdim), device, dtype))
        self.register_parameter("in_proj_bias", Parameter(empty((3 * embed_dim,), device, dtype)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self):
        """Draws the projections of query, key and value anew; biases are 0."""
        for w in self._input_weights():
            init.xavier_uniform_(w)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def _input_weights(self):
        if self.kdim == self.vdim == self.embed_dim:
            return [self.in_proj_weight]
        return [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]

    def _projected(self, query, key, value):
        weights, bias, e = self._input_weights(), self.in_proj_bias, self.embed_dim
        if len(weights) == 1 and query is key and key is value:
            return ops.split(ops.linear(query, weights[0], bias), e, -1)
        weights = ops.split(weights[0], e, 0) if len(weights) == 1 else weights
        biases = [None] * 3 if bias is None else ops.split(bias, e, 0)
        return [ops.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _check(self, query, key, value):
        channels = ("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)
        for name, x, size in channels:
            if x.ndim != query.ndim or x.ndim not in (2, 3) or x.shape[-1] != size:
                kind = "(L, C)" if query.ndim == 2 else "(N, L, C)" if self.batch_first else "(L, N, C)"
                raise ValueError(f"MultiheadAttention: expected {name} {kind} with C = {size}, got {tuple(x.shape)}")
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (query.ndim == 3 and query.shape[batch] != key.shape[batch]):
            raise ValueError(
                "MultiheadAttention: expected key and value of one length and all of one batch size, got shapes "
                f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
            )

    def forward(
        self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True,
        is_causal=False,
    ):  # fmt: skip
        """(output, weights).

        key_padding_mask: (N, S), or (S,) of one sequence; attn_mask: (L, S) or (N * num_heads, L, S). True: not looked
        at; floats are added to the scores. weights: (N, L, S), (N, num_heads, L, S) unless average_attn_weights, None
        unless need_weights. is_causal: without attn_mask, no place looks at later ones.
        """
        self._check(query, key, value)
        single, h = query.ndim == 2, self.num_heads
        q, k, v = self._projected(query, key, value)
        if single:
            q, k, v = (x.unsqueeze(1) for x in (q, k, v))
        elif self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        (length, n, e), source, d = q.shape, k.shape[0], self.embed_dim // h

        def heads(x):  # (length, N, E) -> (N * heads, length, d)
            return x.reshape(x.shape[0], n * h, d).transpose(0, 1)

        scores = ops.matmul(heads(q) * d**-0.5, heads(k).transpose(1, 2))
        if attn_mask is None and is_causal:
            attn_mask = ops.arange(source, device=scores.device) > ops.arange(length, device=scores.device).unsqueeze(1)
        if attn_mask is not None:
            _check_mask("attn_mask", attn_mask, [(length, source), (n * h, length, source)])
            scores = _masked(scores, attn_mask)
        if key_padding_mask is not None:
            _check_mask("key_padding_mask", key_padding_mask, [(source,)] if single else [(n, source)])
            mask = key_padding_mask.reshape(n, 1, source).expand(n, h, source).reshape(n * h, 1, source)
            scores = _masked(scores, mask)
        weights = ops.dropout(ops.softmax(scores, -1), self.dropout, training=self.training)
        y = ops.matmul(weights, heads(v)).transpose(0, 1).reshape(length, n, e)
        y = y.squeeze(1) if single else y.transpose(0, 1) if self.batch_first else y
        y = self.out_proj(y)
        if not need_weights:
            return y, None
        weights = weights.reshape(n, h, length, source)
        weights = weights.mean(1) if average_attn_weights else weights
        return y, weights.squeeze(0) if single else weights

    def extra_repr(self):
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"
