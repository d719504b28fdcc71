"""Sarvam 30B."""

import transformers
from hypothesis import strategies as st

from .glm import rotated_in_part
from .glm4_moe import choice_biases, sigmoid_experts
from .kit import decoder

ROWS = {
    "sarvam_moe": decoder(
        transformers.SarvamMoEConfig,
        transformers.Glm4MoeForCausalLM,
        rotated_in_part(sigmoid_experts(use_qk_norm=st.booleans()), default=1.0),
        amend=choice_biases,
    )
}
