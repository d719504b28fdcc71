"""Pooling: from one vector per token to one vector per text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

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
    real = padding_mask(np.arange(x.shape[1]), lengths)[:, :, None]
    match pooling:
        case "first":
            y = x[:, 0]
        case "last":
            y = x[np.arange(len(x)), np.maximum(lengths - 1, 0)]
        case "mean":
            y = np.sum(np.where(real, x, 0), axis=1) / np.maximum(lengths, 1)[:, None].astype(x.dtype)
        case "max":
            y = np.max(np.where(real, x, -np.inf), axis=1)
    return np.where(lengths[:, None] > 0, y, 0)


@op
def unit(x: Float[Array, "B D"], *, eps: float = 1e-12) -> Float[Array, "B D"]:
    """x / max(‖x‖, eps): vectors whose dot product is their cosine."""
    return x / np.maximum(np.sqrt(np.sum(x * x, axis=-1, keepdims=True)), eps)
