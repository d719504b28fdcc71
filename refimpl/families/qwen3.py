"""Qwen 3 (Yang et al. 2025): Qwen 2 with normalized queries and keys, biases only where asked for."""

from __future__ import annotations

from dataclasses import replace

from ..config import Decoder, HeadNorm
from ..config_readers.decoder import attending, decoder, gguf_decoder
from ..config_readers.gguf_metadata import STRAIGHT
from ..config_readers.keys import Keys
from ..formats.tensor_source import Source
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA
from .qwen2 import windows

MODEL_TYPES = ("qwen3",)
ARCHITECTURES: dict[str, Task] = decoders("Qwen3")
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    plain = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 32, null=True),
        context=32_768,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=False,
        head=128,
    )
    sees = windows(keys)
    return attending(normalized(plain), lambda i, a: replace(a, mask=sees[i]))


def normalized(plain: Decoder) -> Decoder:
    """Queries and keys have the same kind of norm as the sublayers."""
    return attending(plain, lambda _, a: replace(a, qk_norm=None if a.pre is None else HeadNorm(a.pre)))


WEIGHTS = LLAMA + QK_NORM


def gguf_config(keys: Keys, source: Source) -> Decoder:
    return normalized(gguf_decoder(keys, source))


GGUF = Gguf("qwen3", gguf_config, STRAIGHT)
