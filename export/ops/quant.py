"""Implement quantization in PyTorch: numbers are stored as small integers times a scale. The integers equal
those of the specification.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.quant import Blocks
from ..torch_bodies import torch_body


def _split(x: Tensor, block: int) -> Tensor:
    """Split the last axis into blocks, (…, C, block). The last block is filled up with zeros."""
    return functional.pad(x, (0, -x.shape[-1] % block)).unflatten(-1, (-1, block))


def _spread(per_block: Tensor, blocks: Blocks) -> Tensor:
    """Repeat each block's value, so that every element of the weight gets the value of its block."""
    length = blocks.codes.shape[blocks.axis]
    return per_block.repeat_interleave(blocks.block, dim=blocks.axis).narrow(blocks.axis, 0, length)


def _centred(weight: Blocks) -> Tensor:
    """Return a weight's codes minus their zero points, as int32."""
    zero = 2 ** (weight.bits - 1) if weight.zero is None else _spread(weight.zero, weight).int()
    return weight.codes.int() - zero


@torch_body
def dequantize(weight: Blocks) -> Tensor:
    """Return a quantized weight as floats: scale · (code − zero) + minimum. Each block's scale, zero point
    and minimum are repeated for its elements.
    """
    w = _centred(weight).to(weight.scale.dtype) * _spread(weight.scale, weight)
    return w if weight.minimum is None else w + _spread(weight.minimum, weight)


@torch_body
def quantize_activations(x: Tensor, *, block: int) -> tuple[Tensor, Tensor]:
    """Quantize each row of x to 8-bit codes, block by block, and return the codes and scales. A block's scale
    is its largest magnitude divided by 127.
    """
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
    """Quantize each row of x to 8-bit codes, and return the codes and scales. A row's scale is its largest
    magnitude divided by 127.
    """
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    finite = torch.isfinite(largest)
    scale = torch.where(finite, largest, 1) / 127
    codes = torch.round(torch.where(finite, x, 0) / scale).to(torch.int32)
    return codes, torch.where(finite, scale, torch.nan)


@torch_body
def blocks_of_products(x: Tensor, codes: Tensor, scale: Tensor, weight: Blocks) -> Tensor:
    """Multiply quantized inputs by a quantized weight. The C blocks are a batch axis of products of integers,
    which are exact in float64. Then the products are scaled and added.
    """
    left = _split(codes.double(), weight.block).movedim(1, 0)
    right = _split(_centred(weight).mT.double(), weight.block).permute(1, 2, 0)
    both = scale.mT.unsqueeze(2) * weight.scale.unsqueeze(1)
    y = ((left @ right).to(x.dtype) * both.to(x.dtype)).sum(0)
    return y if weight.minimum is None else y + _split(x, weight.block).sum(-1) @ weight.minimum
