"""Mellum 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, per_layer, ropes, sizes
from .mixtral import EAGER
from .qwen2 import TYPES


@st.composite
def _mellum(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.integers(1, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            num_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            moe_intermediate_size=st.sampled_from([5, 8]),
            norm_topk_prob=st.booleans(),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | per_layer(layers, *TYPES),
            mlp_layer_types=st.none() | per_layer(layers, "dense", "sparse"),
            experts_implementation=EAGER,
        )
    )
    rotary = ropes(keys["head_dim"], "default linear dynamic llama3 yarn")
    parameters = {kind: draw(rotary) for kind in TYPES}
    # transformers reads `truncate` beside the types of layers only.
    parameters = {kind: {k: v for k, v in one.items() if k != "truncate"} for kind, one in parameters.items()}
    return keys | {"rope_parameters": draw(st.sampled_from([None, parameters]))}


ROWS = {"mellum": decoder(transformers.MellumConfig, transformers.MellumForCausalLM, _mellum())}
