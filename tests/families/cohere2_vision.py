"""Command A Vision."""

from .cohere2 import cohere2_keys
from .llava import SIGLIP, row

ROWS = {"cohere2_vision": row("Cohere2Vision", cohere2_keys(), SIGLIP, alignment_intermediate_size=8)}
