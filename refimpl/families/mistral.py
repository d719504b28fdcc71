"""Mistral: Llama's decoder with a sliding window (Jiang et al. 2023). In GGUF it is called llama."""

from __future__ import annotations

from ..config import Config
from . import Keys
from .llama import WEIGHTS, decoder

__all__ = ["ARCHITECTURE", "GGUF", "MODEL_TYPES", "WEIGHTS", "config"]

MODEL_TYPES = ("mistral",)
ARCHITECTURE = "ForCausalLM"
GGUF = None


def config(keys: Keys) -> Config:
    return decoder(
        keys,
        groups=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=False,
        mlp_bias=False,
        window=keys.size("sliding_window", 4096, null=True),
    )
