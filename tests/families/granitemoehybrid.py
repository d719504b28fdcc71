"""Granite 4, with state layers and without."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bamba import SIZES_OF_STATES, mamba_keys
from .granitemoe import EXPERTS, MULTIPLIERS
from .kit import decoder, sizes


@st.composite
def _keys(draw: st.DrawFn) -> dict[str, Any]:
    experts = EXPERTS | {"num_local_experts": st.sampled_from([0, 3, 4])}
    more = {
        "attention_bias": st.booleans(),
        "shared_intermediate_size": st.sampled_from([9, 20]),
        "position_embedding_type": st.sampled_from(["rope", None, "nope"]),
    }
    keys = draw(sizes(**more, **MULTIPLIERS, **experts))
    kinds, layers = st.sampled_from(["full_attention", "linear_attention"]), keys["num_hidden_layers"]
    types = draw(st.lists(kinds, min_size=layers, max_size=layers))
    if "linear_attention" in types:
        keys["hidden_act"] = "silu"
    return keys | draw(mamba_keys(keys["hidden_size"])) | {"layer_types": types}


ROWS = {
    "granitemoehybrid": decoder(
        transformers.GraniteMoeHybridConfig,
        transformers.GraniteMoeHybridForCausalLM,
        _keys(),
        SIZES_OF_STATES,
    )
}
