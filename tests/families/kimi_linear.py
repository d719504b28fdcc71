"""Kimi Linear."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .kit import IDS, SIZES, decoder, sizes
from .mixtral import EAGER

KINDS = ("linear_attention", "full_attention")
GROUPS = ((3, 1, 1), (4, 2, 1), (6, 2, 1), (6, 3, 2))


@st.composite
def _kimi_linear(draw: st.DrawFn) -> dict[str, Any]:
    """Both kinds of layers and of mlps in any order, stated one by one or as the repository does."""
    layers, (count, groups, chosen) = draw(st.integers(1, 5)), draw(st.sampled_from(GROUPS))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            kv_lora_rank=st.sampled_from([6, 9]),
            q_lora_rank=st.sampled_from([None, 7]),
            qk_nope_head_dim=st.sampled_from([2, 8]),
            qk_rope_head_dim=st.sampled_from([4, 5]),
            v_head_dim=st.sampled_from([3, 16]),
            attention_bias=st.booleans(),
            num_local_experts=st.just(count),
            n_group=st.just(groups),
            topk_group=st.just(chosen),
            num_experts_per_tok=st.integers(1, min(3, count // groups * chosen)),
            moe_intermediate_size=st.sampled_from([5, 9]),
            n_shared_experts=st.integers(1, 2),
            norm_topk_prob=st.booleans(),
            routed_scaling_factor=st.sampled_from([1.0, 2.5]),
            linear_head_dim=st.sampled_from([3, 8]),
            linear_num_heads=st.integers(1, 3),
            linear_conv_kernel_dim=st.integers(2, 4),
            experts_implementation=EAGER,
        )
    )
    keys["num_key_value_heads"] = keys["num_attention_heads"]
    keys["hidden_act"] = "silu"
    for key in ("head_dim", "rope_parameters"):
        del keys[key]
    mixers = draw(st.lists(st.sampled_from(KINDS), min_size=layers, max_size=layers))
    how = draw(st.sampled_from(["types", "lists", "default"]))
    if how == "types":
        keys["layer_types"] = mixers
        mlps = st.lists(st.sampled_from(["dense", "sparse"]), min_size=layers, max_size=layers)
        keys["mlp_layer_types"] = draw(mlps)
    else:
        keys["first_k_dense_replace"] = draw(st.integers(0, 3))
    if how == "lists":
        numbers = {kind: [i + 1 for i, mixer in enumerate(mixers) if mixer == kind] for kind in KINDS}
        keys["linear_attn_config"] = {
            "kda_layers": numbers[KINDS[0]],
            "full_attn_layers": numbers[KINDS[1]],
            "head_dim": keys.pop("linear_head_dim"),
            "num_heads": keys.pop("linear_num_heads"),
            "short_conv_kernel_size": keys.pop("linear_conv_kernel_dim"),
        }
    return {**IDS, **keys}


ROWS = {
    "kimi_linear": decoder(
        transformers.KimiLinearConfig,
        transformers.KimiLinearForCausalLM,
        _kimi_linear(),
        {**SIZES, "num_attention_heads": 32},  # as many as heads with keys by default
        amend=choice_biases,
    )
}
