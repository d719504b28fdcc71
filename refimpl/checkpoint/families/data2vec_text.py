"""data2vec's model of text (Baevski et al. 2022): RoBERTa under another name."""

from . import encoders
from .roberta import WEIGHTS as WEIGHTS
from .roberta import config as config

MODEL_TYPES = ("data2vec-text",)
ARCHITECTURES = encoders("Data2VecText")
PREFIX = "data2vec_text."
