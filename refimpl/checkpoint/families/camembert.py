"""CamemBERT (Martin et al. 2020): RoBERTa under another name.

tfm doesn't read GGUF files of CamemBERT. llama.cpp's converter treats the model as a BERT and keeps the rows
before the first position, so every position in such a file is wrong.
"""

from . import encoders
from .roberta import PREFIX as PREFIX
from .roberta import WEIGHTS as WEIGHTS
from .roberta import config as config

MODEL_TYPES = ("camembert",)
ARCHITECTURES = encoders("Camembert")
