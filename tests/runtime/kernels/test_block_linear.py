"""Kernels of each instruction set that this processor has against the specification, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import kernels, onnx_nodes
from helpers.kernel_cases import VALUES, Case, normal, table
from helpers.kernels import (
    FORMS,
    LOOKED_UP,
    PLANES,
    SCALE_TYPES,
    Kernels,
    Packed,
    bits_of,
    gather,
    linear,
    pack,
    swiglu,
)
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tfm.refimpl import laws
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks


@pytest.fixture(scope="session")
def library(kernels_library: Path) -> Any:
    return kernels.load(kernels_library)


F = np.float32


@pytest.fixture(scope="session")
def sets(library: Any) -> dict[str, Kernels]:
    found = kernels.available(library)
    assert found, "this processor has none of the instruction sets"
    return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any number of outputs and inputs, and of rows from none to several panels of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    block = draw(st.sampled_from((16, 32, 64, 128)))
    N, K = draw(st.integers(1, 50)), draw(st.integers(1, 4 * block))
    bits, zero = draw(st.sampled_from(FORMS)), draw(st.booleans())
    scales = draw(st.sampled_from(SCALE_TYPES))
    if scales == "codes":
        K = -(-K // 256) * 256
    M = draw(st.one_of(st.integers(0, 17), st.integers(18, 70)))
    values = draw(st.sampled_from(VALUES))
    bias = rng.standard_normal(N).astype(np.float32) if draw(st.booleans()) else None
    x = values(rng, M, K).astype(np.float32)
    minimum = draw(st.booleans(), label="minimum")
    case = Case(table(rng, N, K, bits=bits, block=block, zero=zero, minimum=minimum), x, bias)
    case = case.of_type(scales, rng)
    return case.looked_up(rng) if bits == LOOKED_UP else case


def backwards(task: Callable[[int], None], count: int) -> None:
    for index in reversed(range(count)):
        task(index)


def two_threads(task: Callable[[int], None], count: int) -> None:
    halves = [range(0, count, 2), range(1, count, 2)]
    threads = [threading.Thread(target=lambda part=part: [task(i) for i in part]) for part in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@given(cases(), st.sampled_from((kernels.in_order, backwards, two_threads)))
def test_products_are_the_specification_bit_for_bit(sets: dict[str, Kernels], case: Case, runner: Any):
    """With any number of rows and order of parts, and where numbers are tiny, huge or not finite."""
    expected, w = bits_of(case.expected()), case.packed()
    for name, one in sets.items():
        got = bits_of(linear(one, w, case.x, case.bias, runner))
        assert np.array_equal(got, expected), f"{name}: {(got != expected).sum()} of {got.size} differ"


@given(cases(), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_neighbours(sets: dict[str, Kernels], case: Case, random: Any):
    """Alone, among others, and in another place a row has the same bits."""
    w, order = case.packed(), list(range(len(case.x)))
    random.shuffle(order)
    chosen = order[: random.randint(0, len(order))]
    for name, one in sets.items():
        whole = bits_of(linear(one, w, case.x, case.bias))
        part = bits_of(linear(one, w, case.x[chosen], case.bias))
        assert np.array_equal(part, whole[chosen]), name


@pytest.mark.parametrize("bits", FORMS)
def test_products_of_many_long_rows(sets: dict[str, Kernels], bits: int):
    """More codes of inputs than a core's cache holds, and more outputs than there are parts."""
    rng = np.random.default_rng(bits)
    case = Case(
        table(rng, 544, 2048, bits=bits, block=64, zero=True, minimum=True),
        normal(rng, 230, 2048).astype(np.float32),
        None,
    )
    case = case.of_type(SCALE_TYPES[bits % 3], rng)
    case = case.looked_up(rng) if bits == LOOKED_UP else case
    product, w = case.expected(), case.packed()
    for name, one in sets.items():
        got = linear(one, w, case.x, runner=two_threads)
        assert np.array_equal(bits_of(got), bits_of(product)), name
        gated = linear(one, replace(w, swiglu=True), case.x, runner=two_threads)
        assert np.array_equal(bits_of(gated), bits_of(swiglu(one, product))), name


@given(cases(), st.integers(1, 3), st.sampled_from((kernels.in_order, backwards, two_threads)))
def test_gates_in_a_product_are_those_after_it(sets: dict[str, Kernels], case: Case, tiles: int, runner: Any):
    """With the same bits, also those of any row alone."""
    N, (_, K) = 32 * tiles, case.w.shape
    rng = np.random.default_rng(tiles)
    parts = {name: getattr(case.w, name) is not None for name in ("zero", "minimum")}
    bits = case.w.bits if case.table is None else LOOKED_UP
    w = table(rng, N, K, bits=bits, block=case.w.block, **parts)
    bias = None if case.bias is None else rng.standard_normal(N).astype(np.float32)
    case = replace(case, w=w, bias=bias).of_type(case.scales, rng)
    case = case.looked_up(rng) if bits == LOOKED_UP else case
    plain = case.packed()
    for name, one in sets.items():
        expected = bits_of(swiglu(one, linear(one, plain, case.x, bias)))
        got = bits_of(linear(one, replace(plain, swiglu=True), case.x, bias, runner))
        assert np.array_equal(got, expected), name
        alone = linear(one, replace(plain, swiglu=True), case.x[-1:], bias)
        assert np.array_equal(bits_of(alone), expected[-1:]), name


def test_scratch_has_room_for_codes_of_both_halves(sets: dict[str, Kernels]):
    """AMX takes the zero points off codes first, of as many tiles as there are tasks at most."""
    w = pack(table(np.random.default_rng(0), 64, 256, bits=4, block=32, zero=True))
    for name, one in sets.items():
        plain, gated = (one.linear_scratch(part.matrix, 40) for part in (w, replace(w, swiglu=True)))
        assert gated - plain == (32 * 16 * 256 if name == "amx" else 0), name


def test_products_of_very_many_rows(sets: dict[str, Kernels]):
    """More panels than one pass over the outputs takes."""
    rng = np.random.default_rng(0)
    w = table(rng, 3, 16, bits=4, block=16, zero=True)
    case = Case(w, normal(rng, 4500, 16).astype(np.float32), None)
    expected = bits_of(case.expected())
    for name, one in sets.items():
        assert np.array_equal(bits_of(linear(one, pack(w), case.x)), expected), name


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_are_exact(sets: dict[str, Kernels], block: int, sign: int):
    """255 times 127 in all places: a sum of two exceeds 16 bits."""
    for bits, zero in ((one, zero) for one in PLANES for zero in (0, 2**one - 1, None)):
        codes = np.full((17, 2 * block), 2**bits - 1 if zero in (0, None) else 0, np.uint8)
        zeros = None if zero is None else np.full((17, 2), zero, np.uint8)
        w = Blocks(codes, np.ones((17, 2), np.float32), zeros, None, bits, block, 1, "block")
        case = Case(w, np.full((13, 2 * block), sign * 127, np.float32), None)
        weight = int(codes[0, 0]) - (2 ** (bits - 1) if zero is None else zero)
        tables = [None, np.arange(240, 256, dtype=np.uint8)[::-1]] if (bits, zero) == (8, None) else [None]
        for (name, one), of_codes in product(sets.items(), tables):
            got = linear(one, pack(w, table=of_codes), case.x)
            assert (got == sign * 127 * weight * 2 * block).all(), name


@pytest.mark.parametrize("first", [0, 95, 96, 144, 145, 240])
def test_codes_of_a_table_are_within_or_beyond_six_bits(sets: dict[str, Kernels], first: int):
    """AVX2 multiplies those from 96 to 159 as bytes, others as words."""
    rng = np.random.default_rng(first)
    codes = np.arange(first, first + 16, dtype=np.uint8)
    w = Blocks(rng.choice(codes, (17, 64)), np.ones((17, 2), F), None, None, 8, 32, 1, "block")
    case = Case(w, rng.integers(-127, 128, (5, 64)).astype(F), None, table=codes)
    for name, one in sets.items():
        assert np.array_equal(linear(one, case.packed(), case.x), case.expected()), name


@given(cases(), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_rows_of_a_table_are_the_specification(sets: dict[str, Kernels], case: Case, seed: int, count: int):
    ids = np.random.default_rng(seed).integers(0, case.w.shape[0], count)
    expected, w = bits_of(quant.rows(case.w, ids[None])[0]), case.packed()
    for name, one in sets.items():
        got = gather(one, w, ids)
        assert got is not None
        assert np.array_equal(bits_of(got), expected), name


@pytest.mark.parametrize("wrong", [-1, 20, 2**31, -(2**63), 2**63 - 1])
def test_an_id_that_is_no_row_is_refused(sets: dict[str, Kernels], wrong: int):
    w = pack(table(np.random.default_rng(0), 20, 32, bits=8, block=32, zero=False))
    for one in sets.values():
        assert gather(one, w, np.array([0, 19], np.int64)) is not None
        assert gather(one, w, np.array([0, wrong], np.int64)) is None


def test_the_law_kit_accepts_the_kernels(sets: dict[str, Kernels]):
    """Its blocks of 4 are filled up with inputs of 0; products of other kinds are the specification's."""

    def wide(a: np.ndarray, blocks: int) -> np.ndarray:
        """[.., K] -> [.., C * 16], with 12 zeros behind each block."""
        a = np.pad(a, ((0, 0), (0, blocks * 4 - a.shape[1]))).reshape(len(a), blocks, 4)
        return np.ascontiguousarray(np.pad(a, ((0, 0), (0, 0), (0, 12))).reshape(len(a), -1))

    def product(x: np.ndarray, weight: Blocks) -> np.ndarray:
        if weight.activations != "block":
            return quant.linear_blocks(x, weight)
        w, blocks = quant.transpose(weight), len(weight.scale)
        packed = pack(replace(w, codes=wide(w.codes, blocks), block=16))
        seen.add((weight.bits, weight.minimum is not None))
        y = linear(one, packed, wide(x.reshape(-1, x.shape[-1]), blocks))
        return y.reshape(*x.shape[:-1], weight.shape[1])

    def chosen(weight: Blocks, index: np.ndarray) -> np.ndarray:
        if weight.activations != "block":
            return quant.rows(weight, index)
        blocks = weight.scale.shape[1]
        got = gather(
            one, pack(replace(weight, codes=wide(weight.codes, blocks), block=16)), index.reshape(-1)
        )
        assert got is not None
        kept = got.reshape(len(got), blocks, 16)[..., :4].reshape(len(got), -1)[:, : weight.shape[1]]
        return kept.reshape(*index.shape, -1)

    one, seen = next(iter(sets.values())), set[tuple[int, bool]]()
    assert laws.check("linear_blocks", product) == laws.names()["linear_blocks"]
    assert laws.check("rows", chosen) == laws.names()["rows"]
    assert seen == {(8, False), (4, False), (4, True)}


def inputs_of(w: Packed) -> dict[str, np.ndarray]:
    parts = {"codes": w.codes, "scales": w.scales, "zeros": w.zeros, "minima": w.minima}
    parts |= {"factors": w.factors, "table": w.table}
    return {name: part for name, part in parts.items() if part is not None}


def node(op: str, w: Packed, names: list[str], **changed: int) -> Any:
    sizes = {"K": w.columns, "N": w.outputs, "bits": w.bits, "block_size": w.block}
    return helper.make_node(op, names, ["y"], domain="tfm", **{**sizes, **changed})


class Operator:
    """A product, or rows of a table, as an operator of ONNX Runtime."""

    def __init__(self, library: Path, w: Packed):
        self.library, self.w = library, w

    def run(self, op: str, names: list[str], arrays: dict[str, np.ndarray], **changed: int) -> np.ndarray:
        one = node(op, self.w, names, **changed)
        return onnx_nodes.graph([one], arrays, {}, ["y"], library=self.library)[0]

    def linear(self, arrays: dict[str, np.ndarray], op: str = "BlockLinear", **changed: int) -> np.ndarray:
        arrays = {**inputs_of(self.w), **arrays}
        names = [
            name if name in arrays else ""
            for name in ("x", "codes", "scales", "zeros", "bias", "minima", "factors", "table")
        ]
        while not names[-1]:
            names.pop()
        return self.run(op, names, arrays, **changed)

    def gather(self, ids: np.ndarray) -> np.ndarray:
        arrays = {"ids": ids, **inputs_of(self.w)}
        names = [
            name if name in arrays else ""
            for name in ("codes", "ids", "scales", "zeros", "minima", "factors", "table")
        ]
        while not names[-1]:
            names.pop()
        return self.run("BlockGather", names, arrays)


@pytest.mark.parametrize(
    ("bits", "zero", "minimum"),
    [(b, *parts) for b in (8, 4) for parts in ((True, False), (False, False), (False, True))]
    + [(LOOKED_UP, False, False)],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 0, 2), (2, 1, 2, 3)])
def test_operators_take_any_rank(
    kernels_library: Path,
    library: Any,
    sets: dict[str, Kernels],
    bits: int,
    zero: bool,
    minimum: bool,
    shape: tuple[int, ...],
):
    """Zero points, minima and a bias may be left out; rows have any shape, of no rows too."""
    rng = np.random.default_rng(bits)
    w = table(rng, 19, 40, bits=bits, block=16, zero=zero, minimum=minimum)
    x = rng.standard_normal((*shape, 40)).astype(np.float32)
    ids = rng.integers(0, 19, shape)
    bias = rng.standard_normal(19).astype(np.float32)
    product = Case(w, x.reshape(-1, 40), None).expected().reshape(*shape, 19)
    case = Case(w, x, None).looked_up(rng) if bits == LOOKED_UP else Case(w, x, None)
    operator, fastest = Operator(kernels_library, case.packed()), library.tfm_instruction_set()
    try:
        for name in sets:
            assert library.tfm_use(name.encode())
            assert library.tfm_instruction_set() == name.encode()
            assert np.array_equal(operator.linear({"x": x}), product), name
            assert np.array_equal(operator.linear({"x": x, "bias": bias}), product + bias), name
            assert np.array_equal(operator.gather(ids), quant.rows(w, ids.reshape(1, -1)).reshape(*shape, 40))
    finally:
        library.tfm_use(fastest)


def test_an_unknown_instruction_set_is_not_used(library: Any):
    before = library.tfm_instruction_set()
    assert not library.tfm_use(b"avx1024")
    assert not library.tfm_kernels(b"avx1024")
    assert library.tfm_instruction_set() == before


WRONG: dict[str, tuple[dict[str, Any], dict[str, int], str]] = {
    "a scalar": ({"x": np.ones((), F)}, {}, "x [.., K]"),
    "other K": ({"x": np.ones((2, 39), F)}, {}, "x [.., K]"),
    "rank 9": ({"x": np.ones((1,) * 8 + (40,), F)}, {}, "rank 8"),
    "few codes": (
        {"codes": np.ones((2, 11, 16, 4), np.uint8)},
        {},
        "codes [tiles, 32",
    ),
    "many codes": ({"codes": np.ones((2, 13, 16, 4), np.uint8)}, {}, "codes"),
    "scales": ({"scales": np.ones((2, 2, 16), F)}, {}, "scales [tiles, blocks, 16]"),
    "zeros": ({"zeros": np.ones((1, 3, 16), np.uint8)}, {}, "zeros [tiles, blocks, 16]"),
    "minima": ({"minima": np.ones((2, 4, 16), F)}, {}, "minima [tiles, blocks, 16]"),
    "bias": ({"bias": np.ones(18, F)}, {}, "bias [N]"),
    "block": ({}, {"block_size": 8}, "block_size 16 32 64 128"),
    "bits": ({}, {"bits": 3}, "bits 2 6 8"),
    "a table of 15": (
        {"table": np.ones(15, np.uint8), "codes": np.ones((2, 6, 16, 4), np.uint8)},
        {"bits": 4},
        "table [16]",
    ),
    "a table beside 8 bits": ({"table": np.ones(16, np.uint8)}, {}, "table 4"),
    "a table beside zeros": (
        {"table": np.ones(16, np.uint8), "codes": np.ones((2, 6, 16, 4), np.uint8)},
        {"bits": 4},
        "zeros minima table",
    ),
    "no outputs": ({}, {"N": 0}, "N K 1 2^28"),
    "many outputs": ({}, {"N": 2**28 + 1}, "N K 1 2^28"),
    "negative K": ({}, {"K": -1}, "N K 1 2^28"),
    "more tiles": ({}, {"N": 33}, "codes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_shapes_are_errors(kernels_library: Path, case: str):
    """One line that says what must hold, whatever a file claims."""
    arrays, attributes, message = WRONG[case]
    right = {"x": np.ones((2, 40), F), "bias": np.ones(19, F)}
    w = pack(table(np.random.default_rng(0), 19, 40, bits=8, block=16, zero=True, minimum=True))
    operator = Operator(kernels_library, w)
    assert operator.linear(right).shape == (2, 19)
    with refused(Exception, *message.split()) as error:
        operator.linear({**right, **arrays}, **attributes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scales", SCALE_TYPES)
def test_the_operator_with_gates(kernels_library: Path, sets: dict[str, Kernels], scales: str):
    rng = np.random.default_rng(0)
    case = Case(
        table(rng, 64, 256, bits=5, block=16, zero=True, minimum=True),
        normal(rng, 6, 256).astype(np.float32),
        normal(rng, 1, 64)[0].astype(np.float32),
    )
    case = case.of_type(scales, rng)
    assert case.bias is not None
    operator = Operator(kernels_library, case.packed())
    got = operator.linear({"x": case.x.reshape(2, 3, 256), "bias": case.bias}, "BlockSwiGLU")
    assert np.array_equal(got, swiglu(next(iter(sets.values())), case.expected()).reshape(2, 3, 32))
    odd = Operator(kernels_library, pack(table(rng, 48, 256, bits=8, block=16, zero=True)))
    with refused(Exception, "N", "32", "gates"):
        odd.linear({"x": case.x}, "BlockSwiGLU")


@pytest.mark.parametrize("wrong", [-1, 19])
def test_an_operator_refuses_ids_that_are_no_rows(
    kernels_library: Path, sets: dict[str, Kernels], wrong: int
):
    w = pack(table(np.random.default_rng(0), 19, 40, bits=4, block=16, zero=True))
    with refused(Exception, "ids", "rows", "table"):
        Operator(kernels_library, w).gather(np.array([[0, wrong]]))
