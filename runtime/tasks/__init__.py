"""What people want of a model, one file a task; `load(path)` gives a Model with a method for each.

Everything here works on any engine of the seam, and on anything that carries `tokenizer`,
`chat_template`, `generation` and `labels`: a bundle or a checkpoint.
"""

from .conversation import Conversation
from .generate import Options, TextStream, options, sampler
from .model import Model, load, read_tokenizer

__all__ = [
    "Conversation",
    "Model",
    "Options",
    "TextStream",
    "load",
    "options",
    "read_tokenizer",
    "sampler",
]
