"""The KV cache: keys and values of earlier tokens, kept so that they are computed once.

Capacity and valid length are separate facts. So cutting a row back, as speculation does with what the
model refused, only changes its length: what lies past it is never read, and is written over later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from ..axes import Index

__all__ = ["append", "grow", "select"]


def append(
    past: Float[Array, "B G L K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
) -> Float[Array, "B G L K"]:
    """The cache of fixed capacity with row b's T new entries at start[b] … start[b] + T − 1.

    Conventions: only the caller knows the valid length; L must hold start + T for every row. All T
    entries are written, the padding of a row that is shorter too: it lies past the row's valid
    length, where content is unspecified. A fused kernel may write in place, so the old cache must
    not be read again.
    """
    b = np.arange(new.shape[0])[:, None]
    at = start[:, None] + np.arange(new.shape[1])[None, :]
    cache = past.copy()
    cache[b, :, at] = new
    return cache


def grow(past: Float[Array, "B G S K"], new: Float[Array, "B T G K"]) -> Float[Array, "B G S+T K"]:
    """The growing cache: S entries and T more, `append` at a capacity that is always just used up.

    Conventions: all rows have the same length. Each step copies the whole cache, so N steps cost
    O(N²) where `append` in place costs O(N).
    """
    return np.concatenate([past, new.transpose(0, 2, 1, 3)], axis=2)


def select(past: Float[Array, "B G S K"], rows: Index[Array, " M", "< B"]) -> Float[Array, "M G S K"]:
    """The named rows in the named order: beams that go on, once or several times, or not at all."""
    return past[rows]
