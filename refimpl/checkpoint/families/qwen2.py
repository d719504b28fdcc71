"""Qwen 1.5 to 2.5 and QwQ (Yang et al. 2024): Llama's decoder with biases of queries, keys and values. Upper
layers may have sliding windows."""

from dataclasses import replace

from ...config import Decoder, FullAttention, Window
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("qwen2",)
ARCHITECTURES: dict[str, Task] = decoders("Qwen2")


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys, kv_heads=keys.size("num_key_value_heads", 32, null=True), context=32_768, attention_bias=True
    )
    masks, out_bias = windows(keys), keys.shows("attn_output.bias", stated=False)
    return map_attention(base, lambda i, a: replace(a, out_bias=out_bias, mask=masks[i]))


def windows(keys: Keys) -> list[FullAttention | Window]:
    """Return the mask of each layer. If windows are switched on, layers from max_window_layers on have a
    window.
    """
    used, full = keys.get("use_sliding_window", bool, False), keys.get("max_window_layers", int, 28)
    window = read_window(keys, 4096, everywhere=False)
    types = layer_types(keys, lambda i: used and window is not None and i >= full)
    return layer_masks(keys, types, window, used=used)


# Windows have no key there, llama.cpp doesn't know of them.
KEYS = {**DECODER, "model_type": fixed("qwen2")}
GGUF = Gguf("qwen2", KEYS, UNPERMUTED_QK_WEIGHTS)
