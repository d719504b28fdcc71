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
from tfm.runtime.bundle.kernel_storage import KernelForm
from tfm.runtime.bundle.weight_formats import WeightFormat
from tfm.runtime.bundle.weight_storage import Group


@st.composite
def groups(draw) -> tuple[Group, Blocks, KernelForm]:
    """A matrix or a table that the kernels multiply with, as rows of blocks."""
    table = draw(st.booleans(), label="table")
    outputs, inputs = draw(st.integers(1, 50), label="outputs"), draw(st.integers(1, 300), label="inputs")
    bits, block = draw(st.sampled_from([4, 8])), draw(st.sampled_from(kernel_storage.BLOCKS))
    scales = draw(st.sampled_from(["float32", "float16", "codes"]), label="scales")
    if scales == "codes":
        inputs, block = -(-inputs // 256) * 256, min(block, 64)
    symmetric, minimum = draw(st.booleans(), label="symmetric"), draw(st.booleans(), label="minimum")
    rng = np.random.default_rng(draw(st.integers(0, 2**32), label="seed"))
    count = -(-inputs // block)
    fewer = draw(st.sampled_from([n for n in kernel_storage.WIDTHS if n <= bits])) if symmetric else bits
    looked_up = bits == 8 and symmetric and not minimum and draw(st.booleans(), label="looked up")
    form = WeightFormat(bits, block, "block", symmetric=symmetric, minimum=minimum)
    codes = rng.integers(0, 2**fewer, (outputs, inputs), np.uint8)
    codes[0, 0] = 0  # of so many bits, and no fewer
    codes += np.uint8(2 ** (bits - 1) - 2 ** (fewer - 1))
    if looked_up:
        codes = rng.choice(rng.integers(0, 256, rng.integers(1, 17), np.uint8), codes.shape)
        codes[0, 0] = 255

    def numbers() -> np.ndarray:
        if scales != "codes":
            # Of float16 multiples of 2^-6: exact beside scales that are no smaller.
            halves = (rng.integers(-400, 400, (outputs, count)) / 64).astype(np.float32)
            return halves if scales == "float16" else rng.standard_normal((outputs, count)).astype(np.float32)
        factors = rng.uniform(0.5, 2, (outputs, inputs // 256)).astype(np.float16).astype(np.float32)
        return np.repeat(factors, 256 // block, axis=1) * rng.integers(1, 64, (outputs, count))

    scale, shift = numbers().astype(np.float32), 16 if fewer == 8 else 2 ** (fewer - 1)
    lowest = (numbers() + (np.float32(shift) * scale if scales != "float32" else 0)).astype(np.float32)
    blocks = Blocks(
        codes=codes,
        scale=scale,
        zero=None if symmetric else rng.integers(0, 2**bits, (outputs, count), np.uint8),
        minimum=lowest if minimum else None,
        bits=bits,
        block=block,
        axis=1,
        activations="block",
    )
    name = "x.table" if table else "x"
    shape = (outputs, inputs) if table else (inputs, outputs)
    kernel_form = KernelForm(4, scales, table=True) if looked_up else KernelForm(fewer, scales)
    return Group(name, (name,), (shape,), "nbits", form), blocks, kernel_form


def code_at(packed: np.ndarray, bits: int, n: int, k: int) -> int:
    """A code of 16 outputs and inputs side by side, bit by bit as planes.h has them."""
    step, g, j = packed[n // 16].reshape(-1, 32 * bits)[k // 16], k // 4 % 4, n % 16 * 4 + k % 4
    if bits == 8:
        return step[g * 64 + j]
    if bits == 2:
        return step[j] >> 2 * g & 3
    low, rest = step[g // 2 * 64 + j] >> g % 2 * 4 & 15, step[128:]
    if bits == 6:
        low |= (rest[j] >> 2 * g & 3) << 4
    if bits == 5:
        low |= (rest[j % 32] >> g + j // 32 * 4 & 1) << 4
    return low


@given(groups())
def test_everything_is_where_the_format_says(drawn):
    """In the form that holds it in the fewest bytes, which is found."""
    group, rows, form = drawn
    leaf = rows if group.axis == 1 else weight_storage.quant.transpose(rows)
    stored = weight_storage.store(group, {group.name: leaf})
    found = kernel_storage.form(group, stored)
    order = ("codes", "float16", "float32")
    assert found.bits <= form.bits
    assert found.table <= (form.table or form.bits > 4)
    assert order.index(found.scales) <= order.index(form.scales)
    forms = {group.name: form}
    assert kernel_storage.is_possible(group, form)
    tiles = kernel_storage.store(group, stored, forms)
    specs = kernel_storage.specs(group, "float32", forms)
    assert {name: (str(a.dtype), a.shape) for name, a in tiles.items()} == specs
    assert list(tiles) == list(specs)
    assert all(array.flags.c_contiguous for array in tiles.values())
    packed, scale = tiles[f"{group.name}.packed"], tiles[f"{group.name}.scale"]
    outputs, inputs = rows.codes.shape
    offset = 2 ** (rows.bits - 1) - 2 ** (form.bits - 1)
    places = np.random.default_rng(outputs).integers((0, 0), (outputs, inputs), (200, 2))
    codes = tiles[f"{group.name}.table"] if form.table else offset + np.arange(2**form.bits)
    for n, k in [*places, (outputs - 1, inputs - 1)]:
        assert codes[code_at(packed, form.bits, n, k)] == rows.codes[n, k]
    n, c = np.indices(rows.scale.shape)
    by_tile = n // 16, c, n % 16
    factor = tiles.get(f"{group.name}.factor")
    assert (factor is not None) == (form.scales == "codes")

    def number(part: np.ndarray, which: int) -> np.ndarray:
        if factor is None:
            return part[by_tile].astype(np.float32)
        at = factor[:, :, which] if factor.ndim == 4 else factor
        return at[n // 16, c * rows.block // 256, n % 16].astype(np.float32) * part[by_tile]

    assert np.array_equal(number(scale, 0), rows.scale)
    if rows.zero is not None:
        assert np.array_equal(tiles[f"{group.name}.zero"][by_tile], rows.zero)
    # The outputs that fill the last tile up are zeros, and so can't disturb a sum.
    filler = slice(outputs - 16 * (len(scale) - 1), None)
    assert not scale[-1, :, filler].any()
    if rows.minimum is not None:
        minimum = tiles[f"{group.name}.minimum"]
        assert minimum.dtype == scale.dtype
        moved = 0 if form.scales == "float32" else np.float32(kernel_storage.lowest(form.bits)) * rows.scale
        assert np.array_equal(number(minimum, 1) + moved, rows.minimum)
        assert not minimum[-1, :, filler].any()
    fields = ("packed", "scale", "zero", "minimum")
    others = stored.keys() - {f"{group.name}.{field}" for field in fields}
    assert all(tiles[name] is stored[name] for name in others)


def test_a_form_that_numbers_do_not_have_is_refused():
    """Codes of more bits, and scales in no ratio."""
    group = Group("x", ("x",), ((256, 2),), "nbits", WeightFormat(8, 32, "block"))
    rng = np.random.default_rng(0)
    stored = {"x.packed": rng.integers(0, 256, (2, 8, 32), np.uint8)}
    stored["x.scale"] = rng.standard_normal((2, 8)).astype(np.float32)
    assert kernel_storage.form(group, stored) == KernelForm(8)
    for bits in (2, 4, 5, 6):
        with refused(BundleError, "x.packed", f"{bits} bits"):
            kernel_storage.store(group, stored, {"x": KernelForm(bits)})
    with refused(BundleError, "x.packed", "16"):
        kernel_storage.store(group, stored, {"x": KernelForm(4, table=True)})
    for scales in ("float16", "codes"):
        with refused(BundleError, "x.scale", "float16"):
            kernel_storage.store(group, stored, {"x": KernelForm(8, scales)})
    zeros = replace(group, format=WeightFormat(8, 32, "block", symmetric=False))
    long = replace(group, format=WeightFormat(8, 128, "block"))
    short = replace(group, shapes=((224, 2),))
    impossible = [(group, KernelForm(3)), (zeros, KernelForm(5)), (long, KernelForm(8, "codes"))]
    impossible += [
        (short, KernelForm(8, "codes")),
        (replace(group, format=WeightFormat(4, 32, "block")), KernelForm(5)),
    ]
    impossible += [(group, KernelForm(5, table=True)), (zeros, KernelForm(4, table=True))]
    impossible += [
        (replace(group, format=WeightFormat(4, 32, "block")), KernelForm(4, table=True)),
        (replace(group, format=WeightFormat(8, 32, "block", minimum=True)), KernelForm(4, table=True)),
    ]
    assert not any(kernel_storage.is_possible(*one) for one in impossible)
    assert kernel_storage.is_possible(group, KernelForm(4, "codes", table=True))


@pytest.mark.parametrize("count", [16, 17])
def test_a_table_has_at_most_sixteen_codes(count: int):
    """The seventeenth in the last place of a matrix that isn't looked at in one part."""
    group = Group("x", ("x",), ((2**17, 9),), "nbits", WeightFormat(8, 32, "block"))
    codes = np.random.default_rng(0).integers(1, 17, 9 * 2**17).astype(np.uint8) * 15
    codes[:16], codes[-1] = np.arange(1, 17) * 15, 15 * count
    stored = {"x.packed": codes.reshape(9, -1, 32), "x.scale": np.ones((9, 2**12), np.float32)}
    assert kernel_storage.form(group, stored).table == (count == 16)


def test_experts_of_a_mixture_have_one_form():
    """The widest where they differ; types of float may."""
    name = "decoder.layers.{}.mlp.experts.{}.up"
    forms = {name.format(0, 0): KernelForm(5, "codes"), name.format(0, 1): KernelForm(6, "codes")}
    forms |= {name.format(1, 0): KernelForm(4, "float16"), name.format(1, 1): KernelForm(4)}
    forms |= {name.format(2, 0): KernelForm(4, "codes"), name.format(2, 1): KernelForm(4, "float16")}
    for other in (KernelForm(5), KernelForm(4)):
        tables = {name.format(3, 0): KernelForm(4, table=True), name.format(3, 1): other}
        assert list(kernel_storage.alike(tables).values()) == [KernelForm(8)] * 2
    made = kernel_storage.alike(forms)
    assert (
        list(made.values())
        == [KernelForm(6)] * 2 + [KernelForm(4, "float16"), KernelForm(4)] + [KernelForm(4)] * 2
    )


def is_half(group: Group, stored: dict[str, np.ndarray]) -> bool:
    return kernel_storage.form(group, stored).scales == "float16"


@pytest.mark.parametrize("odd", [1 + 2.0**-11, 65520, 2.0**-25, 1e9])
def test_scales_that_float16_cannot_hold_are_not_taken_for_halves(odd: float):
    """One among float16 numbers, of which the smallest and the largest are two."""
    scale = np.array([[2.0**-24, 65504.0], [-1.5, odd]], np.float32)
    group = Group("x", ("x",), ((64, 2),), "nbits", WeightFormat(8, 32, "block"))
    stored = {"x.packed": np.zeros((2, 2, 32), np.uint8), "x.scale": scale}
    assert not is_half(group, stored)
    assert kernel_storage.store(group, stored, {})["x.scale"].dtype == np.float32
    with refused(BundleError, "x.scale", "float16"):
        kernel_storage.store(group, stored, {"x": KernelForm(8, "float16")})
    stored["x.scale"] = np.minimum(scale, 1.5)
    stored["x.scale"][1, 1] = 0
    assert is_half(group, stored)


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
    assert not is_half(group, stored)
    with refused(BundleError, f"{name}.scale", "float16"):
        kernel_storage.store(group, stored, {name: KernelForm(bits, "float16")})
    assert kernel_storage.store(group, stored, {})[f"{name}.minimum"].dtype == np.float32
    stored[f"{name}.minimum"][(2, 0) if table else (0, 2)] = 3  # beside a scale of 0
    assert is_half(group, stored)
    halves = kernel_storage.store(group, stored, {name: KernelForm(bits, "float16")})[f"{name}.minimum"][
        0, :, :3
    ].T
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
    tiles = kernel_storage.store(group, stored, {})
    specs = kernel_storage.specs(group, "float32", {})
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
        assert kernel_storage.specs(group, "float32", {}) == weight_storage.specs(group, "float32")
    assert not kernel_storage.is_tiled(Group("x", ("x",), ((256, 3),), "float", None))
