"""Cohere's Command R (2024): attention and mlp in parallel after one norm without bias, rotary pairs of
neighbours, scaled logits."""

from __future__ import annotations

from dataclasses import replace

from ..config import LM, Attention, Decoder, Embedding, Gated, HeadNorm, Layer, LayerNorm, Rope, Stack
from ..config_readers.gguf_keys import DECODER, EPS, fixed, has, without
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("cohere",)
ARCHITECTURES: dict[str, Task] = decoders("Cohere", tasks=())
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    # Older files have it: several slices of one product, summed.
    keys.get("pretraining_tp", int, 1, null=True)
    return decoder(keys, theta=500_000.0, qk_norm=keys.get("use_qk_norm", bool, False, null=True))


def decoder(keys: Keys, *, theta: float, qk_norm: bool | None) -> Decoder:
    """A decoder of this form with equal layers; `theta` is the family's default."""
    keys.get("model_max_length", int, None)  # of the tokenizer
    heads, size = keys.size("num_attention_heads"), keys.size("head_dim", None) or head_size(keys)
    context = keys.size("max_position_embeddings", 8192)
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-5), bias=False)
    position = rope(keys, size, context, theta=theta)
    bias = keys.get("attention_bias", bool, False)
    return _build(
        Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        Attention(
            heads,
            keys.size("num_key_value_heads", None) or heads,
            size,
            position,
            qkv_bias=keys.shows("attn_q.bias", stated=bias),
            out_bias=keys.shows("attn_output.bias", stated=bias),
            qk_norm=HeadNorm(norm, "each") if qk_norm else None,
            pre=norm,
        ),
        Gated(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "silu")),
        layer_count(keys),
        LM(keys.get("tie_word_embeddings", bool, True), scale=keys.positive("logit_scale", 0.0625)),
        exact_context(context, position),
    )


def _build(
    embedding: Embedding, attention: Attention, mlp: Gated, layers: int, head: LM, context: int
) -> Decoder:
    """Parallel attention and mlp; rotary pairs are neighbours."""
    assert isinstance(attention.position, Rope)
    attention = replace(attention, position=replace(attention.position, interleaved=True))
    stack = Stack((Layer(attention, mlp, parallel=True),) * layers, attention.pre)
    return Decoder(embedding, stack, head, context)


WEIGHTS = LLAMA + QK_NORM


KEYS = {
    **without(DECODER, "rms_norm_eps"),
    "model_type": fixed("cohere"),
    "layer_norm_eps": EPS,
    "logit_scale": "logit_scale",
    "use_qk_norm": has("blk.0.attn_q_norm.weight"),
}
GGUF = Gguf("command-r", KEYS, UNPERMUTED_QK_WEIGHTS)
