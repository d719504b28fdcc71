"""Laws of rotary positions."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.position import rope_frequencies, rope_tables
from . import Call, Draw, Subject, law


def _at(rotate: Subject, call: Call, positions: np.ndarray) -> Call:
    """Return the call with the cosines and sines of these positions [B, T]."""
    pairs = call["cos"].shape[-1]
    frequencies = rope_frequencies(np.arange(pairs), theta=100.0)
    cos, sin = rope_tables(positions.reshape(-1), frequencies)
    shape = *positions.shape, pairs
    return call.but(cos=cos.reshape(shape).astype(rotate.dtype), sin=sin.reshape(shape).astype(rotate.dtype))


def _positions(call: Call, draw: Draw) -> np.ndarray:
    b, t = call["x"].shape[:2]
    numbers = draw(st.lists(st.integers(0, 50), min_size=b * t, max_size=b * t))
    return np.array(numbers).reshape(b, t)


@law("rotate")
def scores_depend_on_distance_only(rotate: Subject, draw: Draw) -> None:
    """If a query and a key are shifted by the same distance, the product of the rotated query and key
    stays the same.
    """
    call, shift = draw(rotate.calls(B=2)), draw(st.integers(0, 50))
    at = _positions(call, draw)
    here, there = _at(rotate, call, at), _at(rotate, call, at + shift)
    score = lambda y: (y[0] * y[1]).sum(-1)  # noqa: E731
    most = float(np.abs(call["x"]).sum(-1).max())
    rotate.near(score(rotate(there)), score(rotate(here)), here, there, times=2 * max(most, 1.0))


@law("rotate")
def lengths_and_the_rest_are_kept(rotate: Subject, draw: Draw) -> None:
    """A rotation keeps the length of a head. Heads at position 0 and elements from 2J on stay unchanged."""
    call = draw(rotate.calls())
    turned = _at(rotate, call, _positions(call, draw))
    x, y, pairs = call["x"], rotate(turned), call["cos"].shape[-1]
    most = float(np.abs(x).sum(-1).max())
    rotate.near((y * y).sum(-1), (x.astype(np.float64) ** 2).sum(-1), turned, times=2 * max(most, 1.0))
    rotate.near(y[..., 2 * pairs :], x[..., 2 * pairs :])
    rotate.near(rotate(_at(rotate, call, np.zeros(x.shape[:2], np.int64))), x)


@law("rotate")
def the_opposite_rotation_undoes_it(rotate: Subject, draw: Draw) -> None:
    """Rotating by θ and then by −θ returns the original head."""
    call = draw(rotate.calls())
    turned = _at(rotate, call, _positions(call, draw))
    back = turned.but(x=rotate(turned), sin=-turned["sin"])
    rotate.near(rotate(back), call["x"], turned, back, times=2)


@law("rotate")
def interleaved_pairs_are_halves_in_another_order(rotate: Subject, draw: Draw) -> None:
    """Rotating the pairs (2j, 2j + 1) equals rotating the pairs (j, j + J) of a head with reordered
    elements.
    """
    call = draw(rotate.calls(interleaved=False, U=0))
    order = np.arange(call["x"].shape[-1]).reshape(2, -1).T.reshape(-1)
    woven = call.but(x=call["x"][..., order], interleaved=True)
    rotate.near(rotate(woven), rotate(call)[..., order], woven, call)


@law("rope_frequencies")
def frequencies_fall_from_one_by_equal_steps(frequencies: Subject, draw: Draw) -> None:
    """Rotary frequencies fall by equal ratios. The first pair turns by one radian per position. One more
    pair after the last one would turn theta times slower than the first."""
    call = draw(frequencies.calls())
    call = call.but(pairs=np.arange(len(call["pairs"])))
    got = frequencies(call)
    frequencies.near(got[0], 1.0, call)
    last = got[-1] * (got[-1] / got[-2] if len(got) > 1 else 1 / call["theta"])
    frequencies.near(last, 1 / call["theta"], call, times=4)


@law("rope_tables")
def rotations_add_up(rope_tables: Subject, draw: Draw) -> None:
    """At position 0 nothing is rotated. Rotating by position q and then by position p equals rotating by
    position p + q.
    """
    call = draw(rope_tables.calls(magnitude=1.0))
    call = call.but(frequencies=np.clip(call["frequencies"], -1, 1))
    other = call.but(positions=call["positions"][::-1])
    both = call.but(positions=call["positions"] + other["positions"])
    (a, b), (c, d) = rope_tables(call), rope_tables(other)
    rope_tables.near(rope_tables(both), (a * c - b * d, a * d + b * c), both, call, call, other, other)
    cos, sin = rope_tables(call.but(positions=np.zeros_like(call["positions"])))
    rope_tables.near((cos, sin), (np.ones(cos.shape), np.zeros(sin.shape)))


@law("query_factors")
def factors_rise_from_one_with_each_context(query_factors: Subject, draw: Draw) -> None:
    """Factors of queries are 1 within the original context. Where the n-th context ends, they grow by beta
    · ln((n + 1) / n)."""
    call = draw(query_factors.calls())
    size, beta, offset = call["original_context"], call["beta"], call["offset"]
    inside = call.but(positions=np.minimum(call["positions"], size - 1 - offset))
    query_factors.near(query_factors(inside), np.ones(inside["positions"].shape), inside)
    spans = (call["positions"] + offset) // size
    last, first = (
        call.but(positions=positions - offset) for positions in ((spans + 1) * size - 1, (spans + 1) * size)
    )
    grown = beta * np.log((spans + 2) / (spans + 1))
    query_factors.near(query_factors(first) - query_factors(last), grown, first, last)
    query_factors.near(query_factors(last), query_factors(call), last, call)
