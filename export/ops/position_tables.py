"""The rotary tables of a model: cosines and sines by position, for each Rope of its Config."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...refimpl.config import (
    Config,
    DynamicNTK,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ProportionalScaling,
    Rope,
    Yarn,
)
from ...refimpl.ops.position import Rotary, rope_frequencies, rope_tables
from ...refimpl.ops.rope_scaling import (
    dynamic_ntk_scaling,
    linear_scaling,
    llama3_scaling,
    longrope_scaling,
    proportional_scaling,
    yarn_scaling,
)
from ..torch_bodies import torch_body


def _scaled(base: Tensor, rope: Rope, context: int) -> tuple[Tensor, float]:
    """Frequencies, and the magnitude of cosines and sines."""
    match rope.scaling:
        case Llama3Scaling() as s:
            return llama3_scaling(
                base,
                factor=s.factor,
                low_freq_factor=s.low_freq_factor,
                high_freq_factor=s.high_freq_factor,
                original_context=s.original_context,
            ), 1.0
        case ProportionalScaling() as s:
            return proportional_scaling(base, turned=s.turned, factor=s.factor), 1.0
        case LongRope() as s:
            short, long = torch.tensor(s.short).double(), torch.tensor(s.long).double()
            scaled = longrope_scaling(base, short, long, original_context=s.original_context, context=context)
            return scaled, s.magnitude
        case Yarn() as s:
            scaled = yarn_scaling(
                base,
                theta=rope.theta,
                factor=s.factor,
                beta_fast=s.beta_fast,
                beta_slow=s.beta_slow,
                original_context=s.original_context,
                truncate=s.truncate,
            )
            usual = 0.1 * math.log(s.factor) + 1 if s.factor > 1 else 1.0
            return scaled, usual if s.magnitude is None else s.magnitude
        case DynamicNTK() as s:
            return dynamic_ntk_scaling(
                base, factor=s.factor, original_context=s.original_context, context=context
            ), 1.0
        case LinearScaling() as s:
            return linear_scaling(base, factor=s.factor), 1.0
        case None:
            return base, 1.0


@torch_body
def position_tables(positions: Tensor, *, config: Config) -> dict[Rope, Rotary]:
    """Cosines and sines [M, J] at the given positions, float64, for each Rope of the Config."""
    tables = {}
    for rope in config.ropes:
        base = rope_frequencies(torch.arange(rope.dims // 2), theta=rope.theta)
        frequencies, magnitude = _scaled(base, rope, config.context)
        tables[rope] = Rotary(*rope_tables(positions, frequencies, magnitude=magnitude))
    return tables
