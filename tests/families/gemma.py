"""Gemma."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "gemma": decoder(
        transformers.GemmaConfig,
        transformers.GemmaForCausalLM,
        sizes(attention_bias=st.booleans()),
        {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        | {"num_attention_heads": 16},
    )
}
