"""Mistral."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "mistral": decoder(
        transformers.MistralConfig,
        transformers.MistralForCausalLM,
        sizes(sliding_window=st.sampled_from([None, 1, 3, 5, 64])),
    )
}
