"""dots.llm1."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases, sigmoid_experts
from .kit import SIZES, decoder


@st.composite
def _dots1(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(
        sigmoid_experts(
            sliding_window=st.sampled_from([None, 1, 3, 5, 64]), max_window_layers=st.integers(0, 4)
        )
    )
    layers = keys["num_hidden_layers"]
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    types = (
        st.none()
        if keys["sliding_window"] is None
        else st.none() | st.lists(kinds, min_size=layers, max_size=layers)
    )
    return keys | {"layer_types": draw(types)}


EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2}
ROWS = {
    "dots1": decoder(
        transformers.Dots1Config,
        transformers.Dots1ForCausalLM,
        _dots1(),
        {**SIZES, **EXPERTS, "num_attention_heads": 32},
        amend=choice_biases,
    )
}
