"""Quantization: numbers as small integers times a scale, equal to the specification to the integer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.quant import Blocks
from ...refimpl.ops.static_quant import static_dequantize, static_quantize
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
def rows(table: Blocks, index: Tensor) -> Tensor:
    """Gather of codes and scales, then dequantized."""

    def pick(per_row: Tensor) -> Tensor:
        return per_row.index_select(0, index.flatten())

    chosen = replace(
        table,
        codes=pick(table.codes),
        scale=pick(table.scale),
        zero=None if table.zero is None else pick(table.zero),
        minimum=None if table.minimum is None else pick(table.minimum),
    )
    return dequantize(chosen).reshape(*index.shape, table.codes.shape[1])


@torch_body
def transpose(weight: Blocks) -> Blocks:
    """The transposed matrix: views of the same codes, blocked along the other axis."""
    return replace(
        weight,
        codes=weight.codes.mT,
        scale=weight.scale.mT,
        zero=None if weight.zero is None else weight.zero.mT,
        minimum=None if weight.minimum is None else weight.minimum.mT,
        axis=1 - weight.axis,
    )


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


def _input_codes(x: Tensor, weight: Blocks) -> tuple[Tensor, Tensor]:
    """Signed codes of a product's input and their scales, by the weight's rule."""
    if weight.activations in ("row", "smoothed"):
        return quantize_rows(x)
    if weight.activations == "block":
        return quantize_activations(x, block=weight.block)
    assert weight.input_scale is not None
    codes, _, zero = _static_codes(x, weight.input_scale, weight.input_zero)
    return codes - zero, weight.input_scale.expand(x.shape[0], weight.scale.shape[0])


def _static_codes(x: Tensor, scale: Tensor | None, zero: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of rows by one scale and zero point, and these two repeated for a row's elements."""
    assert scale is not None
    assert zero is not None
    scales, zeros = scale.expand(x.shape[1]), zero.int().expand(x.shape[1])
    return static_quantize(x, scales, zeros, bits=8 * zero.element_size(), signed=False), scales, zeros


@torch_body
def linear_blocks(x: Tensor, weight: Blocks) -> Tensor:
    """Blocks as a batch axis: C products of integers, exact in float64, scaled and summed."""
    if weight.input_factor is not None:
        x = x * weight.input_factor
    if weight.activations == "none":
        return x @ dequantize(weight)
    flat = x.flatten(0, 1)
    codes, scale_x = _input_codes(flat, weight)
    left = _split(codes.double(), weight.block).movedim(1, 0)
    right = _split(_centred(weight).mT.double(), weight.block).permute(1, 2, 0)
    scale = scale_x.mT.unsqueeze(2) * weight.scale.unsqueeze(1)
    y = ((left @ right).to(x.dtype) * scale.to(x.dtype)).sum(0)
    if weight.minimum is not None:
        y = y + _split(flat, weight.block).sum(-1) @ weight.minimum
    if weight.output_scale is not None:
        y = static_dequantize(*_static_codes(y, weight.output_scale, weight.output_zero))
    return y.reshape(*x.shape[:-1], weight.codes.shape[1])
