"""Falcon."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, CONTEXT, decoder, ropes


@st.composite
def _falcon(draw: st.DrawFn) -> dict[str, Any]:
    groups, share = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3]))
    heads, size, new = groups * share, draw(st.sampled_from([8, 20])), draw(st.booleans())
    parallel, shared = new or draw(st.booleans()), draw(st.booleans())
    return {
        "vocab_size": 61,
        "hidden_size": heads * size,
        "ffn_hidden_size": draw(st.sampled_from([None, 7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "num_kv_heads": groups if new or shared else None,
        "activation": draw(ACTIVATIONS),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "max_position_embeddings": CONTEXT,
        "alibi": draw(st.booleans()),
        "new_decoder_architecture": new,
        "multi_query": shared,
        "parallel_attn": parallel,
        "num_ln_in_parallel_attn": draw(st.sampled_from([None, 1, 2] if new else [None, 1])),
        "bias": draw(st.booleans()),
        "rope_parameters": draw(ropes(size)),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": 3,
        "eos_token_id": 4,
    }


# transformers' eager way adds ALiBi's bias twice: once to the scores, once more in the mask.
ROWS = {
    "falcon": decoder(
        transformers.FalconConfig,
        transformers.FalconForCausalLM,
        _falcon(),
        {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8},
        attention="sdpa",
    )
}
