"""Quantization with given scales, exactly as QuantizeLinear and DequantizeLinear compute it in an ONNX
graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float, Int


@op
def static_quantize(
    x: Float[Array, "M D"],
    scale: Float[Array, " D"],
    zero: Int[Array, " D"],
    *,
    bits: int,
    signed: bool,
) -> Int[Array, "M D"]:
    """Quantize to integers of `bits` bits: code = clip(rint(x / scale) + zero) (ONNX's QuantizeLinear).

    Conventions: halves round to the even code; a scale of 0 gives the zero point. Scales per tensor, row
    or block must be repeated to one per element.
    """
    low = -(2 ** (bits - 1)) if signed else 0
    steps = np.where(scale == 0, 0, x / np.where(scale == 0, 1, scale))
    return np.clip(np.rint(steps) + zero, low, low + 2**bits - 1).astype(np.int32)


@op
def static_dequantize(
    codes: Int[Array, "M D"],
    scale: Float[Array, " D"],
    zero: Int[Array, " D"],
) -> Float[Array, "M D"]:
    """Compute (code − zero) · scale (ONNX's DequantizeLinear). The difference is computed in integers, and
    then multiplied once.
    """
    return (codes - zero).astype(scale.dtype) * scale


@op
def integer_matmul(
    a: Int[Array, "M D"],
    b: Int[Array, "D F"],
    zero_a: Int[Array, " M"],
    zero_b: Int[Array, " F"],
) -> Int[Array, "M F"]:
    """Multiply two matrices of codes in 32-bit integers: Σ_d (a[m,d] − zero_a[m]) · (b[d,f] − zero_b[f])
    (ONNX's MatMulInteger).

    If the result is multiplied by both scales, it is the product of the two dequantized matrices, exact
    except for that one rounding.
    """
    return (a - zero_a[:, None]).astype(np.int32) @ (b - zero_b).astype(np.int32)
