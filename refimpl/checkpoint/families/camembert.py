"""CamemBERT (Martin et al. 2020): RoBERTa under another name.

It has no dialect of GGUF here: llama.cpp's converter takes it for a BERT and keeps the rows before the first
position, so that every position of such a file is wrong.
"""

from __future__ import annotations

from . import encoders
from .roberta import PREFIX, WEIGHTS, config

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("camembert",)
ARCHITECTURES = encoders("Camembert")
GGUF = None
