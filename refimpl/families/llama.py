"""Llama, and what shares its form: SmolLM2, TinyLlama, Vicuna, …

Touvron et al. 2023; Dubey et al. 2024 for the rotary scaling of Llama 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..config import (
    LM,
    Attention,
    Decoder,
    Embedding,
    FullAttention,
    Gated,
    Layer,
    RMSNorm,
    Rope,
    Stack,
    Window,
)
from ..config_readers.gguf_metadata import PERMUTED, embedding_rows, own_head_size
from ..config_readers.gguf_moe import EXPERTS, mixed
from ..config_readers.gguf_rope import gguf_rope
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import count, head_size
from ..config_readers.rope import exact_context, rope
from ..formats.tensor_source import Source
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("llama",)
ARCHITECTURES: dict[str, Task] = decoders("Llama")
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    # Several slices of one product, summed: the same mathematics.
    keys.get("pretraining_tp", int, 1, null=True)
    return decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", None),
        context=2048,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=keys.get("mlp_bias", bool, False),
    )


def decoder(
    keys: Keys,
    *,
    kv_heads: int | None,
    context: int,
    attention_bias: bool,
    mlp_bias: bool,
    window: int | None = None,
    theta: float = 10_000.0,
    eps: float = 1e-6,
    head: int | None = None,
    tied: bool = False,
    positions: Callable[..., Rope] = rope,
) -> Decoder:
    """The decoder of Llama, Mistral and their kin, all layers alike; numbers are the family's defaults.

    `positions` is `rope`, or a partial of it, with what is the family's own.
    """
    heads, size = keys.size("num_attention_heads"), keys.size("head_dim", head) or head_size(keys)
    context = keys.size("max_position_embeddings", context)
    position = positions(keys, size, context, theta=theta)
    return build(
        vocabulary=keys.size("vocab_size"),
        width=keys.size("hidden_size"),
        layers=count(keys),
        attention=Attention(
            heads=heads,
            kv_heads=kv_heads or heads,
            head_size=size,
            position=position,
            mask=FullAttention() if window is None else Window(window),
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            pre=RMSNorm(eps := keys.positive("rms_norm_eps", eps)),
        ),
        mlp=Gated(
            keys.size("intermediate_size"),
            keys.choice("hidden_act", ACTIVATIONS, "silu"),
            bias=mlp_bias,
            pre=RMSNorm(eps),
        ),
        tied=keys.get("tie_word_embeddings", bool, tied),
        context=exact_context(context, position),
    )


def build(
    *, vocabulary: int, width: int, layers: int, attention: Attention, mlp: Gated, tied: bool, context: int
) -> Decoder:
    """Equal layers under one norm."""
    return Decoder(
        embedding=Embedding(vocabulary, width),
        stack=Stack((Layer(attention, mlp),) * layers, mlp.pre),
        head=LM(tied),
        context=context,
    )


def varied(config: Decoder, change: Callable[[int, Layer], Layer]) -> Decoder:
    """The same decoder, each layer changed by its number."""
    layers = tuple(change(i, layer) for i, layer in enumerate(config.layers))
    return replace(config, stack=replace(config.stack, layers=layers))


def attending(config: Decoder, change: Callable[[int, Attention], Attention]) -> Decoder:
    """The same decoder, each layer's attention changed by its number."""
    return varied(config, lambda i, layer: replace(layer, attention=change(i, layer.attention)))


def windowed(config: Decoder, size: int) -> Decoder:
    """The same decoder, each of whose layers sees a window only."""
    return attending(config, lambda _, a: replace(a, mask=Window(size)))


# What Gemma 2 has too, whose norms stand elsewhere.
TRUNK = weight_map("""
    embedding.table <- embed_tokens.weight
    decoder.layers.{i}.attn_pre.weight <- layers.{i}.input_layernorm.weight
    decoder.layers.{i}.attn.wq <- layers.{i}.self_attn.q_proj.weight : transpose
    decoder.layers.{i}.attn.wk <- layers.{i}.self_attn.k_proj.weight : transpose
    decoder.layers.{i}.attn.wv <- layers.{i}.self_attn.v_proj.weight : transpose
    decoder.layers.{i}.attn.wo <- layers.{i}.self_attn.o_proj.weight : transpose
    decoder.layers.{i}.attn.bq <- layers.{i}.self_attn.q_proj.bias
    decoder.layers.{i}.attn.bk <- layers.{i}.self_attn.k_proj.bias
    decoder.layers.{i}.attn.bv <- layers.{i}.self_attn.v_proj.bias
    decoder.layers.{i}.attn.bo <- layers.{i}.self_attn.o_proj.bias
    decoder.layers.{i}.mlp.gate <- layers.{i}.mlp.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.up <- layers.{i}.mlp.up_proj.weight : transpose
    decoder.layers.{i}.mlp.down <- layers.{i}.mlp.down_proj.weight : transpose
    decoder.norm.weight <- norm.weight
    head.table <- lm_head.weight
    embedding.table == lm_head.weight
""")
WEIGHTS = TRUNK + weight_map("""
    decoder.layers.{i}.mlp_pre.weight <- layers.{i}.post_attention_layernorm.weight
    decoder.layers.{i}.mlp.bgate <- layers.{i}.mlp.gate_proj.bias
    decoder.layers.{i}.mlp.bup <- layers.{i}.mlp.up_proj.bias
    decoder.layers.{i}.mlp.bdown <- layers.{i}.mlp.down_proj.bias
    inv_freq == layers.{i}.self_attn.rotary_emb.inv_freq
""")
# Norms of queries and keys, as those have them that add some.
QK_NORM = weight_map("""
    decoder.layers.{i}.attn.q_norm <- layers.{i}.self_attn.q_norm.weight
    decoder.layers.{i}.attn.k_norm <- layers.{i}.self_attn.k_norm.weight
""")


def gguf_config(keys: Keys, source: Source) -> Decoder:
    plain, window = gguf_decoder(keys, source), keys.size("attention.sliding_window", None)
    if keys.get("expert_count", int, 0):
        # Mixtral: the width is that of each expert.
        plain = mixed(plain, keys, source, lambda width, _: width, renormalize=True)
    return plain if window is None else windowed(plain, window)


def gguf_decoder(keys: Keys, source: Source, *, partial: bool = False) -> Decoder:
    """From GGUF's metadata; what they leave open (biases, tied or not) shows in the tensors' names.

    `partial` says that the family may turn a part of a head.
    """
    size, heads = own_head_size(keys), keys.size("attention.head_count")
    vocabulary = embedding_rows(keys, source)
    norm = RMSNorm(keys.positive("attention.layer_norm_rms_epsilon"))
    position = gguf_rope(keys, source, size, partial=partial)
    return build(
        vocabulary=vocabulary,
        width=keys.size("embedding_length"),
        layers=count(keys, "block_count"),
        attention=Attention(
            heads=heads,
            kv_heads=keys.size("attention.head_count_kv", heads),
            head_size=size,
            position=position,
            qkv_bias="blk.0.attn_q.bias" in source.names,
            out_bias="blk.0.attn_output.bias" in source.names,
            pre=norm,
        ),
        mlp=Gated(
            keys.size("feed_forward_length"), "silu", bias="blk.0.ffn_up.bias" in source.names, pre=norm
        ),
        tied="output.weight" not in source.names,
        context=exact_context(keys.size("context_length"), position),
    )


GGUF = Gguf("llama", gguf_config, PERMUTED + EXPERTS)
