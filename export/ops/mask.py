"""Masks: which key each query may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["causal_mask", "padding_mask", "prefix_mask", "window_mask"]


def causal_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    window: int | None = None,
    sinks: int = 0,
) -> Bool[Array, "B T S"]:
    """Comparisons of positions, broadcast."""
    last = queries.unsqueeze(-1)
    seen = keys <= last
    if window is None:
        return seen
    near = keys > last - window
    return seen & (near | (keys < sinks) if sinks else near)


def window_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    window: int | None = None,
) -> Bool[Array, "B T S"]:
    """Two comparisons of positions, broadcast."""
    middle = queries.unsqueeze(-1)
    if window is None:
        return torch.ones_like(keys - middle, dtype=torch.bool)
    return (keys > middle - window) & (keys < middle + window)


def padding_mask(keys: Int[Array, " S"], lengths: Index[Array, " B", "< S+1"]) -> Bool[Array, "B S"]:
    """A comparison, broadcast."""
    return lengths.unsqueeze(-1) > keys


def prefix_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    prefix: Index[Array, " B", "< S+1"],
) -> Bool[Array, "B T S"]:
    """Keys up to the larger of a query's own place and the prefix's last."""
    last = torch.maximum(queries, prefix.unsqueeze(-1) - 1)
    return keys <= last.unsqueeze(-1)
