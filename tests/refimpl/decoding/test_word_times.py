"""When tokens were said: the path and the filter are transformers', and what they are for holds."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.word_times import median_filter, token_begins, warp
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 23))


@given(seeds, sizes, st.booleans())
def test_the_path_is_transformers(seed: int, size: tuple[int, int], equal: bool):
    """Also where ways cost the same."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(-2, 2, size).astype(np.float64) if equal else rng.normal(size=size)
    rows, columns = _dynamic_time_warping(cost)
    wanted = [columns[np.flatnonzero(rows == row)[0]] for row in range(size[0])]
    assert warp(cost).tolist() == wanted


@given(seeds, sizes, st.sampled_from([1, 3, 7]))
def test_the_filter_is_transformers(seed: int, size: tuple[int, int], width: int):
    x = np.random.default_rng(seed).normal(size=size)
    assert np.array_equal(median_filter(x, width), _median_filter(torch.from_numpy(x)[None], width)[0])


@given(seeds, st.lists(st.integers(5, 12), min_size=2, max_size=8))
def test_tokens_begin_where_their_heads_look(seed: int, lengths: list[int]):
    """What all tokens look at counts for nothing, nor does what they look at for a moment."""
    rng, begins = np.random.default_rng(seed), np.cumsum([0, *lengths[:-1]])
    attention = rng.uniform(0, 0.01, (3, len(lengths), sum(lengths)))
    for token, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
        attention[:, token, begin : begin + length] += 1
    attention[:, :, sum(lengths) // 2] = 50
    attention[0, 0, -2:] += 9
    assert np.abs(token_begins(attention) - begins).max() <= 2


def test_where_all_tokens_look_counts_for_none():
    rng = np.random.default_rng(0)
    attention = rng.random((2, 9, 40))
    everywhere = rng.random((2, 1, 40)) * 5
    begins = token_begins(attention)
    assert len({*begins}) > 4
    assert (token_begins(attention + everywhere) == begins).all()
