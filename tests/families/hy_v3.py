"""Hunyuan 3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .kit import decoder, sizes
from .mixtral import EAGER


@st.composite
def _hy_v3(draw: st.DrawFn) -> dict[str, Any]:
    """Experts in the layers of a list, or by default in all but the first."""
    layers = draw(st.integers(1, 3))
    kinds = st.sampled_from(["dense", "sparse"])
    return draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            num_experts=st.integers(3, 5),
            num_experts_per_tok=st.integers(1, 3),
            num_shared_experts=st.integers(1, 2),
            moe_intermediate_size=st.sampled_from([5, 8]),
            router_scaling_factor=st.sampled_from([1.0, 2.5]),
            enable_moe_fp32_combine=st.just(False),  # it has no float64
            mlp_layer_types=st.none() | st.lists(kinds, min_size=layers, max_size=layers),
            experts_implementation=EAGER,
        )
    )


ROWS = {
    "hy_v3": decoder(transformers.HYV3Config, transformers.HYV3ForCausalLM, _hy_v3(), amend=choice_biases)
}
