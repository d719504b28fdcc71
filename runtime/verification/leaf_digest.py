"""Compute the digest of a parameter, to compare a bundle's weights with the weights that its export
rounded.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.ops.quant import Blocks

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from numpy.typing import DTypeLike

TILE = 64  # columns of a matrix that are copied at a time


def digest(leaf: Array | Blocks, dtype: np.dtype) -> bytes:
    """Return the SHA-256 of a parameter in the bundle's types. `dtype` is the bundle's float type.

    For blocks, the digest covers the codes, scales, zero points and minima, the static scales and zero points
    of a product's input and output, and the factors of a smoothed input. The digest doesn't depend on the
    order of the array in memory. A few rows are hashed at a time.
    """
    if isinstance(leaf, Blocks):
        parts = [
            (leaf.codes, np.uint8),
            (leaf.scale, dtype),
            (leaf.zero, np.uint8),
            (leaf.minimum, np.float32),
        ]
        for static in ((leaf.input_scale, leaf.input_zero), (leaf.output_scale, leaf.output_zero)):
            scale, zero = static
            if scale is not None and zero is not None:
                parts += [(scale, dtype), (zero, zero.dtype)]
        if leaf.activations == "smoothed":
            parts.append((leaf.input_factor, dtype))
    else:
        parts = [(leaf, dtype)]
    total = hashlib.sha256()
    for part, part_type in parts:
        total.update(b"|")
        if part is not None:
            rows = np.atleast_1d(part)
            for start in range(0, len(rows), 512):
                total.update(_row_major(rows[start : start + 512], part_type).data)
    return total.digest()


def _row_major(rows: Array, dtype: DTypeLike) -> Array:
    """Return a copy of the rows in C order, made in tiles of columns.

    If the rows are stored column by column, each number of a row is in another line of the processor's cache.
    A tile of columns uses each line whole.
    """
    copy = np.empty(rows.shape, dtype)
    for start in range(0, rows.shape[-1], TILE):
        copy[..., start : start + TILE] = rows[..., start : start + TILE]
    return copy
