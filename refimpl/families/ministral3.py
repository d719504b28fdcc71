"""Ministral 3 and Devstral 2 (Mistral AI 2025): Mistral with queries scaled by their position, and YaRN.

In GGUF it is called mistral3, after the model that reads images, whose text part it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import Decoder, QueryScale, Yarn
from ..config_readers.decoder import decoder, gguf_decoder, map_attention
from ..config_readers.gguf_metadata import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import read_window
from ..config_readers.rope import ORIGINAL, magnitude_ratio
from ..formats.tensor_source import TensorSource
from . import Gguf, Task, decoders
from .llama import WEIGHTS

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("ministral3",)
ARCHITECTURES: dict[str, Task] = decoders("Ministral3")
PREFIX = "model."
ROPE = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, ORIGINAL: 16_384, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
# The types of rotary scaling that read the trained context.
WITH_ORIGINAL = ("yarn", "longrope", "llama3")


def config(keys: Keys, task: Task) -> Decoder:
    stated, scale = with_query_scale(keys, ROPE)
    base = decoder(
        stated,
        kv_heads=stated.size("num_key_value_heads", 8, null=True),
        context=262_144,
        attention_bias=False,
        mlp_bias=False,
        window=read_window(stated),
        eps=1e-5,
        head=128,
    )
    return map_attention(base, lambda _, a: replace(a, query_scale=scale))


def with_query_scale(keys: Keys, default: Mapping[str, Any]) -> tuple[Keys, QueryScale | None]:
    """The keys without those of the scale of queries, which stand among the rotary ones, and that scale.

    `default` are the rotary keys of a config without any.
    """
    old, new = keys.get("rope_scaling", dict, None), keys.get("rope_parameters", dict, None)
    if old and new and old != new:
        raise keys.fail("rope_parameters", "the same as rope_scaling where both are there")
    inner = Keys(new or old or default, f"{keys.where}: {'rope_parameters' if new else 'rope_scaling'}")
    inner.size("max_position_embeddings", None)  # stands outside too, where it counts
    beta = inner.get("llama_4_scaling_beta", float)
    scale = None if beta == 0 else QueryScale(inner.positive("llama_4_scaling_beta"), inner.size(ORIGINAL))
    kind = inner.values.get("rope_type", inner.values.get("type"))
    own = ("llama_4_scaling_beta", "max_position_embeddings", *(() if kind in WITH_ORIGINAL else (ORIGINAL,)))
    rotary = {key: value for key, value in inner.values.items() if key not in own}
    values = {key: value for key, value in keys.values.items() if key != "rope_scaling"}
    return keys.replaced({**values, "rope_parameters": rotary}), scale


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    """From GGUF's metadata. llama.cpp takes a span of YaRN's original context for the scale of queries."""
    base = gguf_decoder(keys, source)
    beta = keys.get("attention.temperature_scale", float, 0.0)
    multiplier = keys.get("rope.scaling.yarn_log_multiplier", float, 0.0)
    rope = base.ropes[0]
    yarn = rope.scaling
    if isinstance(yarn, Yarn) and multiplier:
        magnitude = magnitude_ratio(yarn.factor, 1.0, keys.positive("rope.scaling.yarn_log_multiplier"))
        rope = replace(rope, scaling=replace(yarn, magnitude=magnitude))
    scale = None
    if beta:
        original = keys.size("rope.scaling.original_context_length", keys.size("context_length"))
        scale = QueryScale(keys.positive("attention.temperature_scale"), original)
    return map_attention(base, lambda _, a: replace(a, position=rope, query_scale=scale))


GGUF = Gguf("mistral3", gguf_config, PERMUTED_QK_WEIGHTS)
