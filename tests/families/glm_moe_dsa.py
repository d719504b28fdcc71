"""GLM-5."""

import transformers

from .deepseek_v32 import indexed
from .glm4_moe import choice_biases
from .kit import SIZES, Row

ROWS = {
    "glm_moe_dsa": Row(
        transformers.GlmMoeDsaConfig,
        (transformers.GlmMoeDsaForCausalLM,),
        indexed(),
        {**SIZES, "num_attention_heads": 64},
        amend=choice_biases,
    )
}
