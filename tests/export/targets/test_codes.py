"""Codes of specification, mirror and graph are equal to the integer, above all at ties between two codes."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.onnx_graph import TRACED, export
from hypothesis import given
from hypothesis import strategies as st
from tfm.export.ops import quant as mirror
from tfm.export.targets import ort_ops, standard
from tfm.refimpl.ops import quant as spec

seeds = st.integers(0, 2**32 - 1)
types = st.sampled_from((np.float32, np.float64))


def halves(seed: int, end: float) -> np.ndarray:
    """Multiples of half a step, up to `end` steps, in rows of scales that are no powers of two."""
    rng = np.random.default_rng(seed)
    steps = np.clip(rng.integers(-320, 321, (8, 64)) / 2, -end, end)
    return steps * rng.choice([1.0, 0.37, 3e-4, 1e4, 7 / 3], (8, 1))


def same(got: torch.Tensor, expected: np.ndarray) -> None:
    assert got.numpy().dtype == expected.dtype
    assert (got.numpy() == expected).all()


@given(seeds, types)
def test_activations(seed: int, dtype: type):
    x = halves(seed, 127).astype(dtype)
    for pair in (
        (mirror.quantize_activations(torch.from_numpy(x), block=16), spec.quantize_activations(x, block=16)),
        (mirror.quantize_rows(torch.from_numpy(x)), spec.quantize_rows(x)),
        (mirror.dynamic_quantize(torch.from_numpy(x)), spec.dynamic_quantize(x)),
    ):
        for got, expected in zip(*pair, strict=True):
            same(got, expected)


def test_activations_that_are_tiny_huge_or_not_finite():
    x = np.array(
        [[0, 1e-45, 3.7e-37, 3.8e-37, 3.4e38, 1], [np.nan, 1, -np.inf, 1, np.inf, np.nan]], np.float32
    )
    for block in (1, 2, 4):
        got = mirror.quantize_activations(torch.from_numpy(x), block=block)
        codes, scale = spec.quantize_activations(x, block=block)
        same(got[0], codes)
        np.testing.assert_array_equal(got[1].numpy(), scale)
    x = np.concatenate([x, np.full((1, 6), np.inf, np.float32)])
    got, (codes, scale) = mirror.quantize_rows(torch.from_numpy(x)), spec.quantize_rows(x)
    same(got[0], codes)
    np.testing.assert_array_equal(got[1].numpy(), scale)
    assert np.isnan(scale[1:]).all()


@pytest.mark.parametrize(("end", "symmetric"), [(128, True), (127.5, False)])
@given(seeds, types, st.sampled_from((4, 8)), st.sampled_from((0, 1)))
def test_weights(end: float, symmetric: bool, seed: int, dtype: type, bits: int, axis: int):
    w = halves(seed, end).astype(dtype)
    settings = {"bits": bits, "block": 8, "axis": axis, "symmetric": symmetric}
    got, expected = mirror.quantize(torch.from_numpy(w), **settings), spec.quantize(w, **settings)
    same(got.codes, expected.codes)
    same(got.scale, expected.scale)
    if not symmetric:
        same(got.zero, expected.zero)


@pytest.mark.parametrize("target", [ort_ops, standard])
@pytest.mark.parametrize("width", [1, 33, 64])
def test_a_graph_gives_the_codes_of_rows(target: ModuleType, width: int):
    """Rows of zeros, any number of rows, and widths that no vector register divides."""

    def codes(x: torch.Tensor) -> list[torch.Tensor]:
        scale = ort_ops.row_scale(x)
        row_codes = target.row_codes(x, scale)
        return [row_codes[0] if isinstance(row_codes, tuple) else row_codes, scale]

    given_ = {"x": (np.zeros((TRACED["B"], TRACED["T"], width), np.float32), ("B", "T", "D"))}
    graph = export(codes, given_, 23)

    @given(seeds, st.integers(1, 3))
    def check(seed: int, b: int) -> None:
        x = halves(seed, 127).astype(np.float32)[:, :width]
        x[seed % 8] *= seed % 2
        x = np.broadcast_to(x, (b, *x.shape)).copy()
        got, scale = graph(x)
        expected, step = spec.quantize_rows(x.reshape(-1, width))
        assert (got.reshape(-1, width).astype(int) - 128 == expected).all()
        assert (scale.reshape(-1, 1) == step).all()

    check()
