"""gpt-oss."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes
from .mixtral import EAGER


@st.composite
def gpt_oss_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Any layer may have the window; limits reach what experts give, and don't."""
    layers = draw(st.integers(1, 3))
    kinds = ("full_attention", "sliding_attention")
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            hidden_act=st.just("silu"),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | st.lists(st.sampled_from(kinds), min_size=layers, max_size=layers),
            num_local_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            swiglu_limit=st.sampled_from([0.5, 7.0]),
            swiglu_alpha=st.sampled_from([1.0, 1.702]),
            experts_implementation=EAGER,
        )
    )
    return keys if draw(st.integers(0, 3)) else keys | {"rope_parameters": None}


def sinks(model: Any) -> None:
    """Sinks from a small share of the softmax to most of it."""
    for name, sink in model.named_parameters():
        if name.endswith(".sinks"):
            sink.copy_(torch.linspace(-2, 4, len(sink)))


ROWS = {
    "gpt_oss": decoder(transformers.GptOssConfig, transformers.GptOssForCausalLM, gpt_oss_keys(), amend=sinks)
}
