"""MiMo-V2-Flash."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .gpt_oss import sinks
from .kit import decoder, per_layer, ropes, sizes
from .mixtral import EAGER
from .qwen2 import TYPES


@st.composite
def rotary_by_type(draw: st.DrawFn, head: int, shares: tuple[float, ...]) -> dict[str, Any]:
    """The rotation of each type of layer, of a part of each head."""
    parameters = {}
    for kind in TYPES:
        share = draw(st.sampled_from(shares))
        dims = int(head * share)
        # Of two numbers transformers' dynamic frequencies are a division by zero.
        one = draw(ropes(dims, f"default linear yarn llama3{' dynamic' * (dims > 2)}"))
        # transformers reads `truncate` beside the types of layers only.
        one = {key: value for key, value in one.items() if key != "truncate"}
        parameters[kind] = one | {"partial_rotary_factor": share}
    return parameters


@st.composite
def _mimo(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.integers(1, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            head_dim=st.sampled_from([12, 4, 24]),
            sliding_window=st.sampled_from([3, 1, 5, 64]),
            layer_types=st.none() | per_layer(layers, *TYPES),
            mlp_layer_types=st.none() | per_layer(layers, "dense", "sparse"),
            n_routed_experts=st.sampled_from([4, 6]),
            n_group=st.sampled_from([1, 2]),
            num_experts_per_tok=st.integers(1, 2),
            moe_intermediate_size=st.sampled_from([5, 8]),
            norm_topk_prob=st.booleans(),
            routed_scaling_factor=st.sampled_from([None, 2.5]),
            attention_value_scale=st.sampled_from([0.707, None, 0.5]),
            experts_implementation=EAGER,
        )
    )
    keys["num_attention_heads"] = 2 * keys["num_key_value_heads"] * draw(st.sampled_from([1, 2]))
    keys["v_head_dim"] = draw(st.sampled_from([3, keys["head_dim"], keys["head_dim"] // 2]))
    drawn = draw(rotary_by_type(keys["head_dim"], (0.5, 1.0)))
    parameters = st.sampled_from([None, drawn] if keys["head_dim"] == 12 else [drawn])
    return keys | {"rope_parameters": draw(parameters)}


def amend(model: Any) -> None:
    choice_biases(model)
    sinks(model)


ROWS = {
    "mimo_v2_flash": decoder(
        transformers.MiMoV2FlashConfig,
        transformers.MiMoV2FlashForCausalLM,
        _mimo(),
        amend=amend,
    )
}
