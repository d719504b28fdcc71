"""Llama."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "llama": decoder(
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()),
    )
}
