"""Caches against ONNX Runtime's GroupQueryAttention, which keeps them in 8 and 4 bits and in a ring.

It has no scales by head of a token: those are held by laws alone, and their formula is that of
`quant.quantize_rows`, which is compared there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.onnx_nodes import run
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Attention, Window
from tfm.refimpl.ops.attention import cached_attention
from tfm.refimpl.ops.cache import KVCache, append, grow
from tfm.refimpl.ops.quantized_cache import (
    ChannelQuantized,
    append_by_channel,
    pack_nibbles,
    read_by_channel,
    unpack_nibbles,
)

G, R, K = 2, 3, 16
SETTINGS = Attention(G * R, G, K)
seeds = st.integers(0, 2**32 - 1)


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, past: list[np.ndarray], length: int, *more: Any, **args: Any
) -> list[np.ndarray]:
    """Output, keys and values of the operator after `held` tokens of one row."""
    flat = lambda a: a.reshape(*a.shape[:2], -1)  # noqa: E731
    total = length + q.shape[1]
    y, *caches = run(
        "GroupQueryAttention",
        [flat(q), flat(k), flat(v), *past, np.array([total - 1], np.int32), np.array(total, np.int32), *more],
        3, "com.microsoft", num_heads=G * R, kv_num_heads=G, **args,
    )  # fmt: skip
    return [y.reshape(q.shape), *caches]


def drawn(seed: int, tokens: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, tokens, heads, K)).astype(np.float32) for heads in (G * R, G, G)]


@pytest.mark.parametrize("bits", [8, 4])
@given(seeds, st.integers(1, 6), st.integers(0, 3))
def test_codes_by_channel(bits: int, seed: int, tokens: int, first: int):
    """Codes and packing equal to the integer, clipped ones too; the output is attention over what is read."""
    q, k, v = drawn(seed, tokens)
    rng = np.random.default_rng(seed)
    scales = [((0.3 + rng.random((G, K))) * 3 / 2 ** (bits - 1)).astype(np.float32) for _ in "kv"]

    def written(room: int, at: int, k: np.ndarray, v: np.ndarray) -> list[ChannelQuantized]:
        """Keys and values at one place of an empty cache."""
        codes, start = np.zeros((1, G, room, K), np.int8), np.array([at])
        empty = [ChannelQuantized(codes, scale) for scale in scales]
        return [append_by_channel(c, x, start, bits=bits) for c, x in zip(empty, (k, v), strict=True)]

    expected = written(tokens, 0, k, v)
    empty = np.zeros((1, G, 0, K if bits == 8 else K // 2), np.int8 if bits == 8 else np.uint8)
    settings = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": bits}
    absent = [None] * 5
    y, *got = attention(q, k, v, [empty, empty], 0, *absent, *(s.ravel() for s in scales), **settings)
    for have, want in zip(got, expected, strict=True):
        assert have.dtype == (np.int8 if bits == 8 else np.uint8)
        assert (have == (want.codes if bits == 8 else pack_nibbles(want.codes))).all()
        assert (want.codes == (have if bits == 8 else unpack_nibbles(have))).all()
    # A second call reads what the first one wrote.
    keys, values = map(read_by_channel, expected)
    q, k, v = drawn(seed + 1, 1)
    y, *got = attention(q, k, v, got, tokens, *absent, *(s.ravel() for s in scales), **settings)
    last = written(tokens + 1, tokens, k, v)
    new = [read_by_channel(c)[:, :, -1:].transpose(0, 2, 1, 3) for c in last]
    cache = KVCache(*(np.pad(c, ((0, 0), (0, 0), (0, 1), (0, 0))) for c in (keys, values)))
    whole, _ = cached_attention(q, *new, cache, np.array([tokens]), settings=SETTINGS)
    equal(y, whole, 1e-5)


@given(seeds, st.integers(2, 5), st.integers(1, 9))
def test_a_window_is_the_operators_ring(seed: int, window: int, steps: int):
    """The operator keeps the window's tokens alone, ours keeps all and hides the others."""
    ours = KVCache(*(np.zeros((1, G, steps, K), np.float32) for _ in "kv"))
    settings = replace(SETTINGS, mask=Window(window))
    theirs = [np.zeros((1, G, window, K), np.float32) for _ in "kv"]
    for step in range(steps):
        q, k, v = drawn(seed + step, 1)
        expected, ours = cached_attention(q, k, v, ours, np.array([step]), settings=settings)
        y, *theirs = attention(q, k, v, theirs, step, local_window_size=window, sliding_window_cache=1)
        equal(y, expected, 1e-5)


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_growing_is_the_operators_present(seed: int, past: int, tokens: int):
    """With a past of exactly its length the operator gives a grown cache."""
    (_, before, _), (q, k, v) = drawn(seed, past), drawn(seed + 1, tokens)
    cache = append(np.zeros((1, G, past, K), np.float32), before, np.zeros(1, np.int64))
    _, keys, _ = attention(q, k, v, [cache, cache], past)
    assert (keys == grow(cache, k)).all()
