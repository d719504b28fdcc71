"""Disentangled attention: scores have separate terms for the content of two tokens and for the distance
between them (He et al. 2021, DeBERTa, arXiv 2006.03654, §3.1; version 3: arXiv 2111.09543).

Other models add a token's position to its vector, and a product of two such sums mixes content and position.
Here a token has a vector, and each distance has a vector too, in a table that all layers share. Both are
mapped to queries and keys. The score of query i and key j is

    Qᶜᵢ · Kᶜⱼ          content and content     does this word go with that one?
    + Qᶜᵢ · Kʳδ(i,j)   content and position    does this word look at words at that distance?
    + Kᶜⱼ · Qʳδ(i,j)   position and content    is that word looked at from this distance?

times 1/√(3 K), since three products of K numbers vary more than one (eq. 4). δ is a row of the table. There
is one row for each i − j from −k to k − 1. The first and the last row are also used for all larger distances
(eq. 3):

    k = 3, rows 0 … 5    key  0 1 2 3 4 5
                query 0       3 2 1 0 0 0
                query 2       5 4 3 2 1 0
                query 5       5 5 5 5 4 3

A key after the query has other rows than a key before it, so a model knows the order without positions in its
vectors. Kʳ and Qʳ don't depend on the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NotRequired, Self, TypedDict

import numpy as np

from ..config import LIMITS, Distances, SmoothingSite, TokenMixer
from ..config.bounds import need, within
from ..config.record import bounded
from .arrays import indices, join_last, repeated
from .attention import attend, heads
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index, Int


class DisentangledWeights(TypedDict):
    """The parameters of disentangled attention: the maps of tokens to queries, keys and values, and the
    maps of distances to keys and queries.

    There are no maps of distances if the maps of tokens are used for distances too, or if the score has no
    term that needs them.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D H*K"] | Blocks
    wv: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    bq: NotRequired[Float[Array, " H*K"]]
    bk: NotRequired[Float[Array, " H*K"]]
    bv: NotRequired[Float[Array, " H*K"]]
    bo: NotRequired[Float[Array, " D"]]
    wk_pos: NotRequired[Float[Array, "D H*K"] | Blocks]
    bk_pos: NotRequired[Float[Array, " H*K"]]
    wq_pos: NotRequired[Float[Array, "D H*K"] | Blocks]
    bq_pos: NotRequired[Float[Array, " H*K"]]


class DistanceTable(NamedTuple):
    """The vectors of distances, and for each query and key the row of the vector that belongs to their
    distance.
    """

    rows: Index[Array, "T T", "< W"]
    vectors: Float[Array, "W D"]


class DisentangledAttention(TokenMixer):
    """The settings of attention with separate terms for content and position in its scores
    (`ops.disentangled`).

    Besides the product of a query and a key, a score may include the product of a query and a distance
    (`content_to_position`) and the product of a key and a distance (`position_to_content`). Distances are
    mapped by matrices of their own, or with `shared` by the matrices of queries and keys. `bias` says
    whether the maps have biases. The map of distances to keys has a bias only if `position_bias` is set
    too. A `scale` of None means 1/sqrt(head_size · number of terms).
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    distances: Distances
    content_to_position: bool = True
    position_to_content: bool = True
    shared: bool = False
    bias: bool = True
    position_bias: bool = True
    scale: float | None = None

    @property
    def factor(self) -> float:
        """The factor that multiplies scores. It depends on the number of terms, since each term increases
        the variance of a score.
        """
        terms = 1 + self.content_to_position + self.position_to_content
        return (self.head_size * terms) ** -0.5 if self.scale is None else self.scale

    weights = DisentangledWeights
    title, place, has_map = "disentangled attention", "text", True
    choices: ClassVar = {"scale": (None, 0.7), "shared": (False, False, True)}

    def check(self, at: str) -> None:
        super().check(at)
        span, until = self.distances.span, self.distances.log_until
        within(at + "span of the distances", span, LIMITS["context"])
        if until is not None:
            need(span % 2 == 0, f"{at}the span of the distance table must be even, got {span}")
            within(at + "log_until of the distances", until, LIMITS["context"], span // 2 + 2)
        some = self.content_to_position or self.position_to_content
        need(some, f"{at}disentangled attention must have at least one term with positions")

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        tables = {mixer.distances for mixer in mixers}
        need(
            len(tables) <= 1, f"{name}: all layers must share one table of distances, got {len(tables)} kinds"
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size}

    def leaves(self) -> Sequence[str]:
        to_position = self.content_to_position and not self.shared
        to_content = self.position_to_content and not self.shared
        there = {
            **dict.fromkeys(("bq", "bk", "bv", "bo"), self.bias),
            "wk_pos": to_position, "bk_pos": to_position and self.bias and self.position_bias,
            "wq_pos": to_content, "bq_pos": to_content and self.bias,
        }  # fmt: skip
        return [leaf for leaf, has in there.items() if has]

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        return {"distances": (2 * self.distances.span, width)}

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        return disentangled_attention(x, lengths, weights, positions.distances, settings=self)

    def readers(self) -> tuple[str, ...]:
        return "wq", "wk", "wv"

    @property
    def reads_more(self) -> bool:
        return self.shared

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return [SmoothingSite(("wv", "bv") if self.bias else ("wv",), ("wo",), 1, self.head_size)]

    def describe(self) -> str:
        return f"disentangled attention, {self.heads} heads of {self.head_size}"

    def describe_positions(self) -> str | None:
        return f"vectors of {2 * self.distances.span} distances"

    def numbers(self) -> Iterator[float]:
        yield self.factor

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> DisentangledAttention:
        """Return settings that fit arrays drawn at random for a test of properties. A term is included if its
        projections are among the arrays. If projections are shared, both terms are included."""
        shared = chosen["shared"]
        return cls(
            heads=size["H"],
            head_size=size["K"],
            distances=Distances(size["W"]),
            content_to_position=shared or chosen["wk_pos"] is not None,
            position_to_content=shared or chosen["wq_pos"] is not None,
            shared=shared,
            bias=chosen["bq"] is not None,
            position_bias=chosen["bk_pos"] is not None,
            scale=chosen["scale"],
        )


@op
def distance_rows(
    queries: Int[Array, " T"],
    keys: Int[Array, " S"],
    *,
    span: int,
    log_until: int | None = None,
) -> Index[Array, "T S", "< W"]:
    """Return the row of each distance r = query − key: r + span, between 0 and 2 · span − 1 (eq. 3).

    With `log_until` L, all distances up to L − 1 have rows, but large distances share rows. A distance r
    beyond m = span / 2 has the row of the distance sign(r) · (m + ⌈(m − 1) · ln(|r| / m) / ln((L − 1) /
    m)⌉) (the code of DeBERTa v2).

        span 8, L 20      |r|   0 1 2 3 4 5 6 7 8 9 10 11 12 … 19 and more
                                0 1 2 3 4 5 5 6 6 6  6  6  7 …  7

    Conventions: logarithms are float64. transformers computes them in float32; for the sizes of DeBERTa's
    own models the rows are the same.
    """
    distance = queries[:, None] - keys[None, :]
    if log_until is not None:
        middle = span // 2
        far = np.maximum(np.abs(distance), middle)
        steps = np.log(far / middle) / np.log((log_until - 1) / middle) * (middle - 1)
        shared = middle + np.ceil(steps).astype(np.int64)
        distance = np.where(np.abs(distance) <= middle, distance, np.sign(distance) * shared)
    return np.clip(distance + span, 0, 2 * span - 1)


@op
def distance_scores(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    rows: Index[Array, "T S", "< W"],
    q_pos: Float[Array, "W H K"] | None = None,
    k_pos: Float[Array, "W H K"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """Return the two terms of each score that depend on the distance of query t and key s: scale · (q[t] ·
    k_pos[rows[t, s]] + k[s] · q_pos[rows[t, s]]).

    Conventions: a scale of None means 1/√K. The last term in the paper has δ(j, i), the distance from key
    to query. The authors' code, and so all models, use the same row in both terms.
    """
    b, t, h, size = q.shape
    scores = np.zeros((b, h, t, k.shape[1]), q.dtype)
    if k_pos is not None:
        by_row = np.einsum("bthk,whk->bhtw", q, k_pos)
        scores = scores + np.take_along_axis(by_row, rows[None, None], axis=3)
    if q_pos is not None:
        by_row = np.einsum("bshk,whk->bhsw", k, q_pos)
        scores = scores + np.take_along_axis(by_row, rows.T[None, None], axis=3).swapaxes(2, 3)
    return scores * (size**-0.5 if scale is None else scale)


@op
def disentangled_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: DisentangledWeights,
    table: DistanceTable,
    *,
    settings: DisentangledAttention,
) -> Float[Array, "B T D"]:
    """Compute the sublayer of disentangled attention: project tokens and distances, attend with
    `distance_scores` as a bias, and project back.

    Conventions: as in `self_attention`, rows are padded on the right. No token sees padding, and outputs
    at padding are unspecified. If maps are `shared`, distances use the maps of queries and keys.
    """
    q, k, bias = queries_and_keys(x, weights, table, settings=settings)
    v = heads(x, weights["wv"], weights.get("bv"), size=settings.head_size)
    t = x.shape[1]
    mask = repeated(padding_mask(indices(t, x), lengths)[:, None], t, 1)
    y = attend(q, k, v, mask, bias, scale=settings.factor)
    return linear(join_last(y), weights["wo"], weights.get("bo"))


def queries_and_keys(
    x: Array, weights: DisentangledWeights, table: DistanceTable, *, settings: DisentangledAttention
) -> tuple[Array, Array, Array]:
    """Return the queries and keys [B, T, H, K] of x [B, T, D], and the terms [B, H, T, T] that depend on
    distances.
    """

    def side(x: Array, weight: str, bias: str) -> Array:
        return heads(x, weights[weight], weights.get(bias), size=settings.head_size)

    q, k = side(x, "wq", "bq"), side(x, "wk", "bk")
    own = "" if settings.shared else "_pos"
    vectors, q_pos, k_pos = table.vectors[None], None, None
    if settings.position_to_content:
        q_pos = side(vectors, f"wq{own}", f"bq{own}")[0]
    if settings.content_to_position:
        k_pos = side(vectors, f"wk{own}", f"bk{own}")[0]
    return q, k, distance_scores(q, k, table.rows, q_pos, k_pos, scale=settings.factor)
