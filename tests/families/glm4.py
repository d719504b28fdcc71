"""GLM-4 of April 2025."""

import transformers

from .glm import glm
from .kit import decoder

ROWS = {"glm4": decoder(transformers.Glm4Config, transformers.Glm4ForCausalLM, glm())}
