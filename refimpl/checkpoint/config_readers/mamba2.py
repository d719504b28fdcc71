"""Read Mamba 2's layers from config.json, and map their weights. Families with such layers share this
code.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ...config import Decoder, RMSNorm
from ...ops.mamba2 import Mamba2
from ..weights.weight_map import weight_map
from .decoder import map_layers
from .keys import Keys

# Steps of any length, as transformers writes and has them.
UNLIMITED = ([0.0, {"__float__": "Infinity"}], [0.0, math.inf], None)


def check_steps(keys: Keys) -> None:
    """Mark the keys that say how steps were initialized in training as read. Raises ConfigError for a limit
    of the steps' size.

    transformers applies such a limit to the steps of a prompt, but not to the steps of later tokens.
    """
    keys.unused("time_step_min", "time_step_max", "time_step_floor", "chunk_size", "mamba_chunk_size")
    limit: Any = keys.values.get("time_step_limit")
    keys.unused("time_step_limit")
    if isinstance(limit, tuple):
        limit = list(limit)
    if limit not in UNLIMITED:
        raise keys.fail("time_step_limit", "[0, Infinity]: tfm doesn't support limits of steps")


def with_mamba2(config: Decoder, keys: Keys, places: Collection[int]) -> Decoder:
    """Return the decoder with Mamba 2 instead of attention in the layers `places`.

    Keys with the prefix mamba_ state the settings of Mamba 2. The norms of Mamba 2 have the eps of the
    decoder's other norms.
    """
    norm = config.layers[0].attention.pre
    assert isinstance(norm, RMSNorm)
    width = keys.size("mamba_expand", 2) * keys.size("hidden_size")
    mixer = mamba_mixer(keys, width, norm.eps)
    mixer = replace(mixer, out_bias=mixer.bias, pre=norm)
    return map_layers(config, lambda i, layer: replace(layer, attention=mixer) if i in places else layer)


def mamba_mixer(keys: Keys, width: int, eps: float) -> Mamba2:
    """Return the Mamba 2 mixer that the keys with the prefix mamba_ state.

    `width` is the width of all heads together. The mixer has no norm before it, and its output projection has
    no bias."""
    check_steps(keys)
    keys.choice("hidden_act", {"silu": "silu", "swish": "silu"}, "silu")  # its convolutions have no other
    heads = keys.size("mamba_n_heads", 128)
    if width % heads:
        raise keys.fail("mamba_n_heads", f"a divisor of the total width of the heads ({width})")
    size = width // heads
    if keys.values.get("mamba_d_head", "auto") != "auto":
        keys.restated("mamba_d_head", size, f"the width of all heads / the number of heads ({size})")
    keys.unused("mamba_d_head")
    return Mamba2(
        heads=heads,
        groups=keys.size("mamba_n_groups", 1),
        state_size=keys.size("mamba_d_state", 256),
        head_size=size,
        length=keys.size("mamba_d_conv", 4),
        conv_bias=keys.get("mamba_conv_bias", bool, True),
        bias=keys.get("mamba_proj_bias", bool, False),
        norm="after_gate" if keys.shows("ssm_norm.weight", stated=True) else None,
        eps=eps,
    )


# Of the layer `mixer`, as Mamba 2's own checkpoints name it.
MIXER = weight_map("""
    decoder.layers.{i}.attn.wz, wi, wdt <- layers.{i}.mixer.in_proj.weight : transpose
    decoder.layers.{i}.attn.bz, bi, bdt <- layers.{i}.mixer.in_proj.bias
    decoder.layers.{i}.attn.conv <- layers.{i}.mixer.conv1d.weight : taps
    decoder.layers.{i}.attn.{conv_bias,bo} <- layers.{i}.mixer.{conv1d,out_proj}.bias
    decoder.layers.{i}.attn.{a_log,dt_bias,skip} <- layers.{i}.mixer.{A_log,dt_bias,D}
    decoder.layers.{i}.attn.norm <- layers.{i}.mixer.norm.weight
    decoder.layers.{i}.attn.wo <- layers.{i}.mixer.out_proj.weight : transpose
""")
