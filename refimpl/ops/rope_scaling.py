"""Rotary frequencies for texts that are longer than the texts that a model was trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def linear_scaling(frequencies: Float[Array, " J"], *, factor: float) -> Float[Array, " J"]:
    """Divide all frequencies by `factor`, which is position interpolation (Chen et al. 2023)."""
    return frequencies / factor


@op
def dynamic_ntk_scaling(
    frequencies: Float[Array, " J"],
    *,
    factor: float,
    original_context: int,
    context: int,
) -> Float[Array, " J"]:
    """Multiply frequency j by s^(−j / (J−1)). So the highest frequency stays, and the lowest is divided by
    s (bloc97, emozilla 2023).

    s = factor · context / original_context − (factor − 1), and s is 1 up to the original context. This
    equals replacing theta by theta · s^(2J / (2J − 2)).

    Conventions: `context` is the largest length of the whole run. transformers uses the length so far. So
    in transformers a cached key may be rotated by another theta than the query that reads it, and a
    token's result depends on how much text follows it.
    """
    s = max(1.0, factor * context / original_context - (factor - 1))
    last = max(len(frequencies) - 1, 1)
    return frequencies * s ** -(np.arange(len(frequencies)) / last).astype(frequencies.dtype)


@op
def yarn_scaling(
    frequencies: Float[Array, " J"],
    *,
    theta: float,
    factor: float,
    beta_fast: float,
    beta_slow: float,
    original_context: int,
    truncate: bool = True,
) -> Float[Array, " J"]:
    """Keep high frequencies, divide low frequencies by `factor`, and blend both in a ramp between them
    (Peng et al. 2023, §3.2).

    The pair that turns r times in the original context has the number J · ln(original / 2πr) / ln(theta).
    The ramp runs from the pair with beta_fast turns to the pair with beta_slow turns. Conventions: with
    `truncate` the ends of the ramp are whole pairs, rounded outwards, as in the authors' code. They are
    clipped to 0 and 2J − 1. This is transformers' bound, although the last pair is J − 1.
    """
    pairs = len(frequencies)

    def pair(turns: float) -> float:
        return pairs * math.log(original_context / (turns * 2 * math.pi)) / math.log(theta)

    low, high = pair(beta_fast), pair(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = high - low if high != low else 0.001
    slow = np.clip((np.arange(pairs) - low) / width, 0, 1).astype(frequencies.dtype)
    return slow * frequencies / factor + (1 - slow) * frequencies


@op
def longrope_scaling(
    frequencies: Float[Array, " J"],
    short: Float[Array, " J"],
    long: Float[Array, " J"],
    *,
    original_context: int,
    context: int,
) -> Float[Array, " J"]:
    """Divide each frequency by its own factor (Ding et al. 2024). The factors come from a search by the
    model's authors.

    Conventions: the `long` factors are for contexts above the original one, the `short` factors for all
    others. As in `dynamic_ntk_scaling`, the context is the largest length of the run, not the length so
    far.
    """
    return frequencies / (long if context > original_context else short)


@op
def llama3_scaling(
    frequencies: Float[Array, " J"],
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_context: int,
) -> Float[Array, " J"]:
    """Keep high frequencies, divide low frequencies by `factor`, and blend both in between (Llama 3.1's
    reference code).

    Let turns = original_context · f / 2π be how often a pair turns in the original context. The share of
    the frequency that is kept is clip((turns − low_freq_factor) / (high_freq_factor − low_freq_factor), 0,
    1). If high_freq_factor equals low_freq_factor (Llama 4 Scout), the share is 1 where turns is at least
    that factor, otherwise 0.
    """
    turns, span = original_context * frequencies / (2 * math.pi), high_freq_factor - low_freq_factor
    kept = (turns >= low_freq_factor).astype(turns.dtype)
    if span:
        kept = np.clip((turns - low_freq_factor) / span, 0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


@op
def proportional_scaling(
    frequencies: Float[Array, " J"],
    *,
    turned: int,
    factor: float,
) -> Float[Array, " J"]:
    """Divide the first `turned` frequencies by `factor`, and set all others to 0 (Gemma 4, Google 2026).

    So only a part of a head of 2J numbers is rotated. Fewer rotary dims also rotate only a part, but
    another part (here J = 4):

        rotary dims 4    pairs (0, 2) (1, 3)                  frequencies 1, θ^(−2/4)
        turned 2         pairs (0, 4) (1, 5), (2, 6) (3, 7)   frequencies 1, θ^(−2/8), and 0, 0

    Pairs and frequencies are counted over the whole head. The slowest pairs, which would turn by only a
    small part of a circle over a long text, aren't rotated. So their numbers describe a token
    independently of its position.
    """
    still = np.arange(len(frequencies)) >= turned
    return np.where(still, 0, frequencies / factor).astype(frequencies.dtype)
