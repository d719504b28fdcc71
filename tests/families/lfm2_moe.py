"""LFM2 with experts."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .kit import decoder, ropes, sizes
from .mixtral import EAGER


@st.composite
def _lfm2_moe(draw: st.DrawFn) -> dict[str, Any]:
    """Convolutions in any layers, and experts in all, none or the last ones."""
    layers = draw(st.integers(1, 4))
    kinds = st.sampled_from(["full_attention", "conv"])
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            norm_eps=st.sampled_from([1e-6, 1e-2]),
            conv_L_cache=st.sampled_from([2, 3, 4]),
            conv_bias=st.booleans(),
            layer_types=st.lists(kinds, min_size=layers, max_size=layers),
            num_dense_layers=st.integers(0, 3),
            num_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            moe_intermediate_size=st.sampled_from([5, 8]),
            norm_topk_prob=st.booleans(),
            routed_scaling_factor=st.sampled_from([1.0, 2.5]),
            use_expert_bias=st.booleans(),
            experts_implementation=EAGER,
        )
    )
    for key in ("hidden_act", "rms_norm_eps"):
        del keys[key]
    return keys | {"rope_parameters": draw(ropes(keys["head_dim"]))}


def choice_biases(model: Any) -> None:
    """Biases of the choice, which transformers keeps as buffers, so that they aren't random."""
    for name, bias in model.named_buffers():
        if name.endswith("expert_bias"):
            bias.copy_(torch.linspace(-0.5, 0.5, len(bias)))


ROWS = {
    "lfm2_moe": decoder(
        transformers.Lfm2MoeConfig, transformers.Lfm2MoeForCausalLM, _lfm2_moe(), amend=choice_biases
    )
}
