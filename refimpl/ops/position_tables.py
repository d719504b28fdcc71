"""The rotary tables of a model: cosines and sines for each position, for each Rope of the model's Config."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..config import (
    Config,
    DynamicNTK,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ProportionalScaling,
    Rope,
    Yarn,
)
from .dispatch import op
from .position import Rotary, rope_frequencies, rope_tables
from .rope_scaling import (
    dynamic_ntk_scaling,
    linear_scaling,
    llama3_scaling,
    longrope_scaling,
    proportional_scaling,
    yarn_scaling,
)

if TYPE_CHECKING:
    from ..axes import Array


@op
def position_tables(positions: Array, *, config: Config) -> dict[Rope, Rotary]:
    """Return the cosines and sines [M, J] at the given positions in float64, for each Rope of the Config.

    If frequencies depend on the length of the text, the length is the Config's `context`.
    """
    tables = {}
    for rope in config.ropes:
        f, magnitude = rope_frequencies(np.arange(rope.dims // 2), theta=rope.theta), 1.0
        match rope.scaling:
            case None:
                pass
            case LinearScaling(factor):
                f = linear_scaling(f, factor=factor)
            case DynamicNTK(factor, original):
                f = dynamic_ntk_scaling(f, factor=factor, original_context=original, context=config.context)
            case Yarn(factor, original, fast, slow, truncate, stated):
                f = yarn_scaling(
                    f,
                    theta=rope.theta,
                    factor=factor,
                    beta_fast=fast,
                    beta_slow=slow,
                    original_context=original,
                    truncate=truncate,
                )
                magnitude = stated if stated is not None else 1 + 0.1 * math.log(max(factor, 1.0))
            case LongRope(short, long, original, magnitude):
                f = longrope_scaling(
                    f, np.array(short), np.array(long), original_context=original, context=config.context
                )
            case ProportionalScaling(turned, factor):
                f = proportional_scaling(f, turned=turned, factor=factor)
            case Llama3Scaling(factor, low, high, original):
                f = llama3_scaling(
                    f,
                    factor=factor,
                    low_freq_factor=low,
                    high_freq_factor=high,
                    original_context=original,
                )
        if rope.factors is not None:
            f = f * np.array(rope.factors)
        tables[rope] = Rotary(*rope_tables(positions, f, magnitude=magnitude))
    return tables
