"""Number formats in files: plain floats and the blocks of `ggml_blocks`, converted to float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...ops.quant import Blocks
from .ggml_blocks import BLOCK_TYPES, BlockType, floats
from .small_floats import E4M3, E5M2, E8M0

Array = np.ndarray
CHUNK = 2**18  # elements decoded at a time: temporaries stay in the processor's cache
LONGEST = 64  # codes of a block that a product reads: its input is rounded with one scale a block


def _bf16(b: Any, out: Array) -> None:
    np.left_shift(b["x"], 16, out=out.view(np.uint32), dtype=np.uint32)


@dataclass(frozen=True)
class Kind:
    """The stored form of a number format: a record of the dtype `record` contains `size` elements."""

    size: int
    record: np.dtype
    decode: Callable[[Any, Array], None] | None  # None: sizes are known, values can't be read


def _kind(size: int, decode: Callable[[Any, Array], None], *fields: tuple[Any, ...]) -> Kind:
    return Kind(size, np.dtype(list(fields)), decode)


def _copy(b: Any, out: Array) -> None:
    out[...] = b["x"]


def _looked_up(table: Array) -> Callable[[Any, Array], None]:
    """Return a decoder of 8-bit codes. Each code is the index of its value in `table`."""

    def decode(b: Any, out: Array) -> None:
        np.take(table, b["x"], out=out)

    return decode


def _of_parts(block_type: BlockType) -> Callable[[Any, Array], None]:
    return lambda b, out: floats(block_type.parts(b), out)


KINDS = {
    "F32": _kind(1, _copy, ("x", "<f4", (1,))),
    "F64": _kind(1, _copy, ("x", "<f8", (1,))),
    "F16": _kind(1, _copy, ("x", "<f2", (1,))),
    "BF16": _kind(1, _bf16, ("x", "<u2", (1,))),
    "F8_E4M3": _kind(1, _looked_up(E4M3), ("x", "u1", (1,))),
    "F8_E5M2": _kind(1, _looked_up(E5M2), ("x", "u1", (1,))),
    "F8_E8M0": _kind(1, _looked_up(E8M0), ("x", "u1", (1,))),
}
KINDS |= {name: Kind(one.size, one.record, _of_parts(one)) for name, one in BLOCK_TYPES.items()}
INTEGERS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
# Masks and positions: compared, never computed with.
READABLE_INTEGERS = {"BOOL": "u1", "U8": "u1", "I64": "<i8"}
KINDS |= {name: Kind(1, np.dtype((np.void, size)), None) for name, size in INTEGERS.items()}


def widen(raw: Array, kind: str, shape: tuple[int, ...]) -> Array:
    """Return the float32 array that raw bytes encode. If the bytes are float32 already, the result is a view
    of them.
    """
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
    """Return where one part of a tensor along its first axis begins and ends in bytes, and the part's shape.

    If `part` is None, return the same for the whole tensor.
    """
    if part is None:
        return begin, end, shape
    size = (end - begin) // shape[0]
    return begin + part * size, begin + (part + 1) * size, shape[1:]


def native(raw: Array, kind: str, shape: tuple[int, ...]) -> Blocks | None:
    """Return a matrix [F, D] with the file's own codes and scales, in blocks along axis 1.

    Returns None if `kind` has no codes, or if the tensor isn't a matrix. Codes of up to four bits become
    codes of four bits, and all other codes become codes of eight bits. The middle of the codes' range is at
    2^(bits−1). If one scale is for more than `LONGEST` codes, the scale is repeated, so that each block has
    at most `LONGEST` codes.
    """
    if kind not in BLOCK_TYPES or len(shape) != 2 or not raw.size:
        return None
    block_type = BLOCK_TYPES[kind]
    records = raw.view(block_type.record)
    bits = 4 if block_type.bits <= 4 else 8
    lowest, middle = 2 ** (bits - 1) - 2 ** (block_type.bits - 1), 2 ** (bits - 1)
    codes = np.empty((len(records), block_type.size), np.uint8)
    scales: list[Array] = []
    minima: list[Array] = []
    step = CHUNK // block_type.size
    with np.errstate(all="ignore"):  # as in `widen`
        for start in range(0, len(records), step):
            part = slice(start, start + step)
            values, scale, minimum = block_type.parts(records[part])
            # Signed codes are counted from the middle, and those with a minimum from their lowest.
            offset = np.uint8(middle if minimum is None else lowest)
            np.add(values.view(np.uint8), offset, out=codes[part])
            scales.append(scale)
            if minimum is not None:
                minima.append(minimum)
    scale = np.concatenate(scales)
    long = block_type.size // scale.shape[1]
    if long > LONGEST:
        scale = np.repeat(scale, long // LONGEST, axis=1)
    scale = scale.reshape(shape[0], -1)
    return Blocks(
        codes=codes.reshape(shape),
        scale=scale,
        zero=np.full(scale.shape, lowest, np.uint8) if minima else None,
        minimum=np.concatenate(minima).reshape(scale.shape) if minima else None,
        bits=bits,
        block=min(long, LONGEST),
        axis=1,
        activations="block",
    )
