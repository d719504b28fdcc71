"""Cross-attention: the tokens of one text attend to another text, which an encoder has read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import Attention
from ...refimpl.ops.attention import attend, heads
from ...refimpl.ops.cross_attention import CrossAttentionWeights, CrossKeyWeights, EncoderKV
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import padding_mask
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def cross_keys(
    states: Float[Array, "B S D"], weights: CrossKeyWeights, *, settings: Attention
) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """Two products, with heads before positions."""
    k = heads(states, weights["wk"], weights.get("bk"), size=settings.head_size)
    v = heads(states, weights["wv"], weights.get("bv"), size=settings.head_size)
    return k.transpose(1, 2), v.transpose(1, 2)


@torch_body
def cross_attention(
    x: Float[Array, "B T D"],
    encoder_kv: EncoderKV,
    weights: CrossAttentionWeights,
    *,
    settings: Attention,
) -> Float[Array, "B T D"]:
    """Projections around `attend`, over keys laid out as in a cache."""
    q = heads(x, weights["wq"], weights.get("bq"), size=settings.head_size)
    seen = padding_mask(torch.arange(encoder_kv.keys.shape[2], device=x.device), encoder_kv.lengths)
    mask = seen.unsqueeze(1).expand(-1, x.shape[1], -1)
    keys, values = encoder_kv.keys.transpose(1, 2), encoder_kv.values.transpose(1, 2)
    y = attend(q, keys, values, mask, **settings.scoring)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo"))
