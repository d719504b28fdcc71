"""Step 3.7."""

from typing import Any

from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .kit import SIZES, per_layer, sizes
from .llava import TOWER, row
from .mimo_v2_flash import rotary_by_type
from .qwen2 import TYPES


@st.composite
def _step(draw: st.DrawFn) -> dict[str, Any]:
    """Bounds by layer, other heads where there is a window, and a scale of its own."""
    layers = draw(st.sampled_from([3, 1, 2, 4]))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            hidden_act=st.just("silu"),
            head_dim=st.sampled_from([12, 4, 8]),
            attention_bias=st.booleans(),
            sliding_window=st.sampled_from([3, 1, 5, 64]),
            layer_types=per_layer(layers, *TYPES) | st.none(),
            mlp_layer_types=per_layer(layers, "dense", "sparse") | st.none(),
            n_routed_experts=st.sampled_from([3, 4, 5]),
            num_experts_per_tok=st.integers(1, 3),
            moe_intermediate_size=st.sampled_from([5, 8]),
            share_expert_dim=st.sampled_from([3, 9]),
            moe_router_scaling_factor=st.sampled_from([1.0, 2.5]),
            query_pre_attn_scalar=st.sampled_from([None, 6]),
            swiglu_limits=per_layer(layers, 0.0, None, 0.02) | st.none(),
            swiglu_limits_shared=per_layer(layers, 0.0, None, 0.03) | st.none(),
        )
    )
    groups = keys["num_key_value_heads"]
    keys["num_sliding_attention_heads"] = draw(st.sampled_from([None, groups, 2 * groups]))
    drawn = draw(rotary_by_type(keys["head_dim"], (0.5, 1.0)))
    return keys | {"rope_parameters": draw(st.sampled_from([None, drawn]))}


ROWS = {"step3p7": row("Step3p7", _step(), TOWER, SIZES, amend=choice_biases, experts_implementation="eager")}
