"""Self-attention without a cache: each token sees the whole text, or the text up to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Attention, BigBirdBlocks
from .arrays import indices, join_last
from .attention import AttentionWeights, attend, from_heads, positioned, project
from .bigbird import bigbird_attend
from .dispatch import op
from .linear import linear
from .mask import padding_mask, seen_by
from .position import Rotary, rotate

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


@op
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
    """Compute the sublayer of self-attention without a cache: project to queries, keys and values, attend,
    and project back. Each query sees the first `lengths[b]` tokens of its row.

    Conventions: as in `attention`, with two exceptions: a token sees later tokens too unless the layer is
    `causal`, and a window extends to both sides. Rows are padded on the right: no token sees padding, and
    outputs at padding are unspecified. `rotary` has a row for each of the T positions.
    """
    at = indices(x.shape[1], x)
    q, k, v = project(x, weights, settings=settings)
    q, k, rotary = positioned(q, k, at[None], weights, rotary, settings=settings)
    if rotary is not None:
        q = rotate(q, rotary.cos[None], rotary.sin[None], interleaved=settings.interleaved)
        k = rotate(k, rotary.cos[None], rotary.sin[None], interleaved=settings.interleaved)
    if isinstance(blocks := settings.mask, BigBirdBlocks):
        y = bigbird_attend(q, k, v, lengths, **blocks.settings, **settings.scoring)
    else:
        near = seen_by(at[None], at, settings=settings, causal=causal)
        mask = near & padding_mask(at, lengths)[:, None]
        y = attend(q, k, v, mask, bias, weights.get("sink_logits"), **settings.scoring)
    y = from_heads(join_last(y), x, weights, settings=settings)
    return linear(y, weights["wo"], weights.get("bo"))
