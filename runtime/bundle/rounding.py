"""Round weights to the codes of their formats, for the export and for `verify`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.calibrate.least_error import least_error
from ...refimpl.ops import quant
from ...refimpl.ops.quant import Blocks
from ..parallel import in_threads
from .weight_formats import WeightFormat

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

# Elements rounded at a time: its temporaries stay in a processor's cache.
CHUNK = 2**17


def rounded(
    weight: Float[Array, "D F"],
    weight_format: WeightFormat,
    *,
    axis: int,
    importance: Float[Array, " D"] | None = None,
) -> Blocks:
    """Return a weight rounded to a format, as blocks along `axis`. The axis is 1 for a table, else 0. The
    scales have the weight's type.

    Without `importance`, each weight gets the nearest code. With an `importance` of the inputs, the scales
    and codes have the least weighted error. With static inputs, the scale and zero point of the input are
    not set yet. A `native` format isn't allowed.
    """
    rows = weight if axis == 1 else weight.T
    if weight_format.activations == "static":
        blocks = quant.transpose(quant.quantize_columns(rows.T))
    else:
        blocks = _rounded_rows(rows, weight_format, importance)
    return blocks if axis == 1 else quant.transpose(blocks)


def _rounded_rows(
    rows: Float[Array, "F D"], weight_format: WeightFormat, importance: Float[Array, " D"] | None
) -> Blocks:
    """Return blocks along axis 1, computed a few rows at a time by several threads.

    Rows don't depend on each other, so the number of threads changes no bit.
    """
    bits, block = weight_format.code_bits or weight_format.bits, weight_format.block
    symmetric, halves = weight_format.symmetric, weight_format.halves
    per_block = (rows.shape[0], -(-rows.shape[1] // block))
    codes = np.empty(rows.shape, np.uint8)
    scale = np.empty(per_block, rows.dtype)
    zero = None if symmetric else np.empty(per_block, np.uint8)

    def round_part(part: slice) -> None:
        if importance is None:
            chunk = quant.quantize(
                rows[part], bits=bits, block=block, axis=1, symmetric=symmetric, halves=halves
            )
        else:
            found = least_error(
                rows[part].T, importance, bits=bits, block=block, symmetric=symmetric, halves=halves
            )
            chunk = quant.transpose(found)
        codes[part], scale[part] = chunk.codes, chunk.scale
        if zero is not None and chunk.zero is not None:
            zero[part] = chunk.zero

    step = max(1, CHUNK // rows.shape[1])
    in_threads(round_part, [slice(start, start + step) for start in range(0, rows.shape[0], step)])
    codes += _below(weight_format)
    return Blocks(codes, scale, zero, None, weight_format.bits, block, 1, weight_format.activations)


def _below(weight_format: WeightFormat) -> np.uint8:
    """Return how many stored codes lie below the range of codes with `code_bits` bits."""
    bits = weight_format.code_bits or weight_format.bits
    return np.uint8(2 ** (weight_format.bits - 1) - 2 ** (bits - 1))


def narrowed(blocks: Blocks, weight_format: WeightFormat) -> Blocks:
    """Return stored blocks with codes that count from 0 in `code_bits` bits.

    A stored code outside the range of `code_bits` becomes a code that is too large.
    """
    bits = weight_format.code_bits or weight_format.bits
    return replace(blocks, codes=blocks.codes - _below(weight_format), bits=bits)


def widened(blocks: Blocks, weight_format: WeightFormat) -> Blocks:
    """Return blocks of `code_bits` bits with the codes that a bundle stores: the inverse of `narrowed`."""
    return replace(blocks, codes=blocks.codes + _below(weight_format), bits=weight_format.bits)


def centered(blocks: Blocks) -> Blocks:
    """Move the zero points of a GGUF file's blocks to the middle of the codes' range, because the fast
    kernels require centred zero points.

    Q4_1 has w = d·q + m. With q − 8 in place of q, this is d·(q − 8) + (m + 8·d). The new minimum m + 8·d
    is exact in float32 if d and m, which have 11 bits each, differ by a factor of less than 2^13. In Q4_K,
    d and m have 17 bits each, and the factor must be less than 2^7.
    """
    if blocks.minimum is None or blocks.zero is None:
        return blocks
    shift = np.float32(2 ** (blocks.bits - 1)) - blocks.zero
    return replace(blocks, zero=None, minimum=blocks.minimum + shift * blocks.scale)
