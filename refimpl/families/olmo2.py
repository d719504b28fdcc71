"""OLMo 2 (OLMo Team 2025): norms on the sublayers' outputs only, and over all heads of queries and keys."""

from __future__ import annotations

from dataclasses import replace

from ..config import Decoder, HeadNorm, Layer, Window
from ..config_readers.decoder import decoder, gguf_decoder, map_attention, map_layers
from ..config_readers.gguf_metadata import UNPERMUTED_QK_WEIGHTS, read_gguf_sliding_layers, read_gguf_window
from ..config_readers.keys import Keys
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("olmo2",)
ARCHITECTURES: dict[str, Task] = decoders("Olmo2", tasks=("classify",))
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", None),
        context=2048,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=False,
        eps=1e-5,
    )
    return map_layers(base, after)


def after(_: int, layer: Layer) -> Layer:
    """The same layer with norms on the sublayers' outputs, and on queries and keys."""
    norm = layer.mlp.pre
    assert norm is not None
    attention = replace(layer.attention, pre=None, post=norm, qk_norm=HeadNorm(norm, "all"))
    return replace(layer, attention=attention, mlp=replace(layer.mlp, pre=None, post=norm))


WEIGHTS = (
    LLAMA
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.attn_post.weight <- layers.{i}.post_attention_layernorm.weight
    decoder.layers.{i}.mlp_post.weight <- layers.{i}.post_feedforward_layernorm.weight
""")
)


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    """A file of OLMo 3 states a window, and which layers have it; their positions aren't scaled."""
    base, window = map_layers(gguf_decoder(keys, source), after), read_gguf_window(keys)
    if window is None:
        return base
    slides = read_gguf_sliding_layers(keys, len(base.layers), 4)
    far = base.ropes[0]
    if keys.positive("rope.freq_base_swa", far.theta) != far.theta:
        raise keys.fail("rope.freq_base_swa", f"the same as rope.freq_base, {far.theta}")
    near = replace(far, scaling=None)

    return map_attention(
        base, lambda i, a: replace(a, mask=Window(window), position=near) if slides[i] else a
    )


GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.attn_post.weight <- blk.{i}.post_attention_norm.weight
    decoder.layers.{i}.mlp_post.weight <- blk.{i}.post_ffw_norm.weight
""")
GGUF = Gguf("olmo2", gguf_config, GGUF_WEIGHTS, by_layer=("attention.sliding_window_pattern",))
