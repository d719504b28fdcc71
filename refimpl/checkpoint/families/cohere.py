"""Cohere's Command R (2024): attention and mlp in parallel after one norm without bias, and scaled logits.

Rotary positions rotate neighbouring elements."""

from dataclasses import replace

from ...config import LM, Attention, Decoder, Embedding, Gated, HeadNorm, Layer, LayerNorm, Stack
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


def config(keys: Keys, task: Task) -> Decoder:
    # Older files have it: several slices of one product, summed.
    keys.get("pretraining_tp", int, 1, null=True)
    return decoder(keys, theta=500_000.0, qk_norm=keys.get("use_qk_norm", bool, False, null=True))


def decoder(keys: Keys, *, theta: float, qk_norm: bool | None) -> Decoder:
    """Return a decoder of equal layers with attention and mlp in parallel.

    `theta` is the family's default for rotary positions, which rotate neighbouring elements."""
    keys.get("model_max_length", int, None)  # of the tokenizer
    keys.unused("cache_implementation")  # of transformers' generation
    heads, size = keys.size("num_attention_heads"), keys.size("head_dim", None) or head_size(keys)
    context = keys.size("max_position_embeddings", 8192)
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-5), bias=False)
    position = rope(keys, size, context, theta=theta)
    bias = keys.get("attention_bias", bool, False)
    attention = Attention(
        heads,
        keys.size("num_key_value_heads", None) or heads,
        size,
        replace(position, interleaved=True),
        qkv_bias=keys.shows("attn_q.bias", stated=bias),
        out_bias=keys.shows("attn_output.bias", stated=bias),
        qk_norm=HeadNorm(norm, "each") if qk_norm else None,
        pre=norm,
    )
    mlp = Gated(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "silu"))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        stack=Stack((Layer(attention, mlp, parallel=True),) * layer_count(keys), norm),
        head=LM(keys.get("tie_word_embeddings", bool, True), scale=keys.positive("logit_scale", 0.0625)),
        context=exact_context(context, position),
    )


WEIGHTS = LLAMA + QK_NORM


KEYS = {
    **without(DECODER, "rms_norm_eps"),
    "model_type": fixed("cohere"),
    "layer_norm_eps": EPS,
    "logit_scale": "logit_scale",
    "use_qk_norm": has("blk.0.attn_q_norm.weight"),
}
GGUF = Gguf("command-r", KEYS, UNPERMUTED_QK_WEIGHTS)
