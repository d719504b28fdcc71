"""StableLM."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, ropes


@st.composite
def _keys(draw: st.DrawFn) -> dict[str, Any]:
    """transformers rotates an even number of a head's elements only, and more than two with `dynamic`."""
    groups, share = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3]))
    size, part = draw(st.sampled_from([(16, None), (24, None), (8, 0.5), (12, 0.7), (6, 1.0)]))
    rotated = ropes(int(size * (part or 0.25)))
    keys = {
        "vocab_size": st.just(61),
        "hidden_size": st.just(groups * share * size),
        "intermediate_size": st.sampled_from([7, 24]),
        "num_hidden_layers": st.integers(1, 2),
        "num_attention_heads": st.just(groups * share),
        "num_key_value_heads": st.just(groups),
        "hidden_act": st.sampled_from(["silu", "gelu", "relu"]),
        "layer_norm_eps": st.sampled_from([1e-5, 1e-2]),
        "tie_word_embeddings": st.booleans(),
        "use_qkv_bias": st.booleans(),
        "qk_layernorm": st.booleans(),
        "use_parallel_residual": st.booleans(),
        "max_position_embeddings": st.just(128),
        "rope_parameters": rotated,
    }
    outside = {} if part is None else {"partial_rotary_factor": part}
    return draw(st.fixed_dictionaries(keys)) | outside


ROWS = {
    "stablelm": decoder(
        transformers.StableLmConfig,
        transformers.StableLmForCausalLM,
        _keys(),
        {**SIZES, "hidden_size": 512, "num_attention_heads": 32},
    )
}
