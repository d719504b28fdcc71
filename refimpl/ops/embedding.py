"""The table of token embeddings. The input of a model takes rows of the table; the output may multiply by
the same table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arrays import as_type, indices, rows_at, where
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks, rows, transpose

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index


@op
def embedding(
    tokens: Index[Array, "B T", "< N"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T D"]:
    """Return the table's row for each token: y[b,t] = table[tokens[b,t]].

    Conventions: ids must be from 0 to N − 1. A caller that can't be sure of that must check, since NumPy
    and ONNX Runtime both count negative ids from the end of the table. Only the rows that are read of a
    quantized table are dequantized.
    """
    return rows(table, tokens) if isinstance(table, Blocks) else rows_at(table, tokens)


@op
def token_dropout(
    x: Float[Array, "B T D"],
    masked: Bool[Array, "B T"],
    lengths: Index[Array, " B", "< T+1"],
    *,
    share: float,
) -> Float[Array, "B T D"]:
    """Return the vectors of texts with the vectors of mask tokens set to zero, and all other vectors
    scaled to compensate. `lengths` tokens of each text are real.

    If m of a text's n tokens are masked, the factor is (1 − share) · n / (n − m). As after a dropout, the
    factor compensates for the dropped vectors (Rives et al. 2021, the code of ESM-1b). Conventions: a text
    without masks is scaled too, by 1 − share. A text that consists only of masks is 0.
    """
    count = (masked & padding_mask(indices(masked.shape[1], masked), lengths)).sum(1)
    factor = (1 - share) * as_type(lengths, x.dtype) / as_type((lengths - count).clip(1), x.dtype)
    return where(masked[:, :, None], 0.0, x * factor[:, None, None])


@op
def unembedding(
    x: Float[Array, "B T D"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T N"]:
    """Return the logits y[b,t,n] = Σ_d x[b,t,d] · table[n,d]. The table may be tied to the embedding
    (Press & Wolf 2017).

    Conventions: the table is [N, D] like the embedding's, so a tied table is the same parameter.
    """
    return linear(x, transpose(table) if isinstance(table, Blocks) else table.T)
