"""Ministral 3 and Devstral 2 (Mistral AI 2025): Mistral with queries scaled by their position, and YaRN.

In GGUF the architecture is mistral3, the name of a model that reads images and uses this decoder for text.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...config import Decoder, QueryScale
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import DECODER, THETA, Row, fixed, without
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.gguf_rope import ORIGINAL as TRAINED
from ..config_readers.gguf_rope import rope_scaling, share_of_dims
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import read_window
from ..config_readers.rope import ORIGINAL
from ..formats.tensor_source import TensorSource
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("ministral3",)
ARCHITECTURES: dict[str, Task] = decoders("Ministral3")
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
        window=read_window(stated),
        eps=1e-5,
        head=128,
    )
    return map_attention(base, lambda _, a: replace(a, query_scale=scale))


def with_query_scale(keys: Keys, default: Mapping[str, Any]) -> tuple[Keys, QueryScale | None]:
    """Take the keys for the scale of queries out of the rotary keys. Return the remaining keys, and the
    scale.

    `default` are the rotary keys of a config that states none.
    """
    old, new = keys.get("rope_scaling", dict, None), keys.get("rope_parameters", dict, None)
    if old and new and old != new:
        raise keys.fail("rope_parameters", "the same as rope_scaling if both are present")
    inner = Keys(new or old or default, f"{keys.where}: {'rope_parameters' if new else 'rope_scaling'}")
    inner.size("max_position_embeddings", None)  # stands outside too, where it counts
    beta = inner.get("llama_4_scaling_beta", float)
    scale = None if beta == 0 else QueryScale(inner.positive("llama_4_scaling_beta"), inner.size(ORIGINAL))
    kind = inner.values.get("rope_type", inner.values.get("type"))
    own = ("llama_4_scaling_beta", "max_position_embeddings", *(() if kind in WITH_ORIGINAL else (ORIGINAL,)))
    rotary = {key: value for key, value in inner.values.items() if key not in own}
    values = {key: value for key, value in keys.values.items() if key != "rope_scaling"}
    return keys.replaced({**values, "rope_parameters": rotary}), scale


def query_scaling(keys: Keys, source: TensorSource, size: int) -> dict[str, Any]:
    """Return a GGUF file's rotary keys in config.json's form, with the scale of queries.

    As in llama.cpp, the span is YaRN's original context."""
    beta = keys.get("attention.temperature_scale", float, 0.0)
    own = {"llama_4_scaling_beta": keys.positive("attention.temperature_scale") if beta else 0.0}
    trained = {ORIGINAL: keys.size(TRAINED, keys.size("context_length"))} if beta else {}
    return {
        "rope_theta": keys.positive(THETA, 10_000.0),
        **trained,
        **rope_scaling(keys, source, size),
        **own,
    }


def _rotary(keys: Keys, source: TensorSource) -> dict[str, Any]:
    """Return the rotary keys. With a multiplier, YaRN's magnitude is the magnitude for 1 divided by its
    own.
    """
    size, multiplier = own_head_size(keys), keys.get(MULTIPLIER, float, 0.0)
    share_of_dims(keys, size, partial=False)
    rotary = query_scaling(keys, source, size)
    if rotary["rope_type"] == "yarn" and multiplier:
        rotary |= {"mscale": 1.0, "mscale_all_dim": keys.positive(MULTIPLIER)}
    return rotary


MULTIPLIER = "rope.scaling.yarn_log_multiplier"
KEYS = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    "model_type": fixed("ministral3"),
    "rope_parameters": Row(_rotary),
}
GGUF = Gguf("mistral3", KEYS, PERMUTED_QK_WEIGHTS)
