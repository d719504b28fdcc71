"""GPT-BigCode: SantaCoder and StarCoder."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder


@st.composite
def _gpt_bigcode(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 3, 5]))
    return {
        "vocab_size": 61,
        "n_embd": heads * draw(st.sampled_from([4, 8, 20])),
        "n_inner": draw(st.sampled_from([None, 7, 24])),
        "n_layer": draw(st.sampled_from([1, 3])),
        "n_head": heads,
        "n_positions": draw(st.sampled_from([12, 64])),
        "multi_query": draw(st.booleans()),
        "activation_function": draw(ACTIVATIONS),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "scale_attn_weights": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": 3,
        "eos_token_id": 4,
    }


ROWS = {
    "gpt_bigcode": decoder(
        transformers.GPTBigCodeConfig,
        transformers.GPTBigCodeForCausalLM,
        _gpt_bigcode(),
        {"vocab_size": 50, "n_embd": 64, "n_layer": 2, "n_head": 8},
    )
}
