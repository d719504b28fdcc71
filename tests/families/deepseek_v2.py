"""DeepSeek-V2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, ropes, sizes
from .mixtral import EAGER


@st.composite
def latents(draw: st.DrawFn, groups: tuple[tuple[int, int, int], ...], **more: Any) -> dict[str, Any]:
    """Latent attention, whose sizes all differ, before experts in (experts, groups, chosen groups)."""
    count, number, chosen = draw(st.sampled_from(groups))
    keys = draw(
        sizes(
            num_hidden_layers=st.integers(1, 3),
            kv_lora_rank=st.sampled_from([6, 10]),  # even: they view a part of it as complex numbers
            q_lora_rank=st.sampled_from([None, 7]),
            qk_nope_head_dim=st.sampled_from([2, 8]),
            qk_rope_head_dim=st.sampled_from([4, 12]),
            v_head_dim=st.sampled_from([3, 16]),
            attention_bias=st.booleans(),
            n_routed_experts=st.just(count),
            n_group=st.just(number),
            topk_group=st.just(chosen),
            num_experts_per_tok=st.integers(1, min(3, count // number * chosen)),
            moe_intermediate_size=st.sampled_from([5, 9]),
            n_shared_experts=st.integers(1, 2),
            first_k_dense_replace=st.integers(0, 3),
            routed_scaling_factor=st.sampled_from([1.0, 2.5]),
            experts_implementation=EAGER,
            **more,
        )
    )
    keys["head_dim"] = keys["qk_rope_head_dim"]
    keys["num_key_value_heads"] = draw(st.sampled_from([None, keys["num_attention_heads"]]))
    rotary = draw(ropes(keys["head_dim"]))
    # Their factor of the scores takes no null, and any number that has this key.
    if rotary.get("factor", 1) is None:
        rotary["factor"] = 3.5
    return keys | {"rope_parameters": rotary}


GROUPS = ((3, 1, 1), (4, 4, 2), (6, 2, 1), (6, 3, 2))
METHODS = st.sampled_from(["greedy", "group_limited_greedy"])
EXPERTS = {"num_experts_per_tok": 2}
ROWS = {
    "deepseek_v2": decoder(
        transformers.DeepseekV2Config,
        transformers.DeepseekV2ForCausalLM,
        latents(GROUPS, topk_method=METHODS),
        {**SIZES, **EXPERTS},
    )
}
