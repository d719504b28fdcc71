"""Ministral 8B."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes
from .qwen2 import TYPES

ROWS = {
    "ministral": decoder(
        transformers.MinistralConfig,
        transformers.MinistralForCausalLM,
        st.integers(1, 3).flatmap(
            lambda layers: sizes(
                num_hidden_layers=st.just(layers),
                sliding_window=st.sampled_from([1, 3, 5, 64]),
                layer_types=st.none() | st.lists(st.sampled_from(TYPES), min_size=layers, max_size=layers),
            )
        ),
    )
}
