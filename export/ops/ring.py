"""Ring attention: a sequence split over several ranks, which pass keys and values around."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...refimpl.ops.flash import flash_attend, merge
from ...refimpl.ops.ring import Placement
from ..torch_bodies import torch_body


@torch_body
def place(positions: Tensor, ranks: Tensor, *, layout: Literal["contiguous", "zigzag", "striped"]) -> Tensor:
    """Integer arithmetic on the positions."""
    count = ranks.shape[0]
    if layout == "striped":
        return positions % count
    slices = count if layout == "contiguous" else 2 * count
    slice_ = positions * slices // positions.shape[0]
    return slice_ if layout == "contiguous" else torch.minimum(slice_, slices - 1 - slice_)


@torch_body
def ring_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    placement: Placement,
    *,
    tile: int,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Every query with the keys of every rank, the ranks side by side in the batch; then merged."""
    count, at = placement.ranks.shape[0], torch.arange(q.shape[1], device=q.device)
    seen = placement.owner == torch.arange(count, device=q.device)[:, None, None]
    seen = seen & (at <= at[:, None] if causal else at[:, None] >= 0)
    beside = lambda a: a.expand(count, *a.shape).flatten(0, 1)  # noqa: E731
    mask = seen.unsqueeze(1).expand(-1, q.shape[0], -1, -1).flatten(0, 1)
    out, lse = flash_attend(beside(q), beside(k), beside(v), mask, tile=tile, scale=scale, softcap=softcap)
    parts = list(zip(out.unflatten(0, (count, -1)), lse.unflatten(0, (count, -1)), strict=True))
    done = parts[0]
    for part in parts[1:]:
        done = merge(*done, *part)
    return done[0]
