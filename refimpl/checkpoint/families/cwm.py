"""Code World Model (Meta 2025): Llama 3's decoder with sliding windows in three of four layers."""

from ...config import Decoder
from ..config_readers.decoder import decoder, with_masks
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..config_readers.rope import ORIGINAL
from . import Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("cwm",)
ARCHITECTURES: dict[str, Task] = decoders("Cwm", tasks=())
# The rotary keys of a config without any.
ROPE = {
    "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    ORIGINAL: 8192,
}  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    # Several slices of one product, summed: the same mathematics.
    keys.get("pretraining_tp", int, 1, null=True)
    stated = any(keys.values.get(key) for key in ("rope_parameters", "rope_scaling", "rope_theta"))
    keys = keys if stated else keys.replaced({**keys.values, "rope_parameters": ROPE})
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8),
        context=131_072,
        attention_bias=False,
        mlp_bias=keys.get("mlp_bias", bool, False),
        theta=1e6,
        eps=1e-5,
        head=128,
    )
    types = layer_types(keys, lambda i: i % 4 != 0)
    masks = layer_masks(keys, types, read_window(keys, 8192, everywhere=False))
    return with_masks(base, masks)
