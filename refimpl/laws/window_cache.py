"""Laws of the cache of a sliding window: it equals a full cache under a window mask."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.attention import attend
from ..ops.mask import causal_mask
from ..ops.position import rotate
from ..ops.window_cache import window_floor as floor
from . import Draw, Subject, law


@law("window_positions")
def the_first_and_the_latest_tokens_are_kept(window_positions: Subject, draw: Draw) -> None:
    """The sinks, and the latest other tokens that the slots have room for, each in its own slot."""
    call = draw(window_positions.calls(largest=12))
    slots, sinks = call["past"].shape[2], call["sinks"]
    for positions, length in zip(window_positions(call), call["lengths"], strict=True):
        latest = range(max(sinks, length - (slots - sinks)), length)
        expected = [*range(min(sinks, length)), *latest]
        assert sorted(positions[positions >= 0]) == expected, (
            f"of {length} tokens {sorted(positions[positions >= 0])} are held"
        )
        ring = np.arange(sinks, slots)[positions[sinks:] >= 0]
        assert ((positions[ring] - ring) % (slots - sinks) == 0).all(), f"slots move: {positions}"


@law("window_append")
def slots_hold_the_tokens_that_they_should(window_append: Subject, draw: Draw) -> None:
    """However a text is split, each slot has the latest token that belongs there, never padding."""
    call = draw(window_append.calls())
    sinks, slots = call["sinks"], call["past"].shape[2]
    rows, tokens = call["new"].shape[:2]
    cache, at = call["past"], np.zeros(rows, np.int64)
    expected = cache.copy()
    for _ in range(draw(st.integers(1, 5))):
        real = np.array([draw(st.integers(0, tokens)) for _ in range(rows)])
        new = call["new"] + at[:, None, None, None].astype(cache.dtype)
        cache = window_append(call.but(past=cache, new=new, start=at, count=real))
        for row in range(rows):
            for t in range(real[row]):
                p = at[row] + t
                expected[row, :, p if p < sinks else sinks + (p - sinks) % (slots - sinks)] = new[row, t]
        at = at + real
        window_append.near(cache, expected)


@law("window_floor")
def cutting_to_the_floor_loses_nothing_that_is_seen(window_floor: Subject, draw: Draw) -> None:
    """At the floor the next token's window is still there; one token below it isn't, if slots were reused."""
    call = draw(window_floor.calls(largest=12))
    slots, slack = call["past"].shape[2], call["slack"]
    for length, least in zip(call["written"], window_floor(call), strict=True):
        oldest = 0 if length <= slots else length - slots
        seen = least - (slots - slack) + 1
        assert length > slots or least == 0, f"no slot of {slots} was reused, yet {length} can't be cut to 0"
        assert least <= length, f"{length} tokens can't be cut back to {least}"
        assert max(seen, 0) >= oldest, f"cut back to {least} of {length}, token {seen} is gone"
        assert least == 0 or seen - 1 < oldest, f"{least - 1} of {length} would do as well"


@law("window_attention")
def it_equals_a_full_cache_under_a_window_mask(window_attention: Subject, draw: Draw) -> None:
    """A text read in chunks of any length, truncated now and then as far as the slack goes."""
    call = draw(window_attention.calls())
    cache, settings = call["cache"], call["settings"]
    slack = cache.keys.shape[2] - cache.sinks - settings.window
    rows, size = call["q"].shape[0], call["cos"] is not None and call["cos"].shape[1]
    dtype, rng = call["q"].dtype, np.random.default_rng(draw(st.integers(0, 99)))
    angles = np.arange(60)[:, None] * rng.random(size or 1)
    if size:
        call = call.but(cos=np.cos(angles).astype(dtype), sin=np.sin(angles).astype(dtype))
    kv = [np.zeros((rows, 0, *call[n].shape[2:]), dtype) for n in "kv"]
    length, written = 0, 0
    for _ in range(draw(st.integers(1, 4))):
        tokens = draw(st.integers(1, 5))
        q, k, v = (
            rng.standard_normal((rows, tokens, *call[n].shape[2:])).astype(dtype) for n in ("q", "k", "v")
        )
        at = np.full(rows, length)
        part = call.but(q=q, k=k, v=v, cache=cache, past=at, count=np.full(rows, tokens))
        y, cache = window_attention(part)
        positions = np.broadcast_to(np.arange(length, length + tokens), (rows, tokens))
        if size:
            turn = {"interleaved": settings.interleaved}
            q, k = (rotate(x, call["cos"][positions], call["sin"][positions], **turn) for x in (q, k))
        kv = [np.concatenate([past, new], 1) for past, new in zip(kv, (k, v), strict=True)]
        length, written = length + tokens, max(written, length + tokens)
        mask = causal_mask(positions, np.arange(length), window=settings.window, sinks=cache.sinks)
        expected = attend(q, kv[0], kv[1], mask, **settings.scoring)
        window_attention.near((y,), (expected,), part)
        least = int(floor(cache.keys, np.array([written]), slack=slack)[0])
        length = draw(st.integers(min(least, length), length))
        kv = [past[:, :length] for past in kv]
