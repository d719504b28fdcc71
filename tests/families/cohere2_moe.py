"""Command A+."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, per_layer, sizes
from .mixtral import EAGER
from .qwen2 import TYPES


@st.composite
def _cohere2_moe(draw: st.DrawFn) -> dict[str, Any]:
    """Windows and experts by intervals or by lists, either norm."""
    layers = draw(st.integers(1, 4))
    return draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            eos_token_id=st.just(1),
            logit_scale=st.sampled_from([0.0625, 1.0, 3.0]),
            layer_norm_eps=st.sampled_from([1e-5, 1e-2]),
            rms_norm_eps=st.sampled_from([None, 1e-2]),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | per_layer(layers, *TYPES),
            sliding_window_pattern=st.sampled_from([1, 2, 3]),
            mlp_layer_types=st.none() | per_layer(layers, "dense", "sparse"),
            first_k_dense_replace=st.integers(0, min(2, layers)),
            prefix_dense_sliding_window_pattern=st.sampled_from([1, 2]),
            prefix_dense_intermediate_size=st.sampled_from([None, 9]),
            num_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            num_shared_experts=st.integers(0, 2),
            shared_expert_combination_strategy=st.sampled_from(["average", "sum"]),
            expert_selection_fn=st.sampled_from(["softmax", "sigmoid"]),
            norm_topk_prob=st.booleans(),
            experts_implementation=EAGER,
        )
    )


ROWS = {
    "cohere2_moe": decoder(transformers.Cohere2MoeConfig, transformers.Cohere2MoeForCausalLM, _cohere2_moe())
}
