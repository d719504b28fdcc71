"""Numbers as files store them: plain floats and the blocks of llama.cpp, widened to float32.

A block is a few small integers under shared scales (ggml-common.h has the structs). Results equal
those of gguf's own dequantizer bit for bit, so the order of the operations is part of the format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..ops.quant import Blocks

Array = np.ndarray
CHUNK = 2**18  # elements decoded at a time: temporaries stay in the processor's cache


def _fields(packed: Array, width: int, bits: int) -> Array:
    """Unpack [n, bytes] into [n, bytes · 8/bits]: `width` low fields, then `width` higher ones, …"""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = packed.reshape(len(packed), -1, 1, width) >> shifts
    parts &= np.uint8(2**bits - 1)
    return parts.reshape(len(packed), -1)


def _f32(half: Array) -> Array:
    return half.astype(np.float32)[:, None]


def _bf16(b: Any, out: Array) -> None:
    np.left_shift(b["x"], 16, out=out.view(np.uint32), dtype=np.uint32)


def _q4_0(b: Any, out: Array) -> None:
    np.multiply(_f32(b["d"]), _fields(b["q"], 16, 4).view(np.int8) - np.int8(8), out=out)


def _q4_1(b: Any, out: Array) -> None:
    np.multiply(_f32(b["d"]), _fields(b["q"], 16, 4), out=out)
    out += _f32(b["m"])


def _five(b: Any) -> Array:
    return _fields(b["q"], 16, 4) | _fields(b["high"], 1, 1) << 4


def _q5_0(b: Any, out: Array) -> None:
    np.multiply(_f32(b["d"]), _five(b).view(np.int8) - np.int8(16), out=out)


def _q5_1(b: Any, out: Array) -> None:
    np.multiply(_f32(b["d"]), _five(b), out=out)
    out += _f32(b["m"])


def _q8_0(b: Any, out: Array) -> None:
    np.multiply(b["q"], _f32(b["d"]), out=out)


def _scaled(out: Array, scale: Array, codes: Array, minimum: Array | None = None) -> None:
    """out = scale · codes − minimum, each scale over its share of the 256 codes."""
    shape = (*scale.shape, -1)
    out = out.reshape(shape)
    np.multiply(scale[..., None], codes.reshape(shape), out=out)
    if minimum is not None:
        out -= minimum[..., None]


def _q2_k(b: Any, out: Array) -> None:
    scale, minimum = _f32(b["d"]) * (b["s"] & 15), _f32(b["m"]) * (b["s"] >> 4)
    _scaled(out, scale, _fields(b["q"], 32, 2), minimum)


def _q3_k(b: Any, out: Array) -> None:
    # Twelve bytes hold sixteen 6-bit scales: the low four bits of each, then the high two.
    scale = _fields(b["s"][:, :8], 8, 4) | _fields(b["s"][:, 8:], 4, 2) << 4
    codes = _fields(b["q"], 32, 2).view(np.int8) - ((_fields(b["high"], 32, 1) ^ 1) << 2).view(np.int8)
    _scaled(out, _f32(b["d"]) * (scale.view(np.int8) - np.int8(32)), codes)


def _six_bits(b: Any) -> tuple[Array, Array]:
    """Scales and minima of Q4_K and Q5_K: eight of each, six bits wide, in twelve bytes."""
    low, middle, high = b["s"][:, :4], b["s"][:, 4:8], b["s"][:, 8:]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 2 & 48)], axis=1)
    minimum = np.concatenate([middle & 63, (high >> 4) | (middle >> 2 & 48)], axis=1)
    return _f32(b["d"]) * scale, _f32(b["m"]) * minimum


def _q4_k(b: Any, out: Array) -> None:
    scale, minimum = _six_bits(b)
    _scaled(out, scale, _fields(b["q"], 32, 4), minimum)


def _q5_k(b: Any, out: Array) -> None:
    scale, minimum = _six_bits(b)
    _scaled(out, scale, _fields(b["q"], 32, 4) | _fields(b["high"], 32, 1) << 4, minimum)


def _q6_k(b: Any, out: Array) -> None:
    codes = _fields(b["q"], 64, 4) | _fields(b["high"], 32, 2) << 4
    _scaled(out, _f32(b["d"]) * b["s"], codes.view(np.int8) - np.int8(32))


@dataclass(frozen=True)
class Kind:
    """How one type of number is stored: `size` elements in a record of the dtype `record`."""

    size: int
    record: np.dtype
    decode: Callable[[Any, Array], None] | None  # None: sizes are known, values can't be read


def _kind(size: int, decode: Callable[[Any, Array], None], *fields: tuple[Any, ...]) -> Kind:
    return Kind(size, np.dtype(list(fields)), decode)


def _copy(b: Any, out: Array) -> None:
    out[...] = b["x"]


_D, _M, _S12 = ("d", "<f2"), ("m", "<f2"), ("s", "u1", (12,))
KINDS = {
    "F32": _kind(1, _copy, ("x", "<f4", (1,))),
    "F16": _kind(1, _copy, ("x", "<f2", (1,))),
    "BF16": _kind(1, _bf16, ("x", "<u2", (1,))),
    "Q4_0": _kind(32, _q4_0, _D, ("q", "u1", (16,))),
    "Q4_1": _kind(32, _q4_1, _D, _M, ("q", "u1", (16,))),
    "Q5_0": _kind(32, _q5_0, _D, ("high", "u1", (4,)), ("q", "u1", (16,))),
    "Q5_1": _kind(32, _q5_1, _D, _M, ("high", "u1", (4,)), ("q", "u1", (16,))),
    "Q8_0": _kind(32, _q8_0, _D, ("q", "i1", (32,))),
    "Q2_K": _kind(256, _q2_k, ("s", "u1", (16,)), ("q", "u1", (64,)), _D, _M),
    "Q3_K": _kind(256, _q3_k, ("high", "u1", (32,)), ("q", "u1", (64,)), _S12, _D),
    "Q4_K": _kind(256, _q4_k, _D, _M, _S12, ("q", "u1", (128,))),
    "Q5_K": _kind(256, _q5_k, _D, _M, _S12, ("high", "u1", (32,)), ("q", "u1", (128,))),
    "Q6_K": _kind(256, _q6_k, ("q", "u1", (128,)), ("high", "u1", (64,)), ("s", "i1", (16,)), _D),
}
INTEGERS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8, "F64": 8}
# Masks and positions: compared, never computed with.
READABLE_INTEGERS = {"BOOL": "u1", "U8": "u1", "I64": "<i8"}
KINDS |= {name: Kind(1, np.dtype((np.void, size)), None) for name, size in INTEGERS.items()}


def widen(raw: Array, kind: str, shape: tuple[int, ...]) -> Array:
    """The float32 array that raw bytes stand for; a view of them where they are float32 already."""
    if kind == "F32":
        return np.require(raw.view("<f4"), np.float32, "A").reshape(shape)
    stored = KINDS[kind]
    if stored.decode is None:
        raise CheckpointError(f"a weight must be of a float type, got {kind}")
    blocks = raw.view(stored.record)
    out = np.empty((len(blocks), stored.size), np.float32)
    step = CHUNK // stored.size
    with np.errstate(all="ignore"):  # 0 · infinity: whoever loads a weight checks that it is finite
        for start in range(0, len(blocks), step):
            part = slice(start, start + step)
            stored.decode(blocks[part], out[part])
    return out.reshape(shape)


def slab(begin: int, end: int, shape: tuple[int, ...], part: int | None) -> tuple[int, int, tuple[int, ...]]:
    """Begin, end and shape of one part along the first axis, or of the whole."""
    if part is None:
        return begin, end, shape
    size = (end - begin) // shape[0]
    return begin + part * size, begin + (part + 1) * size, shape[1:]


def native(raw: Array, kind: str, shape: tuple[int, ...]) -> Blocks | None:
    """A matrix [F, D] in the file's own codes, blocked along axis 1; None if `kind` has no such form."""
    if kind not in ("Q4_0", "Q4_1", "Q8_0") or len(shape) != 2:
        return None
    b = raw.view(KINDS[kind].record)
    scale = b["d"].astype(np.float32).reshape(shape[0], -1)
    codes = b["q"].view(np.uint8) ^ 128 if kind == "Q8_0" else _fields(b["q"], 16, 4)
    affine = kind == "Q4_1"
    return Blocks(
        codes=codes.reshape(shape),
        scale=scale,
        zero=np.zeros(scale.shape, np.uint8) if affine else None,
        minimum=b["m"].astype(np.float32).reshape(scale.shape) if affine else None,
        bits=8 if kind == "Q8_0" else 4,
        block=32,
        axis=1,
        activations="block",
    )
