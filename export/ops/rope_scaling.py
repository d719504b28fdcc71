"""Rotary frequencies for texts longer than those that a model was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def linear_scaling(frequencies: Tensor, *, factor: float) -> Tensor:
    """Div."""
    return frequencies / factor


@torch_body
def dynamic_ntk_scaling(frequencies: Tensor, *, factor: float, original_context: int, context: int) -> Tensor:
    """Divisors in a geometric sequence, from 1 to s."""
    if context <= original_context:
        return frequencies
    stretch = 1 + factor * (context - original_context) / original_context
    pairs = frequencies.shape[0]
    powers = torch.linspace(0, math.log(stretch) if pairs > 1 else 0, pairs, dtype=torch.float64)
    return frequencies / powers.exp().to(frequencies.dtype)


@torch_body
def yarn_scaling(
    frequencies: Tensor,
    *,
    theta: float,
    factor: float,
    beta_fast: float,
    beta_slow: float,
    original_context: int,
    truncate: bool = True,
) -> Tensor:
    """A blend by constant weights."""
    pairs = frequencies.shape[0]
    waves = math.log(original_context / (2 * math.pi))
    low, high = (pairs * (waves - math.log(turns)) / math.log(theta) for turns in (beta_fast, beta_slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = 0.001 if low == high else high - low
    share = [min(max((j - low) / width, 0), 1) for j in range(pairs)]
    divided = torch.tensor(share, dtype=frequencies.dtype)
    return frequencies * (1 + divided * (1 / factor - 1))


@torch_body
def longrope_scaling(
    frequencies: Tensor, short: Tensor, long: Tensor, *, original_context: int, context: int
) -> Tensor:
    """Division by one of two sets of factors."""
    divisors = short if context <= original_context else long
    return frequencies / divisors


@torch_body
def llama3_scaling(
    frequencies: Tensor,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_context: int,
) -> Tensor:
    """Three cases by the number of turns of a pair in the original context."""
    turns = frequencies * (original_context / (2 * math.pi))
    blend = frequencies
    if high_freq_factor > low_freq_factor:
        kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        blend = torch.lerp(frequencies / factor, frequencies, kept)
    long = torch.where(turns < low_freq_factor, frequencies / factor, blend)
    return torch.where(turns > high_freq_factor, frequencies, long)


@torch_body
def proportional_scaling(frequencies: Tensor, *, turned: int, factor: float) -> Tensor:
    """The first frequencies, and zeros for the rest."""
    first = frequencies[:turned] / factor
    return functional.pad(first, (0, len(frequencies) - len(first)))
