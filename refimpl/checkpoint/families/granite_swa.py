"""Granite with windows (IBM 2026): most layers have a sliding window, and every head's softmax has a sink.

Each layer has its own rotary theta; 0 means no positions."""

from dataclasses import replace
from typing import Any

from ...config import Decoder, Rope
from ..config_readers.decoder import map_attention, with_masks
from ..config_readers.gguf_keys import THETA, Row, fixed, sliding_layers
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import ABSENT, Keys
from ..config_readers.layers import layer_count, layer_masks, layer_types, read_window
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .granite import GRANITE
from .granite import config as granite
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("granite_swa",)
ARCHITECTURES: dict[str, Task] = decoders("GraniteSWA", tasks=())
DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def config(keys: Keys, task: Task) -> Decoder:
    base = granite(keys.with_defaults(DEFAULTS), task)
    base = map_attention(base, lambda _, attention: replace(attention, sink_logits=True))
    types = layer_types(keys, lambda i: i % 4 != 0)
    base = with_masks(base, layer_masks(keys, types, read_window(keys, 128, everywhere=False)))
    thetas = keys.get("layer_rope_theta", list, None)
    if thetas is None:
        return base
    if len(thetas) != len(types) or any(type(t) not in (int, float) or not 0 <= t < 2**53 for t in thetas):
        raise keys.fail("layer_rope_theta", f"a list of {len(types)} numbers of at least 0")
    return map_attention(
        base,
        lambda i, attention: replace(
            attention,
            position=replace(attention.position, theta=float(thetas[i]))
            if thetas[i] and isinstance(attention.position, Rope)
            else None,
        ),
    )


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.attn.sink_logits <- layers.{i}.self_attn.sinks
""")


def _thetas(keys: Keys, _: TensorSource) -> Any:
    """Return the rotary theta of each layer, 0 for layers without positions. A list says which layers have
    positions; without it all layers have them.
    """
    if ROTATED not in keys:
        return ABSENT
    marks, count = keys.get(ROTATED, list), layer_count(keys, "block_count")
    if len(marks) != count or any(type(mark) is not bool for mark in marks):
        raise keys.fail(ROTATED, f"a list of {count}, each true or false")
    return [keys.positive(THETA, 10_000.0) * mark for mark in marks]


ROTATED, SLIDING = "attention.rope_pattern", "attention.sliding_window_pattern"
KEYS = {
    **GRANITE,
    "model_type": fixed("granite_swa"),
    "sliding_window": "attention.sliding_window",
    "layer_types": sliding_layers(4, first=True),
    "layer_rope_theta": Row(_thetas, ROTATED),
}
GGUF_WEIGHTS = PERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.attn.sink_logits <- blk.{i}.attn_sinks.weight
""")
GGUF = Gguf("granite_swa", KEYS, GGUF_WEIGHTS, by_layer=(SLIDING,), arrays=(ROTATED,))
