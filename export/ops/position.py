"""Rotary positions: pairs of a head's elements turned by an angle that grows with the position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array

__all__ = ["linear_scaling", "llama3_scaling", "rope_frequencies", "rope_tables", "rotate"]


def rope_frequencies(pairs: Int[Array, " J"], *, theta: float) -> Float[Array, " J"]:
    """1 / theta^(j / J), in float64."""
    return 1 / theta ** (pairs.double() / pairs.shape[0])


def linear_scaling(frequencies: Float[Array, " J"], *, factor: float) -> Float[Array, " J"]:
    """Div."""
    return frequencies / factor


def llama3_scaling(
    frequencies: Float[Array, " J"],
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_context: int,
) -> Float[Array, " J"]:
    """Three cases, told apart by the turns that a pair makes in the original context."""
    turns = frequencies * (original_context / (2 * math.pi))
    kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blend = torch.lerp(frequencies / factor, frequencies, kept)
    long = torch.where(turns < low_freq_factor, frequencies / factor, blend)
    return torch.where(turns > high_freq_factor, frequencies, long)


def rope_tables(
    positions: Int[Array, " M"],
    frequencies: Float[Array, " J"],
) -> tuple[Float[Array, "M J"], Float[Array, "M J"]]:
    """Cosine and sine of an outer product."""
    angles = torch.outer(positions.to(frequencies.dtype), frequencies)
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Array, "B T H K"],
    cos: Float[Array, "B T J"],
    sin: Float[Array, "B T J"],
    *,
    interleaved: bool = False,
) -> Float[Array, "B T H K"]:
    """Pairs made an axis of their own, (…, J, 2) or (…, 2, J), turned, and flattened again."""
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    axis, sizes = (-1, (pairs, 2)) if interleaved else (-2, (2, pairs))
    a, b = turned.unflatten(-1, sizes).unbind(axis)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-2)
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
