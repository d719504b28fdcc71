"""Laws of masks: which keys each mask allows, and which masks contain others."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.mask import causal_mask as causal
from ..ops.mask import window_mask as both_ways
from ..ops.sparse import bigbird_pattern, block_mask
from . import Draw, Subject, law


@law("causal_mask", "window_mask")
def only_the_distance_counts(mask: Subject, draw: Draw) -> None:
    """If queries and keys are shifted by the same distance, the mask stays the same."""
    call, shift = draw(mask.calls()), draw(st.integers(0, 9))
    moved = call.but(queries=call["queries"] + shift, keys=call["keys"] + shift)
    mask.near(mask(moved), mask(call))


@law("causal_mask")
def a_token_sees_itself_and_nothing_later(causal_mask: Subject, draw: Draw) -> None:
    """A causal mask always lets a query see the key at its own position, and never a later key, whatever
    the window.
    """
    call = draw(causal_mask.calls())
    ahead = call["keys"] - call["queries"][:, :, None]
    seen = causal_mask(call)
    assert seen[ahead == 0].all(), "a token doesn't see itself"
    assert not seen[ahead > 0].any(), "a token sees a later key"


@law("causal_mask")
def a_window_counts_its_keys(causal_mask: Subject, draw: Draw) -> None:
    """A query that is far enough from the beginning sees exactly `window` keys."""
    window, at = draw(st.integers(1, 5)), draw(st.integers(8, 12))
    call = causal_mask.call(np.array([[at]]), np.arange(at + 3), window=window)
    seen = causal_mask(call)[0, 0]
    assert np.flatnonzero(seen).tolist() == [*range(at - window + 1, at + 1)], f"seen: {seen}"


@law("window_mask")
def its_earlier_half_is_the_causal_window(window_mask: Subject, draw: Draw) -> None:
    """For keys before the query, `window_mask` equals the causal mask. For keys after the query, it equals
    the transpose of a causal mask that has the window of that side.
    """
    call = draw(window_mask.calls())
    ahead = call["window"] and (call["later"] or call["window"])
    seen, behind = window_mask(call), call["queries"][:, :, None] >= call["keys"]
    window_mask.near(seen & behind, causal(call["queries"], call["keys"], window=call["window"]))
    sides = {"window": ahead, "later": call["window"]}
    turned = call.but(queries=call["keys"][None], keys=call["queries"][0], **sides)
    window_mask.near(window_mask(turned)[0], seen[0].T)


@law("block_sparse_mask")
def it_is_bigbirds_layout_over_tokens(block_sparse_mask: Subject, draw: Draw) -> None:
    """`block_sparse_mask` equals BigBird's pattern of blocks with a window and global blocks, but without
    random blocks.
    """
    call = draw(block_sparse_mask.calls())
    queries, keys = call["queries"] // call["block"], call["keys"] // call["block"]
    blocks = np.arange(1 + max(queries.max(), keys.max()))
    none = np.zeros((len(blocks), 0), int)
    pattern = bigbird_pattern(blocks, blocks, none, reach=call["reach"], first=call["first"])
    block_sparse_mask.near(block_sparse_mask(call), block_mask(queries, keys, pattern))


@law("chunked_mask")
def each_chunk_sees_itself_alone(chunked_mask: Subject, draw: Draw) -> None:
    """Tokens of a chunk see only the keys of that chunk. Moving a text by whole chunks doesn't change the
    mask."""
    call, moved = draw(chunked_mask.calls()), draw(st.integers(0, 3))
    chunk = call["chunk"]
    first = call["queries"] - call["queries"] % chunk
    every = call.but(keys=np.arange(int(first.max()) + chunk))
    seen = chunked_mask(every)
    for row, start in zip(seen.reshape(-1, seen.shape[-1]), first.reshape(-1), strict=True):
        assert np.flatnonzero(row).tolist() == list(range(start, start + chunk)), f"seen: {row}"
    later = call.but(queries=call["queries"] + moved * chunk, keys=call["keys"] + moved * chunk)
    chunked_mask.near(chunked_mask(later), chunked_mask(call))


@law("prefix_mask")
def a_prefix_is_between_causal_and_all(prefix_mask: Subject, draw: Draw) -> None:
    """Without a prefix, `prefix_mask` is causal. With a prefix, every query also sees the prefix, but no
    other additional key.
    """
    call = draw(prefix_mask.calls())
    queries, keys, prefix = call["queries"], call["keys"], call["prefix"]
    none, every = call.but(prefix=np.zeros_like(prefix)), call.but(prefix=np.full_like(prefix, 99))
    prefix_mask.near(prefix_mask(none), causal(queries, keys))
    assert prefix_mask(every).all(), "a token doesn't see a key of the prefix"
    added = prefix_mask(call) & ~causal(queries, keys)
    assert not added[np.broadcast_to(keys >= prefix[:, None, None], added.shape)].any(), (
        "the prefix makes a token see a key after the prefix"
    )


@law("padding_mask")
def only_real_keys_are_allowed(padding_mask: Subject, draw: Draw) -> None:
    """`padding_mask` allows exactly the first `lengths` keys of each row."""
    call = draw(padding_mask.calls())
    ordered = call.but(keys=np.arange(len(call["keys"])))
    seen = padding_mask(ordered)
    padding_mask.near(seen.sum(-1), call["lengths"])
    assert (np.diff(seen.astype(int), axis=-1) <= 0).all(), f"a token sees padding before a key: {seen}"


@law("window_mask")
def a_wide_window_allows_all(window_mask: Subject, draw: Draw) -> None:
    """A window that is larger than every distance allows all keys."""
    call = draw(window_mask.calls()).but(window=100, later=None)
    window_mask.near(window_mask(call), both_ways(call["queries"], call["keys"]))
