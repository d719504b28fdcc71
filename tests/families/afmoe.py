"""Trinity."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes
from .mixtral import EAGER
from .qwen2 import TYPES


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    """Windows by an interval or by a list, experts after the first layers."""
    keys = draw(
        sizes(
            num_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            moe_intermediate_size=st.sampled_from([5, 9]),
            num_shared_experts=st.integers(1, 2),
            num_dense_layers=st.integers(0, 3),
            route_scale=st.sampled_from([1.0, 2.5]),
            mup_enabled=st.booleans(),
            sliding_window=st.sampled_from([3, 1, 5, 64]),
            experts_implementation=EAGER,
        )
    )
    keys["num_hidden_layers"] = layers = draw(st.sampled_from([3, 2, 1, 4]))
    if draw(st.booleans()):
        return keys | {"layer_types": [draw(st.sampled_from(TYPES)) for _ in range(layers)]}
    return keys | {"global_attn_every_n_layers": draw(st.sampled_from([2, 1, 3, 4]))}


def choice_biases(model: Any) -> None:
    """Biases of the choice, apart enough from each other."""
    for name, bias in model.named_parameters():
        if name.endswith("expert_bias"):
            bias.copy_(torch.linspace(-0.5, 0.5, len(bias)))


ROWS = {
    "afmoe": decoder(transformers.AfmoeConfig, transformers.AfmoeForCausalLM, mixtures(), amend=choice_biases)
}
