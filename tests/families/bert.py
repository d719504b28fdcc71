"""BERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import Row


@st.composite
def _bert(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3]))
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 10])),
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-2])),
        "max_position_embeddings": 128,
        "type_vocab_size": draw(st.sampled_from([1, 2, 5])),
    }


ROWS = {"bert": Row(transformers.BertConfig, (transformers.BertModel,), _bert())}
