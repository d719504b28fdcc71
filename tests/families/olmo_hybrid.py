"""OLMo Hybrid."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, SIZES, decoder, ropes, sizes

KINDS = ("linear_attention", "full_attention")


@st.composite
def _olmo_hybrid(draw: st.DrawFn) -> dict[str, Any]:
    """Both kinds of layers in any order, since it wants one of each; positions or none."""
    layers = draw(st.integers(2, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            linear_conv_kernel_dim=st.integers(2, 4),
            linear_key_head_dim=st.sampled_from([None, 3, 8]),
            linear_value_head_dim=st.sampled_from([None, 5, 8]),
            linear_num_key_heads=st.integers(1, 3),
            linear_allow_neg_eigval=st.booleans(),
        )
    )
    # A head has its share of the width here.
    keys["hidden_size"] = keys["num_attention_heads"] * keys.pop("head_dim")
    keys["linear_num_value_heads"] = keys["linear_num_key_heads"] * draw(st.integers(1, 3))
    keys["hidden_act"] = "silu"
    types = st.permutations([*KINDS, *draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=2))])
    keys["layer_types"] = draw(types.map(lambda kinds: list(kinds)))
    keys["num_hidden_layers"] = len(keys["layer_types"])
    if draw(st.booleans()):
        keys["layer_types"] = None
    rotary = draw(ropes(keys["hidden_size"] // keys["num_attention_heads"], "default linear"))
    if draw(st.booleans()):
        rotary = {"rope_type": "default", "rope_theta": None}
    return {**IDS, **keys, "rope_parameters": rotary}


ROWS = {
    "olmo_hybrid": decoder(
        transformers.OlmoHybridConfig,
        transformers.OlmoHybridForCausalLM,
        _olmo_hybrid(),
        {**SIZES, "num_hidden_layers": 4},
    )
}
