"""Qwen 3."""

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder
from .qwen2 import windowed

ROWS = {
    "qwen3": decoder(
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        windowed(attention_bias=st.booleans()),
        {**SIZES, "num_attention_heads": 32},
    )
}
