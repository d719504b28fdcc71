"""Nemotron-H."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, CONTEXT, Row


@st.composite
def _nemotron_h(draw: st.DrawFn) -> dict[str, Any]:
    """Mixers in any order, each with an mlp after it or without, in either spelling."""
    mixers = st.sampled_from(["M", "*", "M-", "*-"])
    pattern = "".join(draw(st.lists(mixers, min_size=1, max_size=4)))
    names = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
    spelled = {"layers_block_type": [names[letter] for letter in pattern]}
    groups, share, heads = (draw(st.integers(1, 3)) for _ in range(3))
    return {
        **draw(st.sampled_from([spelled, {"hybrid_override_pattern": pattern}])),
        "vocab_size": 61,
        "hidden_size": draw(st.sampled_from([20, 24])),
        "intermediate_size": draw(st.sampled_from([7, 30])),
        "num_attention_heads": heads * 2,
        "num_key_value_heads": heads,
        "head_dim": draw(st.sampled_from([4, 6])),
        "max_position_embeddings": CONTEXT,
        "mamba_num_heads": groups * share,
        "mamba_head_dim": draw(st.sampled_from([4, 7])),
        "n_groups": groups,
        "ssm_state_size": draw(st.sampled_from([5, 8])),
        "conv_kernel": draw(st.integers(2, 4)),
        "use_bias": draw(st.booleans()),
        "use_conv_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "mlp_hidden_act": draw(ACTIVATIONS),
        "layer_norm_epsilon": draw(st.sampled_from([1e-6, 1e-2])),
        "chunk_size": draw(st.sampled_from([3, 64])),
        "tie_word_embeddings": draw(st.booleans()),
        # A least length of steps, which transformers has only where it reads a text.
        "time_step_min": 1e-30,
    }


SIZES = {"hybrid_override_pattern": "M-*", "vocab_size": 50, "hidden_size": 32}
ROWS = {
    "nemotron_h": Row(
        transformers.NemotronHConfig, (transformers.NemotronHForCausalLM,), _nemotron_h(), SIZES
    )
}
