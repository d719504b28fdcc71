"""Quantization: values are stored as small integers times a scale. This module specifies the integers
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from .arrays import each_row, join_rows, repeated, rows_at, split_rows, whole
from .dispatch import op
from .static_quant import static_dequantize, static_quantize

if TYPE_CHECKING:
    from ..axes import Array, Float, Index, Int, UInt8, UInt16

LANES = 16  # sums that are added to in turn
NEAR = 1 << 15  # numbers of a product's part, which stay in a processor's cache
# Activations with one scale per row, for which a weight's block is the whole column.
ROW_SCALED = frozenset({"row", "smoothed", "static"})


@dataclass(frozen=True, eq=False)
class Blocks:
    """A quantized matrix: its elements are codes of `bits` bits, and each `block` of neighbours along
    `axis` shares a scale.

    w = scale · (code − zero) + minimum. A zero of None means 2^(bits−1), and a minimum of None means 0.
    Shapes for axis 0: codes [D, F]; scale, zero and minimum [C, F] with C = ceil(D / block). Shapes for
    axis 1: codes [N, D], the others [N, C]. The last block may be short.

    `activations` says how a product quantizes its input:

    - "none": not at all.
    - "block": in 8-bit blocks of the same length, as ONNX Runtime's MatMulNBits does with accuracy_level 4.
    - "row": with one scale for each row.
    - "smoothed": as "row", after each channel was multiplied by its `input_factor`.
    - "static": in unsigned codes with the given `input_scale` and `input_zero`. An `output_scale` and
      `output_zero` may then round the product's output too. As in ONNX, codes have the type of their zero
      point: 8 bits or 16.

    The fields named under "smoothed" and "static" are set only for these two.
    """

    codes: UInt8[Array, "D F"]
    scale: Float[Array, "C F"]
    zero: UInt8[Array, "C F"] | None
    minimum: Float[Array, "C F"] | None
    bits: int
    block: int
    axis: int
    activations: Literal["none", "block", "row", "smoothed", "static"]
    input_scale: Float[Array, ""] | None = None
    input_zero: UInt8[Array, ""] | UInt16[Array, ""] | None = None
    input_factor: Float[Array, " D"] | None = None
    output_scale: Float[Array, ""] | None = None
    output_zero: UInt8[Array, ""] | UInt16[Array, ""] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix that the codes represent."""
        return self.codes.shape


def spread(per_block: Array, blocks: Blocks) -> Array:
    """Repeat the values of blocks [C, F] to [D, F], so that each weight gets the value of its block."""
    length = blocks.codes.shape[blocks.axis]
    index = np.arange(length) // blocks.block
    return np.take(per_block, index, axis=blocks.axis)


@op
def half_scales(scale: Float[Array, "C F"], *, bits: int) -> Float[Array, "C F"]:
    """Round each scale s to the nearest float16 number h, in the type of s, if h is near enough for codes
    of `bits` bits.

    h must be finite and |h − s| ≤ 2^−(bits + 1)·|s|, so that the ends of a range of 2^bits steps move by
    at most half a step. Otherwise the scale stays s. That happens above 65504, and below 2^(bits − 24),
    where the spacing of float16, 2^−24, is too wide. Conventions: s is rounded to float32 first, and
    halves are rounded to even.
    """
    with np.errstate(over="ignore"):
        half = scale.astype(np.float32).astype(np.float16).astype(scale.dtype)
    fits = np.abs(half - scale) * 2 ** (bits + 1) <= np.abs(scale)
    return np.where(fits, half, scale)


@op
def quantize(
    weight: Float[Array, "D F"],
    *,
    bits: int,
    block: int,
    axis: int = 0,
    symmetric: bool = True,
    activations: Literal["none", "block", "row"] = "block",
    halves: bool = False,
) -> Blocks:
    """Quantize a matrix block by block, rounding each weight to the nearest code.

    Symmetric: let e be the element of largest magnitude with its sign. Then scale = e / −2^(bits−1), so
    that e is exact and all codes are used (llama.cpp's Q4_0), and code = clip(rint(w / scale) + zero).

    Asymmetric: the range is widened to include 0. Then scale = (max − min) / (2^bits − 1) and zero =
    clip(rint(−min / scale)), so that 0 is exact.

    With `halves`, the scale is rounded by `half_scales`, and codes and zero points are computed with the
    rounded scale. Conventions: rint rounds halves to even. A block of zeros has scale 0 and codes at the
    zero point. If two extremes are equal in magnitude, the first one is e.
    """
    length = weight.shape[axis]
    count = -(-length // block)
    w = np.moveaxis(weight, axis, -1)
    padded = np.zeros((*w.shape[:-1], count * block), w.dtype)
    padded[..., :length] = w
    parts = padded.reshape(*w.shape[:-1], count, block)
    top, mid = 2**bits - 1, 2 ** (bits - 1)
    low = None if symmetric else np.minimum(parts.min(axis=-1, keepdims=True), 0)
    if low is None:
        at = np.argmax(np.abs(parts), axis=-1, keepdims=True)
        scale = np.take_along_axis(parts, at, axis=-1) / -mid
    else:
        scale = (np.maximum(parts.max(axis=-1, keepdims=True), 0) - low) / top
    if halves:
        scale = half_scales(scale[..., 0], bits=bits)[..., None]
    if low is None:
        zero = np.full_like(scale, mid)
    else:
        zero = np.clip(np.rint(-low / np.where(scale == 0, 1, scale)), 0, top)
    codes = np.clip(np.rint(parts / np.where(scale == 0, 1, scale)) + zero, 0, top)
    codes = codes.reshape(*w.shape[:-1], count * block)[..., :length].astype(np.uint8)
    back = lambda a: np.ascontiguousarray(np.moveaxis(a, -1, axis))  # noqa: E731
    return Blocks(
        codes=back(codes),
        scale=back(scale[..., 0]),
        zero=None if symmetric else back(zero[..., 0].astype(np.uint8)),
        minimum=None,
        bits=bits,
        block=block,
        axis=axis,
        activations=activations,
    )


@op
def quantize_columns(weight: Float[Array, "D F"]) -> Blocks:
    """Quantize a matrix with one positive scale max|w| / 127 per column and with codes from −127 to 127,
    for products with a static input scale.

    Devices with static int8 require this form: no zero point, no negative scale, and a symmetric range.
    Conventions: codes are rounded as in `quantize_rows` and stored with 128 added, as in all Blocks. The
    caller sets the scales and zero points of input and output.
    """
    codes, scale = quantize_rows(weight.T)
    codes, scale = (codes.T + 128).astype(np.uint8), scale.T
    return Blocks(codes, scale, None, None, 8, weight.shape[0], 0, "static")


@op
def dequantize(weight: Blocks) -> Float[Array, "D F"]:
    """Return the matrix that the codes represent, scale · (code − zero) + minimum, in the scale's type."""
    w = np.empty(weight.codes.shape, weight.scale.dtype)
    codes, by_block = np.moveaxis(weight.codes, weight.axis, 0), np.moveaxis(w, weight.axis, 0)
    for c, scale in enumerate(np.moveaxis(weight.scale, weight.axis, 0)):
        part = slice(c * weight.block, (c + 1) * weight.block)
        zero = 2 ** (weight.bits - 1) if weight.zero is None else weight.zero.take(c, axis=weight.axis)
        # Small whole numbers, exact in any float type.
        np.subtract(codes[part], zero, out=by_block[part], dtype=w.dtype)
        by_block[part] *= scale
    return w if weight.minimum is None else w + spread(weight.minimum, weight)


@op
def rows(table: Blocks, index: Index[Array, "B T", "< N"]) -> Float[Array, "B T D"]:
    """Return the chosen rows of a table, dequantized. The table must be blocked along axis 1."""
    pick = lambda a: None if a is None else join_rows(rows_at(a, index))  # noqa: E731
    chosen = replace(
        table,
        codes=pick(table.codes),
        scale=pick(table.scale),
        zero=pick(table.zero),
        minimum=pick(table.minimum),
    )
    return split_rows(dequantize(chosen), index)


@op
def transpose(weight: Blocks) -> Blocks:
    """Return the transposed matrix, which has the same codes and is blocked along the other axis."""
    flip = lambda a: None if a is None else a.T  # noqa: E731
    return replace(
        weight,
        codes=weight.codes.T,
        scale=weight.scale.T,
        zero=flip(weight.zero),
        minimum=flip(weight.minimum),
        axis=1 - weight.axis,
    )


@op
def quantize_activations(
    x: Float[Array, "M D"], *, block: int
) -> tuple[Int[Array, "M D"], Float[Array, "M C"]]:
    """Quantize each block of a row to signed 8-bit codes with one scale: code = rint(x · (127 / max|x|)).
    Returns codes and scales.

    Conventions: the factor 127 / max|x| is rounded once and then multiplied, as ONNX Runtime's kernels do.
    The stored scale is max|x| / 127. If the factor isn't finite, codes are 0. This happens if all numbers
    of a block are zero, or smaller than 127 / the largest number of the type. A block with a number that
    isn't finite has codes 0 and scale NaN, so that a product with it is NaN. Rows are independent.
    """
    length = x.shape[1]
    count = -(-length // block)
    padded = np.zeros((x.shape[0], count * block), x.dtype)
    padded[:, :length] = x
    parts = padded.reshape(x.shape[0], count, block)
    largest = np.max(np.abs(parts), axis=-1, keepdims=True)
    finite = np.isfinite(largest)
    with np.errstate(divide="ignore", over="ignore"):
        factor = 127 / largest
    used = finite & np.isfinite(factor)
    codes = np.rint(np.where(used, parts, 0) * np.where(used, factor, 0)).astype(np.int32)
    return codes.reshape(padded.shape)[:, :length], np.where(finite, largest / 127, np.nan)[..., 0]


@op
def quantize_rows(x: Float[Array, "M D"]) -> tuple[Int[Array, "M D"], Float[Array, "M 1"]]:
    """Quantize each row to signed 8-bit codes with one scale s: code = rint(x / s), s = max|x| / 127.
    Returns codes and scales.

    Conventions: both divisions are rounded. QuantizeLinear rounds the second one in the same way. max|x|
    is replaced by 1e-30 if it is smaller, so that a row of zeros gives codes 0. A row with a number that
    isn't finite has codes 0 and scale NaN, so that a product with it is NaN.
    """
    largest = np.maximum(np.max(np.abs(x), axis=-1, keepdims=True), x.dtype.type(1e-30))
    finite = np.isfinite(largest)
    scale = np.where(finite, largest, 1) / 127
    return np.rint(np.where(finite, x, 0) / scale).astype(np.int32), np.where(finite, scale, np.nan)


@op
def dynamic_quantize(
    x: Float[Array, "M D"],
) -> tuple[UInt8[Array, "M D"], Float[Array, ""], UInt8[Array, ""]]:
    """Quantize a tensor to 8 bits with one scale and one zero point, as ONNX's DynamicQuantizeLinear does.

    The range is widened to include 0; scale = (max − min) / 255, zero = clip(rint(−min / scale)), code =
    clip(rint(x / scale) + zero). This op is here because other exporters use it. With a single scale, one
    large row costs all other rows their precision. So tfm's own schemes use `quantize_activations`.
    """
    low, high = np.minimum(x.min(), 0), np.maximum(x.max(), 0)
    scale = np.asarray((high - low) / 255, x.dtype)
    if scale == 0:
        return np.zeros(x.shape, np.uint8), scale, np.zeros((), np.uint8)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    codes = np.clip(np.rint(x / scale) + zero, 0, 255)
    return codes.astype(np.uint8), scale, zero.astype(np.uint8)


def _input_codes(x: Array, weight: Blocks) -> tuple[Array, Array]:
    """Return signed codes of a product's input and their scales, as the weight's `activations` says."""
    if weight.activations in ("row", "smoothed"):
        return quantize_rows(x)
    if weight.activations == "block":
        return quantize_activations(x, block=weight.block)
    assert weight.input_scale is not None
    codes, _, zero = _static_codes(x, weight.input_scale, weight.input_zero)
    return codes - zero, repeated(weight.input_scale[None, None], x.shape[0], 0)


def _static_codes(x: Array, scale: Array | None, zero: Array | None) -> tuple[Array, Array, Array]:
    """Return codes of rows by one scale and zero point. The scale and the zero point are repeated for a
    row's elements.
    """
    assert scale is not None
    assert zero is not None
    scales, zeros = (repeated(a[None], x.shape[1], 0) for a in (scale, whole(zero)))
    return static_quantize(x, scales, zeros, bits=8 * zero.itemsize, signed=False), scales, zeros


def _block_sums(x: Array, block: int) -> Array:
    """Return the sums of the blocks of rows: [M, D] becomes [M, C].

    Number i of a block is added to lane i mod 16, in order from 0. Then lanes j and j + 8 are added, of
    the 8 sums j and j + 4, and so on. So vectors of any length up to 16 give the same bits.
    """
    count, length = -(-x.shape[1] // block), -(-block // LANES) * LANES
    x = np.pad(x, ((0, 0), (0, count * block - x.shape[1]))).reshape(len(x), count, block)
    x = np.pad(x, ((0, 0), (0, 0), (0, length - block)))
    lanes = np.zeros((len(x), count, LANES), x.dtype)
    for i in range(0, length, LANES):
        lanes += x[..., i : i + LANES]
    while (half := lanes.shape[-1] // 2) > 0:
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


@op
def linear_blocks(x: Float[Array, "B T D"], weight: Blocks) -> Float[Array, "B T F"]:
    """Return x · W for a quantized W that is blocked along axis 0. `activations` of W says how the input
    is quantized:

    - none: x @ dequantize(W)
    - block: Σ_c scale_x[c] · scale_w[c] · (codes_x[c] @ (codes_w[c] − zero[c])), with exact integers
    - row: the same with codes and scale of the whole row (one block is the whole column)
    - smoothed: as row
    - static: the same with codes of a given scale for all rows, minus their zero point

    With an `input_factor`, x is multiplied by it first, since W was divided by it. A minimum adds to each
    term (sum of x over block c) · minimum[c], in floating point.

    With an `output_scale` s and `output_zero` z the result is (q − z) · s with q = clip(rint(y / s) + z,
    0, 2^bits − 1), where y is the sum above: ONNX's QuantizeLinear and DequantizeLinear (opset 21). A bias
    is added to that result. With 16 bits, Qualcomm and AIMET call this w8a16: 8-bit weights, and inputs
    and outputs in QNN_DATATYPE_UFIXED_POINT_16. QNN multiplies integers only if both sides are codes.

    Conventions: terms are added in order, from 0; each product and sum of floats is rounded once. The sum
    of x over a block is computed by `_block_sums`. So the bits of a row's result depend only on that row.
    """
    if weight.input_factor is not None:
        x = x * weight.input_factor
    if weight.activations == "none":
        return each_row(x, dequantize(weight))
    flat = join_rows(x)
    y = blocks_of_products(flat, *_input_codes(flat, weight), weight)
    if weight.output_scale is not None:
        y = static_dequantize(*_static_codes(y, weight.output_scale, weight.output_zero))
    return split_rows(y, x)


@op
def blocks_of_products(x: Array, codes: Array, scale: Array, weight: Blocks) -> Array:
    """Return the sum over all blocks of the products of a weight's codes with rows x [M, D], which have
    codes [M, D] and scales [M, C].
    """
    # BLAS computes sums of whole numbers exactly, below 2^24 in float32 and below 2^53 in float64.
    largest = 255 if weight.input_zero is None else np.iinfo(weight.input_zero.dtype).max
    exact = np.float32 if weight.block * 255 * int(largest) < 2**24 else np.float64
    codes = codes.astype(exact)
    sums = None if weight.minimum is None else _block_sums(x, weight.block)
    y = np.empty((len(x), weight.codes.shape[1]), x.dtype)
    count = max(LANES, NEAR // max(len(x), min(weight.block, len(weight.codes))))
    for start in range(0, y.shape[1], count):
        columns = slice(start, start + count)
        part_of_y = np.zeros_like(y[:, columns], order="C")
        for c in range(weight.scale.shape[0]):
            part = slice(c * weight.block, (c + 1) * weight.block)
            zero = 2 ** (weight.bits - 1) if weight.zero is None else weight.zero[c, columns]
            whole_codes = weight.codes[part, columns].astype(exact)
            whole_codes -= zero
            dots = codes[:, part] @ whole_codes
            both = (scale[:, c, None] * weight.scale[c, columns]).astype(x.dtype, copy=False)
            term = np.multiply(both, dots.astype(x.dtype, copy=False), out=both)
            if sums is not None and weight.minimum is not None:
                term += (sums[:, c, None] * weight.minimum[c, columns]).astype(x.dtype, copy=False)
            part_of_y += term
        y[:, columns] = part_of_y
    return y
