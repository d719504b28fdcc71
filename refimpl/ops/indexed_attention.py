"""Attention to blocks of tokens that an indexer chooses (MiniMax 2026, MiniMax-M3: MiniMax Sparse Attention).

As in `ops.indexer`, narrow heads score all earlier tokens, and attention sees only the best. Here a choice
is a block of neighbouring tokens, which an accelerator reads at once, and each key head has a choice of its
own:

    indexer   query head i of each key head, one key for all    score q_i(t) · k(s)
    block     the largest score of its tokens up to t           the latest blocks count as the best
    seen      tokens up to t in the `topk` best blocks          by the query heads of key head i

    block 2, topk 2, local 1        key  0   1   2   3   4   5
                  scores of query 5      0.1 0.9 0.3 0.2 0.0 0.4
                  blocks                 0.9     0.3     always
                  seen                   x   x   .   .   x   x

So a query sees up to `topk` · `block` tokens, however long the text is. In texts of up to so many tokens
the result is plain attention. The scores have no softmax and no scale, since only their order matters.

A wrong choice is never a small error, as `ops.indexer` explains. So the indexer's maps stay floats in every
quantization, and float16 isn't allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict, cast

from ..config import LIMITS, Attention, BlockIndexer, HeadNorm, RMSNorm, Rope, SmoothingSite, TokenMixer
from ..config.bounds import check_bounds, need, within
from ..config.record import bounded
from ..config.token_mixers import check_groups
from .arrays import (
    concatenate,
    each_repeated,
    following,
    indices,
    join_last,
    largest,
    padded,
    split_last,
    where,
)
from .attention import AttentionWeights, attend, heads, project
from .cache import append, places, select
from .cache_kind import CacheArray, CacheKind
from .dispatch import op
from .indexer import FLOAT16, best_keys
from .linear import linear
from .mask import causal_mask
from .norm import rms_norm
from .position import Rotary, rotate
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index


class IndexedAttentionWeights(TypedDict):
    """The parameters of attention with an indexer of blocks: projections, and norms of queries and keys.

    Those of the indexer have `index` in their names. It has one query head for each key head, and one key.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D G*K"] | Blocks
    wv: Float[Array, "D G*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    q_norm: Float[Array, " K"]
    k_norm: Float[Array, " K"]
    wq_index: Float[Array, "D G*W+2*G*J"]
    wk_index: Float[Array, "D W+2*J"]
    q_index_norm: Float[Array, " W+2*J"]
    k_index_norm: Float[Array, " W+2*J"]


class IndexedKV(NamedTuple):
    """The cache of a layer with an indexer of blocks. With room for L tokens per row, it stores each token's
    keys, values, and the indexer's key.
    """

    keys: Float[Array, "B G L K"]
    values: Float[Array, "B G L K"]
    index_keys: Float[Array, "B 1 L W+2*J"]

    @property
    def nbytes(self) -> int:
        """The size of the cache's arrays in bytes."""
        return sum(array.nbytes for array in self)

    def select(self, rows: Array) -> IndexedKV:
        """Return a cache of the batch rows with the given numbers, in the given order."""
        return self._each(lambda array: select(array, rows))

    def grow(self, capacity: int) -> IndexedKV:
        """Return a cache with the same tokens and with room for exactly `capacity` tokens per row. New
        entries are zeros.
        """
        return self._each(lambda array: places(array, capacity))

    def _each(self, change: Callable[[Array], Array]) -> IndexedKV:
        return IndexedKV(*(change(array) for array in self))


@dataclass(frozen=True)
class IndexedKeysValues(CacheKind):
    """The kind of cache of attention with an indexer of blocks: keys and values of each token, and a vector
    of `index` numbers for the indexer.
    """

    holds = IndexedKV

    kv_heads: int
    head_size: int
    index: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        axes = ("batch", self.kv_heads, self.tokens_axis, self.head_size)
        index = CacheArray("index", ("batch", 1, self.tokens_axis, self.index))
        return CacheArray("k", axes), CacheArray("v", axes), index


class IndexedAttention(TokenMixer):
    """The settings of attention whose `indexer` chooses blocks of tokens for each key head (MiniMax-M3).

    Queries and keys of each head are normalized with `norm_eps` and then rotated, and the indexer's too.
    Scores are divided by sqrt(head_size).
    """

    heads: int = bounded("heads")
    kv_heads: int = bounded("heads")
    head_size: int = bounded("width")
    position: Rope
    indexer: BlockIndexer
    norm_eps: float = 1e-6

    weights = IndexedAttentionWeights
    title, place, keeps = "attention with an indexer", "decoder", "tokens"
    choices: ClassVar = {
        "interleaved": (False, True),
        "norm_eps": (1e-6, 0.1),
        "block": (1, 2),
        "topk": (1, 2),
        "local": (0, 1),
    }

    @property
    def projections(self) -> Attention:
        """The attention that has the same maps and norms, which says how `project` makes queries, keys and
        values.
        """
        norm = HeadNorm(RMSNorm(self.norm_eps))
        return Attention(self.heads, self.kv_heads, self.head_size, qk_norm=norm)

    def check(self, at: str) -> None:
        super().check(at)
        check_groups(at, self.heads, self.kv_heads)
        self.position.check(at, self.head_size)
        indexer = self.indexer
        check_bounds(at, indexer)
        within(f"{at}size of the indexer's heads", indexer.size, LIMITS["width"], self.position.dims)
        need(
            indexer.local <= indexer.topk,
            f"{at}local blocks of the indexer must be at most its topk ({indexer.topk}), got {indexer.local}",
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        dims = self.position.dims
        sizes = {"H": self.heads, "G": self.kv_heads, "K": self.head_size}
        return {**sizes, "J": dims / 2, "W": self.indexer.size - dims}

    def cache_kind(self) -> IndexedKeysValues:
        return IndexedKeysValues(self.kv_heads, self.head_size, self.indexer.size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, IndexedKV, Array | None]:
        rotary = positions.angles(self.position)
        return *indexed_attention(x, cache, past, weights, rotary, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return "wq", "wk", "wv", "wq_index", "wk_index"

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return [SmoothingSite(("wv",), ("wo",), self.heads // self.kv_heads, self.head_size)]

    def group_query_limit(self) -> str | None:
        return "an indexer chooses blocks of tokens for each key head"

    def float16_limit(self) -> str | None:
        return FLOAT16

    def describe(self) -> str:
        best = f"the {self.indexer.topk} best blocks of {self.indexer.block} tokens of an indexer"
        return f"{self.heads} heads of {self.head_size} in {self.kv_heads} groups, {best}"

    def describe_positions(self) -> str:
        return self.position.describe()

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5

    def epsilons(self) -> dict[str, float]:
        return dict.fromkeys(("q_norm", "k_norm", "q_index_norm", "k_index_norm"), self.norm_eps)

    def plain_numbers(self) -> int:
        return 2 * self.heads * self.head_size

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> IndexedAttention:
        indexer = BlockIndexer(size["W"] + 2 * size["J"], chosen["block"], chosen["topk"], chosen["local"])
        position = Rope(10_000.0, 2 * size["J"], interleaved=chosen["interleaved"])
        return cls(size["H"], size["G"], size["K"], position, indexer, chosen["norm_eps"])


@op
def best_blocks(
    scores: Float[Array, "B T S"],
    at: Index[Array, "B T", "< S"],
    *,
    block_size: int,
    topk: int,
    local: int,
) -> Bool[Array, "B T S"]:
    """Return a mask that is true for the keys up to a query's position `at` in the `topk` best blocks. A
    block's score is the largest score of such keys in it. The latest `local` blocks count as the best.

    Blocks are counted from position 0, and the last may be shorter. Conventions: of equal blocks the earlier
    comes first, as in `best_keys`.
    """
    count = scores.shape[2]
    # As a remainder of the division the padding would keep torch.export from knowing that blocks are whole.
    # No number is negative, because ONNX rounds a negative quotient towards zero.
    missing = (count + block_size - 1) // block_size * block_size - count
    whole = padded(scores.swapaxes(1, 2), 0, missing).swapaxes(1, 2)
    past = causal_mask(at, indices(whole.shape[2], at))
    best = largest(split_last(where(past, whole, -math.inf), block_size), 3)
    own, blocks = at // block_size, indices(best.shape[2], at)
    best = where(causal_mask(own, blocks, window=local), math.inf, best)
    chosen = best_keys(best, causal_mask(own, blocks), topk=topk)
    return (each_repeated(chosen, block_size, 2) & past)[:, :, :count]


@op
def indexed_attention(
    x: Float[Array, "B T D"],
    cache: IndexedKV,
    past: Index[Array, " B", "< O+1"],
    weights: IndexedAttentionWeights,
    rotary: Rotary,
    *,
    settings: IndexedAttention,
) -> tuple[Float[Array, "B T D"], IndexedKV]:
    """Compute the sublayer of attention with an indexer of blocks: project, normalize and rotate, let each
    key head's query head of the indexer choose blocks (`best_blocks`), attend to them, and project back.

    Conventions: as in `cached_attention`, row b has past[b] tokens in the cache, padding on the right needs
    no mask, and outputs at padding are unspecified. Keys are normalized and rotated before they are cached.
    """
    at, indexer = following(past, x.shape[1]), settings.indexer
    cos, sin = rotary.at(at)

    def turned(y: Array) -> Array:
        return rotate(y, cos, sin, interleaved=settings.position.interleaved)

    def indexing(weight: Array, norm: Array) -> Array:
        return turned(rms_norm(heads(x, weight, size=indexer.size), norm, eps=settings.norm_eps))

    q, k, v = project(x, cast("AttentionWeights", weights), settings=settings.projections)
    index_q = indexing(weights["wq_index"], weights["q_index_norm"])
    index_k = indexing(weights["wk_index"], weights["k_index_norm"])
    q, new = turned(q), (turned(k), v, index_k)
    cache = IndexedKV(*(append(array, entries, past) for array, entries in zip(cache, new, strict=True)))
    keys, values, index_keys = (array.swapaxes(1, 2) for array in cache)
    share, parts = settings.heads // settings.kv_heads, []
    for i in range(settings.kv_heads):
        scores = index_q[:, :, i] @ index_keys[:, :, 0].swapaxes(1, 2)
        seen = best_blocks(scores, at, block_size=indexer.block, topk=indexer.topk, local=indexer.local)
        own = q[:, :, i * share : (i + 1) * share]
        parts.append(attend(own, keys[:, :, i : i + 1], values[:, :, i : i + 1], seen))
    return linear(join_last(concatenate(parts, 2)), weights["wo"]), cache
