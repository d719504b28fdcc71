"""Masks: which key each query may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor as Array

__all__ = ["causal_mask"]


def causal_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    window: int | None = None,
) -> Bool[Array, "B T S"]:
    """Comparisons of positions, broadcast."""
    last = queries.unsqueeze(-1)
    seen = keys <= last
    return seen if window is None else seen & (keys > last - window)
