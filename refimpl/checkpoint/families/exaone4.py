"""EXAONE 4 (LG AI Research 2025): norms on the sublayers' outputs, and on each head of queries and keys.

If some layers have a window, the others have no positions.
"""

from dataclasses import replace

from ...config import Decoder, Layer
from ..config_readers.decoder import decoder, map_layers, with_masks
from ..config_readers.gguf_keys import DECODER, fixed, optional, sliding_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .cohere2 import with_positions_in_windows
from .olmo2 import GGUF_WEIGHTS as OLMO2_GGUF_WEIGHTS
from .olmo2 import WEIGHTS as WEIGHTS
from .qwen3 import with_qk_norm

MODEL_TYPES = ("exaone4",)
ARCHITECTURES: dict[str, Task] = decoders("Exaone4")


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys, kv_heads=keys.size("num_key_value_heads", 32), context=2048, attention_bias=False, eps=1e-5
    )

    def change(_: int, layer: Layer) -> Layer:
        attention, mlp = layer.attention, layer.mlp
        attention = replace(attention, pre=None, post=attention.pre)
        return replace(layer, attention=attention, mlp=replace(mlp, pre=None, post=mlp.pre))

    return map_layers(with_windows(base, keys), change)


def with_windows(base: Decoder, keys: Keys) -> Decoder:
    """Return the decoder with norms of queries and keys, and with windows in the layers that config.json
    names.

    If some layers have a window, the layers without a window have no positions.
    """
    window = read_window(keys, 4096, everywhere=False)
    if window is None or keys.get("layer_types", list, None) is not None:
        keys.unused("sliding_window_pattern")  # of which hubs state "LLLG" beside the types
        every = 1
    else:
        every = keys.size("sliding_window_pattern", 4)
    masks = layer_masks(keys, layer_types(keys, lambda i: (i + 1) % every != 0), window)
    normed = with_qk_norm(base)
    return with_masks(normed, masks) if window is None else with_positions_in_windows(normed, masks)


GGUF_WEIGHTS = OLMO2_GGUF_WEIGHTS + weight_map("""
    rope_freqs == rope_freqs.weight
""")
# A stated window counts; llama.cpp has windows only in models of 64 layers.
KEYS = {
    **DECODER,
    "model_type": fixed("exaone4"),
    "layer_types": sliding_layers(4, windowless=True),
    "sliding_window": optional("attention.sliding_window", None),
}
GGUF = Gguf("exaone4", KEYS, GGUF_WEIGHTS, by_layer=("attention.sliding_window_pattern",))
