"""ModernBERT (Warner et al. 2024): pre-norm, rotary, gated mlps, windows in all layers but some.

The first norm stands behind the tables, so the first attention has none of its own.
"""

from __future__ import annotations

from ..config import (
    Attention,
    Config,
    Dense,
    Embedding,
    Full,
    Gated,
    Layer,
    LayerNorm,
    MaskedLM,
    Stack,
    Window,
)
from ..keys import ACTIVATIONS, Keys
from ..keys.head import head
from ..keys.layers import head_size, layer_types
from ..keys.rope import exact_context, ropes
from . import Task, heads

MODEL_TYPES = ("modernbert",)
ARCHITECTURES = heads("ModernBert")
PREFIX = "model."
GGUF = None


def config(keys: Keys, task: Task) -> Config:
    _unused(keys)
    heads, size = keys.size("num_attention_heads"), head_size(keys)
    norm = LayerNorm(keys.positive("norm_eps", 1e-5), bias=keys.get("norm_bias", bool, False))
    bias, every = keys.get("attention_bias", bool, False), keys.size("global_attn_every_n_layers", 3)
    types = layer_types(keys, lambda i: i % every != 0)
    if keys.values.get("local_rope_theta", 0) is None:
        raise keys.fail("local_rope_theta", "a number")
    context = keys.size("max_position_embeddings", 8192)
    thetas = {
        "full_attention": ("global_rope_theta", 160_000.0),
        "sliding_attention": ("local_rope_theta", 10_000.0),
    }
    turned = ropes(keys, size, context, thetas, scaled=tuple(thetas))
    # Half of the window lies before a token, half behind it, and the token itself between the two.
    seen = {"full_attention": Full(), "sliding_attention": Window(keys.size("local_attention", 128) // 2 + 1)}
    mlp = Gated(
        keys.size("intermediate_size", 1152),
        keys.choice("hidden_activation", ACTIVATIONS, "gelu"),
        bias=keys.get("mlp_bias", bool, False),
        pre=norm,
    )
    layers = [
        Layer(
            Attention(
                heads,
                heads,
                size,
                turned[kind],
                seen[kind],
                qkv_bias=bias,
                out_bias=bias,
                pre=norm if i else None,
            ),
            mlp,
        )
        for i, kind in enumerate(types)
    ]
    dense = Dense(
        keys.choice("classifier_activation", ACTIVATIONS, "gelu"),
        bias=keys.get("classifier_bias", bool, False),
        norm=norm,
    )
    return Config(
        embedding=Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        decoder=None,
        head=head(
            keys,
            task,
            masked=MaskedLM(
                keys.get("tie_word_embeddings", bool, True), dense, keys.get("decoder_bias", bool, True)
            ),
            classify=dense,
            pooling=keys.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, "cls"),
            token=dense,
        ),
        context=exact_context(context, *turned.values()),
        encoder=Stack(tuple(layers), norm, first_norm=norm),
    )


def _unused(keys: Keys) -> None:
    """Keys of training, of kernels, of losses; and two that transformers leaves unread."""
    keys.choice("position_embedding_type", {"absolute": None}, "absolute")
    keys.unused("embedding_dropout", "mlp_dropout", "classifier_dropout", "initializer_cutoff_factor")
    keys.unused("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad")
    keys.unused("gradient_checkpointing", "sparse_prediction", "sparse_pred_ignore_index")
    keys.unused("cls_token_id", "sep_token_id", "layer_norm_eps")


WEIGHTS = """
    embedding.table <- embeddings.tok_embeddings.weight
    encoder.first_norm.weight <- embeddings.norm.weight
    encoder.first_norm.bias <- embeddings.norm.bias
    encoder.layers.{i}.attn_pre.weight <- layers.{i}.attn_norm.weight
    encoder.layers.{i}.attn_pre.bias <- layers.{i}.attn_norm.bias
    encoder.layers.{i}.attn.wq, wk, wv <- layers.{i}.attn.Wqkv.weight : transpose
    encoder.layers.{i}.attn.bq, bk, bv <- layers.{i}.attn.Wqkv.bias
    encoder.layers.{i}.attn.wo <- layers.{i}.attn.Wo.weight : transpose
    encoder.layers.{i}.attn.bo <- layers.{i}.attn.Wo.bias
    encoder.layers.{i}.mlp_pre.weight <- layers.{i}.mlp_norm.weight
    encoder.layers.{i}.mlp_pre.bias <- layers.{i}.mlp_norm.bias
    encoder.layers.{i}.mlp.gate, up <- layers.{i}.mlp.Wi.weight : transpose
    encoder.layers.{i}.mlp.bgate, bup <- layers.{i}.mlp.Wi.bias
    encoder.layers.{i}.mlp.down <- layers.{i}.mlp.Wo.weight : transpose
    encoder.layers.{i}.mlp.bdown <- layers.{i}.mlp.Wo.bias
    encoder.norm.weight <- final_norm.weight
    encoder.norm.bias <- final_norm.bias
    for MaskedLM, Classify, Tag, Answer:
    head.dense.weight <- head.dense.weight : transpose
    head.dense.bias <- head.dense.bias
    head.norm.weight <- head.norm.weight
    head.norm.bias <- head.norm.bias
    for MaskedLM:
    head.table <- decoder.weight
    embedding.table == decoder.weight
    head.bias <- decoder.bias
    for Classify, Tag, Answer:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
"""
