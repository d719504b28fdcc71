"""Masks: which key each query may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import Attention, BlockSparse, Chunked
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
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


@torch_body
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


@torch_body
def block_sparse_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    block: int,
    reach: int,
    first: int,
) -> Bool[Array, "B T S"]:
    """Comparisons of block numbers, broadcast."""
    rows = queries.div(block, rounding_mode="floor").unsqueeze(-1)
    columns = keys.div(block, rounding_mode="floor")
    near = (columns >= rows - reach) & (columns <= rows + reach)
    return near | (rows < first) | (columns < first)


@torch_body
def chunked_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    chunk: int,
) -> Bool[Array, "B T S"]:
    """A comparison of chunk numbers, broadcast."""
    rows = queries.div(chunk, rounding_mode="floor").unsqueeze(-1)
    return rows == keys.div(chunk, rounding_mode="floor")


@torch_body
def seen_by(queries: Array, keys: Array, *, settings: Attention, causal: bool) -> Array:
    """The comparisons that the settings' mask asks for."""
    if isinstance(settings.mask, BlockSparse):
        m = settings.mask
        seen = block_sparse_mask(queries, keys, block=m.block, reach=m.reach, first=m.first)
        return causal_mask(queries, keys) & seen if causal else seen
    if isinstance(settings.mask, Chunked):
        seen = chunked_mask(queries, keys, chunk=settings.mask.size)
        return causal_mask(queries, keys) & seen if causal else seen
    return (causal_mask if causal else window_mask)(queries, keys, window=settings.window)


@torch_body
def padding_mask(keys: Int[Array, " S"], lengths: Index[Array, " B", "< S+1"]) -> Bool[Array, "B S"]:
    """A comparison, broadcast."""
    return lengths.unsqueeze(-1) > keys


@torch_body
def prefix_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    prefix: Index[Array, " B", "< S+1"],
) -> Bool[Array, "B T S"]:
    """Keys up to the larger of a query's own place and the prefix's last."""
    last = torch.maximum(queries, prefix.unsqueeze(-1) - 1)
    return keys <= last.unsqueeze(-1)
