"""The KV cache of a sliding window: a few slots that stay, then a ring that later tokens overwrite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.config import Attention
from ...refimpl.ops.attention import attend
from ...refimpl.ops.position import Rotary, rotate
from ...refimpl.ops.window_cache import WindowCache
from ..torch_bodies import torch_body


@torch_body
def window_positions(past: Tensor, lengths: Tensor, *, sinks: int = 0) -> Tensor:
    """In closed form, by the distance from the last token's slot modulo the ring."""
    slot, last = torch.arange(past.shape[2], device=past.device), lengths[:, None] - 1
    ring = torch.full_like(last, past.shape[2] - sinks)  # a number known at run time isn't exported
    behind = torch.remainder(last - slot, ring)
    at = torch.where(slot < sinks, slot, last - behind)
    return torch.where((at >= slot) & (at <= last), at, -1)


@torch_body
def window_append(past: Tensor, new: Tensor, start: Tensor, count: Tensor, *, sinks: int = 0) -> Tensor:
    """A gather by slot: the new entry if the slot gets one, else the old entry."""
    new_at = window_positions(past, start + count, sinks=sinks) - start[:, None]
    index = new_at.clamp(min=0)[:, None, :, None].expand_as(past)
    return torch.where((new_at >= 0)[:, None, :, None], new.transpose(1, 2).gather(2, index), past)


@torch_body
def window_floor(past: Tensor, written: Tensor, *, slack: int = 0) -> Tensor:
    """The formula of the specification."""
    return torch.where(written > past.shape[2], written - slack - 1, 0)


@torch_body
def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: WindowCache,
    past: Tensor,
    count: Tensor,
    rotary: Rotary | None = None,
    *,
    settings: Attention,
) -> tuple[Tensor, WindowCache]:
    """In this order: rotary, mask by the slots' tokens, attention, writes."""
    at = past[:, None] + torch.arange(q.shape[1], device=past.device)
    if rotary is not None:
        cos, sin = functional.embedding(at, rotary.cos), functional.embedding(at, rotary.sin)
        q = rotate(q, cos, sin, interleaved=settings.interleaved)
        k = rotate(k, cos, sin, interleaved=settings.interleaved)
    positions = torch.cat([window_positions(cache.keys, past, sinks=cache.sinks), at], 1).unsqueeze(1)
    distance = at.unsqueeze(2) - positions
    seen = (positions >= 0) & (distance >= 0)
    if settings.window is not None:
        seen = seen & ((distance < settings.window) | (positions < cache.sinks))
    keys = torch.cat([cache.keys.transpose(1, 2), k], 1)
    values = torch.cat([cache.values.transpose(1, 2), v], 1)
    y = attend(q, keys, values, seen, **settings.scoring)
    new_keys = window_append(cache.keys, k, past, count, sinks=cache.sinks)
    new_values = window_append(cache.values, v, past, count, sinks=cache.sinks)
    return y, cache._replace(keys=new_keys, values=new_values)
