"""Qwen 3 and Qwen3-Embedding (Yang et al. 2025): Qwen 2 with normalized queries and keys; biases are
optional."""

from dataclasses import replace

from ...config import Decoder, HeadNorm
from ..config_readers.decoder import decoder, map_attention, with_masks
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA
from .qwen2 import windows

MODEL_TYPES = ("qwen3",)
ARCHITECTURES: dict[str, Task] = decoders("Qwen3")


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(keys, kv_heads=keys.size("num_key_value_heads", 32, null=True), context=32_768, head=128)
    return with_masks(with_qk_norm(base), windows(keys))


def with_qk_norm(base: Decoder) -> Decoder:
    """Return the decoder with norms of queries and keys. They have the same kind as the sublayers' norms."""
    return map_attention(base, lambda _, a: replace(a, qk_norm=None if a.pre is None else HeadNorm(a.pre)))


WEIGHTS = LLAMA + QK_NORM


KEYS = {**DECODER, "model_type": fixed("qwen3")}
GGUF = Gguf("qwen3", KEYS, UNPERMUTED_QK_WEIGHTS)
