"""Laws of quantization: how large the errors of codes are, and what products of codes give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..ops import quant
from ..ops.quant import Blocks
from . import Call, Draw, Subject, law
from .kit.budget import cast


def _drawn(quantize: Subject, draw: Draw, **fixed: Any) -> Call:
    """Return a random matrix of up to 24 rows and columns, to be quantized in blocks of any length."""
    return draw(
        quantize.calls(
            largest=24, bits=draw(st.sampled_from((2, 4, 8))), block=draw(st.integers(1, 20)), **fixed
        )
    )


def _spread(per_block: np.ndarray, q: Blocks) -> np.ndarray:
    """Repeat one number per block for each element of the block."""
    return np.repeat(per_block, q.block, axis=q.axis).take(range(q.shape[q.axis]), q.axis)


@law("quantize")
def the_error_is_at_most_half_a_scale(quantize: Subject, draw: Draw) -> None:
    """`quantize` changes each element by at most half a scale. The one exception is a symmetric code that
    would be 2^bits, because the sign opposite to the extreme has one code less.

    If the scale is rounded to float16, the ends of the range move too.
    """
    call = _drawn(quantize, draw)
    q = cast(quantize(call), np.float64)
    w = call["weight"].astype(np.float64)
    scale = _spread(q.scale, q)
    bound = np.abs(scale) / 2
    if call["halves"]:
        exact = cast(quantize(call.but(halves=False)), np.float64)
        bound += np.abs(scale - _spread(exact.scale, exact)) * 2**q.bits
    if call["symmetric"]:
        top = np.abs(scale) * (2 ** (q.bits - 1) - 1)
        bound = np.maximum(bound, np.where(np.sign(w) == np.sign(scale), np.abs(w) - top, 0))
    slack = 4 * np.finfo(quantize.dtype).eps * np.abs(scale) * 2**q.bits
    off = np.abs(quant.dequantize(q) - w) - bound - slack
    assert (off <= 0).all(), f"off by {off.max():.3g} more than half a scale"


@law("quantize")
def zero_is_exact(quantize: Subject, draw: Draw) -> None:
    """A weight of 0 is dequantized to exactly 0, in every scheme."""
    call = _drawn(quantize, draw)
    holes = np.random.default_rng(call["weight"].size).random(call["weight"].shape) < 0.3
    q = quantize(call.but(weight=np.where(holes, 0, call["weight"]).astype(quantize.dtype)))
    assert (quant.dequantize(q)[holes] == 0).all(), "a zero isn't 0 after rounding"


@law("quantize")
def the_extreme_of_a_symmetric_block_is_exact(quantize: Subject, draw: Draw) -> None:
    """In a symmetric block, the element of largest magnitude is dequantized exactly."""
    call = _drawn(quantize, draw, symmetric=True, axis=0, halves=False)
    w, block = call["weight"], call["block"]
    back = quant.dequantize(quantize(call))
    for first in range(0, w.shape[0], block):
        part, same = w[first : first + block], back[first : first + block]
        at = np.argmax(np.abs(part), axis=0)[None]
        want = np.take_along_axis(part, at, 0)
        off = np.abs(np.take_along_axis(same, at, 0) - want)
        assert (off <= 4 * np.finfo(quantize.dtype).eps * np.abs(want)).all(), (
            "the number of a block with the largest magnitude isn't exact after rounding"
        )


@law("quantize")
def blocks_along_the_other_axis_are_those_of_the_transpose(quantize: Subject, draw: Draw) -> None:
    """Quantizing the transposed matrix along the other axis gives the transposed codes, scales and zero
    points.
    """
    call = _drawn(quantize, draw, axis=0)
    one = quantize(call)
    other = quantize(call.but(weight=np.ascontiguousarray(call["weight"].T), axis=1))
    flipped = quant.transpose(other)
    for name in ("codes", "scale", "zero"):
        a, b = getattr(one, name), getattr(flipped, name)
        assert (a is None) == (b is None), f"the result has {name} along only one of the axes"
        assert a is None or np.array_equal(a, b), f"{name} differs if the weight and the axis are transposed"


@law("quantize")
def halves_are_the_nearest_float16(quantize: Subject, draw: Draw) -> None:
    """With `halves`, each scale is the result of `half_scales`, and the codes are the nearest ones for
    that scale.
    """
    call = _drawn(quantize, draw, halves=True, axis=0)
    q, exact = quantize(call), quantize(call.but(halves=False))
    assert np.array_equal(q.scale, quant.half_scales(exact.scale, bits=q.bits)), "other scales"
    scale = np.repeat(q.scale, q.block, axis=0)[: len(q.codes)]
    steps = np.rint(call["weight"] / np.where(scale == 0, 1, scale))
    zero = 2 ** (q.bits - 1) if q.zero is None else np.repeat(q.zero, q.block, axis=0)[: len(q.codes)]
    assert np.array_equal(q.codes, np.clip(steps + zero, 0, 2**q.bits - 1)), (
        "the codes don't belong to the scale"
    )


@law("half_scales")
def a_scale_is_a_float16_number_or_stays(half_scales: Subject, draw: Draw) -> None:
    """`half_scales` replaces a scale by the nearest float16 number. The scale stays unchanged if that
    number is infinite, or if a step would move too far.
    """
    call = draw(half_scales.calls(largest=12, bits=draw(st.sampled_from((2, 4, 8)))))
    factor = 2.0 ** draw(st.integers(-30, 20))
    exact = (call["scale"] * factor).astype(half_scales.dtype)
    got = half_scales(call.but(scale=exact)).astype(np.float64)
    exact = exact.astype(np.float64)
    # Of 11 bits, but below 2^-14 in steps of 2^-24.
    step = np.maximum(2.0 ** (np.frexp(exact)[1] - 11.0), 2.0**-24)
    near, slack = np.abs(got - exact) <= step / 2 * (1 + 2.0**-12), np.abs(exact) / 2 ** (call["bits"] + 1)
    is_half = (got % step == 0) & near & (np.abs(got) <= 65504) & (np.abs(got - exact) <= slack)
    assert (is_half | (got == exact)).all(), "a scale is neither a neighbouring float16 number nor unchanged"
    must = (np.abs(exact) >= 2.0 ** (call["bits"] - 24)) & (np.abs(exact) <= 65504)
    assert is_half[must].all(), "a scale that fits float16 wasn't changed to a float16 number"


@law("quantize_columns")
def negated_columns_have_negated_codes_and_scales_are_positive(quantize_columns: Subject, draw: Draw) -> None:
    """`quantize_columns` changes each element by at most half a scale, no scale is below 0, and a negated
    column gets negated codes.
    """
    call = draw(quantize_columns.calls(largest=24))
    w = call["weight"]
    q = quantize_columns(call)
    assert (q.scale >= 0).all() and q.zero is None and q.block == len(w)  # noqa: PT018
    slack = 0.5 + 256 * np.finfo(quantize_columns.dtype).eps
    off = np.abs(quant.dequantize(cast(q, np.float64)) - w) - slack * q.scale
    assert (off <= 1e-30).all(), f"off by {off.max():.3g} more than half a scale"
    turned = quantize_columns(call.but(weight=-w))
    assert np.array_equal(256 - turned.codes.astype(int), q.codes), "−w has other codes than −(codes of w)"


@law("dequantize")
def codes_are_steps_of_the_scale(dequantize: Subject, draw: Draw) -> None:
    """`dequantize` returns scale · (code − zero) + minimum for each element."""
    call = draw(dequantize.calls(largest=12))
    w = cast(call["weight"], np.float64)
    zero = 2.0 ** (w.bits - 1) if w.zero is None else _spread(w.zero.astype(np.float64), w)
    expected = _spread(w.scale, w) * (w.codes - zero)
    if w.minimum is not None:
        expected = expected + _spread(w.minimum, w)
    dequantize.near(dequantize(call), expected, call)


@law("rows")
def rows_are_rows_of_the_matrix(rows: Subject, draw: Draw) -> None:
    """Reading rows from the codes equals reading the same rows from the dequantized table."""
    call = draw(rows.calls())
    rows.near(rows(call), quant.dequantize(call["table"])[call["index"]], call)


@law("transpose")
def the_transpose_stands_for_the_transpose(transpose: Subject, draw: Draw) -> None:
    """The transposed codes dequantize to the transposed matrix. Transposing twice gives the original
    codes.
    """
    call = draw(transpose.calls())
    flipped = transpose(call)
    assert flipped.axis == 1 - call["weight"].axis, "the axis of the blocks wasn't transposed"
    transpose.near(quant.dequantize(flipped), quant.dequantize(call["weight"]).T)
    transpose.near(transpose(call.but(weight=flipped)).codes, call["weight"].codes)


@law("quantize_activations")
def the_largest_of_each_block_is_127(quantize_activations: Subject, draw: Draw) -> None:
    """`quantize_activations` changes each number by at most half a scale. The largest number of each block
    gets the code 127 or −127, unless the whole block is 0.
    """
    call = draw(quantize_activations.calls(largest=24, block=draw(st.integers(1, 20))))
    x, block = call["x"].astype(np.float64), call["block"]
    codes, scale = quantize_activations(call)
    spread = np.repeat(scale.astype(np.float64), block, axis=1)[:, : x.shape[1]]
    slack = 0.5 + 256 * np.finfo(quantize_activations.dtype).eps
    assert (np.abs(codes * spread - x) <= slack * spread).all(), "a code differs by more than half a step"
    for c in range(scale.shape[1]):
        part = slice(c * block, (c + 1) * block)
        expected = np.where((x[:, part] == 0).all(1), 0, 127)
        assert (np.abs(codes[:, part]).max(1) == expected).all(), "the largest code of a block isn't ±127"


@law("quantize_rows", "quantize_activations")
def codes_of_a_row_ignore_its_neighbours(quantize_rows: Subject, draw: Draw) -> None:
    """The codes of a row don't depend on other rows. With one scale for the whole tensor they would."""
    call = draw(quantize_rows.calls())
    codes, scale = quantize_rows(call)
    loud = call["x"].copy()
    loud[1:] *= 1000
    other, same = quantize_rows(call.but(x=loud))
    quantize_rows.near((other[:1], same[:1]), (codes[:1], scale[:1]))


@law("dynamic_quantize")
def zero_is_exact_and_the_range_uses_all_codes(dynamic_quantize: Subject, draw: Draw) -> None:
    """The codes of `dynamic_quantize` give (code − zero) · scale, which is off by at most one scale, and
    exact for 0.
    """
    call = draw(dynamic_quantize.calls(largest=12))
    x = call["x"].astype(np.float64)
    codes, scale, zero = dynamic_quantize(call)
    step = float(scale)
    off = np.abs((codes.astype(int) - int(zero)) * step - x)
    assert (off <= step * (1 + 1e-4)).all(), f"off by {off.max():.3g}, a step is {step:.3g}"
    nothing = dynamic_quantize(call.but(x=np.zeros_like(call["x"])))
    assert not nothing[0].any() and not nothing[1].any(), "the codes or the scale of zeros aren't 0"  # noqa: PT018


def _read_back(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return the numbers that codes of a static scale represent. Their zero point has their type."""
    most = 255 if zero.dtype == np.uint8 else 65535
    codes = np.clip(np.rint(x / scale) + int(zero), 0, most)
    return (codes - int(zero)) * scale.astype(np.float64)


@law("linear_blocks")
def a_product_of_codes_is_the_product(linear_blocks: Subject, draw: Draw) -> None:
    """`linear_blocks` returns the sum over elements of (scale_x · code_x) · w, plus the minima times the
    sums of x itself. If the output has codes too, the sum is then rounded to these codes."""
    call = draw(linear_blocks.calls(largest=12))
    w = cast(call["weight"], np.float64)
    x = call["x"].reshape(-1, call["x"].shape[-1])
    if w.input_factor is not None:
        x = x * w.input_factor.astype(x.dtype)
    seen = x.astype(np.float64)
    if w.activations in ("row", "smoothed"):
        codes, steps = quant.quantize_rows(x)
        seen = codes * steps.astype(np.float64)
    elif w.activations == "block":
        codes, steps = quant.quantize_activations(x, block=w.block)
        seen = codes * np.repeat(steps.astype(np.float64), w.block, 1)[:, : x.shape[1]]
    elif w.activations == "static":
        assert w.input_scale is not None
        assert w.input_zero is not None
        seen = _read_back(x, call["weight"].input_scale, w.input_zero)
    expected = seen @ quant.dequantize(replace(w, minimum=None))
    if w.minimum is not None:
        expected = expected + x.astype(np.float64) @ _spread(w.minimum, w)
    if w.output_scale is not None:
        assert w.output_zero is not None
        expected = _read_back(expected, w.output_scale, w.output_zero)
    got = linear_blocks(call)
    linear_blocks.near(got, expected.reshape(got.shape), call)
