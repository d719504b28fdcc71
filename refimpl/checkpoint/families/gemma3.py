"""Gemma 3's text model (Kamath et al. 2025): Gemma 2 with normalized queries and keys instead of soft caps.

Layers with a window have another rotary theta. EmbeddingGemma, whose tokens see both directions, is read here
too."""

from dataclasses import replace

from ...config import Attention, Config, Decoder, Window
from ..config_readers.decoder import map_attention
from ..config_readers.gguf_keys import fixed, optional, sliding_layers, without
from ..config_readers.heads import reading
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_types
from ..config_readers.rope import exact_context, ropes
from . import Gguf, Task
from .gemma2 import GGUF_WEIGHTS, sandwich, scalar
from .gemma2 import KEYS as GEMMA2
from .gemma2 import WEIGHTS as WEIGHTS

MODEL_TYPES = ("gemma3_text",)
ARCHITECTURES: dict[str, Task] = {
    "Gemma3ForCausalLM": "lm",
    "Gemma3TextModel": "pool",
    "Gemma3TextForSequenceClassification": "classify",
}
THETAS = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 10_000.0)}


def config(keys: Keys, task: Task) -> Config:
    both_ways = keys.get("use_bidirectional_attention", bool, False, null=True)
    if both_ways and task == "lm":
        raise keys.fail("use_bidirectional_attention", "false for a model that generates text")
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
    """Return an encoder that reads in both directions: half of a window is before a token, and half
    after it.
    """

    def halved(attention: Attention) -> Attention:
        window = attention.window
        return attention if window is None else replace(attention, mask=Window(window // 2 + 1))

    decoder = map_attention(decoder, lambda _, attention: halved(attention))
    return reading(decoder, keys, task, causal=False)


KEYS = {
    **without(GEMMA2, "attn_logit_softcapping"),
    "model_type": fixed("gemma3_text"),
    "rope_local_base_freq": optional("rope.freq_base_swa", 10_000.0),
    "layer_types": sliding_layers(6, windowless=True),
    "sliding_window": optional("attention.sliding_window", None),
    "query_pre_attn_scalar": scalar(62),
    "final_logit_softcapping": optional("final_logit_softcapping"),
}
# The same in both directions.
EMBEDDING = Gguf(
    "gemma-embedding",
    {
        **without(KEYS, "final_logit_softcapping"),
        "use_bidirectional_attention": fixed(True),
        "query_pre_attn_scalar": scalar(0),
    },
    GGUF_WEIGHTS,
    task="pool",
)
GGUF = Gguf("gemma3", KEYS, GGUF_WEIGHTS, EMBEDDING)
