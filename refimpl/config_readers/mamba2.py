"""Mamba 2's layers in config.json and in checkpoints: what the families that have them share."""

from __future__ import annotations

import math
from typing import Any

from ..weights.weight_map import weight_map
from .keys import Keys

# Steps of any length, as transformers writes and has them.
UNLIMITED = ([0.0, {"__float__": "Infinity"}], [0.0, math.inf], None)


def check_steps(keys: Keys) -> None:
    """Mark keys of how steps were initialized in training; ConfigError for a limit of their length.

    transformers has it where a text is read, and not where a token follows.
    """
    keys.unused("time_step_min", "time_step_max", "time_step_floor", "chunk_size")
    limit: Any = keys.values.get("time_step_limit")
    keys.unused("time_step_limit")
    if isinstance(limit, tuple):
        limit = list(limit)
    if limit not in UNLIMITED:
        raise keys.fail("time_step_limit", "[0, Infinity]: limits of steps aren't known")


# Of the layer `mixer`, as Mamba 2's own checkpoints name it.
MIXER = weight_map("""
    decoder.layers.{i}.attn.wz, wi, wdt <- layers.{i}.mixer.in_proj.weight : transpose
    decoder.layers.{i}.attn.bz, bi, bdt <- layers.{i}.mixer.in_proj.bias
    decoder.layers.{i}.attn.conv <- layers.{i}.mixer.conv1d.weight : taps
    decoder.layers.{i}.attn.conv_bias <- layers.{i}.mixer.conv1d.bias
    decoder.layers.{i}.attn.a_log <- layers.{i}.mixer.A_log
    decoder.layers.{i}.attn.dt_bias <- layers.{i}.mixer.dt_bias
    decoder.layers.{i}.attn.skip <- layers.{i}.mixer.D
    decoder.layers.{i}.attn.norm <- layers.{i}.mixer.norm.weight
    decoder.layers.{i}.attn.wo <- layers.{i}.mixer.out_proj.weight : transpose
    decoder.layers.{i}.attn.bo <- layers.{i}.mixer.out_proj.bias
""")
