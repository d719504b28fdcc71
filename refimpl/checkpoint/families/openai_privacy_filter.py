"""OpenAI's privacy filter (2026): gpt-oss' layers as an encoder that labels tokens.

Windows extend in both directions. Rotary positions rotate neighbouring elements. Gate and up projections are
stored separately."""

from dataclasses import replace
from typing import Any

from ...config import Config, Window
from ..config_readers.decoder import interleaved, map_attention
from ..config_readers.heads import reading
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..weights.weight_map import weight_map
from . import Task, gpt_oss

MODEL_TYPES = ("openai_privacy_filter",)
ARCHITECTURES: dict[str, Task] = {
    "OpenAIPrivacyFilterForTokenClassification": "tag",
    "OpenAIPrivacyFilterModel": "pool",
}
# No dialect of GGUF: llama.cpp has no architecture for it.
LABELS = 33  # the beginning, inside and end of eight kinds, and each alone; and what is none


def config(keys: Keys, task: Task) -> Config:
    keys.harmless(default_n_ctx=(int,))
    defaults: dict[str, Any] = {
        "num_key_value_heads": 2,
        "layer_types": ["full_attention"] * layer_count(keys),
    }
    if "id2label" not in keys:
        defaults["num_labels"] = LABELS
    keys = keys.with_defaults(defaults)
    base = interleaved(gpt_oss.config(keys, task))
    window = Window(keys.size("sliding_window", 128) + 1)  # as many on either side, and the token itself
    base = map_attention(base, lambda _, attention: replace(attention, mask=window))
    return reading(base, keys, task, causal=False)


EXPERTS = "decoder.layers.{i}.mlp.experts.{e}."
WEIGHTS = gpt_oss.WEIGHTS.without(f"{EXPERTS}gate", f"{EXPERTS}bgate") + weight_map("""
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.mlp.experts.gate_up_proj[{e}]
    decoder.layers.{i}.mlp.experts.{e}.bgate, bup <- layers.{i}.mlp.experts.gate_up_proj_bias[{e}]
""")
