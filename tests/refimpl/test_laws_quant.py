"""Laws of quantization, and ONNX Runtime's kernels as its oracle: codes are equal to the integer."""

from __future__ import annotations

from dataclasses import replace

import nodes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tfm.refimpl.laws.kit.budget import ULP, budgets, cast
from tfm.refimpl.laws.kit.results import largest
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks, dequantize, linear_blocks, quantize, quantize_activations
from tolerances import equal

seeds = st.integers(0, 2**32 - 1)
schemes = st.fixed_dictionaries(
    {
        "bits": st.sampled_from((2, 4, 8)),
        "block": st.integers(1, 20),
        "axis": st.sampled_from((0, 1)),
        "symmetric": st.booleans(),
    }
)


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


@given(seeds, st.integers(1, 30), st.integers(1, 30), schemes)
def test_error_is_at_most_half_a_scale(seed: int, d: int, f: int, scheme: dict):
    """But where a symmetric code would be 2^bits: the sign opposite to the extreme has one code less."""
    w = normal(seed, d, f)
    q = quantize(w, **scheme)
    per_element = quant._spread(q.scale, q)
    error = np.abs(dequantize(q) - w)
    bound = np.abs(per_element) / 2
    if scheme["symmetric"]:
        top = np.abs(per_element) * (2 ** (scheme["bits"] - 1) - 1)
        bound = np.maximum(bound, np.where(np.sign(w) == np.sign(per_element), np.abs(w) - top, 0))
    assert (error <= bound * (1 + 1e-12) + 1e-15).all()


@given(seeds, st.integers(1, 30), st.integers(1, 30), schemes)
def test_extremes_and_zero_are_exact(seed: int, d: int, f: int, scheme: dict):
    w = normal(seed, d, f)
    w[np.random.default_rng(seed).random((d, f)) < 0.3] = 0
    back = dequantize(quantize(w, **scheme))
    assert (back[w == 0] == 0).all()
    if scheme["symmetric"]:
        parts = [slice(i, i + scheme["block"]) for i in range(0, w.shape[scheme["axis"]], scheme["block"])]
        for part in parts:
            one, two = (w[part], back[part]) if scheme["axis"] == 0 else (w.T[part], back.T[part])
            at = np.argmax(np.abs(one), axis=0)[None]
            equal(np.take_along_axis(two, at, 0), np.take_along_axis(one, at, 0), 1e-15)


@given(seeds, schemes)
def test_a_scheme_along_the_other_axis_is_the_transpose(seed: int, scheme: dict):
    w = normal(seed, 11, 7)
    q, other = quantize(w, **scheme), quantize(w.T, **{**scheme, "axis": 1 - scheme["axis"]})
    for a, b in ((q, quant.transpose(other)), (quant.transpose(q), other)):
        assert a.axis == b.axis
        assert (a.codes == b.codes).all()
        assert (dequantize(a) == dequantize(b)).all()
    assert (dequantize(quant.transpose(q)) == dequantize(q).T).all()


def test_known_codes():
    """By hand: extreme −4 gives scale 0.5 at 4 bits; halves go to the even code; a zero block."""
    q = quantize(np.array([[-4.0], [3.5], [0.25], [0.75], [0.0], [0.0]]), bits=4, block=4)
    assert q.codes[:, 0].tolist() == [0, 15, 8, 10, 8, 8]
    assert q.scale[:, 0].tolist() == [0.5, 0.0]
    q = quantize(np.array([[-5.0], [10.0], [0.5], [1.5]]), bits=4, block=4, symmetric=False)
    assert (q.scale[0, 0], q.zero.tolist()) == (1.0, [[5]])
    assert q.codes[:, 0].tolist() == [0, 15, 5, 7]
    q = quantize(np.array([[2.0, 3.0]]), bits=8, block=1, symmetric=False)
    assert (q.zero == 0).all()
    assert (q.codes == 255).all()
    tie = quantize(np.array([[3.0], [-3.0]]), bits=8, block=2)
    assert (tie.scale[0, 0], tie.codes[:, 0].tolist()) == (-3 / 128, [0, 255])


@given(seeds, st.integers(1, 6), st.integers(1, 40), st.integers(1, 20))
def test_activation_codes(seed: int, rows: int, width: int, block: int):
    """Half a scale at most; the largest of each block is ±127; rows don't see each other."""
    x = normal(seed, rows, width)
    codes, scale = quantize_activations(x, block=block)
    assert codes.dtype == np.int32
    assert scale.shape == (rows, -(-width // block))
    spread = np.repeat(scale, block, axis=1)[:, :width]
    assert (np.abs(codes * spread - x) <= spread * 0.5 * (1 + 1e-12)).all()
    for c in range(scale.shape[1]):
        assert (np.abs(codes[:, c * block : (c + 1) * block]).max(1) == 127).all()
    for r in range(rows):
        alone, _ = quantize_activations(x[r : r + 1], block=block)
        assert (alone == codes[r : r + 1]).all()


def test_zeros_give_zero_codes():
    zeros = np.zeros((2, 5), np.float32)
    for codes, scale in (quantize_activations(zeros, block=2), quant.dynamic_quantize(zeros)[:2]):
        assert not codes.any()
        assert not scale.any()
    assert not quant.quantize_rows(zeros)[0].any()
    assert not linear_blocks(zeros[None], drawn(0, 5, 3, 8, 2, zero=True)).any()


@given(seeds, st.sampled_from(("none", "block", "row")), st.booleans(), st.booleans(), st.integers(1, 9))
def test_linear_blocks_is_its_formula(seed: int, activations: str, zero: bool, minimum: bool, block: int):
    """Σ over elements of (scale_x · code_x) · w, and minima times the sums of x itself."""
    d, f = 13, 5
    w = cast(drawn(seed, d, f, 8, d if activations == "row" else block, zero), np.float64)
    w = replace(w, activations=activations)
    offsets = normal(seed + 1, *w.scale.shape)
    x = normal(seed + 2, 2, 3, d)
    flat = x.reshape(-1, d)
    if activations == "none":
        seen = flat
    elif activations == "block":
        codes, scale = quantize_activations(flat, block=block)
        seen = codes * np.repeat(scale, block, axis=1)[:, :d]
    else:
        codes, scale = quant.quantize_rows(flat)
        seen = codes * scale
    wanted = seen @ dequantize(w)
    if minimum:
        w = replace(w, minimum=offsets)
        wanted = wanted + flat @ quant._spread(offsets, w)
    equal(linear_blocks(x, w), wanted.reshape(2, 3, f))


@given(seeds, st.sampled_from(("block", "row")), st.booleans())
def test_a_quantized_row_is_itself_beside_any_neighbour(seed: int, activations: str, zero: bool):
    """To the bit: what DynamicQuantizeLinear can't promise."""
    w = replace(drawn(seed, 24, 7, 8, 24 if activations == "row" else 8, zero), activations=activations)
    x = normal(seed, 4, 1, 24).astype(np.float32)
    x[2] *= 1000
    whole = linear_blocks(x, w)
    for row in range(4):
        assert (linear_blocks(x[row : row + 1], w) == whole[row : row + 1]).all()


@given(seeds, st.integers(1, 5), st.integers(1, 40), st.sampled_from((-3.0, 0.0, 3.0)))
def test_dynamic_quantize_is_the_kernel(seed: int, rows: int, width: int, shift: float):
    x = (normal(seed, rows, width) + shift).astype(np.float32)
    got = quant.dynamic_quantize(x)
    for have, want in zip(got, nodes.run("DynamicQuantizeLinear", [x], 3), strict=True):
        assert (have == want).all()
        assert have.dtype == want.dtype


@pytest.mark.parametrize("case", nodes.cases("dynamicquantizelinear", "DynamicQuantizeLinear").values())
def test_dynamic_quantize_is_onnx(case: tuple):
    _, (x,), wanted = case
    for have, want in zip(quant.dynamic_quantize(x.reshape(1, -1)), wanted, strict=True):
        assert (np.asarray(have).reshape(want.shape) == want).all()


@given(seeds, st.integers(1, 20), st.integers(1, 6), st.integers(1, 9), st.sampled_from((0, 1)))
def test_dequantize_is_the_kernel(seed: int, d: int, f: int, block: int, axis: int):
    """DequantizeLinear by blocks, of whole ones since it takes no short one."""
    w = drawn(seed, d * block, f, 8, block, zero=True)
    w = quant.transpose(w) if axis else w
    given = [np.ascontiguousarray(a) for a in (w.codes, w.scale, w.zero)]
    (wanted,) = nodes.run("DequantizeLinear", given, axis=axis, block_size=block)
    assert (dequantize(w) == wanted).all()


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_rows_are_rows_of_the_matrix(seed: int, n: int, d: int):
    table = quantize(normal(seed, n, d), bits=4, block=4, axis=1, symmetric=False)
    index = np.random.default_rng(seed).integers(0, n, (2, 3))
    assert (quant.rows(table, index) == dequantize(table)[index]).all()


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
    return nodes.graph([node], {"x": x}, constants, ["y"])[0]


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
        wanted, scale = quantize_activations(x, block=block)
        spread = np.repeat(scale, block, axis=1)
        got = np.where(spread == 0, 0, matmul_nbits(x, one) / np.where(spread == 0, 1, spread))
        assert (np.rint(got) == wanted).all()
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
    """Div, QuantizeLinear, MatMulIntegerToFloat, Mul: codes to the integer, products within budget."""
    w = replace(drawn(seed, d, f, 8, d, zero=False), activations="row")
    x = tied(seed, rows, d) if seed % 2 else normal(seed, rows, d).astype(np.float32)
    x[rows // 2] *= 1000
    constants = {
        "axis": np.array([-1], np.int64),
        "tiny": np.array(1e-30, np.float32),
        "unit": np.array(1 / 127, np.float32),
        "middle": np.array(128, np.uint8),
        "w": (w.codes.astype(np.int16) - 128).astype(np.int8),
        "scale": w.scale[0],
    }
    product = ["codes", "w", "unit", "scale", "middle", ""]
    steps = [
        helper.make_node("Abs", ["x"], ["abs"]),
        helper.make_node("ReduceMax", ["abs", "axis"], ["most"], keepdims=1),
        helper.make_node("Max", ["most", "tiny"], ["row"]),
        helper.make_node("Div", ["x", "row"], ["unit_x"]),
        helper.make_node("QuantizeLinear", ["unit_x", "unit", "middle"], ["codes"]),
        helper.make_node("MatMulIntegerToFloat", product, ["y0"], domain="com.microsoft"),
        helper.make_node("Mul", ["y0", "row"], ["y"]),
    ]
    codes, y = nodes.graph(steps, {"x": x}, constants, ["codes", "y"])
    assert (codes.astype(np.int32) - 128 == quant.quantize_rows(x)[0]).all()
    run = lambda change: linear_blocks(change(x[None]), change(w))  # noqa: E731
    allowed = budgets(run)["out"]
    assert largest(y - run(lambda a: cast(a, np.float32))[0]) <= allowed
