"""XLNet's attention: relative positions, and relative segments (Dai et al. 2019, Transformer-XL, arXiv
1901.02860, §3.3; Yang et al. 2019, XLNet, arXiv 1906.08237, §2.5).

If a position p is added to each vector, the score of a query and a key is a product of two sums. Two of
its four terms contain the query's own position. Transformer-XL writes out all four terms. It replaces the
key's position by the distance i − j, and the query's position by a learned vector. XLNet adds a term that
says whether both tokens are in the same segment:

    score(i, j) = (q_i + u) · k_j             what the tokens are
                + (q_i + v) · R r(i−j)        how far apart they are
                + (q_i + s) · e(i, j)         e = e₀ in one segment, e₁ across segments

all times 1/√K. u, v and s are vectors of each head ("biases"), and R is a map of each layer. r(d) are the
sines and cosines of the distance d, so r is computed instead of stored, and any distance is possible:

    r(d) = [sin(d · f_0), …, sin(d · f_J−1), cos(d · f_0), …, cos(d · f_J−1)],    f_j = 10000^(−j / J)

A key after the query has a negative distance, and the sines of a negative distance have the opposite sign.
So a model knows the order. For segments, it matters only whether two of them are equal, so more than two
segments need no special case. In a text of one segment the last term is the same for all keys, and the
softmax cancels it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Self, TypedDict

from ..config import SmoothingSite, TokenMixer
from ..config.bounds import need
from ..config.record import bounded
from .arrays import as_type, between, indices, join_last, repeated, split_last, where
from .attention import attend, heads
from .disentangled import distance_scores
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .position import rope_frequencies, sinusoidal
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class XLNetWeights(TypedDict):
    """The parameters of XLNet's attention: the maps of tokens, the map of distances, and a vector u, v or
    s of each head for each term.

    If the model has segments, the parameters include the segments' vectors e₀ and e₁."""

    wq: Float[Array, "2*J H*K"] | Blocks
    wk: Float[Array, "2*J H*K"] | Blocks
    wv: Float[Array, "2*J H*K"] | Blocks
    wo: Float[Array, "H*K 2*J"] | Blocks
    wk_pos: Float[Array, "2*J H*K"] | Blocks
    content_bias: Float[Array, " H*K"]
    position_bias: Float[Array, " H*K"]
    segment_bias: NotRequired[Float[Array, " H*K"]]
    segments: NotRequired[Float[Array, "2 H*K"]]


class XLNetAttention(TokenMixer):
    """The settings of XLNet's attention, which has terms for sines and cosines of the distance, and for
    segments (`ops.xlnet`).

    Distances beyond `clamp` count as `clamp`. With `segments`, scores also have a term that depends on
    whether two tokens are in the same segment. The segments are the embedding's token types; the embedding
    then has no table of token types. Maps have no bias.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    clamp: int | None = bounded("context", "clamp of distances", default=None)
    segments: bool = True

    weights = XLNetWeights
    title, place, has_map, wavelengths = "XLNet's attention", "encoder", True, 10_000.0
    choices: ClassVar = {"clamp": (None, 1, 3)}
    together: ClassVar = {"segment_bias": "token_types", "segments": "token_types"}

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        need(width % 2 == 0, f"{name}: sines and cosines of distances need an even width, got {width}")

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size, "J": width // 2}

    def leaves(self) -> Sequence[str]:
        return ("segment_bias", "segments") if self.segments else ()

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        return xlnet_attention(x, lengths, weights, positions.token_types, settings=self)

    def readers(self) -> tuple[str, ...]:
        return "wq", "wk", "wv"

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return [SmoothingSite(("wv",), ("wo",), 1, self.head_size)]

    def describe(self) -> str:
        return f"XLNet's attention, {self.heads} heads of {self.head_size}"

    def describe_positions(self) -> str | None:
        return "sines and cosines of distances"

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> XLNetAttention:
        return cls(size["H"], size["K"], chosen["clamp"], segments=chosen["token_types"] is not None)


@op
def xlnet_attention(
    x: Float[Array, "B T 2*J"],
    lengths: Index[Array, " B", "< T+1"],
    weights: XLNetWeights,
    token_types: Index[Array, "B T", "< T+1"] | None = None,
    *,
    settings: XLNetAttention,
) -> Float[Array, "B T 2*J"]:
    """Compute the sublayer of XLNet's attention: project tokens and distances, attend with the terms of
    both, and project back.

    `token_types` are the segments of the tokens; without them all tokens are in one segment. The width D =
    2 · J is even.

    Conventions: as in `self_attention`, rows are padded on the right: no token sees padding, and outputs
    at padding are unspecified. XLNet itself pads on the left, where distances are the same. The memory of
    earlier segments is empty, and no token is hidden by an order of prediction (permutation).
    """
    q, k, bias = queries_and_keys(x, weights, token_types, settings=settings)
    v, t = heads(x, weights["wv"], size=settings.head_size), x.shape[1]
    mask = repeated(padding_mask(indices(t, x), lengths)[:, None], t, 1)
    return linear(join_last(attend(q, k, v, mask, bias)), weights["wo"])


def queries_and_keys(
    x: Array, weights: XLNetWeights, token_types: Array | None, *, settings: XLNetAttention
) -> tuple[Array, Array, Array]:
    """Return queries with the vector u added and keys, both [B, T, H, K], and the terms [B, H, T, T] of
    distances and segments, for x [B, T, D]."""
    size = settings.head_size
    q, k = (heads(x, weights[name], size=size) for name in ("wq", "wk"))
    k_pos = heads(distance_vectors(x, settings=settings), weights["wk_pos"], size=size)[0]
    bias = relative_scores(q, k, k_pos, weights, token_types, settings=settings)
    return q + split_last(weights["content_bias"], size), k, bias


def distance_vectors(x: Array, *, settings: XLNetAttention) -> Array:
    """Return the vectors r(d) [1, 2·T − 1, D] of all distances d between T tokens, in order.

    Distances beyond `clamp` have the vector of `clamp`."""
    _, t, width = x.shape
    distances = between(1 - t, t, x)
    if settings.clamp is not None:
        distances = distances.clip(-settings.clamp, settings.clamp)
    frequencies = rope_frequencies(indices(width // 2, x), theta=10_000.0)
    return as_type(sinusoidal(distances[None], frequencies), x.dtype)


def relative_scores(
    q: Array,
    k: Array,
    k_pos: Array,
    weights: XLNetWeights,
    token_types: Array | None,
    *,
    settings: XLNetAttention,
) -> Array:
    """Return the score's terms [B, H, T, T] of distances and segments.

    q and k [B, T, H, K] are the outputs of the maps to queries and keys. k_pos [W, H, K] are the keys of
    distances.
    """
    size, at = settings.head_size, indices(q.shape[1], q)
    asking = q + split_last(weights["position_bias"], size)
    bias = distance_scores(asking, k, at[:, None] - at + at[-1:], None, k_pos)
    if token_types is None or not settings.segments:
        return bias
    assert "segment_bias" in weights
    assert "segments" in weights
    asking = (q + split_last(weights["segment_bias"], size)) * size**-0.5
    ends = split_last(weights["segments"], size).swapaxes(0, 1).swapaxes(1, 2)
    terms = asking.swapaxes(1, 2) @ ends
    apart = (token_types[:, :, None] != token_types[:, None])[:, None]
    return bias + where(apart, terms[..., 1:], terms[..., :1])
