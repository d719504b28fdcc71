"""Longformer's attention: a window around each token, and a few global tokens that see all and are seen by
all (Beltagy et al. 2020, arXiv 2004.05150, §3.1).

With a window alone a token learns of far ones only through many layers. Global tokens shorten the way: what
one of them gathers from the whole text, all others read in the next layer. The task says which tokens these
are: the first one, where a text is classified; the question, where it is answered; none, where words are
predicted.

    reach 1, token 0 global     key  0 1 2 3 4 5
                        query 0      g g g g g g
                        query 1      x x x . . .
                        query 2      x x x x . .
                        query 5      x . . . x x

A global query (g) has maps of its own to queries, keys and values, from which all its scores come: looking
for a summary isn't looking for a neighbour ("Linear Projections for Global Attention" there). All other
queries (x) take those of the window, for global keys too. A text of T tokens with G global ones has about
T · (2 · reach + 1 + 2 · G) scores, not T · T.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from ..config import FirstToken, LongformerAttention
from .attention import attend, heads
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks
from .sparse import longformer_mask

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from ..axes import Index

__all__ = ["LongformerWeights", "longformer_attention", "question_end"]


class LongformerWeights(TypedDict):
    """The leaves of Longformer's attention: maps of the window, and those of global queries."""

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D H*K"] | Blocks
    wv: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    bq: Float[Array, " H*K"]
    bk: Float[Array, " H*K"]
    bv: Float[Array, " H*K"]
    bo: Float[Array, " D"]
    wq_global: NotRequired[Float[Array, "D H*K"] | Blocks]
    wk_global: NotRequired[Float[Array, "D H*K"] | Blocks]
    wv_global: NotRequired[Float[Array, "D H*K"] | Blocks]
    bq_global: NotRequired[Float[Array, " H*K"]]
    bk_global: NotRequired[Float[Array, " H*K"]]
    bv_global: NotRequired[Float[Array, " H*K"]]


@op
def question_end(tokens: Index[Array, "B T", "< N"], *, separator: int) -> Index[Array, " B", "< T+1"]:
    """The position of each row's first `separator`: the tokens before it are the question.

    Conventions: a row without one is all question. The separator itself isn't part of it.
    """
    found = tokens == separator
    return np.where(found.any(axis=1), found.argmax(axis=1), tokens.shape[1])


@op
def longformer_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: LongformerWeights,
    question: Index[Array, " B", "< T+1"] | None = None,
    *,
    settings: LongformerAttention,
) -> Float[Array, "B T D"]:
    """The sublayer: attention under `longformer_mask`; global queries attend by their own maps to all.

    `question` says how many tokens of each row are global, where they are those of a question. Conventions:
    as in `self_attention`, rows are padded on the right: no token sees padding, and what comes out at padding
    is unspecified. transformers pads texts to a multiple of the widest window, which changes nothing.
    """
    b, t, _ = x.shape
    at = np.broadcast_to(np.arange(t), (b, t))
    real = padding_mask(at[0], lengths)[:, None]
    spread = global_tokens(at, question, settings=settings)
    q, k, v = (heads(x, weights[f"w{n}"], weights[f"b{n}"], size=settings.head_size) for n in "qkv")
    y = attend(q, k, v, longformer_mask(at, at, spread, spread, reach=settings.reach) & real)
    if settings.global_tokens is not None:
        q, k, v = (
            heads(x, weights[f"w{n}_global"], weights[f"b{n}_global"], size=settings.head_size) for n in "qkv"
        )
        y = np.where(spread[:, :, None, None], attend(q, k, v, np.broadcast_to(real, (b, t, t))), y)
    return linear(y.reshape(b, t, -1), weights["wo"], weights["bo"])


def global_tokens(at: Array, question: Array | None, *, settings: LongformerAttention) -> Array:
    """Which of the tokens at the positions [B, T] are global."""
    if settings.global_tokens is None:
        return np.zeros(at.shape, bool)
    if isinstance(settings.global_tokens, FirstToken):
        return at == 0
    assert question is not None
    return at < question[:, None]
