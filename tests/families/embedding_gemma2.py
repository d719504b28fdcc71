"""EmbeddingGemma 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .gemma4 import KINDS, TOWER, amend
from .kit import Row, ropes, sizes, wrapped


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Any layer but the last may have a window, by a list or an interval.

    A layer's vectors have eight numbers or more: of three the gate may close all, so that the norm behind it
    is one of rounding errors.
    """
    layers = draw(st.sampled_from([3, 1, 2, 4]))
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            hidden_activation=st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"]),
            sliding_window=st.sampled_from([1, 2, 5, 64]),
            layer_types=st.none() | st.lists(kinds, min_size=layers, max_size=layers),
            attention_bias=st.booleans(),
            global_head_dim=st.sampled_from([4, 6, 16, 32]),
            hidden_size_per_layer_input=st.sampled_from([8, 20]),
            embedding_dim=st.sampled_from([5, 12]),
            sliding_window_pattern=st.sampled_from([2, 3, 6]),
            num_global_key_value_heads=st.just(1),
        )
    )
    for key in ("hidden_act", "tie_word_embeddings"):
        del keys[key]
    rope = {
        "full_attention": ropes(keys["global_head_dim"], KINDS),
        "sliding_attention": ropes(keys["head_dim"], KINDS),
    }
    drawn = {kind: draw(strategy) for kind, strategy in rope.items()}
    keys["rope_parameters"] = {
        kind: {name: value for name, value in one.items() if name != "truncate"}
        for kind, one in drawn.items()
    }
    return keys


# No key has a default that depends on others.
ROWS = {
    "embedding_gemma2_text": Row(
        transformers.EmbeddingGemma2TextConfig,
        (transformers.EmbeddingGemma2TextModel,),
        text_keys(),
        {},
        amend=amend,
    ),
    "embedding_gemma2": Row(
        transformers.EmbeddingGemma2Config,
        (transformers.EmbeddingGemma2Model,),
        wrapped(text_keys(), TOWER).map(
            lambda keys: {k: v for k, v in keys.items() if k != "tie_word_embeddings"}
        ),
        {"text_config": {}, "vision_config": TOWER},
        amend=amend,
    ),
}
