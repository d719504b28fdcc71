"""Multi-head latent attention: the cache stores one short vector for each token, and each head makes its
keys and values from this vector (DeepSeek-V2 2024, arXiv 2405.04434, §2.1; DeepSeek-V3 2024, arXiv
2412.19437, §2.1.1).

A token's vector h is mapped to a latent c of C numbers, normalized, and to a rotary key r. Head i then has

    key     [c Wᵏᵢ ; r]     its own part without positions, and the rotated part that all heads share
    value   c Wᵛᵢ           V numbers, which may differ from the size K of a key
    query   [q ; q̂]         q has U numbers; q̂ is rotated like r, and both have 2J

Positions use a separate part of the key. If c Wᵏᵢ itself were rotated, the rotation would be between the
query and Wᵏᵢ, and would be different for each token. Then the query and Wᵏᵢ couldn't be multiplied first,
as the second form below does. The score of a query and a key, and the mean of values under the softmax p
of the scores over √(U + 2J), have two forms:

    q · (c Wᵏᵢ) + q̂ · r  =  (q Wᵏᵢᵀ) · c + q̂ · r        Σ_s p_s (c_s Wᵛᵢ)  =  (Σ_s p_s c_s) Wᵛᵢ

    expanded   H keys and values for each token        attention with heads, K and V numbers wide
    absorbed   H queries of C + 2J numbers             the latents are the keys and the values of all heads

Expanding costs C (U + V) multiplications per head for each kept token, and absorbing costs the same for
each query. In the absorbed form, each pair of a query and a token costs 2C + 2J multiplications per head
instead of K + V, where K = U + 2J. A prompt has as many queries as tokens, so the pairs dominate the cost
(1088 and 320 in DeepSeek-V3). For a single token after the prompt, the expanded form would have to expand
all kept tokens. So the first form is for long prompts, and the second form is for the tokens after them.
In both forms, the cache keeps the normalized latent and the rotated key, C + 2J numbers per token. In
DeepSeek-V3 these are 576 numbers (512 and 64), while keys and values of its 128 heads would be 40960.

If nothing is rotated (NoPE: Kimi Linear 2025, arXiv 2510.26692, §4), r and q̂ are the outputs of the maps
without a rotation, and r is still one key for all heads. In Mistral Large 4's layers without positions there
is no r: J is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NotRequired, TypedDict, cast

import numpy as np

from ..config import (
    LIMITS,
    Indexer,
    QueryScale,
    Rope,
    SharedIndexer,
    SmoothingSite,
    TokenMixer,
)
from ..config.bounds import check_bounds, need, within
from ..config.record import bounded
from .activation import sigmoid
from .arrays import as_type, concatenate, following, indices, join_last, repeated, split
from .attention import attend, heads
from .cache import append, places, select
from .cache_kind import CacheArray, CacheKind
from .dispatch import op
from .indexer import FLOAT16, best_keys, index_scores
from .linear import linear
from .mask import causal_mask, padding_mask
from .norm import layer_norm, rms_norm
from .position import Rotary, query_factors, rotate
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index


class LatentAttentionWeights(TypedDict):
    """The parameters of latent attention, by the names of DeepSeek's code.

    `wkv_a` makes the latent and the rotary key. `wk_b` and `wv_b` make a head's keys and values from the
    latent. `wq` makes queries from x, or from a separate latent of queries, which `wq_a` makes. Each norm
    normalizes one of the latents. An indexer makes its queries from the latent of queries, and makes one
    key and the weights of its heads from x. Without a latent of queries it makes them from x, which
    `index_q_norm` and `index_q_bias` normalize. A slope and an offset for each head scale its queries by
    their position.
    """

    wq_a: NotRequired[Float[Array, "D F"] | Blocks]
    q_norm: NotRequired[Float[Array, " F"]]
    bq_a: NotRequired[Float[Array, " F"]]
    wq: Float[Array, "F H*K"] | Blocks | Float[Array, "D H*K"]
    q_slope: NotRequired[Float[Array, " H"]]
    q_offset: NotRequired[Float[Array, " H"]]
    wkv_a: Float[Array, "D C+2*J"] | Blocks
    kv_norm: Float[Array, " C"]
    wk_b: Float[Array, "C H*U"]
    wv_b: Float[Array, "C H*V"]
    wo: Float[Array, "H*V D"] | Blocks
    wq_index: NotRequired[Float[Array, "F X*W+2*X*J"]]
    wk_index: NotRequired[Float[Array, "D W+2*J"]]
    w_index: NotRequired[Float[Array, "D X"]]
    index_norm: NotRequired[Float[Array, " W+2*J"]]
    index_bias: NotRequired[Float[Array, " W+2*J"]]
    index_q_norm: NotRequired[Float[Array, " D"]]
    index_q_bias: NotRequired[Float[Array, " D"]]
    index_slope: NotRequired[Float[Array, " X"]]
    index_offset: NotRequired[Float[Array, " X"]]
    bkv_a: NotRequired[Float[Array, " C+2*J"]]
    bo: NotRequired[Float[Array, " D"]]
    w_head_gate: NotRequired[Float[Array, "D H"] | Blocks]


INDEXER_LEAVES = ("wq_index", "wk_index", "w_index", "index_norm", "index_bias")


class LatentCache(NamedTuple):
    """The cache of a layer with latent attention. With room for L tokens per row, it stores each token's
    latent, shared key, and the indexer's key.
    """

    latents: Float[Array, "B 1 L C+2*J"]
    index_keys: Float[Array, "B 1 L W+2*J"] | None = None

    @property
    def nbytes(self) -> int:
        """The size of the cache's arrays in bytes."""
        return self.latents.nbytes + (0 if self.index_keys is None else self.index_keys.nbytes)

    def select(self, rows: Array) -> LatentCache:
        """Return a cache of the batch rows with the given numbers, in the given order."""
        return self._each(lambda array: select(array, rows))

    def grow(self, capacity: int) -> LatentCache:
        """Return a cache with the same tokens and with room for exactly `capacity` tokens per row. New
        entries are zeros.
        """
        return self._each(lambda array: places(array, capacity))

    def _each(self, change: Callable[[Array], Array]) -> LatentCache:
        index_keys = None if self.index_keys is None else change(self.index_keys)
        return LatentCache(change(self.latents), index_keys)


@dataclass(frozen=True)
class Latents(CacheKind):
    """The kind of cache of latent attention. It stores one vector of `size` numbers per token, which all
    heads read, and one vector of `index` numbers for an indexer.
    """

    holds = LatentCache

    size: int
    index: int | None = None

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        latent = CacheArray("latent", ("batch", 1, self.tokens_axis, self.size))
        if self.index is None:
            return (latent,)
        return latent, CacheArray("index", ("batch", 1, self.tokens_axis, self.index))


class LatentAttention(TokenMixer):
    """The settings of multi-head latent attention. The cache stores a latent of `rank` numbers and a
    rotary key for each token.

    A head's key has `key_size` numbers made from the latent, and a rotated part that all heads share. The
    rotated part has as many numbers as `position` has dims. A head's value has `value_size` numbers.
    Without a `position`, the shared part has `shared_size` numbers, and nothing is rotated (Kimi Linear).
    If there is a `query_rank`, queries are made from a separate latent with that many numbers. `bias` says
    whether the maps to latents and the output projection have biases. A `scale` of None means
    1/sqrt(head_size). An `indexer` chooses the tokens that are seen (DeepSeek-V3.2). `query_scale`
    multiplies queries by a factor of their position (Mistral Small 4). With `log_scale`, attention's and
    the indexer's queries of a head are multiplied by slope · ln(position + 1) + offset, where slope and
    offset are learned (Mistral Large 4; Scalable-Softmax 2025). With `head_gate` the output of a
    head is multiplied by a gate of the token, σ(x w_head_gate) (Ling 3). `latent_scale` multiplies the
    normalized latent, but not the rotary key (LongCat).
    """

    heads: int = bounded("heads")
    rank: int = bounded("width", "rank of the latent")
    key_size: int = bounded("width")
    value_size: int = bounded("width")
    position: Rope | None
    query_rank: int | None = bounded("width", "rank of the queries' latent", default=None)
    bias: bool = False
    norm_eps: float = 1e-6
    scale: float | None = None
    indexer: Indexer | SharedIndexer | None = None
    query_scale: QueryScale | None = None
    shared_size: int | None = None
    head_gate: bool = False
    latent_scale: float | None = None
    log_scale: bool = False

    @property
    def key_dims(self) -> int:
        """The number of elements of a key that are the same for all heads."""
        return (self.shared_size or 0) if self.position is None else self.position.dims

    @property
    def head_size(self) -> int:
        """The number of elements of a query. A key has the same number, including the part that all heads
        share.
        """
        return self.key_size + self.key_dims

    @property
    def interleaved(self) -> bool:
        """Whether rotary positions rotate the pairs (2j, 2j + 1) of elements instead of (j, j + J)."""
        return self.position is not None and self.position.interleaved

    @property
    def stepwise(self) -> bool:
        """Whether an indexer chooses the tokens that it reads, which is done only with a cache."""
        return self.indexer is not None

    weights = LatentAttentionWeights
    keeps = "tokens"
    choices: ClassVar = {
        "scale": (None, 0.7),
        "interleaved": (False, True),
        "norm_eps": (1e-6, 0.1),
        "topk": (1, 3),
        "query_scale": (None, QueryScale(0.5, 2)),
        "latent_scale": (None, 1.3),
    }
    together: ClassVar = {
        **dict.fromkeys(
            (
                "wk_index",
                "w_index",
                "index_norm",
                "index_bias",
                "index_q_norm",
                "index_q_bias",
                "index_keys",
            ),
            "wq_index",
        ),
        **dict.fromkeys(("q_offset", "index_slope", "index_offset"), "q_slope"),
    }

    def check(self, at: str) -> None:
        super().check(at)
        if self.query_scale is not None:
            check_bounds(at, self.query_scale)
        if self.position is None:
            shared: Any = self.shared_size
            within(at + "shared_size", shared, LIMITS["width"], 0)
        else:
            self.position.check(at, LIMITS["width"])
            need(
                self.shared_size is None,
                f"{at}shared_size needs attention without positions, got {self.position}",
            )
        if isinstance(self.indexer, Indexer):
            check_bounds(at, self.indexer)
            size, name = self.indexer.size, "size of the indexer's heads"
            within(at + name, size, LIMITS["width"], self.key_dims)

    def check_before(self, at: str, before: Sequence[TokenMixer]) -> None:
        if not isinstance(self.indexer, SharedIndexer):
            return
        indexers = [mixer.indexer for mixer in before if isinstance(mixer, LatentAttention)]
        shared = next((one for one in reversed(indexers) if one is not None), None)
        need(shared is not None, f"{at}a shared indexer needs an earlier layer with its own indexer")
        assert shared is not None
        same, got = shared.topk == self.indexer.topk, self.indexer.topk
        need(
            same,
            f"{at}a shared indexer must have the shared layer's topk ({shared.topk}), got {got!r:.40}",
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        sizes: dict[str, float] = {"H": self.heads, "C": self.rank, "V": self.value_size, "U": self.key_size}
        sizes |= {"K": self.head_size, "J": self.key_dims / 2, "F": self.query_rank or width}
        if isinstance(self.indexer, Indexer):
            sizes |= {"X": self.indexer.heads, "W": self.indexer.size - self.key_dims}
        return sizes

    @property
    def own_queries(self) -> bool:
        """Whether the layer has an indexer that makes its queries from x, not from a latent of queries."""
        return isinstance(self.indexer, Indexer) and self.query_rank is None

    def leaves(self) -> Sequence[str]:
        indexed = isinstance(self.indexer, Indexer)
        there = {
            **dict.fromkeys(("wq_a", "q_norm"), self.query_rank is not None),
            "bq_a": self.query_rank is not None and self.bias,
            **dict.fromkeys(("bkv_a", "bo"), self.bias),
            **dict.fromkeys(INDEXER_LEAVES, indexed),
            **dict.fromkeys(("index_q_norm", "index_q_bias"), self.own_queries),
            **dict.fromkeys(("q_slope", "q_offset"), self.log_scale),
            **dict.fromkeys(("index_slope", "index_offset"), indexed and self.log_scale),
            "w_head_gate": self.head_gate,
        }
        return [leaf for leaf, has in there.items() if has]

    def form(self, leaf: str) -> int:
        return int(self.query_rank is None and leaf == "wq")

    def cache_kind(self) -> Latents:
        index = self.indexer.size if isinstance(self.indexer, Indexer) else None
        return Latents(self.rank + self.key_dims, index)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, LatentCache, Array | None]:
        rotary = positions.angles(self.position)
        y, cache, seen = latent_attention(x, cache, past, weights, rotary, chosen, settings=self)
        return y, cache, chosen if self.indexer is None else seen

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        rotary = positions.angles(self.position)
        return latent_self_attention(x, lengths, weights, rotary, settings=self, causal=causal)

    def readers(self) -> tuple[str, ...]:
        if self.own_queries:
            return ()  # a norm of x, whose channels can't be divided, makes the indexer's queries
        index = ("wk_index", "w_index") if isinstance(self.indexer, Indexer) else ()
        gate = ("w_head_gate",) if self.head_gate else ()
        return "wq" if self.query_rank is None else "wq_a", "wkv_a", *index, *gate

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        read = ("wq", *(("wq_index",) if isinstance(self.indexer, Indexer) else ()))
        queries = [] if self.query_rank is None else [SmoothingSite(("q_norm",), read)]
        return [*queries, SmoothingSite(("wv_b",), ("wo",))]

    def group_query_limit(self) -> str | None:
        return "latent attention keeps one vector a token, which is the key and the value of all heads"

    def float16_limit(self) -> str | None:
        if self.indexer is None:
            return None
        return FLOAT16

    def describe(self) -> str:
        best = f", the {i.topk} best tokens of an indexer" if isinstance(i := self.indexer, Indexer) else ""
        return f"{self.heads} heads of {self.head_size} over latents of {self.rank}{best}"

    def describe_positions(self) -> str | None:
        return None if self.position is None else self.position.describe()

    def borrows(self) -> str | None:
        return "the indexer of an earlier one" if isinstance(self.indexer, SharedIndexer) else None

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5 if self.scale is None else self.scale

    def epsilons(self) -> dict[str, float]:
        leaves = ("index_norm", "index_q_norm")
        index = dict.fromkeys(leaves, self.indexer.eps) if isinstance(self.indexer, Indexer) else {}
        return {"q_norm": self.norm_eps, "kv_norm": self.norm_eps, **index}

    def plain_numbers(self) -> int:
        return self.heads * (self.head_size + self.value_size)

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> LatentAttention:
        """Return settings that fit arrays drawn at random for a test of properties. The settings include
        positions if there are angles.
        """
        position = None
        if chosen["rotary"] is not None:
            position = Rope(10_000.0, 2 * size["J"], interleaved=chosen["interleaved"])
        return cls(
            heads=size["H"],
            rank=size["C"],
            key_size=size["U"],
            value_size=size["V"],
            position=position,
            shared_size=2 * size["J"] if position is None else None,
            query_rank=None if chosen["wq_a"] is None else size["F"],
            norm_eps=chosen["norm_eps"],
            scale=chosen["scale"],
            indexer=cls._drawn_indexer(chosen, size),
            query_scale=chosen["query_scale"],
            head_gate=chosen["w_head_gate"] is not None,
            latent_scale=chosen["latent_scale"],
            log_scale=chosen["q_slope"] is not None,
        )

    @staticmethod
    def _drawn_indexer(chosen: Mapping[str, Any], size: Mapping[str, int]) -> Indexer | SharedIndexer | None:
        """Return an indexer if its maps are among the chosen arrays. If the mask of chosen tokens is,
        return an indexer of another layer.
        """
        if chosen.get("chosen") is not None:
            return SharedIndexer(chosen["topk"])
        if chosen["wq_index"] is None:
            return None
        width, interleaved = size["W"] + 2 * size["J"], not chosen["interleaved"]
        return Indexer(size["X"], width, chosen["topk"], interleaved, eps=0.01)


@op
def expanded_attend(
    q: Float[Array, "B T H K"],
    latents: Float[Array, "B S C+2*J"],
    wk_b: Float[Array, "C H*U"],
    wv_b: Float[Array, "C H*V"],
    mask: Bool[Array, "B T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """Compute attention in the expanded form: `attend` over the keys and values that each head makes from
    the latents.

    Conventions: in a query, the U numbers without positions come first, and the 2J rotated numbers last.
    In `latents` the C numbers of the latent come first, and then the rotated key. A scale of None means
    1/√K with K = U + 2J.
    """
    h = q.shape[2]
    latent, rotary_key = latents[..., : len(wk_b)], latents[..., len(wk_b) :]
    k, v = ((latent @ w).reshape(*latent.shape[:2], h, w.shape[1] // h) for w in (wk_b, wv_b))
    shared = np.broadcast_to(rotary_key[:, :, None], (*k.shape[:3], rotary_key.shape[-1]))
    return attend(q, np.concatenate([k, shared], axis=-1), v, mask, scale=scale)


@op
def absorbed_attend(
    q: Float[Array, "B T H K"],
    latents: Float[Array, "B S C+2*J"],
    wk_b: Float[Array, "C H*U"],
    wv_b: Float[Array, "C H*V"],
    mask: Bool[Array, "B T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """Compute attention in the absorbed form: `attend` over the latents, with one key head, and with
    queries that were multiplied by Wᵏ. The result equals the result of `expanded_attend`.

    Conventions: as in `expanded_attend`. A scale of None means 1/√K, where K is the size of the original
    queries, not of the longer queries here.
    """
    h, size, rank = q.shape[2], q.shape[3], len(wk_b)
    wk, wv = wk_b.reshape(rank, h, wk_b.shape[1] // h), wv_b.reshape(rank, h, wv_b.shape[1] // h)
    plain, rotated = q[..., : wk.shape[2]], q[..., wk.shape[2] :]
    absorbed = np.concatenate([np.einsum("bthu,chu->bthc", plain, wk), rotated], axis=-1)
    scale = size**-0.5 if scale is None else scale
    mean = attend(absorbed, latents[:, :, None], latents[:, :, None, :rank], mask, scale=scale)
    return np.einsum("bthc,chv->bthv", mean, wv)


@op
def latent_attention(
    x: Float[Array, "B T D"],
    cache: LatentCache,
    past: Index[Array, " B", "< O+1"],
    weights: LatentAttentionWeights,
    rotary: Rotary | None,
    chosen: Bool[Array, "B T L"] | None = None,
    *,
    settings: LatentAttention,
) -> tuple[Float[Array, "B T D"], LatentCache, Bool[Array, "B T L"]]:
    """Compute the sublayer of latent attention: project to queries and latents, rotate, apply
    `absorbed_attend` over the cache, and project back.

    Conventions: as in `cached_attention`, row b has past[b] tokens in the cache, padding on the right
    needs no mask, and outputs at padding are unspecified. The latent is normalized and the key rotated
    before they are cached. The norms of both latents have the same eps. A prompt is computed in the
    absorbed form too, which is slower for a prompt but gives the same result. Without positions, there is
    no `rotary`. A scale of queries multiplies both parts of a query. `query_scale` doesn't multiply an
    indexer's queries, and `log_scale` multiplies them by numbers of their own.

    An indexer's queries and keys are rotated by the same angles, but the indexer's pairs may be
    interleaved differently. The indexer's key is normalized and rotated too, and stored in a separate
    array of the cache. The last result is a mask that says which of the cache's L entries each token sees.
    Later layers that share the indexer get this mask as `chosen`. The later layers have no part of an
    indexer, not even its keys.
    """
    at = following(past, x.shape[1])
    angles = None if rotary is None else Rotary(*rotary.at(at))
    source = _query_source(x, weights, settings)
    q = _scaled(_queries(source, weights, angles, settings), at, weights, settings)
    latents = append(cache.latents, _latents(x, weights, angles, settings), past)
    mask, index_keys = causal_mask(at, indices(latents.shape[2], at)), cache.index_keys
    if isinstance(indexer := settings.indexer, Indexer):
        assert index_keys is not None
        # Where there is an indexer, all of its leaves are there.
        leaves = cast("Mapping[str, Array]", weights)
        if settings.own_queries:
            source = layer_norm(x, leaves["index_q_norm"], leaves["index_q_bias"], eps=indexer.eps)
        index_q, new_key = _index_queries_keys(x, source, leaves, angles, indexer)
        if settings.log_scale:
            index_q = _log_scaled(index_q, at, leaves["index_slope"], leaves["index_offset"])
        index_keys = append(index_keys, new_key, past)
        scores = index_scores(index_q, index_keys.squeeze(1), linear(x, leaves["w_index"]))
        mask = best_keys(scores, mask, topk=indexer.topk)
    elif isinstance(indexer, SharedIndexer):
        assert chosen is not None
        mask = chosen & mask
    read, seen = latents.squeeze(1), mask
    if indexer is not None:
        read, seen = chosen_latents(read, seen, topk=indexer.topk)
    y = absorbed_attend(q, read, weights["wk_b"], weights["wv_b"], seen, scale=settings.scale)
    new_cache = LatentCache(latents, index_keys)
    return linear(_gated(y, x, weights), weights["wo"], weights.get("bo")), new_cache, mask


@op
def chosen_latents(latents: Array, mask: Array, *, topk: int) -> tuple[Array, Array]:
    """Return the latents [B, S, C+2J] that the tokens may see by the mask [B, T, S], and the mask over
    these latents.

    With an indexer, T tokens see at most T · topk latents together. So a library may leave out all other
    latents, and change the order. The specification returns all latents.
    """
    return latents, mask


@op
def latent_self_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: LatentAttentionWeights,
    rotary: Rotary | None,
    *,
    settings: LatentAttention,
    causal: bool = False,
) -> Float[Array, "B T D"]:
    """Compute the sublayer of latent attention for a model that reads whole texts and has no cache. It
    applies `expanded_attend` over the text, which is cheaper here, since there are as many queries as
    tokens.

    Conventions: as in `self_attention`, rows are padded on the right, and no token sees padding. Unless
    the layer is `causal`, a token sees later tokens too. If there is a `rotary`, it has a row for each of
    the T positions. There is no indexer.
    """
    t = x.shape[1]
    at = indices(t, x)
    angles = None if rotary is None else Rotary(rotary.cos[None], rotary.sin[None])
    q = _queries(_query_source(x, weights, settings), weights, angles, settings)
    q = _scaled(q, at[None], weights, settings)
    latents = _latents(x, weights, angles, settings).squeeze(2)
    mask = repeated(padding_mask(at, lengths)[:, None], t, 1)
    if causal:
        mask = causal_mask(at[None], at) & mask
    y = expanded_attend(q, latents, weights["wk_b"], weights["wv_b"], mask, scale=settings.scale)
    return linear(_gated(y, x, weights), weights["wo"], weights.get("bo"))


def _gated(y: Array, x: Array, weights: LatentAttentionWeights) -> Array:
    """Return the outputs of heads [B, T, H, V] side by side. If there are gates, each output is multiplied
    by its gate.
    """
    if "w_head_gate" in weights:
        y = y * sigmoid(linear(x, weights["w_head_gate"]))[..., None]
    return join_last(y)


def _query_source(x: Array, weights: LatentAttentionWeights, settings: LatentAttention) -> Array:
    """Return the vectors [B, T, F] from which queries are made: x, or the separate latent of queries."""
    if "wq_a" not in weights:
        return x
    latent = linear(x, weights["wq_a"], weights.get("bq_a"))
    return rms_norm(latent, weights.get("q_norm"), eps=settings.norm_eps)


def _queries(
    source: Array, weights: LatentAttentionWeights, angles: Rotary | None, settings: LatentAttention
) -> Array:
    """Return the queries [B, T, H, K]. If there are angles, the last part of each query is rotated."""
    q, size = heads(source, weights["wq"], size=settings.head_size), settings.key_size
    if angles is None:
        return q
    plain, turned = split(q, [size, settings.head_size - size])
    return concatenate([plain, rotate(turned, *angles, interleaved=settings.interleaved)], -1)


def _latents(
    x: Array, weights: LatentAttentionWeights, angles: Rotary | None, settings: LatentAttention
) -> Array:
    """Return the normalized latents and shared keys [B, T, 1, C+2J], or latents alone if J is 0."""
    both = linear(x, weights["wkv_a"], weights.get("bkv_a"))[:, :, None]
    latent = rms_norm(both[..., : settings.rank], weights["kv_norm"], eps=settings.norm_eps)
    latent = latent if settings.latent_scale is None else latent * settings.latent_scale
    if not settings.key_dims:
        return latent
    key = both[..., settings.rank :]
    if angles is not None:
        key = rotate(key, *angles, interleaved=settings.interleaved)
    return concatenate([latent, key], -1)


def _scaled(q: Array, at: Array, weights: LatentAttentionWeights, settings: LatentAttention) -> Array:
    """Multiply queries [B, T, H, K] by factors of their position `at` [B, T], in both parts of a head."""
    if (scale := settings.query_scale) is not None:
        q = q * as_type(query_factors(at, **scale.settings), q.dtype)[:, :, None, None]
    if settings.log_scale:
        assert "q_slope" in weights
        assert "q_offset" in weights
        q = _log_scaled(q, at, weights["q_slope"], weights["q_offset"])
    return q


def _log_scaled(q: Array, at: Array, slope: Array, offset: Array) -> Array:
    """Multiply queries [B, T, H, K] at the positions `at` [B, T] by slope · ln(position + 1) + offset. Each
    head has its own slope and offset [H].
    """
    logs = as_type(query_factors(at, beta=1.0, original_context=1) - 1, q.dtype)
    return q * (logs[:, :, None] * slope + offset)[..., None]


def _index_queries_keys(
    x: Array, source: Array, weights: Mapping[str, Array], rotary: Rotary | None, indexer: Indexer
) -> tuple[Array, Array]:
    """Return the indexer's queries [B, T, X, P], made from `source`, and its keys [B, T, 1, P], made from
    x.
    """

    def turned(y: Array) -> Array:
        if rotary is None:
            return y
        return rotate(y, rotary.cos, rotary.sin, interleaved=indexer.interleaved)

    norm, bias = weights["index_norm"], weights["index_bias"]
    key = layer_norm(linear(x, weights["wk_index"]), norm, bias, eps=indexer.eps)
    return turned(heads(source, weights["wq_index"], size=indexer.size)), turned(key[:, :, None])
