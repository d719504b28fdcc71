"""Mistral Small 4."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .deepseek_v3 import GROUPS
from .kit import SIZES, decoder, ropes


@st.composite
def scaled(draw: st.DrawFn) -> dict[str, Any]:
    """DeepSeek's keys, and a scale of queries that grows within the prompt or only after it.

    transformers' default rotation has as many numbers as both parts of a head, which it can't add.
    """
    keys = draw(
        latents(
            tuple(groups for groups in GROUPS if groups[0] > groups[1]),
            norm_topk_prob=st.booleans(),
            rope_interleave=st.booleans(),
        )
    )
    kinds = "linear dynamic yarn yarn yarn longrope llama3"
    rotary = draw(ropes(keys["qk_rope_head_dim"], kinds))
    fits = rotary["rope_type"] == "longrope"  # no text is longer there
    original = draw(st.sampled_from([12, 64] if fits else [1, 3, 5, 12, 64]))
    if rotary["rope_type"] == "yarn" and rotary["factor"] is None:
        rotary["factor"] = 3.5  # their factor of the scores takes no null
    rotary |= {
        "original_max_position_embeddings": original,
        "llama_4_scaling_beta": draw(st.sampled_from([0.0, 0.1, 2.0])),
    }
    whole = {key: value for key, value in keys.items() if key != "head_dim"}
    return {**whole, "rope_parameters": rotary}


ROWS = {
    "mistral4": decoder(
        transformers.Mistral4Config,
        transformers.Mistral4ForCausalLM,
        scaled(),
        {**SIZES, "num_attention_heads": 32},  # as many as heads with keys by default
    )
}
