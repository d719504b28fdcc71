"""Caches: what a layer keeps of earlier tokens, to compute it once. Here the keys and values of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["KVCache", "append", "grow", "select"]


class KVCache(NamedTuple):
    """The keys and values that a layer keeps of earlier tokens, and the scales of their codes."""

    keys: Float[Array, "B G L K"]
    values: Float[Array, "B G L K"]
    k_scale: Float[Array, "G K"] | None = None
    v_scale: Float[Array, "G K"] | None = None

    @property
    def capacity(self) -> int:
        """The tokens of a row for which it has room."""
        return self.keys.shape[2]


def append(
    past: Float[Array, "B G L K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
) -> Float[Array, "B G L K"]:
    """ScatterElements along the cache's time axis."""
    entries = new.transpose(1, 2)
    at = start[:, None] + torch.arange(new.shape[1], device=new.device)
    return past.scatter(2, at[:, None, :, None].expand_as(entries), entries)


def grow(past: Float[Array, "B G S K"], new: Float[Array, "B T G K"]) -> Float[Array, "B G S+T K"]:
    """Concat along the cache's time axis."""
    return torch.cat([past, new.transpose(1, 2)], 2)


def select(past: Float[Array, "B G S K"], rows: Index[Array, " M", "< B"]) -> Float[Array, "M G S K"]:
    """Gather along the batch."""
    return past.index_select(0, rows)
