"""The search for scales: never worse than rounding, exact where possible, and weighted by importance.

No outside oracle: libraries search other sets of scales. The search is small enough to be repeated by hand
here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.calibrate.least_error import (
    SHRINKS,
    error,
    is_as_good,
    is_possible,
    least_error,
    mean_square,
)
from tfm.refimpl.ops.quant import dequantize, quantize

seeds = st.integers(0, 2**32 - 1)
lengths, columns, bits = st.integers(1, 21), st.integers(1, 4), st.sampled_from((4, 8))


def drawn(seed: int, d: int, f: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_t(3, (d, f)), rng.random(d) ** 3 + 1e-3


@given(seeds, lengths, columns, bits, st.sampled_from((3, 8)), st.booleans())
def test_never_worse_than_rounding(seed: int, d: int, f: int, b: int, block: int, symmetric: bool):
    weight, importance = drawn(seed, d, f)
    blocks = least_error(weight, importance, bits=b, block=block, symmetric=symmetric)
    rounded = dequantize(quantize(weight, bits=b, block=block, symmetric=symmetric))
    ulps = 1e-30 * float(
        np.sum(importance[:, None] * weight**2)
    )  # where both are exact but for the last bits
    got, least = (error(weight, w, importance) for w in (dequantize(blocks), rounded))
    assert got <= least * (1 + 1e-12) + ulps
    assert blocks.codes.shape == weight.shape
    assert blocks.scale.shape == (-(-d // block), f)
    assert (blocks.zero is None) == symmetric
    assert int(blocks.codes.max()) < 2**b


@given(seeds, st.integers(2, 7))
def test_the_best_candidate_is_chosen(seed: int, d: int):
    """One block by hand in float64: no other share and no other scale is better."""
    weight, importance = drawn(seed, d, 1)
    blocks = least_error(weight, importance, bits=4, block=8)
    got = error(weight, dequantize(blocks), importance)
    low, high = min(weight.min(), 0.0), max(weight.max(), 0.0)
    for share in SHRINKS:
        step = (high - low) * share / 15
        zero = np.clip(np.rint(-low * share / step), 0, 15)
        codes = np.clip(np.rint(weight / step) + zero, 0, 15) - zero
        for scale in step * np.linspace(0.8, 1.2, 41):
            assert got <= error(weight, codes * scale, importance) * (1 + 1e-12) + 1e-28


@given(seeds, st.integers(2, 7))
def test_the_best_symmetric_candidate_is_chosen(seed: int, d: int):
    """Likewise of a block without a zero point: its extreme is a share of −8 steps, of either sign."""
    weight, importance = drawn(seed, d, 1)
    blocks = least_error(weight, importance, bits=4, block=8, symmetric=True)
    got = error(weight, dequantize(blocks), importance)
    extreme = max(weight.ravel(), key=abs)
    assert extreme * blocks.scale[0, 0] < 0
    for share in SHRINKS:
        step = extreme * share / -8
        codes = np.clip(np.rint(weight / step), -8, 7)
        for scale in step * np.linspace(0.8, 1.2, 41):
            assert got <= error(weight, codes * scale, importance) * (1 + 1e-12) + 1e-28


@given(seeds, columns)
def test_weights_on_a_grid_stay(seed: int, f: int):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (8, f))
    codes[0], codes[1] = 0, 15
    weight = ((codes - 6) * 0.25).astype(np.float32)
    blocks = least_error(weight, np.ones(8), bits=4, block=8)
    assert (blocks.codes == codes).all()
    np.testing.assert_allclose(dequantize(blocks), weight, rtol=1e-6)


def test_weights_without_inputs_are_ignored():
    """An outlier without input costs the others nothing: the range excludes it, and their step is finer."""
    weight = np.array([[1.0, 0.9, -0.8, 0.33, -0.47, 0.61, 0.05, 1.7]], np.float32).T
    alike = least_error(weight, np.ones(8), bits=4, block=8)
    blind = least_error(weight, np.array([1.0] * 7 + [0]), bits=4, block=8)
    seen = slice(0, 7)
    ones = np.ones(7)
    assert blind.scale[0, 0] < alike.scale[0, 0]
    assert error(weight[seen], dequantize(blind)[seen], ones) < error(
        weight[seen], dequantize(alike)[seen], ones
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_without_numbers(symmetric: bool):
    """Zeros, and inputs that never come: finite, and equal to rounding to nearest."""
    zeros = least_error(np.zeros((4, 2), np.float32), np.ones(4), bits=4, block=4, symmetric=symmetric)
    assert not dequantize(zeros).any()
    weight = np.array([[0.5], [-1.0], [0.25]], np.float32)
    blocks = least_error(weight, np.zeros(3), bits=4, block=4, symmetric=symmetric)
    assert np.isfinite(blocks.scale).all()
    np.testing.assert_allclose(dequantize(blocks), weight, atol=0.06)


def test_the_mean_square():
    x = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    assert mean_square(x).tolist() == [5.0, 2.0]
    assert mean_square(x).dtype == np.float64


@pytest.mark.parametrize("symmetric", [False, True])
@given(seeds, lengths, columns, st.sampled_from((3, 8)), st.sampled_from((np.float16, np.float32)))
def test_searched_blocks_are_recognized(symmetric: bool, seed: int, d: int, f: int, block: int, kind: type):
    """Without the importance: searched blocks are possible, a changed code, zero point or scale is not."""
    weight, importance = drawn(seed, d, f)
    weight = weight.astype(np.float32)
    blocks = least_error(weight, importance, bits=4, block=block, symmetric=symmetric)
    blocks = replace(blocks, scale=blocks.scale.astype(kind))
    assert is_possible(weight, blocks, symmetric=symmetric)
    rounded = quantize(weight, bits=4, block=block, symmetric=symmetric)
    assert is_possible(weight, rounded, symmetric=symmetric)
    codes, scale, row, column = blocks.codes.copy(), blocks.scale.copy(), d // 2, f - 1
    codes[row, column] ^= 8  # a neighbour could come from another share
    scale[row // block, column] *= 10
    wrong: list[dict[str, Any]] = [{"codes": codes}, {"scale": scale}]
    if symmetric:
        wrong += [{"scale": -blocks.scale}]
        assert not is_possible(weight, blocks)
    else:
        zero = blocks.zero.copy()
        zero[row // block, column] ^= 8
        wrong += [{"zero": zero}, {"zero": None}]
    for change in wrong:
        assert not is_possible(weight, replace(blocks, **change), symmetric=symmetric), change


@given(seeds, columns, st.booleans(), st.booleans(), st.sampled_from((np.float16, np.float32)))
def test_zero_points_that_are_as_good_are_told_from_others(
    seed: int, f: int, symmetric: bool, halves: bool, kind: type
):
    """And signs of scales, by an importance that is rounded otherwise, whatever codes and sizes of scales."""
    weight, importance = drawn(seed, 16, f)
    weight = weight.astype(np.float32)
    weight[0] += weight[0] == 0
    as_good = partial(is_as_good, weight, symmetric=symmetric, halves=halves)
    blocks = least_error(weight, importance + 0.1, bits=4, block=8, symmetric=symmetric, halves=halves)
    blocks = replace(blocks, scale=(blocks.scale * 1.5).astype(kind), codes=np.zeros_like(blocks.codes))
    other = (importance + 0.1) * (1 + 1e-6 * np.random.default_rng(seed).standard_normal(16))
    assert as_good(blocks, other)
    assert not as_good(blocks, other, symmetric=not symmetric)
    scale = blocks.scale.copy()
    scale[0, f // 2] *= -1
    assert not as_good(replace(blocks, scale=scale), other)
    if blocks.zero is not None:
        zero = blocks.zero.copy()
        zero[1, 0] ^= 1
        assert not as_good(replace(blocks, zero=zero), other)


@given(seeds, lengths, columns, bits, st.sampled_from((3, 8)), st.integers(-24, 20), st.booleans())
def test_scales_in_float16_are_never_worse_than_rounding_with_them(
    seed: int, d: int, f: int, b: int, block: int, exponent: int, symmetric: bool
):
    """Of any size: float16 numbers where they are near enough, possible ones, and others aren't."""
    weight, importance = drawn(seed, d, f)
    weight = (weight * 2.0**exponent).astype(np.float32)
    blocks = least_error(weight, importance, bits=b, block=block, symmetric=symmetric, halves=True)
    near = quantize(weight, bits=b, block=block, symmetric=symmetric, halves=True)
    got, most = (error(weight, dequantize(w), importance) for w in (blocks, near))
    assert got <= most * (1 + 1e-5) + 1e-9 * float(np.sum(importance[:, None] * weight.astype(float) ** 2))
    with np.errstate(over="ignore"):
        halves = blocks.scale.astype(np.float16)
    must = (np.abs(blocks.scale) >= 2.0 ** (b - 23)) & (np.abs(blocks.scale) < 6e4)
    assert (halves == blocks.scale)[must].all()
    possible = partial(is_possible, weight, symmetric=symmetric, halves=True)
    assert possible(blocks)
    assert possible(near)
    assert not possible(replace(blocks, scale=blocks.scale * 10)) or not weight.any()


def test_the_nearest_float16_to_the_best_scale_is_taken():
    """By hand: for codes 15 and 14 the best scale is (15 + 14 · 0.93) / (15² + 14²)."""
    weight = np.array([[1.0], [0.93]], np.float32)
    best = (15 * 1.0 + 14 * 0.93) / (15**2 + 14**2)
    blocks = least_error(weight, np.ones(2), bits=4, block=2, halves=True)
    assert blocks.codes.ravel().tolist() == [15, 14]
    assert blocks.scale[0, 0] == np.float16(best) != np.float32(best)
