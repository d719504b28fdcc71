"""mBART and mBART-50 (Liu et al. 2020): BART's form for many languages, norms before sublayers."""

from __future__ import annotations

from ...config import EncoderDecoder
from ..config_readers.keys import Keys
from . import Task
from .bart import PREFIX, WEIGHTS, pair

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("mbart",)
ARCHITECTURES: dict[str, Task] = {
    "MBartForConditionalGeneration": "lm",
    "MBartForSequenceClassification": "classify",
    "MBartForQuestionAnswering": "answer",
}
GGUF = None


def config(keys: Keys, task: Task) -> EncoderDecoder:
    return pair(keys, norms="pre", first=True)
