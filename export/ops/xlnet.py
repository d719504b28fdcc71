"""XLNet's attention: Transformer-XL's relative positions, and relative segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import XLNetAttention
from ...refimpl.ops.attention import attend, heads
from ...refimpl.ops.disentangled import distance_scores
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import padding_mask
from ...refimpl.ops.position import rope_frequencies, sinusoidal
from ...refimpl.ops.xlnet import XLNetWeights
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def xlnet_attention(
    x: Float[Array, "B T 2*J"],
    lengths: Index[Array, " B", "< T+1"],
    weights: XLNetWeights,
    token_types: Index[Array, "B T", "< T+1"] | None = None,
    *,
    settings: XLNetAttention,
) -> Float[Array, "B T 2*J"]:
    """One product for queries, to which each term adds its own vector."""
    q, k, v = (heads(x, weights[name], size=settings.head_size) for name in ("wq", "wk", "wv"))
    k_pos = heads(distance_vectors(x, settings=settings), weights["wk_pos"], size=settings.head_size)[0]
    bias = relative_scores(q, k_pos, weights, token_types, settings=settings)
    t = x.shape[1]
    mask = padding_mask(torch.arange(t, device=x.device), lengths).unsqueeze(1).expand(-1, t, -1)
    y = attend(q + weights["content_bias"].unflatten(0, q.shape[2:]), k, v, mask, bias)
    return linear(y.flatten(-2), weights["wo"])


def distance_vectors(x: Array, *, settings: XLNetAttention) -> Array:
    """Sines and cosines [1, 2·T − 1, D] of the distances of x [B, T, D], from 1 − T on."""
    t, width = x.shape[1], x.shape[2]
    distances = torch.arange(1 - t, t, device=x.device)
    if settings.clamp is not None:
        distances = distances.clamp(-settings.clamp, settings.clamp)
    pairs = torch.arange(width // 2, device=x.device)
    return sinusoidal(distances.unsqueeze(0), rope_frequencies(pairs, theta=10_000.0)).to(x.dtype)


def relative_scores(
    q: Array, k_pos: Array, weights: XLNetWeights, token_types: Array | None, *, settings: XLNetAttention
) -> Array:
    """The terms [B, H, T, T] of distances and segments, of queries [B, T, H, K] without a vector added."""
    shape = q.shape[2:]
    at = torch.arange(q.shape[1], device=q.device)
    rows = at.unsqueeze(1) - at + at[-1:]
    bias = distance_scores(q + weights["position_bias"].unflatten(0, shape), q, rows, None, k_pos)
    if token_types is None or not settings.segments:
        return bias
    assert "segment_bias" in weights
    assert "segments" in weights
    asking = (q + weights["segment_bias"].unflatten(0, shape)) * settings.head_size**-0.5
    ends = asking.transpose(1, 2) @ weights["segments"].unflatten(1, shape).permute(1, 2, 0)
    apart = (token_types.unsqueeze(2) != token_types.unsqueeze(1)).unsqueeze(1)
    return bias + torch.where(apart, ends[..., 1:], ends[..., :1])
