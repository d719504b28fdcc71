"""GPT-NeoX."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, CONTEXT, decoder, ropes


@st.composite
def _gpt_neox(draw: st.DrawFn) -> dict[str, Any]:
    heads, size = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([8, 20, 32]))
    part = draw(st.sampled_from([0.25, 0.4, 0.5, 1.0]))
    dims = int(size * part)
    kinds = "default linear dynamic longrope llama3" + (" yarn" if dims % 2 == 0 else "")
    return {
        "vocab_size": 61,
        "hidden_size": heads * size,
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "hidden_act": draw(ACTIVATIONS),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "max_position_embeddings": CONTEXT,
        "use_parallel_residual": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(ropes(dims + dims % 2, kinds)) | {"partial_rotary_factor": part},
    }


ROWS = {"gpt_neox": decoder(transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM, _gpt_neox())}
