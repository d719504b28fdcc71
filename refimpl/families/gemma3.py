"""Gemma 3's text model (Kamath et al. 2025): Gemma 2 with normalized queries and keys instead of caps, and
rotary positions of another theta where layers see a window only."""

from __future__ import annotations

from ..config import Config
from ..keys import Keys
from ..layer_keys import layer_types
from ..rope_keys import exact_context, ropes
from . import Task
from .gemma import causal
from .gemma2 import WEIGHTS, sandwich

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("gemma3_text",)
ARCHITECTURES: dict[str, Task] = {"Gemma3ForCausalLM": "lm"}
PREFIX = ""
GGUF = None

THETAS = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 10_000.0)}


def config(keys: Keys, task: Task) -> Config:
    causal(keys)
    # transformers reads neither: its Gemma 3 has no cap of scores, and its layers slide by the other key.
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
