"""GLM-4.7-Flash."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .deepseek_v3 import GROUPS
from .glm4_moe import choice_biases
from .kit import SIZES, decoder


@st.composite
def experts_by_layer(draw: st.DrawFn, drawn: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Layers with experts by a list, or by default all but the first."""
    keys = draw(drawn)
    del keys["first_k_dense_replace"]
    if draw(st.booleans()):
        kinds = st.sampled_from(["dense", "sparse"])
        keys["mlp_layer_types"] = [draw(kinds) for _ in range(keys["num_hidden_layers"])]
    return keys | {"num_key_value_heads": keys["num_attention_heads"]}


ROWS = {
    "glm4_moe_lite": decoder(
        transformers.Glm4MoeLiteConfig,
        transformers.Glm4MoeLiteForCausalLM,
        experts_by_layer(latents(GROUPS, norm_topk_prob=st.booleans(), rope_interleave=st.booleans())),
        {**SIZES, "num_attention_heads": 20},
        amend=choice_biases,
    )
}
