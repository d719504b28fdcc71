"""OLMoE."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, ropes, sizes
from .mixtral import EAGER


@st.composite
def _olmoe(draw: st.DrawFn) -> dict[str, Any]:
    """Heads are their share of the width."""
    keys = draw(
        sizes(
            attention_bias=st.booleans(),
            num_experts=st.integers(3, 5),
            num_experts_per_tok=st.integers(1, 3),
            norm_topk_prob=st.booleans(),
            eos_token_id=st.just(1),
            experts_implementation=EAGER,
        )
    )
    size = keys["hidden_size"] // keys["num_attention_heads"]
    return {k: v for k, v in keys.items() if k != "head_dim"} | {"rope_parameters": draw(ropes(size))}


ROWS = {"olmoe": decoder(transformers.OlmoeConfig, transformers.OlmoeForCausalLM, _olmoe())}
