"""Gemma 3's text model (Kamath et al. 2025): Gemma 2 with normalized queries and keys instead of caps, and
another rotary theta in layers with a window. EmbeddingGemma reads in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..config import Attention, Config, Decoder, Encoder, HeadNorm, Rope, Window
from ..config_readers.decoder import gguf_decoder, map_attention
from ..config_readers.gguf_heads import gguf_encoder, gguf_projections
from ..config_readers.gguf_metadata import read_gguf_window, read_gguf_window_pattern
from ..config_readers.heads import reading
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_types
from ..config_readers.rope import exact_context, ropes
from ..formats.tensor_source import TensorSource
from . import Gguf, Task
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


def config(keys: Keys, task: Task) -> Config:
    both_ways = keys.get("use_bidirectional_attention", bool, False, null=True)
    if both_ways and task == "lm":
        raise keys.fail("use_bidirectional_attention", "false for a model that writes")
    # transformers reads neither: its Gemma 3 has no cap of scores, and takes windows from the other key.
    keys.get("attn_logit_softcapping", float, None)
    keys.get("_sliding_window_pattern", int, None)
    every = keys.size("sliding_window_pattern", 6)
    size, context = keys.size("head_dim", 256), keys.size("max_position_embeddings", 131_072)
    positions = ropes(keys, size, context, THETAS, scaled=("full_attention",))
    types = layer_types(keys, lambda i: (i + 1) % every != 0)
    decoder = sandwich(
        keys,
        types,
        positions.__getitem__,
        context=exact_context(context, *(positions[kind] for kind in types)),
        score_cap=None,
        logit_cap=keys.positive("final_logit_softcapping", None),
        qk_norm=True,
    )
    return _both_ways(decoder, keys, task) if both_ways else decoder


def _both_ways(decoder: Decoder, keys: Keys, task: Task) -> Config:
    """The encoder that reads in both directions: half of a window is before a token, half after it."""

    def halved(attention: Attention) -> Attention:
        window = attention.window
        return attention if window is None else replace(attention, mask=Window(window // 2 + 1))

    decoder = map_attention(decoder, lambda _, attention: halved(attention))
    return reading(decoder, keys, task, causal=False)


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    cap = keys.positive("final_logit_softcapping", None)
    return _gguf_decoder(keys, source, lambda window: window, largest=62, logit_cap=cap)


def _gguf_decoder(
    keys: Keys,
    source: TensorSource,
    seen: Callable[[int], int],
    *,
    largest: int,
    logit_cap: float | None,
) -> Decoder:
    """Layers slide by a number, five of six where it isn't stated; their theta is their own.

    `seen` turns the file's window into the Config's; `largest` is that of `gguf_sandwich`.
    """
    size, every = read_gguf_window(keys), read_gguf_window_pattern(keys, 6)
    theta = keys.positive("rope.freq_base_swa", 10_000.0)

    def change(i: int, a: Attention) -> Attention:
        a = replace(a, qk_norm=None if a.pre is None else HeadNorm(a.pre))
        if size is None or (i + 1) % every == 0:
            return a
        return replace(a, mask=Window(seen(size)), position=Rope(theta, a.head_size))

    base = gguf_decoder(keys, source)
    return gguf_sandwich(base, change, largest=largest, score_cap=None, logit_cap=logit_cap)


def gguf_embedding_config(keys: Keys, source: TensorSource) -> Encoder:
    """EmbeddingGemma: the same in both directions, with half of a window on either side."""
    decoder = _gguf_decoder(keys, source, lambda window: window // 2 + 1, largest=0, logit_cap=None)
    if keys.get("attention.causal", bool, False):
        raise keys.fail("attention.causal", "false: tokens then see no later ones")
    projections = gguf_projections(keys, source, decoder.embedding.width)
    return gguf_encoder(decoder, keys, causal=False, projections=projections)


EMBEDDING = Gguf("gemma-embedding", gguf_embedding_config, GGUF_WEIGHTS)
GGUF = Gguf("gemma3", gguf_config, GGUF_WEIGHTS, EMBEDDING)
