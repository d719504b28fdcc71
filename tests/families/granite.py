"""Granite."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

multipliers = st.sampled_from([1.0, 0.3, 2, 12.0])

ROWS = {
    "granite": decoder(
        transformers.GraniteConfig,
        transformers.GraniteForCausalLM,
        sizes(
            attention_bias=st.booleans(),
            mlp_bias=st.booleans(),
            embedding_multiplier=multipliers,
            attention_multiplier=multipliers,
            residual_multiplier=multipliers,
            logits_scaling=multipliers,
        ),
    )
}
