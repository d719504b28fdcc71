"""Products with one scale a row: the specification bit for bit, and GELU of them within its bound."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import onnx_nodes
from helpers.kernel_cases import normal
from helpers.kernels import Kernels, bits_of, in_order, in_threads
from helpers.refused import refused
from helpers.row_kernel import RowCase, gelu, matrix, random_row_case, row_linear, tiled
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tfm.refimpl import laws
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks
from tfm.runtime.kernels.specification import arithmetic

F = np.float32
BOUND = 3 * 2.0**-24  # of GELU, as a share of its argument
cases = st.integers(0, 2**32 - 1).map(random_row_case)


@given(cases, st.sampled_from((in_order, in_threads)))
def test_products_are_the_specification_bit_for_bit(
    instruction_sets: list[Kernels], case: RowCase, runner: Any
):
    """With any number of rows and order of parts, and where numbers are tiny, huge or not finite."""
    expected = bits_of(case.expected())
    for one in instruction_sets:
        got = bits_of(row_linear(one, case, runner=runner))
        assert np.array_equal(got, expected), f"{one.name}: {(got != expected).sum()} of {got.size} differ"


@given(cases, st.booleans(), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_neighbours(
    instruction_sets: list[Kernels], case: RowCase, activated: bool, random: Any
):
    order = list(range(len(case.x)))
    random.shuffle(order)
    chosen = order[: random.randint(0, len(order))]
    for one in instruction_sets:
        whole = bits_of(row_linear(one, case, gelu=activated))
        part = bits_of(row_linear(one, RowCase(case.w, case.x[chosen], case.bias), gelu=activated))
        assert np.array_equal(part, whole[chosen]), one.name


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("code", [0, 255])
def test_the_largest_products_are_exact(instruction_sets: list[Kernels], sign: int, code: int):
    """As many inputs as there may be, all 127 times the largest code: a sum just fits 32 bits."""
    K = 2**16
    w = Blocks(np.full((K, 1), code, np.uint8), np.ones((1, 1), np.float32), None, None, 8, K, 0, "row")
    case = RowCase(w, np.full((5, K), sign * 127, np.float32), None)
    for one in instruction_sets:
        assert (row_linear(one, case) == np.float32(sign * 127 * (code - 128) * K)).all(), one.name


def test_products_of_many_long_rows(instruction_sets: list[Kernels]):
    """More codes of inputs than a core's cache holds, and more outputs than there are parts."""
    rng = np.random.default_rng(0)
    case = RowCase(matrix(rng, 2048, 530, smoothed=True), normal(rng, 230, 2048).astype(np.float32), None)
    expected = bits_of(case.expected())
    for one in instruction_sets:
        assert np.array_equal(bits_of(row_linear(one, case)), expected), one.name


def test_products_of_very_many_rows(instruction_sets: list[Kernels]):
    """More panels than one pass over the outputs takes, and a bias of -0 beside products that are 0."""
    rng = np.random.default_rng(0)
    x = normal(rng, 4500, 16).astype(np.float32)
    x[::3] = 0
    case = RowCase(matrix(rng, 16, 3, smoothed=False), x, np.full(3, -0.0, np.float32))
    expected = bits_of(case.expected())
    for one in instruction_sets:
        assert np.array_equal(bits_of(row_linear(one, case)), expected), one.name


def test_quotients_near_halves_are_rounded_as_exact_ones(instruction_sets: list[Kernels]):
    """Of rows of any size, the smallest too: what corrects a quotient is too small for a float there."""
    rng = np.random.default_rng(0)
    largest = np.geomspace(1e-31, 1e30, 300, dtype=np.float32)[:, None] * rng.uniform(1, 2, (300, 1))
    halves = largest / 127 * (rng.integers(-126, 127, (300, 999)) + 0.5)
    x = np.concatenate([largest, halves], axis=1).astype(np.float32)
    x = np.nextafter(x, x * rng.choice([0, 1, 2], x.shape).astype(np.float32))
    case = RowCase(matrix(rng, 1000, 5, smoothed=False), x, None)
    expected = bits_of(case.expected())
    for one in instruction_sets:
        assert np.array_equal(bits_of(row_linear(one, case)), expected), one.name


def hard_rows(halves: np.ndarray, exponent: int, most: int) -> np.ndarray:
    """Rows [M, 2] of a largest number, which is 127 scales, and a number x whose quotient x / scale lies all
    but in the middle between one of the `halves` and a float beside it.

    With the middle M 2^-t, M odd, and scale = S 2^exponent these are X 2^c = S M + n for all small n: a unit
    of n is 1 / 2S of the distance between the two floats.
    """
    rows = []
    for half, toward, c, n in itertools.product(halves, (0, np.inf), (24, 25), range(-most, most + 1)):
        M, power = float(
            (half + np.float64(np.nextafter(np.float32(half), F(toward)))) / 2
        ).as_integer_ratio()
        S = -n * pow(M, -1, 2**c) % 2**c
        X = (S * M + n) >> c
        if n == 0 or not all(2**23 <= mantissa < 2**24 for mantissa in (S, X)):
            continue
        scale, x = F(S * 2.0**exponent), F(X * 2.0 ** (exponent + c) / power)
        near = F(scale * F(127))
        largest = [
            one for one in (near, np.nextafter(near, F(0)), np.nextafter(near, F(1))) if one / F(127) == scale
        ]
        rows += [(one, x) for one in largest[:1]]
    return np.array(rows, np.float32)


def test_quotients_between_floats_are_rounded_as_exact_ones(instruction_sets: list[Kernels]):
    """What is left of a quotient decides here; it isn't exact where scales are the smallest."""
    rng = np.random.default_rng(0)
    every = hard_rows(np.arange(127) + 0.5, -23, 8)
    assert len(every) == 1424
    smallest = [hard_rows(np.array([0.5]), exponent, 64) for exponent in range(-130, -126)]
    x = np.concatenate([every, *smallest])
    x[:, 1] *= rng.choice(np.array([-1, 1], np.float32), len(x))
    case = RowCase(matrix(rng, 2, 5, smoothed=False), x, None)
    expected = bits_of(case.expected())
    for one in instruction_sets:
        assert np.array_equal(bits_of(row_linear(one, case)), expected), one.name


def test_gelu_is_within_its_bound(instruction_sets: list[Kernels]):
    """Of any number: the product is 0, and the number comes as bias."""
    ends = np.geomspace(1e-38, 1e38, 500), -np.geomspace(1e-38, 30, 500)
    x = np.concatenate([np.linspace(-7, 7, 20001), *ends]).astype(np.float32)
    w = Blocks(np.zeros((1, len(x)), np.uint8), np.ones((1, len(x)), np.float32), None, None, 8, 1, 0, "row")
    for one in instruction_sets:
        y = row_linear(one, RowCase(w, np.zeros((3, 1), np.float32), x), gelu=True)
        assert (np.abs(y - gelu(x)) <= BOUND * np.abs(x) + 2.0**-149).all(), one.name
        assert np.array_equal(bits_of(y), np.broadcast_to(bits_of(arithmetic.gelu(x)), y.shape)), one.name
        assert (y[:, x > 5.5] == x[x > 5.5]).all()
        assert (y[:, x < -5.5] == 0).all()


def test_gelu_of_a_product(instruction_sets: list[Kernels]):
    """It has the product's own bits as its argument, and all instruction sets give the same ones."""
    rng = np.random.default_rng(0)
    case = RowCase(
        matrix(rng, 70, 37, smoothed=True),
        rng.standard_normal((19, 70)).astype(np.float32),
        rng.standard_normal(37).astype(np.float32),
    )
    results = []
    for one in instruction_sets:
        z = row_linear(one, case)
        results.append(row_linear(one, case, gelu=True))
        assert (np.abs(results[-1] - gelu(z)) <= BOUND * np.abs(z)).all()
    assert all(np.array_equal(bits_of(y), bits_of(results[0])) for y in results)


def test_the_law_kit_accepts_the_kernels(instruction_sets: list[Kernels]):
    """Products of other kinds are the specification's."""

    def product(x: np.ndarray, weight: Blocks) -> np.ndarray:
        if weight.activations not in ("row", "smoothed"):
            return quant.linear_blocks(x, weight)
        seen.add(weight.activations)
        y = row_linear(one, RowCase(weight, x.reshape(-1, x.shape[-1]), None))
        return y.reshape(*x.shape[:-1], weight.shape[1])

    one, seen = instruction_sets[0], set[str]()
    assert laws.check("linear_blocks", product) == laws.names()["linear_blocks"]
    assert seen == {"row", "smoothed"}


INPUTS = ("x", "codes", "scales", "factors", "bias")


def operator(
    library: Path, case: RowCase, changed: dict[str, Any], shape: tuple[int, ...] = ()
) -> np.ndarray:
    """The product as an operator of ONNX Runtime, with some inputs and attributes changed."""
    codes, scales = tiled(case.w)
    given_ = {"x": case.x.reshape(*shape, case.x.shape[1]), "codes": codes, "scales": scales}
    given_ |= {"factors": case.w.input_factor, "bias": case.bias}
    given_ |= {name: value for name, value in changed.items() if name in INPUTS}
    arrays = {name: a for name, a in given_.items() if a is not None}
    sizes = {"K": case.x.shape[1], "N": case.w.shape[1], "gelu": 0}
    sizes |= {name: value for name, value in changed.items() if name in sizes}
    names = [name if name in arrays else "" for name in INPUTS]
    node = helper.make_node("RowLinear", names, ["y"], domain="tfm", **sizes)
    return onnx_nodes.graph([node], arrays, {}, ["y"], library=library)[0]


def example(rows: int, *, smoothed: bool = True, bias: bool = True) -> RowCase:
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, 40)).astype(np.float32)
    b = rng.standard_normal(19).astype(np.float32) if bias else None
    return RowCase(matrix(rng, 40, 19, smoothed=smoothed), x, b)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 0, 2), (2, 1, 2, 3)])
@pytest.mark.parametrize("smoothed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_operators_take_any_rank(
    kernels_library: Path, instruction_sets: list[Kernels], shape: tuple[int, ...], smoothed: bool, bias: bool
):
    """Factors and a bias may be left out."""
    case = example(math.prod(shape), smoothed=smoothed, bias=bias)
    for activated in (False, True):
        expected = row_linear(instruction_sets[0], case, gelu=activated).reshape(*shape, 19)
        assert np.array_equal(operator(kernels_library, case, {"gelu": int(activated)}, shape), expected)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a scalar": ({"x": np.ones((), F)}, "x [.., K]"),
    "other K": ({"x": np.ones((2, 39), F)}, "x [.., K]"),
    "few codes": (
        {"codes": np.ones((2, 11, 16, 4), np.uint8)},
        "codes [tiles, inputs 16, 4]",
    ),
    "few tiles": ({"codes": np.ones((1, 12, 16, 4), np.uint8)}, "codes"),
    "scales": ({"scales": np.ones((2, 15), F)}, "scales [tiles, 16]"),
    "factors": ({"factors": np.ones(39, F)}, "factors [K]"),
    "bias": ({"bias": np.ones(18, F)}, "bias [N]"),
    "no inputs": ({"K": 0}, "K 1 2^16"),
    "many inputs": ({"K": 2**16 + 1}, "K 1 2^16"),
    "no outputs": ({"N": 0}, "N 1 2^28"),
    "many outputs": ({"N": 2**28 + 1}, "N 1 2^28"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_errors(kernels_library: Path, name: str):
    """One line that says what must hold, whatever a file claims."""
    changed, message = WRONG[name]
    case = example(2)
    assert operator(kernels_library, case, {}, (2,)).shape == (2, 19)
    with refused(Exception, *message.split()) as error:
        operator(kernels_library, case, changed, (2,))
    assert "\n" not in str(error.value)
