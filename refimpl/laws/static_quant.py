"""Laws of quantization with given scales."""

from __future__ import annotations

import numpy as np

from ..ops.static_quant import static_dequantize as back
from . import Draw, Subject, law


@law("static_quantize")
def codes_quantize_to_themselves(static_quantize: Subject, draw: Draw) -> None:
    """If a number is exactly the value of a code, `static_quantize` returns this code. Numbers beyond the
    range get the code at its end.
    """
    call = draw(static_quantize.calls())
    rng = np.random.default_rng(call["x"].size)
    low = -(2 ** (call["bits"] - 1)) if call["signed"] else 0
    codes = rng.integers(low, low + 2 ** call["bits"], call["x"].shape)
    scale = np.abs(call["scale"]) + static_quantize.dtype.type(0.5)
    here = call.but(x=back(codes, scale, call["zero"]), scale=scale)
    static_quantize.near(static_quantize(here), codes)
    far = call.but(x=np.full_like(call["x"], 1e6), scale=scale)
    assert (static_quantize(far) == low + 2 ** call["bits"] - 1).all(), "large numbers aren't clipped"


@law("static_dequantize")
def the_zero_point_stands_for_zero(static_dequantize: Subject, draw: Draw) -> None:
    """`static_dequantize` returns 0 for the zero point, and one scale for the next higher code."""
    call = draw(static_dequantize.calls())
    zeros = np.broadcast_to(call["zero"], call["codes"].shape)
    static_dequantize.near(static_dequantize(call.but(codes=zeros)), np.zeros(zeros.shape))
    step = static_dequantize(call.but(codes=call["codes"] + 1)) - static_dequantize(call)
    static_dequantize.near(step, np.broadcast_to(call["scale"], step.shape), call, call)


@law("integer_matmul")
def a_product_of_codes_is_a_product_of_numbers(integer_matmul: Subject, draw: Draw) -> None:
    """The result of `integer_matmul`, multiplied by the scales, is the product of the dequantized
    matrices, to the last bit in float64.
    """
    call = draw(integer_matmul.calls())
    a = back(call["a"].T, np.ones(len(call["zero_a"])), call["zero_a"]).T
    b = back(call["b"], np.ones(len(call["zero_b"])), call["zero_b"])
    integer_matmul.near(integer_matmul(call), (a @ b).astype(np.int64))
