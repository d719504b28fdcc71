"""Scales of super-blocks are found again as the codes and factors that a file has, to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.calibrate.coded_scales import coded_scales
from tfm.refimpl.checkpoint.formats.ggml_blocks import BLOCK_TYPES


@st.composite
def products(draw) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Codes times factors of any size and sign, with a base of some scales, and how many share a factor."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, s, together = (draw(st.integers(1, most)) for most in (3, 4, 16))
    lowest, highest = draw(st.sampled_from(((0, 63), (-128, 127), (-32, 31), (-1, 1))))
    codes = rng.integers(lowest, highest + 1, (n, s, together))
    factors = (rng.standard_normal((n, s, 1)) * 2.0 ** rng.integers(-24, 8)).astype(np.float16)
    number = (codes.astype(np.float32) * factors.astype(np.float32)).reshape(n, -1)
    shift = draw(st.sampled_from((None, 2, 8, 16)))
    if shift is None:
        return number, None, together
    base = np.float32(shift) * np.abs(rng.permuted(number, axis=1))
    return number + base, base, together


@given(products())
def test_codes_and_factors_give_the_scales_to_the_bit(drawn):
    scale, base, together = drawn
    codes, factors = coded_scales(scale, base, together)
    assert (codes.dtype, factors.dtype) == (np.int8, np.float16)
    got = np.repeat(factors.astype(np.float32), together, axis=1) * codes
    got = got if base is None else base + got
    assert np.array_equal(got.view(np.int32), scale.view(np.int32))


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_a_number_that_is_no_such_product_has_no_factor(seed: int, place: int):
    """One bit of one number makes its super-block one without; its neighbour keeps its factor."""
    rng = np.random.default_rng(seed)
    scale = (rng.integers(1, 64, (2, 4)) * np.float32(0.25)).astype(np.float32)
    scale.view(np.int32)[1, place] += 1
    scale[:, (place + 1) % 4] = 63 * 0.25
    _, factors = coded_scales(scale, None, 4)
    assert np.isfinite(factors[0]).all()
    assert np.isnan(factors[1]).all()


def test_what_a_file_of_k_quants_has_is_found():
    """Scales, and minima moved to the middle of the codes, of random records."""
    rng = np.random.default_rng(0)
    for kind, moved in (("Q2_K", 2), ("Q3_K", 0), ("Q4_K", 8), ("Q5_K", 16), ("Q6_K", 0)):
        block = BLOCK_TYPES[kind]
        records = rng.integers(0, 256, (40, block.record.itemsize), np.uint8).view(block.record)[:, 0]
        for name in {"d", "m"} & set(block.record.names or ()):
            records[name] = rng.uniform(0.001, 0.01, 40) * (12 if name == "m" else 1)
        _, scale, minimum = block.parts(records)
        parts: list[tuple[np.ndarray, np.ndarray | None]] = [(scale, None)]
        if minimum is not None:
            parts.append((minimum + np.float32(moved) * scale, np.float32(moved) * scale))
        for part, base in parts:
            codes, factors = coded_scales(part, base, part.shape[1])
            got = factors.astype(np.float32) * codes
            assert np.array_equal(got if base is None else base + got, part), kind
