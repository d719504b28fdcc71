"""Mamba."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder


@st.composite
def mamba_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Channels as many as the width says or as a key does; steps of few numbers or one."""
    keys: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": draw(st.sampled_from([10, 20, 36])),
        "expand": draw(st.sampled_from([1, 2])),
        "state_size": draw(st.sampled_from([1, 5, 8])),
        "time_step_rank": draw(st.sampled_from(["auto", 1, 7])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "conv_kernel": draw(st.integers(2, 4)),
        "use_bias": draw(st.booleans()),
        "use_conv_bias": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(["silu", "swish"])),
        "layer_norm_epsilon": draw(st.sampled_from([1e-6, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
    }
    return keys | ({"intermediate_size": 23} if draw(st.booleans()) else {})


SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
ROWS = {"mamba": decoder(transformers.MambaConfig, transformers.MambaForCausalLM, mamba_keys(), SIZES)}
