"""Gemma 3's text model (Kamath et al. 2025): Gemma 2 with normalized queries and keys instead of caps, and
another rotary theta in layers with a window."""

from __future__ import annotations

from dataclasses import replace

from ..config import Attention, Decoder, HeadNorm, Rope, Window
from ..config_readers.decoder import gguf_decoder
from ..config_readers.gguf_metadata import read_gguf_window, read_gguf_window_pattern
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_types
from ..config_readers.rope import exact_context, ropes
from ..formats.tensor_source import TensorSource
from . import Gguf, Task
from .gemma import check_causal
from .gemma2 import GGUF_WEIGHTS, WEIGHTS, gguf_sandwich, sandwich

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("gemma3_text",)
ARCHITECTURES: dict[str, Task] = {
    "Gemma3ForCausalLM": "lm",
    "Gemma3TextModel": "pool",
    "Gemma3TextForSequenceClassification": "classify",
}
PREFIX = "model."
THETAS = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 10_000.0)}


def config(keys: Keys, task: Task) -> Decoder:
    check_causal(keys)
    # transformers reads neither: its Gemma 3 has no cap of scores, and takes windows from the other key.
    keys.get("attn_logit_softcapping", float, None)
    keys.get("_sliding_window_pattern", int, None)
    every = keys.size("sliding_window_pattern", 6)
    size, context = keys.size("head_dim", 256), keys.size("max_position_embeddings", 131_072)
    positions = ropes(keys, size, context, THETAS, scaled=("full_attention",))
    types = layer_types(keys, lambda i: (i + 1) % every != 0)
    return sandwich(
        keys,
        types,
        positions.__getitem__,
        context=exact_context(context, *(positions[kind] for kind in types)),
        score_cap=None,
        logit_cap=keys.positive("final_logit_softcapping", None),
        qk_norm=True,
    )


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    """Layers slide by a number, five of six where it isn't stated; their theta is their own."""
    size, every = read_gguf_window(keys), read_gguf_window_pattern(keys, 6)
    theta = keys.positive("rope.freq_base_swa", 10_000.0)

    def change(i: int, a: Attention) -> Attention:
        a = replace(a, qk_norm=None if a.pre is None else HeadNorm(a.pre))
        if size is None or (i + 1) % every == 0:
            return a
        return replace(a, mask=Window(size), position=Rope(theta, a.head_size))

    cap = keys.positive("final_logit_softcapping", None)
    return gguf_sandwich(gguf_decoder(keys, source), change, largest=62, score_cap=None, logit_cap=cap)


GGUF = Gguf("gemma3", gguf_config, GGUF_WEIGHTS)
