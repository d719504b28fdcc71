"""Pooling: from one vector per token to one vector per text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from .arrays import as_type, indices, largest, sqrt, tokens_at, where
from .dispatch import op
from .mask import padding_mask

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from ..axes import Index

__all__ = ["pool", "unit"]


@op
def pool(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    *,
    pooling: Literal["first", "last", "mean", "max"],
) -> Float[Array, "B D"]:
    """One vector per text: that of its first or last token, the mean of all, or each element's maximum.

    Conventions: padding doesn't count; `last` is the last token before it. A text without tokens
    gives zeros.
    """
    match pooling:
        case "mean":
            return _real(x, lengths, 0.0).sum(1) / as_type(lengths.clip(min=1)[:, None], x.dtype)
        case "first":
            y = x[:, 0]
        case "last":
            y = tokens_at(x, (lengths - 1).clip(min=0)[:, None])[:, 0]
        case "max":
            y = largest(_real(x, lengths, -math.inf), 1)
    return where(lengths[:, None] > 0, y, 0.0)


def _real(x: Array, lengths: Array, padding: float) -> Array:
    """The vectors of tokens, and at padding the same number everywhere."""
    return where(padding_mask(indices(x.shape[1], x), lengths)[:, :, None], x, padding)


@op
def unit(x: Float[Array, "B D"], *, eps: float = 1e-12) -> Float[Array, "B D"]:
    """x / max(‖x‖, eps): vectors whose dot product is their cosine."""
    return x / sqrt((x * x).sum(-1, keepdims=True)).clip(min=eps)
