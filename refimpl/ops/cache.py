"""The KV cache: keys and values of earlier tokens, kept so that they are computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from ..axes import Index

__all__ = ["append"]


def append(
    past: Float[Array, "B G L K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
) -> Float[Array, "B G L K"]:
    """The cache with row b's T new entries at start[b] … start[b] + T − 1.

    Conventions: capacity L and valid length are separate facts, and only the caller knows the
    second; L must hold start + T for every row. All T entries are written, the padding of a row
    that is shorter too: it lies past the row's valid length, where content is unspecified. A fused
    kernel may write in place, so the old cache must not be read again.
    """
    b = np.arange(new.shape[0])[:, None]
    at = start[:, None] + np.arange(new.shape[1])[None, :]
    cache = past.copy()
    cache[b, :, at] = new
    return cache
