"""Nemotron-H."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .kit import ACTIVATIONS, CONTEXT, decoder
from .mixtral import EAGER


@st.composite
def _nemotron_h(draw: st.DrawFn) -> dict[str, Any]:
    """Mixers in any order, each with an mlp or experts after it or without, in either spelling."""
    mixers = st.sampled_from(["M", "*", "M-", "*-", "ME", "*E"])
    pattern = "".join(draw(st.lists(mixers, min_size=1, max_size=4)))
    names = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
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
        **draw(_experts()),
    }


@st.composite
def _experts(draw: st.DrawFn) -> dict[str, Any]:
    """Experts in groups or not, of two at least in transformers, with a latent or not."""
    count, chosen, size = draw(st.sampled_from([(1, 1, 2), (1, 1, 5), (2, 1, 3), (3, 2, 2), (2, 2, 2)]))
    return {
        "n_routed_experts": count * size,
        "n_group": count,
        "topk_group": chosen,
        "num_experts_per_tok": draw(st.integers(1, min(3, chosen * size))),
        "norm_topk_prob": draw(st.booleans()),
        "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
        "moe_intermediate_size": draw(st.sampled_from([9, 12])),
        "moe_shared_expert_intermediate_size": draw(st.sampled_from([11, 32])),
        "moe_latent_size": draw(st.sampled_from([None, 10, 28])),
        "experts_implementation": draw(EAGER),
    }


SIZES = {"hybrid_override_pattern": "M-*", "vocab_size": 50, "hidden_size": 32}
ROWS = {
    "nemotron_h": decoder(
        transformers.NemotronHConfig,
        transformers.NemotronHForCausalLM,
        _nemotron_h(),
        SIZES,
        amend=choice_biases,
    )
}
