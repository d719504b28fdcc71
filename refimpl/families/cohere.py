"""Cohere's Command R (2024): attention and mlp side by side under one norm without bias, pairs of
neighbours rotated, scaled logits."""

from __future__ import annotations

from dataclasses import replace

from ..config import LM, Attention, Config, Embedding, Gated, HeadNorm, Layer, LayerNorm, Stack
from ..keys import ACTIVATIONS, Keys
from ..layer_keys import count
from ..rope_keys import exact_context, rope
from . import Task
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("cohere",)
ARCHITECTURES: dict[str, Task] = {"CohereForCausalLM": "lm"}
PREFIX = ""
GGUF = None


def config(keys: Keys, task: Task) -> Config:
    # Older files have both; the first is the tokenizer's, the second sums slices of one product.
    keys.get("model_max_length", int, None)
    keys.get("pretraining_tp", int, 1, null=True)
    width, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    size = keys.size("head_dim", None)
    if size is None and width % heads:
        raise keys.fail("hidden_size", f"a multiple of num_attention_heads, {heads!r:.40}")
    size, context = size or width // heads, keys.size("max_position_embeddings", 8192)
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-5), bias=False)
    position = rope(keys, size, context, theta=500_000.0)
    bias = keys.get("attention_bias", bool, False)
    attention = Attention(
        heads,
        keys.size("num_key_value_heads", None) or heads,
        size,
        replace(position, interleaved=True),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=HeadNorm(norm, "each") if keys.get("use_qk_norm", bool, False, null=True) else None,
        pre=norm,
    )
    mlp = Gated(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "silu"))
    scale = keys.get("logit_scale", float, 0.0625)
    return Config(
        Embedding(keys.size("vocab_size"), width),
        Stack((Layer(attention, mlp, parallel=True),) * count(keys), norm),
        LM(keys.get("tie_word_embeddings", bool, True), scale=scale),
        exact_context(context, position),
    )


WEIGHTS = f"""
    {LLAMA}
    decoder.layers.{{i}}.attn.q_norm <- model.layers.{{i}}.self_attn.q_norm.weight
    decoder.layers.{{i}}.attn.k_norm <- model.layers.{{i}}.self_attn.k_norm.weight
"""
