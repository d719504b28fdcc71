"""Self-attention without a cache: each token sees the whole text, or the text up to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import Attention, BigBirdBlocks
from ...refimpl.ops.attention import AttentionWeights, attend, from_heads, project
from ...refimpl.ops.bigbird import bigbird_attend
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import padding_mask, seen_by
from ...refimpl.ops.position import Rotary, rotate
from ..torch_bodies import torch_body
from .attention import positioned

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def self_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: AttentionWeights,
    rotary: Rotary | None = None,
    bias: Float[Array, "B H T T"] | None = None,
    *,
    settings: Attention,
    causal: bool = False,
) -> Float[Array, "B T D"]:
    """Projections, rotary, mask and attention."""
    at = torch.arange(x.shape[1], device=x.device)
    q, k, v = project(x, weights, settings=settings)
    q, k, rotary = positioned(q, k, at.unsqueeze(0), weights, rotary, settings=settings)
    if rotary is not None:
        cos, sin = rotary.cos.unsqueeze(0), rotary.sin.unsqueeze(0)
        q = rotate(q, cos, sin, interleaved=settings.interleaved)
        k = rotate(k, cos, sin, interleaved=settings.interleaved)
    if isinstance(settings.mask, BigBirdBlocks):
        y = bigbird_attend(q, k, v, lengths, **settings.mask.settings, **settings.scoring)
    else:
        near = seen_by(at.unsqueeze(0), at, settings=settings, causal=causal)
        mask = padding_mask(at, lengths).unsqueeze(1) & near
        y = attend(q, k, v, mask, bias, weights.get("sink_logits"), **settings.scoring)
    return linear(from_heads(y.flatten(-2), x, weights, settings=settings), weights["wo"], weights.get("bo"))
