"""Implement quantization in PyTorch with scales that were chosen before the run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def static_quantize(x: Tensor, scale: Tensor, zero: Tensor, *, bits: int, signed: bool) -> Tensor:
    """Quantize x to codes of `bits` bits with a given scale: divide by the scale, round, add the zero point
    and clamp. If the scale is 0, the code is the zero point.
    """
    low = -(2 ** (bits - 1)) if signed else 0
    silent = scale == 0
    steps = torch.round(x / scale.masked_fill(silent, 1)).masked_fill(silent, 0)
    return (steps + zero).clamp(low, low + 2**bits - 1).int()


@torch_body
def static_dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the numbers that the codes represent: (code − zero) · scale."""
    return (codes - zero).to(scale.dtype) * scale
