"""Laws of softmax, masks, rotary positions, attention and its cache, in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.ops.attention import (
    attend,
    attention,
    attention_weights,
    cached_attention,
    softmax,
)
from tfm.refimpl.ops.cache import append
from tfm.refimpl.ops.linear import linear
from tfm.refimpl.ops.mask import causal_mask
from tfm.refimpl.ops.norm import rms_norm
from tfm.refimpl.ops.position import rope_frequencies, rope_tables, rotate
from tolerances import equal

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 5)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape)


def angles(positions: np.ndarray, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [B, T, J] at positions [B, T]."""
    cos, sin = rope_tables(positions.reshape(-1), rope_frequencies(np.arange(pairs), theta=100.0))
    return cos.reshape(*positions.shape, pairs), sin.reshape(*positions.shape, pairs)


@given(seeds, few, few, st.integers(1, 7), st.sampled_from((1.0, 1e4)))
def test_softmax_is_a_distribution(seed: int, b: int, t: int, s: int, scale: float):
    scores = normal(seed, b, t, s) * scale
    mask = np.random.default_rng(seed).random((b, t, s)) < 0.5
    weights = softmax(scores, mask)
    assert (weights >= 0).all()
    assert (weights[~mask] == 0).all()
    equal(weights.sum(-1), mask.any(-1).astype(float))
    equal(softmax(scores).sum(-1), np.ones((b, t)))
    if scale == 1:
        equal(softmax(scores + 3.0, mask), weights)
        equal(softmax(scores), np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))


def test_a_row_that_sees_nothing_gives_zeros():
    assert not softmax(np.ones((1, 1, 3)), np.zeros((1, 1, 3), bool)).any()
    assert softmax(np.ones((1, 2, 0))).shape == (1, 2, 0)


def test_the_causal_mask_by_hand():
    queries, keys = np.array([[2, 3]]), np.arange(5)
    assert causal_mask(queries, keys)[0].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    windowed = causal_mask(queries, keys, window=2)[0].astype(int)
    assert windowed.tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert causal_mask(queries, keys, window=1)[0].sum() == 2


@given(seeds, few, few, few, few, few, st.sampled_from((None, 2.0)))
def test_grouped_heads_are_repeated_heads(seed: int, b: int, t: int, s: int, g: int, r: int, cap: float):
    q, k, v = normal(seed, b, t, g * r, 4), normal(seed, b, s, g, 4), normal(seed, b, s, g, 3)
    mask = np.random.default_rng(seed).random((b, t, s)) < 0.7
    repeat = lambda a: np.repeat(a, r, axis=2)  # noqa: E731
    wanted = attend(q, repeat(k), repeat(v), mask, softcap=cap)
    equal(attend(q, k, v, mask, softcap=cap), wanted)


@given(seeds, few, few, st.integers(1, 6))
def test_attention_is_its_formula(seed: int, b: int, t: int, s: int):
    """Σ_s softmax(q·k/√K) v, head by head, with einsum instead of grouped products."""
    q, k, v = normal(seed, b, t, 2, 4), normal(seed, b, s, 2, 4), normal(seed, b, s, 2, 3)
    scores = np.einsum("bthk,bshk->bhts", q, k) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    equal(attention_weights(q, k), weights)
    equal(attend(q, k, v), np.einsum("bhts,bshv->bthv", weights, v))
    equal(attend(q, k, v, scale=0.5), attend(q, k, v))
    equal(attention_weights(q, k, softcap=1e6), weights, 1e-8)


@given(seeds, few, st.integers(2, 6))
def test_keys_are_a_set(seed: int, t: int, s: int):
    """Without positions and masks, attention doesn't care in which order keys stand."""
    q, k, v = normal(seed, 1, t, 2, 4), normal(seed, 1, s, 2, 4), normal(seed, 1, s, 2, 3)
    order = np.random.default_rng(seed).permutation(s)
    equal(attend(q, k[:, order], v[:, order]), attend(q, k, v))


@given(seeds, few, st.integers(0, 2), st.booleans(), st.integers(0, 50))
def test_rotary_scores_depend_on_distance(seed: int, j: int, rest: int, interleaved: bool, shift: int):
    q, k = normal(seed, 1, 1, 1, 2 * j + rest), normal(seed + 1, 1, 1, 1, 2 * j + rest)

    def score(at: int, other: int) -> float:
        turn = lambda x, p: rotate(x, *angles(np.array([[p]]), j), interleaved=interleaved)  # noqa: E731
        return float((turn(q, at) * turn(k, other)).sum())

    equal(score(7 + shift, 3 + shift), score(7, 3))
    equal(score(0, 0), (q * k).sum())


@given(seeds, few, st.integers(0, 3), st.booleans())
def test_rotation_keeps_lengths_and_the_rest(seed: int, j: int, rest: int, interleaved: bool):
    x, (cos, sin) = normal(seed, 1, 3, 2, 2 * j + rest), angles(np.array([[0, 5, 11]]), j)
    y = rotate(x, cos, sin, interleaved=interleaved)
    equal((y**2).sum(-1), (x**2).sum(-1))
    assert (y[..., 2 * j :] == x[..., 2 * j :]).all()
    assert (y[:, 0] == x[:, 0]).all()
    equal(rotate(y, cos, -sin, interleaved=interleaved), x)


@given(seeds, few)
def test_interleaved_pairs_are_halves_in_another_order(seed: int, j: int):
    x, (cos, sin) = normal(seed, 2, 1, 1, 2 * j), angles(np.array([[3], [9]]), j)
    order = np.arange(2 * j).reshape(2, j).T.reshape(-1)
    equal(rotate(x[..., order], cos, sin, interleaved=True), rotate(x, cos, sin)[..., order])


def test_rotation_by_hand():
    x = np.array([1.0, 2, 3, 4, 5]).reshape(1, 1, 1, 5)
    cos, sin = np.array([0.0, 1.0]).reshape(1, 1, 2), np.array([1.0, 0.0]).reshape(1, 1, 2)
    assert rotate(x, cos, sin).ravel().tolist() == [-3, 2, 1, 4, 5]
    assert rotate(x, cos, sin, interleaved=True).ravel().tolist() == [-2, 1, 3, 4, 5]


@given(seeds, st.lists(st.integers(0, 4), min_size=1, max_size=4), few)
def test_append_writes_just_its_rows(seed: int, start: list[int], t: int):
    b = len(start)
    past, new = normal(seed, b, 2, 4 + t, 3), normal(seed, b, t, 2, 3)
    kept = past.copy()
    cache = append(past, new, np.array(start))
    assert (past == kept).all()
    for row, first in enumerate(start):
        assert (cache[row, :, first : first + t] == new[row].transpose(1, 0, 2)).all()
        outside = np.delete(np.arange(4 + t), np.arange(first, first + t))
        assert (cache[row][:, outside] == past[row][:, outside]).all()


def heads(seed: int, b: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return normal(seed, b, t, 4, 6), normal(seed, b, t, 2, 6), normal(seed + 1, b, t, 2, 6)


@given(
    seeds,
    st.integers(1, 7),
    st.integers(0, 7),
    st.sampled_from((None, 1, 2, 3)),
    st.booleans(),
    st.booleans(),
)
def test_cached_attention_is_its_parts(
    seed: int, t: int, cut: int, window: int | None, rope: bool, interleaved: bool
):
    """Any split of the tokens = one pass = attention over all of them under a causal mask."""
    cut = min(cut, t)
    q, k, v = heads(seed, 2, t)
    past = np.zeros(2, np.int64)
    empty = np.zeros((2, 2, t, 6))
    tables = rope_tables(np.arange(t), rope_frequencies(np.arange(2), theta=100.0)) if rope else (None, None)
    settings = {"window": window, "interleaved": interleaved}
    whole, k_cache, v_cache = cached_attention(q, k, v, empty, empty, past, *tables, **settings)
    if 0 < cut < t:
        first, *pair = cached_attention(
            q[:, :cut], k[:, :cut], v[:, :cut], empty, empty, past, *tables, **settings
        )
        second, *pair = cached_attention(
            q[:, cut:], k[:, cut:], v[:, cut:], *pair, past + cut, *tables, **settings
        )
        equal(np.concatenate([first, second], 1), whole)
        equal(pair[0], k_cache)
        equal(pair[1], v_cache)
    if rope:
        c, s = (np.broadcast_to(a, (2, *a.shape)) for a in tables)
        q, k = rotate(q, c, s, interleaved=interleaved), rotate(k, c, s, interleaved=interleaved)
    equal(k_cache, k.transpose(0, 2, 1, 3))
    for i in range(t):
        seen = slice(0 if window is None else max(0, i + 1 - window), i + 1)
        equal(whole[:, i : i + 1], attend(q[:, i : i + 1], k[:, seen], v[:, seen]))


@given(seeds, few, st.lists(st.integers(0, 3), min_size=2, max_size=3))
def test_a_row_is_itself_beside_any_neighbour(seed: int, t: int, past: list[int]):
    """Rows have pasts of their own, and capacity beyond them changes nothing."""
    b, rows = len(past), 3 + t
    q, k, v = heads(seed, b, t)
    cache = normal(seed, b, 2, rows, 6), normal(seed + 1, b, 2, rows, 6)
    starts = np.array(past)
    whole, _, _ = cached_attention(q, k, v, *cache, starts)
    for row, held in enumerate(past):
        one = slice(row, row + 1)
        cut = (c[one, :, : held + t] for c in cache)
        alone, _, _ = cached_attention(q[one], k[one], v[one], *cut, starts[one])
        equal(whole[one], alone)


@given(seeds, st.booleans(), st.booleans())
def test_the_sublayer_is_its_parts(seed: int, bias: bool, norms: bool):
    x, past = normal(seed, 2, 3, 7), np.array([0, 2])
    cache = normal(seed, 2, 2, 5, 4), normal(seed + 1, 2, 2, 5, 4)
    w = {"wq": (7, 16), "wk": (7, 8), "wv": (7, 8), "wo": (16, 7)}
    w = {n: normal(seed + i, *s) for i, (n, s) in enumerate(w.items())}
    b = {n: normal(seed + i, s) for i, (n, s) in enumerate({"bq": 16, "bk": 8, "bv": 8, "bo": 7}.items())}
    b = b if bias else dict.fromkeys(b)
    n = {"q_norm": normal(seed, 4), "k_norm": normal(seed + 1, 4)} if norms else {}
    q = linear(x, w["wq"], b["bq"]).reshape(2, 3, 4, 4)
    k = linear(x, w["wk"], b["bk"]).reshape(2, 3, 2, 4)
    v = linear(x, w["wv"], b["bv"]).reshape(2, 3, 2, 4)
    if norms:
        q, k = rms_norm(q, n["q_norm"], eps=0.1), rms_norm(k, n["k_norm"], eps=0.1)
    y, *wanted = cached_attention(q, k, v, *cache, past, window=2, scale=0.3, softcap=5.0)
    got = attention(x, *cache, past, **w, **b, **n, norm_eps=0.1, window=2, scale=0.3, softcap=5.0)
    for have, want in zip(got, (linear(y.reshape(2, 3, 16), w["wo"], b["bo"]), *wanted), strict=True):
        equal(have, want)
