"""The KV cache in 8 or 4 bits. Numbers are quantized when they are written, and read back as code times
scale.

Codes are signed integers of `bits` bits without a zero point, since keys and values lie around 0. There are
two kinds of scales. In the first kind, each head of a token has a scale, which is computed from the head's
numbers. In the second kind, each channel of a head has a scale, which all tokens share and which is
calibrated beforehand. The second kind keeps the precision of a head in which one channel is large in every
token, as in keys (KIVI, Liu et al. 2024, arXiv 2402.02750, §3). Models use the second kind. In values the
channels with large numbers differ from token to token. In 4 bits values are therefore rotated first
(`hadamard`), which spreads the large numbers over all channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .arrays import as_type
from .cache import append
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float, Index, Int, UInt8


class HeadQuantized(NamedTuple):
    """Quantized keys or values: integer codes, with one scale for each head of a token."""

    codes: Int[Array, "B G L K"]
    scale: Float[Array, "B G L 1"]


class ChannelQuantized(NamedTuple):
    """Quantized keys or values: integer codes, with one scale for each channel of a head. All tokens share
    these scales.
    """

    codes: Int[Array, "B G L K"]
    scale: Float[Array, "G K"]


@op
def append_by_head(
    cache: HeadQuantized,
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    *,
    bits: int,
) -> HeadQuantized:
    """Quantize x with one scale for each head of a token, and write codes and scales to the cache with
    `append`.

    scale = max|x| / (2^(bits−1) − 1), code = rint(x / scale). The largest magnitude is exact, and the
    error of every number is at most scale / 2. Conventions: rint rounds halves to even; a head of zeros
    has scale 0 and codes 0; the lowest code, −2^(bits−1), is never used.
    """
    scale = np.max(np.abs(new), axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)
    codes = np.rint(new / np.where(scale == 0, 1, scale)).astype(cache.codes.dtype)
    return HeadQuantized(append(cache.codes, codes, start), append(cache.scale, scale, start))


@op
def append_by_channel(
    cache: ChannelQuantized,
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    *,
    bits: int,
) -> ChannelQuantized:
    """Quantize x with fixed scales, and write the codes clip(rint(x / scale), −2^(bits−1), 2^(bits−1) − 1)
    to the cache with `append`.

    Within the range the error of a number is at most scale / 2; numbers beyond the range are clipped.
    Conventions: rint rounds halves to even; a channel of scale 0 has codes 0.
    """
    codes = _by_channel(new, cache.scale, bits).astype(cache.codes.dtype)
    return cache._replace(codes=append(cache.codes, codes, start))


@op
def round_by_channel(
    x: Float[Array, "B T G K"], scale: Float[Array, "G K"], *, bits: int
) -> Float[Array, "B T G K"]:
    """Round x as if `append_by_channel` wrote it to the cache and it was read back. The result code ·
    scale has the axes and type of x.
    """
    return _by_channel(x, scale, bits) * scale


def _by_channel(x: Array, scale: Array, bits: int) -> Array:
    ratio = x / np.where(scale == 0, np.inf, scale)
    return np.clip(np.rint(ratio), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def hadamard_matrix(size: int) -> Float[np.ndarray, "K K"]:
    """Return Sylvester's Hadamard matrix, normalized, in float64. It is its own transpose and its own
    inverse.

    H(1) = 1, H(2n) = [[H(n), H(n)], [H(n), −H(n)]], divided by √n in the end. Conventions: if the size is
    m · 2^p with an odd m, each group of 2^p neighbours has its own matrix, on the diagonal.
    """
    block, h = size & -size, np.ones((1, 1))
    while len(h) < block:
        h = np.block([[h, h], [h, -h]])
    return np.kron(np.eye(size // block), h / np.sqrt(block))


@op
def hadamard(x: Float[Array, "B T G K"]) -> Float[Array, "B T G K"]:
    """Multiply each head by `hadamard_matrix`, which rotates it.

    Lengths stay the same, and one large number becomes √K smaller ones (QuaRot, Ashkboos et al. 2024,
    arXiv 2404.00456, §4). The rotation is its own inverse. The mean of rotated values is the rotated mean,
    so attention needs to undo the rotation only once per head.
    """
    return x @ hadamard_matrix(x.shape[-1]).astype(x.dtype)


@op
def read_by_head(cache: HeadQuantized) -> Float[Array, "B G L K"]:
    """Return the keys or values that attention reads from a cache with scales per head: code · scale, in
    the scale's type.
    """
    return as_type(cache.codes, cache.scale.dtype) * cache.scale


@op
def read_by_channel(cache: ChannelQuantized) -> Float[Array, "B G L K"]:
    """Return the keys or values that attention reads from a cache with scales per channel: code · scale,
    in the scale's type.
    """
    return as_type(cache.codes, cache.scale.dtype) * cache.scale[None, :, None, :]


@op
def pack_nibbles(codes: Int[Array, "B G S 2*J"]) -> UInt8[Array, "B G S J"]:
    """Pack two codes of 4 bits into each byte. Each code is stored as code + 8, the first code in the
    lower half, as in ONNX Runtime.

    Conventions: if a number is outside −8 … 7, its lowest four bits are kept.
    """
    halves = (codes + 8).astype(np.uint8) & 15
    return halves[..., 0::2] | (halves[..., 1::2] << 4)


@op
def unpack_nibbles(packed: UInt8[Array, "B G S J"]) -> Int[Array, "B G S 2*J"]:
    """Return the codes of 4 bits that `pack_nibbles` packed two per byte, as int8."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int8) - 8
    return halves.astype(np.int8).reshape(*packed.shape[:-1], 2 * packed.shape[-1])
