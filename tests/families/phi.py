"""Phi 1, 1.5 and 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, CONTEXT, decoder, ropes


@st.composite
def _phi(draw: st.DrawFn) -> dict[str, Any]:
    """transformers rotates an even number of a head's elements only."""
    groups, share = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3]))
    size, part = draw(st.sampled_from([(16, None), (8, 0.5), (20, 0.4), (12, 1.0)]))
    rope = draw(ropes(int(size * (part or 0.5))))
    outside = {} if part is None else {"partial_rotary_factor": part}
    if draw(st.booleans()):
        rope, outside = rope | outside, {}
    return {
        "vocab_size": 61,
        "hidden_size": groups * share * size,
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": groups * share,
        "num_key_value_heads": draw(st.sampled_from([groups, None])),
        "hidden_act": draw(ACTIVATIONS),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": CONTEXT,
        "rope_parameters": rope,
        **outside,
    }


ROWS = {"phi": decoder(transformers.PhiConfig, transformers.PhiForCausalLM, _phi())}
