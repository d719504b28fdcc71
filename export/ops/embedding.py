"""The token table: rows of it on the way in, a product with it on the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from ...refimpl.ops.linear import linear
from ...refimpl.ops.quant import Blocks, rows, transpose
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def embedding(
    tokens: Index[Array, "B T", "< N"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T D"]:
    """Gather."""
    return rows(table, tokens) if isinstance(table, Blocks) else functional.embedding(tokens, table)


@torch_body
def unembedding(
    x: Float[Array, "B T D"],
    table: Float[Array, "N D"] | Blocks,
) -> Float[Array, "B T N"]:
    """MatMul with the transposed table."""
    return linear(x, transpose(table) if isinstance(table, Blocks) else table.mT)
