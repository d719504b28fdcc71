"""tfm's own checkpoints: config.json states a Config, and tensors have the names of its parameters."""

from ...components import from_json
from ...config import Config
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task

MODEL_TYPES = ("tfm",)
ARCHITECTURES: dict[str, Task] = {"TfmModel": "lm"}  # the Config says which head it has
PREFIX = ""
WEIGHTS = weight_map("""
    * <- *
    left out <- mtp.*
""")


def config(keys: Keys, task: Task) -> Config:
    return from_json(keys.get("config", dict))
