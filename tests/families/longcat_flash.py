"""LongCat-Flash."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .glm4_moe import choice_biases
from .kit import IDS, SIZES, decoder

GROUPS = ((3, 1, 1), (5, 1, 1))


@st.composite
def _longcat(draw: st.DrawFn) -> dict[str, Any]:
    """Two halves of each layer, and identities beside the experts."""
    keys = draw(latents(GROUPS, zero_expert_num=st.sampled_from([2, 0, 3])))
    keys["q_lora_rank"] = draw(st.sampled_from([7, 40]))
    for key in ("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"):
        del keys[key]
    keys["num_layers"] = draw(st.integers(1, 2))
    keys["ffn_hidden_size"] = keys.pop("intermediate_size")
    keys["expert_ffn_hidden_size"] = keys.pop("moe_intermediate_size")
    most = keys["n_routed_experts"] + keys["zero_expert_num"]
    keys["moe_topk"] = draw(st.integers(2, min(4, most)))  # with one their class fails
    del keys["num_hidden_layers"], keys["num_experts_per_tok"]
    return {**IDS, **keys}


SIZES = {**SIZES, "ffn_hidden_size": 96, "num_layers": 2}
ROWS = {
    "longcat_flash": decoder(
        transformers.LongcatFlashConfig,
        transformers.LongcatFlashForCausalLM,
        _longcat(),
        {key: size for key, size in SIZES.items() if key not in ("intermediate_size", "num_hidden_layers")},
        amend=choice_biases,
    )
}
