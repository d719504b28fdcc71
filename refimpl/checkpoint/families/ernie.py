"""ERNIE 1 to 3 (Sun et al. 2019 to 2021): BERT, with optional task embeddings. The task is always the first
task."""

from dataclasses import replace

from ...config import Encoder
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import HEADS, TRUNK
from .bert import config as bert

MODEL_TYPES = ("ernie",)
ARCHITECTURES: dict[str, Task] = {**encoders("Ernie"), "ErnieForPreTraining": "masked"}
PREFIX = "ernie."


def config(keys: Keys, task: Task) -> Encoder:
    base = bert(keys, task)
    assert isinstance(base, Encoder)
    tasks = keys.size("task_type_vocab_size", 3)
    if not keys.get("use_task_id", bool, False):
        return base
    return replace(base, embedding=replace(base.embedding, task_types=tasks))


WEIGHTS = TRUNK + HEADS + weight_map("embedding.task_types <- embeddings.task_type_embeddings.weight")
