"""Qwen 3 (Yang et al. 2025): Qwen 2 with normalized queries and keys, biases only where asked for."""

from __future__ import annotations

from dataclasses import replace

from ..config import Config, HeadNorm
from ..keys import Keys
from . import Task
from .llama import WEIGHTS as LLAMA
from .llama import decoder, varied
from .qwen2 import windows

MODEL_TYPES = ("qwen3",)
ARCHITECTURES: dict[str, Task] = {"Qwen3ForCausalLM": "lm"}
PREFIX = ""
GGUF = None


def config(keys: Keys, task: Task) -> Config:
    plain = decoder(
        keys,
        groups=keys.size("num_key_value_heads", 32, null=True),
        context=32_768,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=False,
        head_size=128,
    )
    norm = plain.layers[0].attention.pre
    assert norm is not None
    sees = windows(keys)
    return varied(
        plain,
        lambda i, layer: replace(
            layer, attention=replace(layer.attention, qk_norm=HeadNorm(norm), pattern=sees[i])
        ),
    )


WEIGHTS = f"""
    {LLAMA}
    decoder.layers.{{i}}.attn.q_norm <- model.layers.{{i}}.self_attn.q_norm.weight
    decoder.layers.{{i}}.attn.k_norm <- model.layers.{{i}}.self_attn.k_norm.weight
"""
