"""Weights for tfm's own kernels: each code, scale, zero point and minimum is where the format says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.errors import BundleError
from tfm.refimpl.ops.quant import Blocks
from tfm.runtime.bundle import kernel_storage, weight_storage
from tfm.runtime.bundle.weight_formats import WeightFormat
from tfm.runtime.bundle.weight_storage import Group


@st.composite
def groups(draw) -> tuple[Group, Blocks]:
    """A matrix or a table that the kernels multiply with, as rows of blocks."""
    table = draw(st.booleans(), label="table")
    outputs, inputs = draw(st.integers(1, 50), label="outputs"), draw(st.integers(1, 300), label="inputs")
    bits, block = draw(st.sampled_from([4, 8])), draw(st.sampled_from(kernel_storage.BLOCKS))
    symmetric, minimum = draw(st.booleans(), label="symmetric"), draw(st.booleans(), label="minimum")
    rng = np.random.default_rng(draw(st.integers(0, 2**32), label="seed"))
    count = -(-inputs // block)
    form = WeightFormat(bits, block, "block", symmetric=symmetric, minimum=minimum)
    blocks = Blocks(
        codes=rng.integers(0, 2**bits, (outputs, inputs), np.uint8),
        scale=rng.standard_normal((outputs, count)).astype(np.float32),
        zero=None if symmetric else rng.integers(0, 2**bits, (outputs, count), np.uint8),
        minimum=rng.standard_normal((outputs, count)).astype(np.float32) if minimum else None,
        bits=bits,
        block=block,
        axis=1,
        activations="block",
    )
    name = "x.table" if table else "x"
    shape = (outputs, inputs) if table else (inputs, outputs)
    return Group(name, (name,), (shape,), "nbits", form), blocks


@given(groups(), st.booleans())
def test_everything_is_where_the_format_says(drawn, halves):
    group, rows = drawn
    lowest = rows.minimum
    if halves:
        rows = replace(rows, scale=rows.scale.astype(np.float16).astype(np.float32))
    if halves and lowest is not None:
        lowest = (np.rint(lowest * 64) / 64).astype(np.float16)  # exact beside scales that are no smaller
        rows = replace(rows, scale=np.rint(rows.scale * 64) / 64)
        rows = replace(rows, minimum=lowest + np.float32({4: 8, 8: 16}[rows.bits]) * rows.scale)
    in_half = ["other", group.name] if halves else ["other"]
    leaf = rows if group.axis == 1 else weight_storage.quant.transpose(rows)
    stored = weight_storage.store(group, {group.name: leaf})
    assert kernel_storage.has_half_scales(group, stored) >= halves
    tiles = kernel_storage.store(group, stored, in_half)
    specs = kernel_storage.specs(group, "float32", in_half)
    assert {name: (str(a.dtype), a.shape) for name, a in tiles.items()} == specs
    assert tiles[f"{group.name}.scale"].dtype == (np.float16 if halves else np.float32)
    assert all(array.flags.c_contiguous for array in tiles.values())
    packed, scale = tiles[f"{group.name}.packed"], tiles[f"{group.name}.scale"]
    outputs, inputs = rows.codes.shape
    n, k = np.indices((outputs, inputs))
    if rows.bits == 8:
        codes = packed[n // 16, k // 4, n % 16, k % 4]
    else:
        codes = packed[n // 16, k // 8, n % 16, k % 4] >> (4 * (k // 4 % 2)) & 15
    assert np.array_equal(codes, rows.codes)
    n, c = np.indices(rows.scale.shape)
    assert np.array_equal(scale[n // 16, c, n % 16], rows.scale)
    if rows.zero is not None:
        assert np.array_equal(tiles[f"{group.name}.zero"][n // 16, c, n % 16], rows.zero)
    # The outputs that fill the last tile up are zeros, and so can't disturb a sum.
    filler = slice(outputs - 16 * (len(scale) - 1), None)
    assert not scale[-1, :, filler].any()
    if lowest is not None:
        minimum = tiles[f"{group.name}.minimum"]
        assert minimum.dtype == scale.dtype
        assert np.array_equal(minimum[n // 16, c, n % 16], lowest)
        assert not minimum[-1, :, filler].any()
    fields = ("packed", "scale", "zero", "minimum")
    others = stored.keys() - {f"{group.name}.{field}" for field in fields}
    assert all(tiles[name] is stored[name] for name in others)


@pytest.mark.parametrize("odd", [1 + 2.0**-11, 65520, 2.0**-25, 1e9])
def test_scales_that_float16_cannot_hold_are_not_taken_for_halves(odd: float):
    """One among float16 numbers, of which the smallest and the largest are two."""
    scale = np.array([[2.0**-24, 65504.0], [-1.5, odd]], np.float32)
    group = Group("x", ("x",), ((64, 2),), "nbits", WeightFormat(8, 32, "block"))
    stored = {"x.packed": np.zeros((2, 2, 32), np.uint8), "x.scale": scale}
    assert not kernel_storage.has_half_scales(group, stored)
    assert kernel_storage.store(group, stored)["x.scale"].dtype == np.float32
    with refused(BundleError, "x.scale", "float16"):
        kernel_storage.store(group, stored, ["x"])
    stored["x.scale"] = np.minimum(scale, 1.5)
    stored["x.scale"][1, 1] = 0
    assert kernel_storage.has_half_scales(group, stored)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("odd", [1 + 2.0**-11, 65520, 2.0**-25])
@pytest.mark.parametrize("table", [False, True])
def test_minima_that_float16_cannot_hold_are_not_taken_for_halves(bits: int, odd: float, table: bool):
    """One lowest number among those of float16, of which another was rounded beside its scale."""
    scale = np.array([[2.0**-8, 1], [-1.5, 2.0**-24], [0, 2.0**12]], np.float32)
    lowest = np.array([[65504, -1.5], [-(2.0**-10), 2.0**-24], [odd, 2.0**-10]], np.float32)
    minimum = lowest + np.float32({4: 8, 8: 16}[bits]) * scale
    form = WeightFormat(bits, 32, "block", minimum=True)
    name, shape = ("x.table", (3, 64)) if table else ("x", (64, 3))
    group = Group(name, (name,), (shape,), "nbits", form)
    stored = {f"{name}.packed": np.zeros((3, 2, 4 * bits), np.uint8), f"{name}.scale": scale}
    stored[f"{name}.minimum"] = minimum if table else np.ascontiguousarray(minimum.T)
    assert not kernel_storage.has_half_scales(group, stored)
    with refused(BundleError, f"{name}.scale", "float16"):
        kernel_storage.store(group, stored, [name])
    assert kernel_storage.store(group, stored)[f"{name}.minimum"].dtype == np.float32
    stored[f"{name}.minimum"][(2, 0) if table else (0, 2)] = 3  # beside a scale of 0
    assert kernel_storage.has_half_scales(group, stored)
    halves = kernel_storage.store(group, stored, [name])[f"{name}.minimum"][0, :, :3].T
    assert halves.dtype == np.float16
    assert np.array_equal(halves[:, 0], [65504, -(2.0**-10), 3])
    assert np.array_equal(halves[:, 1], [-1.5, 2.0**-24, 0])  # 2^-10 beside 8 * 2^12 is lost in float32 too


@given(st.integers(1, 50), st.integers(1, 70), st.booleans(), st.integers(0, 2**32))
def test_columns_with_a_scale_each_are_where_the_format_says(outputs, inputs, smoothed, seed):
    rng = np.random.default_rng(seed)
    leaf = Blocks(
        rng.integers(0, 256, (inputs, outputs), np.uint8),
        rng.standard_normal((1, outputs)).astype(np.float32),
        zero=None,
        minimum=None,
        bits=8,
        block=inputs,
        axis=0,
        activations="smoothed" if smoothed else "row",
        input_factor=rng.standard_normal(inputs).astype(np.float32) if smoothed else None,
    )
    group = Group("x", ("x",), ((inputs, outputs),), "row", WeightFormat(8, inputs, leaf.activations))
    stored = weight_storage.store(group, {"x": leaf})
    tiles = kernel_storage.store(group, stored)
    specs = kernel_storage.specs(group, "float32")
    assert {name: (str(a.dtype), a.shape) for name, a in tiles.items()} == specs
    assert all(array.flags.c_contiguous for array in tiles.values())
    k, n = np.indices((inputs, outputs))
    assert np.array_equal(tiles["x.codes"][n // 16, k // 4, n % 16, k % 4], leaf.codes)
    assert np.array_equal(tiles["x.scale"].reshape(-1)[:outputs], leaf.scale[0])
    assert not tiles["x.scale"].reshape(-1)[outputs:].any()
    assert smoothed == ("x.input_factor" in tiles)


def test_columns_too_long_for_a_sum_stay_as_they_are():
    for length, tiled in ((2**16, True), (2**16 + 1, False)):
        group = Group("x", ("x",), ((length, 3),), "row", WeightFormat(8, length, "row"))
        assert kernel_storage.is_tiled(group) == tiled


@pytest.mark.parametrize(("block", "tiled"), [(8, False), (16, True), (128, True), (256, False)])
def test_blocks_that_the_kernels_dont_know_stay_as_they_are(block, tiled):
    form = WeightFormat(8, block, "block")
    group = Group("x", ("x",), ((256, 3),), "nbits", form)
    assert kernel_storage.is_tiled(group) == tiled
    if not tiled:
        assert kernel_storage.specs(group, "float32") == weight_storage.specs(group, "float32")
    assert not kernel_storage.is_tiled(Group("x", ("x",), ((256, 3),), "float", None))
