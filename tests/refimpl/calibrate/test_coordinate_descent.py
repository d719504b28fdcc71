"""Coordinate descent against its definition: every code tried in each place, the error computed anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.calibrate import coordinate_descent as module
from tfm.refimpl.calibrate.coordinate_descent import (
    Hessian,
    coordinate_descent,
    damped,
    distance,
    hessian,
    output_error,
)
from tfm.refimpl.ops.quant import Blocks, dequantize, quantize

seeds = st.integers(0, 2**32 - 1)
schemes = st.fixed_dictionaries(
    {"bits": st.sampled_from((2, 4)), "block": st.integers(1, 12), "symmetric": st.booleans()}
)


def problem(seed: int, d: int, f: int, samples: int = 64) -> tuple[np.ndarray, Hessian]:
    """Random weights, and inputs whose channels go together and differ in size."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) * np.exp(rng.standard_normal(d))
    return rng.standard_normal((d, f)), hessian(None, rng.standard_normal((samples, d)) @ mix)


def by_definition(w: np.ndarray, h: Hessian, blocks: Blocks) -> np.ndarray:
    """Give each code in turn the value with the least error, which a tie doesn't move, until none changes.

    Rows of small H_dd come first.
    """
    rows = np.argsort(np.diag(h.total), kind="stable")
    codes, changed = blocks.codes.copy(), True
    while changed:
        changed = False
        for place in [(row, column) for row in rows for column in range(codes.shape[1])]:
            tried = np.stack([codes] * 2**blocks.bits)
            tried[(slice(None), *place)] = np.arange(2**blocks.bits)
            errors = [output_error(w, replace(blocks, codes=one), h) for one in tried]
            if min(errors) < errors[codes[place]] * (1 - 1e-9):
                codes[place], changed = np.argmin(errors), True
    return codes


def rounded(w: np.ndarray, h: Hessian, scheme: dict, **options) -> Blocks:
    return coordinate_descent(w, damped(h, 0.05), quantize(w, **scheme), **options)


@given(seeds, st.integers(5, 12), st.integers(1, 2), schemes, st.integers(1, 16))
def test_it_equals_the_definition(seed: int, d: int, f: int, scheme: dict, batch: int):
    """Equal at any batch size, since batches are only a way to compute it."""
    w, h = problem(seed, d, f)
    want = by_definition(w, Hessian(damped(h, 0.05), h.inputs), quantize(w, **scheme))
    assert (rounded(w, h, scheme, batch=batch).codes == want).all()


@given(seeds, schemes, st.sampled_from((np.float16, np.float32, np.float64)))
def test_each_wrong_code_is_far(seed: int, scheme: dict, kind: type):
    """A code that was chosen is within half a step; a neighbour in its place is as far as that one was near
    on the other side, and codes that are rounded to nearest are farther."""
    w, h = problem(seed, 23, 3)
    w, total = w.astype(np.float32), damped(h)
    start = quantize(w, **scheme)
    start = replace(start, scale=start.scale.astype(kind))
    got, top = coordinate_descent(w, total, start, batch=5), 2 ** scheme["bits"] - 1
    assert distance(w, total, got) <= 0.5 + 1e-9
    if (start.codes != got.codes).any():
        assert distance(w, total, start) > 0.5
    rng = np.random.default_rng(seed)
    for i in range(23):
        codes, f = got.codes.copy(), rng.integers(3)
        up = codes[i, f] == 0 or (codes[i, f] < top and rng.random() < 0.5)
        codes[i, f] = codes[i, f] + 1 if up else codes[i, f] - 1
        assert distance(w, total, replace(got, codes=codes)) > 0.5


def test_some_columns_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch):
    w, h = problem(5, 21, 7)
    total, start = damped(h), quantize(w, bits=4, block=6, symmetric=False)
    whole = coordinate_descent(w, total, start)
    far = replace(whole, codes=np.where(np.arange(7) == 5, 15 - whole.codes, whole.codes))
    off = distance(w, total, far)
    monkeypatch.setattr(module, "COLUMNS", 3)
    np.testing.assert_array_equal(coordinate_descent(w, total, start).codes, whole.codes)
    assert distance(w, total, far) == pytest.approx(off)
    assert off > 1


def test_a_block_of_zeros_has_codes_that_say_nothing():
    """Its scale is 0, so each code stands for 0."""
    w, h = problem(3, 8, 2)
    w[:4] = 0
    total, start = damped(h), quantize(w, bits=4, block=4)
    start = replace(start, scale=np.where(np.arange(2)[:, None] == 0, 0, start.scale))
    got = coordinate_descent(w, total, start)
    assert not dequantize(got)[:4].any()
    assert distance(w, total, got) <= 0.5 + 1e-9


@given(seeds, schemes)
def test_uncorrelated_channels_are_rounded_to_nearest(seed: int, scheme: dict):
    """With a diagonal H no code can compensate another."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((11, 4)).astype(np.float32)
    got, expected = (
        rounded(w, Hessian(np.diag(np.exp(rng.standard_normal(11))), 1), scheme),
        quantize(w, **scheme),
    )
    assert (got.codes == expected.codes).all()
    assert got.scale is not None
    assert (got.scale == expected.scale).all()
    assert got.scale.dtype == np.float32


@pytest.mark.parametrize(("bits", "median"), [(4, 0.6), (2, 0.8)])
@pytest.mark.parametrize("block", [16, 64])
def test_the_error_is_less_than_that_of_rounding_to_nearest(bits: int, median: float, block: int):
    """Never more, and for inputs that differ much in size less by this: 40 random problems of 64 rows."""
    ratios = []
    for seed in range(40):
        w, h = problem(seed, 64, 24, 256)
        start, total = quantize(w, bits=bits, block=block, symmetric=bool(seed % 2)), damped(h, 0.01)
        got = coordinate_descent(w, total, start)
        if seed < 4:
            assert (got.codes == coordinate_descent(w, total, start, batch=1).codes).all()
        ratios.append(output_error(w, got, Hessian(total, 1)) / output_error(w, start, Hessian(total, 1)))
    assert max(ratios) <= 1
    assert np.median(ratios) < median


@given(seeds)
def test_the_error_is_the_mean_over_inputs(seed: int):
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((7, 3)), rng.standard_normal((20, 7))
    state = None
    for part in np.split(x, [0, 3, 11]):
        state = hessian(state, part)
    assert state is not None
    assert state.inputs == 20
    q = quantize(w, bits=2, block=7)
    off = x @ w - x @ dequantize(q)
    np.testing.assert_allclose(output_error(w, q, state), (off**2).sum(1).mean(), rtol=1e-9)


def test_inputs_that_are_always_zero():
    """Their rows are rounded to nearest."""
    w, h = problem(0, 8, 3)
    dead = h.total.copy()
    dead[2] = dead[:, 2] = 0
    start = quantize(w, bits=4, block=1)
    got = coordinate_descent(w, damped(Hessian(dead, 1)), start)
    assert (got.codes[2] == start.codes[2]).all()
