"""Gemma 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

CAPS = st.sampled_from([None, 0.7, 5.0])


def sandwich(layers: int, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The keys of Gemma 2 and 3."""
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    strategy = sizes(
        num_hidden_layers=st.just(layers),
        hidden_activation=st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"]),
        query_pre_attn_scalar=st.sampled_from([1, 5, 256]),
        attn_logit_softcapping=CAPS,
        final_logit_softcapping=CAPS,
        sliding_window=st.sampled_from([1, 3, 5, 64]),
        layer_types=st.none() | st.lists(kinds, min_size=layers, max_size=layers),
        attention_bias=st.booleans(),
        **more,
    )
    return strategy.map(lambda keys: {key: value for key, value in keys.items() if key != "hidden_act"})


ROWS = {
    "gemma2": decoder(
        transformers.Gemma2Config, transformers.Gemma2ForCausalLM, st.integers(1, 3).flatmap(sandwich)
    )
}
