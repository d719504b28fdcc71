"""Granite with windows (IBM 2026): most layers have a sliding window, and every head's softmax has a sink.

Each layer has its own rotary theta; 0 means no positions."""

from dataclasses import replace

from ...config import Decoder, Rope
from ..config_readers.decoder import map_attention, with_masks
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..weights.weight_map import weight_map
from . import Task, decoders
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
