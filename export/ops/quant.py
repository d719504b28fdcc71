"""Quantization: numbers as small integers times a scale, equal to the specification to the integer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.quant import Blocks
from ..torch_bodies import torch_body


def _split(x: Tensor, block: int) -> Tensor:
    """The last axis as blocks, (…, C, block); the last block is padded with zeros."""
    return functional.pad(x, (0, -x.shape[-1] % block)).unflatten(-1, (-1, block))


def _spread(per_block: Tensor, blocks: Blocks) -> Tensor:
    """One value per block -> one value per element."""
    length = blocks.codes.shape[blocks.axis]
    return per_block.repeat_interleave(blocks.block, dim=blocks.axis).narrow(blocks.axis, 0, length)


def _centred(weight: Blocks) -> Tensor:
    """Codes minus their zero point, int32."""
    zero = 2 ** (weight.bits - 1) if weight.zero is None else _spread(weight.zero, weight).int()
    return weight.codes.int() - zero


@torch_body
def half_scales(scale: Tensor, *, bits: int) -> Tensor:
    """The nearest float16 number, or the scale itself where it isn't finite or too far off."""
    half = scale.float().half().to(scale.dtype)
    off = (half - scale).abs() * 2 ** (bits + 1)
    return torch.where(off <= scale.abs(), half, scale)


@torch_body
def quantize(
    weight: Tensor,
    *,
    bits: int,
    block: int,
    axis: int = 0,
    symmetric: bool = True,
    activations: Literal["none", "block", "row"] = "block",
    halves: bool = False,
) -> Blocks:
    """Blocks become an axis of their own; the quantized axis is moved to the end for this."""
    parts = _split(weight.movedim(axis, -1), block)
    top, mid = 2**bits - 1, 2 ** (bits - 1)
    low = None if symmetric else parts.amin(-1, keepdim=True).clamp(max=0)
    if low is None:
        scale = parts.gather(-1, parts.abs().argmax(-1, keepdim=True)) / -mid
    else:
        scale = (parts.amax(-1, keepdim=True).clamp(min=0) - low) / top
    if halves:
        scale = half_scales(scale.squeeze(-1), bits=bits).unsqueeze(-1)
    if low is None:
        zero = torch.full_like(scale, mid)
    else:
        zero = torch.round(-low / scale.masked_fill(scale == 0, 1)).clamp(0, top)
    codes = (torch.round(parts / scale.masked_fill(scale == 0, 1)) + zero).clamp(0, top)
    codes = codes.flatten(-2)[..., : weight.shape[axis]].to(torch.uint8)
    zeros = None if symmetric else zero.squeeze(-1).to(torch.uint8).movedim(-1, axis)
    return Blocks(
        codes=codes.movedim(-1, axis),
        scale=scale.squeeze(-1).movedim(-1, axis),
        zero=zeros,
        minimum=None,
        bits=bits,
        block=block,
        axis=axis,
        activations=activations,
    )


@torch_body
def quantize_columns(weight: Tensor) -> Blocks:
    """`quantize_rows` of the transposed matrix."""
    codes, scale = quantize_rows(weight.mT)
    codes, scale = (codes.mT + 128).to(torch.uint8), scale.mT
    return Blocks(codes, scale, None, None, 8, weight.shape[0], 0, "static")


@torch_body
def dequantize(weight: Blocks) -> Tensor:
    """Each block's scale and zero point repeated over its elements."""
    w = _centred(weight).to(weight.scale.dtype) * _spread(weight.scale, weight)
    return w if weight.minimum is None else w + _spread(weight.minimum, weight)


@torch_body
def quantize_activations(x: Tensor, *, block: int) -> tuple[Tensor, Tensor]:
    """One scale per block of a row, from its largest magnitude."""
    parts = _split(x, block)
    largest = parts.abs().amax(-1, keepdim=True)
    finite = torch.isfinite(largest)
    # `127 / largest` would be a reciprocal and a product in torch: two roundings.
    factor = torch.full_like(largest, 127) / largest
    used = finite & torch.isfinite(factor)
    codes = torch.round(torch.where(used, parts, 0) * torch.where(used, factor, 0)).to(torch.int32)
    return codes.flatten(-2)[:, : x.shape[1]], torch.where(finite, largest / 127, torch.nan).squeeze(-1)


@torch_body
def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """One scale per row, from its largest magnitude."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    finite = torch.isfinite(largest)
    scale = torch.where(finite, largest, 1) / 127
    codes = torch.round(torch.where(finite, x, 0) / scale).to(torch.int32)
    return codes, torch.where(finite, scale, torch.nan)


@torch_body
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear by its formula."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    divisor = torch.where(scale == 0, 1, scale)
    zero = torch.round(-low / divisor).clamp(0, 255)
    codes = (torch.round(x / divisor) + zero).clamp(0, 255)
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)


@torch_body
def blocks_of_products(x: Tensor, codes: Tensor, scale: Tensor, weight: Blocks) -> Tensor:
    """Blocks as a batch axis: C products of integers, exact in float64, scaled and summed."""
    left = _split(codes.double(), weight.block).movedim(1, 0)
    right = _split(_centred(weight).mT.double(), weight.block).permute(1, 2, 0)
    both = scale.mT.unsqueeze(2) * weight.scale.unsqueeze(1)
    y = ((left @ right).to(x.dtype) * both.to(x.dtype)).sum(0)
    return y if weight.minimum is None else y + _split(x, weight.block).sum(-1) @ weight.minimum
