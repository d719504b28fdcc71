"""Helium 1 (Kyutai 2025): Llama's decoder with rotary positions that rotate neighbouring elements."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, interleaved, map_attention
from ..config_readers.keys import Keys
from . import Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("helium",)
ARCHITECTURES: dict[str, Task] = decoders("Helium", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("pretraining_tp", int, 1)  # several slices of one product, summed: the same mathematics
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 20),
        context=4096,
        mlp_bias=keys.get("mlp_bias", bool, False),
        theta=100_000.0,
        eps=1e-8,
        head=128,
    )
    return interleaved(map_attention(base, lambda _, a: replace(a, out_bias=False)))
