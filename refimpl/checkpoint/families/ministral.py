"""Ministral 8B (Mistral AI 2024): Mistral's decoder. A list in config.json names the layers with a sliding
window.
"""

from ...config import Decoder
from ..config_readers.decoder import decoder, with_masks
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from . import Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("ministral",)
ARCHITECTURES: dict[str, Task] = decoders("Ministral")


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=False,
    )
    window = read_window(keys, 4096, everywhere=False)
    masks = layer_masks(keys, layer_types(keys, lambda _: window is not None), window)
    return with_masks(base, masks)
