"""OPT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder


@st.composite
def _opt(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 3, 5]))
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 8, 20])),
        "ffn_dim": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "max_position_embeddings": draw(st.sampled_from([12, 64])),
        "activation_function": draw(ACTIVATIONS),
        "do_layer_norm_before": draw(st.booleans()),
        "_remove_final_layer_norm": draw(st.booleans()),
        "word_embed_proj_dim": draw(st.sampled_from([None, 6, 31])),
        "enable_bias": draw(st.booleans()),
        "layer_norm_elementwise_affine": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
    }


ROWS = {
    "opt": decoder(
        transformers.OPTConfig,
        transformers.OPTForCausalLM,
        _opt(),
        {
            "vocab_size": 50,
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
        },
    )
}
