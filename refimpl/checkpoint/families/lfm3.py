"""LFM3 (Liquid AI 2026): longer convolutions than LFM2's, and attention with a gate for each head.

Some layers have a sliding window. The output of a sublayer is normalized before it is added.
"""

from collections.abc import Mapping
from typing import Any

from ...config import LM, Attention, Decoder, Embedding, Gated, HeadNorm, Layer, RMSNorm, Stack
from ...ops.short_conv import ShortConv
from ..config_readers.keys import Keys
from ..config_readers.layers import LAYER_TYPES, layer_count, layer_masks, read_window, stated_types
from ..config_readers.rope import exact_context, nested_ropes
from ..weights.weight_map import weight_map
from . import Task, decoders
from .lfm2 import CONVOLUTIONS, LAYER_NAMES, THETA
from .llama import QK_NORM, TRUNK

MODEL_TYPES = ("lfm3",)
# Those that read whole texts would be encoders, which have no convolutions here.
ARCHITECTURES: dict[str, Task] = decoders("Lfm3", tasks=())
# No dialect of GGUF: llama.cpp has no architecture for it.
KINDS = (*LAYER_TYPES, "conv")
ROPES: Mapping[str, Mapping[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
}


def config(keys: Keys, task: Task) -> Decoder:
    types, width = _types(keys), keys.size("hidden_size")
    context, size = keys.size("max_position_embeddings", 128_000), keys.size("head_dim", 128)
    attends = {kind: size for kind in LAYER_TYPES if kind in types}
    positions = nested_ropes(keys, attends, context, ROPES, theta=THETA)
    norm = RMSNorm(keys.positive("norm_eps", 1e-5))
    post = norm if keys.get("use_sandwich_norm", bool, True) else None
    heads, kv_heads = keys.size("num_attention_heads"), keys.size("num_key_value_heads", 4)
    bias, gate = keys.get("attention_bias", bool, False), keys.get("use_attention_gate", bool, True)
    length, conv_bias = keys.size("conv_L_cache", 7), keys.get("conv_bias", bool, False)
    mlp = Gated(keys.size("intermediate_size"), "silu", pre=norm, post=post)
    layers = []
    masks = layer_masks(keys, types, read_window(keys, 256, everywhere=False))
    for kind, mask in zip(types, masks, strict=True):
        if kind == "conv":
            layers.append(Layer(ShortConv(width, length, conv_bias, pre=norm, post=post), mlp))
            continue
        attention = Attention(
            heads=heads,
            kv_heads=kv_heads,
            head_size=size,
            position=positions[kind],
            mask=mask,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=HeadNorm(norm),
            head_gate=gate,
            pre=norm,
            post=post,
        )
        layers.append(Layer(attention, mlp))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack(tuple(layers), norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=exact_context(context, *positions.values()),
    )


def _types(keys: Keys) -> list[str]:
    """Return the type of each layer. By default, layers 4, 8, … have attention with a window, layers 2, 6, …
    have full attention, and the other layers are short convolutions.
    """
    turn = ("sliding_attention", "conv", "full_attention", "conv")
    default = ["conv", *(turn[i % 4] for i in range(1, layer_count(keys)))]
    return stated_types(keys, KINDS) or default


# The gate's second name is an older one.
WEIGHTS = (
    (TRUNK + QK_NORM).renamed(LAYER_NAMES).without("decoder.norm.weight")
    + CONVOLUTIONS
    + weight_map("""
    decoder.layers.{i}.attn.w_head_gate <- layers.{i}.self_attn.(g_proj|gate_proj).weight : transpose
    decoder.layers.{i}.{attn,mlp}_post.weight <- layers.{i}.post_{operator,ffn}_norm.weight
""")
)
