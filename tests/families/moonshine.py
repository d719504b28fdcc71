"""Moonshine: depths of both sides differ, and a part of each head is rotated, of an odd number one more."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, Row, ropes

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 3,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@st.composite
def keys(draw: st.DrawFn) -> dict[str, Any]:
    heads, size = draw(st.sampled_from([1, 3])), draw(st.sampled_from([10, 16]))
    share = draw(st.sampled_from([None, 0.5, 0.7, 0.9, 1.0]))
    turned = int(size * (share or 0.9))
    kinds = "default linear llama3" + (" yarn" if turned % 2 == 0 else "")
    stated = {} if share is None else {"partial_rotary_factor": share}
    return SIZES | {
        "vocab_size": 61,
        "hidden_size": heads * size,
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "encoder_num_hidden_layers": draw(st.sampled_from([1, 2])),
        "decoder_num_hidden_layers": draw(st.sampled_from([1, 3])),
        "encoder_num_attention_heads": heads,
        "decoder_num_attention_heads": heads,
        "encoder_hidden_act": draw(ACTIVATIONS),
        "decoder_hidden_act": draw(ACTIVATIONS),
        "attention_bias": draw(st.booleans()),
        "pad_head_dim_to_multiple_of": draw(st.sampled_from([None, 8])),
        "rope_parameters": draw(ropes(turned, kinds)) | stated,
        "tie_word_embeddings": draw(st.booleans()),
    }


ROWS = {
    "moonshine": Row(
        transformers.MoonshineConfig, (transformers.MoonshineForConditionalGeneration,), keys(), SIZES
    )
}
