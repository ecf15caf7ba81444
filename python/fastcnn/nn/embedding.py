"""Embedding: a table of learned vectors that are picked by number."""

from __future__ import annotations

from .. import _core
from .._core import ops
from . import init
from .module import Module
from .parameter import Parameter, empty


class Embedding(Module):
    """Vectors of a table by their numbers: ids int64 (...) -> (..., embedding_dim).

    The gradient of a row is the sum over all ids that picked it. Args: padding_idx: a row that starts at 0 and gets no
    gradient. weight is (num_embeddings, embedding_dim), normally distributed at first.
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, device=None, dtype=None):
        super().__init__()
        if num_embeddings < 1 or embedding_dim < 1:
            raise ValueError(
                f"Embedding: expected num_embeddings and embedding_dim >= 1, got {num_embeddings} and {embedding_dim}"
            )
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Embedding: expected padding_idx in [{-num_embeddings}, {num_embeddings}), got {padding_idx}"
                )
            padding_idx = padding_idx % num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = Parameter(empty((num_embeddings, embedding_dim), device, dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings, freeze=True, padding_idx=None):
        """An Embedding on the given table (V, D), whose memory it shares; freeze: it is not learned."""
        table = embeddings if isinstance(embeddings, _core.Tensor) else _core.tensor(embeddings)
        if table.ndim != 2:
            raise ValueError(f"Embedding: expected embeddings of shape (V, D), got {tuple(table.shape)}")
        with init.skip_random():
            layer = cls(*table.shape, padding_idx)
        layer.weight = Parameter(table, requires_grad=not freeze)
        return layer

    def reset_parameters(self):
        """Draws weight anew; the row padding_idx is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])

    def forward(self, ids):
        """fastcnn.ops.embedding with this layer's weight."""
        return ops.embedding(ids, self.weight, self.padding_idx)

    def extra_repr(self):
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
