"""Mamba 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder


@st.composite
def _mamba2(draw: st.DrawFn) -> dict[str, Any]:
    """Heads that share keys and heads that don't; chunks shorter than the text and longer."""
    groups, share, size, expand = (draw(st.sampled_from(s)) for s in ([1, 2, 3], [1, 2], [4, 6], [1, 2]))
    heads = groups * share
    return {
        "vocab_size": 61,
        "hidden_size": heads * size * 2 // expand,
        "num_heads": heads,
        "head_dim": size * 2,
        "expand": expand,
        "n_groups": groups,
        "state_size": draw(st.sampled_from([5, 8])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "conv_kernel": draw(st.integers(2, 4)),
        "use_bias": draw(st.booleans()),
        "use_conv_bias": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(["silu", "swish"])),
        "layer_norm_epsilon": draw(st.sampled_from([1e-6, 1e-2])),
        "chunk_size": draw(st.sampled_from([3, 64])),
        "tie_word_embeddings": draw(st.booleans()),
    }


SIZES = {"vocab_size": 50, "hidden_size": 32, "num_heads": 8, "head_dim": 8, "num_hidden_layers": 2}
ROWS = {"mamba2": decoder(transformers.Mamba2Config, transformers.Mamba2ForCausalLM, _mamba2(), SIZES)}
