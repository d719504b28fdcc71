"""The text part of EXAONE 4.5 (LG AI Research 2026): EXAONE 4's decoder. tfm leaves out the module that
predicts further tokens."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, text_model
from ..weights.weight_map import weight_map
from . import Task, exaone4
from .exaone4 import GGUF as GGUF
from .qwen2_vl import LEFT_OUT, ignore_image_keys
from .qwen2_vl import PREFIX as PREFIX

MODEL_TYPES = ("exaone4_5",)
ARCHITECTURES: dict[str, Task] = {"Exaone4_5_ForConditionalGeneration": "lm", "Exaone4_5_Model": "pool"}


def config(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    return text_model(keys, task, {"exaone4": TEXT, "exaone4_5_text": TEXT}, "exaone4", tied=False)


TEXT = TextModel(exaone4.config, sizes(102_400, 4096, mlp=16_384, layers=32, heads=32))
WEIGHTS = (
    exaone4.WEIGHTS
    + LEFT_OUT
    + weight_map("""
    left out <- mtp.*
""")
)
