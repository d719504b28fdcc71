"""The blocks of llama.cpp: a few small integers under shared scales, w = scale · code + minimum.

The blocks are the structs in ggml-common.h. The floats computed from their parts equal the floats of gguf's
own dequantizer bit for bit, so the order of the operations is part of the format. The codes of IQ4 and FP4
are indices of a list of 16 numbers. The codes of IQ1 to IQ3 are indices of a grid of vectors
(`ggml_grids`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import ggml_grids as grids
from .small_floats import E2M1

Array = np.ndarray


class Parts(NamedTuple):
    """The codes and scales of n records. `codes` are signed or unsigned 8-bit integers [n, size]. `scale` and
    `minimum` are float32 [n, blocks].

    The codes of a record are divided equally among its scales, in order.
    """

    codes: Array
    scale: Array
    minimum: Array | None = None


@dataclass(frozen=True)
class BlockType:
    """A type of block. Each record of the dtype `record` contains `size` weights, with a code of `bits` bits
    for each weight.
    """

    size: int
    bits: int
    record: np.dtype
    parts: Callable[[Any], Parts]

    @property
    def bits_per_weight(self) -> float:
        """The number of bits per weight in the file, including shared scales."""
        return 8 * self.record.itemsize / self.size


def floats(parts: Parts, out: Array) -> None:
    """Decode blocks into `out`, float32 [n, size]: out = scale · code + minimum."""
    shape = (*parts.scale.shape, -1)
    shared = out.reshape(shape)
    np.multiply(parts.scale[..., None], parts.codes.reshape(shape), out=shared)
    if parts.minimum is not None:
        shared += parts.minimum[..., None]


def _fields(packed: Array, width: int, bits: int) -> Array:
    """Unpack bytes [n, bytes] into fields of `bits` bits each, [n, bytes · 8 / bits].

    Each group of `width` bytes gives the lowest field of every byte, then the next higher field of every
    byte, and so on.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = packed.reshape(len(packed), -1, 1, width) >> shifts
    parts &= np.uint8(2**bits - 1)
    return parts.reshape(len(packed), -1)


def _less(codes: Array, middle: int) -> Array:
    """Return unsigned codes minus `middle`, as signed codes."""
    return codes.view(np.int8) - np.int8(middle)


def _f32(half: Array) -> Array:
    return half.astype(np.float32)[:, None]


def _q1_0(b: Any) -> Parts:
    return Parts(_less(2 * _fields(b["q"], 1, 1), 1), _f32(b["d"]))


def _q2_0(b: Any) -> Parts:
    return Parts(_less(_fields(b["q"], 1, 2), 1), _f32(b["d"]))


def _q4_0(b: Any) -> Parts:
    return Parts(_less(_fields(b["q"], 16, 4), 8), _f32(b["d"]))


def _q4_1(b: Any) -> Parts:
    return Parts(_fields(b["q"], 16, 4), _f32(b["d"]), _f32(b["m"]))


def _five(b: Any) -> Array:
    return _fields(b["q"], 16, 4) | _fields(b["high"], 1, 1) << 4


def _q5_0(b: Any) -> Parts:
    return Parts(_less(_five(b), 16), _f32(b["d"]))


def _q5_1(b: Any) -> Parts:
    return Parts(_five(b), _f32(b["d"]), _f32(b["m"]))


def _q8_0(b: Any) -> Parts:
    return Parts(b["q"], _f32(b["d"]))


def _q2_k(b: Any) -> Parts:
    return Parts(_fields(b["q"], 32, 2), _f32(b["d"]) * (b["s"] & 15), -_f32(b["m"]) * (b["s"] >> 4))


def _q3_k(b: Any) -> Parts:
    # Twelve bytes hold sixteen 6-bit scales: the low four bits of each, then the high two.
    scale = _fields(b["s"][:, :8], 8, 4) | _fields(b["s"][:, 8:], 4, 2) << 4
    codes = _fields(b["q"], 32, 2) | _fields(b["high"], 32, 1) << 2
    return Parts(_less(codes, 4), _f32(b["d"]) * _less(scale, 32))


def _six_bits(b: Any) -> tuple[Array, Array]:
    """Return the scales and minima of Q4_K and Q5_K. Twelve bytes contain eight scales and eight minima of
    six bits each.
    """
    low, middle, high = b["s"][:, :4], b["s"][:, 4:8], b["s"][:, 8:]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 2 & 48)], axis=1)
    minimum = np.concatenate([middle & 63, (high >> 4) | (middle >> 2 & 48)], axis=1)
    return _f32(b["d"]) * scale, -_f32(b["m"]) * minimum


def _q4_k(b: Any) -> Parts:
    return Parts(_fields(b["q"], 32, 4), *_six_bits(b))


def _q5_k(b: Any) -> Parts:
    return Parts(_fields(b["q"], 32, 4) | _fields(b["high"], 32, 1) << 4, *_six_bits(b))


def _q6_k(b: Any) -> Parts:
    codes = _fields(b["q"], 64, 4) | _fields(b["high"], 32, 2) << 4
    return Parts(_less(codes, 32), _f32(b["d"]) * b["s"])


def _tq1_0(b: Any) -> Parts:
    """Decode TQ1_0, which stores five digits of base 3 in a byte.

    The byte is read as the fraction byte / 256, in base 3. Multiplying the fraction by 3 gives the first
    digit as the integer part, and the other digits as the remaining fraction."""
    powers = np.uint8(3) ** np.arange(5, dtype=np.uint8)[:, None]
    groups = ((b["q"][:, :32], 5), (b["q"][:, 32:], 5), (b["high"], 4))
    rest = [(packed[:, None] * powers[:digits]).reshape(len(b), -1) for packed, digits in groups]
    codes = np.concatenate(rest, axis=1, dtype=np.uint16) * 3 >> 8
    return Parts(_less(codes.astype(np.uint8), 1), _f32(b["d"]))


def _tq2_0(b: Any) -> Parts:
    return Parts(_less(_fields(b["q"], 32, 2), 1), _f32(b["d"]))


# Twice the float of each code, which is whole; the scales are halved.
FP4 = (2 * E2M1).astype(np.int8)


def _half_of_fp8() -> Array:
    """Return a table with half of the value of each 8-bit float, for the scales of NVFP4. Such a float has
    four bits of exponent and three bits of mantissa, and its sign is ignored. The code 127 means 0.
    """
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    values = np.ldexp(mantissa + 8.0 * (exponent > 0), np.maximum(exponent, 1) - 11)
    values[127] = 0
    return values.astype(np.float32)


HALF_OF_POWER = np.ldexp(np.float32(1), np.arange(256) - 128)
HALF_OF_FP8 = _half_of_fp8()


def _mxfp4(b: Any) -> Parts:
    return Parts(FP4[_fields(b["q"], 16, 4)], HALF_OF_POWER[b["e"]][:, None])


def _nvfp4(b: Any) -> Parts:
    return Parts(FP4[_fields(b["q"], 8, 4)], HALF_OF_FP8[b["e"]])


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _iq4_nl(b: Any) -> Parts:
    return Parts(IQ4[_fields(b["q"], 16, 4)], _f32(b["d"]))


def _iq4_xs(b: Any) -> Parts:
    scale = _fields(b["low"], 1, 4) | _fields(b["high"], 1, 2) << 4
    return Parts(IQ4[_fields(b["q"], 16, 4)], _f32(b["d"]) * _less(scale, 32))


def _signed(codes: Array, signs: Array) -> Array:
    """Return codes [n, 256], negated where the bit of `signs` [n, 32] is set. The low bit of a byte comes
    first.
    """
    negative = np.unpackbits(np.ascontiguousarray(signs), axis=1, bitorder="little")
    return codes.reshape(negative.shape) * (1 - 2 * negative.view(np.int8))


def _even(seven: Array) -> Array:
    """Complete groups of eight sign bits from the seven bits that are stored. The eighth bit makes the number
    of negative signs even.
    """
    seven = seven.astype(np.uint8)
    return seven | (np.bitwise_count(seven) & 1) << 7


def _signs_and_scale(words: Array) -> tuple[Array, Array]:
    """Split 32-bit words [n, 8] into signs and scales.

    The low 28 bits of a word are four groups of seven signs, which give bytes [n, 32] with eight signs each.
    The high four bits are a number s, which gives the scale s + 1/2 [n, 8].
    """
    seven = words[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127
    return _even(seven).reshape(len(words), -1), (words >> 28).astype(np.float32) + np.float32(0.5)


def _nibbles_and_half(packed: Array) -> Array:
    """Return s + 1/2 for each 4-bit scale s of the packed bytes."""
    return _fields(packed, 1, 4).astype(np.float32) + np.float32(0.5)


def _iq2_xxs(b: Any) -> Parts:
    signs, scale = _signs_and_scale(b["q"]["word"])
    codes = grids.IQ2_XXS.points[b["q"]["index"]]
    return Parts(_signed(codes, signs), _f32(b["d"]) * scale * np.float32(0.25))


def _iq2_xs(b: Any) -> Parts:
    codes = grids.IQ2_XS.points[b["q"] & 511]
    scale = _f32(b["d"]) * _nibbles_and_half(b["s"]) * np.float32(0.25)
    return Parts(_signed(codes, _even(b["q"] >> 9)), scale)


def _iq2_s(b: Any) -> Parts:
    codes = grids.IQ2_S.points[b["q"] | _fields(b["high"], 1, 2).astype(np.uint16) << 8]
    scale = _f32(b["d"]) * _nibbles_and_half(b["s"]) * np.float32(0.25)
    return Parts(_signed(codes, b["signs"]), scale)


def _iq3_xxs(b: Any) -> Parts:
    signs, scale = _signs_and_scale(b["words"])
    return Parts(_signed(grids.IQ3_XXS.points[b["q"]], signs), _f32(b["d"]) * scale * np.float32(0.5))


def _iq3_s(b: Any) -> Parts:
    codes = grids.IQ3_S.points[b["q"] | _fields(b["high"], 1, 1).astype(np.uint16) << 8]
    return Parts(_signed(codes, b["signs"]), _f32(b["d"]) * (1 + 2 * _fields(b["s"], 1, 4)))


def _eighths(index: Array, negative: Array) -> Array:
    """Return eight times the values of IQ1's codes. Eight neighbouring values are a vector of −1, 0 and 1
    from the grid, plus 1/8, or minus 1/8 if `negative` is 1.
    """
    codes = 8 * grids.IQ1.points[index]
    codes += (1 - 2 * negative.view(np.int8))[..., None]
    return codes.reshape(len(index), -1)


def _iq1_s(b: Any) -> Parts:
    high = b["high"][..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7
    index = b["q"] | high.reshape(len(b), -1) << 8
    negative = np.repeat((b["high"] >> 15).astype(np.uint8), 4, axis=1)
    odd = (2 * (b["high"] >> 12 & 7) + 1).astype(np.float32)
    return Parts(_eighths(index, negative), _f32(b["d"]) * odd * np.float32(0.125))


def _iq1_m(b: Any) -> Parts:
    """Decode IQ1_M, the only type that stores its float16 scale in four parts. Each part is the top four bits
    of a word of 3-bit scales.
    """
    words, high = b["words"], _fields(b["high"], 1, 4)
    d = np.bitwise_or.reduce((words & 0xF000) >> np.array([12, 8, 4, 0], np.uint16), axis=1)
    odd = 2 * (words[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7) + 1
    index = b["q"] | (high & 7).astype(np.uint16) << 8
    scale = _f32(d.view(np.float16)) * odd.reshape(len(b), -1).astype(np.float32)
    return Parts(_eighths(index, high >> 3), scale * np.float32(0.125))


def _type(size: int, bits: int, parts: Callable[[Any], Parts], *fields: tuple[Any, ...]) -> BlockType:
    return BlockType(size, bits, np.dtype(list(fields)), parts)


def _bytes(name: str, count: int) -> tuple[Any, ...]:
    return (name, "u1", (count,))


_D, _M, _S12, _SIGNS = ("d", "<f2"), ("m", "<f2"), _bytes("s", 12), _bytes("signs", 32)
BLOCK_TYPES = {
    "Q1_0": _type(128, 2, _q1_0, _D, _bytes("q", 16)),
    "Q2_0": _type(64, 2, _q2_0, _D, _bytes("q", 16)),
    "Q4_0": _type(32, 4, _q4_0, _D, _bytes("q", 16)),
    "Q4_1": _type(32, 4, _q4_1, _D, _M, _bytes("q", 16)),
    "Q5_0": _type(32, 5, _q5_0, _D, _bytes("high", 4), _bytes("q", 16)),
    "Q5_1": _type(32, 5, _q5_1, _D, _M, _bytes("high", 4), _bytes("q", 16)),
    "Q8_0": _type(32, 8, _q8_0, _D, ("q", "i1", (32,))),
    "Q2_K": _type(256, 2, _q2_k, _bytes("s", 16), _bytes("q", 64), _D, _M),
    "Q3_K": _type(256, 3, _q3_k, _bytes("high", 32), _bytes("q", 64), _S12, _D),
    "Q4_K": _type(256, 4, _q4_k, _D, _M, _S12, _bytes("q", 128)),
    "Q5_K": _type(256, 5, _q5_k, _D, _M, _S12, _bytes("high", 32), _bytes("q", 128)),
    "Q6_K": _type(256, 6, _q6_k, _bytes("q", 128), _bytes("high", 64), ("s", "i1", (16,)), _D),
    "IQ1_S": _type(256, 5, _iq1_s, _D, _bytes("q", 32), ("high", "<u2", (8,))),
    "IQ1_M": _type(256, 5, _iq1_m, _bytes("q", 32), _bytes("high", 16), ("words", "<u2", (4,))),
    "IQ2_XXS": _type(256, 7, _iq2_xxs, _D, ("q", [("index", "u1", (4,)), ("word", "<u4")], (8,))),
    "IQ2_XS": _type(256, 7, _iq2_xs, _D, ("q", "<u2", (32,)), _bytes("s", 8)),
    "IQ2_S": _type(256, 7, _iq2_s, _D, _bytes("q", 32), _SIGNS, _bytes("high", 8), _bytes("s", 8)),
    "IQ3_XXS": _type(256, 7, _iq3_xxs, _D, _bytes("q", 64), ("words", "<u4", (8,))),
    "IQ3_S": _type(256, 5, _iq3_s, _D, _bytes("q", 64), _bytes("high", 8), _SIGNS, _bytes("s", 4)),
    "IQ4_NL": _type(32, 8, _iq4_nl, _D, _bytes("q", 16)),
    "IQ4_XS": _type(256, 8, _iq4_xs, _D, _bytes("high", 2), _bytes("low", 4), _bytes("q", 128)),
    "TQ1_0": _type(256, 2, _tq1_0, _bytes("q", 48), _bytes("high", 4), _D),
    "TQ2_0": _type(256, 2, _tq2_0, _bytes("q", 64), _D),
    "MXFP4": _type(32, 5, _mxfp4, ("e", "u1"), _bytes("q", 16)),
    "NVFP4": _type(64, 5, _nvfp4, _bytes("e", 4), _bytes("q", 32)),
}
