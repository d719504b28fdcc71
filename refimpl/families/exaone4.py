"""EXAONE 4 (LG AI Research 2025): norms on the sublayers' outputs, and on each head of queries and keys.

Where some layers have a window, the others have no positions.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import Decoder, FullAttention, HeadNorm, Layer, Window
from ..config_readers.decoder import decoder, gguf_decoder, map_layers
from ..config_readers.gguf_metadata import read_gguf_sliding_layers, read_gguf_window
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .olmo2 import GGUF_WEIGHTS as OLMO2_GGUF_WEIGHTS
from .olmo2 import WEIGHTS

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("exaone4",)
ARCHITECTURES: dict[str, Task] = decoders("Exaone4")
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 32),
        context=2048,
        attention_bias=False,
        mlp_bias=False,
        eps=1e-5,
    )
    window = read_window(keys, 4096, everywhere=False)
    if window is None or keys.get("layer_types", list, None) is not None:
        keys.unused("sliding_window_pattern")  # of which hubs state "LLLG" beside the types
        every = 1
    else:
        every = keys.size("sliding_window_pattern", 4)
    masks = layer_masks(keys, layer_types(keys, lambda i: (i + 1) % every != 0), window)
    return _build(base, masks, everywhere=window is None)


def _build(base: Decoder, masks: list[FullAttention | Window], *, everywhere: bool) -> Decoder:
    """The decoder with the norms of this family; layers without a window have positions if `everywhere`."""

    def change(i: int, layer: Layer) -> Layer:
        norm = layer.mlp.pre
        assert norm is not None
        rotated = everywhere or isinstance(masks[i], Window)
        attention = base.stack.attentions[i]
        attention = replace(
            attention,
            position=attention.position if rotated else None,
            mask=masks[i],
            qk_norm=HeadNorm(norm),
            pre=None,
            post=norm,
        )
        return replace(layer, attention=attention, mlp=replace(layer.mlp, pre=None, post=norm))

    return map_layers(base, change)


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    """From GGUF's metadata. A stated window counts; llama.cpp has windows only in models of 64 layers."""
    base, window = gguf_decoder(keys, source), read_gguf_window(keys)
    layers = len(base.layers)
    if window is None:
        return _build(base, [FullAttention()] * layers, everywhere=True)
    slides = read_gguf_sliding_layers(keys, layers, 4)
    return _build(base, [Window(window) if mark else FullAttention() for mark in slides], everywhere=False)


GGUF_WEIGHTS = OLMO2_GGUF_WEIGHTS + weight_map("""
    rope_freqs == rope_freqs.weight
""")
GGUF = Gguf("exaone4", gguf_config, GGUF_WEIGHTS, by_layer=("attention.sliding_window_pattern",))
