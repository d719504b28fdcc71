"""Weights are rounded a few rows at a time: neither their number nor that of the threads changes a bit."""

import numpy as np
import pytest
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
