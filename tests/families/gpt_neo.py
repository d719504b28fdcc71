"""GPT-Neo."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder


@st.composite
def _gpt_neo(draw: st.DrawFn) -> dict[str, Any]:
    heads, kinds = draw(st.sampled_from([1, 3, 5])), st.sampled_from(["local", "global"])
    groups = draw(
        st.lists(
            st.tuples(st.lists(kinds, min_size=1, max_size=2), st.integers(1, 2)), min_size=1, max_size=2
        )
    )
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 8, 20])),
        "intermediate_size": draw(st.sampled_from([None, 7, 24])),
        "num_layers": sum(len(names) * times for names, times in groups),
        "attention_types": [[names, times] for names, times in groups],
        "num_heads": heads,
        "window_size": draw(st.sampled_from([3, 1, 5, 64])),
        "max_position_embeddings": draw(st.sampled_from([12, 64])),
        "activation_function": draw(ACTIVATIONS),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": 3,
        "eos_token_id": 4,
    }


ROWS = {
    "gpt_neo": decoder(
        transformers.GPTNeoConfig,
        transformers.GPTNeoForCausalLM,
        _gpt_neo(),
        {"vocab_size": 50, "hidden_size": 64, "num_layers": 24, "num_heads": 8},
    )
}
