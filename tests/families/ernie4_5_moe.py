"""ERNIE 4.5's mixtures."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, ropes, sizes
from .mixtral import EAGER


@st.composite
def _ernie(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.integers(1, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            use_bias=st.booleans(),
            moe_num_experts=st.sampled_from([3, 4, 5]),
            moe_k=st.integers(1, 3),
            moe_intermediate_size=st.sampled_from([5, 8]),
            moe_num_shared_experts=st.integers(0, 2),
            moe_layer_start_index=st.integers(0, 2),
            moe_layer_end_index=st.sampled_from([-1, 1, 2]),
            moe_layer_interval=st.integers(1, 2),
            experts_implementation=EAGER,
        )
    )
    if draw(st.booleans()):
        del keys["head_dim"]
        keys |= {"hidden_size": 4 * keys["num_attention_heads"], "rope_parameters": draw(ropes(4))}
    return keys


ROWS = {
    "ernie4_5_moe": decoder(
        transformers.Ernie4_5_MoeConfig,
        transformers.Ernie4_5_MoeForCausalLM,
        _ernie(),
    )
}
