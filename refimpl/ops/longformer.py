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

from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..config import FirstToken, LongformerAttention
from .arrays import indices, join_last, repeated, smallest, where
from .attention import attend, heads
from .banded import banded_attend
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
    at = indices(tokens.shape[1], tokens)
    return smallest(where(tokens == separator, at, at[-1:] + 1), 1)


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
    local = [heads(x, weights[f"w{n}"], weights[f"b{n}"], size=settings.head_size) for n in "qkv"]
    y = local_and_global(x, lengths, local, weights, question, settings=settings)
    return linear(join_last(y), weights["wo"], weights["bo"])


def local_and_global(
    x: Array,
    lengths: Array,
    local: Sequence[Array],
    weights: LongformerWeights,
    question: Array | None,
    *,
    settings: LongformerAttention,
) -> Array:
    """What the heads give [B, T, H, K], of the window's queries, keys and values.

    The window is computed in bands, in which a global first token is a sink. As the length of a question
    differs from text to text, there all scores are computed.
    """
    t, reach = x.shape[1], settings.reach
    at = indices(t, x)
    real = padding_mask(at, lengths)
    if settings.global_tokens is None:
        return banded_attend(*local, real, band=(reach + 1, reach))

    def own(x: Array, name: str) -> Array:
        return heads(x, weights[f"w{name}_global"], weights[f"b{name}_global"], size=settings.head_size)

    k, v = own(x, "k"), own(x, "v")
    if isinstance(settings.global_tokens, FirstToken):
        y = banded_attend(*local, real, band=(reach + 1, reach), sinks=1)
        first = attend(own(x[:, :1], "q"), k, v, real[:, None])
        return where((at == 0)[:, None, None], first, y)
    assert question is not None
    spread = at < question[:, None]
    seen = longformer_mask(at[None], at[None], spread, spread, reach=reach) & real[:, None]
    every = attend(own(x, "q"), k, v, repeated(real[:, None], t, 1))
    return where(spread[:, :, None, None], every, attend(*local, seen))
