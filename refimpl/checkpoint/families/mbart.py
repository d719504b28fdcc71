"""mBART and mBART-50 (Liu et al. 2020): BART's form for many languages, with norms before the sublayers."""

from ...config import EncoderDecoder
from ..config_readers.keys import Keys
from . import Task
from .bart import WEIGHTS as WEIGHTS
from .bart import pair

MODEL_TYPES = ("mbart",)
ARCHITECTURES: dict[str, Task] = {
    "MBartForConditionalGeneration": "lm",
    "MBartForSequenceClassification": "classify",
    "MBartForQuestionAnswering": "answer",
}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    return pair(keys, norms="pre", first=True)
