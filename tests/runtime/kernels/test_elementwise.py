"""Gates and norms of the kernels: what `refimpl` specifies, with the same bits whatever is beside them."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from helpers import onnx_nodes, within_budget
from helpers.kernels import (
    GUARD,
    Kernels,
    Runner,
    bits_of,
    guarded,
    in_order,
    in_threads,
    pool_of,
    swiglu,
)
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray as Array
from onnx import helper
from tfm.refimpl.ops import activation as of_numbers
from tfm.refimpl.ops.activation import activation
from tfm.refimpl.ops.attention import softmax
from tfm.refimpl.ops.norm import layer_norm, rms_norm
from tfm.refimpl.ops.position import rope_frequencies
from tfm.runtime.kernels.specification import arithmetic, ops, written_out

ULP = 2.0**-24  # half of one: the error of one rounding, as a share of the number


class PointwiseCall(c.Structure):
    """kernels.h: `PointwiseCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("x", "y")),
        ("rows", c.c_size_t),
        ("width", c.c_size_t),
        ("function", c.c_int32),
    )


# In the order of kernels.h, which ends with the square root: how far each may be from what is specified, as a
# share of the result, and of the argument.
POINTWISE = {
    "gelu": (0, 3),
    "gelu_tanh": (0, 4),
    "tanh": (6, 0),
    "sigmoid": (6, 0),
    "silu": (6, 0),
    "softplus": (5, 0),
    "exp": (3, 0),
}


class RowCall(c.Structure):
    """kernels.h: `RowCall`."""

    _fields_ = (*((name, c.c_void_p) for name in ("x", "y")), *((n, c.c_size_t) for n in ("rows", "width")))


class FloatLinearCall(c.Structure):
    """kernels.h: `FloatLinearCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("x", "w", "y")),
        *((name, c.c_size_t) for name in ("rows", "depth", "width")),
    )


class AddNormCall(c.Structure):
    """kernels.h: `AddNormCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("a", "b", "weight", "bias", "sum", "y")),
        ("rows", c.c_size_t),
        ("width", c.c_size_t),
        ("epsilon", c.c_float),
    )


def output(rows: int, width: int) -> Array:
    return guarded(rows * width * 4)


def content(memory: Array, rows: int, width: int) -> Array:
    """The numbers of an output, behind which nothing was written."""
    assert (memory[rows * width * 4 :] == GUARD).all()
    return memory[: rows * width * 4].view(np.float32).reshape(rows, width)


def pointwise(kernels: Kernels, name: str, x: Array, runner: Runner = in_order) -> Array:
    rows, width = x.shape
    y = output(rows, width)
    call = PointwiseCall(x.ctypes.data, y.ctypes.data, rows, width, [*POINTWISE, "sqrt"].index(name))
    kernels.pointwise(c.addressof(call), pool_of(runner))
    return content(y, rows, width)


def of_row(kernels: Kernels, x: Array, runner: Runner = in_order, *, name: str) -> Array:
    rows, width = x.shape
    wide = width if name == "softmax" else 1
    y = output(rows, wide)
    call = RowCall(x.ctypes.data, y.ctypes.data, rows, width)
    getattr(kernels, name)(c.addressof(call), pool_of(runner))
    return content(y, rows, wide)


def float_linear(kernels: Kernels, x: Array, runner: Runner = in_order, *, w: Array) -> Array:
    rows, (depth, width) = len(x), w.shape
    y = output(rows, width)
    call = FloatLinearCall(x.ctypes.data, w.ctypes.data, y.ctypes.data, rows, depth, width)
    kernels.float_linear(c.addressof(call), pool_of(runner))
    return content(y, rows, width)


def add_norm(
    kernels: Kernels, a: Array, b: Array, weight: Array | None, epsilon: float, runner: Runner = in_order
) -> tuple[Array, Array]:
    rows, width = a.shape
    total, y = output(rows, width), output(rows, width)
    at = [None if array is None else array.ctypes.data for array in (a, b, weight, total, y)]
    call = AddNormCall(*at[:3], None, *at[3:], rows, width, epsilon)
    kernels.add_norm(c.addressof(call), pool_of(runner))
    return content(total, rows, width), content(y, rows, width)


def add_layer_norm(
    kernels: Kernels,
    sides: tuple[Array, Array],
    weights: tuple[Array | None, ...],
    epsilon: float,
    runner: Runner = in_order,
    keep: bool = True,
) -> tuple[Array | None, Array]:
    """The sum, if it is kept, and its norm."""
    rows, width = sides[0].shape
    total, y = output(rows, width) if keep else None, output(rows, width)
    at = [None if array is None else array.ctypes.data for array in (*sides, *weights, total, y)]
    call = AddNormCall(*at, rows, width, epsilon)
    kernels.add_layer_norm(c.addressof(call), pool_of(runner))
    return None if total is None else content(total, rows, width), content(y, rows, width)


@st.composite
def matrices(draw: st.DrawFn, columns: int = 1) -> Array:
    """Rows of small and large numbers; some shapes are for several threads."""
    rows, width = draw(st.sampled_from([(1, 1), (3, 15), (2, 16), (5, 37), (23, 800), (1, 2100)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = 10.0 ** draw(st.integers(-3, 2))
    return (rng.standard_normal((rows, columns * width)) * size).astype(np.float32)


@given(matrices(columns=2))
def test_swiglu_is_what_is_specified(instruction_sets: list[Kernels], x: Array) -> None:
    gate, up = np.split(x.astype(np.float64), 2, axis=1)
    expected = activation(gate, kind="silu") * up
    # 3 ulp of silu and 1 rounding of the product; where e^x underflows, e^-88 takes its place
    allowed = 7 * ULP * np.abs(expected) + np.abs(gate * up) * np.exp(-87.3) + 2.0**-149
    gate, up = np.split(x, 2, axis=1)
    for kernels in instruction_sets:
        y = swiglu(kernels, x)
        assert (np.abs(y - expected) <= allowed).all(), kernels.name
        assert np.array_equal(bits_of(y), bits_of(arithmetic.silu(gate) * up)), kernels.name
        assert np.array_equal(swiglu(kernels, x, in_threads), y)
        for row in range(len(x)):
            assert np.array_equal(swiglu(kernels, x[row : row + 1].copy()), y[row : row + 1])


@pytest.mark.parametrize("name", POINTWISE)
@given(x=matrices())
def test_a_function_of_each_number_is_what_is_specified(
    instruction_sets: list[Kernels], name: str, x: Array
) -> None:
    wide = x.astype(np.float64)
    expected = np.exp(wide.clip(-88, 88)) if name == "exp" else getattr(of_numbers, name)(wide)
    of_result, of_argument = POINTWISE[name]
    # Beyond 88 e^x stays what it is there.
    allowed = ULP * (of_result * np.abs(expected) + of_argument * np.abs(wide))
    allowed += (np.abs(wide) + 1) * np.exp(-87.3) + 2.0**-149
    for kernels in instruction_sets:
        y = pointwise(kernels, name, x)
        assert (np.abs(y - expected) <= allowed).all(), kernels.name
        assert np.array_equal(bits_of(y), bits_of(ops.KERNEL_OPS[name](x))), kernels.name
        assert np.array_equal(pointwise(kernels, name, x, in_threads), y)
        for row in range(len(x)):
            assert np.array_equal(pointwise(kernels, name, x[row : row + 1].copy()), y[row : row + 1])


@given(x=matrices())
def test_a_square_root_is_rounded_once(instruction_sets: list[Kernels], x: Array) -> None:
    for kernels in instruction_sets:
        y = pointwise(kernels, "sqrt", abs(x))
        assert np.array_equal(y, np.sqrt(abs(x).astype(np.float64)).astype(np.float32)), kernels.name


def check_of_rows(
    kernels: Kernels,
    x: Array,
    compute: Callable[..., Array],
    expected: Array,
    allowed: Array,
    specified: Array,
) -> None:
    """A computation of each row is near the exact one, has the bits of its steps, and keeps them alone."""
    y = compute(kernels, x)
    assert (np.abs(y - expected) <= allowed).all(), kernels.name
    assert np.array_equal(bits_of(y), bits_of(specified)), kernels.name
    assert np.array_equal(compute(kernels, x, in_threads), y)
    for row in range(len(x)):
        assert np.array_equal(compute(kernels, x[row : row + 1].copy()), y[row : row + 1])


@given(matrices())
def test_a_softmax_and_a_sum_are_what_is_specified(instruction_sets: list[Kernels], x: Array) -> None:
    wide, added = x.astype(np.float64), (x.shape[1] / 16 + 16) * ULP
    expected, below = softmax(wide), wide.max(1, keepdims=True) - wide
    # of the difference in the exponent, also of the others in the sum; of two exp, the sum and the quotient
    share = ULP * (below + (expected * below).sum(1, keepdims=True) + 8) + added
    sizes = np.abs(wide).sum(1, keepdims=True)
    for kernels in instruction_sets:
        allowed = share * expected + np.exp(-87.3)
        check_of_rows(kernels, x, partial(of_row, name="softmax"), expected, allowed, ops.softmax(x))
        total, specified = wide.sum(1, keepdims=True), arithmetic.row_sum(x)
        check_of_rows(kernels, x, partial(of_row, name="row_sum"), total, added * sizes, specified)


@given(matrices(), st.integers(0, 2**32), st.sampled_from([1, 5, 64, 133]))
def test_a_product_of_floats_is_what_is_specified(
    instruction_sets: list[Kernels], x: Array, seed: int, width: int
) -> None:
    w = np.random.default_rng(seed).standard_normal((x.shape[1], width)).astype(np.float32)
    allowed = len(w) * ULP * (np.abs(x).astype(np.float64) @ np.abs(w)) + 2.0**-149
    for kernels in instruction_sets:
        product, specified = x.astype(np.float64) @ w, arithmetic.each_row(x[:, None], w)
        specified = specified.reshape(product.shape)
        check_of_rows(kernels, x, partial(float_linear, w=w), product, allowed, specified)


@given(matrices(), st.integers(0, 2**32), st.sampled_from([1e-5, 1e-6]), st.booleans())
def test_a_sum_and_its_norm_are_what_is_specified(
    instruction_sets: list[Kernels], a: Array, seed: int, epsilon: float, weighed: bool
) -> None:
    rng = np.random.default_rng(seed)
    b = (rng.standard_normal(a.shape) * np.abs(a).max()).astype(np.float32)
    weight = rng.standard_normal(a.shape[1]).astype(np.float32) if weighed else None
    exact = (a + b).astype(np.float64)
    wide = None if weight is None else weight.astype(np.float64)
    expected = rms_norm(exact, wide, eps=float(np.float32(epsilon)))
    # a square's error in its lane, those of the lanes' sum, then of mean, root, quotient and two products
    allowed = (a.shape[1] / 16 / 2 + 16 / 2 + 8) * ULP * np.abs(expected) + 2.0**-149
    for kernels in instruction_sets:
        total, y = add_norm(kernels, a, b, weight, epsilon)
        assert np.array_equal(total, a + b)
        assert (np.abs(y - expected) <= allowed).all(), kernels.name
        assert np.array_equal(bits_of(y), bits_of(ops.rms_norm(total, weight, eps=epsilon))), kernels.name
        assert np.array_equal(add_norm(kernels, a, b, weight, epsilon, in_threads)[1], y)
        for row in range(len(a)):
            one = slice(row, row + 1)
            alone = add_norm(kernels, a[one].copy(), b[one].copy(), weight, epsilon)[1]
            assert np.array_equal(alone, y[one])


@given(matrices(), st.integers(0, 2**32))
def test_a_norm_alone_is_that_of_a_sum_with_zeros(
    instruction_sets: list[Kernels], x: Array, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal(x.shape[1]).astype(np.float32)
    rows, width = x.shape
    for kernels in instruction_sets:
        y = output(rows, width)
        places = (x.ctypes.data, None, weight.ctypes.data, None, None, y.ctypes.data)
        call = AddNormCall(*places, rows, width, 1e-5)
        kernels.add_norm(c.addressof(call), pool_of(in_order))
        zeros = np.zeros_like(x)
        assert np.array_equal(content(y, rows, width), add_norm(kernels, x, zeros, weight, 1e-5)[1])
        kernels.add_layer_norm(c.addressof(call), pool_of(in_order))
        assert np.array_equal(
            content(y, rows, width), add_layer_norm(kernels, (x, zeros), (weight, None), 1e-5)[1]
        )


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        ("Gelu", "gelu"),
        ("GeluTanh", "gelu_tanh"),
        ("Tanh", "tanh"),
        ("Sigmoid", "sigmoid"),
        ("SiLU", "silu"),
        ("Softplus", "softplus"),
        ("Exp", "exp"),
        ("Sqrt", "sqrt"),
    ],
)
def test_the_operators_of_functions(
    kernels_library: Path, instruction_sets: list[Kernels], operator: str, name: str
) -> None:
    x = abs(np.random.default_rng(0).standard_normal((2, 3, 20))).astype(np.float32)
    node = helper.make_node(operator, ["x"], ["y"], domain="tfm")
    (y,) = onnx_nodes.graph([node], {"x": x}, {}, ["y"], kernels_library)
    assert np.array_equal(y.reshape(6, 20), pointwise(instruction_sets[0], name, x.reshape(6, 20)))


def test_the_operators_of_rows(kernels_library: Path, instruction_sets: list[Kernels]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 20)).astype(np.float32), rng.standard_normal((20, 7)).astype(np.float32)
    flat, kernels = x.reshape(6, 20), instruction_sets[0]
    for operator, inputs, expected in (
        ("Softmax", {"x": x}, of_row(kernels, flat, name="softmax")),
        ("RowSum", {"x": x}, of_row(kernels, flat, name="row_sum")),
        ("FloatLinear", {"x": x, "w": w}, float_linear(kernels, flat, w=w)),
        ("TokenSum", {"x": x}, arithmetic.token_sum(x)),
        ("TokenSum", {"x": np.int64(9 * flat)}, np.int64(9 * flat).sum(1)),
    ):
        node = helper.make_node(operator, list(inputs), ["y"], domain="tfm")
        (y,) = onnx_nodes.graph([node], inputs, {}, ["y"], kernels_library)
        assert y.dtype == expected.dtype
        assert np.array_equal(y.ravel(), expected.ravel())
    node = helper.make_node("FloatLinear", ["x", "w"], ["y"], domain="tfm")
    with refused(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, "FloatLinear", "depth"):
        onnx_nodes.graph([node], {"x": x, "w": w.T.copy()}, {}, ["y"], kernels_library)


def run_norm(library: Path, operator: str, arrays: dict[str, Array], outputs: list[str]) -> list[Array]:
    """The operator on ONNX Runtime."""
    node = helper.make_node(operator, list(arrays), outputs, domain="tfm", epsilon=1e-5)
    return onnx_nodes.graph([node], arrays, {}, outputs, library)


def test_the_operators_of_norms(kernels_library: Path, instruction_sets: list[Kernels]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2, 3, 20)).astype(np.float32) for _ in "ab")
    weight = rng.standard_normal(20).astype(np.float32)
    for weights in ({}, {"w": weight}):
        total, normed = run_norm(kernels_library, "AddRMSNorm", {"a": a, "b": b, **weights}, ["s", "y"])
        (alone,) = run_norm(kernels_library, "RMSNorm", {"x": a + b, **weights}, ["y"])
        flat = (one.reshape(6, 20) for one in (a, b))
        expected = add_norm(instruction_sets[0], *flat, weights.get("w"), 1e-5)
        assert np.array_equal(total.reshape(6, 20), expected[0])
        assert np.array_equal(normed.reshape(6, 20), expected[1])
        assert np.array_equal(alone, normed)
    bias = rng.standard_normal(20).astype(np.float32)
    for weights in ({}, {"w": weight}, {"w": weight, "bias": bias}):
        total, normed = run_norm(kernels_library, "AddLayerNorm", {"a": a, "b": b, **weights}, ["s", "y"])
        (alone,) = run_norm(kernels_library, "LayerNorm", {"x": a + b, **weights}, ["y"])
        flat = a.reshape(6, 20), b.reshape(6, 20)
        expected = add_layer_norm(instruction_sets[0], flat, (weights.get("w"), weights.get("bias")), 1e-5)
        assert np.array_equal(total.reshape(6, 20), a.reshape(6, 20) + b.reshape(6, 20))
        assert np.array_equal(normed.reshape(6, 20), expected[1])
        assert np.array_equal(alone, normed)
    error = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
    for operator, arrays, named in (
        ("RMSNorm", {"x": a, "w": weight[:19]}, "weight"),
        ("AddRMSNorm", {"a": a, "b": b[:1], "w": weight}, "shape"),
        ("LayerNorm", {"x": a, "w": weight, "bias": bias[:19]}, "weight"),
        ("AddLayerNorm", {"a": a, "b": b, "w": weight, "bias": bias[:19]}, "weight"),
    ):
        with refused(error, named):
            run_norm(kernels_library, operator, arrays, ["s", "y"] if "Add" in operator else ["y"])


@given(matrices(), st.integers(0, 2**32), st.sampled_from([1e-5, 1e-12]), st.sampled_from([0, 1, 2]))
def test_a_sum_and_its_layer_norm_are_what_is_specified(
    instruction_sets: list[Kernels], a: Array, seed: int, epsilon: float, count: int
) -> None:
    """With neither weight nor bias, a weight, or both."""
    rng = np.random.default_rng(seed)
    b = (rng.standard_normal(a.shape) * np.abs(a).max()).astype(np.float32)
    weight, bias = rng.standard_normal((2, a.shape[1])).astype(np.float32)
    weights = tuple(array if i < count else None for i, array in enumerate((weight, bias)))
    exact = (a + b).astype(np.float64)
    wide = [None if array is None else array.astype(np.float64) for array in weights]
    expected = layer_norm(exact, *wide, eps=float(np.float32(epsilon)))
    # Errors of sums as above; that of the mean, a share of the largest number, moves x and the variance.
    share = (a.shape[1] / 16 + 16 + 8) * ULP
    spread = np.sqrt(exact.var(axis=1, keepdims=True) + epsilon)
    moved = share * np.abs(exact).max(axis=1, keepdims=True) / spread
    normed = np.abs(layer_norm(exact, eps=float(np.float32(epsilon))))
    allowed = (moved * (1 + normed) + share * normed) * (np.abs(weight) if count else 1)
    allowed += ULP * (np.abs(expected) + np.abs(bias))
    for kernels in instruction_sets:
        total, y = add_layer_norm(kernels, (a, b), weights, epsilon)
        assert total is not None
        assert np.array_equal(total, a + b)
        assert (np.abs(y - expected) <= allowed).all(), kernels.name
        specified = ops.layer_norm(total, *weights, eps=epsilon)
        assert np.array_equal(bits_of(y), bits_of(specified)), kernels.name
        assert np.array_equal(add_layer_norm(kernels, (a, b), weights, epsilon, in_threads)[1], y)
        assert np.array_equal(add_layer_norm(kernels, (a, b), weights, epsilon, keep=False)[1], y)
        for row in range(len(a)):
            one = (a[row : row + 1].copy(), b[row : row + 1].copy())
            assert np.array_equal(add_layer_norm(kernels, one, weights, epsilon)[1], y[row : row + 1])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_isnt_a_number_stays_in_its_row(instruction_sets: list[Kernels], odd: float) -> None:
    x = np.ones((3, 40), np.float32)
    sound = np.ones((3, 20), np.float32)
    x[1, 3] = odd
    for kernels in instruction_sets:
        y = swiglu(kernels, x)
        assert not np.isfinite(y[1, 3])
        assert np.isfinite(np.delete(y, 1, axis=0)).all()
        for name in POINTWISE:
            y = pointwise(kernels, name, x)
            assert np.isnan(y[1, 3]) or not np.isnan(odd)
            assert np.isfinite(np.delete(y, 1, axis=0)).all()
        _, y = add_norm(kernels, x[:, :20].copy(), sound, sound[0], 1e-5)
        assert not np.isfinite(y[1, 3])
        assert np.isfinite(np.delete(y, 1, axis=0)).all()
        _, y = add_layer_norm(kernels, (x[:, :20].copy(), sound), (sound[0], sound[0]), 1e-5)
        assert np.isnan(y[1]).all()
        assert np.isfinite(np.delete(y, 1, axis=0)).all()


def test_all_sets_have_the_same_bits(instruction_sets: list[Kernels]) -> None:
    x = np.random.default_rng(0).standard_normal((4, 202)).astype(np.float32)
    gates = [bits_of(swiglu(kernels, x)) for kernels in instruction_sets]
    norms = [bits_of(add_norm(kernels, x, x, x[0], 1e-5)[1]) for kernels in instruction_sets]
    pair = x, x[::-1].copy()
    layers = [bits_of(add_layer_norm(one, pair, (x[0], x[1]), 1e-5)[1]) for one in instruction_sets]
    functions = [[bits_of(pointwise(kernels, name, x)) for kernels in instruction_sets] for name in POINTWISE]
    for same in (gates, norms, layers, *functions):
        assert all(np.array_equal(one, same[0]) for one in same)


def test_a_logarithm_of_whole_numbers_is_what_is_specified(kernels_library: Path) -> None:
    x = np.concatenate([np.arange(1, 3000), 2.0 ** np.arange(12, 53), 3.0 ** np.arange(8, 33)])
    node = helper.make_node("Log", ["x"], ["y"], domain="tfm")
    (y,) = onnx_nodes.graph([node], {"x": x}, {}, ["y"], kernels_library)
    assert np.array_equal(y, arithmetic.log(x))
    assert (np.abs(y - np.log(x)) <= 2.0**-51 * np.log(x)).all()


def test_sines_and_cosines_are_what_is_specified(kernels_library: Path) -> None:
    near = np.arange(-9, 9) * np.pi / 2
    x = np.concatenate([near, near + 1e-9, np.geomspace(1e-9, 1e6, 3000), -np.geomspace(0.1, 1e6, 500)])
    for quarters, (operator, exact) in enumerate((("Sin", np.sin), ("Cos", np.cos))):
        node = helper.make_node(operator, ["x"], ["y"], domain="tfm")
        (y,) = onnx_nodes.graph([node], {"x": x}, {}, ["y"], kernels_library)
        assert np.array_equal(bits_of(y), bits_of(arithmetic.sine(x, quarters)))
        assert (np.abs(y - exact(x)) <= 2.0**-51).all()
    waves = arithmetic.sinusoidal(np.arange(6).reshape(2, 3), np.array([1, 0.1]), interleaved=True)
    assert np.allclose(waves[1, 2], [np.sin(5), np.cos(5), np.sin(0.5), np.cos(0.5)], rtol=1e-14)
    exact = rope_frequencies(np.arange(300), theta=5e5)
    found = arithmetic.rope_frequencies(np.arange(300), theta=5e5)
    assert (np.abs(found - exact) <= np.spacing(exact)).all()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 7), (7, 9)),
        ((2, 3, 1, 5, 7), (2, 1, 4, 7, 70)),
        ((3, 2, 7), (2, 3, 7, 9)),
        ((4, 40, 8), (8, 200)),
    ],
)
def test_the_operator_of_products(kernels_library: Path, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal(a, np.float32), "b": rng.standard_normal(b, np.float32)}
    node = helper.make_node("MatMul", ["a", "b"], ["y"], domain="tfm")
    (y,) = onnx_nodes.graph([node], arrays, {}, ["y"], kernels_library)
    assert np.array_equal(y, written_out.product(*arrays.values()))
    within_budget.assert_within_budget(y, arrays, lambda one: one["a"] @ one["b"])


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((2, 3, 4), (3, 4, 5)), ((3,), (3, 2))])
def test_products_that_dont_fit_are_refused(kernels_library: Path, shapes: tuple) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in zip("ab", shapes, strict=True)}
    node = helper.make_node("MatMul", ["a", "b"], ["y"], domain="tfm")
    with refused(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, "MatMul", "a"):
        onnx_nodes.graph([node], arrays, {}, ["y"], kernels_library)
