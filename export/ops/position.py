"""Implement positions in PyTorch: vectors that are added to the tokens' vectors, or rotations of pairs of a
head's elements (rotary positions).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def sinusoidal(positions: Tensor, frequencies: Tensor, *, interleaved: bool = False) -> Tensor:
    """Return the sines and cosines of position · frequency as vectors. All sines come first and then all
    cosines, or they alternate if `interleaved`.
    """
    angles = positions.to(frequencies.dtype).unsqueeze(-1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1 if interleaved else -2).flatten(-2)


@torch_body
def rope_frequencies(pairs: Tensor, *, theta: float) -> Tensor:
    """Return the rotary frequency 1 / theta^(j / J) of each pair j of a head. The result is computed in
    float64.
    """
    return 1 / theta ** (pairs.double() / pairs.shape[0])


@torch_body
def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate each pair of a head's elements by its angle. The pairs are put on an axis of their own, (…, J,
    2) or (…, 2, J), and this axis is flattened again after the rotation.
    """
    pairs = cos.shape[-1]
    turned, unrotated = x[..., : 2 * pairs], x[..., 2 * pairs :]
    axis, sizes = (-1, (pairs, 2)) if interleaved else (-2, (2, pairs))
    a, b = turned.unflatten(-1, sizes).unbind(axis)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-2)
    return torch.cat([turned, unrotated], -1) if unrotated.shape[-1] else turned


@torch_body
def query_factors(positions: Tensor, *, beta: float, original_context: int, offset: int = 0) -> Tensor:
    """Return the factor that multiplies each query: 1 + beta · ln(1 + ⌊(position + offset) /
    original_context⌋). The logarithm is computed in float64.
    """
    spans = torch.div(positions + offset, original_context, rounding_mode="floor") + 1
    return spans.double().log() * beta + 1
