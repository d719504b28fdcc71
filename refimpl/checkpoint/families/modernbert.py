"""ModernBERT (Warner et al. 2024): norms before sublayers, rotary positions, gated mlps, and sliding windows
in most layers.

The first norm comes after the embeddings, so the first attention has no separate norm.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...config import (
    Attention,
    Dense,
    Embedding,
    Encoder,
    FullAttention,
    Gated,
    Layer,
    LayerNorm,
    MaskedLM,
    Rope,
    Stack,
    Window,
)
from ..config_readers.gguf_heads import CLASSES, CLASSIFIER, labelled
from ..config_readers.gguf_keys import (
    COMMON,
    EPS,
    RMS_EPS,
    Row,
    agreeing,
    fixed,
    has,
    optional,
    thetas,
    without,
)
from ..config_readers.gguf_metadata import gguf_head_size, read_gguf_window_pattern
from ..config_readers.gguf_weights import FUSED_QKV_WEIGHTS
from ..config_readers.heads import head
from ..config_readers.keys import ABSENT, ACTIVATIONS, Keys
from ..config_readers.layers import LAYER_TYPES, head_size, layer_count, layer_types
from ..config_readers.rope import exact_context, ropes
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, encoders

MODEL_TYPES = ("modernbert",)
ARCHITECTURES = encoders("ModernBert")


def config(keys: Keys, task: Task) -> Encoder:
    embedding, stack, dense, context = read_layers(keys, _both_ways)
    read_head = head(
        keys,
        task,
        masked=MaskedLM(
            keys.get("tie_word_embeddings", bool, True), dense, keys.get("decoder_bias", bool, True)
        ),
        classify=dense,
        pooling=keys.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, "cls"),
        token=dense,
    )
    return Encoder(embedding, stack, read_head, context)


def _both_ways(size: int) -> Window:
    """Return a window of `size` tokens: half of them before a token, half after it, and the token itself."""
    return Window(size // 2 + 1)


def read_layers(keys: Keys, window: Callable[[int], Window]) -> tuple[Embedding, Stack, Dense, int]:
    """Read the embedding, the layers, the first part of the heads, and the context.

    `window` returns the mask for a window's stated size.
    """
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
    local = keys.size("local_attention", 128)
    masks = [window(local) if kind == "sliding_attention" else FullAttention() for kind in types]
    dense = Dense(
        keys.choice("classifier_activation", ACTIVATIONS, "gelu"),
        bias=keys.get("classifier_bias", bool, False),
        norm=norm,
    )
    stack = _stack(
        Attention(heads, heads, size, qkv_bias=bias, out_bias=bias),
        Gated(
            keys.size("intermediate_size", 1152),
            keys.choice("hidden_activation", ACTIVATIONS, "gelu"),
            bias=keys.get("mlp_bias", bool, False),
            pre=norm,
        ),
        norm,
        [(turned[kind], mask) for kind, mask in zip(types, masks, strict=True)],
    )
    embedding = Embedding(keys.size("vocab_size"), keys.size("hidden_size"))
    return embedding, stack, dense, exact_context(context, *turned.values())


def _stack(
    attention: Attention, mlp: Gated, norm: LayerNorm, layers: list[tuple[Rope, FullAttention | Window]]
) -> Stack:
    """Return a stack with a layer for each pair of rotary positions and mask."""
    attentions = [
        replace(attention, position=position, mask=mask, pre=norm if i else None)
        for i, (position, mask) in enumerate(layers)
    ]
    return Stack(tuple(Layer(a, mlp) for a in attentions), norm, first_norm=norm)


def _unused(keys: Keys) -> None:
    """Mark keys as known that concern training, kernels or losses, or that transformers doesn't read."""
    keys.harmless(
        position_embedding_type=("absolute", "sans_pos"),
        local_attention_window=(keys.get("local_attention", int, 128),),
        local_attention_rope_theta=(keys.values.get("local_rope_theta", 10_000.0),),
    )
    keys.unused("embedding_dropout", "mlp_dropout", "initializer_cutoff_factor")
    keys.unused("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad")
    keys.unused("sparse_prediction", "sparse_pred_ignore_index")
    keys.unused("cls_token_id", "layer_norm_eps")


TRUNK = weight_map("""
    embedding.table <- embeddings.tok_embeddings.weight
    encoder.first_norm.{weight,bias} <- embeddings.norm.{weight,bias}
    encoder.layers.{i}.attn_pre.{weight,bias} <- layers.{i}.attn_norm.{weight,bias}
    encoder.layers.{i}.attn.wq, wk, wv <- layers.{i}.attn.Wqkv.weight : transpose
    encoder.layers.{i}.attn.bq, bk, bv <- layers.{i}.attn.Wqkv.bias
    encoder.layers.{i}.attn.wo <- layers.{i}.attn.Wo.weight : transpose
    encoder.layers.{i}.attn.bo <- layers.{i}.attn.Wo.bias
    encoder.layers.{i}.mlp_pre.{weight,bias} <- layers.{i}.mlp_norm.{weight,bias}
    encoder.layers.{i}.mlp.gate, up <- layers.{i}.mlp.Wi.weight : transpose
    encoder.layers.{i}.mlp.bgate, bup <- layers.{i}.mlp.Wi.bias
    encoder.layers.{i}.mlp.down <- layers.{i}.mlp.Wo.weight : transpose
    encoder.layers.{i}.mlp.bdown <- layers.{i}.mlp.Wo.bias
    encoder.norm.{weight,bias} <- final_norm.{weight,bias}
""")
WEIGHTS = TRUNK + weight_map("""
    for MaskedLM, Classify, Tag, QuestionAnswering:
    head.dense.weight <- head.dense.weight : transpose
    head.dense.bias <- head.dense.bias
    head.norm.{weight,bias} <- head.norm.{weight,bias}
    for MaskedLM:
    head.{table,bias} <- decoder.{weight,bias}
    embedding.table == decoder.weight
    for Classify, Tag, QuestionAnswering:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
""")


# Both halves of the gated mlp are one tensor.
GGUF_WEIGHTS = (
    FUSED_QKV_WEIGHTS.renamed({"decoder.": "encoder."}).without(
        "encoder.layers.{i}.mlp.up", "encoder.layers.{i}.mlp.bup"
    )
    + weight_map("""
    encoder.layers.{i}.mlp.gate, up <- blk.{i}.ffn_up.weight : transpose
    encoder.layers.{i}.mlp.bgate, bup <- blk.{i}.ffn_up.bias
""")
    + CLASSIFIER
)


def _types(keys: Keys, _: TensorSource) -> list[str]:
    """Return the type of each layer. If the file states a period, all layers but every n-th have a window."""
    every, stated = read_gguf_window_pattern(keys, 3), "attention.sliding_window" in keys
    return [LAYER_TYPES[stated and i % every != 0] for i in range(layer_count(keys, "block_count"))]


def _pooling(keys: Keys, source: TensorSource) -> Any:
    """Return what a classifier reads: the mean of the vectors, or the first vector."""
    number = keys.get("classifier.pooling_type", int, None)
    if not labelled(keys, source):
        return ABSENT
    if number not in (1, 2):
        raise keys.fail("classifier.pooling_type", "1 or 2")
    return {1: "mean", 2: "cls"}[number]


# The converter writes the original's epsilon under the name of another norm's, and llama.cpp reads one that
# the original doesn't: they must agree.
KEYS = {
    **without(COMMON, "tie_word_embeddings"),
    **CLASSES,
    "model_type": fixed("modernbert"),
    "intermediate_size": "feed_forward_length",
    "norm_eps": agreeing(EPS, RMS_EPS),
    "norm_bias": has("output_norm.bias"),
    "attention_bias": has("blk.0.attn_qkv.bias"),
    "mlp_bias": has("blk.0.ffn_up.bias"),
    "classifier_bias": has("cls.bias"),
    "classifier_pooling": Row(_pooling),
    "hidden_activation": optional("hidden_activation"),
    "rope_parameters": thetas(gguf_head_size, 10_000.0),
    "layer_types": Row(_types),
    "local_attention": optional("attention.sliding_window"),
}
GGUF = Gguf("modern-bert", KEYS, GGUF_WEIGHTS, task="pool")
