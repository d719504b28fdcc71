"""Aya Vision, over either of Cohere's decoders."""

from .cohere import KEYS
from .cohere2 import cohere2_keys
from .llava import SIGLIP, row

TEXTS = (KEYS.map(lambda keys: keys | {"model_type": "cohere"})) | cohere2_keys()
ROWS = {"aya_vision": row("AyaVision", TEXTS, SIGLIP)}
