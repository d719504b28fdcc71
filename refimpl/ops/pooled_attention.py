"""Attention to chosen blocks of tokens: an indexer scores blocks of earlier tokens, and a token attends to
the best of them (Qwen4-Exp, Qwen 2026: QSA).

The indexer of DeepSeek-V3.2 (`ops.indexer`) scores each earlier token. This one scores blocks of A tokens, by
the mean of their keys, so that there are fewer scores, and a token reads runs of neighbours:

    tokens   0 1 2 | 3 4 5 | 6 7 8 | 9 10          A = 3, one block is chosen
    scores     0.2     0.9     0.1                 for token 10
    seen             x x x           x x           the best block, and the tokens after the last whole one

    I(t, b)  =  Σ_h max(0, q(t, h) · k(b))         k(b) = rotate(norm(mean of its keys), first position)

A block counts for a token when all its tokens are there, the token itself included. With at most as many
whole blocks as are chosen, all tokens are seen, and the result is plain attention. The indexer keeps each
token's key as the map gives it, since the norm and the rotation come after the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import Attention, FullAttention, Position, Rope, SmoothingSite, TokenMixer
from ..config.bounds import LIMITS, need, within
from ..config.record import bounded
from .arrays import following, indices, join_last, zeros_like
from .attention import AttentionWeights, attend, from_heads, heads, positioned, project, written
from .cache import KVCache, append
from .dispatch import observe, op
from .indexed_attention import IndexedKeysValues, IndexedKV
from .indexer import FLOAT16, best_keys, index_scores
from .linear import linear
from .mask import causal_mask
from .norm import rms_norm
from .position import Rotary, rotate

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class PooledAttentionWeights(AttentionWeights):
    """The parameters of attention, and those of its indexer of X heads: maps to queries and to one key, and
    their norms."""

    wq_index: Float[Array, "D X*W+2*X*J"]
    wk_index: Float[Array, "D W+2*J"]
    index_q_norm: Float[Array, " W+2*J"]
    index_k_norm: Float[Array, " W+2*J"]


class PooledAttention(TokenMixer):
    """The settings of attention to the `blocks` best blocks of `block_size` tokens (`ops.pooled_attention`).

    The indexer has `index_heads` heads of `index_size` numbers, of which as many are rotated as of the
    attention's heads. `index_eps` belongs to the norms of its queries and keys.
    """

    attention: Attention
    index_heads: int = bounded("heads", "heads of the indexer")
    index_size: int = bounded("width", "size of the indexer's heads")
    block_size: int = bounded("context", "tokens of a block")
    blocks: int = bounded("context", "blocks that are chosen")
    index_eps: float = 1e-6

    weights = PooledAttentionWeights
    title, place, keeps = "attention to chosen blocks", "decoder", "tokens"

    def check(self, at: str) -> None:
        super().check(at)
        a = self.attention
        a.check(f"{at}attention to chosen blocks: ")
        need(
            not a.placed_norms,
            f"{at}the `attention` inside attention to chosen blocks must have no norms around it",
        )
        need(isinstance(a.position, Rope), f"{at}attention to chosen blocks needs rotary positions")
        assert isinstance(a.position, Rope)
        within(at + "size of the indexer's heads", self.index_size, LIMITS["width"], a.position.dims)
        plain = isinstance(a.mask, FullAttention) and a.kv == "float" and a.kv_layer is None
        need(
            plain and not a.sink_logits and a.softcap is None,
            f"{at}attention to chosen blocks can't have a mask, kv, kv_layer, sinks or a soft cap",
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        turned = self.attention.position.dims if isinstance(self.attention.position, Rope) else 0
        index = {"X": self.index_heads, "J": turned / 2, "W": self.index_size - turned}
        return {**self.attention.sizes(width), **index}

    def leaves(self) -> Sequence[str]:
        return self.attention.leaves()

    def form(self, leaf: str) -> int:
        return self.attention.form(leaf)

    @property
    def heads(self) -> int:
        """The number of heads of the attention."""
        return self.attention.heads

    @property
    def head_size(self) -> int:
        """The number of elements of a query."""
        return self.attention.head_size

    @property
    def position(self) -> Position | None:
        """The kind of positions that the attention uses."""
        return self.attention.position

    def cache_kind(self) -> IndexedKeysValues:
        a = self.attention
        return IndexedKeysValues(a.kv_heads, a.head_size, self.index_size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, IndexedKV, Array | None]:
        rotary = positions.angles(self.position)
        return *pooled_attention(x, cache, past, weights, rotary, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return *self.attention.readers(), "wq_index", "wk_index"

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return self.attention.smoothing(read_later=read_later)

    def group_query_limit(self) -> str | None:
        return "an indexer chooses other tokens for each token"

    def float16_limit(self) -> str | None:
        return FLOAT16

    def describe(self) -> str:
        chosen = f"the {self.blocks} best blocks of {self.block_size} tokens of an indexer"
        return f"{self.attention.describe()}, {chosen}"

    def describe_positions(self) -> str | None:
        return self.attention.describe_positions()

    def numbers(self) -> Iterator[float]:
        yield from self.attention.numbers()

    def epsilons(self) -> dict[str, float]:
        index = dict.fromkeys(("index_q_norm", "index_k_norm"), self.index_eps)
        return self.attention.epsilons() | index

    def plain_numbers(self) -> int:
        return self.attention.plain_numbers()


@op
def pooled_attention(
    x: Float[Array, "B T D"],
    cache: IndexedKV,
    past: Index[Array, " B", "< O+1"],
    weights: PooledAttentionWeights,
    rotary: Rotary,
    *,
    settings: PooledAttention,
) -> tuple[Float[Array, "B T D"], IndexedKV]:
    """Compute the sublayer of attention to chosen blocks: attention, in which a token sees only the blocks
    that the indexer chooses for it, and the tokens after its last whole block.

    Conventions: as in `attention`. Blocks are counted from the first token of a row. Of blocks with equal
    scores the earlier one is chosen, as in `best_keys`.
    """
    a, at = settings.attention, following(past, x.shape[1])
    q, k, v = project(x, weights, settings=a)
    q, k, turned = positioned(q, k, at, weights, rotary, settings=a)
    q, kept = written(q, k, v, KVCache(cache.keys, cache.values), past, turned, settings=a)
    size = settings.index_size
    index_q = rms_norm(
        heads(x, weights["wq_index"], size=size), weights["index_q_norm"], eps=settings.index_eps
    )
    index_keys = append(cache.index_keys, linear(x, weights["wk_index"])[:, :, None], past)
    index_q = rotate(index_q, *rotary.at(at), interleaved=a.interleaved)
    block_keys = _block_keys(index_keys.squeeze(1), weights["index_k_norm"], rotary, settings)
    mask = _seen(index_q, block_keys, at, indices(kept.capacity, at), settings)
    keys, values = (array.swapaxes(1, 2) for array in (kept.keys, kept.values))
    y = attend(q, keys, values, mask, **a.scoring)
    y = observe("attention, heads", from_heads(join_last(y), x, weights, settings=a))
    return linear(y, weights["wo"], weights.get("bo")), IndexedKV(kept.keys, kept.values, index_keys)


def _block_keys(keys: Array, norm: Array, rotary: Rotary, settings: PooledAttention) -> Array:
    """Return the key [B, Z, P] of each block of the indexer's keys [B, L, P], and of two that aren't whole.

    No token may see the last two. With them there are never fewer than two blocks: a graph that is traced
    with one block would have an axis of length 1 for any text.
    """
    length, size = keys.shape[1], settings.block_size
    first = (indices(length // size + 2, keys) * size).clip(max=length - 1)
    inside = (first[:, None] + indices(size, keys)).clip(max=length - 1)
    mean = rms_norm(keys[:, inside].mean(2), norm, eps=settings.index_eps)
    angles = Rotary(*rotary.at(first[None]))
    return rotate(mean[:, :, None], *angles, interleaved=settings.attention.interleaved).squeeze(2)


def _seen(q: Array, block_keys: Array, at: Array, tokens: Array, settings: PooledAttention) -> Array:
    """Return the mask [B, T, L] of the cached tokens that each token at the positions `at` [B, T] sees."""
    size = settings.block_size
    ends = (indices(block_keys.shape[1], at) + 1) * size
    is_whole = ends <= at[:, :, None] + 1
    scores = index_scores(q, block_keys, zeros_like(q[..., 0]) + 1)
    best = best_keys(scores, is_whole, topk=settings.blocks)
    after = tokens >= (at[:, :, None] + 1) // size * size
    return causal_mask(at, tokens) & (best[:, :, tokens // size] | after)
