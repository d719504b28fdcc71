"""Unpack integers of a few bits, which are packed densely into 32-bit words, low bits first.

Element i of a row begins at bit i · bits of the row, and may continue in the next word. GPTQ's libraries
(also for 3 bits) and compressed-tensors pack in this way.
"""

from __future__ import annotations

import numpy as np

CHUNK = 2**20  # bits that are spread out at a time


def unpack(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Return the first `count` elements of each row of packed words [n, m], as uint8 [n, count]."""
    packed = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return packed[:, :count]
    if 8 % bits == 0:
        return fields(packed, np.arange(0, 8, bits, dtype=np.uint8), bits)[:, :count]
    codes = np.empty((len(packed), count), np.uint8)
    step = max(1, CHUNK // (8 * max(1, packed.shape[1])))
    for start in range(0, len(packed), step):
        spread = np.unpackbits(packed[start : start + step], axis=1, bitorder="little")[:, : count * bits]
        parts = spread.reshape(len(spread), count, bits)
        codes[start : start + step] = np.packbits(parts, axis=2, bitorder="little")[..., 0]
    return codes


def fields(packed: np.ndarray, shifts: np.ndarray, bits: int) -> np.ndarray:
    """Unpack bit fields from unsigned numbers [n, m]: one field of `bits` bits begins at each bit in
    `shifts`. Return uint8 [n, m · len(shifts)]."""
    parts = np.empty((*packed.shape, len(shifts)), np.uint8)
    for i, shift in enumerate(shifts):
        np.bitwise_and(packed >> shift, 2**bits - 1, out=parts[..., i], casting="unsafe")
    return parts.reshape(len(packed), -1)
