"""Granite with windows and sinks."""

import transformers
from hypothesis import strategies as st

from .granitemoe import MULTIPLIERS
from .kit import IDS, decoder, sizes
from .qwen2 import TYPES

THETAS = st.sampled_from([0, 100.0, 10_000, 5e5])
ROWS = {
    "granite_swa": decoder(
        transformers.GraniteSWAConfig,
        transformers.GraniteSWAForCausalLM,
        st.integers(1, 5)
        .flatmap(
            lambda layers: sizes(
                num_hidden_layers=st.just(layers),
                attention_bias=st.booleans(),
                mlp_bias=st.booleans(),
                sliding_window=st.sampled_from([1, 3, 5, 64]),
                layer_types=st.none() | st.lists(st.sampled_from(TYPES), min_size=layers, max_size=layers),
                layer_rope_theta=st.none() | st.lists(THETAS, min_size=layers, max_size=layers),
                **MULTIPLIERS,
            )
        )
        .map(IDS.__or__),
    )
}
