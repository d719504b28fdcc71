"""CamemBERT (Martin et al. 2020): RoBERTa under another name.

It has no dialect of GGUF here: llama.cpp's converter takes it for a BERT and keeps the rows before the first
position, so that every position of such a file is wrong.
"""

from . import encoders
from .roberta import PREFIX as PREFIX
from .roberta import WEIGHTS as WEIGHTS
from .roberta import config as config

MODEL_TYPES = ("camembert",)
ARCHITECTURES = encoders("Camembert")
