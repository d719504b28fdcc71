"""EmbeddingGemma 2, as text (Google 2026): Gemma 4's layers, in which tokens see both directions.

Windows extend equally far in both directions. The per-layer input of a token depends only on the token's
embedding. The mean of a text's vectors is projected to another width.
"""

from dataclasses import replace
from typing import Any

from ...config import Attention, Dense, Encoder, PerLayerEmbedding, Pool, Window
from ..config_readers.decoder import map_attention
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_types
from ..config_readers.text_part import TextModel, text_model
from ..weights.weight_map import weight_map
from . import Task, gemma4

MODEL_TYPES = ("embedding_gemma2_text", "embedding_gemma2")
ARCHITECTURES: dict[str, Task] = {"EmbeddingGemma2Model": "pool", "EmbeddingGemma2TextModel": "pool"}
PREFIX = gemma4.PREFIX
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_144, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 262_144,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    },
}  # fmt: skip
# What Gemma 4 has and this class hasn't.
ABSENT = {
    "attention_k_eq_v": False, "enable_moe_block": False, "num_kv_shared_layers": 0,
    "use_bidirectional_attention": None, "use_double_wide_mlp": False, "final_logit_softcapping": None,
}  # fmt: skip


def config(keys: Keys, task: Task) -> Encoder:
    if keys.get("model_type", str) == "embedding_gemma2_text":
        return _text(keys, task)
    gemma4.ignore_other_parts(keys)
    return text_model(keys, task, {"embedding_gemma2_text": TEXT}, "embedding_gemma2_text", tied=True)


def _text(keys: Keys, task: Task) -> Encoder:
    keys.harmless(**{key: (value,) for key, value in ABSENT.items()})
    keys.get("tie_word_embeddings", bool, True)  # it has no output table
    keys = keys.with_defaults(DEFAULTS)
    every, vectors = keys.size("sliding_window_pattern", 6), keys.size("hidden_size_per_layer_input", 512)
    types = layer_types(keys, lambda i: (i + 1) % every != 0)
    types = [*types[:-1], "full_attention"]
    full = {
        "head_dim": keys.size("global_head_dim", 512),
        "num_key_value_heads": keys.size("num_global_key_value_heads", 1),
    }
    heads = {str(i): full for i, kind in enumerate(types) if kind == "full_attention"}
    decoder = gemma4.TEXT.config(
        keys.replaced({
            "per_layer_config": heads, **keys.values, **ABSENT, "layer_types": types,
            "hidden_size_per_layer_input": vectors, "vocab_size_per_layer_input": keys.size("vocab_size"),
        }),
        task,
    )  # fmt: skip
    made = decoder.embedding.per_layer
    assert made is not None

    def widened(_: int, attention: Attention) -> Attention:
        window = attention.window
        return attention if window is None else replace(attention, mask=Window(window + 1))

    return Encoder(
        replace(decoder.embedding, per_layer=PerLayerEmbedding(None, made.norm)),
        map_attention(decoder, widened).stack,
        Pool("mean", Dense(None, bias=False, width=keys.size("embedding_dim", 768))),
        decoder.context,
    )


TEXT = TextModel(_text, {})
WEIGHTS = gemma4.WEIGHTS + weight_map("""
    embedding.per_layer.norm <- ple.per_layer_projection_norm.weight
    embedding.per_layer.project <- ple.per_layer_model_projection.weight : transpose
    decoder.layers.{i}.per_layer.gate <- layers.{i}.ple_block.per_layer_input_gate.weight : transpose
    decoder.layers.{i}.per_layer.project <- layers.{i}.ple_block.per_layer_projection.weight : transpose
    decoder.layers.{i}.per_layer_post.weight <- layers.{i}.ple_block.post_per_layer_input_norm.weight
    head.dense.weight <- embedding_projection.weight : transpose
""")
