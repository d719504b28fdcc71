"""Granite 4 without state layers."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .granitemoe import EXPERTS, MULTIPLIERS
from .kit import SIZES, decoder, sizes

ATTENTION = {"layer_types": ["full_attention"] * 2, "mamba_n_heads": 1}


@st.composite
def _keys(draw: st.DrawFn) -> dict[str, Any]:
    experts = EXPERTS | {"num_local_experts": st.sampled_from([0, 3, 4])}
    more = {
        "attention_bias": st.booleans(),
        "shared_intermediate_size": st.sampled_from([9, 20]),
        "position_embedding_type": st.sampled_from(["rope", None, "nope"]),
    }
    keys = draw(sizes(**more, **MULTIPLIERS, **experts))
    return keys | ATTENTION | {"layer_types": ["full_attention"] * keys["num_hidden_layers"]}


ROWS = {
    "granitemoehybrid": decoder(
        transformers.GraniteMoeHybridConfig,
        transformers.GraniteMoeHybridForCausalLM,
        _keys(),
        {**SIZES, **ATTENTION},
    )
}
