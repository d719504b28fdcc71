"""Weights are rounded a few rows at a time: neither their number nor that of the threads changes a bit. A
file's zero points move to the middle."""

import numpy as np
import pytest
from tfm.refimpl.ops.quant import Blocks, dequantize, quantize
from tfm.runtime import parallel
from tfm.runtime.bundle import rounding
from tfm.runtime.bundle.weight_formats import WeightFormat


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [4, 8])
def test_parts_are_rounded_as_the_whole(monkeypatch, axis: int, bits: int):
    weight = np.random.default_rng(0).standard_normal((48, 40), np.float32)
    importance = np.arange(weight.shape[axis]) % 7 / 4 if bits == 4 else None
    weight_format = WeightFormat(bits, 16, "block", symmetric=bits == 8)

    def fields() -> list[np.ndarray | None]:
        blocks = rounding.rounded(weight, weight_format, axis=axis, importance=importance)
        return [blocks.codes, blocks.scale, blocks.zero]

    whole = fields()
    monkeypatch.setattr(rounding, "CHUNK", 5 * weight.shape[axis])
    monkeypatch.setattr(parallel, "threads", lambda: 3)
    for expected, part in zip(whole, fields(), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [5, 6])
def test_narrow_codes_lie_around_the_middle(axis: int, bits: int):
    """They mean what codes of so many bits do, and the lowest one is used."""
    weight = np.random.default_rng(bits).standard_normal((48, 40), np.float32)
    blocks = rounding.rounded(weight, WeightFormat(8, 16, "block", code_bits=bits), axis=axis)
    want = quantize(weight, bits=bits, block=16, axis=axis)
    assert (blocks.bits, blocks.zero) == (8, None)
    assert (blocks.codes.min(), blocks.codes.max()) == (128 - 2 ** (bits - 1), 127 + 2 ** (bits - 1))
    np.testing.assert_array_equal(dequantize(blocks), dequantize(want))


@pytest.mark.parametrize(("bits", "zero"), [(4, 0), (4, 6), (8, 112)])
def test_a_zero_point_moves_to_the_middle(bits: int, zero: int):
    """As Q4_K, Q2_K and Q5_K have it, with scales whose products are exact."""
    rng = np.random.default_rng(zero)
    codes = rng.integers(zero, 2**bits - zero, (3, 64), np.uint8)
    scale, minimum = (2.0 ** rng.integers(-9, -3, (3, 2)).astype(np.float32) for _ in range(2))
    blocks = Blocks(codes, scale, np.full((3, 2), zero, np.uint8), -minimum, bits, 32, 1, "block")
    moved = rounding.centered(blocks)
    assert moved.zero is None
    np.testing.assert_array_equal(dequantize(moved), dequantize(blocks))
    np.testing.assert_array_equal(moved.codes, codes)
    assert rounding.centered(moved) is moved
