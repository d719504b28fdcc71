"""Granite's mixture with a shared expert."""

import transformers
from hypothesis import strategies as st

from .granitemoe import EXPERTS, MULTIPLIERS
from .kit import decoder, sizes

ROWS = {
    "granitemoeshared": decoder(
        transformers.GraniteMoeSharedConfig,
        transformers.GraniteMoeSharedForCausalLM,
        sizes(
            attention_bias=st.booleans(),
            shared_intermediate_size=st.sampled_from([0, 9, 20]),
            **MULTIPLIERS,
            **EXPERTS,
        ),
    )
}
