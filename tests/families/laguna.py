"""Laguna."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, per_layer, sizes
from .mimo_v2_flash import rotary_by_type
from .mixtral import EAGER
from .qwen2 import TYPES


@st.composite
def _laguna(draw: st.DrawFn) -> dict[str, Any]:
    """A number of heads for each layer, and gates of heads or of their numbers."""
    layers = draw(st.sampled_from([3, 1, 2, 4]))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            head_dim=st.sampled_from([12, 4, 8]),
            gating=st.sampled_from([True, "per-head", "per-element", False]),
            sliding_window=st.sampled_from([3, 1, 5, 64]),
            layer_types=per_layer(layers, *TYPES) | st.none(),
            mlp_layer_types=per_layer(layers, "dense", "sparse") | st.none(),
            num_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            moe_intermediate_size=st.sampled_from([5, 8]),
            shared_expert_intermediate_size=st.sampled_from([3, 9]),
            moe_routed_scaling_factor=st.sampled_from([1.0, 2.5]),
            experts_implementation=EAGER,
        )
    )
    keys["attention_bias"] = keys["gating"] in (True, "per-head") and draw(st.booleans())
    groups = keys["num_key_value_heads"]
    heads = per_layer(layers, groups, 2 * groups, 3 * groups)
    keys["num_attention_heads_per_layer"] = draw(heads | st.none())
    drawn = draw(rotary_by_type(keys["head_dim"], (0.5, 1.0)))
    return keys | {"rope_parameters": draw(st.sampled_from([None, drawn]))}


ROWS = {"laguna": decoder(transformers.LagunaConfig, transformers.LagunaForCausalLM, _laguna())}
