"""Rotary positions: pairs of a head's elements turned by an angle that grows with the position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

__all__ = ["linear_scaling", "llama3_scaling", "rope_frequencies", "rope_tables", "rotate"]


def rope_frequencies(pairs: Int[Array, " J"], *, theta: float) -> Float[Array, " J"]:
    """Angle per position of each pair, in radians: theta^(−j / J) (Su et al. 2021, §3.2.2).

    `pairs` is 0 … J−1. The result is float64 whatever theta is.
    """
    return theta ** (-(pairs.astype(np.float64) / len(pairs)))


def linear_scaling(frequencies: Float[Array, " J"], *, factor: float) -> Float[Array, " J"]:
    """All frequencies divided by `factor`: position interpolation (Chen et al. 2023)."""
    return frequencies / factor


def llama3_scaling(
    frequencies: Float[Array, " J"],
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_context: int,
) -> Float[Array, " J"]:
    """Long waves divided by `factor`, short ones kept, a blend between (Llama 3.1's reference code).

    With turns = original_context · f / 2π, the share kept is
    clip((turns − low_freq_factor) / (high_freq_factor − low_freq_factor), 0, 1).
    """
    turns = original_context * frequencies / (2 * math.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


def rope_tables(
    positions: Int[Array, " M"],
    frequencies: Float[Array, " J"],
) -> tuple[Float[Array, "M J"], Float[Array, "M J"]]:
    """Cosine and sine of position × frequency.

    Conventions: the product and its cosine are taken in the frequencies' type, float64 by
    `rope_frequencies`; the caller rounds once. Float32 angles lose 2⁻⁹ rad at 131k positions.
    """
    angles = positions[:, None].astype(frequencies.dtype) * frequencies[None, :]
    return np.cos(angles), np.sin(angles)


def rotate(
    x: Float[Array, "B T H K"],
    cos: Float[Array, "B T J"],
    sin: Float[Array, "B T J"],
    *,
    interleaved: bool = False,
) -> Float[Array, "B T H K"]:
    """Each pair (a, b) of a head becomes (a cos − b sin, b cos + a sin) (Su et al. 2021, eq. 34).

    Conventions: pair j is (j, j + J) as in Llama and GPT-NeoX, or (2j, 2j + 1) with `interleaved`
    as in the paper and GPT-J; elements from 2J on pass unchanged (partial rotary).
    """
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned[..., :pairs], turned[..., pairs:]
    c, s = cos[:, :, None, :], sin[:, :, None, :]
    new_a, new_b = a * c - b * s, b * c + a * s
    if interleaved:
        turned = np.stack([new_a, new_b], axis=-1).reshape(turned.shape)
    else:
        turned = np.concatenate([new_a, new_b], axis=-1)
    return np.concatenate([turned, rest], axis=-1)
