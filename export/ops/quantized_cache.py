"""The KV cache in 8 or 4 bits: quantized when written, read back as codes times scale."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.cache import append
from ...refimpl.ops.quantized_cache import ChannelQuantized, HeadQuantized
from ..torch_bodies import torch_body


@torch_body
def append_by_head(cache: HeadQuantized, new: Tensor, start: Tensor, *, bits: int) -> HeadQuantized:
    """Two scatters; `/ number` might become a product with its reciprocal, which rounds twice."""
    largest = new.abs().amax(-1, keepdim=True)
    scale = largest / torch.full_like(largest, 2 ** (bits - 1) - 1)
    codes = torch.round(new / scale.masked_fill(scale == 0, 1)).to(cache.codes.dtype)
    return HeadQuantized(append(cache.codes, codes, start), append(cache.scale, scale, start))


@torch_body
def append_by_channel(cache: ChannelQuantized, new: Tensor, start: Tensor, *, bits: int) -> ChannelQuantized:
    """A scatter of what QuantizeLinear would give, saturated alike."""
    codes = _by_channel(new, cache.scale, bits).to(cache.codes.dtype)
    return cache._replace(codes=append(cache.codes, codes, start))


@torch_body
def round_by_channel(x: Tensor, scale: Tensor, *, bits: int) -> Tensor:
    """The result that QuantizeLinear and DequantizeLinear would give."""
    return _by_channel(x, scale, bits) * scale


def _by_channel(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    ratio = torch.where(scale == 0, 0, x / scale.masked_fill(scale == 0, 1))
    return torch.round(ratio).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@torch_body
def read_by_head(cache: HeadQuantized) -> Tensor:
    """A cast and a product."""
    return cache.codes.to(cache.scale.dtype) * cache.scale


@torch_body
def read_by_channel(cache: ChannelQuantized) -> Tensor:
    """A cast and a product."""
    return cache.codes.to(cache.scale.dtype) * cache.scale[:, None]


@torch_body
def pack_nibbles(codes: Tensor) -> Tensor:
    """By arithmetic: torch exports no shifts of bytes to ONNX."""
    halves = torch.remainder(codes.int() + 8, 16)
    return (halves[..., 0::2] + 16 * halves[..., 1::2]).to(torch.uint8)


@torch_body
def unpack_nibbles(packed: Tensor) -> Tensor:
    """By arithmetic: remainder and quotient of 16."""
    both = packed.int()
    halves = torch.stack([torch.remainder(both, 16), both // 16], -1) - 8
    return halves.to(torch.int8).flatten(-2)
