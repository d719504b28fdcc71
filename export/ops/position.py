"""Positions: vectors added to those of the tokens, or rotations of pairs of a head's elements (rotary)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def sinusoidal(positions: Tensor, frequencies: Tensor, *, interleaved: bool = False) -> Tensor:
    """Put sines and cosines on an axis of their own, before or after the axis of the pairs, and flatten both
    axes into one.
    """
    angles = positions.to(frequencies.dtype).unsqueeze(-1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1 if interleaved else -2).flatten(-2)


@torch_body
def rope_frequencies(pairs: Tensor, *, theta: float) -> Tensor:
    """Compute 1 / theta^(j / J) in float64."""
    return 1 / theta ** (pairs.double() / pairs.shape[0])


@torch_body
def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Put pairs on their own axis, (…, J, 2) or (…, 2, J), rotate them, and flatten the axis again."""
    pairs = cos.shape[-1]
    turned, unrotated = x[..., : 2 * pairs], x[..., 2 * pairs :]
    axis, sizes = (-1, (pairs, 2)) if interleaved else (-2, (2, pairs))
    a, b = turned.unflatten(-1, sizes).unbind(axis)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-2)
    return torch.cat([turned, unrotated], -1) if unrotated.shape[-1] else turned


@torch_body
def query_factors(positions: Tensor, *, beta: float, original_context: int, offset: int = 0) -> Tensor:
    """Compute the logarithm of a whole number in float64."""
    spans = torch.div(positions + offset, original_context, rounding_mode="floor") + 1
    return spans.double().log() * beta + 1
