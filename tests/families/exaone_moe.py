"""K-EXAONE."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .exaone4 import windowed
from .glm4_moe import choice_biases, sigmoid_experts
from .kit import SIZES, decoder


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    """EXAONE 4's windows; experts by a list of layers, or after the first few."""
    keys = draw(sigmoid_experts()) | draw(windowed().filter(lambda keys: keys["sliding_window"] is not None))
    del keys["attention_bias"]
    keys["num_experts"] = keys.pop("n_routed_experts")
    keys["num_shared_experts"] = keys.pop("n_shared_experts")
    if draw(st.booleans()):
        kinds = st.sampled_from(["dense", "sparse"])
        keys["mlp_layer_types"] = [draw(kinds) for _ in range(keys["num_hidden_layers"])]
    return keys


ROWS = {
    "exaone_moe": decoder(
        transformers.ExaoneMoeConfig,
        transformers.ExaoneMoeForCausalLM,
        mixtures(),
        {**SIZES, "num_attention_heads": 32},
        amend=choice_biases,
    )
}
