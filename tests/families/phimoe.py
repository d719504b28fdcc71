"""Phi-3.5-MoE."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, decoder, ropes, sizes
from .mixtral import EAGER


@st.composite
def _phimoe(draw: st.DrawFn) -> dict[str, Any]:
    """Logits of experts that are near each other, or far, by the jitter."""
    keys = draw(
        sizes(
            num_local_experts=st.sampled_from([2, 3, 5]),
            sliding_window=st.sampled_from([None, 1, 3, 5, 64]),
            router_jitter_noise=st.sampled_from([0.01, 0.3, 2.0]),
            attention_bias=st.booleans(),
            lm_head_bias=st.booleans(),
            experts_implementation=EAGER,
        )
    )
    rotary = draw(ropes(keys["head_dim"], "default longrope"))
    if rotary["rope_type"] == "longrope":
        rotary |= {"short_mscale": draw(st.sampled_from([0.75, 1.25])), "long_mscale": 1.5}
    return keys | IDS | {"rope_parameters": rotary}


ROWS = {"phimoe": decoder(transformers.PhimoeConfig, transformers.PhimoeForCausalLM, _phimoe())}
