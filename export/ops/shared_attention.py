"""Attention of a layer that reads the keys and values of an earlier layer, and makes none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ...refimpl.config import Attention
from ...refimpl.ops.attention import attend, from_heads
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import seen_by
from ...refimpl.ops.position import Rotary, query_factors, rotate
from ...refimpl.ops.shared_attention import SharedAttentionWeights
from ..torch_bodies import torch_body
from .attention import normalized_heads, split_heads

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


def queries(y: Array, at: Array, norm: Array | None, rotary: Rotary | None, *, settings: Attention) -> Array:
    """The result [B, T, H·K] of the map to queries, as heads at the positions `at` [B, T]."""
    a = settings
    if a.clip is not None:
        y = y.clamp(-a.clip, a.clip)
    q = split_heads(y, norm, settings=a)
    if rotary is not None:
        cos, sin = functional.embedding(at, rotary.cos), functional.embedding(at, rotary.sin)
        q = rotate(q, cos, sin, interleaved=a.interleaved)
    if a.qk_norm is not None and a.qk_norm.rotated:
        q = normalized_heads(q.flatten(-2), norm, settings=a)
    if a.query_scale is not None:
        factors = query_factors(at, **a.query_scale.settings)
        q = q * factors.to(q.dtype).unsqueeze(-1).unsqueeze(-1)
    return q


@torch_body
def shared_attention(
    x: Float[Array, "B T D"],
    cache: KVCache,
    past: Index[Array, " B", "< O+1"],
    weights: SharedAttentionWeights,
    rotary: Rotary | None = None,
    *,
    settings: Attention,
) -> Float[Array, "B T D"]:
    """Queries alone are projected; the cache is read."""
    at = past[:, None] + torch.arange(x.shape[1], device=past.device)
    y = linear(x, weights["wq"], weights.get("bq"))
    q = queries(y, at, weights.get("q_norm"), rotary, settings=settings)
    mask = seen_by(at, torch.arange(cache.keys.shape[2], device=at.device), settings=settings, causal=True)
    keys, values = cache.keys.transpose(1, 2), cache.values.transpose(1, 2)
    y = attend(q, keys, values, mask, None, weights.get("sink_logits"), **settings.scoring)
    y = from_heads(y.flatten(-2), x, weights, settings=settings)
    return linear(y, weights["wo"], weights.get("bo"))
