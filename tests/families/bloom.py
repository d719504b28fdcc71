"""BLOOM."""

from typing import Any

import transformers
from hypothesis import strategies as st
from torch.nn.functional import gelu
from transformers.models.bloom import modeling_bloom

from .kit import decoder

# There √(2/π) is written with eight digits.
modeling_bloom.bloom_gelu_forward = lambda x: gelu(x, approximate="tanh")


@st.composite
def _bloom(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 3, 4, 6]))
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 8, 20])),
        "n_layer": draw(st.sampled_from([1, 2])),
        "n_head": heads,
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "apply_residual_connection_post_layernorm": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"pretraining_tp": 3}, {"slow_but_exact": True}])),
        "tie_word_embeddings": draw(st.booleans()),
    }


ROWS = {
    "bloom": decoder(
        transformers.BloomConfig,
        transformers.BloomForCausalLM,
        _bloom(),
        {"vocab_size": 50, "hidden_size": 64, "n_layer": 2, "n_head": 8},
    )
}
