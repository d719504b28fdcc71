"""Mistral: Llama's decoder with a sliding window (Jiang et al. 2023). In GGUF the architecture is llama."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.keys import Keys
from ..config_readers.layers import LAYER_TYPES, layer_count, read_window
from . import Task, decoders
from .llama import GGUF as GGUF
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("mistral",)
ARCHITECTURES: dict[str, Task] = decoders("Mistral")


def config(keys: Keys, task: Task) -> Decoder:
    window = read_window(keys, 4096)
    # transformers gives each layer the window, or none: types that say the same change nothing.
    kind = LAYER_TYPES[window is not None]
    keys.harmless(layer_types=([kind] * layer_count(keys), None), model_max_length=(int, None))
    return decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=False,
        window=window,
    )
