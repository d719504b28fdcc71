"""tfm's own checkpoints: config.json states a Config, the tensors have our leaf names."""

from __future__ import annotations

from ..config import Config, from_json
from . import Keys

MODEL_TYPES = ("tfm",)
ARCHITECTURE = "ForCausalLM"
WEIGHTS = "* <- *"
GGUF = None


def config(keys: Keys) -> Config:
    return from_json(keys.get("config", dict))
