"""SmolLM3 (Bakouch et al. 2025): Llama's decoder, without positions in every fourth layer (NoPE)."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window, rotated_layers
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("smollm3",)
ARCHITECTURES: dict[str, Task] = decoders("SmolLM3")


def config(keys: Keys, task: Task) -> Decoder:
    # Several slices of one product, summed; a key of Qwen's, unread.
    keys.get("pretraining_tp", int, 1, null=True)
    keys.get("max_window_layers", int, None)
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 4, null=True),
        context=32_768,
        mlp_bias=keys.get("mlp_bias", bool, False),
        theta=2_000_000.0,
        tied=True,
    )
    rotary = rotated_layers(keys, keys.get("no_rope_layers", list, None))
    used, window = keys.get("use_sliding_window", bool, False), read_window(keys, everywhere=False)
    types = layer_types(keys, lambda i: used and window is not None and not rotary[i])
    masks = layer_masks(keys, types, window, used=used)
    return map_attention(
        base, lambda i, a: replace(a, position=a.position if rotary[i] else None, mask=masks[i])
    )


GGUF = Gguf("smollm3", {**DECODER, "model_type": fixed("smollm3")}, PERMUTED_QK_WEIGHTS)
