"""The table of token embeddings: the input takes rows of the table, and the output multiplies by
the table.
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

    Conventions: ids are in [0, N). A caller that can't be sure of that must check, since NumPy and ONNX
    Runtime both read negative ids from the end. A quantized table is dequantized row by row.
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
    """Return the vectors of texts, with the vectors of mask tokens set to zero. `lengths` tokens of each text
    are real.

    y = 0 where a token is the mask, otherwise x · (1 − share) · n / (n − m), with m of a text's n tokens
    masked. As after a dropout, the factor compensates for the dropped vectors (Rives et al. 2021, the code of
    ESM-1b). Conventions: a text without masks is scaled too, by 1 − share. A text that consists only of masks
    is 0.
    """
    count = (masked & padding_mask(indices(masked.shape[1], masked), lengths)).sum(1)
    factor = (1 - share) * as_type(lengths, x.dtype) / as_type((lengths - count).clip(1), x.dtype)
    return where(masked[:, :, None], 0.0, x * factor[:, None, None])


@op
def unembedding(
    x: Float[Array, "B T D"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T N"]:
    """Return the logits y[b,t,n] = Σ_d x[b,t,d] · table[n,d] (Press & Wolf 2017 when the table is tied).

    Conventions: the table is [N, D] like the embedding's, so a tied table is the same parameter.
    """
    return linear(x, transpose(table) if isinstance(table, Blocks) else table.T)
