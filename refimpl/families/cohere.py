"""Cohere's Command R (2024): attention and mlp side by side under one norm without bias, pairs of
neighbours rotated, scaled logits."""

from __future__ import annotations

from dataclasses import replace

from ..config import LM, Attention, Config, Embedding, Gated, HeadNorm, Layer, LayerNorm, Rope, Stack
from ..gguf.keys import STRAIGHT, embedding_rows
from ..gguf.keys import head_size as gguf_head_size
from ..gguf.rope import gguf_rope
from ..keys import ACTIVATIONS, Keys
from ..keys.layers import count
from ..keys.rope import exact_context, rope
from ..weights import Source
from . import Gguf, Task
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("cohere",)
ARCHITECTURES: dict[str, Task] = {"CohereForCausalLM": "lm"}
PREFIX = ""


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
    return _build(
        Embedding(keys.size("vocab_size"), width),
        Attention(
            heads,
            keys.size("num_key_value_heads", None) or heads,
            size,
            position,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=HeadNorm(norm, "each") if keys.get("use_qk_norm", bool, False, null=True) else None,
            pre=norm,
        ),
        Gated(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "silu")),
        count(keys),
        LM(keys.get("tie_word_embeddings", bool, True), scale=keys.positive("logit_scale", 0.0625)),
        exact_context(context, position),
    )


def _build(
    embedding: Embedding, attention: Attention, mlp: Gated, layers: int, head: LM, context: int
) -> Config:
    """Attention and mlp side by side; neighbours are rotated as pairs."""
    assert isinstance(attention.position, Rope)
    attention = replace(attention, position=replace(attention.position, interleaved=True))
    stack = Stack((Layer(attention, mlp, parallel=True),) * layers, attention.pre)
    return Config(embedding, stack, head, context)


WEIGHTS = f"""
    {LLAMA}
    decoder.layers.{{i}}.attn.q_norm <- model.layers.{{i}}.self_attn.q_norm.weight
    decoder.layers.{{i}}.attn.k_norm <- model.layers.{{i}}.self_attn.k_norm.weight
"""


def gguf_config(keys: Keys, source: Source) -> Config:
    """Queries and keys stand as on the hub; what the metadata leave open shows in the tensors."""
    size = keys.size("attention.key_length", None) or gguf_head_size(keys)
    if keys.size("attention.value_length", size) != size:
        raise keys.fail("attention.value_length", f"the head's size, {size}")
    norm = LayerNorm(keys.positive("attention.layer_norm_epsilon"), bias=False)
    position, heads = gguf_rope(keys, source, size), keys.size("attention.head_count")
    return _build(
        Embedding(embedding_rows(keys, source), keys.size("embedding_length")),
        Attention(
            heads,
            keys.size("attention.head_count_kv", heads),
            size,
            position,
            qkv_bias="blk.0.attn_q.bias" in source.names,
            out_bias="blk.0.attn_output.bias" in source.names,
            qk_norm=HeadNorm(norm, "each") if "blk.0.attn_q_norm.weight" in source.names else None,
            pre=norm,
        ),
        Gated(keys.size("feed_forward_length"), "silu"),
        min(keys.size("block_count"), 2**16),
        LM("output.weight" not in source.names, scale=keys.positive("logit_scale")),
        exact_context(keys.size("context_length"), position),
    )


GGUF = Gguf("command-r", gguf_config, STRAIGHT)
