"""Command R7B and Command A."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes
from .qwen2 import TYPES


@st.composite
def cohere2_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Windows by an interval or by a list."""
    more = {
        "attention_bias": st.booleans(),
        "eos_token_id": st.just(1),
        "logit_scale": st.sampled_from([0.0625, 1.0, 3.0]),
        "layer_norm_eps": st.sampled_from([1e-5, 1e-2]),
        "sliding_window": st.sampled_from([3, 1, 5, 64]),
    }
    keys = draw(sizes(**more))
    del keys["rms_norm_eps"]
    keys["num_hidden_layers"] = layers = draw(st.sampled_from([3, 2, 1, 4]))
    if draw(st.booleans()):
        keys["layer_types"] = [draw(st.sampled_from(TYPES)) for _ in range(layers)]
    else:
        keys["sliding_window_pattern"] = draw(st.sampled_from([2, 1, 3, 4]))
    return keys


ROWS = {"cohere2": decoder(transformers.Cohere2Config, transformers.Cohere2ForCausalLM, cohere2_keys())}
