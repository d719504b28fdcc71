"""The KV cache in 8 or 4 bits: quantized when written, read back as codes times scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .cache import append

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = [
    "append_by_channel",
    "append_by_head",
    "pack_nibbles",
    "read_by_channel",
    "read_by_head",
    "round_by_channel",
    "unpack_nibbles",
]


def append_by_head(
    codes: Int[Array, "B G L K"],
    scale: Float[Array, "B G L 1"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    *,
    bits: int,
) -> tuple[Int[Array, "B G L K"], Float[Array, "B G L 1"]]:
    """Two scatters; `/ number` might become a product with its reciprocal, which rounds twice."""
    largest = new.abs().amax(-1, keepdim=True)
    width = largest / torch.full_like(largest, 2 ** (bits - 1) - 1)
    made = torch.round(new / width.masked_fill(width == 0, 1)).to(codes.dtype)
    return append(codes, made, start), append(scale, width, start)


def append_by_channel(
    codes: Int[Array, "B G L K"],
    scale: Float[Array, "G K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    *,
    bits: int,
) -> Int[Array, "B G L K"]:
    """A scatter of what QuantizeLinear would give, saturated alike."""
    return append(codes, _by_channel(new, scale, bits).to(codes.dtype), start)


def round_by_channel(
    x: Float[Array, "B T G K"], scale: Float[Array, "G K"], *, bits: int
) -> Float[Array, "B T G K"]:
    """What QuantizeLinear and DequantizeLinear would give."""
    return _by_channel(x, scale, bits) * scale


def _by_channel(x: Array, scale: Array, bits: int) -> Array:
    ratio = torch.where(scale == 0, 0, x / scale.masked_fill(scale == 0, 1))
    return torch.round(ratio).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def read_by_head(codes: Int[Array, "B G S K"], scale: Float[Array, "B G S 1"]) -> Float[Array, "B G S K"]:
    """A cast and a product."""
    return codes.to(scale.dtype) * scale


def read_by_channel(codes: Int[Array, "B G S K"], scale: Float[Array, "G K"]) -> Float[Array, "B G S K"]:
    """A cast and a product."""
    return codes.to(scale.dtype) * scale[:, None]


def pack_nibbles(codes: Int[Array, "B G S 2*J"]) -> UInt8[Array, "B G S J"]:
    """By arithmetic: torch exports no shifts of bytes to ONNX."""
    halves = torch.remainder(codes.int() + 8, 16)
    return (halves[..., 0::2] + 16 * halves[..., 1::2]).to(torch.uint8)


def unpack_nibbles(packed: UInt8[Array, "B G S J"]) -> Int[Array, "B G S 2*J"]:
    """By arithmetic: remainder and quotient of 16."""
    both = packed.int()
    halves = torch.stack([torch.remainder(both, 16), both // 16], -1) - 8
    return halves.to(torch.int8).flatten(-2)
