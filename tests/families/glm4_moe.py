"""GLM-4.5."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .glm import rotated_in_part
from .kit import decoder, sizes
from .mixtral import EAGER


@st.composite
def sigmoid_experts(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Experts as in DeepSeek-V3, after dense layers; transformers needs two at least in a group."""
    count, groups, chosen = draw(
        st.sampled_from([(3, 1, 1), (4, 1, 1), (5, 1, 1), (4, 2, 1), (6, 2, 1), (6, 3, 2)])
    )
    keys = sizes(
        num_hidden_layers=st.integers(1, 3),
        n_routed_experts=st.just(count),
        n_group=st.just(groups),
        topk_group=st.just(chosen),
        num_experts_per_tok=st.integers(1, min(3, count // groups * chosen)),
        moe_intermediate_size=st.sampled_from([5, 8]),
        n_shared_experts=st.integers(1, 2),
        first_k_dense_replace=st.integers(0, 3),
        norm_topk_prob=st.booleans(),
        routed_scaling_factor=st.sampled_from([1.0, 2.5]),
        attention_bias=st.booleans(),
        experts_implementation=EAGER,
        **more,
    )
    return draw(keys)


def choice_biases(model: Any) -> None:
    """Biases of the choice, which transformers keeps as buffers, so that they aren't random."""
    for name, bias in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            bias.copy_(torch.linspace(-0.5, 0.5, len(bias)))


ROWS = {
    "glm4_moe": decoder(
        transformers.Glm4MoeConfig,
        transformers.Glm4MoeForCausalLM,
        rotated_in_part(sigmoid_experts(use_qk_norm=st.booleans(), num_mtp_layers=st.integers(0, 2))),
        amend=choice_biases,
    )
}
