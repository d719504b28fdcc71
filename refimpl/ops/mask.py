"""Masks: arrays that say which keys each query may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Attention
from .arrays import all_true
from .dispatch import OPS, op

if TYPE_CHECKING:
    from ..axes import Array, Bool, Index, Int


@op
def causal_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    window: int | None = None,
) -> Bool[Array, "B T S"]:
    """Return a mask that lets each query see keys up to its own position. With a `window`, only keys with
    query − key < window are seen.

        window 3                    key  0 1 2 3 4 5
                            query 2      x x x . . .
                            query 3      . x x x . .
                            query 5      . . . x x x

    Queries and keys are given as positions in the text, so the mask is the same with a cache. Conventions:
    `window` counts the current token, as transformers' sliding_window does: with window = 1 a token sees
    only itself.
    """
    last = queries[:, :, None]
    seen = keys <= last
    if window is None:
        return seen
    return seen & (keys > last - window)


@op
def window_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    window: int | None = None,
    later: int | None = None,
) -> Bool[Array, "B T S"]:
    """Return a mask that is true where |query − key| < window, so that each query sees the same number of
    keys before and after itself (Beltagy et al. 2020, §3.1). With `later`, keys after the query need key −
    query < later instead (T5Gemma 2).

    Conventions: `window` counts the token itself and the keys on one side. So the mask of earlier keys
    equals `causal_mask`. `later` counts in the same way. A paper's width w, with w/2 keys on each side, is
    window = w/2 + 1. Without a window, each query sees all keys.
    """
    middle = queries[:, :, None]
    if window is None:
        return all_true(keys - middle)
    ahead = window if later is None else later
    return (keys > middle - window) & (keys < middle + ahead)


@op
def block_sparse_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    block: int,
    reach: int,
    first: int,
) -> Bool[Array, "B T S"]:
    """Return a mask of blocks of tokens. It is true where the blocks of query and key are at most `reach`
    apart, or where one of them is among the `first` blocks.

        block 2, reach 1, first 1   key  0 1 2 3 4 5 6 7
                          query 0        x x x x x x x x
                          query 2        x x x x x x . .
                          query 6        x x . . x x x x

    The pattern is that of `sparse.bigbird_pattern` without random blocks, for tokens instead of blocks
    (Zaheer et al. 2020, §2).
    """
    query_blocks, key_blocks = queries[:, :, None] // block, keys // block
    near = abs(query_blocks - key_blocks) <= reach
    return near | (query_blocks < first) | (key_blocks < first)


@op
def chunked_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    chunk: int,
) -> Bool[Array, "B T S"]:
    """Return a mask that lets each query see only keys in its own chunk: it is true where ⌊query / chunk⌋
    = ⌊key / chunk⌋.

        chunk 3, and causal         key  0 1 2 3 4 5 6 7
                            query 2      x x x . . . . .
                            query 3      . . . x . . . .
                            query 7      . . . . . . x x

    Within its chunk a token sees only distances that the model was trained on, however long the text is.
    Information from earlier chunks comes through layers that see the whole text (Meta 2025, Llama 4:
    iRoPE). Conventions: chunks are counted from position 0 of the text, so the mask is the same with a
    cache.
    """
    return queries[:, :, None] // chunk == keys // chunk


@op
def seen_by(queries: Array, keys: Array, *, settings: Attention, causal: bool) -> Array:
    """Return the mask [B, T, S] that the settings' kind of mask gives for queries and keys at these
    positions. If `causal`, no query sees later keys.
    """
    mask = settings.mask
    if mask.op is None:
        if causal:
            return causal_mask(queries, keys, window=mask.window)
        return window_mask(queries, keys, **mask.settings)
    seen = OPS[mask.op](queries, keys, **mask.settings)
    return seen & causal_mask(queries, keys) if causal else seen


@op
def padding_mask(keys: Int[Array, " S"], lengths: Index[Array, " B", "< S+1"]) -> Bool[Array, "B S"]:
    """Return a mask that is true for the real keys of each row. Rows are padded on the right."""
    return lengths[:, None] > keys


@op
def prefix_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    prefix: Index[Array, " B", "< S+1"],
) -> Bool[Array, "B T S"]:
    """Return a causal mask in which each query also sees the whole prefix of its row (Raffel et al. 2020,
    §3.2.1).
    """
    return causal_mask(queries, keys) | padding_mask(keys, prefix)[:, None]
