"""Mixtral."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

# Their faster ways to run experts are float32.
EAGER = st.just("eager")

ROWS = {
    "mixtral": decoder(
        transformers.MixtralConfig,
        transformers.MixtralForCausalLM,
        sizes(
            num_local_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            sliding_window=st.sampled_from([None, 1, 3, 5, 64]),
            experts_implementation=EAGER,
        ),
    )
}
