"""Falcon-H1."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bamba import SIZES_OF_STATES, mamba_keys
from .kit import decoder, sizes

MULTIPLIERS = (
    "lm_head_multiplier", "embedding_multiplier", "key_multiplier", "attention_out_multiplier",
    "attention_in_multiplier", "ssm_in_multiplier", "ssm_out_multiplier",
)  # fmt: skip


@st.composite
def _falcon_h1(draw: st.DrawFn) -> dict[str, Any]:
    """Multipliers that float32 has, since transformers rounds some of them; heads of states as wide as the
    layer or not."""
    factors = st.sampled_from([0.25, 0.75, 1.0, 1.5, 2.5])
    flags = ("attention_bias", "mlp_bias", "projectors_bias", "mamba_rms_norm", "mamba_norm_before_gate")
    keys = draw(sizes(**{flag: st.booleans() for flag in flags}))
    states = draw(mamba_keys(keys["hidden_size"]))
    width = keys["hidden_size"] * states["mamba_expand"]
    if draw(st.booleans()):
        width = states["mamba_n_heads"] * draw(st.sampled_from([3, 7]))
        states |= {"mamba_d_ssm": width, "mamba_d_head": width // states["mamba_n_heads"]}
    else:
        states["mamba_d_ssm"] = draw(st.sampled_from([None, width]))
    lists = {"mlp_multipliers": 2, "ssm_multipliers": 5}
    several = {k: draw(st.none() | st.lists(factors, min_size=n, max_size=n)) for k, n in lists.items()}
    one = {key: draw(factors) for key in MULTIPLIERS}
    return keys | states | several | one | {"hidden_act": "silu"}


ROWS = {
    "falcon_h1": decoder(
        transformers.FalconH1Config,
        transformers.FalconH1ForCausalLM,
        _falcon_h1(),
        {**SIZES_OF_STATES, "mamba_d_ssm": 64},
    )
}
