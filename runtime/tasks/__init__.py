"""What people want of a model, one file a task: functions of a TaskModel, and Model with a method for each.

In come an engine and a bundle or checkpoint; out come texts, labels, spans and vectors.
Every task runs on any engine.
"""

from .base import read_tokenizer
from .conversation import Conversation
from .generate import TextStream
from .model import Model, load
from .options import GenerateOptions, Options

__all__ = [
    "Conversation",
    "GenerateOptions",
    "Model",
    "Options",
    "TextStream",
    "load",
    "read_tokenizer",
]
