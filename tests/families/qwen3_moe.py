"""Qwen 3 MoE."""

import transformers
from hypothesis import strategies as st

from .kit import decoder
from .qwen2_moe import mixed

ROWS = {
    "qwen3_moe": decoder(
        transformers.Qwen3MoeConfig,
        transformers.Qwen3MoeForCausalLM,
        st.integers(1, 4).flatmap(
            lambda layers: mixed(layers, attention_bias=st.booleans(), use_sliding_window=st.booleans())
        ),
    )
}
