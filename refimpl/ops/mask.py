"""Masks: which key each query may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from numpy import ndarray as Array

__all__ = ["causal_mask"]


def causal_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    window: int | None = None,
) -> Bool[Array, "B T S"]:
    """True where a key may be seen: key ≤ query, and query − key < window if there is one.

    Both are positions in the text, so that a cache changes nothing. Conventions: `window` counts
    the current token, as transformers' sliding_window does: window = 1 sees only itself.
    """
    distance = queries[:, :, None] - keys[None, None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
