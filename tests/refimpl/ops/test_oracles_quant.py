"""ONNX Runtime's kernels as the oracle of quantization: codes are equal to the integer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import onnx_nodes
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tfm.refimpl.error_budget import ULP
from tfm.refimpl.laws.kit.budget import budgets, cast
from tfm.refimpl.laws.kit.results import largest
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks, dequantize, linear_blocks, quantize_activations

seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def drawn(seed: int, d: int, f: int, bits: int, block: int, zero: bool) -> Blocks:
    """Random codes with random scales, float32, as a matrix [d, f] for `linear`."""
    rng = np.random.default_rng(seed)
    count = -(-d // block)
    return Blocks(
        codes=rng.integers(0, 2**bits, (d, f)).astype(np.uint8),
        scale=(rng.standard_normal((count, f)) / 2 ** (bits - 1)).astype(np.float32),
        zero=rng.integers(0, 2**bits, (count, f)).astype(np.uint8) if zero else None,
        minimum=None,
        bits=bits,
        block=block,
        axis=0,
        activations="block",
    )


def tied(seed: int, rows: int, width: int) -> np.ndarray:
    """Activations of which many lie halfway between two codes, where rounding rules differ."""
    rng = np.random.default_rng(seed)
    halves = rng.integers(-254, 255, (rows, width)) / 2
    return (halves * rng.choice([1.0, 0.37, 3e-4, 1e4], (rows, 1))).astype(np.float32)


@given(seeds, st.integers(1, 5), st.integers(1, 40), st.sampled_from((-3.0, 0.0, 3.0)))
def test_dynamic_quantize_is_the_kernel(seed: int, rows: int, width: int, shift: float):
    x = (normal(seed, rows, width) + shift).astype(np.float32)
    got = quant.dynamic_quantize(x)
    for have, want in zip(got, onnx_nodes.run("DynamicQuantizeLinear", [x], 3), strict=True):
        assert (have == want).all()
        assert have.dtype == want.dtype


@given(seeds, st.integers(1, 20), st.integers(1, 6), st.integers(1, 9), st.sampled_from((0, 1)))
def test_dequantize_is_the_kernel(seed: int, d: int, f: int, block: int, axis: int):
    """DequantizeLinear by blocks, of whole ones since it takes no short one."""
    w = drawn(seed, d * block, f, 8, block, zero=True)
    w = quant.transpose(w) if axis else w
    operands = [np.ascontiguousarray(a) for a in (w.codes, w.scale, w.zero)]
    (expected,) = onnx_nodes.run("DequantizeLinear", operands, axis=axis, block_size=block)
    assert (dequantize(w) == expected).all()


def pack(w: Blocks) -> list[np.ndarray | None]:
    """MatMulNBits' own order, written again here: [F, C, block · bits / 8], low bits first."""
    d, f = w.codes.shape
    count = w.scale.shape[0]
    codes = np.full((f, count * w.block), 2 ** (w.bits - 1), np.uint8)
    codes[:, :d] = w.codes.T
    join = lambda a: a if w.bits == 8 else a[..., 0::2] | a[..., 1::2] << 4  # noqa: E731
    packed = join(codes.reshape(f, count, w.block))
    zero = None
    if w.zero is not None:
        even = np.zeros((f, count + count % 2), np.uint8)
        even[:, :count] = w.zero.T
        zero = join(even if w.bits == 4 else w.zero.T)
    return [packed, np.ascontiguousarray(w.scale.T), None if zero is None else np.ascontiguousarray(zero)]


def matmul_nbits(x: np.ndarray, w: Blocks) -> np.ndarray:
    """With weights that are constants: the kernel packs them; others it would multiply in float."""
    constants = {n: a for n, a in zip(("b", "scale", "zero"), pack(w), strict=True) if a is not None}
    sizes = {"K": w.shape[0], "N": w.shape[1], "bits": w.bits, "block_size": w.block}
    node = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", accuracy_level=4, **sizes
    )
    return onnx_nodes.graph([node], {"x": x}, constants, ["y"])[0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("rows", [1, 3, 8, 33])
def test_activation_codes_are_the_kernels(bits: int, block: int, rows: int):
    """Through a weight that is the identity, MatMulNBits shows its activation codes: all are ours.

    The kernel takes the zero point off in floating point, so a code comes back a little off whole.
    """
    width = 3 * block
    codes = (np.eye(width) + 2 ** (bits - 1)).astype(np.uint8)
    one = Blocks(codes, np.ones((3, width), np.float32), None, None, bits, block, 0, "block")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = tied(seed, rows, width) if seed % 2 else rng.standard_normal((rows, width)).astype(np.float32)
        expected, scale = quantize_activations(x, block=block)
        spread = np.repeat(scale, block, axis=1)
        got = np.where(spread == 0, 0, matmul_nbits(x, one) / np.where(spread == 0, 1, spread))
        assert (np.rint(got) == expected).all()
        assert largest(got - np.rint(got)) < 0.25


@given(
    seeds,
    st.sampled_from((4, 8)),
    st.sampled_from((16, 32, 64)),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 150),
    st.integers(1, 40),
)
def test_linear_blocks_is_the_kernel(seed: int, bits: int, block: int, zero: bool, rows: int, d: int, f: int):
    """MatMulNBits with accuracy_level 4, short last blocks included."""
    w = drawn(seed, d, f, bits, block, zero)
    x = normal(seed, 1, rows, d).astype(np.float32)
    run = lambda change: linear_blocks(change(x), change(w))  # noqa: E731
    allowed = budgets(run)["out"] + unsigned(x[0], w)
    error = largest(matmul_nbits(x[0], w) - linear_blocks(*(cast(a, np.float64) for a in (x, w)))[0])
    assert error <= allowed, f"off by {error:.3g}, budget {allowed:.3g}"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("largest_x", [1e-45, 1e-39, 3.7e-37, 3.8e-37, 1e-30])
def test_tiny_activations_of_linear_blocks_are_the_kernels(bits: int, largest_x: float):
    """Where 127 / max|x| overflows MatMulNBits takes all codes as 0, too, or any without AVX512."""
    w = drawn(bits, 96, 7, bits, 32, zero=True)
    x = normal(bits, 1, 3, 96).astype(np.float32)
    x[..., :32] *= np.float32(largest_x) / np.abs(x[..., :32]).max()
    x[..., 32:] = 0
    got, expected = matmul_nbits(x[0], w), linear_blocks(x, w)[0]
    assert (expected == 0).all() == (largest_x < 3.75e-37)
    tiny = largest_x * largest(dequantize(w)) * 32 if largest_x < 1e-36 else 0
    assert largest(got - expected) <= 4 * ULP * largest(expected) + unsigned(x[0], w) + tiny


def unsigned(x: np.ndarray, w: Blocks) -> float:
    """The kernel multiplies unsigned codes and takes zero · Σ code_x off in float32: 4 ulps of its terms."""
    codes, scale = quantize_activations(x, block=w.block)
    total = np.zeros((x.shape[0], w.shape[1]))
    for c in range(w.scale.shape[0]):
        part = slice(c * w.block, (c + 1) * w.block)
        terms = np.abs(codes[:, part]).sum(1)[:, None] * 2.0**w.bits
        total += terms * np.abs(scale[:, c, None] * w.scale[c])
    return 4 * ULP * largest(total)


@given(seeds, st.integers(1, 9), st.integers(1, 150), st.integers(1, 40))
def test_the_row_rule_is_its_graph(seed: int, rows: int, d: int, f: int):
    """Div, QuantizeLinear by row, MatMulIntegerToFloat, Mul: codes to the integer, products within budget."""
    w = replace(drawn(seed, d, f, 8, d, zero=False), activations="row")
    x = tied(seed, rows, d) if seed % 2 else normal(seed, rows, d).astype(np.float32)
    x[rows // 2] *= 1000
    constants = {
        "axis": np.array([-1], np.int64),
        "tiny": np.array(1e-30, np.float32),
        "steps": np.array(127, np.float32),
        "one": np.array(1, np.float32),
        "middle": np.array(128, np.uint8),
        "middles": np.full((rows, 1), 128, np.uint8),
        "w": (w.codes.astype(np.int16) - 128).astype(np.int8),
        "scale": w.scale[0],
    }
    given_, product = ["x", "step", "middles"], ["codes", "w", "one", "scale", "middle", ""]
    steps = [
        helper.make_node("Abs", ["x"], ["abs"]),
        helper.make_node("ReduceMax", ["abs", "axis"], ["most"], keepdims=1),
        helper.make_node("Max", ["most", "tiny"], ["row"]),
        helper.make_node("Div", ["row", "steps"], ["step"]),
        helper.make_node("QuantizeLinear", given_, ["codes"], axis=1, block_size=d),
        helper.make_node("MatMulIntegerToFloat", product, ["y0"], domain="com.microsoft"),
        helper.make_node("Mul", ["y0", "step"], ["y"]),
    ]
    codes, y = onnx_nodes.graph(steps, {"x": x}, constants, ["codes", "y"])
    assert (codes.astype(np.int32) - 128 == quant.quantize_rows(x)[0]).all()
    run = lambda change: linear_blocks(change(x[None]), change(w))  # noqa: E731
    allowed = budgets(run)["out"]
    assert largest(y - run(lambda a: cast(a, np.float32))[0]) <= allowed
