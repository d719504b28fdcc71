"""Positions of tokens: vectors that are added to the tokens' vectors, or rotations of pairs of a head's
elements (rotary positions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .arrays import rows_at
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float, Int


class Rotary(NamedTuple):
    """The cosines and sines of the angles by which rotary positions rotate the pairs of a head."""

    cos: Float[Array, "L J"]
    sin: Float[Array, "L J"]

    def at(self, positions: Array) -> tuple[Array, Array]:
        """Return the cosines and sines [B, T, J] of the positions [B, T]."""
        return rows_at(self.cos, positions), rows_at(self.sin, positions)


@op
def learned(
    positions: Int[Array, "B T"],
    table: Float[Array, "M D"],
    *,
    offset: int = 0,
) -> Float[Array, "B T D"]:
    """Return the learned vectors of positions: row position + offset of a table (Gehring et al. 2017).

    Conventions: in OPT and BART, the table has two rows before the row of the first position. In RoBERTa,
    it has padding id + 1 such rows. A position past the end reads the last row, which happens only for
    padding.
    """
    return rows_at(table, (positions + offset).clip(max=table.shape[0] - 1))


@op
def sinusoidal(
    positions: Int[Array, "B T"],
    frequencies: Float[Array, " J"],
    *,
    interleaved: bool = False,
) -> Float[Array, "B T 2*J"]:
    """Return sinusoidal vectors of positions: sin(position · f_j) and cos(position · f_j) (Vaswani et al.
    2017, §3.5; f by `rope_frequencies`).

    Conventions: all sines come first and then all cosines, as in Marian and Pegasus. With `interleaved`
    they alternate, as in the paper. The product has the frequencies' type, as in `rope_tables`.
    """
    angles = positions[:, :, None].astype(frequencies.dtype) * frequencies
    sin, cos = np.sin(angles), np.cos(angles)
    if interleaved:
        return np.stack([sin, cos], axis=-1).reshape(*positions.shape, -1)
    return np.concatenate([sin, cos], axis=-1)


@op
def rope_frequencies(pairs: Int[Array, " J"], *, theta: float) -> Float[Array, " J"]:
    """Return the angle by which each pair j of a head rotates per position, in radians: theta^(−j / J) (Su
    et al. 2021, §3.2.2).

    `pairs` is 0 … J−1. The result is float64, whatever type theta has.
    """
    return theta ** (-(pairs.astype(np.float64) / len(pairs)))


@op
def rope_tables(
    positions: Int[Array, " M"],
    frequencies: Float[Array, " J"],
    *,
    magnitude: float = 1.0,
) -> tuple[Float[Array, "M J"], Float[Array, "M J"]]:
    """Return the cosines and sines of position × frequency, multiplied by `magnitude`.

    The square of the magnitude multiplies scores. YaRN and LongRoPE raise the magnitude for long texts: to
    0.1 ln s + 1 for a text that is s times the trained length (Peng et al. 2023, eq. 15). Conventions: the
    product and its cosine have the frequencies' type, which is float64 from `rope_frequencies`. The caller
    rounds once. Angles in float32 would be off by 2⁻⁹ rad at 131k positions.
    """
    angles = positions[:, None].astype(frequencies.dtype) * frequencies[None, :]
    return magnitude * np.cos(angles), magnitude * np.sin(angles)


@op
def rotate(
    x: Float[Array, "B T H K"],
    cos: Float[Array, "B T J"],
    sin: Float[Array, "B T J"],
    *,
    interleaved: bool = False,
) -> Float[Array, "B T H K"]:
    """Rotate each pair (a, b) of a head's elements to (a cos − b sin, b cos + a sin) (Su et al. 2021, eq.
    34).

    Conventions: pair j is (j, j + J) as in Llama and GPT-NeoX, or (2j, 2j + 1) with `interleaved` as in
    the paper and GPT-J. Elements from 2J on stay unchanged (partial rotary).
    """
    pairs = cos.shape[-1]
    rotated, unrotated = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
    else:
        a, b = rotated[..., :pairs], rotated[..., pairs:]
    c, s = cos[:, :, None, :], sin[:, :, None, :]
    new_a, new_b = a * c - b * s, b * c + a * s
    if interleaved:
        rotated = np.stack([new_a, new_b], axis=-1).reshape(rotated.shape)
    else:
        rotated = np.concatenate([new_a, new_b], axis=-1)
    return np.concatenate([rotated, unrotated], axis=-1)


@op
def query_factors(
    positions: Int[Array, "B T"], *, beta: float, original_context: int, offset: int = 0
) -> Float[Array, "B T"]:
    """Return the factor that multiplies each query: 1 + beta · ln(1 + ⌊(position + offset) /
    original_context⌋).

    A softmax over more keys is flatter. The factor grows with the number of keys that a query sees, to
    compensate for this (Nakanishi 2025, Scalable-Softmax; Llama 4; Ministral 3). Conventions: the factor
    is 1 within `original_context`, and its type is float64. Llama 4 counts the tokens up to the query,
    which is an `offset` of 1.
    """
    return 1 + beta * np.log1p((positions + offset) // original_context)
