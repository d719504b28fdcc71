"""XLNet's attention: relative positions, and relative segments (Dai et al. 2019, Transformer-XL, arXiv
1901.02860, §3.3; Yang et al. 2019, XLNet, arXiv 1906.08237, §2.5).

With a position p added to each vector, the score of a query and a key is a product of two sums, of which two
terms hold the query's own place. Transformer-XL writes the four terms out, puts the distance i − j in the
place of the key's position, and a learned vector in the place of the query's. XLNet adds a term that says
whether both tokens are of one text:

    score(i, j) = (q_i + u) · k_j             what the tokens are
                + (q_i + v) · R r(i−j)        how far apart they stand
                + (q_i + s) · e(i, j)         e = e₀ in one segment, e₁ across segments

all times 1/√K. u, v and s are a vector of each head ("biases"), R a map of each layer. r(d) are the sines and
cosines of the distance d, so nothing is stored for it and no distance is too far:

    r(d) = [sin(d · f_0), …, sin(d · f_J−1), cos(d · f_0), …, cos(d · f_J−1)],    f_j = 10000^(−j / J)

A key ahead has a negative distance, whose sines have the other sign: a model so knows the order. Only whether
two segments are equal counts, not which they are, so more than two texts are no new case. In a text of one
segment the last term is the same for all keys, and the softmax drops it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from ..config import XLNetAttention
from .attention import attend, heads
from .disentangled import distance_scores
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .position import rope_frequencies, sinusoidal
from .quant import Blocks

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from ..axes import Index

__all__ = ["XLNetWeights", "xlnet_attention"]


class XLNetWeights(TypedDict):
    """The leaves of XLNet's attention: maps of tokens, that of distances, and a vector of each head for each
    term; with segments also theirs, e₀ and e₁."""

    wq: Float[Array, "2*J H*K"] | Blocks
    wk: Float[Array, "2*J H*K"] | Blocks
    wv: Float[Array, "2*J H*K"] | Blocks
    wo: Float[Array, "H*K 2*J"] | Blocks
    wk_pos: Float[Array, "2*J H*K"] | Blocks
    content_bias: Float[Array, " H*K"]
    position_bias: Float[Array, " H*K"]
    segment_bias: NotRequired[Float[Array, " H*K"]]
    segments: NotRequired[Float[Array, "2 H*K"]]


@op
def xlnet_attention(
    x: Float[Array, "B T 2*J"],
    lengths: Index[Array, " B", "< T+1"],
    weights: XLNetWeights,
    token_types: Index[Array, "B T", "< T+1"] | None = None,
    *,
    settings: XLNetAttention,
) -> Float[Array, "B T 2*J"]:
    """The sublayer: project tokens and distances; attend with the terms of both; project back.

    `token_types` are the segments of the tokens; without them all are of one. The width D = 2 · J is even.

    Conventions: as in `self_attention`, rows are padded on the right: no token sees padding, and what comes
    out at padding is unspecified. XLNet itself pads on the left, where distances are the same. Its memory of
    earlier segments is empty, and no token is hidden by an order of prediction.
    """
    b, t, _ = x.shape
    q, k, bias = queries_and_keys(x, weights, token_types, settings=settings)
    v = heads(x, weights["wv"], size=settings.head_size)
    mask = np.broadcast_to(padding_mask(np.arange(t), lengths)[:, None], (b, t, t))
    y = attend(q, k, v, mask, bias)
    return linear(y.reshape(b, t, -1), weights["wo"])


def queries_and_keys(
    x: Array, weights: XLNetWeights, token_types: Array | None, *, settings: XLNetAttention
) -> tuple[Array, Array, Array]:
    """Queries with u and keys [B, T, H, K] of x [B, T, D], and the terms [B, H, T, T] of distances and
    segments."""
    t, size = x.shape[1], settings.head_size

    def asking(bias: Array) -> Array:
        return heads(x, weights["wq"], bias, size=size)

    k = heads(x, weights["wk"], size=size)
    at = np.arange(t)
    vectors = distance_vectors(np.arange(1 - t, t), x.shape[2], settings=settings).astype(x.dtype)
    k_pos = heads(vectors, weights["wk_pos"], size=size)[0]
    rows = at[:, None] - at + t - 1
    bias = distance_scores(asking(weights["position_bias"]), k, rows, None, k_pos)
    if token_types is not None and settings.segments:
        assert "segment_bias" in weights
        assert "segments" in weights
        ends = weights["segments"].reshape(2, settings.heads, size)
        same, across = np.einsum("bthk,shk->sbht", asking(weights["segment_bias"]), ends) * size**-0.5
        apart = token_types[:, :, None] != token_types[:, None, :]
        bias = bias + np.where(apart[:, None], across[..., None], same[..., None])
    return asking(weights["content_bias"]), k, bias


def distance_vectors(distances: Array, width: int, *, settings: XLNetAttention) -> Array:
    """r(d) [1, W, D] of the distances [W], in float64; those beyond `clamp` have its vector."""
    if settings.clamp is not None:
        distances = np.clip(distances, -settings.clamp, settings.clamp)
    return sinusoidal(distances[None], rope_frequencies(np.arange(width // 2), theta=10_000.0))
