"""The KV cache of a sliding window: a ring of slots that later tokens overwrite, after slots that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from .attention import attend
from .position import rotate

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["window_append", "window_attention", "window_floor", "window_positions"]


def window_positions(
    past: Float[Array, "B G S K"], lengths: Index[Array, " B", "< O+1"], *, sinks: int = 0
) -> Int[Array, "B S"]:
    """Closed form: of a slot of the ring, as far behind the last token as the remainders differ."""
    slot, last = torch.arange(past.shape[2], device=past.device), lengths[:, None] - 1
    ring = torch.full_like(last, past.shape[2] - sinks)  # a number known at run time isn't exported
    behind = torch.remainder(last - slot, ring)
    at = torch.where(slot < sinks, slot, last - behind)
    return torch.where((at >= slot) & (at <= last), at, -1)


def window_append(
    past: Float[Array, "B G S K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    count: Index[Array, " B", "< T+1"],
    *,
    sinks: int = 0,
) -> Float[Array, "B G S K"]:
    """Gathered by slot: the new entry that it holds afterwards, or what it held."""
    new_at = window_positions(past, start + count, sinks=sinks) - start[:, None]
    index = new_at.clamp(min=0)[:, None, :, None].expand_as(past)
    return torch.where((new_at >= 0)[:, None, :, None], new.transpose(1, 2).gather(2, index), past)


def window_floor(
    past: Float[Array, "B G S K"], written: Index[Array, " B", "< O+1"], *, slack: int = 0
) -> Int[Array, " B"]:
    """By its formula."""
    return torch.where(written > past.shape[2], written - slack - 1, 0)


def window_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    past_k: Float[Array, "B G S K"],
    past_v: Float[Array, "B G S K"],
    past: Index[Array, " B", "< O+1"],
    count: Index[Array, " B", "< T+1"],
    cos: Float[Array, "L J"] | None = None,
    sin: Float[Array, "L J"] | None = None,
    *,
    sinks: int = 0,
    slack: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """The parts, one after the other: rotary, mask by the slots' tokens, attention, writes."""
    at = past[:, None] + torch.arange(q.shape[1], device=past.device)
    if cos is not None and sin is not None:
        c, s = functional.embedding(at, cos), functional.embedding(at, sin)
        q = rotate(q, c, s, interleaved=interleaved)
        k = rotate(k, c, s, interleaved=interleaved)
    held = torch.cat([window_positions(past_k, past, sinks=sinks), at], 1).unsqueeze(1)
    distance = at.unsqueeze(2) - held
    near = (distance < past_k.shape[2] - sinks - slack) | (held < sinks)
    keys, values = (torch.cat([p.transpose(1, 2), n], 1) for p, n in ((past_k, k), (past_v, v)))
    y = attend(q, keys, values, near & (held >= 0) & (distance >= 0), scale=scale, softcap=softcap)
    k_cache = window_append(past_k, k, past, count, sinks=sinks)
    return y, k_cache, window_append(past_v, v, past, count, sinks=sinks)
