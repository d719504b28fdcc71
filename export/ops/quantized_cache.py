"""Implement the KV cache in 8 or 4 bits in PyTorch. Numbers are quantized when they are written, and read as
codes times scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.quantized_cache import hadamard_matrix
from ..torch_bodies import torch_body


@torch_body
def round_by_channel(x: Tensor, scale: Tensor, *, bits: int) -> Tensor:
    """Round x to codes of `bits` bits times the channel's scale, as QuantizeLinear and DequantizeLinear would
    do.
    """
    return _by_channel(x, scale, bits) * scale


@torch_body
def hadamard(x: Tensor) -> Tensor:
    """Rotate the last axis of x by multiplying it by a constant Hadamard matrix."""
    return x @ torch.from_numpy(hadamard_matrix(x.shape[-1])).to(x)


def _by_channel(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    ratio = torch.where(scale == 0, 0, x / scale.masked_fill(scale == 0, 1))
    return torch.round(ratio).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
