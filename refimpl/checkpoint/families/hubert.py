"""HuBERT (Hsu et al. 2021): wav2vec 2.0's encoder, trained with other targets."""

from __future__ import annotations

from . import Task
from .wav2vec2 import WEIGHTS, WITHOUT_WORDS, config

__all__ = ["ARCHITECTURES", "MODEL_TYPES", "PREFIX", "UNREAD_ARCHITECTURES", "WEIGHTS", "config"]

MODEL_TYPES = ("hubert",)
ARCHITECTURES: dict[str, Task] = {"HubertForCTC": "ctc"}
UNREAD_ARCHITECTURES = {
    f"Hubert{name}": WITHOUT_WORDS[name] for name in ("Model", "ForSequenceClassification")
}
PREFIX = "hubert."
