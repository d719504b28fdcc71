"""DeepSeek-V3.2, whose indexer chooses fewer tokens than a text has, or all."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .deepseek_v3 import GROUPS
from .glm4_moe import choice_biases
from .kit import SIZES, decoder


@st.composite
def indexed(draw: st.DrawFn) -> dict[str, Any]:
    """So many heads that hardly any score has none above zero: of equal scores transformers takes any."""
    keys = latents(
        GROUPS,
        norm_topk_prob=st.booleans(),
        index_n_heads=st.sampled_from([17, 19]),
        index_head_dim=st.sampled_from([12, 14]),
        index_topk=st.sampled_from([2, 5, 64]),
    )
    drawn = draw(keys) | {"q_lora_rank": draw(st.sampled_from([7, 11]))}
    return drawn | {"num_key_value_heads": drawn["num_attention_heads"]}  # the class takes no null


ROWS = {
    "deepseek_v32": decoder(
        transformers.DeepseekV32Config,
        transformers.DeepseekV32ForCausalLM,
        indexed(),
        {**SIZES, "num_attention_heads": 128},
        amend=choice_biases,
    )
}
