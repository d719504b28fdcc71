"""Caches: what a layer keeps of earlier tokens, to compute it once. Here the keys and values of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def append(
    past: Float[Array, "B G L K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
) -> Float[Array, "B G L K"]:
    """ScatterElements along the cache's time axis."""
    entries = new.transpose(1, 2)
    at = start[:, None] + torch.arange(new.shape[1], device=new.device)
    return past.scatter(2, at[:, None, :, None].expand_as(entries), entries)


@torch_body
def grow(past: Float[Array, "B G S K"], new: Float[Array, "B T G K"]) -> Float[Array, "B G S+T K"]:
    """Concat along the cache's time axis."""
    return torch.cat([past, new.transpose(1, 2)], 2)


@torch_body
def select(past: Float[Array, "B G S K"], rows: Index[Array, " M", "< B"]) -> Float[Array, "M G S K"]:
    """Gather along the batch."""
    return past.index_select(0, rows)
