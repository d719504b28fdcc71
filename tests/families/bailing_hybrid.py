"""Ling 3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .deepseek_v3 import GROUPS
from .glm4_moe import choice_biases
from .kimi_linear import KINDS
from .kit import IDS, SIZES, decoder, per_layer


@st.composite
def _bailing(draw: st.DrawFn) -> dict[str, Any]:
    """Both kinds of layers and of mlps in any order, stated one by one or by an interval."""
    keys = draw(
        latents(
            GROUPS,
            norm_topk_prob=st.booleans(),
            short_conv_kernel_size=st.integers(2, 4),
            kda_safe_gate=st.booleans(),
            kda_lower_bound=st.sampled_from([-5.0, -0.5]),
        )
    )
    layers, keys["num_experts"] = keys["num_hidden_layers"], keys.pop("n_routed_experts")
    keys |= {"hidden_act": "silu", "head_dim": draw(st.sampled_from([3, 8]))}
    if draw(st.booleans()):
        keys["layer_types"] = [draw(st.sampled_from(KINDS)) for _ in range(layers)]
    else:
        keys["layer_group_size"] = draw(st.integers(1, 3))
    for experts, limit in (("expert", 0.02), ("share_expert", 0.03)):
        keys[f"{experts}_swiglu_limit_list"] = draw(per_layer(layers, 0.0, limit) | st.none())
    return {**IDS, **keys}


ROWS = {
    "bailing_hybrid": decoder(
        transformers.BailingHybridConfig,
        transformers.BailingHybridForCausalLM,
        _bailing(),
        {**SIZES, "num_attention_heads": 32},  # as many as heads with keys by default
        amend=choice_biases,
    )
}
