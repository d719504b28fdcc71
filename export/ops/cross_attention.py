"""Cross-attention: the tokens of one text attend to another text, which an encoder has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import torch

from ...refimpl.config import Attention
from ..dispatch import replaceable
from .attention import attend, heads
from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["CrossAttentionWeights", "CrossKeyWeights", "EncoderKV", "cross_attention", "cross_keys"]


class CrossKeyWeights(TypedDict):
    """The leaves that map the encoder's output to keys and values."""

    wk: Float[Array, "D G*K"] | Blocks
    wv: Float[Array, "D G*K"] | Blocks
    bk: NotRequired[Float[Array, " G*K"]]
    bv: NotRequired[Float[Array, " G*K"]]


class CrossAttentionWeights(TypedDict):
    """The other leaves: the maps to queries and back."""

    wq: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    bq: NotRequired[Float[Array, " H*K"]]
    bo: NotRequired[Float[Array, " D"]]


class EncoderKV(NamedTuple):
    """Keys and values of the encoder's output, laid out as a cache; row b has `lengths[b]` real ones."""

    keys: Float[Array, "B G S K"]
    values: Float[Array, "B G S K"]
    lengths: Index[Array, " B", "< S+1"]


@replaceable
def cross_keys(
    states: Float[Array, "B S D"], weights: CrossKeyWeights, *, settings: Attention
) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """Two products, with heads before positions."""
    k = heads(states, weights["wk"], weights.get("bk"), size=settings.head_size)
    v = heads(states, weights["wv"], weights.get("bv"), size=settings.head_size)
    return k.transpose(1, 2), v.transpose(1, 2)


@replaceable
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
