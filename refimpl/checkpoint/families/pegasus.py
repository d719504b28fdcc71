"""PEGASUS, for summaries (Zhang et al. 2020): BART's form, with norms before the sublayers and sinusoidal
positions."""

from ...config import EncoderDecoder, Sinusoidal
from ..config_readers.keys import Keys
from . import Task
from .bart import WEIGHTS as WEIGHTS
from .bart import pair

MODEL_TYPES = ("pegasus",)
ARCHITECTURES: dict[str, Task] = {"PegasusForConditionalGeneration": "lm"}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    return pair(keys, norms="pre", first=False, waves=Sinusoidal())
