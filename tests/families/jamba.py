"""Jamba."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, sizes
from .mixtral import EAGER


@st.composite
def _jamba(draw: st.DrawFn) -> dict[str, Any]:
    """Attention and experts in any of the layers, in all or in none."""
    keys = draw(sizes(num_experts=st.integers(1, 5), experts_implementation=EAGER))
    for name in ("attn_layer", "expert_layer"):
        keys[f"{name}_period"] = period = draw(st.integers(1, 5))
        keys[f"{name}_offset"] = draw(st.integers(0, period - 1))
    return {key: value for key, value in keys.items() if key != "rope_parameters"} | {
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_experts_per_tok": draw(st.integers(1, keys["num_experts"])),
        "hidden_act": draw(st.sampled_from(["silu", "swish"])),
        "mamba_expand": draw(st.sampled_from([1, 2])),
        "mamba_d_state": draw(st.sampled_from([1, 5, 8])),
        "mamba_dt_rank": draw(st.sampled_from(["auto", 1, 7])),
        "mamba_d_conv": draw(st.integers(2, 4)),
        "mamba_conv_bias": draw(st.booleans()),
        "mamba_proj_bias": draw(st.booleans()),
    }


ROWS = {"jamba": decoder(transformers.JambaConfig, transformers.JambaForCausalLM, _jamba(), SIZES)}
