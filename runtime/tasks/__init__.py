"""The tasks of models. Each file has the functions of one task; `Model` has a method for each task.

The input is an engine and a bundle or checkpoint. The results are texts, labels, spans and vectors. Every
task runs on any engine.
"""

from ..text.tokenizer import read_tokenizer
from .conversation import Conversation
from .generate import TextStream
from .generate_batch import Completion
from .model import Model, load
from .options import GenerateOptions, Options

__all__ = [
    "Completion",
    "Conversation",
    "GenerateOptions",
    "Model",
    "Options",
    "TextStream",
    "load",
    "read_tokenizer",
]
