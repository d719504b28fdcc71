"""Qwen 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, Row, sizes

TYPES = ("full_attention", "sliding_attention")


@st.composite
def windowed(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Keys of Qwen: windows in upper layers, or in those that a list names."""
    found = draw(sizes(**more))
    found["num_hidden_layers"] = layers = draw(st.integers(1, 3))
    used = draw(st.booleans())
    found |= {"use_sliding_window": used, "sliding_window": draw(st.sampled_from([None, 1, 3, 64]))}
    if used and found["sliding_window"] is not None and draw(st.booleans()):
        found["layer_types"] = [draw(st.sampled_from(TYPES)) for _ in range(layers)]
    return found | {"max_window_layers": draw(st.integers(0, 3))}


ROWS = {
    "qwen2": Row(
        transformers.Qwen2Config,
        (transformers.Qwen2ForCausalLM,),
        windowed(),
        {**SIZES, "num_attention_heads": 32},
    )
}
