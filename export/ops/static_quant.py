"""Quantization with given scales, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def static_quantize(x: Tensor, scale: Tensor, zero: Tensor, *, bits: int, signed: bool) -> Tensor:
    """Divide, round, add the zero point and clamp."""
    low = -(2 ** (bits - 1)) if signed else 0
    silent = scale == 0
    steps = torch.round(x / scale.masked_fill(silent, 1)).masked_fill(silent, 0)
    return (steps + zero).clamp(low, low + 2**bits - 1).int()


@torch_body
def static_dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Multiply centred codes with their scales."""
    return (codes - zero).to(scale.dtype) * scale
