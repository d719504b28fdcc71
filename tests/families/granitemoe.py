"""Granite MoE."""

import transformers
from hypothesis import strategies as st

from .granite import multipliers
from .kit import decoder, sizes
from .mixtral import EAGER

MULTIPLIERS = {
    "embedding_multiplier": multipliers,
    "attention_multiplier": multipliers,
    "residual_multiplier": multipliers,
    "logits_scaling": multipliers,
}
EXPERTS = {
    "num_local_experts": st.sampled_from([3, 4, 5]),
    "num_experts_per_tok": st.integers(1, 3),
    "experts_implementation": EAGER,
}

ROWS = {
    "granitemoe": decoder(
        transformers.GraniteMoeConfig,
        transformers.GraniteMoeForCausalLM,
        sizes(attention_bias=st.booleans(), **MULTIPLIERS, **EXPERTS),
    )
}
