"""Coordinate descent against its definition: every code tried in each place, each scale by least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.calibrate import coordinate_descent as module
from tfm.refimpl.calibrate.coordinate_descent import (
    SCALE_MARGIN,
    Hessian,
    coordinate_descent,
    damped,
    distance,
    hessian,
    output_error,
)
from tfm.refimpl.ops.quant import Blocks, dequantize, half_scales, quantize, spread

seeds = st.integers(0, 2**32 - 1)
schemes = st.fixed_dictionaries(
    {"bits": st.sampled_from((2, 4)), "block": st.integers(1, 12), "symmetric": st.booleans()}
)


def problem(seed: int, d: int, f: int, samples: int = 64) -> tuple[np.ndarray, Hessian]:
    """Random weights, and inputs whose channels go together and differ in size."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) * np.exp(rng.standard_normal(d))
    return rng.standard_normal((d, f)), hessian(None, rng.standard_normal((samples, d)) @ mix)


def by_definition(w: np.ndarray, h: Hessian, blocks: Blocks, halves: bool) -> Blocks:
    """Give each code in turn the value with the least error, which a tie doesn't move, until none changes.

    Rows of small H_dd come first. Then each block gets the scale of least squares, which small changes don't
    move, and both go on in turn.
    """
    rows, root = np.argsort(np.diag(h.total), kind="stable"), np.linalg.cholesky(h.total).T
    now = replace(blocks, codes=blocks.codes.copy(), scale=blocks.scale.copy())
    for f in range(w.shape[1]):
        changed, settled = True, False
        while changed:
            changed = False
            for row in rows:
                tried = np.stack([now.codes] * 2**blocks.bits)
                tried[:, row, f] = np.arange(2**blocks.bits)
                errors = [output_error(w, replace(now, codes=one), h) for one in tried]
                if min(errors) < errors[now.codes[row, f]] * (1 - 1e-9):
                    now.codes[row, f], changed = np.argmin(errors), True
            settled |= not changed
            for k in range(len(now.scale) * settled):
                here = np.where(np.arange(len(now.scale))[:, None] == k, np.ones_like(now.scale), 0)
                read = root @ dequantize(replace(now, scale=here))[:, f]
                want = root @ (w - dequantize(replace(now, scale=now.scale * (1 - here))))[:, f]
                if read.any():
                    best, old = read @ want / (read @ read), now.scale[k, f]
                    best = half_scales(best, bits=blocks.bits) if halves else best
                    if best * old > 0 and abs(best - old) > SCALE_MARGIN * abs(old):
                        now.scale[k, f], changed = best, True
    return now


def rounded(w: np.ndarray, h: Hessian, scheme: dict, **options) -> Blocks:
    return coordinate_descent(w, damped(h, 0.05), quantize(w, **scheme), **options)


@given(seeds, st.integers(5, 12), st.integers(1, 2), schemes, st.integers(1, 16), st.booleans())
def test_it_equals_the_definition(seed: int, d: int, f: int, scheme: dict, batch: int, halves: bool):
    """Equal at any batch size, since batches are only a way to compute it."""
    w, h = problem(seed, d, f)
    want = by_definition(w, Hessian(damped(h, 0.05), h.inputs), quantize(w, **scheme), halves)
    got = rounded(w, h, scheme, batch=batch, halves=halves)
    assert (got.codes == want.codes).all()
    np.testing.assert_allclose(got.scale, want.scale, rtol=1e-7)


@given(seeds, schemes, st.sampled_from((np.float16, np.float32, np.float64)))
def test_each_wrong_code_is_far(seed: int, scheme: dict, kind: type):
    """A code that was chosen is within half a step; a neighbour in its place is as far as that one was near
    on the other side, and codes that are rounded to nearest are farther."""
    w, h = problem(seed, 23, 3)
    w, total = w.astype(np.float32), damped(h)
    start = quantize(w, **scheme)
    start = replace(start, scale=start.scale.astype(kind))
    got, top = coordinate_descent(w, total, start, batch=5), 2 ** scheme["bits"] - 1
    assert distance(w, total, got)[0] <= 0.5 + 1e-9
    assert got.scale.dtype == kind
    if (start.codes != got.codes).any():
        assert distance(w, total, start)[0] > 0.5
    rng = np.random.default_rng(seed)
    for i in range(23):
        codes, f = got.codes.copy(), rng.integers(3)
        up = codes[i, f] == 0 or (codes[i, f] < top and rng.random() < 0.5)
        codes[i, f] = codes[i, f] + 1 if up else codes[i, f] - 1
        assert distance(w, total, replace(got, codes=codes))[0] > 0.5


@pytest.mark.parametrize(("halves", "size"), [(False, 1), (True, 1), (True, 2**-17)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_each_wrong_scale_is_far(symmetric: bool, halves: bool, size: float):
    """Also where float16 numbers are few."""
    w, h = problem(7, 21, 5)
    w, total = w * size, damped(h)
    start = quantize(w, bits=4, block=8, symmetric=symmetric, halves=halves)
    got = coordinate_descent(w, total, start, halves=halves)
    assert distance(w, total, got, halves=halves)[1] <= SCALE_MARGIN + 1e-9
    assert distance(w, total, start, halves=halves)[1] > 5 * SCALE_MARGIN
    assert (got.scale == half_scales(got.scale, bits=4)).all() == halves
    for place in np.ndindex(got.scale.shape):
        scale = got.scale.copy()
        scale[place] *= 1.01
        assert distance(w, total, replace(got, scale=scale), halves=halves)[1] > 5 * SCALE_MARGIN


def test_a_scale_keeps_its_sign():
    """Also where the other sign is better for these codes. The two inputs nearly cancel, so no code moves."""
    w, total = np.full((2, 1), -0.5), np.array([[1, -0.9], [-0.9, 1]])
    start = replace(quantize(w, bits=4, block=2), codes=np.full((2, 1), 9, np.uint8), scale=np.ones((1, 1)))
    got = coordinate_descent(w, total, start)
    assert (got.codes == 9).all()
    assert got.scale == 1
    assert distance(w, total, got)[1] == 0


def test_scales_are_compared_as_they_are_stored():
    w, h = problem(7, 48, 100)
    total, start = damped(h), quantize(w, bits=4, block=8)
    got = coordinate_descent(w, total, replace(start, scale=start.scale.astype(np.float16)))
    assert distance(w, total, got)[1] <= SCALE_MARGIN + 1e-9


def test_some_columns_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch):
    w, h = problem(5, 21, 7)
    total, start = damped(h), quantize(w, bits=4, block=6, symmetric=False)
    whole = coordinate_descent(w, total, start)
    assert (whole.scale != start.scale).any(axis=0).all()
    far = replace(whole, codes=np.where(np.arange(7) == 5, 15 - whole.codes, whole.codes))
    off = distance(w, total, far)
    monkeypatch.setattr(module, "COLUMNS", 3)
    parts = coordinate_descent(w, total, start)
    np.testing.assert_array_equal(parts.codes, whole.codes)
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-12)
    assert distance(w, total, far) == pytest.approx(off)
    assert off[0] > 1
    assert off[1] > SCALE_MARGIN


def test_a_block_of_zeros_has_codes_that_say_nothing():
    """Its scale is 0, so each code stands for 0."""
    w, h = problem(3, 8, 2)
    w[:4] = 0
    total, start = damped(h), quantize(w, bits=4, block=4)
    start = replace(start, scale=np.where(np.arange(2)[:, None] == 0, 0, start.scale))
    got = coordinate_descent(w, total, start)
    assert not dequantize(got)[:4].any()
    assert not got.scale[0].any()
    assert distance(w, total, got)[0] <= 0.5 + 1e-9


@given(seeds, schemes)
def test_uncorrelated_channels_are_rounded_to_nearest(seed: int, scheme: dict):
    """With a diagonal H no code can compensate another: each is the nearest one for its block's scale."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((11, 4)).astype(np.float32)
    got = rounded(w, Hessian(np.diag(np.exp(rng.standard_normal(11))), 1), scheme)
    zero = 2 ** (got.bits - 1) if got.zero is None else spread(got.zero, got)
    nearest = np.clip(np.rint(w / spread(got.scale, got)) + zero, 0, 2**got.bits - 1)
    assert (got.codes == nearest).all()
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
