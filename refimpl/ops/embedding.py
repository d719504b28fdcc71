"""The token table: rows of it on the way in, a product with it on the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arrays import rows_at
from .dispatch import op
from .linear import linear
from .quant import Blocks, rows, transpose

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from ..axes import Index

__all__ = ["embedding", "unembedding"]


@op
def embedding(
    tokens: Index[Array, "B T", "< N"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T D"]:
    """Row of the table for each token: y[b,t] = table[tokens[b,t]].

    Conventions: ids are in [0, N). A caller that can't be sure must check, since NumPy and ONNX Runtime both
    read negative ids from the end. A quantized table is dequantized row by row.
    """
    return rows(table, tokens) if isinstance(table, Blocks) else rows_at(table, tokens)


@op
def unembedding(
    x: Float[Array, "B T D"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T N"]:
    """Logits: y[b,t,n] = Σ_d x[b,t,d] · table[n,d] (Press & Wolf 2017 when the table is tied).

    Conventions: the table is [N, D] as the embedding's, so a tied table is the same leaf.
    """
    return linear(x, transpose(table) if isinstance(table, Blocks) else table.T)
