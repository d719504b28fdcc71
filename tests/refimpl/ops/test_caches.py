"""Operations on any kind of cache: select rows, grow, count bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.indexed_attention import IndexedKV
from tfm.refimpl.ops.latent_attention import LatentCache
from tfm.refimpl.ops.linear_attention import LinearState
from tfm.refimpl.ops.lstm import LstmState
from tfm.refimpl.ops.mamba import ChannelState
from tfm.refimpl.ops.mamba2 import HybridCache
from tfm.refimpl.ops.short_conv import ConvState, MatrixState


def full_cache() -> KVCache:
    keys = np.arange(3 * 2 * 5 * 4.0).reshape(3, 2, 5, 4)
    return KVCache(keys, -keys)


def sums() -> LinearState:
    state = np.arange(3 * 2 * 4 * 4.0).reshape(3, 2, 4, 4)
    return LinearState(state, state[..., 0])


def tail() -> ConvState:
    return ConvState(np.arange(3 * 2 * 4.0).reshape(3, 2, 4))


def states() -> MatrixState:
    return MatrixState(
        np.arange(3 * 2 * 4.0).reshape(3, 2, 4), np.arange(3 * 2 * 5 * 3.0).reshape(3, 2, 5, 3)
    )


def channels() -> ChannelState:
    return ChannelState(np.arange(3 * 2 * 4.0).reshape(3, 2, 4), np.arange(3 * 4 * 5.0).reshape(3, 4, 5))


def latents() -> LatentCache:
    return LatentCache(np.arange(3 * 5 * 4.0).reshape(3, 1, 5, 4))


def indexed() -> LatentCache:
    return LatentCache(np.arange(3 * 5 * 4.0).reshape(3, 1, 5, 4), np.arange(3 * 5 * 2.0).reshape(3, 1, 5, 2))


def state() -> LstmState:
    h = np.arange(3 * 5.0).reshape(3, 5)
    return LstmState(h, -h)


def blocks() -> IndexedKV:
    keys = np.arange(3 * 2 * 5 * 4.0).reshape(3, 2, 5, 4)
    return IndexedKV(keys, -keys, np.arange(3 * 5 * 2.0).reshape(3, 1, 5, 2))


CACHES = [full_cache, latents, sums, state, states, tail, channels, indexed, blocks]


@pytest.mark.parametrize("make", CACHES)
def test_rows_are_chosen_in_order(make: Callable[[], Any]):
    """A row may be named twice, or not at all."""
    cache, rows = make(), np.array([2, 0, 0, 1])
    for got, before in zip(cache.select(rows)[:3], cache[:3], strict=True):
        assert before is None or (got == before[rows]).all()


def test_bytes_are_those_of_the_arrays():
    assert full_cache().nbytes == 2 * 3 * 2 * 5 * 4 * 8
    assert full_cache().select(np.array([0])).nbytes == 2 * 2 * 5 * 4 * 8


def test_latents_are_one_vector_a_token():
    """And there are places for more."""
    cache = latents()
    assert cache.nbytes == 3 * 5 * 4 * 8
    larger, smaller = cache.grow(7), cache.grow(2)
    assert (larger.latents[:, :, :5] == cache.latents).all()
    assert larger.latents.shape == (3, 1, 7, 4)
    assert not larger.latents[:, :, 5:].any()
    assert (smaller.latents == cache.latents[:, :, :2]).all()
    assert smaller.index_keys is None


def test_an_indexers_keys_are_cut_with_the_latents():
    cache = indexed()
    assert cache.nbytes == 3 * 5 * (4 + 2) * 8
    larger = cache.grow(7)
    assert cache.index_keys is not None
    assert larger.index_keys is not None
    assert larger.index_keys.shape == (3, 1, 7, 2)
    assert (larger.index_keys[:, :, :5] == cache.index_keys).all()
    assert not larger.index_keys[:, :, 5:].any()


def test_an_indexers_keys_are_cut_with_keys_and_values():
    cache = blocks()
    assert cache.nbytes == 3 * 5 * (2 * 2 * 4 + 2) * 8
    larger = cache.grow(7)
    assert isinstance(cache, IndexedKV)
    assert isinstance(larger, IndexedKV)
    assert [array.shape for array in larger] == [(3, 2, 7, 4), (3, 2, 7, 4), (3, 1, 7, 2)]
    for got, before in zip(larger, cache, strict=True):
        assert (got[:, :, :5] == before).all()
        assert not got[:, :, 5:].any()


def test_states_have_room_for_any_text():
    """Their bytes are those of their arrays, whatever the number of tokens."""
    for cache, size in (
        (sums(), 3 * 2 * 5 * 4 * 8),
        (state(), 2 * 3 * 5 * 8),
        (states(), 3 * 2 * (4 + 5 * 3) * 8),
        (tail(), 3 * 2 * 4 * 8),
        (channels(), 3 * (2 * 4 + 4 * 5) * 8),
    ):
        assert cache.grow(1000) is cache
        assert cache.nbytes == size


def test_a_long_text_is_read_in_several_runs_if_one_would_be_costly():
    """Or if its keys and values wouldn't have room."""
    t = tiny_models
    made = (
        t.recurrent,
        t.gated_deltas,
        t.selective_scans,
        t.time_mixes,
        t.linear_units,
        t.ling,
        t.shared_blocks,
    )
    kinds = {kind for make in (*made, t.convolutions) for kind in cache_kinds(make())}
    assert {type(kind).__name__: kind.in_chunks for kind in kinds} == {
        "KeysValues": False, "Latents": False, "ConvTail": False, "LstmStates": False,
        "ChannelMixStates": False, "LinearSums": True, "MatrixStates": True, "ChannelStates": True,
        "TimeMixStates": True, "RgLruStates": True, "HybridStates": True, "LightningStates": True,
    }  # fmt: skip
    windows = cache_kinds(t.mixed_windows(), windowed=True)
    assert [kind.in_chunks for kind in windows] == [kind.window is not None for kind in windows]
    assert any(kind.window for kind in windows)


def test_a_hybrid_keeps_both():
    """Rows of each array, and places for more keys and values."""
    keys, both = np.arange(3 * 2 * 5 * 4.0).reshape(3, 2, 5, 4), states()
    cache, rows = HybridCache(keys, -keys, both.tail, both.state), np.array([2, 0, 0, 1])
    for got, before in zip(cache.select(rows)[:4], cache[:4], strict=True):
        assert (got == before[rows]).all()
    larger = cache.grow(7)
    assert (larger.capacity, larger.attention.values.shape) == (7, (3, 2, 7, 4))
    assert larger.states == both
    assert cache.nbytes == full_cache().nbytes + both.nbytes


def test_a_full_cache_grows_to_the_requested_capacity():
    cache = full_cache()
    larger, smaller = cache.grow(7), cache.grow(2)
    assert larger.keys.shape == (3, 2, 7, 4)
    assert (larger.values[:, :, :5] == cache.values).all()
    assert not larger.values[:, :, 5:].any()
    assert (smaller.keys == cache.keys[:, :, :2]).all()
