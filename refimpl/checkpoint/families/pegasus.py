"""PEGASUS, for summaries (Zhang et al. 2020): BART's form, norms before sublayers, sinusoidal positions."""

from __future__ import annotations

from ...config import EncoderDecoder, Sinusoidal
from ..config_readers.keys import Keys
from . import Task
from .bart import PREFIX, WEIGHTS, pair

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("pegasus",)
ARCHITECTURES: dict[str, Task] = {"PegasusForConditionalGeneration": "lm"}
GGUF = None


def config(keys: Keys, task: Task) -> EncoderDecoder:
    return pair(keys, norms="pre", first=False, waves=Sinusoidal())
